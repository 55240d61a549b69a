// Package credentials is the file of the passwords with which this host logs in at others, and the programs that give a token in place of
// one; postel.toml(5) describes it. It does not log in: package smtpclient does.
package credentials

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/postel-mail/postel/internal/destination"
	"github.com/postel-mail/postel/internal/smtpclient"
)

// Credentials are the contents of a file. They are used by many goroutines at once.
type Credentials struct {
	// Certificate says that this host has a certificate for its connections: whoever has no line logs in by that.
	Certificate bool

	logins map[key]smtpclient.Login
}

// key is a host, in lower case, and a user.
type key struct{ host, user string }

// maxFile bounds the file, in octets.
const maxFile = 1 << 20

// Load reads lines "HOST USER PASSWORD"; the password is the rest of the line. In its place "{TOKEN}PROGRAM ARG..." is a program
// that prints a token, and "{PLAIN}PASSWORD" a password that may begin with "{". Empty lines and those that begin with "#" are left
// out. A missing file holds nothing. A file that others than its owner and group may read is an error, as is one that others than its owner may
// write when it names programs.
func Load(path string) (*Credentials, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return &Credentials{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read credentials: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("cannot read credentials: %w", err)
	}
	if st.Mode().Perm()&0o007 != 0 {
		return nil, fmt.Errorf("%s: everybody may read it; do chmod o= on it", path)
	}
	if !st.Mode().IsRegular() || st.Size() > maxFile {
		return nil, fmt.Errorf("%s: not a plain file of at most 1 MiB", path)
	}
	text := make([]byte, st.Size())
	n, err := f.ReadAt(text, 0)
	if err != nil && n < len(text) {
		return nil, fmt.Errorf("cannot read credentials: %w", err)
	}
	c, err := parse(string(text), path)
	if err == nil && c.HasPrograms() && st.Mode().Perm()&0o020 != 0 {
		return nil, fmt.Errorf("%s: it names programs to run, and its group may write it; do chmod g-w on it", path)
	}
	return c, err
}

func parse(text, path string) (*Credentials, error) {
	c := &Credentials{logins: map[key]smtpclient.Login{}}
	number := 0
	for line := range strings.Lines(text) {
		number++
		line = strings.TrimRight(line, "\r\n")
		if line == "" || line[0] == '#' {
			continue
		}
		host, rest, _ := strings.Cut(line, " ")
		user, secret, ok := strings.Cut(strings.TrimLeft(rest, " "), " ")
		if !ok || host == "" || user == "" || secret == "" {
			return nil, fmt.Errorf("%s:%d: write HOST USER PASSWORD", path, number)
		}
		login, err := parseSecret(user, secret)
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w", path, number, err)
		}
		c.logins[key{strings.ToLower(host), user}] = login
	}
	return c, nil
}

// parseSecret reads what stands in the place of a password. Its errors do not say it.
func parseSecret(user, secret string) (smtpclient.Login, error) {
	l := smtpclient.Login{User: user, Password: secret}
	if !strings.HasPrefix(secret, "{") {
		return l, nil
	}
	if plain, ok := strings.CutPrefix(secret, "{PLAIN}"); ok && plain != "" {
		l.Password = plain
		return l, nil
	}
	program, ok := strings.CutPrefix(secret, "{TOKEN}")
	if !ok {
		return l, errors.New("a password that begins with { is written behind {PLAIN}, and a program behind {TOKEN}")
	}
	d, err := destination.Parse("pipe:" + strings.TrimSpace(program)) // the same words
	if err != nil {
		return l, errors.New("write {TOKEN} and the absolute path of a program, with its arguments")
	}
	l.Password, l.Token = "", (&token{args: d.Args}).get
	return l, nil
}

// HasPrograms reports whether there is a program that gives a token.
func (c *Credentials) HasPrograms() bool {
	for _, l := range c.logins {
		if l.Token != nil {
			return true
		}
	}
	return false
}

// Login says how user logs in at host; the error names both.
func (c *Credentials) Login(host, user string) (smtpclient.Login, error) {
	l, ok := c.logins[key{strings.ToLower(host), user}]
	switch {
	case ok:
		return l, nil
	case c.Certificate:
		return smtpclient.Login{User: user}, nil
	}
	return l, fmt.Errorf("the credentials have no line for host %s, user %s", host, user)
}
