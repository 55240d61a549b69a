package smtpclient

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/postel-mail/postel/internal/message"
)

// What a strictServer offers and does.
const (
	hasPipelining = 1 << iota
	hasChunking
	hasEightBit
	hasBinary
	hasSize
	isLMTP
	refusesOne
	refusesAll
	takesBinary // the message says that it is BINARYMIME
)

// strictServer reads a session as RFC 5321 and 3030 have it, and no other way.
type strictServer struct {
	r        *bufio.Reader
	w        *bufio.Writer
	flags    int
	size     int64 // what SIZE said, -1 for nothing
	body     string
	rcpts    int
	accepted int
	content  []byte // of the message that was taken
	taken    int
}

func (s *strictServer) say(format string, args ...any) { fmt.Fprintf(s.w, format+"\r\n", args...) }

// line reads a command. Replies are held back while there is more to read, as servers do.
func (s *strictServer) line() (string, error) {
	if s.r.Buffered() == 0 {
		if err := s.w.Flush(); err != nil {
			return "", err
		}
	}
	line, err := s.r.ReadSlice('\n')
	if err != nil {
		return "", err
	}
	text, ok := strings.CutSuffix(string(line), "\r\n")
	if !ok || strings.ContainsAny(text, "\r\n") {
		return "", fmt.Errorf("bare CR or LF in %q", line)
	}
	return text, nil
}

func (s *strictServer) serve() error {
	s.say("220 mx.example")
	for {
		line, err := s.line()
		if err != nil {
			return err
		}
		verb, args, _ := strings.Cut(line, " ")
		switch verb {
		case "EHLO", "LHLO":
			s.hello()
		case "MAIL":
			s.mail(args)
		case "RCPT":
			s.rcpts++
			if s.flags&refusesAll != 0 || s.flags&refusesOne != 0 && s.rcpts == 1 {
				s.say("550 5.1.1 who?")
				continue
			}
			s.accepted++
			s.say("250 ok")
		case "DATA":
			err = s.data()
		case "BDAT":
			err = s.bdat(args)
		case "RSET":
			s.rcpts, s.accepted = 0, 0
			s.say("250 ok")
		case "QUIT":
			s.say("221 bye")
			return s.w.Flush()
		default:
			return fmt.Errorf("unknown command %q", line)
		}
		if err != nil {
			return err
		}
	}
}

func (s *strictServer) hello() {
	s.say("250-mx.example")
	for i, name := range []string{"PIPELINING", "CHUNKING", "8BITMIME", "BINARYMIME", "SIZE"} {
		if s.flags&(1<<i) != 0 {
			s.say("250-%s", name)
		}
	}
	s.say("250 HELP")
}

func (s *strictServer) mail(args string) {
	s.size, s.body = -1, ""
	for param := range strings.FieldsSeq(args) {
		if n, ok := strings.CutPrefix(param, "SIZE="); ok {
			s.size, _ = strconv.ParseInt(n, 10, 64)
		}
		if b, ok := strings.CutPrefix(param, "BODY="); ok {
			s.body = b
		}
	}
	s.say("250 ok")
}

func (s *strictServer) data() error {
	if s.accepted == 0 {
		s.say("503 no recipients")
		return nil
	}
	s.say("354 go")
	var content []byte
	for {
		line, err := s.line()
		if err != nil {
			return err
		}
		if line == "." {
			break
		}
		content = append(append(content, strings.TrimPrefix(line, ".")...), "\r\n"...)
	}
	s.take(content)
	return nil
}

func (s *strictServer) bdat(args string) error {
	n, last, _ := strings.Cut(args, " ")
	size, err := strconv.Atoi(n)
	if err != nil || last != "LAST" {
		return fmt.Errorf("BDAT %s", args)
	}
	content := make([]byte, size)
	if _, err := io.ReadFull(s.r, content); err != nil {
		return err
	}
	if s.accepted == 0 {
		s.say("503 no recipients")
		return nil
	}
	s.take(content)
	return nil
}

func (s *strictServer) take(content []byte) {
	s.content = content
	s.taken++
	n := 1
	if s.flags&isLMTP != 0 {
		n = s.accepted
	}
	for range n {
		s.say("250 taken")
	}
	s.rcpts, s.accepted = 0, 0
}

// socketPair gives two ends of a connection that has buffers, as those of TCP have.
func socketPair(t testing.TB) (a, b net.Conn) {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]net.Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "socket")
		if ends[i], err = net.FileConn(f); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	return ends[0], ends[1]
}

// FuzzWire sends any message twice to a server of any kind: what it reads is the message, or a conversion that it can take.
func FuzzWire(f *testing.F) {
	for _, s := range []string{"", ".", "a\n.\nb", "Subject: x\n\n\xff\n.\n..\n", "\xff\n\nx", "a\r\nb\rc\n.\r\n", "Content-Type: multipart/x; boundary=b\n\n--b\n\n\xff\r\n.\n--b--\n"} {
		for _, flags := range []uint16{0, hasPipelining, hasPipelining | hasChunking, hasChunking | hasEightBit | hasSize | refusesOne, hasPipelining | hasChunking | isLMTP | refusesAll,
			takesBinary, takesBinary | hasBinary | hasChunking | hasPipelining, takesBinary | hasEightBit | hasSize} {
			f.Add([]byte(s), flags, uint16(0))
			f.Add([]byte(s), flags, uint16(700))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte, flags, repeat uint16) {
		b = append(bytes.Repeat([]byte("X: .\n"), int(repeat)*100%20000), b...)
		if flags&takesBinary == 0 {
			var err error
			if b, err = io.ReadAll(message.CRLF(bytes.NewReader(b))); err != nil {
				t.Fatal(err)
			}
			if flags&1 == 0 && len(b) > 0 {
				b = b[:len(b)-2] // an open line at the end
			}
		}
		client, server := socketPair(t)
		s := &strictServer{r: bufio.NewReaderSize(server, 64<<10), w: bufio.NewWriter(server), flags: int(flags)}
		done := make(chan error, 1)
		go func() { done <- s.serve() }()
		c := open(t, client, Options{LMTP: flags&isLMTP != 0})
		e := mail(t, "a@a.example", "b@b.example", "c@b.example")
		if flags&takesBinary != 0 {
			e.Body = "BINARYMIME"
		}
		var ok bool
		for range 2 {
			ok = checkWire(t, s, b, c.Send(context.Background(), Mail{Envelope: e, Rcpts: e.Rcpts, Body: text(string(b))}))
		}
		if usable := c.Usable(); !usable {
			t.Fatalf("%q flags %x: the session is broken", b, flags)
		}
		c.Quit()
		if err := <-done; err != nil {
			t.Fatalf("%q flags %x: %v", b, flags, err)
		}
		server.Close()
		if want := 2; ok && s.taken != want || !ok && s.taken != 0 {
			t.Fatalf("%q flags %x: taken %d times", b, flags, s.taken)
		}
	})
}

// checkWire compares what the server has with the message, and reports whether it took it.
func checkWire(t *testing.T, s *strictServer, b []byte, out []Outcome) bool {
	t.Helper()
	ok := out[1].Err == nil
	if !ok {
		return false
	}
	lines := s.body != "BINARYMIME"
	want := b
	if lines && len(b) > 0 && b[len(b)-1] != '\n' {
		want = append(bytes.Clone(b), "\r\n"...)
	}
	switch bare := bytes.ReplaceAll(s.content, []byte("\r\n"), nil); {
	case lines && bytes.ContainsAny(bare, "\r\n"):
		t.Fatalf("%q: a bare CR or LF in %q", b, s.content)
	case message.HasEightBit(s.content) && lines && s.body != "8BITMIME":
		t.Fatalf("%q: eight bits in %q", b, s.content)
	case s.size >= 0 && s.size != int64(len(s.content)):
		t.Fatalf("%q: SIZE=%d, but %d octets", b, s.size, len(s.content))
	case bytes.Equal(s.content, want):
	case s.flags&takesBinary == 0 && (s.flags&hasEightBit != 0 || !message.HasEightBit(b)):
		t.Fatalf("%q was read as %q", want, s.content)
	case s.flags&takesBinary != 0 && s.flags&(hasBinary|hasChunking) == hasBinary|hasChunking:
		t.Fatalf("%q was read as %q", want, s.content)
	}
	return true
}
