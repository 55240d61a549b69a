package message

import (
	"bufio"
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/postel-mail/postel/internal/address"
)

var update = flag.Bool("update", false, "write testdata/*.want anew")

// The files hold LF, so that a person and git can read them; the header is compared with its CRLF.
func TestComplete(t *testing.T) {
	files, err := filepath.Glob("testdata/complete/*.msg")
	if err != nil || len(files) == 0 {
		t.Fatal("no test data", err)
	}
	for _, file := range files {
		in, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		h := header(t, string(in))
		h.Complete(completion())
		if out := text(h); strings.Count(out, "\n") != strings.Count(out, "\r\n") {
			t.Errorf("%s: bare LF in %q", file, out)
		}
		got := strings.ReplaceAll(text(h), "\r\n", "\n")
		name := strings.TrimSuffix(file, ".msg") + ".want"
		if *update {
			if err := os.WriteFile(name, []byte(got), 0o666); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if got != string(want) {
			t.Errorf("%s:\n%s\ngot\n%s\nwant\n%s", file, in, got, want)
		}
		before := text(h)
		if h.Complete(completion()); text(h) != before {
			t.Errorf("%s: completed twice:\n%s\nbefore\n%s", file, text(h), before)
		}
	}
}

func completion() Completion {
	return Completion{Hostname: "host.example", From: address.Path{Local: "me", Domain: "host.example"}, Name: "Me Myself",
		Now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.FixedZone("", -5*3600)), ID: "Q1", QualifyBare: true}
}

func TestCompleteName(t *testing.T) {
	for _, c := range []struct{ name, want string }{
		{"", "me@host.example"},
		{"Me Myself", "Me Myself <me@host.example>"},
		{"Smith, John (x)", `"Smith, John (x)" <me@host.example>`},
		{`a "b" \c`, `"a \"b\" \\c" <me@host.example>`},
		{"J\u00fcrgen Gro\u00df", "=?UTF-8?Q?J=C3=BCrgen_Gro=C3=9F?= <me@host.example>"},
		{"=?x?q?y?=", `"=?x?q?y?=" <me@host.example>`},
		{"x\r\nBcc: y@z", `"x  Bcc: y@z" <me@host.example>`},
		{"\xff", `"?" <me@host.example>`},
		{"x\u2028y", "=?UTF-8?Q?x=E2=80=A8y?= <me@host.example>"},
		{strings.Repeat("\u00fc", 20), "=?UTF-8?Q?" + strings.Repeat("=C3=BC", 10) + "?= =?UTF-8?Q?" + strings.Repeat("=C3=BC", 10) + "?= <me@host.example>"},
	} {
		h := header(t, "\n")
		p := completion()
		p.Name = c.name
		h.Complete(p)
		if got := h.Get("From"); got != c.want {
			t.Errorf("%q: got %q, want %q", c.name, got, c.want)
		}
	}
}

func TestCompleteLongLines(t *testing.T) {
	for _, c := range []struct{ name, in string }{
		{"subject", "Subject: " + strings.Repeat("word ", 1000)},
		{"list", "To: " + strings.Repeat("someone@example.org,", 500) + "last"},
		{"list of names", "To: " + strings.Repeat(`"one, two" <someone>,`, 500) + "last"},
	} {
		h := header(t, "From: a@b\n"+c.in+"\n\n")
		n := 0
		if strings.HasPrefix(c.in, "To") {
			before, err := h.Recipients()
			if err != nil {
				t.Fatal(err)
			}
			n = len(before)
		}
		h.Complete(completion())
		for line := range strings.Lines(text(h)) {
			if len(line) > MaxLine+2 {
				t.Errorf("%s: line of %d octets", c.name, len(line))
			}
		}
		if after, err := h.Recipients(); err != nil || len(after) != n {
			t.Errorf("%s: %d recipients, were %d: %v", c.name, len(after), n, err)
		}
	}
}

func FuzzComplete(f *testing.F) {
	f.Add([]byte("From: a\nTo: b, \"c\" <d>\nSubject: x\n y\nResent-To: e\n\n"))
	f.Add([]byte("Bcc: a\nDate:\n\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		h, err := ReadHeader(bufio.NewReader(bytes.NewReader(in)), 1<<16)
		if err != nil {
			return
		}
		h.Complete(completion())
		out := text(h)
		if bare := strings.ReplaceAll(out, "\r\n", ""); strings.ContainsAny(bare, "\r\n") {
			t.Fatalf("%q: bare CR or LF in %q", in, out)
		}
		if again := text(header(t, out)); again != out {
			t.Fatalf("%q: completed %q, read again %q", in, out, again)
		}
	})
}
