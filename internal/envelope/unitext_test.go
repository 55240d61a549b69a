package envelope

import (
	"strings"
	"testing"
	"unicode/utf8"
)

func TestUnitext(t *testing.T) {
	for _, tt := range []struct{ decoded, encoded string }{
		{"bob@own.example", "bob@own.example"},
		{"bøb@own.example", `b\x{F8}b@own.example`},
		{`a+b=c\d e@f`, `a\x{2B}b\x{3D}c\x{5C}d\x{20}e@f`},
		{"😀\u200b\u0fff", `\x{1F600}\x{200B}\x{FFF}`},
		{"\x7f\n", `\x{7F}\x{0A}`},
		{"", ""},
	} {
		if got := EncodeUnitext(tt.decoded); got != tt.encoded {
			t.Errorf("%q: got %s, want %s", tt.decoded, got, tt.encoded)
		}
		if got, err := DecodeUnitext(tt.encoded); err != nil || got != tt.decoded {
			t.Errorf("%s: got %q, %v, want %q", tt.encoded, got, err, tt.decoded)
		}
	}
	for _, bad := range []string{`\`, `\x`, `\x{`, `\x{}`, `\x{4}`, `\x{F8`, `\x{f8}`, `\x{+F8}`, `\x{D800}`, `\x{110000}`, `\x{00000F8}`, "\xff", "a b", "a+b", "a=b", "a\x7f"} {
		if got, err := DecodeUnitext(bad); err == nil {
			t.Errorf("%q: got %q", bad, got)
		}
	}
}

// FuzzUnitext: what is encoded is printable ASCII that can stand in a command, and decodes to what it was.
func FuzzUnitext(f *testing.F) {
	f.Add(`b\x{F8}b@own.example`)
	f.Add("bøb+x=\x00")
	f.Fuzz(func(t *testing.T, s string) {
		if decoded, err := DecodeUnitext(s); err == nil && !utf8.ValidString(decoded) {
			t.Errorf("%q: got %q", s, decoded)
		}
		if !utf8.ValidString(s) {
			return
		}
		encoded := EncodeUnitext(s)
		if back, err := DecodeUnitext(encoded); err != nil || back != s || strings.ContainsFunc(encoded, func(r rune) bool { return r <= ' ' || r > '~' || r == '+' || r == '=' }) {
			t.Errorf("%q: encoded %q, which is %q, %v", s, encoded, back, err)
		}
	})
}
