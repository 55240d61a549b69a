package smtpserver

import (
	"bufio"
	"bytes"
	"io"

	"github.com/postel-mail/postel/internal/address"
	"github.com/postel-mail/postel/internal/clock"
	"github.com/postel-mail/postel/internal/maillog"
	"github.com/postel-mail/postel/internal/message"
	"github.com/postel-mail/postel/internal/queue"
	"github.com/postel-mail/postel/internal/status"
)

// intake is a message on its way into the queue, in one line: trace field, header, body. The exchanger passes the header on octet by octet;
// the submission server holds it, bounded, to complete it (RFC 6409 8).
type intake struct {
	s      *session
	w      *queue.Writer
	passed headerScan   // exchanger: the header so far
	header bytes.Buffer // submission: the header so far
	body   bool         // submission: the header is behind us
}

// newIntake begins the message of the transaction, with the field that says how it came here (RFC 5321 4.4).
func (s *session) newIntake() (*intake, error) {
	w, err := s.srv.Spool.Create(s.env)
	if err != nil {
		return nil, err
	}
	t := message.Trace{By: s.srv.Hostname, With: s.keyword(), TLS: s.cipher(), ID: w.ID(), UID: s.env.UID, Now: clock.Now()}
	if !s.srv.Submission { // where a user sits is nobody else's business
		t.Helo, t.Client, t.Name = s.helo, s.guard.Client(), s.client.Verdict().Name
	}
	if len(s.env.Rcpts) == 1 { // with more it would tell one of the others
		t.For = s.env.Rcpts[0].To
	}
	if _, err := w.Write(message.ReceivedField(t)); err != nil {
		w.Abort()
		return nil, err
	}
	return &intake{s: s, w: w}, nil
}

// write adds octets of the message.
func (in *intake) write(p []byte) error {
	if !in.s.srv.Submission {
		if err := in.passed.write(p, in.s.srv.MaxHops); err != nil {
			return err
		}
	} else if !in.body {
		from := max(0, in.header.Len()-3)
		in.header.Write(p)
		h := in.header.Bytes()
		if bytes.HasPrefix(h, []byte("\r\n")) || bytes.Contains(h[from:], []byte("\r\n\r\n")) || len(h) > message.MaxHeader {
			return in.complete()
		}
		return nil
	}
	_, err := in.w.Write(p)
	return err
}

// complete writes the header that was held back, with what it lacked.
func (in *intake) complete() error {
	in.body = true
	r := bufio.NewReader(&in.header)
	h, err := message.ReadHeader(r, message.MaxHeader)
	if err != nil {
		return err
	}
	if h.Count("Received") > in.s.srv.MaxHops {
		return errLoop
	}
	from := in.s.env.From
	if from.IsNull() {
		from = address.Path{Local: "MAILER-DAEMON", Domain: in.s.srv.Hostname}
	}
	h.Complete(message.Completion{Hostname: in.s.srv.Hostname, From: from, Now: clock.Now(), ID: in.w.ID(), QualifyBare: true})
	if _, err := h.WriteTo(in.w); err != nil {
		return err
	}
	_, err = io.Copy(in.w, r)
	in.header = bytes.Buffer{}
	return err
}

func (in *intake) abort() { in.w.Abort() }

// accept puts the message into the queue and says so.
func (s *session) accept(in *intake) error {
	defer in.abort()
	if s.srv.Submission && !in.body {
		if err := in.complete(); err != nil {
			return err
		}
	}
	if err := s.count(); err != nil { // meanwhile other sessions of the user may have sent
		return err
	}
	if err := in.w.Commit(); err != nil {
		s.uncount()
		return err
	}
	s.errors, s.idle = 0, 0
	s.client.Accepted()
	s.srv.Log.Accepted(maillog.Accepted{ID: s.env.ID, From: s.env.From, Size: in.w.Size(), NRcpt: len(s.env.Rcpts),
		Client: s.env.Client, Proto: s.keyword(), Auth: s.login, UID: s.env.UID})
	s.ok("2.0.0", "Ok: queued as %s", s.env.ID)
	return nil
}

// errLoop is RFC 5321 6.3 and RFC 3463's "routing loop detected".
var errLoop = status.Permanent(554, "5.4.6", "Too many hops, the message loops", nil)

// headerScan looks at a header that passes by: how many hops it tells of, and whether it is too large for the programs behind us. For them it ends where
// message.ReadHeader finds its end, at an empty line or at one that cannot be a header's. Hops are counted up to the empty line: a loop may put such a line, as the
// "From " of an mbox, above what it sends on.
type headerScan struct {
	start    []byte // of the current line, as much as is needed to know whether it is the header's
	size     int
	received int
	body     bool // for the programs behind us
	over     bool
}

func (h *headerScan) write(p []byte, maxHops int) error {
	for len(p) > 0 && !h.over {
		line := p
		i := bytes.IndexByte(p, '\n')
		if i >= 0 {
			line = p[:i+1]
		}
		p = p[len(line):]
		h.start = append(h.start, line[:min(len(line), message.MaxName-len(h.start))]...)
		if (i >= 0 || len(h.start) == message.MaxName) && !message.InHeader(h.start) {
			h.body = true
		}
		if !h.body {
			h.size += len(line)
		}
		if i < 0 {
			break
		}
		if message.Field(h.start).Is("Received") {
			h.received++
		}
		h.over = string(h.start) == "\r\n"
		h.start = h.start[:0]
	}
	switch {
	case h.received > maxHops:
		return errLoop
	case h.size > message.MaxHeader:
		return status.Permanent(552, "5.3.4", "Message header is too large", nil)
	}
	return nil
}
