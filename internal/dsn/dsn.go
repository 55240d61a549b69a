// Package dsn writes delivery status notifications: RFC 3464 reports in the multipart/report of RFC 6522, with the international forms
// of RFC 6533 where the sender's own address needs SMTPUTF8. When one is due, and to whom, is the runner's affair (RFC 3461).
//
// A report is plain ASCII wherever it can be, so that every server can take it: what is not is encoded, in all parts that may be. Only a whole message that
// is not ASCII goes back as it is, which MIME wants (RFC 2046 5.2.1), and makes the report 8BITMIME. Left out are reports of gateways.
package dsn

import (
	"fmt"
	"hash/fnv"
	"io"
	"time"

	"github.com/postel-mail/postel/internal/address"
	"github.com/postel-mail/postel/internal/envelope"
	"github.com/postel-mail/postel/internal/message"
	"github.com/postel-mail/postel/internal/status"
)

// Action is what happened to a recipient, in the word of RFC 3464 2.3.3.
type Action string

// The actions postel reports.
const (
	Failed    Action = "failed"
	Delayed   Action = "delayed"
	Delivered Action = "delivered"
	Relayed   Action = "relayed"  // handed to a peer that gives no reports
	Expanded  Action = "expanded" // sent on to several addresses, of whose success nothing is told
)

// Report is one notification about some recipients of one message, all with the same action. About a message from the null path, which has
// failed, it goes to postmaster: it tells of what could not be returned to anybody, and is called a double bounce.
type Report struct {
	Hostname string             // of the reporting MTA
	Action   Action             // what happened; of a message from the null path always Failed
	Message  *envelope.Envelope // the message's envelope
	Rcpts    []Recipient
	Until    time.Time     // Delayed: when it will be given up
	Now      time.Time     // the report's Date
	Original io.ReadSeeker // the message
	Size     int64         // of it, in octets
}

// Recipient is what the report says of one recipient.
type Recipient struct {
	envelope.Recipient
	Err     *status.Error // the answer; nil for success
	Relay   string        // who was asked: "host[address]:port", "pipe", or "" for nobody
	Said    bool          // the answer is in that host's own words
	Attempt time.Time     // of the last attempt
}

// doubleBounce is the kind of report that goes to postmaster.
const doubleBounce = "double-bounce"

// kindField marks a double bounce in its header, where it is still found after an alias has sent the message on.
const kindField = "X-Postel-Report"

// IsDoubleBounce reports whether a message with that header is a report to postmaster, of this or another host of postel's. What becomes of
// one is never reported: it would go the same way.
func IsDoubleBounce(h *message.Header) bool { return h.Get(kindField) == doubleBounce }

// Kind is the report's action, or "double-bounce".
func (r *Report) Kind() string {
	if r.Message.From.IsNull() {
		return doubleBounce
	}
	return string(r.Action)
}

// To is who gets the report: the sender, or postmaster of this host.
func (r *Report) To() address.Path {
	if r.Message.From.IsNull() {
		return address.Path{Local: "postmaster", Domain: r.Hostname}
	}
	return r.Message.From
}

// Envelope is the report's own: from the null path, with the message's RequireTLS (RFC 8689 5), never reported on to its recipient (RFC 3461 6.1). It reads the message, to know what
// the report needs.
func (r *Report) Envelope() (*envelope.Envelope, error) {
	f, err := r.form()
	if err != nil {
		return nil, err
	}
	e := &envelope.Envelope{UID: -1, Client: "local", SMTPUTF8: f.utf8, RequireTLS: r.Message.RequireTLS, Rcpts: []envelope.Recipient{{To: r.To(), Notify: "NEVER"}}}
	if f.eight {
		e.Body = "8BITMIME"
	}
	return e, nil
}

// messageID is the same each time that a report of the same news is written. A crash may have a report sent twice, and a mail reader can tell.
func (r *Report) messageID() string {
	h := fnv.New64a()
	for _, rcpt := range r.Rcpts {
		_, _ = io.WriteString(h, rcpt.To.Angle())
	}
	return fmt.Sprintf("<%s.%s.%016x@%s>", r.Message.ID, r.Kind(), h.Sum64(), r.Hostname)
}

// WriteTo writes the report as a message, lines ending in CRLF.
func (r *Report) WriteTo(out io.Writer) (int64, error) {
	f, err := r.form()
	if err != nil {
		return 0, err
	}
	w := newWriter(out)
	w.field("Date", r.Now.Format(message.DateLayout))
	w.field("From", "Mail Delivery System <MAILER-DAEMON@"+r.Hostname+">")
	w.field("To", r.To().ASCII().Angle())
	w.field("Subject", texts[r.Kind()].subject)
	w.field("Message-ID", r.messageID())
	w.field("Auto-Submitted", "auto-replied")
	if r.Kind() == doubleBounce {
		w.field(kindField, doubleBounce)
	}
	w.field("MIME-Version", "1.0")
	w.field("Content-Type", "multipart/report; report-type=delivery-status; boundary=\""+w.boundary+"\"")
	if f.eight {
		w.field("Content-Transfer-Encoding", "8bit")
	}
	w.line("")
	r.writeText(w, f)
	r.writeStatus(w, f)
	err = r.writeReturned(w, f)
	w.line("--%s--", w.boundary)
	return w.end(err)
}
