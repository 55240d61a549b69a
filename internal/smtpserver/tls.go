package smtpserver

import (
	"context"
	"crypto/tls"
	"strings"

	"github.com/postel-mail/postel/internal/channel"
	"github.com/postel-mail/postel/internal/clock"
	"github.com/postel-mail/postel/internal/status"
)

// errNeedTLS is the answer to what may not cross a connection in the clear (RFC 3207 4).
var errNeedTLS = status.Permanent(530, "5.7.0", "Must issue a STARTTLS command first", nil)

func (s *session) doSTARTTLS(arg string) error {
	switch {
	case arg != "":
		return errArguments
	case s.tls != nil:
		return status.Permanent(503, "5.5.1", "TLS is already in use", nil)
	case s.srv.TLS == nil:
		return status.Permanent(502, "5.5.1", "Command not implemented", nil)
	}
	if len(s.pending()) > 0 {
		// Somebody on the way may have put it there; behind the handshake it would look like the client's.
		s.end("octets behind STARTTLS")
		return status.Permanent(501, "5.5.1", "Nothing may follow STARTTLS before the handshake", nil)
	}
	s.reply(220, "2.0.0", "Ready to start TLS")
	if !s.handshake() {
		return errGone
	}
	// RFC 3207 4.2: what was said in the clear is forgotten.
	s.reset()
	s.helo, s.esmtp, s.login = "", false, ""
	return nil
}

// handshake puts TLS on the connection. When it fails the session is over: the client cannot be understood any more.
func (s *session) handshake() bool {
	if s.flush() != nil {
		s.end("connection lost")
		return false
	}
	limit := tlsTime
	if s.guard.Crowded() {
		limit = crowdedTLS
	}
	s.guard.Until(clock.Now().Add(limit))
	conn := channel.Server(s.guard, s.srv.TLS)
	if err := conn.HandshakeContext(context.Background()); err != nil {
		s.srv.Log.TLSFailed(s.guard.Client(), err)
		s.end("TLS handshake failed")
		return false
	}
	s.conn, s.tls = conn, conn
	return true
}

// cipher names protocol and cipher suite, for the trace; "" without TLS.
func (s *session) cipher() string {
	if s.tls == nil {
		return ""
	}
	state := s.tls.ConnectionState()
	return strings.Replace(tls.VersionName(state.Version), "TLS ", "TLSv", 1) + " " + tls.CipherSuiteName(state.CipherSuite)
}
