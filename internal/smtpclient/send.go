package smtpclient

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/postel-mail/postel/internal/envelope"
	"github.com/postel-mail/postel/internal/status"
)

// groupSize is how many octets of commands are written before their replies are read. It is less than any socket buffer holds, so
// that client and server never both wait for the other to read (RFC 2920 3.1).
const groupSize = 8 << 10

// maxFlight is the most recipients of a message that goes out with its envelope, before the server has said anything: few enough that the replies to
// them fit into any socket buffer.
const maxFlight = 10

// Outcome is what became of one recipient.
type Outcome struct {
	Err  *status.Error // nil: the server has taken the message for that recipient
	Code int           // of the server's reply that decided; 0 where the judgement is this side's
	Text string        // of that reply when it was a yes, one clean line
	// Unsent says that the session broke before any of the message was sent: another session may be tried at once.
	Unsent bool
	// Twice says that the server may have taken the message, since its answer to the end of it did not come. Err says so too.
	Twice bool
}

// Fit is how many of the recipients, from the first, the server takes in one transaction (RFC 9422). It is at least 1.
func (c *Client) Fit(rcpts []envelope.Recipient) int {
	most, domains := c.limit("RCPTMAX"), c.limit("RCPTDOMAINMAX")
	if most == 0 || most > len(rcpts) {
		most = len(rcpts)
	}
	if domains == 0 {
		return most
	}
	seen := map[string]bool{}
	for i, r := range rcpts[:most] {
		seen[strings.ToLower(r.To.Domain)] = true
		if len(seen) > domains {
			return i
		}
	}
	return most
}

// Mail is a message for some recipients.
type Mail struct {
	Envelope *envelope.Envelope
	Rcpts    []envelope.Recipient // of the envelope
	Body     *io.SectionReader    // header and body, with CRLF line ends
	// Again says that the message has been tried before. Then no CHUNKING is used that need not be: what broke the first attempt may be a server,
	// or something in front of it, that does not do what it offers.
	Again bool
}

// Send hands over one message for some of its recipients in one transaction, and gives an outcome for each, in their order, equal ones
// included. Whether the session can go on afterwards says Usable.
//
// When ctx ends the connection is closed and the message counts as not sent, except once the end of the message is on its way: then the
// server may have taken it already, and its answer is awaited for up to 30 seconds more.
//
// What the server cannot take fails for good without asking it: a message over its SIZE (552 5.3.4), an address or header that needs SMTPUTF8
// (5.6.7, 5.6.9), and what package recode cannot convert, where there is no 8BITMIME or BINARYMIME (554 5.6.3): RFC 6152 3 forbids to send
// octets over 127 all the same, in the header too.
//
// Where the server has CHUNKING and PIPELINING, a message of up to 64 KiB for up to 10 recipients goes out in one flight with its envelope. That saves
// a round trip for each message; where the server wants none of the recipients it has cost the transfer of a message that takes about as long.
func (c *Client) Send(ctx context.Context, m Mail) []Outcome {
	defer c.watch(ctx)()
	defer c.setFinal(false)
	t := &transaction{c: c, e: m.Envelope, rcpts: m.Rcpts, again: m.Again, out: make([]Outcome, len(m.Rcpts)), decided: make([]bool, len(m.Rcpts)),
		message: content{body: m.Body, block: make([]byte, min(blockSize, max(m.Body.Size(), 1))), binary: m.Envelope.Body == "BINARYMIME"}}
	t.run()
	return t.out
}

// transaction is one MAIL, its RCPTs, and DATA or BDAT.
type transaction struct {
	c        *Client
	e        *envelope.Envelope
	rcpts    []envelope.Recipient
	again    bool
	out      []Outcome
	decided  []bool
	message  content
	from     string   // the sender's address and
	to       []string // the recipients', as they are written
	utf8     bool     // MAIL says SMTPUTF8
	bdat     bool     // the message goes by BDAT,
	flight   bool     // and at once with the envelope
	unsaid   bool     // of a flight, the end could not be written
	doubt    bool     // who is not decided may have the message
	asked    []int    // indexes of the recipients that got a RCPT
	accepted []int    // those to which the server said yes
	yes      int      // RCPTs that got 2xx, after a refused MAIL too
}

func (t *transaction) run() {
	if err := t.message.scan(); err != nil {
		t.fail(unreadable(err), 0, false)
		return
	}
	if s := t.unfit(); s != nil {
		t.fail(s, 0, false)
		return
	}
	t.checkAddresses()
	if len(t.asked) == 0 {
		return
	}
	c := t.c
	if c.begun {
		if s := c.reset(); s != nil {
			t.broken(s, true)
			return
		}
	}
	t.choose()
	if t.flight && c.sent > 0 && !c.quiet() {
		t.broken(c.lost("MAIL", errEnded), true)
		return
	}
	c.sent++
	goAhead, s := t.envelope()
	if s == nil && goAhead && !t.flight && c.r.Buffered() > 0 {
		s = c.lost("DATA", malformed("text behind the go-ahead")) // it would be taken for the answer to the message
	}
	switch {
	case s != nil && t.flight && s.Code != 421:
		t.broken(t.twice(s), t.unsaid)
	case s != nil:
		t.broken(s, true)
	case t.flight:
		t.answers()
	case goAhead && len(t.accepted) > 0:
		t.data()
	case goAhead:
		t.nothing()
	}
}

// errEnded is a session that the server has left.
var errEnded = errors.New("the server has ended the session")

func unreadable(err error) *status.Error {
	return status.Temporary(451, "4.3.0", "Queued message cannot be read", fmt.Errorf("smtpclient: %w", err))
}

// twice is the outcome of a message that the server has whole, as far as can be known, without having said whether it takes it.
func (t *transaction) twice(s *status.Error) *status.Error {
	if !t.unsaid {
		s.Text += "; it may arrive twice"
		t.doubt = true
	}
	return s
}

// choose decides between DATA and BDAT.
func (t *transaction) choose() {
	c, m := t.c, &t.message
	chunking, pipelining := c.offers("CHUNKING") && !t.again, c.offers("PIPELINING")
	t.flight = chunking && pipelining && m.whole && len(t.asked) <= maxFlight
	t.bdat = t.flight || m.binary || chunking && !pipelining // which saves the 354
}

// fail decides all recipients that are not decided yet.
func (t *transaction) fail(s *status.Error, code int, unsent bool) {
	for i := range t.out {
		if !t.decided[i] {
			t.decide(i, Outcome{Err: s, Code: code, Unsent: unsent, Twice: t.doubt})
		}
	}
}

// broken decides all recipients that are not decided yet: the session ended.
func (t *transaction) broken(s *status.Error, unsent bool) {
	code := 0
	if s.Code == 421 {
		code = s.Code // the server's own word, the only way that 421 gets here
	}
	t.fail(s, code, unsent)
}

func (t *transaction) decide(i int, o Outcome) { t.out[i], t.decided[i] = o, true }

// envelope sends MAIL, RCPTs and DATA, in groups where the server allows it, and reads the replies. A flight is one group, with the message at
// its end. goAhead says that the server waits for a message, by DATA also when it has accepted no recipient.
func (t *transaction) envelope() (goAhead bool, s *status.Error) {
	c := t.c
	most := 0 // without PIPELINING each group is one command
	if c.offers("PIPELINING") {
		most = groupSize
	}
	last := len(t.asked) // commands: 0 MAIL, 1 to len(asked) RCPT, then DATA
	if !t.bdat {
		last++
	}
	for next := 0; next <= last; {
		first, octets := next, 0
		for next <= last && (next == first || octets < most || t.flight) {
			line := t.appendCommand(c.w.AvailableBuffer(), next)
			octets += len(line)
			_, _ = c.w.Write(line) // an error stays in the writer until Flush
			next++
		}
		if s := t.flush(); s != nil {
			return false, s
		}
		for i := first; i < next; i++ {
			if goAhead, s = t.answer(i); s != nil {
				return false, s
			}
		}
		if next <= last && t.settled() {
			return false, nil // nobody is left to send it to
		}
	}
	return goAhead || t.bdat && !t.settled(), nil
}

// flush writes a group of commands, of a flight the message behind them too.
func (t *transaction) flush() *status.Error {
	c := t.c
	if !t.flight {
		if err := c.w.Flush(); err != nil {
			return c.lost("envelope", err)
		}
		return nil
	}
	if c.setFinal(true) {
		t.unsaid = true
		return c.lost("envelope", context.Canceled)
	}
	_, _ = c.w.Write(t.appendBDAT(c.w.AvailableBuffer()))
	_, _ = c.w.Write(t.message.block[:t.message.size])
	if t.message.length() > t.message.size {
		_, _ = c.w.WriteString("\r\n")
	}
	t.unsaid = c.w.Flush() != nil // the server may have said why
	return nil
}

// settled reports whether every recipient has its outcome.
func (t *transaction) settled() bool {
	for _, d := range t.decided {
		if !d {
			return false
		}
	}
	return true
}

// answer reads the reply to the n-th command.
func (t *transaction) answer(n int) (goAhead bool, s *status.Error) {
	c, doing, limit := t.c, "RCPT", t.c.t.command
	data := len(t.asked) + 1
	switch n {
	case 0:
		doing = "MAIL"
	case data:
		doing, limit = "DATA", c.t.data
	}
	if t.flight {
		limit = t.patience() // a server may keep its replies until it has all
	}
	rep, s := c.await(doing, limit)
	if s != nil {
		return false, s
	}
	want := 2
	if n == data {
		want = 3
	}
	if rep.code/100 != want && !rep.failed() {
		return false, c.lost(doing, malformed("%d is no answer to it", rep.code))
	}
	switch {
	case n == 0:
		if c.begun = rep.ok(); rep.failed() {
			t.fail(rep.status(), rep.code, false)
		}
	case n == data:
		if rep.failed() {
			t.fail(rep.status(), rep.code, false)
		}
		return !rep.failed(), nil
	case rep.failed():
		if i := t.asked[n-1]; !t.decided[i] {
			t.decide(i, Outcome{Err: t.rcptStatus(rep), Code: rep.code})
		}
	default:
		t.yes++
		c.begun = true
		if i := t.asked[n-1]; !t.decided[i] {
			t.accepted = append(t.accepted, i)
		}
	}
	return false, nil
}

// rcptStatus is the outcome of a refused RCPT. 552 for too many recipients was RFC 821's slip; it counts as 452 (RFC 5321 4.5.3.1.10).
func (t *transaction) rcptStatus(rep reply) *status.Error {
	s := rep.status()
	if rep.code == 552 && (s.Enhanced == "5.5.3" || s.Enhanced == "5.0.0" && len(t.accepted) > 0) {
		s.Code, s.Enhanced = 452, "4.5.3"
	}
	return s
}

// nothing ends a DATA that the server accepted although nobody is to get the message: by a lone dot, as RFC 2920 3.1 has it. When the server
// said yes to a recipient, a dot could make it deliver an empty message, and an LMTP server that said yes to none will not answer: then the
// connection is closed.
func (t *transaction) nothing() {
	c := t.c
	if t.yes > 0 || c.o.LMTP {
		c.Close()
		return
	}
	if _, s := c.command("end of data", "."); s == nil {
		c.begun = false
	}
}

// data sends the message and reads the answers to it.
func (t *transaction) data() {
	if s, code := t.content(); s != nil {
		t.fail(s, code, false)
		return
	}
	t.answers()
}

// answers reads what the server says to a message that it has whole: one reply, or by LMTP one for each accepted recipient, in their
// order (RFC 2033 4.2).
func (t *transaction) answers() {
	c := t.c
	if len(t.accepted) == 0 { // a flight that nobody wants: every command has a reply, by LMTP too
		if rep, s := c.await("end of data", t.patience()); s == nil && rep.ok() {
			c.begun = false
		}
		return
	}
	refused := t.bdat // RFC 3030 2: then only RSET brings back a known state
	for rest := t.accepted; len(rest) > 0; {
		n := len(rest)
		if c.o.LMTP {
			n = 1
		}
		rep, s := t.verdict()
		if s != nil {
			t.broken(s, t.unsaid)
			return
		}
		for _, i := range rest[:n] {
			o := Outcome{Code: rep.code}
			if rep.failed() {
				o.Err = rep.status()
			} else {
				o.Text = rep.text()
			}
			t.decide(i, o)
		}
		refused = refused && rep.failed()
		rest = rest[n:]
	}
	c.begun = refused
}

// patience is how long the answer to a message may take: not long when its end could not be written.
func (t *transaction) patience() time.Duration {
	if t.unsaid {
		return t.c.t.bye
	}
	return t.c.t.final
}

// verdict reads one answer to the message.
func (t *transaction) verdict() (reply, *status.Error) {
	c := t.c
	rep, s := c.await("end of data", t.patience())
	switch {
	case s != nil && s.Code == 421:
		return rep, s
	case s != nil:
		return rep, t.twice(s)
	case !rep.ok() && !rep.failed():
		return rep, t.twice(c.lost("end of data", malformed("%d is no answer to it", rep.code)))
	case t.bdat && rep.code >= 500 && rep.code <= 504: // it has accepted recipients, so this is not about the message
		return rep, c.lost("BDAT", malformed("%d %s", rep.code, rep.text()))
	}
	return rep, nil
}

// content sends the message to its end. After a failure the connection is closed, so that the server cannot take what it has for the
// whole.
func (t *transaction) content() (s *status.Error, code int) {
	c := t.c
	err := t.write()
	if err == nil {
		err = c.w.Flush()
	}
	switch {
	case err == nil:
		return nil, 0
	case errors.Is(err, context.Canceled):
		return c.lost("message content", err), 0
	case c.unwritten == nil: // the message is at fault, or its file
		c.Close()
		return unreadable(err), 0
	case !c.o.LMTP: // a server that closes in the middle has often said why
		c.due = c.t.bye
		if rep, e := readReply(c.r); e == nil && rep.failed() {
			c.Close()
			return rep.status(), rep.code
		}
	}
	return c.lost("message content", err), 0
}

// write puts the message with its end into the writer.
func (t *transaction) write() error {
	final := func() error {
		if t.c.setFinal(true) {
			return context.Canceled
		}
		return nil
	}
	m := &t.message
	if t.bdat {
		if _, err := t.c.w.Write(t.appendBDAT(nil)); err != nil {
			return err
		}
		w := chunk{w: t.c.w, left: m.length(), last: final, lines: lineChecker{any: m.binary}}
		if err := m.each(w.write); err != nil {
			return err
		}
		return w.end(m.length() - m.size)
	}
	w := stuffer{w: t.c.w, known: m.whole}
	err := m.each(w.write)
	if err == nil {
		err = final()
	}
	if err == nil {
		err = w.end()
	}
	return err
}
