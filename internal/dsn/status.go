package dsn

import (
	"fmt"
	"io"
	"strings"

	"github.com/postel-mail/postel/internal/address"
	"github.com/postel-mail/postel/internal/envelope"
	"github.com/postel-mail/postel/internal/message"
	"github.com/postel-mail/postel/internal/status"
)

// texts are what a person reads, by Report.Kind.
var texts = map[string]struct{ subject, intro string }{
	string(Failed): {"Undelivered mail returned to sender",
		"Your message could not be delivered to the recipients below. It will not be\r\n" +
			"tried again. What the receiving system or this host said follows each address.\r\n"},
	string(Delayed): {"Delayed mail (still being tried)",
		"Your message could not be delivered to the recipients below yet. It is still being\r\n" +
			"tried; you need not send it again.\r\n"},
	string(Delivered): {"Mail delivered",
		"Your message was delivered to the recipients below, as you asked to be told.\r\n"},
	string(Relayed): {"Mail handed on to a system that sends no reports",
		"Your message was handed on for the recipients below to a system that sends no\r\n" +
			"reports. It may still fail there; you would hear of that in another way.\r\n"},
	string(Expanded): {"Mail sent on to several addresses",
		"The addresses below stand for several others, and your message was sent on to them.\r\n" +
			"You would hear of a failure there, but not of a success.\r\n"},
	doubleBounce: {"Mail that could be neither delivered nor returned",
		"A message without a sender, most likely a report of this or of another host, could\r\n" +
			"not be delivered to the recipients below, and there is nobody to return it to.\r\n" +
			"It comes to you as the postmaster of this host. If this report cannot be delivered\r\n" +
			"either, the log alone will tell.\r\n"},
}

// writeText writes the part for people.
func (r *Report) writeText(w *writer, f form) {
	encoding := ""
	for _, rcpt := range r.Rcpts {
		if !rcpt.To.IsASCII() || !isASCII(rcpt.said()) {
			if encoding = quotedPrintable; f.utf8 {
				encoding = eightBit
			}
		}
	}
	out := w.part("text/plain; charset=utf-8", encoding)
	_, _ = fmt.Fprintf(out, "This is the mail system at %s.\r\n\r\n%s\r\n", r.Hostname, texts[r.Kind()].intro) // an error stays in w
	for _, rcpt := range r.Rcpts {
		_, _ = io.WriteString(out, rcpt.To.Angle()+"\r\n"+wrap(rcpt.said(), "    "))
	}
	if r.Action == Delayed && !r.Until.IsZero() {
		_, _ = fmt.Fprintf(out, "\r\nIt will be given up on %s.\r\n", r.Until.Format(message.DateLayout))
	}
	_ = out.Close()
}

// said is the answer as a person reads it, one line, 900 octets at most.
func (r Recipient) said() string {
	switch {
	case r.Err == nil && r.Said:
		return status.Clean("taken by " + r.Relay)
	case r.Err == nil:
		return ""
	case r.Said:
		return status.Clean(r.Relay + " said: " + r.Err.Reply())
	case r.Err.Err != nil:
		return status.Clean(r.Err.Reply() + " (" + r.Err.Err.Error() + ")")
	}
	return status.Clean(r.Err.Reply())
}

// wrap breaks text at its blanks into lines of about 76 octets, each behind indent; a word is never broken.
func wrap(text, indent string) string {
	var b strings.Builder
	column := 0
	for word := range strings.FieldsSeq(text) {
		switch {
		case column == 0:
			b.WriteString(indent)
		case column+1+len(word) > 76-len(indent):
			b.WriteString("\r\n" + indent)
			column = 0
		default:
			b.WriteByte(' ')
			column++
		}
		b.WriteString(word)
		column += len(word)
	}
	if column > 0 {
		b.WriteString("\r\n")
	}
	return b.String()
}

// writeStatus writes the part for programs.
func (r *Report) writeStatus(w *writer, f form) {
	if f.utf8 {
		w.part("message/global-delivery-status", eightBit)
	} else {
		w.part("message/delivery-status", "")
	}
	if r.Message.EnvID != "" {
		w.field("Original-Envelope-Id", r.Message.EnvID)
	}
	w.field("Reporting-MTA", "dns; "+r.Hostname)
	w.field("X-Postel-Queue-ID", r.Message.ID)
	w.field("Arrival-Date", r.Message.Arrival.Format(message.DateLayout))
	for _, rcpt := range r.Rcpts {
		w.line("")
		r.writeRecipient(w, f, rcpt)
	}
	w.line("")
}

func (r *Report) writeRecipient(w *writer, f form, rcpt Recipient) {
	if rcpt.ORcpt != "" {
		w.field("Original-Recipient", originalRecipient(rcpt.ORcpt, f.utf8))
	}
	w.field("Final-Recipient", finalRecipient(rcpt.To, f.utf8))
	w.field("Action", string(r.Action))
	code := "2.0.0"
	if rcpt.Err != nil {
		code = rcpt.Err.Enhanced
	}
	w.field("Status", code)
	if host, _, _ := strings.Cut(rcpt.Relay, "["); rcpt.Said && host != "" && !strings.ContainsAny(host, ":/ ") {
		w.field("Remote-MTA", "dns; "+host)
	}
	if rcpt.Err != nil {
		kind := "x-postel"
		if rcpt.Said {
			kind = "smtp"
		}
		text := status.Clean(rcpt.Err.Reply())
		if !f.utf8 {
			text = toASCII(text)
		}
		w.field("Diagnostic-Code", kind+"; "+text)
	}
	if !rcpt.Attempt.IsZero() {
		w.field("Last-Attempt-Date", rcpt.Attempt.Format(message.DateLayout))
	}
	if r.Action == Delayed && !r.Until.IsZero() {
		w.field("Will-Retry-Until", r.Until.Format(message.DateLayout))
	}
}

// finalRecipient is the value of that field. In a report that is ASCII an international address is written as RFC 6533 3 has it there
// (utf-8-addr-xtext), one that is international by its domain alone with A-labels.
func finalRecipient(p address.Path, utf8 bool) string {
	if a := p.ASCII(); a.IsASCII() {
		return "rfc822; " + a.String()
	}
	if utf8 {
		return "utf-8; " + p.String()
	}
	return "utf-8; " + envelope.EncodeUnitext(p.String())
}

// originalRecipient is the value of that field, an address of type utf-8 as in finalRecipient.
func originalRecipient(orcpt string, utf8 bool) string {
	kind, addr, _ := strings.Cut(orcpt, ";")
	if kind == envelope.UTF8Type && !utf8 {
		addr = envelope.EncodeUnitext(addr)
	}
	return kind + "; " + addr
}

func isASCII(s string) bool { return !strings.ContainsFunc(s, isHigh) }

func isHigh(c rune) bool { return c >= 0x80 }

// toASCII puts "?" for what is not ASCII.
func toASCII(s string) string {
	return strings.Map(func(c rune) rune {
		if isHigh(c) {
			return '?'
		}
		return c
	}, s)
}
