package smtpserver

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	gosasl "github.com/emersion/go-sasl"
	gosmtp "github.com/emersion/go-smtp"

	"github.com/postel-mail/postel/internal/address"
	"github.com/postel-mail/postel/internal/status"
)

// TestDialogs plays the dialogs in testdata/dialog: C: is sent, S: is one line of a reply, "*" at its end stands for the rest of the reply, TLS is a handshake.
func TestDialogs(t *testing.T) {
	files, err := filepath.Glob("testdata/dialog/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no dialogs", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			h := newHost(t)
			h.Submission = strings.Contains(file, "submission")
			play(t, h.dial(), file, string(text))
		})
	}
}

func play(t *testing.T, c *client, file, text string) {
	for i, line := range strings.Split(strings.TrimRight(text, "\n"), "\n") {
		where := fmt.Sprintf("%s:%d", file, i+1)
		switch {
		case strings.HasPrefix(line, "#"):
		case line == "TLS":
			c.handshake()
		case line == "S: EOF":
			c.closed()
		case strings.HasPrefix(line, "C: "):
			c.send(line[3:] + "\r\n")
		case strings.HasPrefix(line, "S: "):
			want, rest := strings.CutSuffix(line[3:], "*")
			got, err := c.r.ReadString('\n')
			if err != nil {
				t.Fatalf("%s: %v, want %q", where, err, want)
			}
			if !strings.HasPrefix(got, want) || !rest && got != want+"\r\n" {
				t.Fatalf("%s: got %q, want %q", where, got, want)
			}
			for rest && len(want) < 4 && len(got) > 3 && got[3] == '-' {
				if got, err = c.r.ReadString('\n'); err != nil {
					t.Fatalf("%s: %v", where, err)
				}
			}
		default:
			t.Fatalf("%s: %q is no line of a dialog", where, line)
		}
	}
}

func TestExchange(t *testing.T) {
	h := newHost(t)
	c := h.dial()
	c.send("EHLO [192.0.2.1]\r\nMAIL FROM:<alice@far.example> RET=HDRS ENVID=a+2Bb BODY=8BITMIME\r\n" +
		"RCPT TO:<bob@own.example> NOTIFY=success,failure ORCPT=rfc822;robert+2Bx@own.example\r\nDATA\r\n")
	for _, want := range []string{"250", "250", "250", "354"} {
		c.expect(want)
	}
	const text = "Received: from a\r\n\tby b; Mon, 1 Jan 2026 00:00:00 +0000\r\nSubject: h\xc3\xb6\r\nBcc: x@y.example\r\n\r\nbody\r\n.\r\n"
	c.send(strings.ReplaceAll(text, "\r\n.", "\r\n..") + ".\r\n")
	id := strings.TrimPrefix(c.expect("250 2.0.0 Ok: queued as "), "250 2.0.0 Ok: queued as ")
	c.do("QUIT", "221")
	c.closed()

	e, trace, got := h.one()
	if got != text {
		t.Errorf("the message changed:\ngot  %q\nwant %q", got, text)
	}
	if e.ID != id || e.From.String() != "alice@far.example" || e.Ret != "HDRS" || e.EnvID != "a+b" || e.Body != "8BITMIME" || e.Client != "127.0.0.1" ||
		len(e.Rcpts) != 1 || e.Rcpts[0].Notify != "SUCCESS,FAILURE" || e.Rcpts[0].ORcpt != "rfc822;robert+x@own.example" {
		t.Errorf("envelope %+v", e)
	}
	if !strings.HasPrefix(trace, "Received: from [192.0.2.1] ([127.0.0.1])\r\n\tby mail.own.example with ESMTP\r\n\tid "+id+"\r\n\tfor <bob@own.example>; ") {
		t.Errorf("trace %q", trace)
	}
	log := h.log.String()
	for _, want := range []string{"event=connect client=127.0.0.1", "event=accepted id=" + id + " from=<alice@far.example> size=", " nrcpt=1 client=127.0.0.1 proto=ESMTP\n", "event=disconnect client=127.0.0.1\n"} {
		if !strings.Contains(log, want) {
			t.Errorf("no %q in the log\n%s", want, log)
		}
	}
}

// TestSubmit has a stranger's client log in and send.
func TestSubmit(t *testing.T) {
	for _, implicit := range []bool{false, true} {
		h := newHost(t)
		h.Submission, h.ImplicitTLS = true, implicit
		addr, config := h.serve(), &tls.Config{InsecureSkipVerify: true}
		var c *gosmtp.Client
		var err error
		if implicit {
			c, err = gosmtp.DialTLS(addr, config)
		} else {
			c, err = gosmtp.DialStartTLS(addr, config)
		}
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if err := c.Auth(gosasl.NewPlainClient("", "bob", "wrong")); err == nil {
			t.Error("a wrong password opens the door")
		}
		if err := c.Auth(gosasl.NewPlainClient("", "bob", "secret")); err != nil {
			t.Fatal(err)
		}
		if err := c.SendMail("bob@own.example", []string{"x@else.example", "y@else.example"},
			strings.NewReader("To: x@else.example, jane\r\nBcc: y@else.example\r\n\r\n.\r\nhi\r\n")); err != nil {
			t.Fatal(err)
		}
		if err := c.Quit(); err != nil {
			t.Error(err)
		}
		e, trace, got := h.one()
		if e.Auth != "bob@own.example" || len(e.Rcpts) != 2 {
			t.Errorf("envelope %+v", e)
		}
		if !strings.HasPrefix(trace, "Received: by mail.own.example with ESMTPSA\r\n\t(TLSv1.3 TLS_AES_128_GCM_SHA256)\r\n\tid "+e.ID+"; ") {
			t.Errorf("trace %q", trace)
		}
		for _, want := range []string{"To: x@else.example, jane@mail.own.example\r\n", "\r\nDate: ", "\r\nFrom: bob@own.example\r\n", "\r\nMessage-ID: <" + e.ID + "@mail.own.example>\r\n", "\r\n\r\n.\r\nhi\r\n"} {
			if !strings.Contains(got, want) {
				t.Errorf("no %q in %q", want, got)
			}
		}
		if strings.Contains(got, "Bcc") || strings.Contains(trace, "127.0.0.1") {
			t.Errorf("the message tells what it must not: %q", trace+got)
		}
		log := h.log.String()
		for _, want := range []string{"event=login-failed user=bob client=127.0.0.1 proto=smtp text=", "event=login user=bob@own.example client=127.0.0.1 proto=smtp", "proto=ESMTPSA auth=bob@own.example"} {
			if !strings.Contains(log, want) {
				t.Errorf("no %q in the log\n%s", want, log)
			}
		}
		if strings.Contains(log, "secret") || strings.Contains(log, "wrong\"") && strings.Contains(log, "password=") {
			t.Errorf("a password is in the log\n%s", log)
		}
	}
}

func TestSubmissionHeaderForms(t *testing.T) {
	for _, tt := range []struct{ in, end string }{
		{"Subject: x\r\n\r\nbody\r\n", "\r\n\r\nbody\r\n"},
		{"\r\nbody\r\n", "\r\n\r\nbody\r\n"},
		{"Subject: only a header\r\n", "\r\n\r\n"},
		{"", "\r\n\r\n"},
		{"no header\r\nat all\r\n", "\r\n\r\nno header\r\nat all\r\n"},
	} {
		h := newHost(t).trust()
		h.Submission = true
		c := h.dial()
		c.begin()
		c.do("DATA", "354")
		c.do(tt.in+".", "250")
		_, _, got := h.one()
		if !strings.HasSuffix(got, tt.end) || !strings.Contains(got, "Message-ID: <") || strings.Count(got, "\r\n\r\n") != 1 {
			t.Errorf("%q: got %q", tt.in, got)
		}
	}
}

// TestRelayClosed tries to send to elsewhere in every form that has worked somewhere.
func TestRelayClosed(t *testing.T) {
	h := newHost(t)
	for _, from := range []string{"<>", "<bob@own.example>", "<x@else.example>", "<postmaster@own.example>"} {
		c := h.dial()
		c.do("EHLO own.example", "250")
		c.do("MAIL FROM:"+from, "250")
		c.do("RCPT TO:<bob@own.example>", "250")
		for _, to := range []string{"x@else.example", "x@sub.own.example", "x@ownexample", "x@own.example.else.example", "x@[192.0.2.1]", "x@[IPv6:::1]",
			`"x@else.example"@else.example`, "@own.example:x@else.example", "postmaster@else.example", "x@sub.back.example", "x@localhost"} {
			if got := c.do("RCPT TO:<"+to+">", "550 5."); strings.Contains(got, "@") {
				t.Errorf("the reply repeats what it was sent: %q", got)
			}
			c.do("RCPT TO:<bob@own.example>", "250")
		}
		for _, to := range []string{"x@else.example@own.example", "x@own.example@else.example", `"x"y@own.example`, "own.example!x@", "x@else.example>, <bob@own.example"} {
			c.do("RCPT TO:<"+to+">", "501 5.")
			c.do("RCPT TO:<bob@own.example>", "250")
		}
		c.do("RSET", "250")
	}
}

func TestTrusted(t *testing.T) {
	relay := func(h *host, c *client, want string) {
		t.Helper()
		c.do("EHLO x", "250")
		if got := c.do("MAIL FROM:<a@own.example>", ""); !strings.HasPrefix(got, "250") {
			if !strings.HasPrefix(got, want) {
				t.Errorf("got %q, want %q", got, want)
			}
			return
		}
		c.do("RCPT TO:<x@else.example>", want)
	}
	for _, submission := range []bool{false, true} {
		h := newHost(t).trust()
		h.Submission = submission
		relay(h, h.dial(), "250") // a relay network
		h = newHost(t)
		h.Submission = submission
		relay(h, h.pipe(), "250") // private
		relay(h, h.dial(), map[bool]string{false: "550 5.7.1", true: "530 5.7.0"}[submission])
		h.RelayNetworks = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("::/0")}
		relay(h, h.dial(), map[bool]string{false: "550 5.7.1", true: "530 5.7.0"}[submission])
	}
}

func TestPlaintextLogin(t *testing.T) {
	h := newHost(t)
	h.Submission = true
	h.PlaintextLogin = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	c := h.dial()
	if got := c.do("EHLO x", "250"); !strings.Contains(got, "AUTH PLAIN LOGIN") {
		t.Errorf("AUTH is not offered: %q", got)
	}
	c.do("AUTH PLAIN AGJvYgBzZWNyZXQ=", "235")
}

// TestHere: our own address counts as our domain, another's does not (RFC 5321 4.1.3).
func TestHere(t *testing.T) {
	h := newHost(t)
	c := h.dial()
	c.begin()
	c.do("RCPT TO:<bob@[127.0.0.1]>", "250")
	c.do("RCPT TO:<nobody@[127.0.0.1]>", "550 5.1.1")
	c.do("RCPT TO:<bob@[127.0.0.2]>", "550 5.7.1")
	c.do("RCPT TO:<Postmaster>", "250")
	c.do("DATA", "354")
	c.do(".", "250")
	e, trace, _ := h.one()
	var got []string
	for _, r := range e.Rcpts {
		got = append(got, r.To.String())
	}
	if want := "bob@own.example Postmaster@own.example"; strings.Join(got, " ") != want {
		t.Errorf("recipients %q, want %q", got, want)
	}
	if strings.Contains(trace, "for <") {
		t.Errorf("the trace of two recipients names one: %q", trace)
	}
}

func TestLimits(t *testing.T) {
	t.Run("recipients", func(t *testing.T) {
		h := newHost(t)
		h.Verify = nil
		c := h.dial()
		c.do("EHLO x", "250")
		c.do("MAIL FROM:<>", "250")
		for i := range h.MaxRecipients {
			c.do(fmt.Sprintf("RCPT TO:<u%d@own.example>", i), "250")
		}
		c.do("RCPT TO:<bob@own.example>", "452 4.5.3")
		c.do("DATA", "354")
		c.do(".", "250")
		if e, _, _ := h.one(); len(e.Rcpts) != h.MaxRecipients {
			t.Errorf("%d recipients", len(e.Rcpts))
		}
	})
	t.Run("errors", func(t *testing.T) {
		c := newHost(t).dial()
		for range maxErrors - 1 {
			c.do("FOO", "500")
		}
		c.do("FOO", "500")
		c.expect("421 4.7.0")
		c.closed()
	})
	t.Run("errors with good recipients", func(t *testing.T) {
		h := newHost(t)
		h.MaxRecipients = 1000
		h.Verify = func(_ context.Context, p address.Path) error {
			if p.Local == "nobody" {
				return status.Permanent(550, "5.1.1", "User unknown", nil)
			}
			return nil
		}
		c := h.dial()
		c.do("EHLO x", "250")
		c.do("MAIL FROM:<>", "250")
		for i := range 2 * maxErrors { // an old mailing list, not a search for names
			c.do(fmt.Sprintf("RCPT TO:<u%d@own.example>", i), "250")
			c.do("RCPT TO:<nobody@own.example>", "550")
		}
		for i := range 2 * maxGood { // the good ones do not pay for everything
			c.do(fmt.Sprintf("RCPT TO:<v%d@own.example>", i), "250")
		}
		for range maxErrors + maxGood - 2*maxErrors - 1 {
			c.do("RCPT TO:<nobody@own.example>", "550")
		}
		c.do("RCPT TO:<nobody@own.example>", "550")
		c.expect("421 4.7.0")
		c.closed()
	})
	t.Run("repeated recipients", func(t *testing.T) {
		c := newHost(t).dial()
		c.begin()
		for range maxErrors { // no good for errors either
			c.do("RCPT TO:<bob@own.example>", "250")
			c.do("RCPT TO:<nobody@own.example>", "550")
		}
		c.do("RCPT TO:<nobody@own.example>", "550")
		c.expect("421 4.7.0")
		c.closed()
		c = newHost(t).dial()
		c.begin()
		for range maxIdle - 2 { // besides EHLO and MAIL
			c.do("RCPT TO:<bob@own.example>", "250")
		}
		c.expect("421 4.7.0")
		c.closed()
	})
	t.Run("empty chunks", func(t *testing.T) {
		c := newHost(t).dial()
		c.begin()
		for range maxIdle - 2 {
			c.do("BDAT 0", "250")
		}
		c.expect("421 4.7.0")
		c.closed()
	})
	t.Run("idle commands", func(t *testing.T) {
		c := newHost(t).dial()
		for range maxIdle {
			c.do("NOOP", "250")
		}
		c.expect("421 4.7.0")
		c.closed()
	})
	t.Run("logins", func(t *testing.T) {
		h := newHost(t)
		h.Submission = true
		c := h.dial()
		c.startTLS()
		for range maxLogins {
			c.do("AUTH PLAIN AGJvYgB3cm9uZw==", "535 5.7.8")
		}
		c.closed()
		if n := strings.Count(h.log.String(), "event=login-failed user=bob"); n != maxLogins {
			t.Errorf("%d failures logged, want %d\n%s", n, maxLogins, h.log)
		}
	})
	t.Run("auth line", func(t *testing.T) {
		h := newHost(t)
		h.Submission = true
		c := h.pipe()
		c.do("EHLO x", "250")
		c.do("AUTH PLAIN "+strings.Repeat("A", maxAuth-100), "501 5.5.2 Malformed")
		c.do("AUTH PLAIN "+strings.Repeat("A", maxAuth), "500 5.5.2 Line too long")
		c.do("AUTH LOGIN", "334")
		c.do(strings.Repeat("A", maxAuth), "500 5.5.6 Line too long")
		c.do("AUTH LOGIN", "334")
		c.do("Ym9i", "334")
		c.do("c2VjcmV0", "235")
	})
	t.Run("command line", func(t *testing.T) {
		c := newHost(t).dial()
		c.do("NOOP "+strings.Repeat("a", maxCommand-len("NOOP \r\n")), "250")
		c.do("NOOP "+strings.Repeat("a", maxCommand-len("NOOP \r\n")+1), "500 5.5.2")
		c.do("NOOP", "250")
	})
	t.Run("hops", func(t *testing.T) {
		for _, submission := range []bool{false, true} {
			h := newHost(t).trust()
			h.Submission = submission
			c := h.dial()
			for _, n := range []int{h.MaxHops, h.MaxHops + 1} {
				c.begin()
				c.do("DATA", "354")
				c.do(strings.Repeat("rEceived: x\r\n", n)+"Not-Received: x\r\n\r\n"+strings.Repeat("Received: x\r\n", 60)+".", map[bool]string{true: "250", false: "554 5.4.6"}[n == h.MaxHops])
			}
			h.one()
		}
	})
	t.Run("header", func(t *testing.T) {
		for _, submission := range []bool{false, true} {
			h := newHost(t).trust()
			h.MaxSize, h.Submission = 4<<20, submission
			c := h.dial()
			c.begin()
			c.do("DATA", "354")
			go c.send(strings.Repeat("To: x@else.example\r\n", 100_000) + "\r\nbody\r\n.\r\n")
			c.expect("552 5.3.4 Message header is too large")
			c.do("NOOP", "250")
			h.none()
		}
	})
	t.Run("no header", func(t *testing.T) { // what is no field is body, as the programs behind us have it
		for _, start := range []string{"", "Subject: x\r\n folded\r\n", "From eve Mon\r\n"} {
			for _, line := range []string{"just a line\r\n", "9", strings.Repeat("a", 900) + ":\r\n"} {
				h := newHost(t)
				h.MaxSize = 4 << 20
				c := h.dial()
				c.begin()
				c.do("DATA", "354")
				go c.send(start + strings.Repeat(line, (3<<19)/len(line)) + "\r\n\r\nReceived: x" + strings.Repeat("\r\nReceived: x", h.MaxHops) + "\r\n.\r\n")
				c.expect("250 2.0.0")
				h.one()
			}
		}
		h := newHost(t)
		c := h.dial()
		c.begin()
		c.do("DATA", "354")
		c.do(strings.Repeat("Received: x\r\nFrom eve Mon\r\n", h.MaxHops+1)+"\r\nx\r\n.", "554 5.4.6") // a loop over an mbox
		h.none()
	})
	t.Run("far too large", func(t *testing.T) {
		h := newHost(t)
		h.MaxSize = 64 << 10
		c := h.dial()
		c.begin()
		c.do("DATA", "354")
		go func() { _, _ = c.conn.Write(bytes.Repeat([]byte("a\r\n"), 100_000)) }()
		c.expect("552 5.3.4")
		c.closed()
		h.none()
	})
	t.Run("disk", func(t *testing.T) {
		h := newHost(t)
		h.Spool.SetMinFree(1 << 60)
		c := h.dial()
		c.begin()
		c.do("DATA", "452 4.3.1")
		c.do("MAIL FROM:<alice@far.example>", "250")
		c.do("RCPT TO:<bob@own.example>", "250")
		c.send("BDAT 4\r\nNOOP")
		c.expect("452 4.3.1")
		c.do("NOOP", "250")
		h.none()
		if !strings.Contains(h.log.String(), "code=452 enhanced=4.3.1") {
			t.Errorf("log: %s", h.log)
		}
	})
}

// TestInjection: what stands in the clear behind STARTTLS is never answered, and nothing from before the handshake counts after it.
func TestInjection(t *testing.T) {
	for _, behind := range []string{"NOOP\r\n", "N", "\r\n", "EHLO evil\r\nMAIL FROM:<evil@far.example>\r\nRCPT TO:<bob@own.example>\r\nDATA\r\n.\r\n", "\x16\x03\x01"} {
		for _, before := range []string{"", "MAIL FROM:<evil@far.example>\r\nRCPT TO:<bob@own.example>\r\n"} {
			for _, submission := range []bool{false, true} {
				h := newHost(t)
				h.Submission = submission
				c := h.pipe() // one write is one read
				c.do("EHLO evil", "250")
				for line := range strings.Lines(before) {
					c.do(strings.TrimRight(line, "\r\n"), "250")
				}
				go func() { _, _ = c.conn.Write([]byte("STARTTLS\r\n" + behind)) }()
				c.expect("501")
				c.closed()
				h.none()
				if !strings.Contains(h.log.String(), "Nothing may follow STARTTLS") {
					t.Errorf("not logged: %s", h.log)
				}
			}
		}
	}
	h := newHost(t)
	c := h.dial()
	c.begin()
	c.do("STARTTLS", "220")
	c.handshake()
	c.do("DATA", "503")
	c.do("MAIL FROM:<x@far.example>", "503 5.5.1 Say EHLO first")
	c.do("RCPT TO:<bob@own.example>", "503")

	h = newHost(t)
	h.Submission, h.PlaintextLogin = true, []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	c = h.dial()
	c.do("EHLO x", "250")
	c.do("AUTH PLAIN AGJvYgBzZWNyZXQ=", "235")
	c.do("STARTTLS", "220")
	c.handshake()
	c.do("EHLO x", "250")
	c.do("MAIL FROM:<bob@own.example>", "530") // the login is forgotten too
}

func TestForeign(t *testing.T) {
	for _, send := range []string{"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "POST / HTTP/1.1\r\nContent-Length: 99\r\n\r\nEHLO x\r\nMAIL FROM:<>\r\n"} {
		h := newHost(t)
		c := h.dial()
		c.send(send)
		c.expect("500")
		c.closed()
	}
	for _, send := range []string{"NOOP\n", "NO\rOP\r\n", "NOOP a\x00b\r\n", "\n", "\r\r\n", "EHLO x\nMAIL FROM:<>\r\n"} {
		c := newHost(t).dial()
		c.send(send)
		c.expect("500 5.5.2")
		c.closed()
	}
}

// TestUnwanted: a client that sends its message without waiting for the answer to DATA does not have it run as commands.
func TestUnwanted(t *testing.T) {
	h := newHost(t)
	c := h.pipe()
	c.do("EHLO x", "250")
	go func() {
		_, _ = c.conn.Write([]byte("MAIL FROM:<>\r\nRCPT TO:<nobody@own.example>\r\nDATA\r\nMAIL FROM:<>\r\nRCPT TO:<bob@own.example>\r\nDATA\r\n.\r\n"))
	}()
	c.expect("250")
	c.expect("550")
	c.expect("554")
	c.closed()
	h.none()
}

func TestPipelined(t *testing.T) {
	h := newHost(t)
	c := h.pipe()
	c.do("EHLO x", "250")
	one := "MAIL FROM:<>\r\nRCPT TO:<bob@own.example>\r\nDATA\r\nSubject: x\r\n\r\nbody\r\n.\r\n"
	go func() { _, _ = c.conn.Write([]byte(strings.Repeat(one, 50) + "QUIT\r\n")) }()
	for range 50 {
		for _, want := range []string{"250", "250", "354", "250 2.0.0 Ok: queued as "} {
			c.expect(want)
		}
	}
	c.expect("221")
	if _, texts := h.queued(); len(texts) != 50 {
		t.Errorf("%d messages, want 50", len(texts))
	}
}

// TestTimeout: silence ends a session, in words.
func TestTimeout(t *testing.T) {
	h := newHost(t)
	h.CommandTimeout = 20 * time.Millisecond
	raw, err := net.Dial("tcp", h.serve())
	if err != nil {
		t.Fatal(err)
	}
	c := newClient(t, raw)
	c.expect("421 4.4.2")
	c.closed()
}

func TestUTF8(t *testing.T) {
	h := newHost(t)
	c := h.dial()
	c.do("EHLO x", "250")
	c.do("MAIL FROM:<bøb@own.example>", "553 5.6.7")
	c.do("MAIL FROM:<b\xf8b@own.example> SMTPUTF8", "501 5.1.7")
	c.do("MAIL FROM:<x@far.example>", "250")
	c.do("RCPT TO:<bøb@own.example>", "553 5.6.7")
	c.do("RSET", "250")
	c.do("MAIL FROM:<bøb@own.example> SMTPUTF8", "250")
	c.do("RCPT TO:<bøb@own.example>", "250")
	c.do("DATA", "354")
	c.do("Subject: ø\r\n\r\n.", "250")
	e, trace, _ := h.one()
	if !e.SMTPUTF8 || e.From != (address.Path{Local: "bøb", Domain: "own.example"}) || !strings.Contains(trace, "with UTF8SMTP\r\n") {
		t.Errorf("envelope %+v, trace %q", e, trace)
	}
}

// TestVerifyTimeout gives a look-up an end.
func TestVerifyTimeout(t *testing.T) {
	h := newHost(t)
	h.Verify = func(ctx context.Context, _ address.Path) error {
		if _, ok := ctx.Deadline(); !ok {
			t.Error("the look-up has no end")
		}
		return nil
	}
	h.dial().begin()
}
