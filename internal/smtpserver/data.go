package smtpserver

import (
	"bytes"
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/postel-mail/postel/internal/clock"
	"github.com/postel-mail/postel/internal/message"
	"github.com/postel-mail/postel/internal/status"
)

// Refusals of a message's octets.
var (
	errBareLine = status.Permanent(550, "5.6.0", "Message has a bare CR or LF, lines end in CR LF", nil)
	errNUL      = status.Permanent(550, "5.6.0", "Message has a NUL octet", nil)
	errNoRcpt   = status.Permanent(554, "5.5.1", "No valid recipients", nil)
)

// tooLarge is the answer to a message of more than max octets; cause has what is known of its size.
func tooLarge(max int64, cause error) error {
	return status.Permanent(552, "5.3.4", fmt.Sprintf("Message is larger than the %d octets that this server takes", max), cause)
}

// scanner tells a message from what is around it and from what may not be in it. Only CR LF "." CR LF ends DATA, and
// only CR LF ends a line: a server that is less strict than the next one lets a message be smuggled in another.
type scanner struct {
	dots bool  // DATA: a dot at the start of a line is taken away, or is the end
	cr   bool  // the last octet was a CR, whose LF must come
	mid  bool  // the next octet is not the first of a line
	bad  error // errBareLine or errNUL, once seen
	lax  bool  // a CR or LF that is not part of CRLF is not bad
}

// scan looks at b, of which it uses n octets, among them those of the message, out. done is the end of DATA. With n == 0 and not
// done it needs more behind b, which is less than three octets then.
func (s *scanner) scan(b []byte) (out []byte, n int, done bool) {
	if s.cr && len(b) > 0 {
		s.cr = false
		if s.mid = b[0] != '\n'; s.mid {
			s.bare()
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
			s.bare()
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

func (s *scanner) bare() {
	if !s.lax {
		s.bad = errBareLine
	}
}

// transfer is a message that comes in.
type transfer struct {
	scanner
	lines  *normaliser       // nil: nothing is to be made of bare CR and LF
	binary bool              // RFC 3030: behind the header any octet may come in any place
	header message.HeaderEnd // of a binary one
	intake *intake           // nil when the message was given up
	err    error             // why; the rest is read and thrown away
	size   int64             // octets of the message
	raw    int64             // octets on the wire
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
	if t.lines != nil {
		out = t.lines.put(out)
	}
	t.size += int64(len(out))
	switch {
	case t.bad != nil:
		t.fail(t.bad)
	case t.size > max:
		t.fail(tooLarge(max, nil))
	case t.intake != nil:
		if err := t.intake.write(out); err != nil {
			t.fail(err)
		}
	}
}

// normaliser makes lines with CRLF of what comes: each LF ends one, and each CR that is not part of CRLF goes. A CR in front of CRLF, which is how such octets come about
// most of the time, must not become a line of its own: it could end a header.
type normaliser struct {
	out []byte
	mid bool // the last line has no end
}

// put gives b as it is to be queued, until the next call.
func (n *normaliser) put(b []byte) []byte {
	n.out = n.out[:0]
	for line := range bytes.Lines(b) {
		for text := range bytes.SplitSeq(bytes.TrimSuffix(line, []byte("\n")), []byte("\r")) {
			n.out = append(n.out, text...)
		}
		if line[len(line)-1] == '\n' {
			n.out = append(n.out, "\r\n"...)
		}
	}
	if last := len(n.out) - 1; last >= 0 {
		n.mid = n.out[last] != '\n'
	}
	return n.out
}

// end makes whole lines of a message that came by BDAT, since the next hop may know only DATA.
func (t *transfer) end(max int64) {
	open := t.mid
	switch {
	case t.cr && t.lines == nil:
		t.bad = errBareLine
	case t.lines != nil:
		open = t.lines.mid
	}
	if open {
		t.add([]byte("\r\n"), max)
	}
	if t.bad != nil {
		t.fail(t.bad)
	}
}

// begin opens the queue for the message of the transaction.
func (s *session) begin(dots bool) (*transfer, error) {
	if err := s.greylistNull(); err != nil {
		return nil, err
	}
	in, err := s.newIntake()
	if err != nil {
		return nil, err
	}
	t := &transfer{scanner: scanner{dots: dots}, intake: in, binary: s.env.Body == "BINARYMIME", began: clock.Now()}
	if s.srv.NormaliseNewlines && !t.binary {
		t.lax, t.lines = true, &normaliser{}
	}
	return t, nil
}

// more reads the next octets of a message. The time for it grows with what has come, so that a slow client gets through and a stalling one
// does not. An error has ended the session: what would come next cannot be told from commands.
func (s *session) more(t *transfer) error {
	if t.raw > 2*s.srv.MaxSize+maxSkip {
		s.end("message far too large")
		t.fail(tooLarge(s.srv.MaxSize, nil))
		return t.err
	}
	if t.err != nil && s.guard.Crowded() { // there is no time to read what is refused
		s.end("refused message not read to its end")
		return t.err
	}
	s.guard.Until(t.until())
	if t.raw >= maxCommand {
		s.grow()
	}
	runtime.Gosched() // who sends faster than we read never waits by itself, and the others would
	if err := s.fill(); err != nil {
		s.end("connection lost or stalled within a message")
		t.fail(status.Temporary(451, "4.4.2", "Message was cut off", err))
		return t.err
	}
	return nil
}

// until is when all of the message has to be here, as much as there is of it.
func (t *transfer) until() time.Time {
	return t.began.Add(dataTime + time.Duration(t.raw/dataRate)*time.Second)
}

// inTurn looks at a part of a message, when few do at once: under stress, and where the message is long, so that who floods keeps no short one waiting.
func (s *session) inTurn(t *transfer, look func()) {
	if t.raw >= maxCommand && s.guard.Crowded() {
		turns <- struct{}{}
		defer func() { <-turns }()
	}
	look()
}

var turns = make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2))

func (s *session) doDATA(arg string) error {
	switch {
	case arg != "":
		return s.noData(errArguments)
	case s.env == nil || s.xfer != nil || s.env.Body == "BINARYMIME": // RFC 3030 3
		return s.noData(errSequence)
	case len(s.env.Rcpts) == 0:
		return s.noData(errNoRcpt)
	}
	t, err := s.begin(true)
	if err != nil {
		s.refuseMessage(s.noData(err))
		s.reset()
		return nil
	}
	s.xfer = t
	s.reply(354, "", "End data with <CR><LF>.<CR><LF>")
	for {
		var n int
		var done bool
		s.inTurn(t, func() {
			var out []byte
			out, n, done = t.scan(s.pending())
			s.take(n)
			t.raw += int64(n)
			t.add(out, s.srv.MaxSize)
		})
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
		s.refuseMessage(t.err)
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
			t = &transfer{err: err, binary: s.env != nil && s.env.Body == "BINARYMIME", began: clock.Now()}
		}
	}
	if err := s.chunk(t, size); err != nil || t.err != nil {
		return s.finish(t)
	}
	if !last {
		s.ok("2.0.0", "%d octets received", size)
		return nil
	}
	t.end(s.srv.MaxSize)
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
		s.inTurn(t, func() {
			out, n := b, len(b)
			switch {
			case t.binary && t.err != nil: // thrown away, whatever it is
			case !t.binary:
				out, n, _ = t.scan(b)
			default:
				if head := t.header.Within(b); head > 0 {
					out, n, _ = t.scan(b[:head])
				}
			}
			s.take(n)
			t.raw += int64(n)
			size -= int64(n)
			t.add(out, s.srv.MaxSize)
		})
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
