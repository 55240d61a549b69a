// Package lmtpserver is the LMTP server (RFC 2033): one session on one connection, and for each recipient of a message the one honest
// answer that its delivery gave. It never queues.
//
// It speaks PIPELINING (RFC 2920), 8BITMIME (6152), SIZE (1870), ENHANCEDSTATUSCODES (2034), CHUNKING without BINARYMIME (3030), SMTPUTF8
// (6531) and LIMITS RCPTMAX (9422). It has no TLS, no AUTH, no DSN: it is for connections that are private, and answers for what it was given at once.
//
// For what it sends on, and for that alone, it takes RET, ENVID, NOTIFY and ORCPT of RFC 3461, which it offers as XDSN, an agreement of this suite's programs (RFC 5321
// 2.2.2): reports stay the client's, and the last word but one in the answer to a message, as "delivered", tells it who is to report success.
//
// The engine is go-smtp; nothing of it is seen from outside. What is wrong or missing in it is made good by wire, which does the
// framing before the engine sees an octet. So the server keeps to these rules:
//
// Only CRLF.CRLF ends a message. A line of the message that ends in a bare LF is refused with 550 5.6.0 and the session is over. A
// bare CR is content, as the mail servers in front of this one have it; wherever it stands, it is stored as it came.
//
// After a timeout, a line that is too long, a malformed BDAT or a refused DATA with something behind it nothing is read any more, so that no part
// of a message is ever taken for a command. A message that did not end is not delivered, by DATA and by BDAT.
//
// A reply never repeats the peer's words, but for the recipient in the answers to a message: that one was parsed and written anew. There
// a local part that needs quotes stands without them.
//
// A declared SIZE of 4 GiB and more is answered 501, not 552.
package lmtpserver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/emersion/go-smtp"

	"github.com/postel-mail/postel/internal/activation"
	"github.com/postel-mail/postel/internal/address"
	"github.com/postel-mail/postel/internal/envelope"
	"github.com/postel-mail/postel/internal/maillog"
)

const (
	// readTimeout is how long the client may be silent (RFC 5321 4.5.3.2.7), or take to read what it was sent.
	readTimeout = 5 * time.Minute
	// transactionTime is how long a client may take to send one message, however steadily.
	transactionTime = time.Hour
	// parallel is how many recipients of one message are delivered to at once.
	parallel = 4
)

// Message is one message for one recipient.
type Message struct {
	ID       string // of the transaction, for log and trace; new on every try
	From     address.Path
	To       address.Path // <postmaster> has no domain
	Number   int          // of the recipient in the transaction, from 0
	SMTPUTF8 bool         // the client asked for it (RFC 6531)
	Helo     string       // what the client called itself; anything without control characters
	Client   string       // where it came from: an address, "unix" or "pipe"
	Arrival  time.Time
	DSN      envelope.DSN
	Body     *Body // shared by all recipients, and valid until the last delivery has returned
}

// Server has what the sessions need. All fields are set before the first one. Errors of Verify and Deliver are answered with
// their status, those without one with 451 4.3.0.
type Server struct {
	Hostname      string
	MaxSize       int64 // octets of a message
	MaxRecipients int   // of one message
	Log           *maillog.Log
	// Verify decides at RCPT whether mail for that recipient is taken.
	Verify func(ctx context.Context, to address.Path) error
	// Deliver delivers; no error says that the message survives a power cut, and the word is what the answer says became of it. It is called for every recipient,
	// several at the same time.
	Deliver func(ctx context.Context, m Message) (word string, err error)
}

// ServeConn serves one session, to its end. The caller closes c.
func (s *Server) ServeConn(c *activation.Conn) {
	c.Timeout(readTimeout)
	c.Wait(true)
	ses := &session{server: s}
	ses.wire = newWire(c, s, func() bool { return len(ses.rcpts) > 0 })
	engine := smtp.NewServer(smtp.BackendFunc(func(conn *smtp.Conn) (smtp.Session, error) {
		ses.conn = conn
		return ses, nil
	}))
	engine.LMTP = true
	engine.Domain = s.Hostname
	engine.MaxMessageBytes = s.MaxSize
	engine.MaxRecipients = s.MaxRecipients
	engine.MaxLineLength = 0 // wire bounds lines
	engine.EnableSMTPUTF8 = true
	engine.EnableDSN = true // wire calls it XDSN
	engine.ErrorLog = engineLog{s.Log}

	s.Log.Connect(c.Client())
	_ = engine.Serve(&listener{wire: ses.wire}) // returns with the listener's error when the session closes the wire
	_ = engine.Shutdown(context.Background())   // waits for the end of the session
	ses.bodies.Wait()
	s.Log.Disconnect(c.Client(), ses.wire.why)
}

// engineLog takes the engine's reports of its own panics.
type engineLog struct{ log *maillog.Log }

func (l engineLog) Printf(format string, v ...any) {
	l.log.Problem("", fmt.Errorf("go-smtp: "+format, v...))
}
func (l engineLog) Println(v ...any) { l.log.Problem("", errors.New("go-smtp: "+fmt.Sprint(v...))) }

// listener gives the engine its one connection, and ends when that is closed.
type listener struct {
	wire  *wire
	given bool
}

func (l *listener) Accept() (net.Conn, error) {
	if !l.given {
		l.given = true
		return l.wire, nil
	}
	<-l.wire.closed
	return nil, net.ErrClosed
}

func (l *listener) Close() error   { return nil }
func (l *listener) Addr() net.Addr { return l.wire.LocalAddr() }
