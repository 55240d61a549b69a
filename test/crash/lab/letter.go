package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/postel-mail/postel/internal/clock"
)

// Where a letter goes; it is the second word of its id.
const (
	local  = "local"  // to a mailbox on the disk
	relay  = "relay"  // to the next hop, which takes it at once
	late   = "late"   // to the next hop, which takes it only after the power cut
	both   = "both"   // to a mailbox, and late to the next hop
	nobody = "nobody" // to a user who does not exist: its sender gets a report
	direct = "direct" // to a mailbox on the disk, by deliver and without the queue
)

// letter is a message by its id, "NUMBER.CLASS.SIZE": the rest follows from that, so that anyone can tell whether it is whole.
type letter string

func newLetter(n int, class string, size int) letter {
	return letter(fmt.Sprintf("%d.%s.%d", n, class, size))
}

func (l letter) class() string { return strings.Split(string(l), ".")[1] }

// rcpts are its recipients.
func (l letter) rcpts() []string {
	switch l.class() {
	case local, direct:
		return []string{"bob@example.org"}
	case relay:
		return []string{string(l) + "@now.example"}
	case late:
		return []string{string(l) + "@later.example"}
	case both:
		return []string{"carol@example.org", string(l) + "@later.example"}
	}
	return []string{"nobody@example.org"}
}

const (
	sender = "alice@example.org"
	idEnd  = "@lab.example>"
)

// text is the message, lines ending in LF. No two are alike in their body.
func (l letter) text() string {
	return "From: " + sender + "\nMessage-ID: <" + string(l) + idEnd + "\nSubject: " + string(l) + "\n\n" + l.body()
}

func (l letter) body() string {
	size, _ := strconv.Atoi(string(l)[strings.LastIndexByte(string(l), '.')+1:])
	var seed [32]byte
	copy(seed[:], l)
	chance := rand.NewChaCha8(seed)
	var b strings.Builder
	for b.Len() < size {
		fmt.Fprintf(&b, "%016x%016x%016x%016x\n", chance.Uint64(), chance.Uint64(), chance.Uint64(), chance.Uint64())
	}
	fmt.Fprintf(&b, "the end of %s\n", string(l))
	return b.String()
}

// identify tells which letter a message is, and whether it is whole; "" when it is none.
func identify(message []byte) (l letter, whole bool) {
	id, ok := strings.CutSuffix(field(message, "Message-ID"), idEnd)
	if !ok || strings.Count(id, ".") != 2 {
		return "", false
	}
	l = letter(strings.TrimPrefix(id, "<"))
	_, body, _ := bytes.Cut(bytes.ReplaceAll(message, []byte("\r\n"), []byte("\n")), []byte("\n\n"))
	return l, string(body) == l.body()
}

// reported tells which letter a report to its sender is about, and whether it is whole; "" when the message is no report.
func reported(message []byte) (l letter, whole bool) {
	if !strings.HasPrefix(field(message, "Content-Type"), "multipart/report") {
		return "", false
	}
	_, rest, _ := bytes.Cut(message, []byte("\nMessage-ID: <")) // its own
	_, rest, ok := bytes.Cut(rest, []byte("\nMessage-ID: <"))
	if i := bytes.Index(rest, []byte(idEnd)); ok && i > 0 {
		l = letter(rest[:i])
	}
	return l, bytes.HasSuffix(message, []byte("--\n"))
}

// field is the first line of the first header field of that name, "" without one.
func field(message []byte, name string) string {
	for line := range bytes.Lines(message) {
		line = bytes.TrimRight(line, "\r\n")
		if len(line) == 0 {
			return ""
		}
		if is, value, ok := strings.Cut(string(line), ":"); ok && strings.EqualFold(is, name) {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// client speaks SMTP over a socket.
type client struct {
	c net.Conn
	r *bufio.Reader
}

func dial(address string) (*client, error) {
	conn, err := net.DialTimeout("unix", address, limit)
	if err != nil {
		return nil, err
	}
	c := &client{conn, bufio.NewReader(conn)}
	_, err = c.answer()
	if err == nil {
		_, err = c.ask("EHLO lab.example")
	}
	if err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

func (c *client) close() { c.c.Close() }

// ask sends a line and gives the last line of the answer. The error is that of a connection, not a refusal.
func (c *client) ask(line string) (string, error) {
	if _, err := c.c.Write([]byte(line + "\r\n")); err != nil {
		return "", err
	}
	return c.answer()
}

func (c *client) answer() (string, error) {
	if err := c.c.SetReadDeadline(clock.Now().Add(limit)); err != nil {
		return "", err
	}
	for {
		line, err := c.r.ReadSlice('\n')
		if err != nil {
			return "", err
		}
		if len(line) < 4 {
			return "", errors.New("an answer of less than a code")
		}
		if line[3] != '-' {
			return string(bytes.TrimRight(line, "\r\n")), nil
		}
	}
}

// send sends a letter and gives the answer that counts: to the first command that was refused, or to the message.
func (c *client) send(l letter) (string, error) {
	answer, err := c.ask("MAIL FROM:<" + sender + ">")
	if err != nil || answer[0] != '2' {
		return answer, err
	}
	for _, rcpt := range l.rcpts() {
		if answer, err = c.ask("RCPT TO:<" + rcpt + ">"); err != nil || answer[0] != '2' {
			return c.reset(answer, err)
		}
	}
	if answer, err = c.ask("DATA"); err != nil || answer[0] != '3' {
		return c.reset(answer, err)
	}
	return c.ask(strings.ReplaceAll(l.text(), "\n", "\r\n") + ".")
}

// reset ends a transaction that was refused with that answer.
func (c *client) reset(answer string, err error) (string, error) {
	if err == nil {
		_, err = c.ask("RSET")
	}
	return answer, err
}

// sizes of letters: most are small, some are of many blocks.
func someSize(chance *rand.Rand) int {
	if chance.IntN(4) == 0 {
		return 4000 + chance.IntN(60000)
	}
	return 300 + chance.IntN(4000)
}

// pause is some time between two things that one who is not in a hurry does.
func pause(chance *rand.Rand) { time.Sleep(time.Duration(chance.IntN(4000)) * time.Microsecond) }
