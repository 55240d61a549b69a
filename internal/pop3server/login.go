package pop3server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"time"

	"github.com/postel-mail/postel/internal/clock"
	"github.com/postel-mail/postel/internal/mailbox"
	"github.com/postel-mail/postel/internal/status"
)

// protected reports whether a password may cross the connection.
func (s *session) protected() bool {
	if s.tls != nil || s.guard.Private() {
		return true
	}
	for _, network := range s.srv.PlaintextLogin {
		if network.Contains(s.guard.IP()) {
			return true
		}
	}
	return false
}

// doCAPA says what holds for this connection now (RFC 2449 5).
func (s *session) doCAPA(string) {
	s.ok("capabilities follow")
	s.put("TOP\r\nUIDL\r\nPIPELINING\r\nRESP-CODES\r\nAUTH-RESP-CODE\r\nEXPIRE NEVER\r\n")
	if s.state == authorization {
		if s.protected() {
			s.put("USER\r\n")
		}
		if s.srv.TLS != nil && s.tls == nil {
			s.put("STLS\r\n")
		}
	}
	s.put(".\r\n")
}

func (s *session) doSTLS(string) {
	switch {
	case s.tls != nil:
		s.fail("", "TLS is in use already")
	case s.srv.TLS == nil:
		s.fail("", "TLS is not offered here")
	case len(s.pending()) > 0:
		// Somebody on the way may have put it there; behind the handshake it would look like the client's.
		s.end("octets behind STLS")
		s.fail("", "nothing may follow STLS before the handshake")
	default:
		s.ok("begin TLS")
		s.handshake()
		s.user = "" // what was said in the clear is forgotten
	}
}

// handshake puts TLS on the connection. When it fails the session is over: the client cannot be understood any more.
func (s *session) handshake() bool {
	if s.flush() != nil {
		s.end("connection lost")
		return false
	}
	s.guard.Until(clock.Now().Add(tlsTime))
	conn := tls.Server(s.guard, s.srv.TLS)
	if err := conn.HandshakeContext(context.Background()); err != nil {
		s.srv.Log.TLSFailed(s.guard.Client(), err)
		s.end("TLS handshake failed")
		return false
	}
	s.conn, s.tls = conn, conn
	return true
}

// mayLogIn answers when a password may not cross the connection.
func (s *session) mayLogIn() bool {
	switch {
	case s.protected():
		return true
	case s.srv.TLS != nil:
		s.fail("", "begin TLS with STLS first")
	default:
		s.fail("", "no login without TLS")
	}
	return false
}

// doUSER takes any name: whether it exists is not told.
func (s *session) doUSER(arg string) {
	if !s.mayLogIn() {
		return
	}
	if arg == "" {
		s.fail("", "USER takes a name")
		return
	}
	s.user = arg
	s.ok("send the password")
}

func (s *session) doPASS(password string) {
	if !s.mayLogIn() {
		return
	}
	user := s.user
	s.user = ""
	if user == "" {
		s.fail("", "USER comes first")
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), loginTime)
	defer cancel()
	store, err := s.srv.Login(ctx, user, password)
	if err != nil {
		s.loginFailed(user, status.Of(err))
		return
	}
	s.srv.Log.Login(user, s.guard.Client(), protocol)
	ctx, cancel = context.WithTimeout(context.Background(), openTime)
	defer cancel()
	if s.box, err = store.Open(ctx); err != nil {
		s.notOpened(err)
		return
	}
	s.user, s.state, s.deleted = user, transaction, map[int]bool{}
	n, octets := s.stat()
	s.ok(fmt.Sprintf("%d messages (%d octets)", n, octets))
}

// loginFailed answers a failed login. It takes longer each time, and ends the session the fifth time.
func (s *session) loginFailed(user string, why *status.Error) {
	s.srv.Log.LoginFailed(user, s.guard.Client(), protocol, errors.New(why.Cause()))
	code := sysPerm
	switch {
	case why.Code == 535:
		code = auth
	case why.Temporary():
		code = sysTemp
	}
	s.logins++
	if code == auth {
		delay := s.srv.LoginDelay
		if delay == 0 {
			delay = time.Second
		}
		time.Sleep(delay << (s.logins - 1))
	}
	if s.logins >= maxLogins {
		s.end(fmt.Sprintf("%d failed logins", s.logins))
	}
	s.fail(code, why.Text)
}

// notOpened answers when the mailbox cannot be had. The session ends: it may have become its user by now, and could not become another.
func (s *session) notOpened(err error) {
	s.box = nil
	if errors.Is(err, mailbox.ErrInUse) {
		s.end(err.Error())
		s.fail(inUse, err.Error())
		return
	}
	s.srv.Log.Problem("", err)
	s.end("mailbox cannot be opened")
	s.fail(sysTemp, "the mailbox cannot be opened now")
}
