package destination

import (
	"errors"
	"fmt"
	"strings"
)

// Words are what stands for ~ and the %-words of a mailbox path. Equal users must have equal words: names as the user table
// writes them, domains in lower case.
type Words struct {
	User   string // %u: user, with @domain where the user table has one
	Local  string // %n: user without domain
	Domain string // %d
	Home   string // ~: absolute
}

// Expand gives the path of a Maildir or Mbox destination with ~ and %-words replaced; %% is a percent sign. The result is
// absolute. A word that the path needs and that is empty, begins with a dot, or holds a slash or a control character is an error: no
// user name leads out of the folder that the path names.
func (d Destination) Expand(w Words) (string, error) {
	if !d.IsLocal() {
		return "", fmt.Errorf("destination %q has no path", d)
	}
	path, home := d.Path, ""
	if rest, ok := strings.CutPrefix(path, "~"); ok {
		if rest != "" && rest[0] != '/' {
			return "", fmt.Errorf("destination %q: only ~/ is known, not another user's home", d)
		}
		if err := checkHome(w.Home); err != nil {
			return "", fmt.Errorf("destination %q: %w", d, err)
		}
		path, home = rest, strings.TrimRight(w.Home, "/")
	}
	var b strings.Builder
	b.WriteString(home)
	for i := 0; i < len(path); i++ {
		if path[i] != '%' {
			b.WriteByte(path[i])
			continue
		}
		if i++; i == len(path) {
			return "", fmt.Errorf("destination %q ends in %%", d)
		}
		value := ""
		switch path[i] {
		case '%':
			b.WriteByte('%')
			continue
		case 'u':
			value = w.User
		case 'n':
			value = w.Local
		case 'd':
			value = w.Domain
		default:
			return "", fmt.Errorf("destination %q: %%%c is none of %%u, %%n, %%d, %%%%", d, path[i])
		}
		if err := checkWord(value); err != nil {
			return "", fmt.Errorf("destination %q: %%%c: %w", d, path[i], err)
		}
		b.WriteString(value)
	}
	if out := b.String(); strings.HasPrefix(out, "/") {
		return out, nil
	}
	return "", fmt.Errorf("destination %q: the path must begin with / or ~", d)
}

// checkWord holds a value against what a single component of a path may hold.
func checkWord(s string) error {
	switch {
	case s == "":
		return errors.New("there is none")
	case s[0] == '.':
		return fmt.Errorf("%q begins with a dot", s)
	case len(s) > 255:
		return errors.New("longer than 255 octets")
	}
	for i := range len(s) {
		if s[i] == '/' || s[i] < ' ' || s[i] == 0x7f {
			return fmt.Errorf("%q has a slash or a control character", s)
		}
	}
	return nil
}

func checkHome(home string) error {
	if !strings.HasPrefix(home, "/") {
		return fmt.Errorf("the user has no home: %q", home)
	}
	if strings.ContainsRune(home, 0) {
		return fmt.Errorf("home %q has a control character", home)
	}
	for part := range strings.SplitSeq(home, "/") {
		if part == ".." {
			return fmt.Errorf("home %q leads upwards", home)
		}
	}
	return nil
}
