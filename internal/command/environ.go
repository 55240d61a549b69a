package command

import (
	"strings"

	"github.com/postel-mail/postel/internal/address"
)

// Words is what a program learns about the message it is given.
type Words struct {
	Sender    address.Path
	Recipient address.Path
	Original  address.Path // as the sender wrote it, before aliases; the zero value is Recipient
	User      string       // the recipient's user name, "" where there is none
	Extension string       // the detail of the local part, "" where there is none
	Home      string       // the user's home, "" where there is none
	ID        string       // names this delivery, the same on every try; "" where there is none
}

// Environ gives the words as the closed list of environment variables of postel.toml(5), and PATH. USER, EXTENSION, HOME and POSTEL_ID are left
// out when empty. Values are cleaned: no control bytes, and no "()" in front, which old shells take for a function to run.
func (w Words) Environ() []string {
	original := w.Original
	if original.IsNull() {
		original = w.Recipient
	}
	env := []string{"PATH=" + searchPath}
	for _, v := range []struct {
		name, value string
		always      bool
	}{
		{"SENDER", w.Sender.String(), true},
		{"RECIPIENT", w.Recipient.String(), true},
		{"ORIGINAL_RECIPIENT", original.String(), true},
		{"LOCAL", w.Recipient.Local, true},
		{"DOMAIN", w.Recipient.Domain, true},
		{"USER", w.User, false},
		{"EXTENSION", w.Extension, false},
		{"HOME", w.Home, false},
		{"POSTEL_ID", w.ID, false},
	} {
		if v.always || v.value != "" {
			env = append(env, v.name+"="+clean(v.value))
		}
	}
	return env
}

func clean(s string) string {
	s = strings.ToValidUTF8(s, "?")
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 || r == '\u2028' || r == '\u2029' {
			return '?'
		}
		return r
	}, s)
	if strings.HasPrefix(s, "()") {
		s = "_" + s[1:]
	}
	return s
}
