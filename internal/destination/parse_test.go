package destination

import (
	"reflect"
	"testing"
)

// FuzzParse: what is accepted is written in a form that is read as the same.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"maildir:~/Maildir", "mbox:/var/mail/%u", "smtp://u@h:25", "smtps://[::1]", "mx:", "mx:a.example", "lmtp:///run/l", "lmtp://h:24",
		`pipe:/bin/x "a b" 'c"d'`, `pipe:/bin/x "a'b"'"c d"' ""`, "discard:"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		d, err := Parse(s)
		if err != nil {
			return
		}
		again, err := Parse(d.String())
		if err != nil || !reflect.DeepEqual(again, d) {
			t.Fatalf("%q is read as %#v, written as %q, and read as %#v, %v", s, d, d, again, err)
		}
	})
}
