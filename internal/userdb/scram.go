package userdb

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"strings"

	"github.com/postel-mail/postel/internal/password"
)

// CanScram reports whether Scram has keys for everybody who can log in: a table of which every password is of scheme SCRAM-SHA-256 or PLAIN. A client that sees
// the mechanism takes it, and does not try another one when it fails, so that it is of no use where one user has another scheme.
func (db *DB) CanScram() bool {
	p, ok := db.source.(*passwdFile)
	if !ok {
		return false
	}
	t, err := p.file.get()
	return err == nil && t.scram
}

// Scram finds what SCRAM-SHA-256 needs of the account that s names. For somebody who is not there, has no password or is the superuser it gives keys that no password fits, with a
// salt that is the same each time and looks like that of most users, so that names cannot be probed. Every error is temporary.
func (db *DB) Scram(ctx context.Context, s string) (User, password.Scram, error) {
	p, ok := db.source.(*passwdFile)
	if !ok {
		return User{}, password.Scram{}, errors.New("userdb: no SCRAM with such a table of users")
	}
	t, err := p.file.get()
	if err != nil {
		return User{}, password.Scram{}, err
	}
	n, ok := db.checkName(s)
	var e entry
	if ok {
		e, _ = t.find(n)
	} else {
		n = name{local: s}
	}
	select { // a plain password is derived from, which takes time, and so does a decoy
	case db.checks <- struct{}{}:
	case <-ctx.Done():
		return User{}, password.Scram{}, ctx.Err()
	}
	defer func() { <-db.checks }()
	u, keys := db.keys(n, e, t.decoy)
	return u, keys, nil
}

// made derives octets for a name. Nothing of a password may be in them: a salt is told to everybody.
func (db *DB) made(what, name string) []byte {
	mac := hmac.New(sha256.New, db.Seed)
	mac.Write([]byte(what + "\x00" + name))
	return mac.Sum(nil)
}

// keys gives those of e, who was found by the name n, or made-up ones.
func (db *DB) keys(n name, e entry, decoy password.Secret) (User, password.Scram) {
	id := strings.ToLower(n.local) // all spellings of a name have one salt, as if it were that of one user
	if !n.bare {
		id += "@" + n.domain
	}
	salt := db.made("salt", id)
	if e.secret != nil && e.User.UID != 0 {
		if keys, ok := password.ScramOf(e.secret, salt[:16]); ok {
			return e.User, keys
		}
	}
	keys, ok := password.ScramOf(decoy, salt[:16]) // for its form, and the time that takes
	if !ok {
		keys.Rounds = 4096
	}
	keys.Salt = salt[:max(1, min(len(keys.Salt), len(salt)))]
	keys.StoredKey, keys.ServerKey = db.made("stored", id), db.made("server", id)
	return User{}, keys
}
