// Package sink is a next hop for tests: an SMTP server (RFC 5321) that takes every message, hands it to a function before it answers for it, and
// answers what that function says. It offers PIPELINING and 8BITMIME. A line longer than 64 KiB ends the session.
package sink

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/postel-mail/postel/internal/clock"
)

const (
	patience = 30 * time.Second // for one command or line
	maxLine  = 64 << 10
	maxSize  = 16 << 20 // of one message
)

// Message is what came in one transaction; Data has the octets behind DATA with the dots unstuffed.
type Message struct {
	From string
	To   []string
	Data []byte
}

// Header is the value of the first field of that name, unfolded; "" without one.
func (m *Message) Header(name string) string { return Header(m.Data, name) }

// Header is the value of the first field of that name in a message whose lines end in LF or CRLF; "" without one. Folded fields are cut at the fold.
func Header(message []byte, name string) string {
	for line := range bytes.Lines(message) {
		line = bytes.TrimRight(line, "\r\n")
		if len(line) == 0 {
			return ""
		}
		if field, value, ok := strings.Cut(string(line), ":"); ok && strings.EqualFold(field, name) {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// Sink answers clients. Both functions may be called at once by several sessions.
type Sink struct {
	// Rcpt is asked for each recipient; an empty answer is 250. nil: all are taken.
	Rcpt func(to string) string
	// Took is called with a message that has come whole, before it is answered for; an empty answer is 250. After another answer the
	// client has been told that the message was not taken.
	Took func(*Message) string
}

// Serve answers on l until it is closed.
func (s *Sink) Serve(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			_ = s.session(c) // its end is the client's matter
		}()
	}
}

func (s *Sink) session(c net.Conn) error {
	r := bufio.NewReaderSize(c, maxLine)
	w := bufio.NewWriter(c)
	say := func(answer, otherwise string) error {
		if answer == "" {
			answer = otherwise
		}
		_, err := w.WriteString(answer + "\r\n")
		if err == nil && r.Buffered() == 0 {
			err = w.Flush()
		}
		return err
	}
	m := &Message{}
	err := say("", "220 sink.example.net ESMTP")
	for err == nil {
		if err = c.SetDeadline(clock.Now().Add(patience)); err != nil {
			return err
		}
		var line []byte
		if line, err = r.ReadSlice('\n'); err != nil {
			return err
		}
		verb, arg, _ := strings.Cut(strings.TrimRight(string(line), "\r\n"), " ")
		switch strings.ToUpper(verb) {
		case "EHLO", "LHLO":
			err = say("", "250-sink.example.net\r\n250-PIPELINING\r\n250 8BITMIME")
		case "MAIL":
			m = &Message{From: path(arg)}
			err = say("", "250 2.1.0 Ok")
		case "RCPT":
			answer := ""
			if s.Rcpt != nil {
				answer = s.Rcpt(path(arg))
			}
			if answer == "" {
				m.To = append(m.To, path(arg))
			}
			err = say(answer, "250 2.1.5 Ok")
		case "DATA":
			if len(m.To) == 0 {
				err = say("", "503 5.5.1 No recipients")
				break
			}
			if err = say("", "354 Go ahead"); err != nil {
				return err
			}
			if m.Data, err = data(r); err != nil {
				return err // cut short: not taken
			}
			err = say(s.Took(m), "250 2.0.0 Ok")
			m = &Message{}
		case "RSET":
			m = &Message{}
			err = say("", "250 2.0.0 Ok")
		case "NOOP":
			err = say("", "250 2.0.0 Ok")
		case "QUIT":
			_ = say("", "221 2.0.0 Bye")
			return w.Flush()
		default:
			err = say("", "500 5.5.2 Unknown command")
		}
	}
	return err
}

// path is what stands between the first angle brackets.
func path(arg string) string {
	_, arg, _ = strings.Cut(arg, "<")
	arg, _, _ = strings.Cut(arg, ">")
	return arg
}

// data reads a message up to the line of a lone dot.
func data(r *bufio.Reader) ([]byte, error) {
	var b []byte
	for {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return nil, err
		}
		if !bytes.HasSuffix(line, []byte("\r\n")) {
			return nil, fmt.Errorf("a line ends in %q", line[max(0, len(line)-2):])
		}
		if string(line) == ".\r\n" {
			return b, nil
		}
		if b = append(b, bytes.TrimPrefix(line, []byte("."))...); len(b) > maxSize {
			return nil, fmt.Errorf("more than %d octets", maxSize)
		}
	}
}
