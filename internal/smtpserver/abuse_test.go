package smtpserver

import (
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/postel-mail/postel/internal/activation"
	"github.com/postel-mail/postel/internal/clock"
	"github.com/postel-mail/postel/internal/envelope"
)

// TestBDATTime: the time of a message runs on between its chunks, and grows with what has come.
func TestBDATTime(t *testing.T) {
	now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	clock.Set(func() time.Time { return now })
	defer clock.Set(nil)
	ours, theirs := net.Pipe()
	defer ours.Close()
	defer theirs.Close()
	s := &session{srv: newHost(t).Server, wire: wire{guard: activation.NewConn(ours)}}
	s.env = &envelope.Envelope{}
	for _, tt := range []struct {
		xfer *transfer
		want time.Duration
	}{
		{nil, 5 * time.Minute},
		{&transfer{began: now}, 5 * time.Minute},
		{&transfer{began: now.Add(-9 * time.Minute)}, time.Minute},
		{&transfer{began: now.Add(-9 * time.Minute), raw: 100 * dataRate}, time.Minute + 100*time.Second},
		{&transfer{began: now.Add(-time.Hour)}, -50 * time.Minute},
	} {
		s.xfer = tt.xfer
		if got := s.until().Sub(now); got != tt.want {
			t.Errorf("%+v: %v, want %v", tt.xfer, got, tt.want)
		}
	}
}

// TestTooManyRecipients: who names more recipients than fit gets those through that do.
func TestTooManyRecipients(t *testing.T) {
	h := newHost(t)
	h.MaxRecipients = 1
	c := h.dial()
	c.begin()
	for range maxErrors + maxGood + 10 {
		c.do("RCPT TO:<x@back.example>", "452 4.5.3")
	}
	c.do("DATA", "354")
	c.do("Subject: x\r\n\r\nx\r\n.", "250")
	c.begin()
	c.send(strings.Repeat("RCPT TO:<x@back.example>\r\n", maxOver+maxErrors+10))
	for range maxOver + maxErrors + 2 { // each recipient that was taken makes good for one
		c.expect("452 4.5.3")
	}
	c.expect("421 4.7.0 Too many errors")
}

// TestRefusedBinary: what is in a chunk that is refused says nothing about where it ends.
func TestRefusedBinary(t *testing.T) {
	h := newHost(t)
	c := h.dial()
	c.do("EHLO client.example", "250")
	c.do("MAIL FROM:<a@far.example> BODY=BINARYMIME", "250")
	c.do("RCPT TO:<nobody@own.example>", "550")
	c.send("BDAT 6 LAST\r\n\x00\n\r\r\n\n")
	c.expect("554 5.5.1")
	c.do("NOOP", "250")
}

// TestOnward: where nobody here knows who exists, no stranger's address leads on from the host that does.
func TestOnward(t *testing.T) {
	h := newHost(t)
	h.Verify = nil
	c := h.dial()
	c.do("EHLO client.example", "250")
	c.do("MAIL FROM:<a@far.example>", "250")
	for addr, want := range map[string]string{"user@own.example": "250", "user%far.example@own.example": "550 5.7.1", "far!user@own.example": "550 5.7.1",
		`"user@far.example"@own.example`: "550 5.7.1", "postmaster@own.example": "250"} {
		c.do("RCPT TO:<"+addr+">", want)
	}
	h = newHost(t)
	h.Verify, h.RelayNetworks = nil, []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	c = h.dial()
	c.do("EHLO client.example", "250")
	c.do("MAIL FROM:<a@far.example>", "250")
	c.do("RCPT TO:<user%far.example@own.example>", "250")
}

// TestNothingRuns: what stands behind a line that ends in a bare LF, or behind DATA that is refused, is not run.
func TestNothingRuns(t *testing.T) {
	for name, tt := range map[string]struct{ send, want string }{
		"long line, bare LF":                {"NOOP " + strings.Repeat("x", 2*maxCommand) + "\nNOOP\r\n", "500 5.5.2"},
		"long line, bare LF in a new block": {"NOOP " + strings.Repeat("x", maxCommand-5) + "\nNOOP\r\n", "500 5.5.2"},
		"DATA with an argument":             {"DATA x\r\nNOOP\r\n", "501 5.5.4"},
	} {
		h := newHost(t)
		c := h.dial()
		c.begin()
		c.send(tt.send)
		if got := c.reply(); !strings.HasPrefix(got, tt.want) {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
		if got := c.reply(); got != "" {
			t.Errorf("%s: then %q", name, got)
		}
	}
	h := newHost(t)
	c := h.dial()
	c.do("NOOP "+strings.Repeat("x", 2*maxCommand), "500 5.5.2")
	c.do("NOOP", "250")
}

// TestRelease: half a command does not keep a block.
func TestRelease(t *testing.T) {
	w := &wire{}
	w.buf = w.small[:]
	w.grow()
	w.w = copy(w.buf, "xxxhalf")
	w.take(3)
	if w.release(); len(w.buf) != len(w.small) || string(w.pending()) != "half" {
		t.Errorf("%d octets, %q", len(w.buf), w.pending())
	}
	w.grow()
	w.w = len(w.small) + 1
	if w.release(); len(w.buf) == len(w.small) {
		t.Error("what does not fit was put there")
	}
}
