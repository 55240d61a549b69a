package smtpclient

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/postel-mail/postel/internal/saslclient"
	"github.com/postel-mail/postel/internal/status"
)

// Bounds of what is written in octets, with CRLF.
const (
	maxCommand = 512   // RFC 5321 4.5.3.1.4: every server takes that
	maxAnswer  = 12288 // RFC 4954 4: to a challenge
)

// login proves who the client is (RFC 4954). Every failure is temporary: a password that was changed or a login server that is down must not
// bounce mail. A token that is refused has most likely run out, so it is fetched anew once.
func (c *Client) login(ctx context.Context) *status.Error {
	if !c.tls && !c.o.Private {
		return ours("4.7.11", "No password is sent without TLS")
	}
	l := saslclient.Login{User: c.o.Login.User, Password: c.o.Login.Password, Binding: c.binding()}
	if c.o.Login.Token == nil {
		s, _ := c.authenticate(l)
		return s
	}
	var refusal *status.Error
	for range 2 {
		token, err := c.o.Login.Token(ctx, l.Token)
		switch {
		case err != nil:
			return status.Temporary(451, "4.7.0", "No token could be had for the login", fmt.Errorf("smtpclient: %w", err))
		case token == l.Token:
			return refusal
		}
		l.Token = token
		var judged bool
		if refusal, judged = c.authenticate(l); !judged {
			return refusal
		}
	}
	return refusal
}

// binding is what ties a login to this TLS session (RFC 9266), nil without TLS 1.3.
func (c *Client) binding() []byte {
	conn, ok := c.conn.(*tls.Conn)
	if !ok {
		return nil
	}
	state := conn.ConnectionState()
	if state.Version < tls.VersionTLS13 {
		return nil
	}
	b, err := state.ExportKeyingMaterial("EXPORTER-Channel-Binding", nil, 32)
	if err != nil {
		return nil
	}
	return b
}

// authenticate logs in by the strongest mechanism.
func (c *Client) authenticate(l saslclient.Login) (s *status.Error, judged bool) {
	offered := strings.Fields(strings.ToUpper(c.ext["AUTH"]))
	for {
		m, err := l.Choose(offered)
		switch {
		case errors.Is(err, saslclient.ErrNone):
			return ours("4.7.0", "The server offers no way to log in that is known here"), false
		case err != nil:
			return status.Temporary(451, "4.3.5", "The login cannot be sent", fmt.Errorf("smtpclient: %w", err)), false
		}
		e := exchange{c: c, m: m}
		s, judged = e.run()
		if !judged || m.Name() != saslclient.ScramPlus || e.answers > 0 {
			return e.hush(s, l), judged
		}
		// The server knows no binding to TLS 1.3, and says so before it has seen any proof.
		l.Binding = nil
		offered = slices.DeleteFunc(offered, func(name string) bool { return name == saslclient.ScramPlus })
	}
}

// exchange is one AUTH command.
type exchange struct {
	c       *Client
	m       saslclient.Mechanism
	answers int      // to challenges
	said    string   // in the last challenge
	secrets []string // lines that must not come back in a text
}

// run speaks it to its end. judged says that the server has refused what it was given, and not for now.
func (e *exchange) run() (s *status.Error, judged bool) {
	line, first := e.begin()
	for {
		rep, s := e.c.command("AUTH", line)
		switch {
		case s != nil:
			return s, false
		case rep.code == 235:
			if err := e.m.Proved(); err != nil {
				return status.Temporary(451, "4.7.0", "The server did not prove who it is at AUTH", fmt.Errorf("smtpclient: %w", err)), false
			}
			return nil, false
		case rep.failed():
			s = refused("Login", rep)
			if name := e.m.Name(); name == saslclient.OAuthBearer || name == saslclient.XOAuth2 { // a challenge there says what is wrong with the token
				s.Err = errors.New("smtpclient: " + name + ": " + status.Clean(e.said))
			}
			return s, rep.code >= 500
		case rep.code != 334 || len(rep.lines) != 1:
			return ours("4.5.0", "The server broke the protocol at AUTH"), false
		}
		if line, s = e.answer(rep.lines[0], first); s != nil {
			return s, false
		}
		first = nil
	}
}

// begin gives the command, and the initial response where it does not fit into that.
func (e *exchange) begin() (line string, first []byte) {
	line, first = "AUTH "+e.m.Name(), e.m.Start()
	if first == nil {
		return line, nil
	}
	response := base64.StdEncoding.EncodeToString(first)
	e.secrets = append(e.secrets, response)
	if response == "" {
		response = "=" // RFC 4954 4
	}
	if len(line)+1+len(response)+2 > maxCommand {
		return line, first
	}
	return line + " " + response, nil
}

// answer gives the line behind a challenge. first is what the command had no place for; then the challenge means nothing.
func (e *exchange) answer(challenge string, first []byte) (line string, s *status.Error) {
	response := first
	if first == nil {
		e.answers++
		b, err := base64.StdEncoding.DecodeString(challenge)
		e.said = string(b)
		if err == nil {
			response, err = e.m.Next(b)
		}
		if err != nil {
			return "", e.cancel(fmt.Errorf("smtpclient: %w", err))
		}
	}
	line = base64.StdEncoding.EncodeToString(response)
	if len(line)+2 > maxAnswer {
		return "", e.cancel(fmt.Errorf("smtpclient: an answer of %d octets at AUTH", len(line)))
	}
	e.secrets = append(e.secrets, line)
	return line, nil
}

// cancel ends an exchange that cannot go on (RFC 4954 4).
func (e *exchange) cancel(cause error) *status.Error {
	if _, s := e.c.command("AUTH", "*"); s != nil {
		return s
	}
	return status.Temporary(451, "4.7.0", "Login failed", cause)
}

// hush keeps a server's echo of what it must not tell out of the log.
func (e *exchange) hush(s *status.Error, l saslclient.Login) *status.Error {
	if s == nil {
		return nil
	}
	for _, secret := range append(e.secrets, l.Password, l.Token) {
		if len(secret) <= 3 {
			continue
		}
		if strings.Contains(s.Text, secret) {
			s.Text = "Login refused"
		}
		if s.Err != nil && strings.Contains(s.Err.Error(), secret) {
			s.Err = nil
		}
	}
	return s
}
