package userdb

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/postel-mail/postel/internal/address"
	"github.com/postel-mail/postel/internal/password"
)

// entry is one line of a passwd file.
type entry struct {
	User
	secret password.Secret // nil: nobody can log in
	line   int
}

// table is a passwd file in memory.
type table struct {
	users map[string]entry // by User.String
	decoy password.Secret
	scram bool // all who have a password can log in by SCRAM
}

// find looks for a name with its domain, then without where that may be meant; each as it is written, then in lower case.
func (t *table) find(n name) (entry, bool) {
	lower := strings.ToLower(n.local)
	var keys []string
	if n.domain != "" {
		keys = append(keys, n.local+"@"+n.domain, lower+"@"+n.domain)
	}
	if n.bare {
		keys = append(keys, n.local, lower)
	}
	for _, key := range keys {
		if e, ok := t.users[key]; ok {
			return e, true
		}
	}
	return entry{}, false
}

// parsePasswdFile reads "user:{SCHEME}hash:uid:gid:gecos:home:shell:extra", Dovecot's passwd-file; what is missing at the end of a
// line counts as empty. The first ten mistakes are told.
func parsePasswdFile(r io.Reader, path string) (*table, error) {
	t := &table{users: map[string]entry{}}
	var secrets []password.Secret
	err := eachLine(r, path, func(n int, line string) error {
		e, err := parseEntry(line)
		if err != nil {
			return err
		}
		e.line = n
		if was, ok := t.users[e.String()]; ok {
			return fmt.Errorf("user %q stands in line %d already", e, was.line)
		}
		t.users[e.String()] = e
		if e.secret != nil {
			secrets = append(secrets, e.secret)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	t.decoy = password.Decoy(secrets)
	t.scram = len(secrets) > 0 && !slices.ContainsFunc(secrets, func(s password.Secret) bool { return !password.CanScram(s) })
	return t, nil
}

// parseEntry reads a line of a passwd file. Its errors never hold the password.
func parseEntry(line string) (e entry, err error) {
	f := append(strings.SplitN(line, ":", 8), make([]string, 8)...)
	e.Name = f[0]
	if i := strings.LastIndexByte(e.Name, '@'); i >= 0 {
		if e.Domain, err = address.ASCIIDomain(e.Name[i+1:]); err == nil {
			err = address.CheckDomain(e.Domain)
		}
		if err != nil {
			return e, fmt.Errorf("user %q: %w", f[0], err)
		}
		e.Name = e.Name[:i]
	}
	if !validLocal(e.Name) || len(f[0]) > maxName {
		return e, fmt.Errorf("%q is not a user name", f[0])
	}
	if e.secret, err = password.Parse(f[1]); err != nil {
		return e, fmt.Errorf("user %q: %w", f[0], err)
	}
	if e.UID, err = parseID(f[2]); err == nil {
		e.GID, err = parseID(f[3])
	}
	if err != nil {
		return e, fmt.Errorf("user %q: %w", f[0], err)
	}
	if e.Home, e.Shell = f[5], f[6]; e.Home != "" && e.Home[0] != '/' {
		return e, fmt.Errorf("user %q: home %q is not an absolute path", f[0], e.Home)
	}
	return e, nil
}

// parseID reads a uid or gid; an empty one is -1. The two numbers that the kernel takes for "leave it" are refused.
func parseID(s string) (int, error) {
	if s == "" {
		return -1, nil
	}
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || n >= 1<<32-1 || n == 1<<16-1 {
		return 0, fmt.Errorf("%q is not a uid or gid", s)
	}
	return int(n), nil
}

// passwdFile is a source: virtual users in one file.
type passwdFile struct {
	db   *DB
	file file[*table]
}

func openPasswdFile(db *DB, path string) (*passwdFile, error) {
	p := &passwdFile{db: db, file: file[*table]{path: path, parse: parsePasswdFile, problem: db.problem}}
	return p, p.file.reload()
}

func (p *passwdFile) reload() error { return p.file.reload() }

func (p *passwdFile) lookup(_ context.Context, n name) (User, error) {
	t, err := p.file.get()
	if err != nil {
		return User{}, err
	}
	e, ok := t.find(n)
	if !ok {
		return User{}, ErrNoUser
	}
	return e.User, nil
}

func (p *passwdFile) authenticate(ctx context.Context, n name, password string) (User, error) {
	t, err := p.file.get()
	if err != nil {
		return User{}, err
	}
	e, _ := t.find(n)
	if err := p.db.verify(ctx, e.secret, t.decoy, password); err != nil {
		return User{}, err
	}
	return e.User, nil
}

// verify checks a password against s; where s is nil it checks it against the decoy, for the time that takes, and says no.
func (db *DB) verify(ctx context.Context, s, decoy password.Secret, password string) error {
	against := s
	if s == nil {
		against = decoy
	}
	ok, err := db.match(ctx, against, password)
	switch {
	case err != nil:
		return err
	case s == nil:
		return fmt.Errorf("%w: no such user, or one without a password", ErrBadCredentials)
	case !ok:
		return ErrBadCredentials
	}
	return nil
}
