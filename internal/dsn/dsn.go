// Package dsn writes delivery status notifications: RFC 3464 reports in the multipart/report of RFC 6522, with the international forms
// of RFC 6533 where the sender's own address needs SMTPUTF8. A report is plain ASCII otherwise, whatever the message was, so that every server can take it. When one is due, and to whom, is the runner's affair (RFC 3461).
package dsn

import (
	"bufio"
	"crypto/rand"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/postel-mail/postel/internal/address"
	"github.com/postel-mail/postel/internal/envelope"
	"github.com/postel-mail/postel/internal/status"
)

// Action is what happened to a recipient, in the word of RFC 3464 2.3.3.
type Action string

// The actions postel reports.
const (
	Failed    Action = "failed"
	Delayed   Action = "delayed"
	Delivered Action = "delivered"
	Relayed   Action = "relayed" // handed to a peer that gives no reports
)

// maxReturned is the size in octets up to which a message goes back whole when the sender did not choose (RFC 3461 4.3 leaves it to us).
const maxReturned = 64 << 10

// Report is one notification about some recipients of one message, all with the same action.
type Report struct {
	Hostname string             // of the reporting MTA
	Action   Action             // what happened
	Message  *envelope.Envelope // the message's envelope
	Rcpts    []Recipient
	Until    time.Time     // Delayed: when it will be given up
	Now      time.Time     // the report's Date
	Original io.ReadSeeker // the message, CRLF line ends
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

// Envelope is the report's own: from the null path to the sender, never reported on itself (RFC 3461 6.1).
func (r *Report) Envelope() *envelope.Envelope {
	e := &envelope.Envelope{
		UID: -1, Client: "local", SMTPUTF8: r.international(),
		Rcpts: []envelope.Recipient{{To: r.Message.From, Notify: "NEVER"}},
	}
	if e.SMTPUTF8 {
		e.Body = "8BITMIME"
	}
	return e
}

func (r *Report) international() bool { return r.Message.SMTPUTF8 && r.Message.From.NeedsUTF8() }

var subjects = map[Action]string{
	Failed:    "Undelivered mail returned to sender",
	Delayed:   "Delayed mail (still being tried)",
	Delivered: "Mail delivered",
	Relayed:   "Mail handed on to a system that sends no reports",
}

var intros = map[Action]string{
	Failed: "Your message could not be delivered to the recipients below. It will not be\r\n" +
		"tried again. What the receiving system or this host said follows each address.\r\n",
	Delayed: "Your message could not be delivered to the recipients below yet. It is still being\r\n" +
		"tried; you need not send it again.\r\n",
	Delivered: "Your message was delivered to the recipients below, as you asked to be told.\r\n",
	Relayed: "Your message was handed on for the recipients below to a system that sends no\r\n" +
		"reports. It may still fail there; you would hear of that in another way.\r\n",
}

// WriteTo writes the report as a message, lines ending in CRLF.
func (r *Report) WriteTo(out io.Writer) (int64, error) {
	w := &writer{w: bufio.NewWriterSize(out, 32<<10), ascii: !r.international()}
	boundary := "=_postel_" + rand.Text()
	w.line("Date: %s", r.Now.Format("Mon, 02 Jan 2006 15:04:05 -0700"))
	w.line("From: Mail Delivery System <MAILER-DAEMON@%s>", r.Hostname)
	w.line("To: %s", r.Message.From.Angle())
	w.line("Subject: %s", subjects[r.Action])
	w.line("Message-ID: <%s.%s@%s>", r.Message.ID, rand.Text()[:10], r.Hostname)
	w.line("Auto-Submitted: auto-replied")
	w.line("MIME-Version: 1.0")
	w.line("Content-Type: multipart/report; report-type=delivery-status;\r\n\tboundary=\"%s\"", boundary)
	if !w.ascii {
		w.line("Content-Transfer-Encoding: 8bit")
	}
	w.line("")
	r.writeText(w, boundary)
	r.writeStatus(w, boundary)
	err := r.writeOriginal(w, boundary)
	w.line("")
	w.line("--%s--", boundary)
	if err != nil {
		return w.n, err
	}
	return w.n, w.w.Flush()
}

func (r *Report) writeText(w *writer, boundary string) {
	w.line("--%s", boundary)
	w.line("Content-Type: text/plain; charset=utf-8")
	if !w.ascii {
		w.line("Content-Transfer-Encoding: 8bit")
	}
	w.line("")
	w.line("This is the mail system at %s.", r.Hostname)
	w.line("")
	w.line("%s", intros[r.Action])
	for _, rcpt := range r.Rcpts {
		w.line("%s", rcpt.To.Angle())
		if rcpt.Err != nil {
			said := rcpt.Err.Reply()
			if rcpt.Said {
				said = rcpt.Relay + " said: " + said
			} else if rcpt.Err.Err != nil {
				said += " (" + rcpt.Err.Err.Error() + ")"
			}
			w.line("    %s", status.Clean(said))
		}
	}
	w.line("")
	if r.Action == Delayed && !r.Until.IsZero() {
		w.line("It will be given up on %s.", r.Until.Format("Mon, 02 Jan 2006 15:04:05 -0700"))
		w.line("")
	}
}

func (r *Report) writeStatus(w *writer, boundary string) {
	kind := "message/delivery-status"
	if !w.ascii {
		kind = "message/global-delivery-status"
	}
	w.line("--%s", boundary)
	w.line("Content-Type: %s", kind)
	if !w.ascii {
		w.line("Content-Transfer-Encoding: 8bit")
	}
	w.line("")
	if r.Message.EnvID != "" {
		w.line("Original-Envelope-Id: %s", r.Message.EnvID)
	}
	w.line("Reporting-MTA: dns; %s", r.Hostname)
	w.line("X-Postel-Queue-ID: %s", r.Message.ID)
	w.line("Arrival-Date: %s", r.Message.Arrival.Format("Mon, 02 Jan 2006 15:04:05 -0700"))
	for _, rcpt := range r.Rcpts {
		w.line("")
		if rcpt.ORcpt != "" {
			w.line("Original-Recipient: %s", strings.Replace(rcpt.ORcpt, ";", "; ", 1))
		}
		w.line("Final-Recipient: %s", finalRecipient(rcpt.To, w.ascii))
		w.line("Action: %s", r.Action)
		code := "2.0.0"
		if rcpt.Err != nil {
			code = rcpt.Err.Enhanced
		}
		w.line("Status: %s", code)
		if host, _, _ := strings.Cut(rcpt.Relay, "["); rcpt.Said && host != "" && !strings.ContainsAny(host, ":/ ") {
			w.line("Remote-MTA: dns; %s", host)
		}
		if rcpt.Err != nil {
			kind := "x-postel"
			if rcpt.Said {
				kind = "smtp"
			}
			w.line("Diagnostic-Code: %s; %s", kind, status.Clean(rcpt.Err.Reply()))
		}
		if !rcpt.Attempt.IsZero() {
			w.line("Last-Attempt-Date: %s", rcpt.Attempt.Format("Mon, 02 Jan 2006 15:04:05 -0700"))
		}
		if r.Action == Delayed && !r.Until.IsZero() {
			w.line("Will-Retry-Until: %s", r.Until.Format("Mon, 02 Jan 2006 15:04:05 -0700"))
		}
	}
	w.line("")
}

// finalRecipient is the value of that field; in ASCII an international address is written as RFC 6533 3 has it for such a report.
func finalRecipient(p address.Path, ascii bool) string {
	switch {
	case p.IsASCII():
		return "rfc822; " + p.String()
	case !ascii:
		return "utf-8; " + p.String()
	}
	var b strings.Builder
	for _, r := range p.String() {
		if r > ' ' && r < 0x7f && r != '\\' && r != '+' && r != '=' {
			b.WriteRune(r)
		} else {
			fmt.Fprintf(&b, "\\x{%X}", r)
		}
	}
	return "utf-8; " + b.String()
}

// writeOriginal returns the message or its header. Success and delay bring back the header alone (RFC 3461 6.2), and so does a message that is not ASCII where the
// report must be: its header then has "?" for what is not.
func (r *Report) writeOriginal(w *writer, boundary string) error {
	whole := r.Action == Failed && (r.Message.Ret == "FULL" || r.Message.Ret == "" && r.Size <= maxReturned) &&
		(!w.ascii || r.Message.Body == "" && !r.Message.SMTPUTF8)
	kind := "text/rfc822-headers"
	switch {
	case whole && w.ascii:
		kind = "message/rfc822"
	case whole:
		kind = "message/global"
	case !w.ascii:
		kind = "message/global-headers"
	}
	w.line("--%s", boundary)
	w.line("Content-Type: %s", kind)
	if !w.ascii {
		w.line("Content-Transfer-Encoding: 8bit")
	}
	w.line("")
	if _, err := r.Original.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if whole {
		_, err := io.Copy(w, r.Original)
		return err
	}
	return copyHeader(w, r.Original)
}

// copyHeader copies up to the empty line, and 256 KiB at most.
func copyHeader(w *writer, r io.Reader) error {
	in := bufio.NewReaderSize(io.LimitReader(r, 256<<10), 4096)
	start := true // of a line
	for {
		part, err := in.ReadSlice('\n')
		if start && string(part) == "\r\n" {
			return nil
		}
		start = err == nil
		_, werr := w.Write(part)
		switch {
		case werr != nil:
			return werr
		case err == io.EOF:
			return nil
		case err != nil && err != bufio.ErrBufferFull:
			return err
		}
	}
}

// writer writes lines; the first error sticks in w and shows at Flush.
type writer struct {
	w     *bufio.Writer
	n     int64
	ascii bool // what is not ASCII becomes "?"
}

// Write writes octets of the message.
func (w *writer) Write(p []byte) (int, error) {
	if w.ascii && slices.ContainsFunc(p, isHigh) {
		p = slices.Clone(p)
		for i, c := range p {
			if isHigh(c) {
				p[i] = '?'
			}
		}
	}
	n, err := w.w.Write(p)
	w.n += int64(n)
	return n, err
}

func isHigh(c byte) bool { return c >= 0x80 }

func (w *writer) line(format string, args ...any) {
	s := fmt.Sprintf(format, args...)
	if w.ascii {
		s = strings.Map(func(r rune) rune {
			if r >= 0x80 {
				return '?'
			}
			return r
		}, s)
	}
	n, _ := w.w.WriteString(s + "\r\n")
	w.n += int64(n)
}
