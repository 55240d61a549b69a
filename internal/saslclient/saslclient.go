// Package saslclient is the client side of SASL (RFC 4422): PLAIN (RFC 4616), LOGIN, SCRAM-SHA-256 and SCRAM-SHA-256-PLUS (RFC 5802, 7677),
// OAUTHBEARER (RFC 7628), XOAUTH2, which Google and Microsoft speak, and EXTERNAL.
//
// It knows bytes only: the protocol carries them, in base64 or as it likes. PLAIN and LOGIN send the password and a token is as good as
// one, so the caller logs in over a protected connection to a server that has proved who it is. There is no security layer.
package saslclient

import (
	"errors"
	"slices"
	"strings"
)

// Login is who logs in and what proves it: a token, else a password, else the client's certificate in TLS.
type Login struct {
	User     string
	Password string
	Token    string // of OAuth 2.0 (RFC 6750)
	// Binding is what RFC 9266 exports from the TLS session, nil where there is none. With it SCRAM proves that nobody is in between.
	Binding []byte
}

// Mechanism is one exchange.
type Mechanism interface {
	// Name is that of the IANA registry.
	Name() string
	// Start gives the initial response, nil where the server speaks first.
	Start() []byte
	// Next answers a challenge. After an error the exchange has to be cancelled.
	Next(challenge []byte) (response []byte, err error)
	// Proved says with nil that the server may say yes now: that it did what the mechanism asks of it.
	Proved() error
}

// The mechanisms' names.
const (
	Plain       = "PLAIN"
	LoginName   = "LOGIN"
	Scram       = "SCRAM-SHA-256"
	ScramPlus   = "SCRAM-SHA-256-PLUS"
	OAuthBearer = "OAUTHBEARER"
	XOAuth2     = "XOAUTH2"
	External    = "EXTERNAL"
)

// ErrNone says that the server offers no mechanism for the login.
var ErrNone = errors.New("saslclient: no common mechanism")

// Choose begins an exchange of the strongest mechanism that is offered, by names in upper case. What a mechanism cannot carry is an error other than ErrNone.
func (l Login) Choose(offered []string) (Mechanism, error) {
	if strings.ContainsFunc(l.User, isControl) || l.User == "" {
		return nil, errors.New("saslclient: the user's name is empty or has a control character")
	}
	has := func(name string) bool { return slices.Contains(offered, name) }
	switch {
	case l.Token != "":
		return l.bearer(has)
	case l.Password == "" && has(External):
		return &external{l.User}, nil
	case l.Password == "":
		return nil, ErrNone
	case strings.ContainsRune(l.Password, 0):
		return nil, errors.New("saslclient: the password has a NUL")
	case has(ScramPlus) && l.Binding != nil, has(Scram):
		return newScram(l, has(ScramPlus))
	case has(Plain):
		return &plain{l}, nil
	case has(LoginName):
		return &login{Login: l}, nil
	}
	return nil, ErrNone
}

func isControl(r rune) bool { return r < ' ' || r == 0x7f }

// errTooMany says that the server asks for more than the mechanism has.
var errTooMany = errors.New("saslclient: unexpected challenge")

type plain struct{ Login }

func (*plain) Name() string                { return Plain }
func (p *plain) Start() []byte             { return []byte("\x00" + p.User + "\x00" + p.Password) }
func (*plain) Next([]byte) ([]byte, error) { return nil, errTooMany }
func (*plain) Proved() error               { return nil }

// login gives the user and then the password, whatever the server calls them.
type login struct {
	Login
	step int
}

func (*login) Name() string  { return LoginName }
func (*login) Start() []byte { return nil }
func (*login) Proved() error { return nil }

func (l *login) Next([]byte) ([]byte, error) {
	l.step++
	switch l.step {
	case 1:
		return []byte(l.User), nil
	case 2:
		return []byte(l.Password), nil
	}
	return nil, errTooMany
}

// external asks to be the user, which the certificate has to entitle to (RFC 4422 A).
type external struct{ user string }

func (*external) Name() string                { return External }
func (e *external) Start() []byte             { return []byte(e.user) }
func (*external) Next([]byte) ([]byte, error) { return nil, errTooMany }
func (*external) Proved() error               { return nil }

// bearer hands over a token. A server that does not take it says why in a challenge; the answer to that means nothing, and a refusal follows.
type bearer struct {
	name, first, dummy string
	refused            bool
}

func (l Login) bearer(has func(string) bool) (Mechanism, error) {
	if strings.ContainsFunc(l.Token, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return nil, errors.New("saslclient: the token has characters that no token has")
	}
	switch {
	case has(OAuthBearer):
		name := strings.NewReplacer("=", "=3D", ",", "=2C").Replace(l.User)
		return &bearer{name: OAuthBearer, first: "n,a=" + name + ",\x01auth=Bearer " + l.Token + "\x01\x01", dummy: "\x01"}, nil
	case has(XOAuth2):
		return &bearer{name: XOAuth2, first: "user=" + l.User + "\x01auth=Bearer " + l.Token + "\x01\x01"}, nil
	}
	return nil, ErrNone
}

func (b *bearer) Name() string  { return b.name }
func (b *bearer) Start() []byte { return []byte(b.first) }

func (b *bearer) Next([]byte) ([]byte, error) {
	if b.refused {
		return nil, errTooMany
	}
	b.refused = true
	return []byte(b.dummy), nil
}

func (b *bearer) Proved() error {
	if b.refused {
		return errors.New("saslclient: the server took a token that it had refused")
	}
	return nil
}
