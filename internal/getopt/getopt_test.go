package getopt

import (
	"slices"
	"strings"
	"testing"
)

var valued = []string{"config", "log", "sender", "full-name", "notify", "return", "envelope-id", "body", "mode", "queue"}

func takesValue(long string) bool { return slices.Contains(valued, long) }

func TestCanonical(t *testing.T) {
	for _, c := range []struct{ in, want string }{ // words separated by spaces; '' is an empty one
		{"", "--"},
		{"a b", "-- a b"},
		{"-t", "--read-recipients --"},
		{"-ti", "--read-recipients --ignore-dots --"},
		{"-it", "--ignore-dots --read-recipients --"},
		{"-oi a", "--ignore-dots -- a"},
		{"-o i a", "--ignore-dots -- a"},
		{"-oitrue", "--ignore-dots --"},
		{"-oif", "--"},
		{"-OIgnoreDots=true", "--ignore-dots --"},
		{"-O ignoredots", "--ignore-dots --"},
		{"-OIgnoreDots=False", "--"},
		{"-OQueueDirectory=/tmp a", "-- a"},
		{"-O a=b c", "-- c"},
		{"-toi", "--read-recipients --ignore-dots --"},
		{"-odb -oem -odi -om -o7 -oQ/tmp a", "-- a"},
		{"-t -oi -f x@y a", "--read-recipients --ignore-dots --sender=x@y -- a"},
		{"a -t b -fx@y c", "--read-recipients --sender=x@y -- a b c"},
		{"-f x", "--sender=x --"},
		{"-fx", "--sender=x --"},
		{"-f=x", "--sender==x --"},
		{"-f '' a", "--sender= -- a"},
		{"-f <> a", "--sender=<> -- a"},
		{"-f -t a", "--sender=-t -- a"},
		{"-f -- a", "--sender=-- -- a"},
		{"-r x a", "--sender=x -- a"},
		{"-rx -f y a", "--sender=x --sender=y -- a"},
		{"-F Name a", "--full-name=Name -- a"},
		{"-FName a", "--full-name=Name -- a"},
		{"-F=x", "--full-name==x --"},
		{"-tfx a", "--read-recipients --sender=x -- a"},
		{"-tf x a", "--read-recipients --sender=x -- a"},
		{"-N never -R hdrs -V id+20x a", "--notify=never --return=hdrs --envelope-id=id+20x -- a"},
		{"-Nsuccess,failure -Rfull -Vx", "--notify=success,failure --return=full --envelope-id=x --"},
		{"-B 8BITMIME a", "--body=8BITMIME -- a"},
		{"-B7BIT a", "--body=7BIT -- a"},
		{"-bm a", "--mode=m -- a"},
		{"-bs", "--mode=s --"},
		{"-b s", "--mode=s --"},
		{"-bd -q15m", "--mode=d --queue=15m --"},
		{"-bp -v", "--mode=p --verbose --"},
		{"-bi", "--mode=i --"},
		{"-I", "--mode=i --"},
		{"-bv a b", "--mode=v -- a b"},
		{"-q", "--queue= --"},
		{"-q a", "--queue= -- a"},
		{"-q15m", "--queue=15m --"},
		{"-qIabc", "--queue=Iabc --"},
		{"-qRexample.org -v", "--queue=Rexample.org --verbose --"},
		{"-qS x", "--queue=S -- x"},
		{"-vq", "--verbose --queue= --"},
		{"-tq15m", "--read-recipients --queue=15m --"},
		{"-v -G -U -n -m -x -s -c a", "--verbose --relay -- a"},
		{"-vGUnm a", "--verbose --relay -- a"},
		{"-L tag a", "-- a"},
		{"-Ltag a", "-- a"},
		{"-h 3 a", "-- a"},
		{"-h3 a", "-- a"},
		{"-Ac -Am a", "-- a"},
		{"-A c a", "-- a"},
		{"-X /tmp/log a", "-- a"},
		{"-d a", "-- a"},
		{"-d0-99.1 a", "-- a"},
		{"-em -e m a", "-- a"},
		{"-p SMTP:host a", "-- a"},
		{"-M id -D /tmp/x a", "-- a"},
		{"-C /etc/x a", "--config=/etc/x -- a"},
		{"-C/etc/x a", "--config=/etc/x -- a"},
		{"--config /etc/x a", "--config=/etc/x -- a"},
		{"--config=/etc/x a", "--config=/etc/x -- a"},
		{"--sender '' a", "--sender= -- a"},
		{"--help a", "--help -- a"},
		{"a --version", "--version -- a"},
		{"--unknown a", "--unknown -- a"},
		{"-- -t -f", "-- -t -f"},
		{"-t -- -x@y -- b", "--read-recipients -- -x@y -- b"},
		{"a -- b", "-- a b"},
		{"- a", "-- - a"},
		{"__complete", "-- __complete"},
		{"completion bash", "-- completion bash"},
		{"help", "-- help"},

		{"--config", "! flag --config needs a value"},
		{"-f", "! flag -f needs a value"},
		{"-tF", "! flag -F needs a value"},
		{"-o", "! flag -o needs a value"},
		{"-Z", "! unknown flag -Z (see sendmail --help)"},
		{"-tZx", "! unknown flag -Zx (see sendmail --help)"},
		{"-t-", "! unknown flag -- (see sendmail --help)"},
		{"-\xfc", "! unknown flag -\xfc (see sendmail --help)"},
	} {
		var args []string
		for _, a := range strings.Fields(c.in) {
			args = append(args, strings.ReplaceAll(a, "''", ""))
		}
		out, err := Canonical(args, takesValue)
		got := strings.Join(out, " ")
		if err != nil {
			got = "! " + err.Error()
		}
		if got != c.want {
			t.Errorf("%q: got %q, want %q", c.in, got, c.want)
		}
	}
}

// Whatever the words are, recipients behind "--" come out as they went in, and what stands before "--" is a long flag.
func FuzzCanonical(f *testing.F) {
	f.Add("-t -f x a -- b", "-q")
	f.Fuzz(func(t *testing.T, words, rcpt string) {
		out, err := Canonical(append(strings.Fields(words), "x", "--", rcpt), takesValue)
		if err != nil {
			return
		}
		if out[len(out)-1] != rcpt {
			t.Fatalf("%q %q: got %q", words, rcpt, out)
		}
		for _, a := range out[:slices.Index(out, "--")] {
			if !strings.HasPrefix(a, "--") {
				t.Fatalf("%q: %q stands before --", words, a)
			}
		}
	})
}

func TestFlags(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"-tf x a --", "t f=x | a"},
		{"--read-recipients b --sender= -r y", "t f= f=y | b"},
		{"-- --sender", "| --sender"},
		{"--sender", "! flag --sender needs a value"},
		{"--unknown=x", "! unknown flag: --unknown (see sendmail --help)"},
		{"--read-recipients=yes", "! flag --read-recipients takes no value (see sendmail --help)"},
		{"--wait a", "w=5m | a"},
		{"b --wait=1h a", "w=1h | b a"},
		{"--wait=", "w= |"},
		{"-q", "! unknown flag: --queue (see sendmail --help)"},
	} {
		var got []string
		flags := Flags{
			{Short: 't', Long: "read-recipients", Set: func(string) { got = append(got, "t") }},
			{Long: "sender", Value: "ADDR", Set: func(v string) { got = append(got, "f="+v) }},
			{Long: "wait", Value: "TIME", Default: "5m", Set: func(v string) { got = append(got, "w="+v) }},
		}
		rcpts, err := flags.Parse(strings.Fields(c.in))
		got = append(append(got, "|"), rcpts...)
		if err != nil {
			got = []string{"!", err.Error()}
		}
		if s := strings.Join(got, " "); s != c.want {
			t.Errorf("%q: got %q, want %q", c.in, s, c.want)
		}
	}
	help := Flags{{Short: 't', Long: "to", Usage: "does this"}, {Long: "sender", Value: "ADDR", Usage: "does that"},
		{Long: "wait", Value: "TIME", Default: "5m", Usage: "waits"}}.Help()
	if want := "  -t, --to            does this\n      --sender ADDR   does that\n      --wait[=TIME]   waits\n"; help != want {
		t.Errorf("got\n%swant\n%s", help, want)
	}
}
