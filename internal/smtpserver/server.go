// Package smtpserver is the SMTP server: the mail exchanger of port 25 and the submission server (RFC 6409) of ports 587 and 465, over an
// engine of its own.
//
// It implements RFC 5321 with PIPELINING (2920), SIZE (1870), 8BITMIME (6152), ENHANCEDSTATUSCODES (2034), CHUNKING and BINARYMIME (3030),
// SMTPUTF8 (6531), DSN (3461; 6533), STARTTLS (3207), AUTH (4954), REQUIRETLS (8689) and LIMITS (9422). It leaves out VRFY and EXPN with
// answers, ETRN, and everything obsolete. A binary message is queued as it came; package transport converts it for a next hop or a mailbox that
// takes only lines, and returns it where that cannot be done.
//
// The engine is our own because go-smtp (0.25.1), which was looked at first, cannot be made strict from outside. A carriage return is lost
// in front of CR LF and behind a dot, so that a body may never end; <postmaster> is refused; `"a@b"@c` and `<a@b@c>` become the same
// string; a bad sequence is 502; errors are counted in one place of three. A guard in front of it would have to parse SMTP a
// second time to contain these, and behind STARTTLS it sees only ciphertext. go-smtp stays below lmtpd, and its client is
// the stranger that the tests here let in.
//
// The engine scans blocks, never octets one by one, and answers pipelined commands in one write. What it cannot
// account for (a bare CR or LF, octets behind STARTTLS, a body cut short) ends the connection, so that nothing
// a client sent as data is ever run as a command. Package activation's Conn below it keeps read errors sticky for the same end.
//
// server.go is the session and its loop; wire.go lines in and replies out; commands.go the verbs; mail.go MAIL and RCPT; policy.go
// who may send to whom; data.go DATA and BDAT; intake.go the message on its way into the queue; auth.go and tls.go what they say;
// front.go what package screen has to say about a client; rates.go what a client may do in a minute, and under
// stress; xclient.go who a front end speaks for.
package smtpserver

import (
	"context"
	"crypto/tls"
	"errors"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/postel-mail/postel/internal/activation"
	"github.com/postel-mail/postel/internal/address"
	"github.com/postel-mail/postel/internal/envelope"
	"github.com/postel-mail/postel/internal/guesses"
	"github.com/postel-mail/postel/internal/maillog"
	"github.com/postel-mail/postel/internal/queue"
	"github.com/postel-mail/postel/internal/sasl"
	"github.com/postel-mail/postel/internal/screen"
	"github.com/postel-mail/postel/internal/status"
)

// Server is what all sessions of one listener share. The fields are set before the first session and not changed after; to change them
// make a new Server.
type Server struct {
	Hostname    string
	Submission  bool        // take mail from users for anywhere, instead of from anywhere for users
	TLS         *tls.Config // nil: STARTTLS is not offered
	ImplicitTLS bool        // TLS from the first octet
	Spool       *queue.Spool
	Log         *maillog.Log

	Home           string          // the domain that <postmaster> and user@[our address] belong to, one of Domains, or the host's name where there are none
	Domains        map[string]bool // final delivery here: lower case, ASCII
	RelayDomains   map[string]bool // taken for the next hop, as Domains
	RelayNetworks  []netip.Prefix  // clients that may send anywhere without logging in
	PlaintextLogin []netip.Prefix  // clients that may log in without TLS
	// XclientNetworks are front ends: they may say by XCLIENT whom they speak for.
	XclientNetworks []netip.Prefix

	// Verify says whether an address in one of Domains exists: nil, or an error that carries the status. A nil Verify takes all.
	Verify func(context.Context, address.Path) error
	// VerifyRelay does the same for an address in one of RelayDomains. It is asked about mail of clients that are not trusted.
	VerifyRelay func(context.Context, address.Path) error
	// MaySend says whether a user may send as that address, nil or an error with a status. A nil MaySend lets everybody send as anyone.
	MaySend func(ctx context.Context, login string, from address.Path) error
	// Sent adds n, which may be negative, to the recipients whom that user has sent to within the hour, and gives the sum. It is used where SentPerHour is not 0.
	Sent        func(login string, n int) int
	SentPerHour int // recipients
	// Logins judge who users are. An error that carries a permanent status is a refusal; any other is temporary. nil: nobody can log in.
	Logins *sasl.Checks
	// Guesses counts the failures; nil: they only count within a session.
	Guesses *guesses.Guesses

	// Screen judges clients that nobody vouches for; nil: none. It is for the exchanger alone.
	Screen *screen.Screen

	// NormaliseNewlines makes CRLF of each bare LF in a message, and nothing of each bare CR; without it such a message is refused.
	NormaliseNewlines bool

	MaxSize       int64 // octets of a message
	MaxRecipients int   // of a message
	MaxHops       int   // Received fields
	Rates         Rates

	CommandTimeout time.Duration // for a command, and for each block of a message; 0 is 5 minutes (RFC 5321 4.5.3.2)
	LoginDelay     time.Duration // after the first failed login; doubles with each; 0 is one second
}

// Bounds of one session.
const (
	maxErrors   = 20               // refused commands; an accepted recipient makes good for one,
	maxGood     = 100              // as many as these do
	maxOver     = 1000             // recipients too many that are no errors: the client comes again with these (RFC 5321 4.5.3.1.10)
	maxIdle     = 100              // commands without a message in between
	maxLogins   = 5                // failed ones
	dataTime    = 10 * time.Minute // for the whole of a message, and besides
	dataRate    = 1 << 10          // octets a second that a client keeps up
	tlsTime     = time.Minute      // for a handshake
	verifyTime  = 30 * time.Second // for a look-up
	maxHeloName = 255
)

// session is one connection.
type session struct {
	wire
	srv *Server

	helo   string // what the client called itself; "" before HELO and EHLO
	esmtp  bool   // by EHLO
	login  string // who logged in, or ""
	logins int    // failed
	errors int
	rcpts  int // accepted, in all transactions, each once in each
	idle   int // commands since the last message
	over   int // recipients of the transaction beyond MaxRecipients

	env  *envelope.Envelope // the transaction: MAIL was accepted; nil outside
	user string             // of the submission server, whose message it is: login, or the name of a user of this host; "" where nobody is bound
	sent int                // recipients of user within the hour, as known when the first was named; -1 before
	xfer *transfer          // BDAT has begun; nil before

	mayXclient bool // by the peer's own address
	said       struct {
		helo, login string
		esmtp       bool
	} // by XCLIENT

	client *screen.Client // nil: not judged
	judged bool           // and that is logged

	ended bool
	why   string // the session ended, for the log; "" for QUIT
}

// ServeConn runs one session on c, to its end. The caller closes c.
func (srv *Server) ServeConn(c *activation.Conn) {
	s := &session{srv: srv, wire: wire{guard: c, conn: c}}
	s.buf, s.mayXclient = s.small[:], contains(srv.XclientNetworks, c.IP())
	srv.Log.Connect(c.Client())
	defer func() {
		s.reset()
		s.release()
		s.client.End()
		srv.Log.Disconnect(c.Client(), s.why)
	}()
	c.Timeout(srv.commandTimeout())
	if srv.ImplicitTLS && !s.handshake() {
		return
	}
	s.welcome()
	for !s.ended {
		s.command()
	}
	if s.flush() == nil && s.tls != nil {
		_ = s.tls.CloseWrite() // the client may be gone
	}
}

// welcome greets the client, or sends it away.
func (s *session) welcome() {
	if err := s.rated(421, "connections", s.srv.Rates.Connections); err != nil {
		s.end("too many connections")
		s.refuse(err, nil, nil)
	} else if s.front() {
		s.reply(220, "", s.srv.Hostname+" ESMTP postel")
	}
}

func (srv *Server) commandTimeout() time.Duration {
	if srv.CommandTimeout > 0 {
		return srv.CommandTimeout
	}
	return 5 * time.Minute
}

// command reads one command and answers it.
func (s *session) command() {
	s.guard.Wait(s.env == nil)
	line, err := s.readLine(maxCommand)
	s.guard.Wait(false)
	if err == nil {
		err = s.dispatch(line)
	}
	if err != nil {
		s.refuse(err, s.sender(), nil)
	}
	if s.ended {
		return
	}
	if s.errors >= s.maxErrors()+min(s.rcpts, maxGood) {
		s.end("too many errors")
		s.reply(421, "4.7.0", "Too many errors")
	} else if s.idle >= s.maxIdle() {
		s.end("too many commands without a message")
		s.reply(421, "4.7.0", "Too many commands without a message")
	}
}

// readLine reads a command line or a line of AUTH. An error has ended the session, or is a refusal.
func (s *session) readLine(max int) (string, error) {
	s.guard.Until(s.until())
	line, err := s.line(max)
	switch {
	case err == nil:
		return line, nil
	case errors.Is(err, errLong) && max == maxAuth:
		return "", status.Permanent(500, "5.5.6", "Line too long", nil) // RFC 4954 4
	case errors.Is(err, errLong):
		return "", status.Permanent(500, "5.5.2", "Line too long", nil)
	case errors.Is(err, errFlood):
		s.end("line without end")
		return "", status.Permanent(500, "5.5.2", "Line too long", nil)
	case errors.Is(err, errBare):
		s.end("bare CR, bare LF or NUL in a command")
		return "", status.Permanent(500, "5.5.2", "Lines end in CR LF and hold neither CR, LF nor NUL", nil)
	case errors.Is(err, activation.ErrDraining):
		s.end("shutting down")
		s.reply(421, "4.3.2", s.srv.Hostname+" is shutting down")
	case errors.Is(err, os.ErrDeadlineExceeded):
		s.end("timeout")
		s.reply(421, "4.4.2", "Timeout, closing the connection")
	default:
		s.end("connection lost")
	}
	return "", errGone
}

// errGone says that the session is over and all is said.
var errGone = errors.New("session is over")

// end ends the session behind the reply that is being made; why is for the log.
func (s *session) end(why string) {
	if !s.ended {
		s.ended, s.why = true, why
	}
}

// maxTold is how many recipients of a message are named in the log that it was refused for.
const maxTold = 10

// refuseMessage answers and logs the refusal of the message of the transaction, for each recipient.
func (s *session) refuseMessage(err error) {
	if s.env == nil || len(s.env.Rcpts) == 0 {
		s.refuse(err, s.sender(), nil)
		return
	}
	for _, r := range s.env.Rcpts[1:min(len(s.env.Rcpts), maxTold)] {
		s.srv.Log.Refused(s.env.ID, s.guard.Client(), &s.env.From, &r.To, status.Of(err))
	}
	s.refuse(err, &s.env.From, &s.env.Rcpts[0].To)
}

// sender is that of the transaction; nil outside.
func (s *session) sender() *address.Path {
	if s.env == nil {
		return nil
	}
	return &s.env.From
}

// refuse answers and logs a refusal. from and to are nil where they are not known, or where it is not about them.
func (s *session) refuse(err error, from, to *address.Path) {
	if errors.Is(err, errGone) {
		return
	}
	st := status.Of(err)
	s.errors++
	id := ""
	if s.env != nil {
		id = s.env.ID
	}
	s.srv.Log.Refused(id, s.guard.Client(), from, to, st)
	s.reply(st.Code, st.Enhanced, st.Text)
}

// reset ends the transaction.
func (s *session) reset() {
	if s.xfer != nil {
		s.xfer.abort()
	}
	s.env, s.xfer, s.over = nil, nil, 0
}

// keyword is the protocol of RFC 3848 and RFC 6531 4.3 that the session speaks.
func (s *session) keyword() string {
	var b strings.Builder
	switch {
	case s.env != nil && s.env.SMTPUTF8:
		b.WriteString("UTF8SMTP")
	case !s.esmtp && s.tls == nil && s.login == "":
		return "SMTP"
	default:
		b.WriteString("ESMTP")
	}
	if s.tls != nil {
		b.WriteByte('S')
	}
	if s.login != "" {
		b.WriteByte('A')
	}
	return b.String()
}
