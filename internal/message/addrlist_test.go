package message

import (
	"strings"
	"testing"

	"github.com/postel-mail/postel/internal/address"
)

func TestParseList(t *testing.T) {
	for _, c := range []struct {
		in   string
		want string // addresses in their written form, separated by spaces; "!" at the end for an error
	}{
		{"", ""},
		{"a@b", "a@b"},
		{"root", "root"},
		{"root (Cron Daemon)", "root"},
		{"a@b, c@d,e@f", "a@b c@d e@f"},
		{",, a@b ,,", "a@b"},
		{"a@b; c@d", "a@b c@d"},
		{"John Smith <a@b>", "a@b"},
		{"John Q. Smith <a@b>, x", "a@b x"},
		{`"Smith, John" <a@b>`, "a@b"},
		{`"a \" <x@y>" <a@b>`, "a@b"},
		{"<a@b>", "a@b"},
		{"<root>", "root"},
		{"<>", ""},
		{"<<a@b>>", "a@b"},
		{"<a@b", "a@b"},
		{"<a@b, c@d", "a@b c@d"},
		{"<a@b> <c@d>", "a@b c@d"},
		{"<a@b> c@d", "a@b c@d"},
		{"<a@b> John", "a@b"},
		{"a@b c@d", "a@b c@d"},
		{"John a@b", "a@b"},
		{"me@work <a@b>", "a@b"},
		{"undisclosed-recipients:;", ""},
		{"undisclosed recipients:;", ""},
		{"List: a@b, John <c@d>; e@f", "a@b c@d e@f"},
		{"List: a, b;", "a b"},
		{"mailto:a@b", "a@b"},
		{"<@x,@y:a@b>", "a@b"},
		{"<@x:a@b>, <@[192.0.2.1]:c@d>", "a@b c@d"},
		{"(one (two) \\) three) a (x) @ (y) b . c (z)", "a@b.c"},
		{"a . b @ c", "a.b@c"},
		{"a\r\n @\r\n\tb", "a@b"},
		{`"a b"@c`, `"a b"@c`},
		{`"a".b@c`, "a.b@c"},
		{`"a@b"@c`, `"a@b"@c`},
		{`"a\"b"@c`, `"a\"b"@c`},
		{`\root`, "root"},
		{"a..b@c", `"a..b"@c`},
		{"a.@c", `"a."@c`},
		{"a@[192.0.2.1]", "a@[192.0.2.1]"},
		{"a@[IPv6:2001:db8::1]", "a@[IPv6:2001:db8::1]"},
		{"a@b.", "a@b"},
		{"[list] <a@b>", "a@b"},
		{"[list <a@b>", "a@b"},
		{"=?utf-8?q?Smith,_(John)_<x@y>?= <a@b>", "a@b"},
		{"=?utf-8?b?w7w=?= <a@b>", "a@b"},
		{"J\xc3\xbcrgen <j\xc3\xbc@b>", "j\xc3\xbc@b"},
		{"J\xfcrgen <a@b>", "a@b"},
		{`"John <a@b>`, "a@b"},
		{"O\"Brien <a@b>", "a@b"},
		{"a@b (unclosed", "a@b"},
		{"John :-) <a@b>", "a@b"},
		{"|cmd, /dev/null", "|cmd /dev/null"},
		{"-x@y, --help", "-x@y --help"},

		{"John Smith", "!"},
		{"a@b@c", "!"},
		{"a@b@c <d@e>", "d@e"},
		{"<a@b@c>, d@e", "d@e !"},
		{"<a b>", "!"},
		{"a@", "!"},
		{"@b", "!"},
		{`""@b`, "!"},
		{`""`, "!"},
		{"a@b c", "a@b"},
		{"a@-b", "!"},
		{"a@[x]", "!"},
		{"a@\"b\"", "!"},
		{"j\xfc@b", "!"},
		{"\"a\x01\"@b", "!"},
		{"a\x01b@c", "!"},
		{strings.Repeat("x", 65) + "@b, c@d", "c@d !"},
		{"((((a@b", ""},
		{">", "!"},
		{".", "!"},
	} {
		paths, err := ParseList(c.in)
		var got []string
		for _, p := range paths {
			got = append(got, p.String())
		}
		if err != nil {
			got = append(got, "!")
		}
		if g := strings.Join(got, " "); g != c.want {
			t.Errorf("%q: got %q (%v), want %q", c.in, g, err, c.want)
		}
	}
}

func TestParseOne(t *testing.T) {
	for _, c := range []struct {
		in   string
		want address.Path
		ok   bool
	}{
		{"", address.Path{}, true},
		{"<>", address.Path{}, true},
		{"a@b", address.Path{Local: "a", Domain: "b"}, true},
		{"John <a@b>", address.Path{Local: "a", Domain: "b"}, true},
		{"a@b c@d", address.Path{}, false},
		{"x:;", address.Path{}, false},
		{"a b", address.Path{}, false},
	} {
		if got, err := ParseOne(c.in); got != c.want || c.ok != (err == nil) {
			t.Errorf("%q: got %v %v, want %v %v", c.in, got, err, c.want, c.ok)
		}
	}
}

func TestRecipients(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"To: a@b\nCc: c, d@e\nBcc: f@g\nFrom: x@y\nTO: h@i\n", "a@b c d@e f@g h@i"},
		{"To: a@b\nResent-To: c@d,\n e@f\nResent-Bcc: g@h\n", "c@d e@f g@h"},
		{"To: a@b\nResent-From: c@d\n", "a@b"},
		{"Subject: x\n", ""},
		{"To: a b\nCc: c@d\n", "c@d !To: malformed address \"a b\""},
	} {
		paths, err := header(t, c.in+"\n").Recipients()
		var got []string
		for _, p := range paths {
			got = append(got, p.String())
		}
		if err != nil {
			got = append(got, "!"+err.Error())
		}
		if g := strings.Join(got, " "); g != c.want {
			t.Errorf("%q: got %q, want %q", c.in, g, c.want)
		}
	}
}

func FuzzParseList(f *testing.F) {
	for _, s := range []string{`"a, b" <c@d>, e`, "x: a@b, <@c:d@e>;", "(a(b)c) \\a.b @ [192.0.2.1]", "=?a?b?c,?= <x>", "<a@b> <c", "a@b c@d; \"", "[ ["} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		paths, _ := ParseList(in)
		var all []string
		for _, p := range paths {
			all = append(all, p.String())
		}
		again, err := ParseList(strings.Join(all, ", "))
		if err != nil || len(again) != len(paths) {
			t.Fatalf("%q: read %q, again %q %v", in, paths, again, err)
		}
		for i := range again {
			if again[i] != paths[i] {
				t.Fatalf("%q: read %q, again %q", in, paths[i], again[i])
			}
			if p := again[i]; p.Domain != "" {
				if q, err := address.Parse(p.String()); err != nil || q != p {
					t.Fatalf("%q: envelope reads %q as %q %v", in, p, q, err)
				}
			}
		}
	})
}
