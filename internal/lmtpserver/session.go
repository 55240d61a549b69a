package lmtpserver

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/emersion/go-smtp"

	"github.com/postel-mail/postel/internal/address"
	"github.com/postel-mail/postel/internal/clock"
	"github.com/postel-mail/postel/internal/envelope"
	"github.com/postel-mail/postel/internal/message"
	"github.com/postel-mail/postel/internal/status"
)

// session is what one connection has said, as the engine tells it. The engine calls LMTPData from a goroutine of its own, which may outlive
// the transaction; so that takes what it needs before it reads the first octet.
type session struct {
	server *Server
	wire   *wire
	conn   *smtp.Conn
	bodies sync.WaitGroup // running LMTPData

	begun bool // MAIL was accepted
	utf8  bool
	from  address.Path
	dsn   envelope.DSN // of the message
	rcpts []recipient
}

// recipient is one RCPT that was accepted.
type recipient struct {
	key string // the engine's name for it
	to  address.Path
	dsn envelope.DSN
}

var (
	errNested   = status.Permanent(503, "5.5.1", "Nested MAIL command", nil)
	errNeedUTF8 = status.Permanent(553, "5.6.7", "Address needs SMTPUTF8", nil)
	errBadDSN   = status.Permanent(501, "5.5.4", "Malformed parameter about reports", nil)
	errCutShort = status.Temporary(451, "4.4.2", "The message was not sent to its end", nil)
	errBug      = status.Temporary(451, "4.3.0", "Internal error, try again later", nil)
)

// Mail begins a transaction. The address is wire's, not the engine's.
func (s *session) Mail(_ string, opts *smtp.MailOptions) error {
	from := s.wire.path
	switch {
	case s.begun:
		return s.refuse(nil, nil, errNested)
	case !opts.UTF8 && !from.IsASCII():
		return s.refuse(&from, nil, errNeedUTF8)
	}
	dsn, err := envelope.ParseDSN("", "", string(opts.Return), envelope.EncodeXtext(opts.EnvelopeID))
	if err != nil {
		return s.refuse(&from, nil, errBadDSN)
	}
	s.begun, s.utf8, s.from, s.dsn = true, opts.UTF8, from, dsn
	s.wire.Wait(false)
	s.wire.Until(clock.Now().Add(transactionTime))
	return nil
}

// Rcpt adds a recipient.
func (s *session) Rcpt(key string, opts *smtp.RcptOptions) error {
	to := s.wire.path
	if !s.utf8 && !to.IsASCII() {
		return s.refuse(&s.from, &to, errNeedUTF8)
	}
	if err := s.server.Verify(context.Background(), to); err != nil {
		return s.refuse(&s.from, &to, err)
	}
	dsn := s.dsn
	var words []string
	for _, word := range opts.Notify {
		words = append(words, string(word))
	}
	dsn.Notify = strings.Join(words, ",")
	if opts.OriginalRecipient != "" {
		dsn.ORcpt = strings.ToLower(string(opts.OriginalRecipientType)) + ";" + opts.OriginalRecipient
	}
	if envelope.CheckORcpt(dsn.ORcpt) != nil {
		return s.refuse(&s.from, &to, errBadDSN)
	}
	s.rcpts = append(s.rcpts, recipient{key, to, dsn})
	return nil
}

func (s *session) refuse(from, to *address.Path, err error) error {
	st := status.Of(err)
	s.server.Log.Refused("", s.wire.Client(), from, to, st)
	return reply(st)
}

// Reset ends a transaction, done or not.
func (s *session) Reset() {
	s.begun, s.utf8, s.from, s.dsn, s.rcpts = false, false, address.Path{}, envelope.DSN{}, nil
	s.wire.Until(time.Time{})
	s.wire.Wait(true)
}

// Logout is the end of the session.
func (s *session) Logout() error { return nil }

// Data is never called: LMTPData is.
func (s *session) Data(io.Reader) error { return reply(errBug) }

// LMTPData takes a message in and delivers it. r is the body when it comes by BDAT; by DATA it is an empty one.
func (s *session) LMTPData(r io.Reader, answers smtp.StatusCollector) (err error) {
	s.bodies.Add(1)
	defer s.bodies.Done()
	m := Message{ID: newID(), From: s.from, SMTPUTF8: s.utf8, Helo: s.conn.Hostname(), Client: s.wire.Client(), Arrival: clock.Now()}
	rcpts := s.rcpts
	data := s.wire.verb == "DATA"
	defer func() {
		if v := recover(); v != nil {
			s.server.Log.Panic(m.Client, v, debug.Stack())
			if data {
				s.wire.end(io.EOF)
			}
			err = reply(errBug)
		}
	}()
	trace := s.trace(m, rcpts)
	if data {
		m.Body, err = s.takeData(trace)
	} else {
		m.Body, err = takeIn(trace, r, s.server.MaxSize)
	}
	if err != nil {
		return s.notTaken(m, err)
	}
	defer m.Body.close()
	results := s.deliver(m, rcpts)
	for i, r := range rcpts {
		answers.SetStatus(r.key, <-results[i])
	}
	return nil
}

// takeData reads the body of DATA from under the engine. After a line that does not end in CRLF the session is over: what such a client takes
// for the end of its message is not ours to guess.
func (s *session) takeData(trace string) (*Body, error) {
	d := newDotReader(s.wire)
	defer d.close()
	b, err := takeIn(trace, d, s.server.MaxSize)
	if err == errBareLF {
		s.wire.end(errBareLF)
	}
	return b, err
}

// trace is the Received field.
func (s *session) trace(m Message, rcpts []recipient) string {
	t := message.Trace{Helo: m.Helo, Client: m.Client, By: s.server.Hostname, With: "LMTP", ID: m.ID, UID: -1, Now: m.Arrival}
	if m.SMTPUTF8 {
		t.With = "UTF8LMTP" // RFC 6531 4.3
	}
	if len(rcpts) == 1 {
		t.For = rcpts[0].to
	}
	return string(message.ReceivedField(t))
}

// notTaken is the answer to all recipients of a message that was not read to its end, or is not taken.
func (s *session) notTaken(m Message, err error) error {
	var st *status.Error
	switch {
	case errors.As(err, &st):
	case errors.Is(err, os.ErrDeadlineExceeded):
		st = status.Temporary(451, "4.4.2", "Timeout in the middle of a message", err)
	default: // the client went away, or said RSET between chunks
		st = status.Temporary(errCutShort.Code, errCutShort.Enhanced, errCutShort.Text, err)
	}
	s.server.Log.Refused(m.ID, m.Client, &m.From, nil, st)
	return reply(st)
}

// deliver delivers to all recipients, several at the same time, and gives for each where its answer will come from. Who was named twice gets
// one copy, and the answer twice.
func (s *session) deliver(m Message, rcpts []recipient) []chan error {
	type job struct {
		recipient
		number  int
		answers []chan error
	}
	results := make([]chan error, len(rcpts))
	byKey := map[string]*job{}
	jobs := make(chan *job, len(rcpts))
	for i, r := range rcpts {
		results[i] = make(chan error, 1)
		j := byKey[r.to.Key()]
		if j == nil {
			j = &job{recipient: r, number: i}
			byKey[r.to.Key()] = j
		}
		j.answers = append(j.answers, results[i])
	}
	for _, r := range rcpts {
		if j := byKey[r.to.Key()]; j != nil {
			jobs <- j
			delete(byKey, r.to.Key())
		}
	}
	n := len(jobs)
	close(jobs)
	for range min(parallel, n) {
		go func() {
			for j := range jobs {
				m := m
				m.To, m.DSN, m.Number = j.to, j.dsn, j.number
				err := s.deliverOne(m)
				for _, a := range j.answers {
					a <- err
				}
			}
		}()
	}
	return results
}

// deliverOne delivers to one recipient and gives the answer.
func (s *session) deliverOne(m Message) (answer error) {
	defer func() {
		if v := recover(); v != nil {
			s.server.Log.Panic(m.Client, v, debug.Stack())
			answer = reply(errBug)
		}
	}()
	word, err := s.server.Deliver(context.Background(), m)
	if err != nil {
		return reply(status.Of(err))
	}
	return &smtp.SMTPError{Code: 250, EnhancedCode: smtp.EnhancedCode{2, 1, 5}, Message: "Ok: " + word + " " + m.ID}
}

// reply is an outcome in the engine's type, always bare: the engine does not look into a chain.
func reply(st *status.Error) error {
	if st.Code < 400 || st.Code > 599 {
		st = errBug
	}
	e := &smtp.SMTPError{Code: st.Code, EnhancedCode: smtp.EnhancedCode{st.Code / 100}, Message: status.Clean(st.Text)}
	if parts := strings.Split(st.Enhanced, "."); len(parts) == 3 && parts[0] == strconv.Itoa(st.Code/100) {
		for i, p := range parts {
			e.EnhancedCode[i], _ = strconv.Atoi(p) // 0, the unknown one, where it is no number
		}
	}
	return e
}

// newID names a transaction.
func newID() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}
