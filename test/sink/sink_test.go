package sink

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"hash/crc32"
	"net"
	"strings"
	"testing"
	"time"
)

// client is a connection to a sink, by text.
type client struct {
	t *testing.T
	net.Conn
	r *bufio.Reader
}

func dial(t *testing.T, addr string) *client {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(time.Minute)) // a hang is a failure
	return &client{t, conn, bufio.NewReader(conn)}
}

// reply reads one reply, its lines without CRLF joined by "|"; "" at the end of the connection.
func (c *client) reply() string {
	var lines []string
	for {
		line, err := c.r.ReadString('\n')
		if err != nil {
			return strings.Join(lines, "|")
		}
		lines = append(lines, strings.TrimSuffix(line, "\r\n"))
		if len(line) < 4 || line[3] == ' ' {
			return strings.Join(lines, "|")
		}
	}
}

func (c *client) send(text string) {
	c.t.Helper()
	if _, err := fmt.Fprint(c, text); err != nil {
		c.t.Fatal(err)
	}
}

// dialog sends each line that begins with "C: " and wants each that begins with "S: " as the start of a reply; "S: -" is the end of the connection.
func (c *client) dialog(text string) {
	c.t.Helper()
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if out, ok := strings.CutPrefix(line, "C: "); ok {
			c.send(strings.ReplaceAll(out, "~", "\r\n") + "\r\n")
		} else if want, ok := strings.CutPrefix(line, "S: "); ok {
			got := c.reply()
			if want == "-" && got != "" || want != "-" && !strings.HasPrefix(got, want) {
				c.t.Fatalf("got %q, want %q", got, want)
			}
		}
	}
}

func listen(t *testing.T, script string) (*Sink, string) {
	t.Helper()
	s := New()
	s.Keep = true
	t.Cleanup(s.Close)
	addr, err := s.Listen("127.0.0.1:0", script)
	if err != nil {
		t.Fatal(err)
	}
	return s, addr
}

func TestDialogs(t *testing.T) {
	for _, tt := range []struct{ name, script, dialog, to string }{
		{"a message", "", `
			S: 220 sink.test ESMTP
			C: EHLO c
			S: 250-sink.test|250-PIPELINING|250-8BITMIME|250 ENHANCEDSTATUSCODES
			C: MAIL FROM:<a@b>~RCPT TO:<c@d>~RCPT TO:<"x>y"@d>~DATA
			S: 250 2.1.0
			S: 250 2.1.5
			S: 250 2.1.5
			S: 354
			C: Subject: x~~..dot~.
			S: 250 2.0.0
			C: QUIT
			S: 221
			S: -`, `c@d "x>y"@d`},
		{"busy", "connect 421 4.3.2 Busy", "S: 421 4.3.2 Busy\nS: -", ""},
		{"no service", "connect 554 5.3.2 No mail here", "S: 554 5.3.2\nC: EHLO c\nS: 503\nC: QUIT\nS: -", ""},
		{"closed at once", "connect close", "S: -", ""},
		{"recipients", "rcpt to=*@full.example 452 4.2.2 Full; rcpt to=no@* 550 5.1.1 No such user; rcpt after=2 452 4.5.3 Too many", `
			S: 220
			C: EHLO c~MAIL FROM:<>~RCPT TO:<a@FULL.example>~RCPT TO:<ok@x>~RCPT TO:<no@x>~RCPT TO:<more@x>~DATA
			S: 250
			S: 250
			S: 452 4.2.2
			S: 250
			S: 550 5.1.1
			S: 452 4.5.3
			S: 354
			C: ~.
			S: 250`, "ok@x"},
		{"greylisting, by recipient", "rcpt first=1 451 4.7.1 Greylisted", `
			S: 220
			C: EHLO c~MAIL FROM:<>~RCPT TO:<a@x>~RCPT TO:<b@x>~RCPT TO:<a@x>~RCPT TO:<b@x>~RSET
			S: 250
			S: 250
			S: 451
			S: 451
			S: 250
			S: 250
			S: 250`, ""},
		{"a session's worth", "mail after=1 421 4.7.0 Enough", `
			S: 220
			C: EHLO c~MAIL FROM:<>~RSET~MAIL FROM:<>
			S: 250
			S: 250
			S: 250
			S: 421 4.7.0
			S: -`, ""},
		{"by sender", "mail from=bad@* 550 5.7.1 Not you; dot from=*@slow delay=1ms", `
			S: 220
			C: EHLO c
			S: 250
			C: MAIL FROM:<bad@x>
			S: 550
			C: MAIL FROM:<a@slow>~RCPT TO:<b@x>~DATA
			S: 250
			S: 250
			S: 354
			C: .
			S: 250`, "b@x"},
		{"closed behind DATA", "dot close", `
			S: 220
			C: EHLO c~MAIL FROM:<>~RCPT TO:<a@x>~DATA
			S: 250
			S: 250
			S: 250
			S: 354
			C: .
			S: -`, ""},
		{"closed within a message", "octets 64", `
			S: 220
			C: EHLO c~MAIL FROM:<>~RCPT TO:<a@x>~DATA
			S: 250
			S: 250
			S: 250
			S: 354
			C: Subject: this goes on and on
			S: -`, ""},
		{"LMTP", "lmtp; dot to=b@* 452 4.2.2 Full", `
			S: 220
			C: EHLO c
			S: 500
			C: LHLO c~MAIL FROM:<>~RCPT TO:<a@x>~RCPT TO:<b@x>~RCPT TO:<c@x>~DATA
			S: 250
			S: 250
			S: 250
			S: 250
			S: 250
			S: 354
			C: .
			S: 250
			S: 452
			S: 250`, "a@x c@x"},
		{"BDAT", "ext PIPELINING CHUNKING", `
			S: 220
			C: EHLO c~MAIL FROM:<>~RCPT TO:<a@x>~BDAT 6~.~y~BDAT 2 LAST~
			S: 250
			S: 250
			S: 250
			S: 250
			S: 250 2.0.0`, "a@x"},
		{"parameters", "ext PIPELINING SIZE_100", `
			S: 220
			C: EHLO c~MAIL FROM:<> SIZE=101~MAIL FROM:<> BODY=8BITMIME~MAIL FROM:<> SIZE=100~RCPT TO:<a@x> NOTIFY=NEVER
			S: 250-sink.test|250-PIPELINING|250 SIZE 100
			S: 552
			S: 555
			S: 250
			S: 555`, ""},
		{"logins", "ext AUTH_PLAIN_LOGIN PIPELINING; user u p", `
			S: 220
			C: EHLO c~AUTH PLAIN AHUAeA==~AUTH PLAIN~AHUAcA==~AUTH LOGIN~dQ==~cA==
			S: 250
			S: 535
			S: 334
			S: 235
			S: 334 VXNlcm5hbWU6
			S: 334 UGFzc3dvcmQ6
			S: 235`, ""},
		{"no pipelining", "ext", `
			S: 220
			C: EHLO c
			S: 250 sink.test
			C: NOOP~NOOP
			S: 503
			S: -`, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, addr := listen(t, tt.script)
			dial(t, addr).dialog(tt.dialog)
			got := ""
			for _, m := range s.Messages() {
				got += strings.Join(m.To, " ")
			}
			if got != tt.to {
				t.Errorf("recipients %q, want %q", got, tt.to)
			}
		})
	}
}

// TestRecord: what is kept of a message, in one piece and octet by octet.
func TestRecord(t *testing.T) {
	const text = "Subject: x\r\nMessage-Id:\r\n <1@x>\r\nX: y\r\n\r\n.dot\r\nb\xe4r\r\n"
	for _, step := range []int{len(text), 1} {
		c := &content{keep: true}
		for i := 0; i < len(text); i += step {
			c.write([]byte(text[i : i+step]))
		}
		var m Message
		c.end(&m)
		want := crc32.Checksum([]byte(".dot\r\nb\xe4r\r\n"), castagnoli)
		if m.ID != "<1@x>" || m.Size != int64(len(text)) || m.Sum != want || !m.Eight || m.Bare || m.Longest != 13 || m.Text != text {
			t.Errorf("by %d octets: %+v", step, m)
		}
	}
	for text, bare := range map[string]bool{"\r\n": false, "a\r\nb\r\n": false, "a\n": true, "a\rb\r\n": true, "a\r\r\n": true, "a\r": true, "\n": true} {
		c, m := &content{}, Message{}
		c.write([]byte(text))
		if c.end(&m); m.Bare != bare {
			t.Errorf("%q: bare %v, want %v", text, m.Bare, bare)
		}
	}
}

// TestLongLines: the dot at the start of a line is seen wherever the blocks that are read end.
func TestLongLines(t *testing.T) {
	s, addr := listen(t, "")
	c := dial(t, addr)
	c.dialog("S: 220\nC: EHLO c\nS: 250")
	for _, n := range []int{4093, 4094, 4095, 4096, 4097} {
		c.dialog("C: MAIL FROM:<>~RCPT TO:<a@x>~DATA\nS: 250\nS: 250\nS: 354")
		c.send(strings.Repeat("x", n) + "\r\n..y\r\n.\r\n")
		c.dialog("S: 250")
	}
	for i, m := range s.Messages() {
		if want := strings.Repeat("x", 4093+i) + "\r\n.y\r\n"; m.Text != want || m.Bare || m.Longest != 4095+i {
			t.Errorf("%d: got %d octets, want %d; bare %v, longest %d", i, len(m.Text), len(want), m.Bare, m.Longest)
		}
	}
}

func TestHang(t *testing.T) {
	s, addr := listen(t, "dot hang")
	ctx := t.Context()
	c, lost := dial(t, addr), dial(t, addr)
	lost.dialog("S: 220\nC: EHLO c~MAIL FROM:<>~RCPT TO:<a@x>~DATA\nS: 250\nS: 250\nS: 250\nS: 354\nC: .")
	c.dialog("S: 220\nC: EHLO c~MAIL FROM:<>~RCPT TO:<b@x>~DATA\nS: 250\nS: 250\nS: 250\nS: 354\nC: .~NOOP")
	await := func(step string, n int) {
		t.Helper()
		ctx, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		if err := s.Await(ctx, step, n); err != nil {
			t.Fatalf("%d of %s: %v", n, step, err)
		}
	}
	await("dot", 2)
	lost.Close()
	await("disconnection", 1)
	if n := s.Count("message"); n != 0 {
		t.Errorf("%d messages before Release", n)
	}
	s.Release()
	c.dialog("S: 250\nS: 250")
	if m := s.Messages(); len(m) != 1 || m[0].To[0] != "b@x" {
		t.Errorf("messages %v", m)
	}
	if now, most := s.Connections(); now != 1 || most != 2 {
		t.Errorf("%d connections, at most %d, want 1 and 2", now, most)
	}
}

func TestTLS(t *testing.T) {
	s, addr := listen(t, "ext STARTTLS PIPELINING")
	c := dial(t, addr)
	c.dialog("S: 220\nC: EHLO c\nS: 250-sink.test|250-STARTTLS|250 PIPELINING\nC: STARTTLS\nS: 220")
	conn := tls.Client(c.Conn, &tls.Config{InsecureSkipVerify: true})
	inner := &client{t, conn, bufio.NewReader(conn)}
	inner.dialog("C: EHLO c\nS: 250-sink.test|250 PIPELINING\nC: MAIL FROM:<>~RCPT TO:<b@x>~DATA\nS: 250\nS: 250\nS: 354\nC: .\nS: 250")
	if m := s.Messages(); len(m) != 1 || !m[0].TLS {
		t.Errorf("messages %v", m)
	}
	implicit, err := s.Listen("127.0.0.1:0", "tls")
	if err != nil {
		t.Fatal(err)
	}
	conn = tls.Client(dial(t, implicit).Conn, &tls.Config{InsecureSkipVerify: true})
	(&client{t, conn, bufio.NewReader(conn)}).dialog("S: 220\nC: QUIT\nS: 221")
}

func TestParse(t *testing.T) {
	for script, want := range map[string]string{
		"nonsense":             "not a statement",
		"rcpt twice":           "not an action",
		"rcpt to=[ 450 x":      "syntax error",
		"rcpt color=red hang":  "unknown key",
		"dot delay=soon":       "invalid duration",
		"octets many":          "invalid syntax",
		"dot 199 no such code": "not an action",
	} {
		if _, err := Parse(script); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", script, err, want)
		}
	}
}
