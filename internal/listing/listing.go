// Package listing prints queued messages: for people in the layout of sendmail's mailq, whole, and for programs as JSON lines.
package listing

import (
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/postel-mail/postel/internal/queue"
	"github.com/postel-mail/postel/internal/status"
)

// Head prints the line above a list.
func Head(w io.Writer) {
	fmt.Fprintf(w, "%-21s %8s %-19s %s\n", "-Queue ID-", "-Size-", "-Arrival-", "-Sender/Recipient-")
}

// Foot prints the line below a list of count messages with so many octets.
func Foot(w io.Writer, count, octets int64) {
	switch count {
	case 0:
		fmt.Fprintln(w, "Mail queue is empty")
	case 1:
		fmt.Fprintf(w, "-- %d Kbytes in 1 request.\n", (octets+1023)/1024)
	default:
		fmt.Fprintf(w, "-- %d Kbytes in %d requests.\n", (octets+1023)/1024, count)
	}
}

// mark behind an id says that a message is held.
const mark = "!"

// List prints a message in the layout of sendmail's mailq: a line, and a line for each recipient that waits, with the reason above it.
func List(w io.Writer, m *queue.Message) {
	e := m.Envelope
	id := e.ID
	if m.State.Hold {
		id += mark
	}
	from := status.Clean(e.From.String())
	if from == "" {
		from = "MAILER-DAEMON"
	}
	fmt.Fprintf(w, "%-21s %8d %-19s %s\n", id, m.Size(), e.Arrival.Local().Format("Mon Jan _2 15:04:05"), from)
	last := ""
	for i, r := range e.Rcpts {
		o := m.State.Rcpts[i]
		if o.Progress != queue.Waiting {
			continue
		}
		if why := reason(o); why != "" && why != last {
			fmt.Fprintf(w, "%22s(%s)\n", "", why)
			last = why
		}
		fmt.Fprintf(w, "%51s%s\n", "", status.Clean(r.To.String()))
	}
	fmt.Fprintln(w)
}

// reason is why a recipient still waits.
func reason(o queue.Outcome) string {
	if o.Last == nil {
		return ""
	}
	if o.Relay != "" {
		return status.Clean(o.Relay + ": " + o.Last.Reply())
	}
	return status.Clean(o.Last.Reply())
}

// Show prints a message's envelope and state as they stand in the queue's files, and the message.
func Show(w io.Writer, m *queue.Message) error {
	if _, err := fmt.Fprintf(w, "%s\n", m.Envelope.AppendText(nil)); err != nil {
		return err
	}
	if text := m.State.Text(); m.State.Attempts > 0 || m.State.Hold {
		fmt.Fprintf(w, "%s\n", text)
	}
	_, err := io.Copy(w, m.Body())
	return err
}

type message struct {
	ID         string      `json:"id"`
	From       string      `json:"from"`
	Size       int64       `json:"size"`
	Arrival    time.Time   `json:"arrival"`
	Next       *time.Time  `json:"next,omitempty"` // missing: at once
	Hold       bool        `json:"hold"`
	Attempts   int         `json:"attempts"`
	Client     string      `json:"client,omitempty"`
	Auth       string      `json:"auth,omitempty"`
	Recipients []recipient `json:"recipients"`
}

type recipient struct {
	To       string `json:"to"`
	Progress string `json:"progress"`
	Relay    string `json:"relay,omitempty"`
	Code     int    `json:"code,omitempty"`
	Enhanced string `json:"enhanced,omitempty"`
	Text     string `json:"text,omitempty"`
}

// JSON prints a message as one JSON object in a line; member names are those of the log.
func JSON(w io.Writer, m *queue.Message) error {
	e, st := m.Envelope, m.State
	v := message{ID: e.ID, From: e.From.String(), Size: m.Size(), Arrival: e.Arrival, Hold: st.Hold, Attempts: st.Attempts, Client: e.Client, Auth: e.Auth}
	if !st.Next.IsZero() {
		v.Next = &st.Next
	}
	for i, r := range e.Rcpts {
		o := st.Rcpts[i]
		one := recipient{To: r.To.String(), Progress: o.Progress.String(), Relay: o.Relay}
		if o.Last != nil {
			one.Code, one.Enhanced, one.Text = o.Last.Code, o.Last.Enhanced, o.Last.Text
		}
		v.Recipients = append(v.Recipients, one)
	}
	return Encode(w, v)
}

// Encode prints v as one JSON object in a line.
func Encode(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}
