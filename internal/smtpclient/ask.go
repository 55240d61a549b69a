package smtpclient

import (
	"context"

	"github.com/postel-mail/postel/internal/address"
	"github.com/postel-mail/postel/internal/envelope"
	"github.com/postel-mail/postel/internal/status"
)

// Ask asks whether the server would take a message from the null sender for that recipient, and sends none: MAIL, RCPT, RSET. An outcome without Err is a
// yes. What the server says of MAIL is never a word about the recipient, and so temporary. When ctx ends the connection is closed.
func (c *Client) Ask(ctx context.Context, to address.Path) Outcome {
	defer c.watch(ctx)()
	t := &transaction{c: c, e: &envelope.Envelope{}, rcpts: []envelope.Recipient{{To: to}}, out: make([]Outcome, 1), decided: make([]bool, 1),
		utf8: c.offers("SMTPUTF8") && to.NeedsUTF8(), from: "<>"}
	if t.checkAddresses(); t.decided[0] {
		return t.out[0]
	}
	if c.begun {
		if s := c.reset(); s != nil {
			return Outcome{Err: s, Unsent: true}
		}
	}
	c.sent++
	mail := "MAIL FROM:<>"
	if t.utf8 {
		mail += " SMTPUTF8"
	}
	rep, s := c.command("MAIL", mail)
	switch {
	case s != nil:
		return Outcome{Err: s, Unsent: true}
	case !rep.ok():
		return Outcome{Err: refused("MAIL", rep)}
	}
	c.begun = true
	if rep, s = c.command("RCPT", "RCPT TO:"+t.to[0]); s != nil {
		return Outcome{Err: s, Unsent: true}
	}
	_ = c.reset() // the answer is there
	if rep.ok() {
		return Outcome{Code: rep.code, Text: rep.text()}
	}
	if !rep.failed() {
		return Outcome{Err: status.Temporary(451, "4.5.0", "The server broke the protocol at RCPT", nil)}
	}
	return Outcome{Err: rep.status(), Code: rep.code}
}
