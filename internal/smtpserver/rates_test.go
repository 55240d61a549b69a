package smtpserver

import (
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postel-mail/postel/internal/activation"
	"github.com/postel-mail/postel/internal/clock"
	"github.com/postel-mail/postel/internal/ledger"
)

// rating gives the host bounds of a minute, and stops its clock in the middle of one.
func (h *host) rating(connections, messages, recipients int) *host {
	h.t.Helper()
	l, err := ledger.Open(h.t.TempDir() + "/ledger")
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { l.Close() })
	h.Rates = Rates{Connections: connections, Messages: messages, Recipients: recipients, Ledger: l, Problem: func(err error) { h.t.Error(err) }}
	return h
}

func TestRates(t *testing.T) {
	now := time.Now().Add(time.Hour) // no deadline is over
	var passed atomic.Int64
	clock.Set(func() time.Time { return now.Add(time.Duration(passed.Load())) })
	defer clock.Set(nil)
	h := newHost(t).rating(4, 3, 5).trust().behind() // a front end counts as its clients alone
	addr := h.serve()
	from := func(client string) *client {
		raw, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		return newClient(t, raw).as(client)
	}
	c := from("192.0.2.1")
	for range 3 {
		c.do("MAIL FROM:<alice@far.example>", "250")
		c.do("RSET", "250")
	}
	if got := c.do("MAIL FROM:<alice@far.example>", "450 4.7.0"); got != "450 4.7.0 Too many messages from your network within a minute, try again later" {
		t.Errorf("got %q", got)
	}
	c = from("192.0.2.2")
	c.do("MAIL FROM:<alice@far.example>", "250")
	c.do("RCPT TO:<nobody@own.example>", "550") // who tries names is counted
	for range 4 {
		c.do("RCPT TO:<bob@own.example>", "250")
	}
	c.do("RCPT TO:<bob@own.example>", "450 4.7.0")
	for range 3 {
		from("192.0.2.2")
	}
	over := from("192.0.2.3")
	for range 3 {
		over.as("192.0.2.3")
	}
	over.send("XCLIENT ADDR=192.0.2.3\r\n")
	over.expect("421 4.7.0 Too many connections")
	over.closed()

	// Clients of one IPv6 network are one, and those who are trusted are not counted.
	c = from("IPV6:2001:db8::1")
	c.as("IPV6:2001:db8::2").as("IPV6:2001:db8::3").as("IPV6:2001:db8::4").as("IPV6:2001:db8:0:1::1")
	c.send("XCLIENT ADDR=IPV6:2001:db8::5\r\n")
	c.expect("421")
	c = from("127.0.0.9")
	for range 10 {
		c.as("127.0.0.9")
		c.do("MAIL FROM:<alice@far.example>", "250")
		c.do("RCPT TO:<x@else.example>", "250")
		c.do("RSET", "250")
	}
	passed.Store(int64(2 * time.Minute))
	from("192.0.2.3").do("MAIL FROM:<alice@far.example>", "250")
	if want := `event=refused client=192.0.2.3 code=421 enhanced=4.7.0 text="Too many connections from your network within a minute`; !strings.Contains(h.log.String(), want) {
		t.Errorf("the log does not say %s:\n%s", want, h.log)
	}
}

// as makes a front end's connection that of a client.
func (c *client) as(addr string) *client {
	c.t.Helper()
	c.do("XCLIENT ADDR="+addr+" HELO=client.example PROTO=ESMTP", "220")
	return c
}

// TestRatesWithoutLedger: a ledger that fails refuses nobody, and without bounds it is not even asked.
func TestRatesWithoutLedger(t *testing.T) {
	h := newHost(t).rating(1, 1, 1)
	var told []error
	h.Rates.Problem = func(err error) { told = append(told, err) }
	h.Rates.Ledger.Close()
	for range 3 {
		h.dial().begin()
	}
	if len(told) != 9 || errors.Is(told[0], os.ErrNotExist) {
		t.Errorf("told of %d problems: %v", len(told), told)
	}
	told, h.Rates.Connections, h.Rates.Messages, h.Rates.Recipients = nil, 0, 0, 0
	h.dial().begin()
	if len(told) > 0 {
		t.Errorf("told of %v", told)
	}
}

// listen runs the host as smtpd does, with limit connections, and gives its address.
func (h *host) listen(limit int, hurry time.Duration) (addr string) {
	h.t.Helper()
	at := make(chan string, 1)
	signals := make(chan os.Signal, 2)
	a := &activation.Server{Listen: []string{"127.0.0.1:0"}, IdleExit: -1, Limit: limit, Hurry: hurry, Busy: "421 4.3.2 busy", Signals: signals, Serve: h.ServeConn,
		Listening: func(addr string) { at <- addr },
		Crowding: func(crowded bool, n int) {
			if crowded {
				h.Log.Stress(n)
			} else {
				h.Log.StressOver(n)
			}
		}}
	done := make(chan error, 1)
	go func() { done <- a.Run() }()
	h.t.Cleanup(func() {
		signals <- unix.SIGTERM
		signals <- unix.SIGTERM
		if err := <-done; err != nil {
			h.t.Error(err)
		}
	})
	return <-at
}

// TestFullServerRecovers: silent clients hold all places of a server; soon others get in, though nobody leaves by himself.
func TestFullServerRecovers(t *testing.T) {
	h := newHost(t)
	addr := h.listen(10, 50*time.Millisecond)
	dial := func() *client {
		raw, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		return newClient(t, raw)
	}
	busy := dial() // in a transaction: it may take its time
	busy.begin()
	var silent []*client
	for range 6 {
		silent = append(silent, dial())
	}
	patient := dial() // the eighth begins it
	patient.expect("421 4.4.2 Timeout")
	patient.closed()
	for _, c := range silent {
		c.expect("421 4.4.2 Timeout")
		c.conn.Close()
	}
	patient.conn.Close()
	const over = "event=stress-over n=6\n"
	for end := time.Now().Add(time.Minute); !strings.Contains(h.log.String(), over); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("the log does not say %q:\n%s", over, h.log)
		}
	}
	for range 20 {
		c := dial()
		c.begin()
		c.do("DATA", "354")
		c.do("Subject: x\r\n\r\nx\r\n.", "250")
		c.do("QUIT", "221")
		c.conn.Close()
	}
	busy.do("RCPT TO:<bob@own.example>", "250")
	if n := strings.Count(h.log.String(), "event=stress n=8\n"); n != 1 {
		t.Errorf("the log says %d times that there is stress:\n%s", n, h.log)
	}
}

// TestStressBounds: a crowded server bears with fewer mistakes, and with less small talk.
func TestStressBounds(t *testing.T) {
	for command, n := range map[string]int{"NONSENSE": crowdedErrors, "NOOP": crowdedIdle} {
		h := newHost(t)
		raw, err := net.Dial("tcp", h.listen(1, time.Minute))
		if err != nil {
			t.Fatal(err)
		}
		c := newClient(t, raw)
		for range n - 1 {
			c.send(command + "\r\n")
			if got := c.reply(); got == "" {
				t.Fatalf("%s: ended early", command)
			}
		}
		c.send(command + "\r\n")
		c.reply()
		c.expect("421 4.7.0")
		c.closed()
	}
}

// TestStressRefuses: a crowded server does not read a message that it has refused already.
func TestStressRefuses(t *testing.T) {
	h := newHost(t)
	raw, err := net.Dial("tcp", h.listen(1, time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	c := newClient(t, raw)
	c.begin()
	c.do("DATA", "354")
	c.send("\x00\r\n") // and nothing more
	c.expect("550 5.6.0")
	c.closed()
	h.none()
}

// TestTimeOfMessage: a client that keeps up its octets has as long as it takes; one that trickles has ten minutes.
func TestTimeOfMessage(t *testing.T) {
	began := time.Now().Add(time.Hour)
	clock.Set(func() time.Time { return began })
	defer clock.Set(nil)
	for _, octets := range []int{0, 100, 64 << 10, 640 << 10} {
		h := newHost(t)
		h.CommandTimeout = 24 * time.Hour
		ours, theirs := net.Pipe()
		d := &deadlines{Conn: theirs}
		done := make(chan struct{})
		go func() { defer close(done); h.session(d) }()
		c := newClient(t, ours)
		c.begin()
		c.do("DATA", "354")
		c.send(strings.Repeat("x", octets)) // returns when the server has read it
		c.conn.Close()
		<-done
		last := d.all[len(d.all)-2].Sub(began)                                                                          // the last is Close's own
		if want := 10*time.Minute + time.Duration(octets/1024)*time.Second; last > want || last < want-40*time.Second { // it is not counted octet by octet
			t.Errorf("behind %d octets the next had %v, want %v", octets, last, want)
		}
	}
}

// TestNothingStays: clients of all bad kinds leave neither goroutines nor descriptors behind, and good ones are served all the while.
func TestNothingStays(t *testing.T) {
	h := newHost(t)
	addr := h.listen(0, 0)
	good := func() {
		raw, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		c := newClient(t, raw)
		c.begin()
		c.do("DATA", "354")
		c.do("Subject: x\r\n\r\nx\r\n.", "250")
		c.do("QUIT", "221")
		c.closed()
		c.conn.Close()
	}
	good()
	count := func() (goroutines, files int) {
		fds, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return runtime.NumGoroutine(), len(fds)
	}
	goroutines, files := count()
	bad := []string{
		"", "E", "EHLO x\r\n", strings.Repeat("x", 1<<16), strings.Repeat("NOOP\r\n", 200), strings.Repeat("\x00\n", 1000), "GET / HTTP/1.0\r\n\r\n",
		"EHLO x\r\nSTARTTLS\r\n", "EHLO x\r\nSTARTTLS\r\n\x16\x03\x01\x02\x00\x01", "EHLO x\r\nSTARTTLS\r\nxxxxx",
		"EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<bob@own.example>\r\nDATA\r\n", "EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<bob@own.example>\r\nDATA\r\nSubject: x\r\n" + strings.Repeat("y", 40<<10),
		"EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<bob@own.example>\r\nBDAT 100000\r\nx", "EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<bob@own.example>\r\nBDAT 1\r\nx",
	}
	for i := range 20 {
		var herd []net.Conn
		for _, say := range bad {
			raw, err := net.Dial("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			herd = append(herd, raw)
			_, _ = fmt.Fprint(raw, say)
			if i%2 == 0 {
				_, _ = raw.Read(make([]byte, 1))
			}
		}
		good()
		for _, raw := range herd {
			raw.Close()
		}
	}
	end := time.Now().Add(30 * time.Second)
	for {
		g, f := count()
		if g <= goroutines && f <= files {
			break
		}
		if time.Now().After(end) {
			buf := make([]byte, 1<<20)
			t.Fatalf("%d goroutines and %d descriptors, %d and %d before\n%s", g, f, goroutines, files, buf[:runtime.Stack(buf, true)])
		}
		time.Sleep(10 * time.Millisecond) // sessions end when they notice
	}
}
