package smtpserver

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/postel-mail/postel/internal/clock"
)

// The tests in this file are the defects that go-smtp 0.25.1 was measured to have, one letter each. They hold here for good.

// Row a: after a timeout within DATA, within what is thrown away, or within BDAT, the rest of the message must not run as commands.
func TestRowA(t *testing.T) {
	const evil = "\r\nMAIL FROM:<evil@far.example>\r\nRCPT TO:<bob@own.example>\r\nDATA\r\nevil\r\n.\r\n"
	for name, send := range map[string]string{
		"data":    "DATA\r\nSubject: x\r\n\r\nbody",
		"discard": "DATA\r\nSubject: x\r\n\r\n" + strings.Repeat("a", 100<<10),
		"bdat":    "BDAT 1000\r\nSubject: x\r\n\r\nbody",
		"chunks":  "BDAT 5\r\nhelloBDAT 1000\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			h.CommandTimeout, h.MaxSize = 300*time.Millisecond, 64<<10
			c := h.dial()
			c.send("EHLO x\r\nMAIL FROM:<alice@far.example>\r\nRCPT TO:<bob@own.example>\r\n" + send) // one write, so that only the stall times out
			all, err := io.ReadAll(io.TeeReader(c.r, writerFunc(func(p []byte) {
				if bytes.Contains(p, []byte("451 4.4.2")) || bytes.Contains(p, []byte("552 5.3.4")) {
					_, _ = c.conn.Write([]byte(evil)) // comes too late; the server may have closed
				}
			})))
			if err != nil && !errors.Is(err, net.ErrClosed) && !strings.Contains(err.Error(), "reset") {
				t.Fatal(err)
			}
			lines := strings.Split(strings.TrimRight(string(all), "\r\n"), "\r\n")
			if last := lines[len(lines)-1]; !strings.HasPrefix(last, "451 4.4.2") && !strings.HasPrefix(last, "552 5.3.4") {
				t.Errorf("last reply %q", last)
			}
			h.none()
		})
	}
}

type writerFunc func(p []byte)

func (f writerFunc) Write(p []byte) (int, error) { f(p); return len(p), nil }

// message sends a whole session up to the message in one write and gives the answer to the message.
func sendMessage(t *testing.T, h *host, body string) (answer string, closed bool) {
	t.Helper()
	c := h.dial()
	c.begin()
	c.do("DATA", "354")
	c.send(body)
	answer = c.reply()
	c.send("NOOP\r\n")
	return answer, c.reply() == ""
}

// Row b: CR CR LF is not a line's end that hides the next one: the message ends, and is refused.
func TestRowB(t *testing.T) {
	for _, body := range []string{"a\r\r\n.\r\n", "a\r\r\n..b\r\n.\r\n", "\r\r\n.\r\n"} {
		h := newHost(t)
		if answer, closed := sendMessage(t, h, body); !strings.HasPrefix(answer, "550 5.6.0") || !closed {
			t.Errorf("%q: %q, closed %v", body, answer, closed)
		}
		h.none()
	}
}

// Row c: a dot and a CR at the start of a line do not lose the CR.
func TestRowC(t *testing.T) {
	h := newHost(t)
	if answer, closed := sendMessage(t, h, "a\r\n.\rx\r\n.\r\n"); !strings.HasPrefix(answer, "550 5.6.0") || !closed {
		t.Errorf("%q, closed %v", answer, closed)
	}
	h.none()
}

// Row d: a chunk without a line end, in the segment of its command, is a chunk like any other.
func TestRowD(t *testing.T) {
	for _, n := range []int{3000, 4096, 30_000, 300_000} {
		h := newHost(t)
		c := h.pipe()
		c.begin()
		go c.send("BDAT " + strconv.Itoa(n) + " LAST\r\n" + strings.Repeat("a", n))
		c.expect("250 2.0.0 Ok: queued as")
		if _, _, text := h.one(); text != strings.Repeat("a", n)+"\r\n" {
			t.Errorf("%d octets: got %d", n, len(text))
		}
	}
}

// Row e: a line longer than RFC 5322 has it is taken as it is.
func TestRowE(t *testing.T) {
	for _, n := range []int{998, 2001, 5000, 500_000} {
		h := newHost(t)
		line := "Subject: x\r\n\r\n" + strings.Repeat("a", n) + "\r\n"
		if answer, closed := sendMessage(t, h, line+".\r\n"); !strings.HasPrefix(answer, "250") || closed {
			t.Errorf("%d: %q, closed %v", n, answer, closed)
		}
		if _, _, text := h.one(); text != line {
			t.Errorf("%d octets: the line changed", n)
		}
	}
}

// deadlines notes the read deadlines of a connection.
type deadlines struct {
	net.Conn
	mu  sync.Mutex
	all []time.Time
}

func (d *deadlines) SetReadDeadline(t time.Time) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.all = append(d.all, t)
	return nil // the times are a test's
}

// Row f: the time for a message begins anew with each block, so that a slow and steady client gets through. Here a minute passes before each of eight.
func TestRowF(t *testing.T) {
	h := newHost(t)
	start := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	var passed atomic.Int64
	clock.Set(func() time.Time { return start.Add(time.Duration(passed.Load())) })
	defer clock.Set(nil)
	ours, theirs := net.Pipe()
	d := &deadlines{Conn: theirs}
	done := make(chan struct{})
	go func() { defer close(done); h.session(d) }()
	c := newClient(t, ours)
	c.begin()
	c.do("DATA", "354")
	for range 8 {
		passed.Add(int64(time.Minute))
		c.send("a line\r\n") // returns when the server has read it
	}
	c.do(".", "250")
	c.conn.Close()
	<-done
	latest := start
	for _, at := range d.all {
		if at.After(latest) {
			latest = at
		}
	}
	if want := start.Add(10 * time.Minute); latest.Before(want) {
		t.Errorf("the last block had to be there at %v, want %v or later: the deadlines do not roll", latest, want)
	}
}

// Row g: <postmaster> without a domain is taken, in any case, in the clear and under TLS (RFC 5321 4.5.1).
func TestRowG(t *testing.T) {
	h := newHost(t)
	for _, secure := range []bool{false, true} {
		c := h.dial()
		if secure {
			c.startTLS()
		}
		c.do("EHLO x", "250")
		c.do("MAIL FROM:<x@far.example>", "250")
		for _, to := range []string{"postmaster", "POSTMASTER", "PostMaster@own.example", "postmaster@[127.0.0.1]"} {
			c.do("RCPT TO:<"+to+">", "250")
		}
		c.do("RCPT TO:<hostmaster>", "501")
	}
}

// Row h: MAIL within a transaction is refused, and its recipients do not stay behind the end.
func TestRowH(t *testing.T) {
	h := newHost(t)
	c := h.dial()
	c.begin()
	c.do("MAIL FROM:<other@far.example>", "503 5.5.1")
	c.do("RSET", "250")
	c.do("MAIL FROM:<other@far.example>", "250")
	c.do("DATA", "554 5.5.1")
	c.do("EHLO again", "250") // as RSET, RFC 5321 4.1.4
	c.do("MAIL FROM:<third@far.example>", "250")
	c.do("RCPT TO:<bob@back.example>", "250")
	c.do("DATA", "354")
	c.do(".", "250")
	c.do("DATA", "503")
	if e, _, _ := h.one(); e.From.String() != "third@far.example" || len(e.Rcpts) != 1 {
		t.Errorf("%+v", e)
	}
}

// Row i: a quoted local part keeps its quotes, and an address with two @ is none.
func TestRowI(t *testing.T) {
	h := newHost(t).trust()
	c := h.dial()
	c.do("EHLO x", "250")
	c.do("MAIL FROM:<a@b@c.example>", "501 5.1.7")
	c.do(`MAIL FROM:<"a@b"@c.example>`, "250")
	c.do("RCPT TO:<a@b@back.example>", "501 5.1.3")
	c.do(`RCPT TO:<"a@b"@back.example>`, "250")
	c.do(`RCPT TO:<"a> ORCPT=x"@back.example>`, "250")
	c.do("DATA", "354")
	c.do(".", "250")
	e, _, _ := h.one()
	if e.From.Angle() != `<"a@b"@c.example>` || e.Rcpts[0].To.Angle() != `<"a@b"@back.example>` || e.Rcpts[1].To.Angle() != `<"a> ORCPT=x"@back.example>` || e.Rcpts[1].ORcpt != "" {
		t.Errorf("%+v", e)
	}
}

// Row j: NUL, control and 8-bit octets are refused in names and paths, and never repeated.
func TestRowJ(t *testing.T) {
	for _, bad := range []string{"\x01", "\x1b[2J", "\x7f", "\xff", "\x80"} {
		h := newHost(t)
		c := h.dial()
		c.do("EHLO x", "250")
		for _, command := range []string{"EHLO a" + bad + "b", "HELO " + bad, "MAIL FROM:<a" + bad + "@far.example>", "MAIL FROM:<a@b" + bad + ".example>", `MAIL FROM:<"` + bad + `"@far.example>`,
			"NOOP", "MAIL FROM:<a@far.example>", "RCPT TO:<a" + bad + "@own.example>", "RCPT TO:<bob@own.example" + bad + ">", "RCPT TO:<bob@own.example> ORCPT=rfc822;" + bad, bad, "VRFY " + bad, "FOO" + bad} {
			c.send(command + "\r\n")
			got := c.reply()
			if strings.Contains(got, bad) {
				t.Errorf("%q: the reply repeats it: %q", command, got)
			}
			if strings.Contains(command, bad) && !strings.HasPrefix(got, "5") && !strings.HasPrefix(got, "252") {
				t.Errorf("%q: %q", command, got)
			}
		}
		c = newHost(t).dial()
		c.do("EHLO a\x00b", "500 5.5.2")
		c.closed()
		if strings.Contains(h.log.String(), bad) {
			t.Errorf("the log repeats %q", bad)
		}
	}
}

// Row k: a message of exactly the limit is taken, one octet more is not; a huge SIZE is too large, not a syntax error.
func TestRowK(t *testing.T) {
	for extra, want := range map[int]string{0: "250", 1: "552 5.3.4"} {
		for _, bdat := range []bool{false, true} {
			h := newHost(t)
			h.MaxSize = 64 << 10
			c := h.dial()
			c.begin()
			text := "\r\n" + strings.Repeat("a", int(h.MaxSize)-4+extra) + "\r\n"
			if bdat {
				c.send("BDAT " + strconv.Itoa(len(text)) + " LAST\r\n" + text)
			} else {
				c.do("DATA", "354")
				c.send(text + ".\r\n")
			}
			c.expect(want)
			c.do("MAIL FROM:<> SIZE=4294967296", "552 5.3.4")
			c.do("MAIL FROM:<> SIZE=18446744073709551617", "552 5.3.4")
			c.do("MAIL FROM:<> SIZE=65536", "250")
		}
	}
}

// Row l: parameters that are not offered are refused as unknown, on the command they belong to and on the other.
func TestRowL(t *testing.T) {
	c := newHost(t).dial()
	if got := c.do("EHLO x", "250"); strings.Contains(got, "DELIVERBY") || strings.Contains(got, "MT-PRIORITY") {
		t.Errorf("%q", got)
	}
	c.do("MAIL FROM:<> BY=120;R", "555 5.5.4")
	c.do("MAIL FROM:<> MT-PRIORITY=3", "555 5.5.4")
	c.do("MAIL FROM:<>", "250")
	c.do("RCPT TO:<bob@own.example> BY=120;R", "555 5.5.4")
	c.do("RCPT TO:<bob@own.example> MT-PRIORITY=3", "555 5.5.4")
}

// Row m: after a failed handshake nothing more is said in the clear; STARTTLSxyz is not STARTTLS.
func TestRowM(t *testing.T) {
	h := newHost(t)
	c := h.dial()
	c.do("EHLO x", "250")
	c.do("STARTTLSxyz", "500 5.5.1")
	c.do("STARTTLS", "220")
	c.send("NOOP\r\nMAIL FROM:<>\r\n")
	rest, _ := io.ReadAll(c.r) // an alert, and perhaps a reset
	if bytes.Contains(rest, []byte("250")) || !strings.Contains(h.log.String(), "event=tls-failed client=127.0.0.1") {
		t.Errorf("got %q\n%s", rest, h.log)
	}
	h = newHost(t)
	c = h.dial()
	c.do("EHLO x", "250")
	c.do("STARTTLS", "220")
	if err := tls.Client(c.conn, &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS11}).Handshake(); err == nil {
		t.Error("TLS 1.1 is spoken")
	}
	h = newHost(t)
	h.TLS = nil
	c = h.dial()
	if got := c.do("EHLO x", "250"); strings.Contains(got, "STARTTLS") {
		t.Errorf("%q", got)
	}
	c.do("STARTTLS", "502")
}

// Row n: a status that is wrapped keeps its code, and what is around it stays with us.
func TestRowN(t *testing.T) {
	h := newHost(t)
	c := h.dial()
	c.begin()
	if got := c.do("RCPT TO:<wrapped@own.example>", "550 5.2.1 Mailbox disabled"); strings.Contains(got, "alias") {
		t.Errorf("%q", got)
	}
	if got := c.do("RCPT TO:<broken@own.example>", "451 4.3.0"); strings.Contains(got, "secret") {
		t.Errorf("%q", got)
	}
	if !strings.Contains(h.log.String(), "/secret") {
		t.Errorf("the cause is not in the log: %s", h.log)
	}
}

// Row o: a bad sequence is 503; a trailing blank is tolerated; refused recipients and logins count as errors too.
func TestRowO(t *testing.T) {
	h := newHost(t)
	h.Submission = true
	c := h.dial()
	c.do("RCPT TO:<bob@own.example>", "503")
	c.do("DATA", "503")
	c.do("EHLO x ", "250")
	c.do("NOOP ", "250")
	c.do("RSET  ", "250")
	h = newHost(t)
	c = h.dial()
	c.do("EHLO x", "250")
	c.do("MAIL FROM:<>", "250")
	for range maxErrors {
		c.do("RCPT TO:<nobody@own.example>", "550")
	}
	c.expect("421 4.7.0")
	c.closed()
}
