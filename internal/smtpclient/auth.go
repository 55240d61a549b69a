package smtpclient

import (
	"encoding/base64"
	"slices"
	"strings"

	"github.com/postel-mail/postel/internal/status"
)

// maxCommand is the longest command line that every server takes, with its CRLF (RFC 5321 4.5.3.1.4).
const maxCommand = 512

// login proves who the client is (RFC 4954), by PLAIN (RFC 4616) or the older LOGIN. Every failure is temporary: a password that was
// changed or a login server that is down must not bounce mail.
func (c *Client) login() *status.Error {
	if !c.tls && !c.o.Private {
		return ours("4.7.11", "No password is sent without TLS")
	}
	if strings.ContainsRune(c.o.User+c.o.Password, 0) {
		return ours("4.3.5", "User or password has a NUL")
	}
	encode := base64.StdEncoding.EncodeToString
	mechanisms := strings.Fields(strings.ToUpper(c.ext["AUTH"]))
	switch {
	case slices.Contains(mechanisms, "PLAIN"):
		secret := encode([]byte("\x00" + c.o.User + "\x00" + c.o.Password))
		if line := "AUTH PLAIN " + secret; len(line)+2 <= maxCommand {
			return c.authenticate(line)
		}
		return c.authenticate("AUTH PLAIN", secret)
	case slices.Contains(mechanisms, "LOGIN"):
		return c.authenticate("AUTH LOGIN", encode([]byte(c.o.User)), encode([]byte(c.o.Password)))
	}
	return ours("4.7.0", "The server offers no way to log in that is known here")
}

// authenticate sends the command and an answer to each challenge.
func (c *Client) authenticate(lines ...string) *status.Error {
	for i, line := range lines {
		rep, s := c.command("AUTH", line)
		last := i == len(lines)-1
		switch {
		case s != nil:
			return s
		case last && rep.code == 235, !last && rep.code == 334:
		case rep.failed():
			return c.hush(refused("Login", rep), lines)
		default:
			return c.hush(ours("4.5.0", "The server broke the protocol at AUTH"), lines)
		}
	}
	return nil
}

// hush keeps a server's echo of the password out of the log.
func (c *Client) hush(s *status.Error, lines []string) *status.Error {
	for _, secret := range append(lines, c.o.Password) {
		if secret = strings.TrimPrefix(secret, "AUTH PLAIN "); len(secret) > 3 && strings.Contains(s.Text, secret) {
			s.Text = "Login refused"
		}
	}
	return s
}
