package smtpserver

import (
	"bufio"
	"context"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/postel-mail/postel/internal/clock"
	"github.com/postel-mail/postel/internal/ledger"
	"github.com/postel-mail/postel/internal/screen"
)

// screened puts a screen in front of a host, with a ledger of its own.
func (h *host) screened(r screen.Rules) *host {
	h.t.Helper()
	l, err := ledger.Open(h.t.TempDir() + "/ledger")
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { l.Close() })
	r.Hostname, r.Ledger = h.Hostname, l
	r.Problem = func(err error) { h.t.Error(err) }
	h.Screen = screen.New(r)
	return h
}

// knock connects and waits for nothing.
func (h *host) knock() *client {
	h.t.Helper()
	raw, err := net.Dial("tcp", h.serve())
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { raw.Close() })
	_ = raw.SetDeadline(time.Now().Add(time.Minute)) // a hang is a failure
	return &client{t: h.t, conn: raw, r: bufio.NewReader(raw)}
}

// logged waits for a line.
func (h *host) logged(want string) {
	h.t.Helper()
	for range 6000 {
		if strings.Contains(h.log.String(), want) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	h.t.Fatalf("not logged: %s\n%s", want, h.log)
}

const slow = time.Hour // nobody waits for it in a test

func TestSpeaksFirst(t *testing.T) {
	h := newHost(t).screened(screen.Rules{GreetDelay: slow})
	c := h.knock()
	c.send("EHLO client.example\r\nMAIL FROM:<a@far.example>\r\n")
	c.expect("220-mail.own.example\n521 5.5.1 ")
	c.closed()
	h.logged(`code=521 enhanced=5.5.1 text="Protocol error, you spoke before the greeting" cause="spoke before the greeting: \"EHLO client.example\\r\\nMAIL`)
	h.logged(`event=disconnect client=127.0.0.1 text="spoke before the greeting"`)
}

func TestLeavesFirst(t *testing.T) {
	h := newHost(t).screened(screen.Rules{GreetDelay: slow})
	c := h.knock()
	if line, err := c.r.ReadString('\n'); line != "220-mail.own.example\r\n" {
		t.Fatalf("got %q, %v", line, err)
	}
	c.conn.Close()
	h.logged(`event=disconnect client=127.0.0.1 text="left before the greeting"`)
}

func TestWaits(t *testing.T) {
	h := newHost(t).screened(screen.Rules{GreetDelay: time.Millisecond})
	c := h.knock()
	c.expect("220-mail.own.example\n220 mail.own.example ESMTP")
	c.begin()
	h.Screen.GreetDelay = slow // not for those who have waited
	h.knock().expect("220 mail.own.example ESMTP")
}

// TestNotScreened: who is trusted, who submits, and whose TLS comes first is not held up.
func TestNotScreened(t *testing.T) {
	for name, change := range map[string]func(*host){
		"trusted":    func(h *host) { h.trust() },
		"submission": func(h *host) { h.Submission = true },
	} {
		h := newHost(t).screened(screen.Rules{GreetDelay: slow, OwnName: true, Greylist: slow})
		change(h)
		c := h.knock()
		c.expect("220 mail.own.example ESMTP")
		c.do("EHLO mail.own.example", "250")
		if name == "trusted" {
			c.do("MAIL FROM:<a@far.example>", "250")
			c.do("RCPT TO:<bob@own.example>", "250")
		}
	}
	h := newHost(t).screened(screen.Rules{GreetDelay: slow})
	h.pipe()
	h.ImplicitTLS = true
	c := h.knock()
	c.handshake()
	c.expect("220 mail.own.example ESMTP")
}

func TestListed(t *testing.T) {
	h := newHost(t).screened(screen.Rules{RefuseAt: 3, Lists: []screen.List{{Domain: "bl.example", Weight: 3}},
		Listed: func(_ context.Context, ip netip.Addr, list string) ([]netip.Addr, error) {
			if ip != netip.MustParseAddr("127.0.0.9") {
				return nil, nil
			}
			return []netip.Addr{netip.MustParseAddr("127.0.0.2")}, nil
		},
		ListText:   func(context.Context, netip.Addr, string) (string, error) { return "see\r\nhttps://bl.example/", nil },
		ClientName: func(context.Context, netip.Addr) (string, error) { return "mx.far.example", nil },
	})
	raw, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 9)}}).Dial("tcp", h.serve())
	if err != nil {
		t.Fatal(err)
	}
	c := newClient(t, raw)
	c.do("EHLO client.example", "250")
	c.do("MAIL FROM:<a@far.example>", "250")
	c.do("RCPT TO:<bob@own.example>", "550 5.7.1 Your address 127.0.0.9 is listed by bl.example: see??https://bl.example/")
	c.do("RCPT TO:<nobody@own.example>", "550 5.7.1 Your address") // nor does it learn who exists
	c.do("RCPT TO:<postmaster>", "250")
	c.do("RCPT TO:<postmaster@own.example>", "250")
	c.do("DATA", "354")
	c.send("Subject: let me in\r\n\r\n\r\n.\r\n")
	c.expect("250")
	h.logged(`event=screened client=127.0.0.9 name=mx.far.example score=3 text="bl.example=3"`)
	h.logged(`event=refused`)
	h.logged(`cause="score 3: bl.example=3"`)
	if n := strings.Count(h.log.String(), "event=screened"); n != 1 {
		t.Errorf("screened is logged %d times", n)
	}
	if _, received, _ := h.one(); !strings.HasPrefix(received, "Received: from client.example (mx.far.example [127.0.0.9])\r\n") {
		t.Errorf("got %q", received)
	}
}

func TestOwnName(t *testing.T) {
	h := newHost(t).screened(screen.Rules{OwnName: true})
	c := h.knock()
	c.expect("220 ")
	for _, name := range []string{"mail.own.example", "[127.0.0.1]"} {
		c.do("EHLO "+name, "250")
		c.do("MAIL FROM:<a@far.example>", "250")
		c.do("RCPT TO:<bob@own.example>", "550 5.7.1 You call yourself "+name)
		c.do("RCPT TO:<Postmaster>", "250")
	}
	c.begin()
}

// TestGreylisted: that is no error of the client's, and does not stop a callout by the null sender.
func TestGreylisted(t *testing.T) {
	var later atomic.Int64
	clock.Set(func() time.Time { return time.Now().Add(time.Duration(later.Load())) })
	defer clock.Set(nil)
	h := newHost(t).screened(screen.Rules{Greylist: 5 * time.Minute})
	c := h.knock()
	c.expect("220 ")
	c.do("EHLO client.example", "250")
	c.do("MAIL FROM:<alice@far.example>", "250")
	c.do("RCPT TO:<nobody@own.example>", "550 5.1.1")
	for range maxErrors {
		c.do("RCPT TO:<bob@own.example>", "451 4.7.1 Greylisted, try again in ")
	}
	c.do("DATA", "554 5.5.1")
	c.do("RSET", "250")
	for _, data := range []string{"DATA", "BDAT 2 LAST\r\n\r\n"} {
		c.do("MAIL FROM:<>", "250")
		c.do("RCPT TO:<bob@own.example>", "250")
		c.send(strings.TrimSuffix(data, "\r\n") + "\r\n")
		c.expect("451 4.7.1 Greylisted")
		c.do("MAIL FROM:<>", "250") // and the transaction is over
		c.do("RSET", "250")
	}
	h.none()
	later.Store(int64(5*time.Minute + time.Second))
	c.do("MAIL FROM:<alice@far.example>", "250")
	c.do("RCPT TO:<bob@own.example>", "250")
	c.do("DATA", "354")
	c.send("\r\n.\r\n")
	c.expect("250")
	c.do("MAIL FROM:<>", "250")
	c.do("RCPT TO:<bob@own.example>", "250")
	c.do("BDAT 2 LAST\r\n", "250")

	c = h.knock()
	c.expect("220 ")
	c.do("EHLO client.example", "250")
	c.do("MAIL FROM:<carol@far.example>", "250")
	for range maxIdle {
		c.send("RCPT TO:<bob@own.example>\r\n")
	}
	for reply := c.reply(); !strings.HasPrefix(reply, "421 "); reply = c.reply() {
		if !strings.HasPrefix(reply, "451 4.7.1 Greylisted") {
			t.Fatalf("got %q", reply)
		}
	}
	c.closed()
}

// TestProxyUnasked: a PROXY header where none is expected ends the session, since behind a trusted proxy everybody would be trusted.
func TestProxyUnasked(t *testing.T) {
	h := newHost(t).trust()
	c := h.dial()
	c.send("PROXY TCP4 203.0.113.5 192.0.2.1 4000 25\r\nNOOP\r\n")
	c.expect("500 5.5.1")
	if got := c.reply(); got != "" {
		t.Errorf("the session goes on: %q", got)
	}
}
