package status

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

func TestParseReply(t *testing.T) {
	for _, tt := range []struct {
		code  int
		lines []string
		want  string
	}{
		{550, []string{"5.1.1 No such user"}, "550 5.1.1 No such user"},
		{550, []string{"5.1.1 No such", "5.1.1 user"}, "550 5.1.1 No such user"},
		{451, []string{"5.1.1 classes differ"}, "451 4.0.0 5.1.1 classes differ"},
		{450, []string{""}, "450 4.0.0 "},
		{450, nil, "450 4.0.0 "},
		{550, []string{"5.7.2"}, "550 5.7.2 "},
		{550, []string{"5.1000.1 x"}, "550 5.0.0 5.1000.1 x"},
		{550, []string{"a\r\nb\x1b\u2028c"}, "550 5.0.0 a??b??c"},
	} {
		if got := ParseReply(tt.code, tt.lines).Reply(); got != tt.want {
			t.Errorf("%d %q: got %q, want %q", tt.code, tt.lines, got, tt.want)
		}
	}
}

func TestOf(t *testing.T) {
	if Of(nil) != nil {
		t.Error("nil is not nil")
	}
	if s := Of(errors.New("x")); !s.Temporary() || s.Enhanced != "4.3.0" || s.Cause() != "x" {
		t.Errorf("%v", s)
	}
	inner := Permanent(550, "5.1.1", "no", nil)
	if s := Of(fmt.Errorf("wrapped: %w", inner)); s != inner {
		t.Errorf("%v", s)
	}
}

// TestClean: the bound that postel-log(5) names.
func TestClean(t *testing.T) {
	for n, want := range map[int]int{899: 899, 900: 900, 901: 900, 1 << 20: 900} {
		if got := len(Clean(strings.Repeat("x", n))); got != want {
			t.Errorf("%d octets: %d left, want %d", n, got, want)
		}
	}
}

// FuzzParseReply: whatever a server says, the outcome is one clean line with a code of its class.
func FuzzParseReply(f *testing.F) {
	f.Add(550, "5.1.1 no\nsuch user")
	f.Fuzz(func(t *testing.T, code int, text string) {
		if code < 400 || code > 599 {
			return
		}
		s := ParseReply(code, strings.Split(text, "\n"))
		if strings.ContainsAny(s.Reply(), "\r\n\x00") || int(s.Enhanced[0]-'0') != code/100 {
			t.Fatalf("%d %q gives %q", code, text, s.Reply())
		}
	})
}
