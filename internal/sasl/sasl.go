// Package sasl has the server side of SASL (RFC 4422) that SMTP, POP3 and IMAP share: the mechanisms PLAIN (RFC 4616), LOGIN
// (draft-murchison-sasl-login, which mail clients still use), SCRAM-SHA-256 and SCRAM-SHA-256-PLUS (RFC 5802, 7677), OAUTHBEARER (RFC 7628), XOAUTH2,
// which Google and Microsoft speak, and EXTERNAL (RFC 4422 A), and the base64 of their lines (RFC 4954 4).
//
// It knows bytes only: the protocol carries them, and functions given by the caller decide. There is no security layer. PLAIN and LOGIN send the
// password and a token is as good as one, so the caller offers mechanisms on protected connections alone. Nobody may act as somebody else.
//
// sasl.go is what all mechanisms share, and the simple ones; scram.go and bearer.go are the others.
package sasl

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"unicode"
	"unicode/utf8"

	"github.com/postel-mail/postel/internal/password"
	"github.com/postel-mail/postel/internal/status"
)

// The mechanisms' names.
const (
	Plain       = "PLAIN"
	Login       = "LOGIN"
	Scram       = "SCRAM-SHA-256"
	ScramPlus   = "SCRAM-SHA-256-PLUS"
	OAuthBearer = "OAUTHBEARER"
	XOAuth2     = "XOAUTH2"
	External    = "EXTERNAL"
)

// The kinds of channel binding.
const (
	Exporter = "tls-exporter"         // RFC 9266
	EndPoint = "tls-server-end-point" // RFC 5929 4
)

// Checks judge what clients prove; each gives the login, the user's one name. A nil one leaves out the mechanisms that need it. Their errors come back from
// Exchange.Next as they are; one that carries the status 535 says that the proof is wrong.
type Checks struct {
	// Password is for PLAIN and LOGIN.
	Password func(ctx context.Context, user, password string) (login string, err error)
	// Scram gives the keys of user for SCRAM; for a user that is not there made-up ones, always the same. CanScram says whether it can now.
	Scram    func(ctx context.Context, user string) (login string, keys password.Scram, err error)
	CanScram func() bool
	// Token is for OAUTHBEARER, where user may be "", and XOAUTH2.
	Token func(ctx context.Context, user, token string) (login string, err error)
	// Names is for EXTERNAL: whether the names of a certificate entitle to be user, or with "" to be whom.
	Names func(ctx context.Context, user string, names []string) (login string, err error)
}

// Channel is what is known of one connection.
type Channel struct {
	// Names are those of the client's certificate, which was verified. Without any there is no EXTERNAL.
	Names []string
	// Binding gives the channel binding of a kind, nil where there is none. A nil Binding has none.
	Binding func(kind string) []byte
	// Try is asked before a password, a token or a user's keys are looked at, with "" where the client does not say who it is. Its error ends the exchange.
	// It may be nil.
	Try func(user string) error
}

// bound reports whether there is a binding of any kind.
func (c Channel) bound() bool {
	return c.Binding != nil && (c.Binding(Exporter) != nil || c.Binding(EndPoint) != nil)
}

// Offer gives the names of the mechanisms that New makes on the channel, the strongest first.
func (c *Checks) Offer(on Channel) (names []string) {
	add := func(ok bool, more ...string) {
		if ok {
			names = append(names, more...)
		}
	}
	add(c.Names != nil && len(on.Names) > 0, External)
	scram := c.Scram != nil && c.CanScram()
	add(scram && on.bound(), ScramPlus)
	add(scram, Scram)
	add(c.Password != nil, Plain, Login)
	add(c.Token != nil, OAuthBearer, XOAuth2)
	return names
}

// New begins an exchange of the mechanism name, in upper case; nil when it is none of those in Offer.
func (c *Checks) New(name string, on Channel) *Exchange {
	e := &Exchange{Mechanism: name, checks: c, on: on}
	switch {
	case name == Plain && c.Password != nil:
		e.step = e.plain
	case name == Login && c.Password != nil:
		e.step = e.loginUser
	case name == Scram && c.Scram != nil && c.CanScram():
		e.step = newScram(e, false).first
	case name == ScramPlus && c.Scram != nil && c.CanScram() && on.bound():
		e.step = newScram(e, true).first
	case name == OAuthBearer && c.Token != nil:
		e.step = e.oauthBearer
	case name == XOAuth2 && c.Token != nil:
		e.step = e.xoauth2
	case name == External && c.Names != nil && len(on.Names) > 0:
		e.step = e.external
	default:
		return nil
	}
	return e
}

// Exchange is one login of a client.
type Exchange struct {
	Mechanism string
	User      string // who the client says it is, when it has said so; for the log
	Login     string // who it is; set when Next says done
	Refused   error  // what Next will say; set when the client hears of it in a challenge first, which it may leave without an answer

	checks *Checks
	on     Channel
	step   func(ctx context.Context, response []byte) (challenge []byte, done bool, err error)
}

// Next takes the client's response, nil when the client sent none yet, and gives the next challenge, or done. Its error, which ends the exchange, is ErrMalformed,
// ErrIdentity, ErrProof, or one of Checks or Channel.Try.
func (e *Exchange) Next(ctx context.Context, response []byte) (challenge []byte, done bool, err error) {
	if response == nil {
		if e.Mechanism == Login {
			return []byte("Username:"), false, nil
		}
		return []byte{}, false, nil
	}
	return e.step(ctx, response)
}

// ErrMalformed says that the client's response is not what the mechanism expects.
var ErrMalformed = errors.New("sasl: malformed response")

// ErrCancelled says that the client gave up with "*".
var ErrCancelled = errors.New("sasl: cancelled by the client")

// ErrIdentity says that a user wants to act as somebody else, which nobody may; ErrProof that a proof of SCRAM is wrong. Both carry the status 535.
var (
	ErrIdentity = refused("sasl: authorization identity is not the user")
	ErrProof    = refused("sasl: the proof does not fit")
)

func refused(why string) error {
	return status.Permanent(535, "5.7.8", "Authentication credentials invalid", errors.New(why))
}

// try notes who the client says it is and asks whether it may go on; "" is nobody in particular.
func (e *Exchange) try(user string) error {
	if user != "" && !validName(user) {
		return ErrMalformed
	}
	e.User = user
	if e.on.Try == nil {
		return nil
	}
	return e.on.Try(user)
}

// Bounds in octets. A mechanism with a longer secret does not exist here.
const (
	maxName     = 255
	maxPassword = 1024
	maxToken    = 8 << 10
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

// plain has one response, "identity NUL user NUL password".
func (e *Exchange) plain(ctx context.Context, response []byte) ([]byte, bool, error) {
	f := bytes.Split(response, []byte{0})
	if len(f) != 3 || len(f[1]) == 0 {
		return nil, false, ErrMalformed
	}
	if identity := string(f[0]); identity != "" && identity != string(f[1]) {
		e.User = string(f[1])
		return nil, false, ErrIdentity
	}
	return e.password(ctx, string(f[1]), string(f[2]))
}

// loginUser takes the name, which may be the initial response, and asks for the password.
func (e *Exchange) loginUser(_ context.Context, response []byte) ([]byte, bool, error) {
	user := string(response)
	e.step = func(ctx context.Context, response []byte) ([]byte, bool, error) {
		return e.password(ctx, user, string(response))
	}
	return []byte("Password:"), false, nil
}

func (e *Exchange) password(ctx context.Context, user, password string) (_ []byte, done bool, err error) {
	if user == "" || len(password) > maxPassword {
		return nil, false, ErrMalformed
	}
	if err = e.try(user); err == nil {
		e.Login, err = e.checks.Password(ctx, user, password)
	}
	return nil, err == nil, err
}

// external has one response, whom the client wants to be, or nothing. What is proved was proved before; there is nothing to guess.
func (e *Exchange) external(ctx context.Context, response []byte) (_ []byte, done bool, err error) {
	if len(response) > 0 && !validName(string(response)) {
		return nil, false, ErrMalformed
	}
	e.User = string(response)
	e.Login, err = e.checks.Names(ctx, e.User, e.on.Names)
	return nil, err == nil, err
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
