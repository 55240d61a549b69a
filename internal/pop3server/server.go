// Package pop3server is the POP3 server: sessions over a mailbox.Store, for any store and any way of logging in.
//
// It implements RFC 1939 with USER and PASS, TOP and UIDL, CAPA (RFC 2449) with PIPELINING and RESP-CODES, STLS (RFC 2595), TLS from
// the first octet (RFC 8314), and AUTH-RESP-CODE with SYS (RFC 3206). It leaves out AUTH, APOP, UTF8 and LANG.
//
// Passwords cross only a connection that nobody can overhear. Sizes are those of what RETR sends. What was marked by DELE is removed at QUIT
// alone, after every reply before it has been sent; a session that ends otherwise removes nothing.
//
// server.go is the session and its loop; wire.go lines in and replies out; login.go what comes before the login; transaction.go what
// comes behind it; text.go messages on their way out.
package pop3server

import (
	"context"
	"crypto/tls"
	"errors"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/postel-mail/postel/internal/activation"
	"github.com/postel-mail/postel/internal/clock"
	"github.com/postel-mail/postel/internal/mailbox"
	"github.com/postel-mail/postel/internal/maillog"
)

// Server is what all sessions of one listener share. The fields are set before the first session and not changed after.
type Server struct {
	Hostname       string
	TLS            *tls.Config // nil: STLS is not offered
	ImplicitTLS    bool        // TLS from the first octet
	PlaintextLogin []netip.Prefix
	Log            *maillog.Log

	// Login gives the mailbox that user and password open. An error that carries the status 535 says that they do not;
	// one with another permanent status that trying again is of no use; any other is temporary. Its Text goes to the client.
	Login func(ctx context.Context, user, password string) (mailbox.Store, error)

	Idle       time.Duration // a session without a command for so long is ended; 0 is 10 minutes, the least that RFC 1939 3 allows
	LoginDelay time.Duration // after the first failed login; doubles with each; 0 is one second
}

// Bounds of one session.
const (
	maxEarly  = 50              // commands before the login
	maxLogins = 5               // failed ones
	loginTime = time.Minute     // for checking a password
	openTime  = 5 * time.Minute // for reading what is in a mailbox, which may be large and cold
	tlsTime   = time.Minute     // for a handshake
)

// protocol is what the log calls it.
const protocol = "pop3"

// state is one of the states of RFC 1939 3; the UPDATE state is doQUIT.
type state int

const (
	authorization state = 1 << iota
	transaction
	both = authorization | transaction
)

// command is what is known of a verb.
type command struct {
	state state // where it may stand
	arg   bool  // it may take an argument
	run   func(s *session, arg string)
}

// commands is what is understood, and nothing else.
var commands = map[string]command{
	"CAPA": {both, false, (*session).doCAPA},
	"STLS": {authorization, false, (*session).doSTLS},
	"USER": {authorization, true, (*session).doUSER},
	"PASS": {authorization, true, (*session).doPASS},
	"STAT": {transaction, false, (*session).doSTAT},
	"LIST": {transaction, true, (*session).doLIST},
	"UIDL": {transaction, true, (*session).doUIDL},
	"RETR": {transaction, true, (*session).doRETR},
	"TOP":  {transaction, true, (*session).doTOP},
	"DELE": {transaction, true, (*session).doDELE},
	"RSET": {transaction, false, (*session).doRSET},
	"NOOP": {transaction, false, (*session).doNOOP},
	"QUIT": {both, false, (*session).doQUIT},
}

// session is one connection.
type session struct {
	wire
	srv   *Server
	state state

	early  int    // commands before the login
	logins int    // failed
	user   string // of USER, then who logged in

	box     mailbox.Session // in TRANSACTION
	deleted map[int]bool    // messages marked by DELE
	fetched int             // messages that RETR sent
	octets  int64           // of them
	removed int

	ended bool
	why   string // the session ended, for the log; "" for QUIT
}

// ServeConn runs one session on c, to its end. The caller closes c.
func (srv *Server) ServeConn(c *activation.Conn) {
	s := &session{wire: wire{guard: c, conn: c}, srv: srv, state: authorization}
	srv.Log.Connect(c.Client())
	defer s.leave()
	c.Timeout(srv.idle())
	if srv.ImplicitTLS && !s.handshake() {
		return
	}
	s.ok(srv.Hostname + " POP3 ready")
	for !s.ended {
		s.command()
	}
	if s.flush() == nil && s.tls != nil {
		_ = s.tls.CloseWrite() // the client may be gone
	}
}

// leave gives the mailbox back, whatever became of the session.
func (s *session) leave() {
	client := s.guard.Client()
	if s.state == transaction {
		s.close()
		s.srv.Log.Fetched(s.user, client, s.fetched, s.octets, s.removed)
	}
	s.srv.Log.Disconnect(client, s.why)
}

func (s *session) close() {
	if s.box == nil {
		return
	}
	if err := s.box.Close(); err != nil {
		s.srv.Log.Problem("", err)
	}
	s.box = nil
}

func (srv *Server) idle() time.Duration {
	if srv.Idle > 0 {
		return srv.Idle
	}
	return 10 * time.Minute
}

// end ends the session behind the reply to this command; why is for the log.
func (s *session) end(why string) { s.ended, s.why = true, why }

// command reads one command and answers it.
func (s *session) command() {
	s.guard.Until(clock.Now().Add(s.srv.idle()))
	s.guard.Wait(s.state == authorization)
	line, err := s.line()
	s.guard.Wait(false)
	s.guard.Until(time.Time{})
	if s.state == authorization {
		if s.early++; s.early > maxEarly {
			s.end("too many commands without a login")
			s.fail("", "too many commands without a login")
			return
		}
	}
	switch {
	case err == nil:
		s.dispatch(line)
	case errors.Is(err, errLong), errors.Is(err, errControl):
		s.fail("", err.Error())
	case errors.Is(err, errFlood):
		s.end(err.Error())
		s.fail("", err.Error())
	case errors.Is(err, activation.ErrDraining):
		s.end(err.Error())
		s.fail(sysTemp, "server is stopping, try again")
	case errors.Is(err, os.ErrDeadlineExceeded):
		s.end("idle for too long") // without a word: RFC 1939 3
	default:
		s.end("connection lost")
	}
}

// dispatch finds the command by its verb.
func (s *session) dispatch(line string) {
	verb, arg, _ := strings.Cut(line, " ")
	verb = strings.ToUpper(verb)
	c, ok := commands[verb]
	if verb != "PASS" { // in which every blank counts
		arg = strings.Trim(arg, " ")
	}
	switch {
	case ok && !c.arg && arg != "":
		s.fail("", verb+" takes no argument")
	case ok && c.state&s.state != 0:
		c.run(s, arg)
	case ok && s.state == authorization:
		s.fail("", "log in first")
	case ok:
		s.fail("", "you are logged in already")
	case isHTTP(verb):
		s.end("HTTP instead of POP3") // a browser was made to send somebody's words
		s.fail("", "this is POP3")
	default:
		s.fail("", "unknown command")
	}
}

// isHTTP tells the methods of RFC 9110 that a browser sends first.
func isHTTP(verb string) bool {
	switch verb {
	case "GET", "HEAD", "POST", "PUT", "OPTIONS", "CONNECT":
		return true
	}
	return false
}
