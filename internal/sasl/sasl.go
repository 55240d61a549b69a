// Package sasl has the server side of SASL (RFC 4422) that SMTP, POP3 and IMAP share: the mechanisms PLAIN (RFC 4616) and LOGIN
// (draft-murchison-sasl-login, which mail clients still use), and the base64 of their lines (RFC 4954 4).
//
// It knows bytes only: the protocol carries them, and a function given by the caller decides. There is no security layer, and both
// mechanisms send the password, so the caller offers them on protected connections alone.
package sasl

import (
	"encoding/base64"
	"errors"
	"unicode"
	"unicode/utf8"

	gosasl "github.com/emersion/go-sasl"
)

// Names are the mechanisms that New makes, in the order in which they are offered.
var Names = []string{gosasl.Plain, "LOGIN"}

// Authenticator decides whether password opens user's account. Its error comes back from Server.Next as it is.
type Authenticator func(user, password string) error

// Server is one exchange. Next takes the client's response, nil when the client sent none yet, and gives the next challenge, or done.
// Its error is ErrMalformed, ErrIdentity or the Authenticator's.
type Server = gosasl.Server

// ErrMalformed says that the client's response is not what the mechanism expects.
var ErrMalformed = errors.New("sasl: malformed response")

// ErrCancelled says that the client gave up with "*".
var ErrCancelled = errors.New("sasl: cancelled by the client")

// ErrIdentity says that a user wants to act as somebody else, which nobody may.
var ErrIdentity = errors.New("sasl: authorization identity is not the user")

// New begins an exchange of the mechanism name, in upper case; nil when there is no such mechanism.
func New(name string, authenticate Authenticator) Server {
	check := func(user, password string) error {
		if !validName(user) || len(password) > maxPassword {
			return ErrMalformed
		}
		return authenticate(user, password)
	}
	switch name {
	case gosasl.Plain:
		return &plain{gosasl.NewPlainServer(func(identity, user, password string) error {
			if identity != "" && identity != user {
				return ErrIdentity
			}
			return check(user, password)
		})}
	case "LOGIN":
		return &login{check: check}
	}
	return nil
}

// Bounds in octets. A mechanism with a longer secret does not exist here.
const (
	maxName     = 255
	maxPassword = 1024
)

// validName is the grammar that a name must pass before anything looks it up. The table of users has a narrower one.
func validName(s string) bool {
	if s == "" || len(s) > maxName || !utf8.ValidString(s) {
		return false
	}
	for _, r := range s {
		if unicode.IsControl(r) {
			return false
		}
	}
	return true
}

// plain is go-sasl's PLAIN, with one error for what is malformed.
type plain struct{ gosasl.Server }

func (p *plain) Next(response []byte) (challenge []byte, done bool, err error) {
	challenge, done, err = p.Server.Next(response)
	if err != nil && !done { // the Authenticator was not asked
		err = ErrMalformed
	}
	return challenge, done, err
}

// login asks for the name, then for the password. An initial response is the name.
type login struct {
	check Authenticator
	user  string
	step  int
}

func (l *login) Next(response []byte) (challenge []byte, done bool, err error) {
	if response == nil {
		if l.step > 0 {
			return nil, false, ErrMalformed
		}
		return []byte("Username:"), false, nil
	}
	l.step++
	switch l.step {
	case 1:
		l.user = string(response)
		return []byte("Password:"), false, nil
	case 2:
		return nil, true, l.check(l.user, string(response))
	}
	return nil, false, ErrMalformed
}

// Decode reads a line of the client: base64, "=" for an empty response, "*" for ErrCancelled. The answer is never nil without an error.
func Decode(line string) ([]byte, error) {
	switch line {
	case "*":
		return nil, ErrCancelled
	case "=", "":
		return []byte{}, nil
	}
	for i := range len(line) {
		if line[i] <= ' ' { // encoding/base64 skips line ends
			return nil, ErrMalformed
		}
	}
	b, err := base64.StdEncoding.Strict().DecodeString(line)
	if err != nil {
		return nil, ErrMalformed
	}
	return b, nil
}

// Encode writes a challenge.
func Encode(challenge []byte) string { return base64.StdEncoding.EncodeToString(challenge) }
