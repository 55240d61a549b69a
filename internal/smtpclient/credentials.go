package smtpclient

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
)

// Credentials are the passwords with which we log in at other hosts.
type Credentials map[[2]string]string // by host, in lower case, and user

// maxCredentials bounds the file, in octets.
const maxCredentials = 1 << 20

// LoadCredentials reads lines "HOST USER PASSWORD"; the password is the rest of the line. Empty lines and those that begin with "#" are
// left out. A missing file holds none. A file that others than its owner and group may read is an error.
func LoadCredentials(path string) (Credentials, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
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
	if !st.Mode().IsRegular() || st.Size() > maxCredentials {
		return nil, fmt.Errorf("%s: not a plain file of at most 1 MiB", path)
	}
	text := make([]byte, st.Size())
	n, err := f.ReadAt(text, 0)
	if err != nil && n < len(text) {
		return nil, fmt.Errorf("cannot read credentials: %w", err)
	}
	return parseCredentials(string(text), path)
}

func parseCredentials(text, path string) (Credentials, error) {
	c := Credentials{}
	number := 0
	for line := range strings.Lines(text) {
		number++
		line = strings.TrimRight(line, "\r\n")
		if line == "" || line[0] == '#' {
			continue
		}
		host, rest, _ := strings.Cut(line, " ")
		user, password, ok := strings.Cut(strings.TrimLeft(rest, " "), " ")
		if !ok || host == "" || user == "" || password == "" {
			return nil, fmt.Errorf("%s:%d: write HOST USER PASSWORD", path, number)
		}
		c[[2]string{strings.ToLower(host), user}] = password
	}
	return c, nil
}

// Password gives the password of user at host; the error names both.
func (c Credentials) Password(host, user string) (string, error) {
	if p, ok := c[[2]string{strings.ToLower(host), user}]; ok {
		return p, nil
	}
	return "", fmt.Errorf("the credentials have no line for host %s, user %s", host, user)
}
