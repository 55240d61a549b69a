// Package listing chooses queued messages and prints them: for people in the layout of sendmail's mailq, whole, or counted in a table; for programs as
// JSON lines; and for monitoring as one verdict. It reads the queue while others work on it, and takes no lock.
package listing

import (
	"fmt"
	"io"

	"github.com/postel-mail/postel/internal/queue"
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
	from := Safe(e.From.String())
	if from == "" {
		from = "MAILER-DAEMON"
	}
	fmt.Fprintf(w, "%-21s %8d %-19s %s\n", id, m.Size(), e.Arrival.Local().Format("Mon Jan _2 15:04:05"), from)
	if m.State.Expire {
		fmt.Fprintf(w, "%22s(is given up at the next attempt)\n", "")
	}
	last := ""
	for i, r := range e.Rcpts {
		o := m.State.Rcpts[i]
		if !o.Open() {
			continue
		}
		if why := reason(o); why != "" && why != last {
			fmt.Fprintf(w, "%22s(%s)\n", "", why)
			last = why
		}
		fmt.Fprintf(w, "%51s%s\n", "", Safe(r.To.String()))
	}
	fmt.Fprintln(w)
}

// reason is why a recipient is still there.
func reason(o queue.Outcome) string {
	switch {
	case o.Last == nil:
		return ""
	case o.Progress == queue.Failed:
		return Safe("the sender is not told yet: " + o.Last.Reply())
	}
	if o.Relay != "" {
		return Safe(o.Relay + ": " + o.Last.Reply())
	}
	return Safe(o.Last.Reply())
}

// Show prints a message's envelope and state as they stand in the queue's files, and the message, octet for octet.
func Show(w io.Writer, m *queue.Message) error {
	if _, err := fmt.Fprintf(w, "%s\n", m.Envelope.AppendText(nil)); err != nil {
		return err
	}
	if st := &m.State; st.Attempts > 0 || st.Hold || st.Expire {
		if _, err := fmt.Fprintf(w, "%s\n", st.Text(m.ID())); err != nil {
			return err
		}
	}
	_, err := io.Copy(w, m.Body())
	return err
}
