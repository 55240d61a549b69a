// Package submission takes a message from a program of this host and puts it into the queue, as sendmail(1) does: it reads the message to its
// end, finds the recipients, completes the header (RFC 6409 8), and says yes only when the message is durable.
//
// The message is kept in memory up to a mebibyte, and beyond that in an unlinked temporary file, until its end is known: header and
// limits are judged, and lines too long for SMTP found, before anything is in the queue. It leaves out who may submit: whoever may write the
// spool may.
package submission

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/postel-mail/postel/internal/address"
	"github.com/postel-mail/postel/internal/clock"
	"github.com/postel-mail/postel/internal/envelope"
	"github.com/postel-mail/postel/internal/message"
	"github.com/postel-mail/postel/internal/queue"
	"github.com/postel-mail/postel/internal/recode"
	"github.com/postel-mail/postel/internal/status"
	"github.com/postel-mail/postel/internal/sysexits"
)

// Submission says how one message is to be submitted. The Set methods read the words of sendmail's command line; Hostname has to stand before.
type Submission struct {
	Hostname string // completes addresses without a domain
	MaxSize  int64  // octets of a message, as it would be queued
	MaxHops  int    // Received fields

	UID        int            // of the caller
	Sender     address.Path   // of the envelope, complete; the null path stands for itself
	Name       string         // of the author, where the header has no From
	Recipients []address.Path // named by the caller
	FromHeader bool           // and those that the header names
	Notify     string         // RFC 3461, for every recipient: see envelope.Recipient
	Ret, EnvID string         // RFC 3461: see envelope.Envelope
	EightBit   bool           // the caller says that the body is 8BITMIME; it is found out anyway
	EndAtDot   bool           // a line with nothing but a dot ends the message
	Relay      bool           // the message passes through: its header and lines stay as they are
}

// Receipt says what is in the queue.
type Receipt struct {
	ID    string
	Size  int64 // octets
	NRcpt int
}

// ErrNoRecipients says that neither the caller nor the header names a recipient.
var ErrNoRecipients = errors.New("no recipients")

// Submit reads a message from in and queues it in spool. When it returns nil the message is durable; after an error nothing is queued. A message that
// is at fault gives a *status.Error, or an error that exits 65; an input that cannot be read one that exits 74.
func (s *Submission) Submit(spool *queue.Spool, in io.Reader) (*Receipt, error) {
	if len(s.Recipients) == 0 && !s.FromHeader {
		return nil, sysexits.With(sysexits.Usage, ErrNoRecipients)
	}
	lines := message.CRLF(in)
	lines.EndAtDot = s.EndAtDot
	content, err := read(lines, s.MaxSize)
	if err != nil {
		return nil, err
	}
	defer content.Close()
	header, body, err := content.split()
	if err != nil {
		return nil, err
	}
	if n := header.Count("Received"); n > s.MaxHops {
		return nil, status.Permanent(554, "5.4.6", fmt.Sprintf("Too many hops: the message has %d Received fields", n), nil)
	}
	rcpts, err := s.recipients(header)
	if err != nil {
		return nil, err
	}
	e := &envelope.Envelope{From: s.Sender, Ret: s.Ret, EnvID: s.EnvID, Client: "local", UID: s.UID}
	if s.EightBit || lines.EightBit() {
		e.Body = "8BITMIME"
	}
	e.SMTPUTF8 = s.Sender.NeedsUTF8()
	for _, to := range rcpts {
		e.Rcpts = append(e.Rcpts, envelope.Recipient{To: to, Notify: s.Notify})
		e.SMTPUTF8 = e.SMTPUTF8 || to.NeedsUTF8()
	}
	return s.queue(spool, e, header, body, lines)
}

// recipients gives all recipients, complete, each once.
func (s *Submission) recipients(h *message.Header) (rcpts []address.Path, err error) {
	all := s.Recipients
	if s.FromHeader {
		named, err := h.Recipients()
		if err != nil {
			return nil, sysexits.With(sysexits.DataErr, err)
		}
		all = append(all[:len(all):len(all)], named...)
	}
	seen := map[string]bool{}
	for _, p := range all {
		if p, err = s.complete(p); err != nil {
			return nil, sysexits.With(sysexits.DataErr, err)
		}
		if key := p.Key(); !seen[key] {
			seen[key] = true
			rcpts = append(rcpts, p)
		}
	}
	if len(rcpts) == 0 {
		return nil, sysexits.With(sysexits.DataErr, fmt.Errorf("%w in To, Cc or Bcc of the message", ErrNoRecipients))
	}
	return rcpts, nil
}

// queue writes the message into the spool.
func (s *Submission) queue(spool *queue.Spool, e *envelope.Envelope, h *message.Header, body *io.SectionReader, lines *message.LineReader) (*Receipt, error) {
	w, err := spool.Create(e)
	if err != nil {
		return nil, err
	}
	defer w.Abort()
	now := clock.Now()
	plan := &recode.Plan{}
	if !s.Relay {
		h.Complete(s.completion(e.ID, now))
		if lines.Longest() > message.MaxLine || lines.HasNUL() {
			if plan, err = recode.Lines(h, body); err != nil {
				return nil, err
			}
			if _, err := body.Seek(0, io.SeekStart); err != nil {
				return nil, err
			}
		}
	}
	h.Prepend(message.ReceivedField(message.Trace{By: s.Hostname, ID: e.ID, UID: s.UID, Now: now}))
	out := io.Writer(w)
	if lines.HasNUL() {
		out = withoutNUL{w}
	}
	if _, err := h.WriteTo(out); err != nil {
		return nil, err
	}
	if err := plan.Copy(out, body); err != nil {
		return nil, err
	}
	if err := w.Commit(); err != nil {
		return nil, err
	}
	return &Receipt{ID: e.ID, Size: w.Size(), NRcpt: len(e.Rcpts)}, nil
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
