package smtpserver

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/postel-mail/postel/internal/clock"
)

// TestSmuggling sends a message with a second one in it, behind every kind of line end, dot and line end that some server has taken for the end of data, cut in two at every
// octet there: by DATA, under TLS, by BDAT, and as a binary message; to a server that refuses bare line ends and to one that makes CRLF of them. A client that
// means one message must never have the second taken.
func TestSmuggling(t *testing.T) {
	ends := []string{"\r\n", "\n", "\r", "\r\r\n", "\n\r", "\r\n\n", "\r\n\r", "\x00\r\n", "\r\x00\n", "\r\n\x00"}
	dots := []string{".", "..", ".\x00", " ."}
	var total atomic.Int64
	t.Run("all", func(t *testing.T) {
		for _, mode := range []string{"plain", "tls", "bdat", "binary"} {
			for _, normalise := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s, normalise %v", mode, normalise), func(t *testing.T) {
					t.Parallel()
					s := &smuggler{host: newHost(t), mode: mode}
					s.NormaliseNewlines = normalise
					s.MaxHops = 0 // the message that carries the other goes in circles: when it is known for one it costs no disk
					for _, before := range ends {
						for i, dot := range dots {
							if i > 0 && mode == "tls" {
								break // the octets are those of "plain", and handshakes are dear
							}
							for _, behind := range ends {
								frame := before + dot + behind
								if strings.Contains(frame, "\r\n.\r\n") && (mode == "plain" || mode == "tls") {
									continue // that is the end, and a client knows it
								}
								for cut := range len(frame) + 2 {
									s.smuggle(frame, cut)
									total.Add(1)
								}
							}
						}
					}
					s.none()
				})
			}
		}
	})
	if n := total.Load(); n < 12_000 {
		t.Errorf("%d cases", n)
	}
}

// smuggler is a client and the host that it tries.
type smuggler struct {
	*host
	mode string
}

// smuggle tries one frame, cut in two cut octets after the one in front of it.
func (s *smuggler) smuggle(frame string, cut int) {
	t := s.t
	t.Helper()
	ours, theirs := net.Pipe()
	done := make(chan struct{})
	go func() { defer close(done); s.session(theirs) }()
	defer func() { ours.Close(); <-done }()
	_ = ours.SetDeadline(clock.Now().Add(time.Minute))
	c := &client{t: t, conn: ours, r: bufio.NewReader(ours)}
	c.expect("220")
	if s.mode == "tls" {
		c.do("STARTTLS", "220")
		tc := tls.Client(ours, &tls.Config{InsecureSkipVerify: true})
		c.conn, c.r = tc, bufio.NewReader(tc)
	}
	param := ""
	if s.mode == "binary" {
		param = " BODY=BINARYMIME"
	}
	c.send("EHLO x\r\nMAIL FROM:<alice@far.example>" + param + "\r\nRCPT TO:<bob@own.example>\r\n")
	c.expect("250")
	c.expect("250")
	c.expect("250")
	const head = "Received: a\r\n\r\nb"
	text := head + frame + "MAIL FROM:<evil@far.example>\r\nRCPT TO:<bob@own.example>\r\nDATA\r\nevil"
	cut += len(head) - 1
	if s.mode == "bdat" || s.mode == "binary" {
		go func() {
			_, _ = io.WriteString(c.conn, fmt.Sprintf("BDAT %d LAST\r\n%s", len(text), text[:cut]))
			_, _ = io.WriteString(c.conn, text[cut:]+"NOOP\r\n") // the server may be gone
		}()
	} else {
		c.do("DATA", "354")
		go func() {
			_, _ = io.WriteString(c.conn, text[:cut])
			_, _ = io.WriteString(c.conn, text[cut:]+"\r\n.\r\nNOOP\r\n")
		}()
	}
	want := "250"
	if s.mode != "binary" && (strings.Contains(frame, "\x00") || !s.NormaliseNewlines && strings.ContainsAny(strings.ReplaceAll(frame, "\r\n", ""), "\r\n")) {
		want = "" // the connection is not trusted any more
	}
	if got := c.reply(); !strings.HasPrefix(got, "554 5.4.6") && !(want == "" && strings.HasPrefix(got, "550 5.6.0")) { // by what came first
		t.Fatalf("%s %q cut at %d: got %q", s.mode, text, cut, got)
	}
	if got := c.reply(); !strings.HasPrefix(got, want) || want == "" && got != "" {
		t.Fatalf("%s %q cut at %d: got %q behind the answer, want %q", s.mode, text, cut, got, want)
	}
}

// TestBareRefused: what is wrong with such a message is said.
func TestBareRefused(t *testing.T) {
	for _, text := range []string{"a\nb", "a\rb", "\n.\n", "\r.\r", "\r\n.\n", "\n.\r\n", "a\r", "\n", "\r\n.\r\r\n"} {
		for _, bdat := range []bool{false, true} {
			h := newHost(t)
			c := h.pipe()
			c.begin()
			if bdat {
				go c.send(fmt.Sprintf("BDAT %d LAST\r\n%s", len(text), text))
			} else {
				c.do("DATA", "354")
				go c.send(text + "\r\n.\r\n")
			}
			c.expect("550 5.6.0 Message has a bare CR or LF")
			c.closed()
			h.none()
		}
	}
}
