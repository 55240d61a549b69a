package smtpserver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/postel-mail/postel/internal/address"
	"github.com/postel-mail/postel/internal/status"
)

// TestRecipients: who is taken from a stranger, and who is not, as it is said on the wire and as it is queued.
func TestRecipients(t *testing.T) {
	h := newHost(t)
	known := h.Verify
	h.Verify = func(ctx context.Context, p address.Path) error {
		if strings.EqualFold(p.Local, "abuse") { // as delivery has it
			return nil
		}
		return known(ctx, p)
	}
	var asked []string
	h.VerifyRelay = func(_ context.Context, p address.Path) error {
		asked = append(asked, p.String())
		switch p.Local {
		case "gone":
			return status.Permanent(550, "5.1.1", "Recipient is unknown at the next hop", errors.New("hop said: 550 no"))
		case "unsure":
			return status.Temporary(450, "4.1.1", "Recipient cannot be verified now, try again later", nil)
		}
		return nil
	}
	c := h.dial()
	c.do("EHLO client.example", "250")
	c.do("MAIL FROM:<>", "250")
	for _, tt := range []struct{ to, want, queued string }{
		{"<bob@own.example>", "250 2.1.5", "bob@own.example"},
		{"<bob@OWN.example.>", "250 2.1.5", "bob@OWN.example"},
		{"<nobody@own.example>", "550 5.1.1", ""},
		{"<wrapped@own.example>", "550 5.2.1", ""},
		{"<broken@own.example>", "451 4.3.0", ""},
		{"<Postmaster>", "250 2.1.5", "Postmaster@own.example"},
		{"<postMaster@own.example>", "250 2.1.5", "postMaster@own.example"},
		{"<abuse@own.example>", "250 2.1.5", "abuse@own.example"},
		{"<postmaster@else.example>", "550 5.7.1", ""},
		{"<abuse@else.example>", "550 5.7.1", ""},
		{"<bob@[127.0.0.1]>", "250 2.1.5", "bob@own.example"},
		{"<bob@[IPv6:::ffff:127.0.0.1]>", "250 2.1.5", "bob@own.example"},
		{"<nobody@[127.0.0.1]>", "550 5.1.1", ""},
		{"<postmaster@[127.0.0.1]>", "250 2.1.5", "postmaster@own.example"},
		{"<bob@[192.0.2.99]>", "550 5.7.1", ""},
		{"<bob@[IPv6:2001:db8::99]>", "550 5.7.1", ""},
		{"<@a.example,@b.example:bob@own.example>", "250 2.1.5", "bob@own.example"},
		{"<@own.example:bob@else.example>", "550 5.7.1", ""},
		{"<bob%else.example@own.example>", "550 5.1.1", ""},
		{"<else.example!bob@own.example>", "550 5.1.1", ""},
		{`<"bob@else.example"@own.example>`, "550 5.1.1", ""},
		{"<x@back.example>", "250 2.1.5", "x@back.example"},
		{"<x@BACK.example>", "250 2.1.5", "x@BACK.example"},
		{"<gone@back.example>", "550 5.1.1", ""},
		{"<unsure@back.example>", "450 4.1.1", ""},
		{"<x%else.example@back.example>", "550 5.7.1", ""},
		{"<else.example!x@back.example>", "550 5.7.1", ""},
		{`<"x@else.example"@back.example>`, "550 5.7.1", ""},
		{"<x@sub.back.example>", "550 5.7.1", ""},
		{"<x@else.example>", "550 5.7.1", ""},
	} {
		c.do("RSET", "250")
		c.do("MAIL FROM:<>", "250")
		c.do("RCPT TO:"+tt.to, tt.want)
		if tt.queued == "" {
			c.do("RCPT TO:<bob@own.example>", "250") // makes good for the refusal
			continue
		}
		c.do("DATA", "354")
		c.do("Subject: x\r\n\r\nx\r\n.", "250")
		envelopes, _ := h.queued()
		if last := envelopes[len(envelopes)-1]; len(last.Rcpts) != 1 || last.Rcpts[0].To.String() != tt.queued {
			t.Errorf("%s: queued %v, want %s", tt.to, last.Rcpts, tt.queued)
		}
	}
	if got, want := strings.Join(asked, " "), "x@back.example x@BACK.example gone@back.example unsure@back.example"; got != want {
		t.Errorf("the next hop was asked for %s, want %s", got, want)
	}
	if want := "hop said: 550 no"; !strings.Contains(h.log.String(), want) {
		t.Errorf("no %q in the log\n%s", want, h.log)
	}
}

// TestPostmasterOfRelay: a host without domains of its own takes mail for its postmaster, and for nobody else here (RFC 5321 4.5.1).
func TestPostmasterOfRelay(t *testing.T) {
	h := newHost(t)
	h.Home, h.Domains, h.RelayDomains = "relay.example", nil, map[string]bool{"back.example": true}
	c := h.dial()
	c.do("EHLO client.example", "250")
	c.do("MAIL FROM:<>", "250")
	for _, tt := range []struct{ to, want string }{
		{"<bob@[127.0.0.1]>", "550 5.7.1"},
		{"<bob>", "501 5.1.3"},
		{"<postmaster@relay.example>", "550 5.7.1"},
		{"<Postmaster>", "250 2.1.5"},
		{"<postmaster@[127.0.0.1]>", "250 2.1.5"},
	} {
		c.do("RCPT TO:"+tt.to, tt.want)
	}
	c.do("DATA", "354")
	c.do("Subject: x\r\n\r\nx\r\n.", "250")
	if envelopes, _ := h.queued(); len(envelopes) != 1 || envelopes[0].Rcpts[0].To.String() != "Postmaster@relay.example" {
		t.Errorf("queued %+v", envelopes)
	}
}

// TestTrustedIsNotAsked: mail of a user is taken, and a report tells what came of it.
func TestTrustedIsNotAsked(t *testing.T) {
	h := newHost(t).trust()
	h.VerifyRelay = func(_ context.Context, p address.Path) error { return errors.New("asked for " + p.String()) }
	c := h.dial()
	c.do("EHLO client.example", "250")
	c.do("MAIL FROM:<a@far.example>", "250")
	c.do("RCPT TO:<gone@back.example>", "250")
	c.do("RCPT TO:<x%else.example@back.example>", "250")
}

// bind makes users own their name, and "sales" bob's.
func (h *host) bind() {
	h.Submission = true
	h.MaySend = func(_ context.Context, login string, p address.Path) error {
		switch {
		case p.Local == "broken":
			return errors.New("aliases: input/output error")
		case p.Local == login || p.Local+"@own.example" == login || p.Local == "sales" && strings.HasPrefix(login, "bob"):
			return nil
		}
		return status.Permanent(553, "5.7.1", "Sender address is not one of yours", fmt.Errorf("%s may not send as %s", login, p.Angle()))
	}
}

func TestMaySend(t *testing.T) {
	h := newHost(t)
	h.bind()
	c := h.dial()
	c.startTLS()
	c.do("AUTH PLAIN AGJvYgBzZWNyZXQ=", "235")
	for from, want := range map[string]string{"<bob@own.example>": "250", "<sales@own.example>": "250", "<>": "250", "<alice@own.example>": "553 5.7.1", "<bob2@own.example>": "553 5.7.1",
		"<broken@own.example>": "451 4.3.0"} {
		c.do("MAIL FROM:"+from, want)
		c.do("RSET", "250")
	}
	if want := "bob@own.example may not send as <alice@own.example>"; !strings.Contains(h.log.String(), want) {
		t.Errorf("no %q in the log\n%s", want, h.log)
	}
	for _, submission := range []bool{true, false} { // who has not logged in is bound by nothing: a relay network, the exchanger
		h := newHost(t).trust()
		h.bind()
		h.Submission = submission
		c := h.dial()
		c.do("EHLO client.example", "250")
		c.do("MAIL FROM:<alice@own.example>", "250")
	}
}

// TestLocalUser: at a UNIX socket the kernel says who it is, and nobody is bound.
func TestLocalUser(t *testing.T) {
	h := newHost(t)
	h.bind()
	h.SentPerHour, h.Sent = 1, func(string, int) int { t.Error("counted"); return 5 }
	l, err := net.Listen("unix", t.TempDir()+"/s")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		if raw, err := l.Accept(); err == nil {
			h.session(raw)
		}
	}()
	raw, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c := newClient(t, raw)
	c.do("EHLO client.example", "250")
	c.do("MAIL FROM:<sales@own.example>", "250")
	c.do("RCPT TO:<a@else.example>", "250")
	c.do("DATA", "354")
	c.do("Subject: x\r\n\r\nx\r\n.", "250")
	c.do("QUIT", "221")
	raw.Close()
	<-done
	if envelopes, _ := h.queued(); len(envelopes) != 1 || envelopes[0].UID != os.Getuid() {
		t.Errorf("queued %+v, want one of user %d", envelopes, os.Getuid())
	}
}

// TestSentPerHour: recipients count when their message is accepted, those of all sessions of a user, and of that user alone.
func TestSentPerHour(t *testing.T) {
	h := newHost(t)
	h.bind()
	sent := map[string]int{}
	h.SentPerHour = 3
	h.Sent = func(login string, n int) int { sent[login] += n; return sent[login] }
	login := func() *client {
		c := h.dial()
		c.startTLS()
		c.do("AUTH PLAIN AGJvYgBzZWNyZXQ=", "235")
		c.do("MAIL FROM:<bob@own.example>", "250")
		return c
	}
	c, other := login(), login()
	c.do("RCPT TO:<a@else.example>", "250")
	c.do("RCPT TO:<b@else.example>", "250")
	c.do("RSET", "250") // they do not count
	c.do("MAIL FROM:<bob@own.example>", "250")
	c.do("RCPT TO:<a@else.example>", "250")
	c.do("RCPT TO:<b@else.example>", "250")
	other.do("RCPT TO:<a@else.example>", "250")
	other.do("RCPT TO:<b@else.example>", "250")
	c.do("DATA", "354")
	c.do("Subject: x\r\n\r\nx\r\n.", "250")
	other.do("DATA", "354") // both began below the limit
	other.do("Subject: x\r\n\r\nx\r\n.", "450 4.7.1 Too many recipients within an hour")
	c.do("MAIL FROM:<>", "250")
	c.do("RCPT TO:<a@else.example>", "250")
	c.do("RCPT TO:<b@else.example>", "450 4.7.1")
	c.do("RCPT TO:<bob@own.example>", "450 4.7.1")
	c.do("DATA", "354")
	c.do("Subject: x\r\n\r\nx\r\n.", "250")
	if _, texts := h.queued(); len(texts) != 2 || len(sent) != 1 || sent["bob@own.example"] != 3 {
		t.Errorf("%d messages, counted %v, want 2 and 3 of bob", len(texts), sent)
	}
	if want := "bob@own.example has sent to 2 recipients within the hour, and 3 may be"; !strings.Contains(h.log.String(), want) {
		t.Errorf("no %q in the log\n%s", want, h.log)
	}
	h.SentPerHour = 4 // one more is left
	inner := h.Sent
	h.Sent = func(login string, n int) int {
		if n > 0 { // another session's message is accepted at the same time
			inner(login, 1)
		}
		return inner(login, n)
	}
	c.do("MAIL FROM:<bob@own.example>", "250")
	c.do("RCPT TO:<a@else.example>", "250")
	c.do("DATA", "354")
	c.do("Subject: x\r\n\r\nx\r\n.", "450 4.7.1")
	if sent["bob@own.example"] != 4 {
		t.Errorf("counted %v, want 4: what was refused is taken back", sent)
	}
	h.SentPerHour, h.Sent = 5, inner
	c.do("MAIL FROM:<bob@own.example>", "250")
	c.do("RCPT TO:<a@else.example>", "250")
	c.do("DATA", "354")
	c.do("Subject: x\r\n\r\nx\r\n.", "250")
	h = newHost(t).trust() // nobody is counted whom nobody knows
	h.bind()
	h.SentPerHour, h.Sent = 1, func(string, int) int { t.Error("counted"); return 5 }
	c = h.dial()
	c.begin()
	c.do("RCPT TO:<a@else.example>", "250")
}
