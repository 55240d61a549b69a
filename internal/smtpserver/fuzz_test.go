package smtpserver

import (
	"bytes"
	"io"
	"net"
	"strings"
	"testing"
	"time"
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
// the input comes back, the session ends with its input, and every message in the queue was promised and is made of whole lines.
func FuzzSession(f *testing.F) {
	f.Add("EHLO x\r\nMAIL FROM:<a@far.example> SIZE=10\r\nRCPT TO:<bob@own.example>\r\nDATA\r\nSubject: x\r\n\r\n..y\r\n.\r\nQUIT\r\n", 30, false)
	f.Add("EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<postmaster>\r\nBDAT 3\r\nabcBDAT 0 LAST\r\nRSET\r\nNOOP\r\n", 50, false)
	f.Add("EHLO x\r\nAUTH LOGIN\r\nYm9i\r\nc2VjcmV0\r\nMAIL FROM:<> AUTH=<>\r\nRCPT TO:<x@else.example> NOTIFY=NEVER ORCPT=rfc822;x\r\nDATA\r\n\r\n.\r\n", 12, true)
	f.Add("EHLO x\r\nMAIL FROM:<b\xc3\xb8b@own.example> SMTPUTF8 BODY=8BITMIME RET=FULL ENVID=a+2Bb\r\nRCPT TO:<b\xc3\xb8b@own.example>\r\nDATA\r\n\n.\n\r\n.\r\nNOOP\r\n", 3, false)
	f.Add("EHLO x\r\nSTARTTLS\r\nNOOP\r\n", 16, true)
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
		all := &c.out
		queued := 0
		for line := range strings.Lines(all.String()) {
			if line[0] == 0x15 || line[0] == 0x16 {
				break // what TLS says to a client that does not speak it
			}
			if len(line) < 6 || !strings.HasSuffix(line, "\r\n") || strings.ContainsAny(line[:len(line)-2], "\r\n\x00") || line[0] < '2' || line[0] > '5' || line[3] != ' ' && line[3] != '-' {
				t.Fatalf("%q: line %q", in, line)
			}
			if strings.Contains(line, "queued as") {
				queued++
			}
		}
		envelopes, texts := h.queued()
		if len(texts) != queued {
			t.Fatalf("%q: %d messages promised, %d in the queue", in, queued, len(texts))
		}
		for i, text := range texts {
			if rest := strings.ReplaceAll(text, "\r\n", ""); strings.ContainsAny(rest, "\r\n\x00") || !strings.HasSuffix(text, "\r\n") || !strings.HasPrefix(text, "Received: ") {
				t.Fatalf("%q: queued %q", in, text)
			}
			m, err := h.Spool.Claim(envelopes[i].ID)
			if err != nil {
				t.Fatal(err)
			}
			if err := m.Remove(); err != nil {
				t.Fatal(err)
			}
			m.Close()
		}
	})
}
