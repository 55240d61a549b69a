package address

import (
	"strings"
	"testing"
)

func TestParseForward(t *testing.T) {
	long := strings.Repeat("a", 64)
	tests := []struct {
		in, want, rest string // want "" means refused
	}{
		{"<a@b.example>", "a@b.example", ""},
		{"<a@b.example> NOTIFY=NEVER", "a@b.example", " NOTIFY=NEVER"},
		{"<PostMaster>", "PostMaster", ""},
		{`<"a b"@c.example>`, `"a b"@c.example`, ""},
		{`<"a@b"@c.example>`, `"a@b"@c.example`, ""},
		{`<"plain"@c.example>`, `plain@c.example`, ""},
		{`<"a\"\\"@c.example>`, `"a\"\\"@c.example`, ""},
		{`<"a> ORCPT=x"@d.example>`, `"a> ORCPT=x"@d.example`, ""},
		{`<""@d.example>`, `""@d.example`, ""},
		{"<@hop.example,@hop2.example:a@b.example>", "a@b.example", ""},
		{"<a@[192.0.2.1]>", "a@[192.0.2.1]", ""},
		{"<a@[IPv6:2001:db8::1]>", "a@[IPv6:2001:db8::1]", ""},
		{"<a@b.example.>", "a@b.example", ""},
		{"<jörg@bücher.example>", "jörg@bücher.example", ""},
		{"<" + long + "@b.example>", long + "@b.example", ""},
		{"<" + long + "a@b.example>", "", ""},
		{"<a@b@c.example>", "", ""},
		{"<>", "", ""},
		{"a@b.example", "", ""},
		{"<a@b.example", "", ""},
		{"<.a@b.example>", "", ""},
		{"<a..b@c.example>", "", ""},
		{"<a@-b.example>", "", ""},
		{"<a@b..example>", "", ""},
		{"<a@[192.0.2.300]>", "", ""},
		{"<a@[192.0.2.1>", "", ""},
		{"<a b@c.example>", "", ""},
		{"<a\x00@c.example>", "", ""},
		{"<\"a\x00\"@c.example>", "", ""},
		{"<a\xff@c.example>", "", ""},
		{"<a@c\xff.example>", "", ""},
		{"<a@" + strings.Repeat("b", 64) + ".example>", "", ""},
		{"<a@b." + strings.Repeat("a.", 150) + "example>", "", ""},
		{"<user>", "", ""},
	}
	for _, tt := range tests {
		p, rest, err := ParseForward(tt.in)
		if err != nil {
			if tt.want != "" {
				t.Errorf("%q: %v, want %q", tt.in, err, tt.want)
			}
			continue
		}
		if p.String() != tt.want || rest != tt.rest {
			t.Errorf("%q: got %q, rest %q; want %q, rest %q", tt.in, p, rest, tt.want, tt.rest)
		}
	}
}

func TestKey(t *testing.T) {
	p, err := Parse("Jo@BÜCHER.example")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := p.Key(), "Jo@xn--bcher-kva.example"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestSplit(t *testing.T) {
	for _, tt := range [][3]string{{"u+box", "u", "box"}, {"u", "u", ""}, {"+u", "+u", ""}, {"u+", "u", ""}, {"u+a+b", "u", "a+b"}} {
		if u, d := Split(tt[0], "+"); u != tt[1] || d != tt[2] {
			t.Errorf("%q: got %q, %q", tt[0], u, d)
		}
	}
}

// FuzzParse: what is accepted is written back in a form that is read as the same address, in one line.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"<a@b.example>", `<"a\" b"@c.example>`, "<@x.example:a@[IPv6:::1]>", "<>", "<postmaster>", "<ü@ü.example>"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, _, err := ParseForward(s)
		if err != nil {
			return
		}
		out := p.Angle()
		if strings.ContainsAny(out, "\r\n\x00") {
			t.Fatalf("%q is written as %q", s, out)
		}
		q, rest, err := ParseForward(out)
		if err != nil || q != p || rest != "" {
			t.Fatalf("%q is read as %#v, written as %q, and read as %#v, %q, %v", s, p, out, q, rest, err)
		}
	})
}
