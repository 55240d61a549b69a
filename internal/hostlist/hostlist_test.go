package hostlist

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/postel-mail/postel/internal/mx"
	"github.com/postel-mail/postel/internal/sysexits"
	"github.com/postel-mail/postel/test/dnszone"
)

const zone = `
$ORIGIN x.example.
@       IN SOA ns hostmaster 1 3600 600 86400 120
two     IN MX 20 mx2
two     IN MX 10 mx1
half    IN MX 10 gone
half    IN MX 20 mx1
alone   IN A 192.0.2.1
null    IN MX 0 .
text    IN TXT x
noaddr  IN MX 10 gone
mx1     IN A 192.0.2.11
mx1     IN A 192.0.2.12
mx1     IN AAAA 2001:db8::11
mx2     IN A 192.0.2.21
*.many  IN MX 10 mx1
`

func parse(t *testing.T) *dnszone.Zone {
	t.Helper()
	z, err := dnszone.Parse(zone)
	if err != nil {
		t.Fatal(err)
	}
	return z
}

// serve starts a server for the zone.
func serve(t *testing.T) string {
	t.Helper()
	s, err := parse(t).Serve("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s.Addr()
}

// newList gives a List that asks server, with an empty cache, and collects what it says.
func newList(t *testing.T, server string, said *[]string) *List {
	t.Helper()
	r, err := mx.New(mx.Options{Servers: []string{server}, Families: func() (bool, bool) { return true, true }})
	if err != nil {
		t.Fatal(err)
	}
	return &List{Resolver: r, Timeout: 30 * time.Second, Jobs: 10, Say: func(line string) { *said = append(*said, line) }}
}

func TestPrint(t *testing.T) {
	server := serve(t)
	tests := []struct {
		names string
		set   func(l *List)
		out   string
		said  string
		exit  int
	}{
		{"two.x.example", nil, "10 mx1.x.example\n20 mx2.x.example\n", "", sysexits.OK},
		{"two.x.example", func(l *List) { l.First = true }, "10 mx1.x.example\n", "", sysexits.OK},
		{"two.x.example", func(l *List) { l.Addresses = true },
			"10 mx1.x.example 2001:db8::11\n10 mx1.x.example 192.0.2.11\n10 mx1.x.example 192.0.2.12\n20 mx2.x.example 192.0.2.21\n", "", sysexits.OK},
		{"half.x.example", func(l *List) { l.Addresses = true }, "20 mx1.x.example 2001:db8::11\n20 mx1.x.example 192.0.2.11\n20 mx1.x.example 192.0.2.12\n",
			"half.x.example: host gone.x.example: no such domain", sysexits.OK},
		{"half.x.example", func(l *List) { l.Addresses, l.First = true, true }, "20 mx1.x.example 2001:db8::11\n",
			"half.x.example: host gone.x.example: no such domain", sysexits.OK},
		{"noaddr.x.example", nil, "10 gone.x.example\n", "", sysexits.OK},
		{"noaddr.x.example", func(l *List) { l.Addresses = true }, "",
			"noaddr.x.example: host gone.x.example: no such domain|noaddr.x.example: no mail host has an address", sysexits.NoHost},
		{"alone.x.example", nil, "0 alone.x.example\n", "", sysexits.OK},
		{"null.x.example", nil, "", "null.x.example: domain takes no mail (null MX)", sysexits.Unavailable},
		{"text.x.example", nil, "", "text.x.example: neither mail host nor address", sysexits.NoHost},
		{"nosuch.x.example", nil, "", "nosuch.x.example: no such domain", sysexits.NoHost},
		{"elsewhere.test", nil, "", "elsewhere.test: MX of elsewhere.test: server ADDR: REFUSED: no usable answer", sysexits.TempFail},
		{"user@Two.X.Example", func(l *List) { l.First = true }, "10 mx1.x.example\n", "", sysexits.OK},
		{"user@[192.0.2.1]", func(l *List) { l.Addresses = true }, "0 [192.0.2.1] 192.0.2.1\n", "", sysexits.OK},
		{"a@b@two.x.example", nil, "", "a@b@two.x.example: unexpected characters after the address", sysexits.DataErr},
		{"a\tb\x1b[0m", nil, "", `"a?b?[0m": not a domain name`, sysexits.DataErr},
		{"two.x.example", func(l *List) { l.Own = []string{"mx2.x.example"} }, "10 mx1.x.example\n", "", sysexits.OK},
		{"two.x.example", func(l *List) { l.Own = []string{"MX1.x.example."} }, "", "two.x.example: mail loops back to this host", sysexits.Unavailable},
		{"two.x.example", func(l *List) { l.Explain, l.Own = true, []string{"mx2.x.example"} }, "10 mx1.x.example\n",
			"two.x.example: rule mx: " + mx.Explain("mx") + "|two.x.example: 1 of 2 hosts cut: the own one and those not better", sysexits.OK},
		{"null.x.example|bad|two.x.example|nosuch.x.example|", func(l *List) { l.Named = true }, "two.x.example 10 mx1.x.example\ntwo.x.example 20 mx2.x.example\n",
			`null.x.example: domain takes no mail (null MX)|bad: not a domain name|nosuch.x.example: no such domain|"": not a domain name`, sysexits.Unavailable},
		{"two.x.example|null.x.example", func(l *List) { l.JSON = true },
			`{"name":"two.x.example","rule":"mx","ttl":300,"hosts":[{"preference":10,"host":"mx1.x.example"},{"preference":20,"host":"mx2.x.example"}],"exit":0}` + "\n" +
				`{"name":"null.x.example","rule":"null","ttl":300,"hosts":[],"exit":69,"text":"domain takes no mail (null MX)"}` + "\n",
			"null.x.example: domain takes no mail (null MX)", sysexits.Unavailable},
		{"half.x.example", func(l *List) { l.JSON, l.Addresses = true, true },
			`{"name":"half.x.example","rule":"mx","ttl":300,"hosts":[{"preference":10,"host":"gone.x.example","addresses":[]},` +
				`{"preference":20,"host":"mx1.x.example","addresses":["2001:db8::11","192.0.2.11","192.0.2.12"]}],"exit":0}` + "\n",
			"half.x.example: host gone.x.example: no such domain", sysexits.OK},
	}
	for _, tt := range tests {
		var said []string
		l := newList(t, server, &said)
		if tt.set != nil {
			tt.set(l)
		}
		var out strings.Builder
		exit, err := l.Print(strings.Split(tt.names, "|"), nil, &out)
		got := strings.ReplaceAll(strings.Join(said, "|"), server, "ADDR")
		if exit != tt.exit || err != nil || out.String() != tt.out || got != tt.said {
			t.Errorf("%q:\n got %d, %v, out %q\n     said %q\nwant %d, out %q\n     said %q", tt.names, exit, err, out.String(), got, tt.exit, tt.out, tt.said)
		}
	}
}

// TestOrder: a name whose answer is slow does not hold up the look-ups behind it, and answers come out in the order of the names. The slow
// one is answered only when all others have been asked for, which are more than jobs.
func TestOrder(t *testing.T) {
	const others = 100
	var asked atomic.Int32
	all := make(chan struct{})
	z := parse(t)
	server := handle(t, func(w dns.ResponseWriter, q *dns.Msg) {
		if strings.HasPrefix(q.Question[0].Name, "slow.") {
			<-all
		} else if asked.Add(1) == others {
			close(all)
		}
		z.ServeDNS(w, q)
	})
	var said []string
	l := newList(t, server, &said)
	l.First, l.Named, l.Jobs = true, true, 4
	names := []string{"slow.many.x.example"}
	want := "slow.many.x.example 10 mx1.x.example\n"
	for i := range others {
		names = append(names, fmt.Sprintf("d%d.many.x.example", i))
		want += fmt.Sprintf("d%d.many.x.example 10 mx1.x.example\n", i)
	}
	var out strings.Builder
	if exit, err := l.Print([]string{"-"}, strings.NewReader(strings.Join(names, "\n")), &out); exit != 0 || err != nil || out.String() != want {
		t.Errorf("got %d, %v, out %q; want %q", exit, err, out.String(), want)
	}
}

// handle serves DNS over UDP with a function; each query has a goroutine of its own.
func handle(t *testing.T, f dns.HandlerFunc) string {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	started, ended := make(chan struct{}), make(chan error, 1)
	s := &dns.Server{PacketConn: conn, Handler: f, NotifyStartedFunc: func() { close(started) }}
	go func() { ended <- s.ActivateAndServe() }()
	<-started
	t.Cleanup(func() {
		_ = s.Shutdown()
		<-ended
	})
	return conn.LocalAddr().String()
}

// TestDialog: an answer is written before the next name is asked for, so that a program can talk to mxlookup over two pipes.
func TestDialog(t *testing.T) {
	var said []string
	l := newList(t, serve(t), &said)
	l.First, l.Named = true, true
	stdin, ask := io.Pipe()
	answers, stdout := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		_, err := l.Print(nil, stdin, stdout)
		ended <- err
	}()
	in := bufio.NewReader(answers)
	for i := range 3 {
		name := fmt.Sprintf("d%d.many.x.example", i)
		if _, err := io.WriteString(ask, name+"\n"); err != nil {
			t.Fatal(err)
		}
		if line, err := in.ReadString('\n'); err != nil || line != name+" 10 mx1.x.example\n" {
			t.Fatalf("got %q, %v", line, err)
		}
	}
	ask.Close()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestEach(t *testing.T) {
	long := strings.Repeat("x", 10000)
	tests := []struct {
		names       []string
		stdin, want string
	}{
		{nil, "a\nb\n", "a|b"},
		{[]string{"-"}, "a\r\n\n  \n b \nc", "a|b|c"},
		{[]string{"a", "-", "z", "-"}, "b\nc", "a|b|c|z"},
		{[]string{""}, "b", ""},
		{nil, "", ""},
		{nil, "a\n" + long + "\nb", "a|" + long[:4096] + "|b"},
		{nil, long, long[:4096]},
	}
	for _, tt := range tests {
		var got []string
		err := each(tt.names, strings.NewReader(tt.stdin), func(name string) { got = append(got, name) })
		if strings.Join(got, "|") != tt.want || err != nil {
			t.Errorf("%q, %.20q: got %.100q, %v; want %.100q", tt.names, tt.stdin, got, err, tt.want)
		}
	}
}

type broken struct{ after int }

var errBroken = errors.New("broken")

func (b *broken) Write(p []byte) (int, error) {
	if b.after--; b.after < 0 {
		return 0, errBroken
	}
	return len(p), nil
}

func (b *broken) Read(p []byte) (int, error) {
	if b.after--; b.after < 0 {
		return 0, errBroken
	}
	return copy(p, "d.many.x.example\n"), nil
}

// TestBroken: an output that fails ends an endless input; an input that fails is an error.
func TestBroken(t *testing.T) {
	var said []string
	l := newList(t, serve(t), &said)
	if _, err := l.Print(nil, &broken{after: 1 << 30}, &broken{after: 3}); !errors.Is(err, errBroken) {
		t.Errorf("got %v", err)
	}
	var out strings.Builder
	if _, err := l.Print(nil, &broken{after: 2}, &out); !errors.Is(err, errBroken) || out.String() != "10 mx1.x.example\n10 mx1.x.example\n" {
		t.Errorf("got %v, out %q", err, out.String())
	}
}

func FuzzPrintable(f *testing.F) {
	f.Add("a b")
	f.Add("\x1b[0m\u2028")
	f.Add(strings.Repeat("ü", 300))
	f.Fuzz(func(t *testing.T, s string) {
		got := printable(s)
		if got == "" || len(got) > 2000 || strings.ContainsFunc(got, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\u2028' }) {
			t.Errorf("%q is printed as %q", s, got)
		}
	})
}
