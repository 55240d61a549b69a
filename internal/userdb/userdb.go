// Package userdb knows the accounts of this host and their passwords: the host's own users (passwd(5), group(5) and
// shadow(5)), a passwd file in Dovecot's form, or a program that speaks the checkpassword interface.
//
// Every name is held against one grammar before it is looked up anywhere, so that no name can become a path, an option, a
// field or a line. Files are read again when they change; a file with a mistake in it leaves the old content in force.
// Accounts that only NSS knows (LDAP, SSSD) are not seen, and there is no PAM.
package userdb

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/postel-mail/postel/internal/address"
	"github.com/postel-mail/postel/internal/password"
)

// User is one account.
type User struct {
	Name   string // without domain, as the table writes it
	Domain string // of a user who is listed with a domain, in lower case; else ""
	UID    int    // -1: the server's own
	GID    int    // -1: the server's own
	Groups []int  // supplementary groups of one of the host's users, without GID
	Home   string // absolute, or "" where the table has none
	Shell  string // "" where the table has none
}

// String is the user as the table writes it: name, or name@domain.
func (u User) String() string {
	if u.Domain == "" {
		return u.Name
	}
	return u.Name + "@" + u.Domain
}

// ErrNoUser says that there is no such account.
var ErrNoUser = errors.New("no such user")

// ErrBadCredentials says that name and password do not open an account. It stands in the chain of every error of Authenticate
// that is not temporary; what is around it says why, for the log only.
var ErrBadCredentials = errors.New("wrong name or password")

// DB is a table of users. It may be used by many goroutines.
type DB struct {
	// Problem, when set before the first use, hears once of each changed file that cannot be read or holds a mistake. The
	// old content stays in force.
	Problem func(error)
	// Seed, when set before the first use, is what Scram makes salts from: secret, and the same in all processes and at all times, so that a made-up salt stays
	// the same too. Without it each DB has its own.
	Seed []byte

	source  source
	domains map[string]bool
	checks  chan struct{} // passwords being checked now
}

// source is one kind of table. name has passed checkName; bare says that its domain is one of DB's own, so that the
// user may be listed without it.
type source interface {
	lookup(ctx context.Context, n name) (User, error)
	authenticate(ctx context.Context, n name, password string) (User, error)
	reload() error
}

// name is a user name that passed the grammar, taken apart.
type name struct {
	local, domain string // domain in lower case and ASCII
	bare          bool   // a user listed without a domain may be meant
	full          string // as it was given
}

// Open opens the table that spec names: "system", the absolute path of a passwd file, or "checkpassword:/PROGRAM". domains are
// those whose users may be listed without a domain. An error names file and line.
func Open(spec string, domains []string) (*DB, error) {
	// A check takes one core for a while, and with Argon2 its memory too.
	db := &DB{Seed: []byte(rand.Text()), domains: map[string]bool{}, checks: make(chan struct{}, min(max(2, runtime.GOMAXPROCS(0)), 4))}
	for _, d := range domains {
		a, err := address.ASCIIDomain(d)
		if err != nil {
			return nil, fmt.Errorf("userdb: %q: %w", d, err)
		}
		db.domains[a] = true
	}
	var err error
	switch program, isProgram := strings.CutPrefix(spec, "checkpassword:"); {
	case spec == "system":
		db.source, err = openSystem(db, "/etc")
	case isProgram:
		db.source, err = openCheckpassword(db, program, "/etc")
	case strings.HasPrefix(spec, "/"):
		db.source, err = openPasswdFile(db, spec)
	default:
		err = fmt.Errorf("userdb: users %q is neither system, an absolute path nor checkpassword:/PROGRAM", spec)
	}
	if err != nil {
		return nil, err
	}
	return db, nil
}

// Lookup finds an account by "name" or "name@domain". ErrNoUser when there is none; any other error is temporary. A name that is
// not found as it is written is tried in lower case.
func (db *DB) Lookup(ctx context.Context, s string) (User, error) {
	n, ok := db.checkName(s)
	if !ok {
		return User{}, ErrNoUser
	}
	return db.source.lookup(ctx, n)
}

// maxPassword bounds a password in octets; what is longer is wrong without a look.
const maxPassword = 512

// Authenticate finds the account that name and password open. An error with ErrBadCredentials in its chain is final; any other is
// temporary. It takes as long for an unknown user as for a wrong password. The superuser, whose UID is 0, cannot log in.
func (db *DB) Authenticate(ctx context.Context, s, password string) (User, error) {
	n, ok := db.checkName(s)
	if !ok {
		n = name{} // finds nobody, in the same time
	}
	if len(password) > maxPassword || strings.IndexByte(password, 0) >= 0 {
		password = ""
	}
	u, err := db.source.authenticate(ctx, n, password)
	if err == nil && u.UID == 0 {
		return User{}, errSuperuser
	}
	return u, err
}

// errSuperuser is the answer to a password that is right: a mail server is no place to guess it.
var errSuperuser = fmt.Errorf("%w: the superuser cannot log in", ErrBadCredentials)

// CheckPasswords says why nobody can log in: the passwords of the host's own users cannot be read by this process.
func (db *DB) CheckPasswords() error {
	s, ok := db.source.(*system)
	if !ok {
		return nil
	}
	f, err := os.Open(s.shadow.path)
	if err != nil {
		return fmt.Errorf("nobody can log in: %w; run by root, or let users name a file or a checkpassword program", err)
	}
	return f.Close()
}

// Reload reads the tables again now. On an error, which names file and line, the old content stays in force.
func (db *DB) Reload() error { return db.source.reload() }

func (db *DB) problem(err error) {
	if db.Problem != nil {
		db.Problem(err)
	}
}

// match checks a password against s, a few at a time. Against nil nothing matches.
func (db *DB) match(ctx context.Context, s password.Secret, password string) (bool, error) {
	if s == nil {
		return false, nil
	}
	select {
	case db.checks <- struct{}{}:
	case <-ctx.Done():
		return false, ctx.Err()
	}
	defer func() { <-db.checks }()
	return s.Match(password) && password != "", nil
}

// maxName bounds a user name with its domain, in octets.
const maxName = 255

// checkName holds a name against the grammar that all sources share, and takes it apart at its last "@".
func (db *DB) checkName(s string) (name, bool) {
	n := name{local: s, full: s, bare: true}
	if i := strings.LastIndexByte(s, '@'); i >= 0 {
		domain, err := address.ASCIIDomain(s[i+1:])
		if err != nil || address.CheckDomain(domain) != nil {
			return name{}, false
		}
		n.local, n.domain, n.bare = s[:i], domain, db.domains[domain]
	}
	return n, len(s) <= maxName && validLocal(n.local)
}

// validLocal is the grammar of a name without its domain: letters, marks and digits of any script and "._-+=&'!#~", not
// beginning with "-" (an option), "." (a hidden file) or "#" and "~" (a comment, a home).
func validLocal(s string) bool {
	if s == "" || strings.IndexByte("-.#~", s[0]) >= 0 || !utf8.ValidString(s) {
		return false
	}
	for _, r := range s {
		if r < utf8.RuneSelf && strings.IndexByte("._-+=&'!#~", byte(r)) >= 0 {
			continue
		}
		if !unicode.IsLetter(r) && !unicode.IsDigit(r) && !unicode.IsMark(r) {
			return false
		}
	}
	return true
}
