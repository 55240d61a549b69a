package smtpserver

import (
	"bytes"
	"strconv"
	"strings"
	"time"

	"github.com/postel-mail/postel/internal/clock"
	"github.com/postel-mail/postel/internal/status"
)

// Refusals of a message's octets.
var (
	errBareLine = status.Permanent(550, "5.6.0", "Message has a bare CR or LF, lines end in CR LF", nil)
	errNUL      = status.Permanent(550, "5.6.0", "Message has a NUL octet", nil)
	errNoRcpt   = status.Permanent(554, "5.5.1", "No valid recipients", nil)
)

func tooLarge() error {
	return status.Permanent(552, "5.3.4", "Message is larger than this server takes", nil)
}

// scanner tells a message from what is around it and from what may not be in it. Only CR LF "." CR LF ends DATA, and
// only CR LF ends a line: a server that is less strict than the next one lets a message be smuggled in another.
type scanner struct {
	dots bool  // DATA: a dot at the start of a line is taken away, or is the end
	cr   bool  // the last octet was a CR, whose LF must come
	mid  bool  // the next octet is not the first of a line
	bad  error // errBareLine or errNUL, once seen
}

// scan looks at b, of which it uses n octets, among them those of the message, out. done is the end of DATA. With n == 0 and not
// done it needs more behind b, which is less than three octets then.
func (s *scanner) scan(b []byte) (out []byte, n int, done bool) {
	if s.cr && len(b) > 0 {
		s.cr = false
		if s.mid = b[0] != '\n'; s.mid {
			s.bad = errBareLine
		} else {
			n = 1
		}
	}
	from := 0
	if s.dots && n == 0 && !s.mid && len(b) > 0 && b[0] == '.' {
		if bytes.HasPrefix(b, []byte(".\r\n")) {
			return nil, 3, true
		}
		if bytes.HasPrefix([]byte(".\r\n"), b) {
			return nil, 0, false
		}
		from, n, s.mid = 1, 1, true
	}
	for n < len(b) && !(s.dots && !s.mid && b[n] == '.') {
		line, _, ended := bytes.Cut(b[n:], []byte("\n"))
		text, cr := bytes.CutSuffix(line, []byte("\r"))
		if ended && !cr || bytes.IndexByte(text, '\r') >= 0 {
			s.bad = errBareLine
		}
		s.cr, s.mid = cr && !ended, !cr || !ended
		if n += len(line); ended {
			n++
		}
	}
	out = b[from:n]
	if bytes.IndexByte(out, 0) >= 0 && s.bad == nil {
		s.bad = errNUL
	}
	return out, n, false
}

// transfer is a message that comes in.
type transfer struct {
	scanner
	intake *intake // nil when the message was given up
	err    error   // why; the rest is read and thrown away
	size   int64   // octets of the message
	raw    int64   // octets on the wire
	began  time.Time
}

// abort drops the message.
func (t *transfer) abort() {
	if t.intake != nil {
		t.intake.abort()
		t.intake = nil
	}
}

func (t *transfer) fail(err error) {
	if t.err == nil {
		t.err = err
	}
	t.abort()
}

// add adds octets of the message; max is what it may have.
func (t *transfer) add(out []byte, max int64) {
	t.size += int64(len(out))
	switch {
	case t.bad != nil:
		t.fail(t.bad)
	case t.size > max:
		t.fail(tooLarge())
	case t.intake != nil:
		if err := t.intake.write(out); err != nil {
			t.fail(err)
		}
	}
}

// begin opens the queue for the message of the transaction.
func (s *session) begin(dots bool) (*transfer, error) {
	in, err := s.newIntake()
	if err != nil {
		return nil, err
	}
	return &transfer{scanner: scanner{dots: dots}, intake: in, began: clock.Now()}, nil
}

// more reads the next octets of a message. The time for it grows with what has come, so that a slow client gets through and a stalling one
// does not. An error has ended the session: what would come next cannot be told from commands.
func (s *session) more(t *transfer) error {
	if t.raw > 2*s.srv.MaxSize+maxSkip {
		s.end("message far too large")
		t.fail(tooLarge())
		return t.err
	}
	s.guard.Until(t.began.Add(dataTime + time.Duration(t.raw/dataRate)*time.Second))
	if t.raw >= maxCommand {
		s.grow()
	}
	if err := s.fill(); err != nil {
		s.end("connection lost or stalled within a message")
		t.fail(status.Temporary(451, "4.4.2", "Message was cut off", err))
		return t.err
	}
	return nil
}

func (s *session) doDATA(arg string) error {
	switch {
	case arg != "":
		return errArguments
	case s.env == nil || s.xfer != nil:
		return s.noData(errSequence)
	case len(s.env.Rcpts) == 0:
		return s.noData(errNoRcpt)
	}
	t, err := s.begin(true)
	if err != nil {
		s.refuse(s.noData(err), nil, nil)
		s.reset()
		return nil
	}
	s.xfer = t
	s.reply(354, "", "End data with <CR><LF>.<CR><LF>")
	for {
		out, n, done := t.scan(s.pending())
		s.take(n)
		t.raw += int64(n)
		t.add(out, s.srv.MaxSize)
		if done {
			return s.finish(t)
		}
		if n == 0 {
			if err := s.more(t); err != nil {
				return s.finish(t)
			}
		}
	}
}

// noData refuses DATA. A client that has sent its message already did not wait for 354, as RFC 2920 3.1 demands, and the message must not run
// as commands.
func (s *session) noData(err error) error {
	if len(s.pending()) > 0 {
		s.end("message sent without waiting for 354")
	}
	return err
}

// finish ends the transaction with the message's fate.
func (s *session) finish(t *transfer) error {
	defer s.reset()
	if t.err == nil {
		t.err = s.accept(t.intake)
	}
	if t.bad != nil {
		s.end("message with a bare CR, bare LF or NUL")
	}
	if t.err != nil {
		s.refuse(t.err, nil, nil)
	}
	return nil
}

// doBDAT takes a chunk (RFC 3030). Its octets follow whatever the answer is, so they are read before anything is answered; when their
// number is not known the connection cannot go on.
func (s *session) doBDAT(arg string) error {
	size, last, ok := parseBDAT(arg)
	if !ok {
		s.end("malformed BDAT")
		return syntax("5.5.4", "Syntax: BDAT SIZE [LAST]", nil)
	}
	if size == 0 && !last {
		s.idle++
	}
	t := s.xfer
	if t == nil {
		var err error
		switch {
		case s.env == nil:
			err = errSequence
		case len(s.env.Rcpts) == 0:
			err = errNoRcpt
		default:
			t, err = s.begin(false)
			s.xfer = t
		}
		if err != nil {
			t = &transfer{err: err, began: clock.Now()}
		}
	}
	if err := s.chunk(t, size); err != nil || t.err != nil {
		return s.finish(t)
	}
	if !last {
		s.ok("2.0.0", "%d octets received", size)
		return nil
	}
	if t.cr {
		t.bad = errBareLine
	} else if t.mid {
		t.add([]byte("\r\n"), s.srv.MaxSize) // a message is whole lines, and the next hop may know only DATA
	}
	if t.bad != nil {
		t.fail(t.bad)
	}
	return s.finish(t)
}

// chunk reads the octets of one BDAT.
func (s *session) chunk(t *transfer, size int64) error {
	for size > 0 {
		b := s.pending()
		if len(b) == 0 {
			if err := s.more(t); err != nil {
				return err
			}
			continue
		}
		b = b[:min(int64(len(b)), size)]
		out, n, _ := t.scan(b)
		s.take(n)
		t.raw += int64(n)
		size -= int64(n)
		t.add(out, s.srv.MaxSize)
	}
	return nil
}

// parseBDAT reads "SIZE" or "SIZE LAST".
func parseBDAT(arg string) (size int64, last, ok bool) {
	digits, rest, _ := strings.Cut(arg, " ")
	if last = strings.EqualFold(rest, "LAST"); rest != "" && !last {
		return 0, false, false
	}
	if digits == "" || strings.Trim(digits, "0123456789") != "" {
		return 0, false, false
	}
	size, err := strconv.ParseInt(digits, 10, 64)
	return size, last, err == nil
}
