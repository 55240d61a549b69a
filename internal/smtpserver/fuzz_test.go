package smtpserver

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/postel-mail/postel/internal/clock"
)

// script is a client that says its lines, one read each, and leaves.
type script struct {
	net.Conn // nil: nothing else is asked of it
	in       []string
	out      bytes.Buffer
}

func (c *script) Read(p []byte) (int, error) {
	for len(c.in) > 0 && c.in[0] == "" {
		c.in = c.in[1:]
	}
	if len(c.in) == 0 {
		return 0, io.EOF
	}
	n := copy(p, c.in[0])
	c.in[0] = c.in[0][n:]
	return n, nil
}

func (c *script) Write(p []byte) (int, error)      { return c.out.Write(p) }
func (c *script) Close() error                     { return nil }
func (c *script) RemoteAddr() net.Addr             { return &net.UnixAddr{} }
func (c *script) LocalAddr() net.Addr              { return &net.UnixAddr{} }
func (c *script) SetReadDeadline(time.Time) error  { return nil }
func (c *script) SetWriteDeadline(time.Time) error { return nil }

// FuzzSession sends anything to a whole session, cut in two, and checks what must hold whatever was said: replies have their form, nothing of
// the input comes back, there is no more than one to a line, the session ends with its input, and every message in the queue was promised and is made of whole lines, or binary.
func FuzzSession(f *testing.F) {
	f.Add("EHLO x\r\nMAIL FROM:<a@far.example> SIZE=10\r\nRCPT TO:<bob@own.example>\r\nDATA\r\nSubject: x\r\n\r\n..y\r\n.\r\nQUIT\r\n", 30, false)
	f.Add("EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<postmaster>\r\nBDAT 3\r\nabcBDAT 0 LAST\r\nRSET\r\nNOOP\r\n", 50, false)
	f.Add("EHLO x\r\nAUTH LOGIN\r\nYm9i\r\nc2VjcmV0\r\nMAIL FROM:<> AUTH=<>\r\nRCPT TO:<x@else.example> NOTIFY=NEVER ORCPT=rfc822;x\r\nDATA\r\n\r\n.\r\n", 12, true)
	f.Add("EHLO x\r\nMAIL FROM:<b\xc3\xb8b@own.example> SMTPUTF8 BODY=8BITMIME RET=FULL ENVID=a+2Bb\r\nRCPT TO:<b\xc3\xb8b@own.example>\r\nDATA\r\n\n.\n\r\n.\r\nNOOP\r\n", 3, false)
	f.Add("EHLO x\r\nSTARTTLS\r\nNOOP\r\n", 16, true)
	f.Add("EHLO x\r\nMAIL FROM:<> BODY=BINARYMIME\r\nRCPT TO:<postmaster>\r\nBDAT 4\r\n\r\n\n\rBDAT 1 LAST\r\n.DATA\r\n", 60, false)
	f.Add("GET / HTTP/1.1\r\n\r\nHELO x\r\nVRFY a\r\nHELP\r\nAUTH PLAIN AGJvYgBzZWNyZXQ=\r\n", 9, true)
	hosts := map[bool]*host{false: newHost(f), true: newHost(f)}
	hosts[true].Submission = true
	for _, h := range hosts {
		h.MaxSize, h.MaxRecipients, h.MaxHops = 8<<10, 100, 3
	}
	f.Fuzz(func(t *testing.T, in string, cut int, submission bool) {
		h := hosts[submission]
		h.t = t
		cut = max(0, min(cut, len(in)))
		c := &script{in: []string{in[:cut], in[cut:], "\r\nQUIT\r\n"}}
		h.session(c)
		checkSession(t, h, in, c.out.String())
	})
}

// checkSession checks what a session has said to in, and what it has queued, and empties the queue.
func checkSession(t *testing.T, h *host, in, said string) {
	t.Helper()
	queued, replies := 0, 0
	for line := range strings.Lines(said) {
		if line[0] == 0x15 || line[0] == 0x16 {
			break // what TLS says to a client that does not speak it
		}
		if len(line) < 6 || !strings.HasSuffix(line, "\r\n") || strings.ContainsAny(line[:len(line)-2], "\r\n\x00") || line[0] < '2' || line[0] > '5' || line[3] != ' ' && line[3] != '-' {
			t.Fatalf("%q: line %q", in, line)
		}
		if line[3] == ' ' {
			replies++
		}
		if strings.Contains(line, "queued as") {
			queued++
		}
	}
	// A greeting, one reply to a line, two to what the test adds, and one when the session ends for another reason.
	if most := strings.Count(in, "\n") + 4; replies > most {
		t.Fatalf("%q: %d replies\n%s", in, replies, said)
	}
	envelopes, texts := h.queued()
	if len(texts) != queued {
		t.Fatalf("%q: %d messages promised, %d in the queue", in, queued, len(texts))
	}
	for i, text := range texts {
		e := envelopes[i]
		lines := e.Body == "BINARYMIME" || !strings.ContainsAny(strings.ReplaceAll(text, "\r\n", ""), "\r\n\x00") && strings.HasSuffix(text, "\r\n")
		if !lines || !strings.HasPrefix(text, "Received: ") || len(e.Rcpts) == 0 || e.RequireTLS && !strings.Contains(text, "(TLS") {
			t.Fatalf("%q: queued %+v %q", in, e, text)
		}
		m, err := h.Spool.Claim(e.ID)
		if err != nil {
			t.Fatal(err)
		}
		if err := m.Remove(); err != nil {
			t.Fatal(err)
		}
		m.Close()
	}
}

// FuzzSecureSession does the same behind a handshake, after a login or in the middle of one.
func FuzzSecureSession(f *testing.F) {
	f.Add("MAIL FROM:<a@far.example> REQUIRETLS BODY=BINARYMIME\r\nRCPT TO:<bob@own.example>\r\nBDAT 5 LAST\r\n\r\n\n\x00.NOOP\r\n", 40, 0)
	f.Add("STARTTLS\r\nAUTH PLAIN AGJvYgBzZWNyZXQ=\r\nAUTH PLAIN\r\n", 9, 1)
	f.Add("AGJvYgBzZWNyZXQ=\r\nMAIL FROM:<bob@own.example>\r\nRCPT TO:<x@else.example> ORCPT=utf-8;\\x{F8}\r\nDATA\r\nSubject: x\r\n\r\n.\r\n", 20, 2)
	f.Add("*\r\nAUTH LOGIN\r\nYm9i\r\n=\r\nEHLO y\r\nRSET\r\n", 3, 2)
	f.Add("MAIL FROM:<bob@own.example> SMTPUTF8\r\nRCPT TO:<x@else.example> ORCPT=utf-8;\xc3\xb8@y NOTIFY=DELAY\r\nBDAT 0\r\nBDAT 3 LAST\r\nabc", 7, 3)
	before := []string{"EHLO x\r\n", "EHLO x\r\n", "EHLO x\r\nAUTH PLAIN\r\n", "EHLO x\r\nAUTH PLAIN AGJvYgBzZWNyZXQ=\r\n"}
	hosts := []*host{newHost(f), newHost(f)}
	hosts[1].Submission = true
	for _, h := range hosts {
		h.MaxSize, h.MaxRecipients, h.MaxHops = 8<<10, 100, 3
	}
	f.Fuzz(func(t *testing.T, in string, cut, stage int) {
		stage = max(0, min(stage, len(before)-1))
		h := hosts[min(stage, 1)]
		h.t = t
		cut = max(0, min(cut, len(in)))
		ours, theirs := net.Pipe()
		ended := make(chan struct{})
		go func() { defer close(ended); h.session(theirs) }()
		_ = ours.SetDeadline(clock.Now().Add(time.Minute))
		c := &client{t: t, conn: ours, r: bufio.NewReader(ours)}
		c.expect("220")
		c.do("STARTTLS", "220")
		secure := tls.Client(ours, &tls.Config{InsecureSkipVerify: true})
		if err := secure.Handshake(); err != nil {
			t.Fatal(err)
		}
		go func() {
			for _, s := range []string{before[stage], in[:cut], in[cut:], "\r\nQUIT\r\n"} {
				if _, err := io.WriteString(secure, s); err != nil {
					return // the server has ended it
				}
			}
			_ = secure.CloseWrite() // as above
		}()
		said, err := io.ReadAll(secure)
		if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
			t.Fatalf("%q: %v", in, err)
		}
		ours.Close()
		<-ended
		checkSession(t, h, before[stage]+in, string(said))
	})
}
