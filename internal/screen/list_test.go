package screen

import (
	"net/netip"
	"strings"
	"testing"
)

func TestParseList(t *testing.T) {
	long := strings.Repeat("a.", 90) + "example"    // 187
	for _, tt := range []struct{ in, want string }{ // "" for an error
		{"zen.example", "zen.example=1"},
		{"Zen.Example=3", "zen.example=3"},
		{"allow.example=-4", "allow.example=-4"},
		{"bücher.example=2", "xn--bcher-kva.example=2"},
		{"bl.example[127.0.0.2]", "bl.example[127.0.0.2]=1"},
		{"bl.example[127.0.0.2..11]=2", "bl.example[127.0.0.2..11]=2"},
		{"bl.example[127.0.0.2..2]=2", "bl.example[127.0.0.2]=2"},
		{"bl.example[127.0.0..255.1..3,127.0.4.9]=-2", "bl.example[127.0.0..255.1..3,127.0.4.9]=-2"},
		{"bl.example[" + strings.Repeat("127.0.0.2,", 15) + "127.0.0.3]", "bl.example[" + strings.Repeat("127.0.0.2,", 15) + "127.0.0.3]=1"},
		{long, long + "=1"},
		{"bl.example=100", "bl.example=100"},
		{"", ""},
		{"=3", ""},
		{"example", ""},
		{"a..example", ""},
		{"a b.example", ""},
		{"xxx." + long, ""},
		{"bl.example=", ""},
		{"bl.example=0", ""},
		{"bl.example=+1", ""},
		{"bl.example=101", ""},
		{"bl.example=-101", ""},
		{"bl.example=2=3", ""},
		{"bl.example=1.5", ""},
		{"bl.example[]", ""},
		{"bl.example[127.0.0.2", ""},
		{"bl.example[127.0.0.2]x=1", ""},
		{"bl.example=1[127.0.0.2]", ""},
		{"bl.example[127.0.0]", ""},
		{"bl.example[127.0.0.2.3]", ""},
		{"bl.example[127.0.0.256]", ""},
		{"bl.example[127.0.0.02]", ""},
		{"bl.example[127.0.0.3..2]", ""},
		{"bl.example[127.0.0.2..]", ""},
		{"bl.example[126..127.0.0.2]", ""},
		{"bl.example[10.0.0.2]", ""},
		{"bl.example[127.0.0.2,]", ""},
		{"bl.example[" + strings.Repeat("127.0.0.2,", 16) + "127.0.0.3]", ""},
	} {
		var l List
		err := l.UnmarshalText([]byte(tt.in))
		switch {
		case tt.want == "" && err == nil:
			t.Errorf("%q: got %v, want an error", tt.in, l)
		case tt.want != "" && (err != nil || l.String() != tt.want):
			t.Errorf("%q: got %v, %v, want %v", tt.in, l, err, tt.want)
		}
	}
}

func TestHas(t *testing.T) {
	for _, tt := range []struct {
		list, answers string
		want          bool
	}{
		{"bl.example", "", false},
		{"bl.example", "127.0.0.2", true},
		{"bl.example", "127.9.9.9", true},
		{"bl.example", "192.0.2.1", false},
		{"bl.example", "192.0.2.1 127.0.0.2", true},
		{"bl.example", "127.255.255.254", false},
		{"bl.example[127.255.255.0..255]", "127.255.255.254", false},
		{"bl.example[127.0.0.2..11]", "127.0.0.1", false},
		{"bl.example[127.0.0.2..11]", "127.0.0.2", true},
		{"bl.example[127.0.0.2..11]", "127.0.0.11", true},
		{"bl.example[127.0.0.2..11]", "127.0.0.12", false},
		{"bl.example[127.0.0.2..11]", "127.0.1.2", false},
		{"bl.example[127.0.0.2,127.0.0.9]", "127.0.0.9", true},
		{"bl.example[127.0.0.2,127.0.0.9]", "127.0.0.5", false},
		{"bl.example", "2001:db8::1", false},
	} {
		l, err := parseList(tt.list)
		if err != nil {
			t.Fatal(err)
		}
		var addrs []netip.Addr
		for _, s := range strings.Fields(tt.answers) {
			addrs = append(addrs, netip.MustParseAddr(s))
		}
		if got := l.has(addrs); got != tt.want {
			t.Errorf("%s with %s: got %v", tt.list, tt.answers, got)
		}
	}
}

// FuzzParseList: what is a list is written in one way, and that way is read as the same list.
func FuzzParseList(f *testing.F) {
	f.Add("bl.example[127.0.0..255.1..3,127.0.4.9]=-2")
	f.Add("zen.example")
	f.Fuzz(func(t *testing.T, s string) {
		l, err := parseList(s)
		if err != nil {
			return
		}
		again, err := parseList(l.String())
		if err != nil || again.String() != l.String() || l.Weight == 0 || len(l.Domain) > maxDomain {
			t.Errorf("%q is %v, which is %v, %v", s, l, again, err)
		}
	})
}
