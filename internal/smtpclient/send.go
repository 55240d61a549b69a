package smtpclient

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/postel-mail/postel/internal/address"
	"github.com/postel-mail/postel/internal/envelope"
	"github.com/postel-mail/postel/internal/status"
)

// groupSize is how many octets of commands are written before their replies are read. It is less than any socket buffer holds, so
// that client and server never both wait for the other to read (RFC 2920 3.1).
const groupSize = 8 << 10

// Outcome is what became of one recipient.
type Outcome struct {
	Err  *status.Error // nil: the server has taken the message for that recipient
	Code int           // of the server's reply that decided; 0 where the judgement is this side's
	Text string        // of that reply when it was a yes, one clean line
	// Unsent says that the session broke before any of the message was sent: another session may be tried at once.
	Unsent bool
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

// Send hands over one message for some of its recipients in one transaction, and gives an outcome for each, in their order, equal ones
// included. Whether the session can go on afterwards says Usable.
//
// When ctx ends the connection is closed and the message counts as not sent, except once the end of the message is on its way: then the
// server may have taken it already, and its answer is awaited for up to 30 seconds more.
//
// What the server cannot take fails for good without asking it: a message over its SIZE (552 5.3.4), an address or header that needs SMTPUTF8
// (5.6.7, 5.6.9), and octets over 127 where there is no 8BITMIME (554 5.6.3): RFC 6152 3 forbids to send them all the same, and leaves
// conversion, which this package does not have, or the return of the message. To wait would not help.
func (c *Client) Send(ctx context.Context, e *envelope.Envelope, rcpts []envelope.Recipient, body *io.SectionReader) []Outcome {
	defer c.watch(ctx)()
	t := &transaction{c: c, e: e, rcpts: rcpts, out: make([]Outcome, len(rcpts)), decided: make([]bool, len(rcpts)),
		message: content{body: body, block: make([]byte, min(blockSize, max(body.Size(), 1)))}}
	t.run()
	return t.out
}

// transaction is one MAIL, its RCPTs and DATA.
type transaction struct {
	c        *Client
	e        *envelope.Envelope
	rcpts    []envelope.Recipient
	out      []Outcome
	decided  []bool
	message  content
	utf8     bool  // MAIL says SMTPUTF8
	asked    []int // indexes of the recipients that got a RCPT
	accepted []int // those to which the server said yes
	yes      int   // RCPTs that got 2xx, after a refused MAIL too
}

func (t *transaction) run() {
	if err := t.message.scan(); err != nil {
		t.fail(status.Temporary(451, "4.3.0", "Queued message cannot be read", fmt.Errorf("smtpclient: %w", err)), 0, false)
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
	if t.c.begun {
		if s := t.c.reset(); s != nil {
			t.broken(s, true)
			return
		}
	}
	t.c.sent++
	goAhead, s := t.envelope()
	if s == nil && goAhead && t.c.r.Buffered() > 0 {
		s = t.c.lost("DATA", malformed("text behind the go-ahead")) // it would be taken for the answer to the message
	}
	switch {
	case s != nil:
		t.broken(s, true)
	case goAhead && len(t.accepted) > 0:
		t.data()
	case goAhead:
		t.nothing()
	}
}

// fail decides all recipients that are not decided yet.
func (t *transaction) fail(s *status.Error, code int, unsent bool) {
	for i := range t.out {
		if !t.decided[i] {
			t.decide(i, Outcome{Err: s, Code: code, Unsent: unsent})
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

// unfit finds what forbids to send the message to this server at all.
func (t *transaction) unfit() *status.Error {
	c, e := t.c, t.e
	mime8 := c.offers("8BITMIME")
	utf8Content := e.SMTPUTF8 && t.message.header
	switch most := c.size(); {
	case most > 0 && t.message.body.Size() > most:
		return permanent(552, "5.3.4", fmt.Sprintf("Message is larger than the %d octets that the server takes", most))
	case !c.offers("SMTPUTF8") && e.From.NeedsUTF8():
		return permanent(553, "5.6.7", "The server does not offer SMTPUTF8, which the sender's address needs")
	case !c.offers("SMTPUTF8") && utf8Content:
		return permanent(554, "5.6.9", "The server does not offer SMTPUTF8, which the message's header needs")
	case t.message.eight && !mime8:
		return permanent(554, "5.6.3", "The server does not offer 8BITMIME, and the message, which needs it, cannot be converted")
	case e.Body == "BINARYMIME":
		return permanent(554, "5.6.3", "The message is BINARYMIME, which cannot be sent on")
	}
	t.utf8 = c.offers("SMTPUTF8") && (e.SMTPUTF8 || e.From.NeedsUTF8())
	for _, r := range t.rcpts {
		t.utf8 = t.utf8 || c.offers("SMTPUTF8") && r.To.NeedsUTF8()
	}
	if _, ok := t.wire(e.From); !ok {
		return permanent(553, "5.1.7", "The sender's address cannot be written for the server")
	}
	return nil
}

// checkAddresses decides the recipients whose address cannot be written for this server.
func (t *transaction) checkAddresses() {
	for i, r := range t.rcpts {
		switch _, ok := t.wire(r.To); {
		case r.To.NeedsUTF8() && !t.utf8:
			t.decide(i, Outcome{Err: permanent(553, "5.6.7", "The server does not offer SMTPUTF8, which the address needs")})
		case !ok || r.To.IsNull():
			t.decide(i, Outcome{Err: permanent(553, "5.1.3", "The address cannot be written for the server")})
		default:
			t.asked = append(t.asked, i)
		}
	}
}

func permanent(code int, enhanced, text string) *status.Error {
	return status.Permanent(code, enhanced, text, errors.New("smtpclient: "+text))
}

// wire writes an address for this transaction: with A-labels unless it has SMTPUTF8. ok is false when it cannot stand in a command.
func (t *transaction) wire(p address.Path) (s string, ok bool) {
	if !t.utf8 {
		p = p.ASCII()
	}
	s = p.Angle()
	for i := range len(s) {
		if s[i] < ' ' || s[i] == 0x7f {
			return "", false
		}
	}
	return s, t.utf8 || p.IsASCII()
}

// size is the largest message that the server takes, in octets; 0 is unknown or unlimited (RFC 1870 4).
func (c *Client) size() int64 {
	n, err := strconv.ParseInt(strings.TrimSpace(c.ext["SIZE"]), 10, 64)
	if err != nil || n < 0 {
		return 0
	}
	return n
}

// mail writes the MAIL command.
func (t *transaction) mail() string {
	c, e := t.c, t.e
	from, _ := t.wire(e.From)
	line := "MAIL FROM:" + from
	if c.offers("SIZE") {
		line += " SIZE=" + strconv.FormatInt(t.message.body.Size(), 10)
	}
	if t.message.eight {
		line += " BODY=8BITMIME"
	}
	if t.utf8 {
		line += " SMTPUTF8"
	}
	if c.DSN() {
		if e.Ret == "FULL" || e.Ret == "HDRS" {
			line += " RET=" + e.Ret
		}
		if e.EnvID != "" {
			line += " ENVID=" + envelope.EncodeXtext(e.EnvID)
		}
	}
	return line
}

// rcpt writes one RCPT command.
func (t *transaction) rcpt(i int) string {
	r := t.rcpts[i]
	to, _ := t.wire(r.To)
	line := "RCPT TO:" + to
	if t.c.DSN() {
		if notify, err := envelope.ParseNotify(r.Notify); err == nil {
			line += " NOTIFY=" + notify
		}
		if kind, addr, ok := strings.Cut(r.ORcpt, ";"); ok {
			line += " ORCPT=" + envelope.EncodeXtext(kind) + ";" + envelope.EncodeXtext(addr)
		}
	}
	return line
}

// envelope sends MAIL, RCPTs and DATA, in groups where the server allows it, and reads the replies. goAhead says that the server
// waits for a message, also when it has accepted no recipient.
func (t *transaction) envelope() (goAhead bool, s *status.Error) {
	c := t.c
	most := 0 // without PIPELINING each group is one command
	if c.offers("PIPELINING") {
		most = groupSize
	}
	data := len(t.asked) + 1 // commands: 0 MAIL, 1 to len(asked) RCPT, data DATA
	for next := 0; next <= data; {
		first, octets := next, 0
		for next <= data && (next == first || octets < most) {
			line := t.commandLine(next)
			octets += len(line)
			_, _ = c.w.WriteString(line) // an error stays in the writer until Flush
			next++
		}
		if err := c.w.Flush(); err != nil {
			return false, c.lost("envelope", err)
		}
		for i := first; i < next; i++ {
			if goAhead, s = t.answer(i, data); s != nil {
				return false, s
			}
		}
		if next <= data && t.settled() {
			return false, nil // nobody is left to send it to
		}
	}
	return goAhead, nil
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

func (t *transaction) commandLine(n int) string {
	switch {
	case n == 0:
		return t.mail() + "\r\n"
	case n <= len(t.asked):
		return t.rcpt(t.asked[n-1]) + "\r\n"
	}
	return "DATA\r\n"
}

// answer reads the reply to the n-th command.
func (t *transaction) answer(n, data int) (goAhead bool, s *status.Error) {
	c, doing, limit := t.c, "RCPT", t.c.t.command
	switch n {
	case 0:
		doing = "MAIL"
	case data:
		doing, limit = "DATA", c.t.data
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

// data sends the message and reads the answers to it: one, or by LMTP one for each accepted recipient, in their order (RFC 2033 4.2).
func (t *transaction) data() {
	c := t.c
	if s, code := t.content(); s != nil {
		t.fail(s, code, false)
		return
	}
	for rest := t.accepted; len(rest) > 0; {
		n := len(rest)
		if c.o.LMTP {
			n = 1
		}
		rep, s := c.await("end of data", c.t.final)
		if s == nil && !rep.ok() && !rep.failed() {
			s = c.lost("end of data", malformed("%d is no answer to it", rep.code))
		}
		if s != nil {
			t.broken(s, false)
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
		rest = rest[n:]
	}
	c.begun = false
	c.setFinal(false)
}

// content sends the message to its final dot. After a failure the connection is closed, so that the server cannot take what it has for the
// whole.
func (t *transaction) content() (s *status.Error, code int) {
	c := t.c
	w := stuffer{w: c.w}
	err := t.message.each(w.write)
	if err == nil {
		if c.setFinal(true) {
			return c.lost("message content", context.Canceled), 0
		}
		err = w.end()
	}
	if err == nil {
		err = c.w.Flush()
	}
	switch {
	case err == nil:
		return nil, 0
	case c.unwritten == nil: // the message is at fault, or its file
		c.Close()
		return status.Temporary(451, "4.3.0", "Queued message cannot be read", fmt.Errorf("smtpclient: %w", err)), 0
	case !c.o.LMTP: // a server that closes in the middle has often said why
		c.arm(c.t.bye)
		if rep, e := readReply(c.r); e == nil && rep.failed() {
			c.Close()
			return rep.status(), rep.code
		}
	}
	return c.lost("message content", err), 0
}
