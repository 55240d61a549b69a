// Package submission takes a message from a program of this host, as sendmail(1) does: it reads the message to its end, finds the recipients, completes
// the header (RFC 6409 8), and hands it on, into the queue, into the drop directory, or through the socket of a submission server (Socket, SMTP of RFC
// 5321 without the network). It says yes only when the message is durable there.
//
// The message is kept in memory up to a mebibyte, and beyond that in an unlinked temporary file, until its end is known: header and
// limits are judged, and lines too long for SMTP found, before anybody is told of it. It leaves out who may submit: whoever may write the
// spool may, and the others are known by their user number.
package submission

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/postel-mail/postel/internal/address"
	"github.com/postel-mail/postel/internal/clock"
	"github.com/postel-mail/postel/internal/envelope"
	"github.com/postel-mail/postel/internal/message"
	"github.com/postel-mail/postel/internal/recode"
	"github.com/postel-mail/postel/internal/status"
	"github.com/postel-mail/postel/internal/sysexits"
)

// Submission says how one message is to be submitted. The Set methods read the words of sendmail's command line; Hostname has to stand before.
type Submission struct {
	Hostname      string // completes addresses without a domain
	MaxSize       int64  // octets of a message, as it would be queued
	MaxRecipients int    // 0: no limit
	MaxHops       int    // Received fields

	UID        int                  // of the caller
	Sender     address.Path         // of the envelope, complete; the null path stands for itself
	Name       string               // of the author, where the header has no From
	Recipients []envelope.Recipient // named by the caller
	FromHeader bool                 // and those that the header names
	DSN        envelope.DSN         // Notify and ORcpt are for each recipient that has none of its own
	EightBit   bool                 // the caller says that the body is 8BITMIME; it is found out anyway
	EndAtDot   bool                 // a line with nothing but a dot ends the message
	Relay      bool                 // the message passes through: its header and lines stay as they are
	Trace      bool                 // add the Received field; without it the next program does
	Wait       string               // see envelope.Envelope; it may be set until Send
}

// Message is a message that was read and found good.
type Message struct {
	*Submission
	envelope *envelope.Envelope
	content  *content
	header   *message.Header
	body     *io.SectionReader
	plan     *recode.Plan // for lines too long; nil until complete was called
	long     bool         // it may be needed
	nul      bool         // there are NULs
}

// Receipt says who has the message now.
type Receipt struct {
	ID    string
	Size  int64 // octets
	NRcpt int
}

// Writer is one message on its way to somebody who says yes, by Commit, only when it is durable there. After an error it is not.
type Writer interface {
	io.Writer
	ID() string  // under which it can be found, behind Commit
	Size() int64 // octets of the message written so far
	Commit() error
	Abort()
}

// ErrNoRecipients says that neither the caller nor the header names a recipient.
var ErrNoRecipients = errors.New("no recipients")

// Read takes a message from in to its end, and judges it. A message that is at fault gives a *status.Error, or an error that exits 65; an input that
// cannot be read one that exits 74.
func (s *Submission) Read(in io.Reader) (*Message, error) {
	if len(s.Recipients) == 0 && !s.FromHeader {
		return nil, sysexits.With(sysexits.Usage, ErrNoRecipients)
	}
	lines := message.CRLF(in)
	lines.EndAtDot = s.EndAtDot
	content, err := read(lines, s.MaxSize)
	if err != nil {
		return nil, err
	}
	m, err := s.judge(content, lines)
	if err != nil {
		content.Close()
	}
	return m, err
}

func (s *Submission) judge(content *content, lines *message.LineReader) (m *Message, err error) {
	m = &Message{Submission: s, content: content}
	if m.header, m.body, err = m.content.split(); err != nil {
		return nil, err
	}
	if n := m.header.Count("Received"); n > s.MaxHops {
		return nil, status.Permanent(554, "5.4.6", fmt.Sprintf("Too many hops: the message has %d Received fields", n), nil)
	}
	rcpts, err := s.recipients(m.header)
	if err != nil {
		return nil, err
	}
	m.long, m.nul = lines.Longest() > message.MaxLine || lines.HasNUL(), lines.HasNUL()
	m.envelope = &envelope.Envelope{From: s.Sender, Ret: s.DSN.Ret, EnvID: s.DSN.EnvID, Client: "local", UID: s.UID, Rcpts: rcpts}
	if s.EightBit || lines.EightBit() {
		m.envelope.Body = "8BITMIME"
	}
	m.envelope.SMTPUTF8 = s.Sender.NeedsUTF8()
	for _, r := range rcpts {
		m.envelope.SMTPUTF8 = m.envelope.SMTPUTF8 || r.To.NeedsUTF8()
	}
	return m, nil
}

// Close gives up what Read kept.
func (m *Message) Close() { m.content.Close() }

// recipients gives all recipients, complete, each once.
func (s *Submission) recipients(h *message.Header) (rcpts []envelope.Recipient, err error) {
	all := slices.Clip(s.Recipients)
	if s.FromHeader {
		named, err := h.Recipients()
		if err != nil {
			return nil, sysexits.With(sysexits.DataErr, err)
		}
		for _, p := range named {
			all = append(all, envelope.Recipient{To: p})
		}
	}
	seen := map[string]bool{}
	for _, r := range all {
		if r.To, err = s.complete(r.To); err != nil {
			return nil, sysexits.With(sysexits.DataErr, err)
		}
		r.Notify, r.ORcpt = cmp.Or(r.Notify, s.DSN.Notify), cmp.Or(r.ORcpt, s.DSN.ORcpt)
		if key := r.To.Key(); !seen[key] {
			seen[key] = true
			rcpts = append(rcpts, r)
		}
	}
	switch {
	case len(rcpts) == 0:
		return nil, sysexits.With(sysexits.DataErr, fmt.Errorf("%w in To, Cc or Bcc of the message", ErrNoRecipients))
	case s.MaxRecipients > 0 && len(rcpts) > s.MaxRecipients:
		return nil, status.Permanent(554, "5.5.3", fmt.Sprintf("Message has %d recipients, limits.recipients is %d", len(rcpts), s.MaxRecipients), nil)
	}
	return rcpts, nil
}

// Send hands the message on to whoever create leads to: the Create method of a spool, a drop directory or a Socket. When it returns nil the message is
// durable there. After an error it may be called again for another one, unless the error says that it may have been taken.
func Send[W Writer](m *Message, create func(*envelope.Envelope) (W, error)) (*Receipt, error) {
	m.envelope.Wait = m.Wait
	w, err := create(m.envelope)
	if err != nil {
		return nil, err
	}
	defer w.Abort()
	now := clock.Now()
	if m.plan == nil {
		if err := m.complete(now); err != nil {
			return nil, err
		}
	}
	out := io.Writer(w)
	if m.nul {
		out = withoutNUL{w}
	}
	if m.Trace {
		field := message.ReceivedField(message.Trace{By: m.Hostname, ID: m.envelope.ID, UID: m.UID, Now: now})
		if _, err := out.Write(field); err != nil {
			return nil, err
		}
	}
	if _, err := m.header.WriteTo(out); err != nil {
		return nil, err
	}
	if _, err := m.body.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	if err := m.plan.Copy(out, m.body); err != nil {
		return nil, err
	}
	if err := w.Commit(); err != nil {
		return nil, err
	}
	return &Receipt{ID: w.ID(), Size: w.Size(), NRcpt: len(m.envelope.Rcpts)}, nil
}

// complete gives the header what it lacks, and plans for lines that are too long.
func (m *Message) complete(now time.Time) (err error) {
	if m.Relay {
		m.plan = &recode.Plan{}
		return nil
	}
	m.header.Complete(m.completion(m.envelope.ID, now))
	if !m.long {
		m.plan = &recode.Plan{}
		return nil
	}
	m.plan, err = recode.Lines(m.header, m.body)
	return err
}

// withoutNUL drops the NULs that could not be encoded, those of the header and of parts that are left as they are: every server would refuse the message
// for them, and the report on it.
type withoutNUL struct{ w io.Writer }

func (f withoutNUL) Write(p []byte) (int, error) {
	if _, err := f.w.Write(bytes.ReplaceAll(p, []byte{0}, nil)); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (s *Submission) completion(id string, now time.Time) message.Completion {
	c := message.Completion{Hostname: s.Hostname, From: s.Sender, Name: s.Name, Now: now, ID: id, QualifyBare: true}
	if s.Sender.IsNull() { // as a report from the mail system has it
		c.From = address.Path{Local: "MAILER-DAEMON", Domain: s.Hostname}
		if c.Name == "" {
			c.Name = "Mail Delivery System"
		}
	}
	return c
}
