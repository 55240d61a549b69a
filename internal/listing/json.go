package listing

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"time"
	"unicode"
	"unicode/utf16"

	"github.com/postel-mail/postel/internal/queue"
)

type message struct {
	ID         string      `json:"id"`
	From       string      `json:"from"`
	Size       int64       `json:"size"`
	Arrival    time.Time   `json:"arrival"`
	Next       *time.Time  `json:"next,omitempty"` // missing: at once
	Hold       bool        `json:"hold"`
	Expire     bool        `json:"expire,omitempty"`
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
	v := message{ID: e.ID, From: e.From.String(), Size: m.Size(), Arrival: e.Arrival, Hold: st.Hold, Expire: st.Expire, Attempts: st.Attempts, Client: e.Client, Auth: e.Auth}
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
	var line bytes.Buffer
	enc := json.NewEncoder(&line)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return err
	}
	_, err := w.Write(EscapeJSON(line.Bytes()))
	return err
}

// EscapeJSON writes what a terminal may take for a command, and encoding/json leaves as it is, as \uXXXX.
func EscapeJSON(line []byte) []byte {
	if bytes.IndexFunc(line, unsafe) < 0 {
		return line
	}
	var b []byte
	for _, r := range string(line) {
		switch {
		case !unsafe(r):
			b = append(b, string(r)...)
		case r > 0xffff:
			hi, lo := utf16.EncodeRune(r)
			b = fmt.Appendf(b, `\u%04x\u%04x`, hi, lo)
		default:
			b = fmt.Appendf(b, `\u%04x`, r)
		}
	}
	return b
}

func unsafe(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }
