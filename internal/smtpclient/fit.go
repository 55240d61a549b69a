package smtpclient

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/postel-mail/postel/internal/address"
	"github.com/postel-mail/postel/internal/recode"
	"github.com/postel-mail/postel/internal/status"
)

// unfit finds what forbids to send the message to this server at all, and converts what can be.
func (t *transaction) unfit() *status.Error {
	c, e := t.c, t.e
	switch {
	case !c.offers("SMTPUTF8") && e.From.NeedsUTF8():
		return permanent(553, "5.6.7", "The server does not offer SMTPUTF8, which the sender's address needs")
	case !c.offers("SMTPUTF8") && e.SMTPUTF8 && t.message.header:
		return permanent(554, "5.6.9", "The server does not offer SMTPUTF8, which the message's header needs")
	}
	if s := t.convert(); s != nil {
		return s
	}
	if most := c.size(); most > 0 && t.message.length() > most {
		return permanent(552, "5.3.4", fmt.Sprintf("Message is larger than the %d octets that the server takes", most))
	}
	t.utf8 = c.offers("SMTPUTF8") && (e.SMTPUTF8 || e.From.NeedsUTF8())
	for _, r := range t.rcpts {
		t.utf8 = t.utf8 || c.offers("SMTPUTF8") && r.To.NeedsUTF8()
	}
	var ok bool
	if t.from, ok = t.wire(e.From); !ok {
		return permanent(553, "5.1.7", "The sender's address cannot be written for the server")
	}
	return nil
}

// convert makes the message fit for a server without 8BITMIME or BINARYMIME.
func (t *transaction) convert() *status.Error {
	c, m := t.c, &t.message
	mime8 := c.offers("8BITMIME")
	var err error
	lacking := "8BITMIME"
	switch {
	case m.binary && c.offers("BINARYMIME") && c.offers("CHUNKING"):
		return nil
	case m.eight && !mime8:
		err = m.convert(recode.SevenBit)
	case m.binary:
		lacking = "BINARYMIME"
		err = m.convert(recode.EightBit)
	default:
		return nil
	}
	if err == nil && (!m.eight || mime8) {
		return nil
	}
	if err != nil && !errors.Is(err, errLineEnd) && !errors.Is(err, errNUL) {
		return unreadable(err)
	}
	if err == nil && m.header {
		return permanent(554, "5.6.3", "The server does not offer "+lacking+", and the message has octets over 127 in its header, which cannot be converted")
	}
	return permanent(554, "5.6.3", "The server does not offer "+lacking+", and the message, which needs it, cannot be converted")
}

// checkAddresses decides the recipients whose address cannot be written for this server.
func (t *transaction) checkAddresses() {
	t.to = make([]string, len(t.rcpts))
	for i, r := range t.rcpts {
		var ok bool
		t.to[i], ok = t.wire(r.To)
		switch {
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
	return status.Permanent(code, enhanced, text, nil)
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
