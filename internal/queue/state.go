package queue

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postel-mail/postel/internal/envelope"
	"github.com/postel-mail/postel/internal/status"
)

// Progress is how far a recipient has come.
type Progress int

// The states of a recipient. All but Waiting are final; Relayed is delivered to a system that sends no reports, Expanded sent on to some of the several addresses that the recipient
// stands for.
const (
	Waiting Progress = iota
	Delivered
	Relayed
	Failed
	Expanded
)

var progressNames = [...]string{"waiting", "delivered", "relayed", "failed", "expanded"}

func (p Progress) String() string { return progressNames[p] }

// Outcome is what is known of one recipient.
type Outcome struct {
	Progress Progress
	Last     *status.Error // of the last attempt; nil before the first, and when delivered
	Relay    string        // who was asked last
	Said     bool          // Last is in Relay's own words
	Told     bool          // there is nothing to report about the final state any more
}

// Open reports whether there is still something to do for the recipient: to deliver, or to tell the sender.
func (o *Outcome) Open() bool { return o.Progress == Waiting || o.Progress == Failed && !o.Told }

// Got reports whether the recipient has it, or whoever is to bring it to them.
func (o *Outcome) Got() bool { return o.Progress != Waiting && o.Progress != Failed }

// known reports whether the recipient was tried, or given up.
func (o *Outcome) known() bool { return o.Progress != Waiting || o.Last != nil }

// State is what happened to a message so far.
type State struct {
	Attempts int
	Last     time.Time     // of the last attempt; the zero time before the first
	Waited   time.Duration // time spent in the queue as the runner knows it: a clock that jumps, or a runner that did not run, does not add to it
	Next     time.Time     // when the next attempt is due; the zero time is at once
	Hold     bool          // a person keeps it back
	Expire   bool          // a person wants it given up at the next attempt, as if its lifetime were over
	Warned   bool          // the sender was told about the delay
	Rcpts    []Outcome     // one for each recipient of the envelope
}

const (
	stateMagic = "postel-state 1\n"
	maxState   = 64 << 20 // octets; 50,000 recipients with the longest texts
)

// Pending reports whether a recipient still waits.
func (s *State) Pending() bool {
	for _, r := range s.Rcpts {
		if r.Progress == Waiting {
			return true
		}
	}
	return false
}

// Record writes the message's state. sync asks that it survive a power cut: needed before a report that it mentions may be sent again, and for a hold.
// Without it a lost state costs an early attempt or a second delivery, never the message.
func (m *Message) Record(sync bool) error {
	return m.spool.state.WriteFile(m.ID(), m.State.appendText(nil, m.ID()), 0o600, sync)
}

// Text is the state of a message as the queue keeps it, postel-queue(5).
func (s *State) Text(id string) string { return string(s.appendText(nil, id)) }

func (s *State) appendText(b []byte, id string) []byte {
	b = append(b, stateMagic...)
	b = fmt.Appendf(b, "Id: %s\nAttempts: %d\n", id, s.Attempts)
	if !s.Last.IsZero() {
		b = fmt.Appendf(b, "Last: %s\nWaited: %d\n", s.Last.UTC().Format(envelope.TimeLayout), s.Waited/time.Second)
	}
	if !s.Next.IsZero() {
		b = fmt.Appendf(b, "Next: %s\n", s.Next.UTC().Format(envelope.TimeLayout))
	}
	if s.Hold {
		b = append(b, "Hold: yes\n"...)
	}
	if s.Expire {
		b = append(b, "Expire: yes\n"...)
	}
	if s.Warned {
		b = append(b, "Warned: yes\n"...)
	}
	for i, r := range s.Rcpts {
		if !r.known() {
			continue
		}
		b = r.appendText(append(b, "Rcpt: "...), i)
	}
	return append(b, "End\n"...)
}

// appendText appends what is known of recipient i, and the end of the line.
func (o *Outcome) appendText(b []byte, i int) []byte {
	said, told := "-", "-"
	if o.Said {
		said = "said"
	}
	if o.Told {
		told = "told"
	}
	relay, code, enhanced, text := "-", 0, "-", ""
	if o.Relay != "" {
		relay = envelope.EncodeXtext(o.Relay)
	}
	if o.Last != nil {
		code, enhanced, text = o.Last.Code, o.Last.Enhanced, status.Clean(o.Last.Text)
		if o.Last.Err != nil { // mailq and a bounce say why; the peer's text alone may not
			text = status.Clean(o.Last.Text + " (" + o.Last.Err.Error() + ")")
		}
	}
	return fmt.Appendf(b, "%d %s %s %s %s %d %s %s\n", i, o.Progress, told, relay, said, code, enhanced, text)
}

// readState reads the state of a message with n recipients. One that is missing, that cannot be understood or that is of another message is an empty one.
func (s *Spool) readState(id string, n int) (State, error) {
	f, err := openQuietly(s.state, id, unix.O_RDONLY|unix.O_NONBLOCK)
	if errors.Is(err, fs.ErrNotExist) {
		return emptyState(n), nil
	}
	if err != nil {
		return emptyState(n), err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxState))
	if err != nil {
		return emptyState(n), err
	}
	st, _ := parseState(string(text), id, n)
	return st, nil
}

// emptyState is the state of a message with n recipients to whom nothing has happened.
func emptyState(n int) State { return State{Rcpts: make([]Outcome, n)} }

// parseState reads a state of the message id; without ok it is an empty one. It has to name the message: the repair of a file system without a journal can
// leave what one file held under the name of another.
func parseState(text, id string, n int) (st State, ok bool) {
	text, ok = strings.CutPrefix(text, stateMagic+"Id: "+id+"\n")
	if !ok {
		return emptyState(n), false
	}
	st = emptyState(n)
	for line := range strings.Lines(text) {
		line, ok := strings.CutSuffix(line, "\n")
		if !ok {
			return emptyState(n), false
		}
		if line == "End" {
			return st, true
		}
		name, value, _ := strings.Cut(line, ": ")
		var err error
		switch name {
		case "Attempts":
			st.Attempts, err = strconv.Atoi(value)
		case "Last":
			st.Last, err = time.Parse(envelope.TimeLayout, value)
		case "Waited":
			var seconds int64
			seconds, err = strconv.ParseInt(value, 10, 32)
			st.Waited = time.Duration(seconds) * time.Second
		case "Next":
			st.Next, err = time.Parse(envelope.TimeLayout, value)
		case "Hold":
			st.Hold = value == "yes"
		case "Expire":
			st.Expire = value == "yes"
		case "Warned":
			st.Warned = value == "yes"
		case "Rcpt":
			var i int
			var o Outcome
			if i, o, err = parseOutcome(value, n); err == nil {
				st.Rcpts[i] = o
			}
		default:
			err = errors.New("unknown name")
		}
		if err != nil || st.Attempts < 0 || st.Waited < 0 {
			return emptyState(n), false
		}
	}
	return emptyState(n), false // no End: torn
}

var errOutcome = errors.New("malformed outcome")

// parseOutcome reads what appendText wrote, about recipient i of n.
func parseOutcome(value string, n int) (i int, o Outcome, err error) {
	f := strings.SplitN(value, " ", 8)
	if len(f) != 8 {
		return 0, o, errOutcome
	}
	i, err = strconv.Atoi(f[0])
	if err != nil || i < 0 || i >= n {
		return 0, o, errOutcome
	}
	o = Outcome{Told: f[2] == "told", Said: f[4] == "said"}
	for p, name := range progressNames {
		if f[1] == name {
			o.Progress = Progress(p)
		}
	}
	if o.Progress.String() != f[1] {
		return 0, o, errOutcome
	}
	if f[3] != "-" {
		if o.Relay, err = envelope.DecodeXtext(f[3]); err != nil {
			return 0, o, err
		}
	}
	code, err := strconv.Atoi(f[5])
	if err != nil || (code != 0 && (code < 400 || code > 599)) {
		return 0, o, errOutcome
	}
	if code != 0 {
		o.Last = &status.Error{Code: code, Enhanced: f[6], Text: status.Clean(f[7])}
	}
	return i, o, nil
}
