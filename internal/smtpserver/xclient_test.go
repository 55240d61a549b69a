package smtpserver

import (
	"net/netip"
	"strings"
	"testing"
)

// behind makes this test a front end of the host.
func (h *host) behind() *host {
	h.XclientNetworks = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	return h
}

func TestXclientIsForFrontEnds(t *testing.T) {
	h := newHost(t)
	c := h.dial()
	if got := c.do("EHLO x", "250"); strings.Contains(got, "XCLIENT") {
		t.Errorf("offered: %q", got)
	}
	c.do("XCLIENT ADDR=192.0.2.1", "550 5.7.0")

	c = h.behind().dial()
	if got := c.do("EHLO x", "250"); !strings.Contains(got, "\n250-XCLIENT NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT\n") {
		t.Errorf("not offered: %q", got)
	}
	c.do("XCLIENT ADDR=192.0.2.1", "220 mail.own.example ESMTP")
	if got := c.do("EHLO x", "250"); !strings.Contains(got, "XCLIENT") { // it is still the front end's connection
		t.Errorf("not offered again: %q", got)
	}
	c.do("MAIL FROM:<>", "250")
	c.do("XCLIENT ADDR=192.0.2.2", "503 5.5.1")
	c.do("RSET", "250")
	c.do("XCLIENT ADDR=192.0.2.2", "220")
	c.do("MAIL FROM:<>", "503 5.5.1") // no EHLO of this client yet
	for _, want := range []string{`event=disconnect client=127.0.0.1 text="goes on as 192.0.2.1 by XCLIENT"`, "event=connect client=192.0.2.1\n", "event=connect client=192.0.2.2\n"} {
		if !strings.Contains(h.log.String(), want) {
			t.Errorf("the log does not say %s:\n%s", want, h.log)
		}
	}
}

// TestXclientIsTheClient: log, trace, address literals and the right to relay go by what the front end says.
func TestXclientIsTheClient(t *testing.T) {
	h := newHost(t).trust().behind()
	c := h.dial()
	c.do("EHLO front.example", "250")
	c.do("MAIL FROM:<alice@far.example>", "250")
	c.do("RCPT TO:<x@else.example>", "250") // the front end itself may
	c.do("RSET", "250")
	c.do("XCLIENT NAME=[UNAVAILABLE] ADDR=IPV6:2001:db8::7 PORT=1234 HELO=cli+65nt.example PROTO=ESMTP DESTADDR=203.0.113.5 DESTPORT=25", "220")
	c.do("MAIL FROM:<alice@far.example>", "250")
	c.do("RCPT TO:<x@else.example>", "550 5.7.1")
	c.do("RCPT TO:<bob@[127.0.0.2]>", "550")
	c.do("RCPT TO:<bob@[203.0.113.5]>", "250")
	c.do("DATA", "354")
	c.do("Subject: x\r\n\r\nx\r\n.", "250")
	e, trace, _ := h.one()
	if e.Client != "2001:db8::7" || e.UID != -1 || !strings.Contains(trace, "client.example") || !strings.Contains(trace, "2001:db8::7") || !strings.Contains(trace, "ESMTP") {
		t.Errorf("client %q, uid %d, trace %q", e.Client, e.UID, trace)
	}
	for _, unknown := range []string{"ADDR=[UNAVAILABLE]", "ADDR=[TEMPUNAVAIL]", "addr=[tempunavail] name=[unavailable]"} {
		c.do("XCLIENT "+unknown, "220")
		c.do("EHLO x", "250")
		c.do("MAIL FROM:<>", "250")
		c.do("RCPT TO:<x@else.example>", "550 5.7.1")
		c.do("RSET", "250")
	}
}

func TestXclientLogin(t *testing.T) {
	h := newHost(t).behind()
	h.Submission = true
	c := h.dial()
	c.startTLS()
	c.do("AUTH PLAIN AGJvYgBzZWNyZXQ=", "235")
	c.do("XCLIENT ADDR=192.0.2.7", "220") // bob was the front end
	c.do("EHLO x", "250")
	c.do("MAIL FROM:<bob@own.example>", "530")
	c.do("XCLIENT LOGIN=carol+40own.example", "220")
	c.do("EHLO x", "250")
	c.do("MAIL FROM:<carol@own.example>", "250")
	c.do("RSET", "250")
	c.do("XCLIENT HELO=y", "220") // what it leaves out stays
	c.do("MAIL FROM:<carol@own.example>", "250")
	c.do("RSET", "250")
	c.do("XCLIENT LOGIN=[UNAVAILABLE]", "220")
	c.do("EHLO x", "250")
	c.do("MAIL FROM:<carol@own.example>", "530")
}

func TestParseXclient(t *testing.T) {
	h := newHost(t).behind()
	c := h.dial()
	for _, bad := range []string{
		"", "ADDR", "ADDR=", "=192.0.2.1", "COLOUR=red", "ADDR=192.0.2.1 ADDR=192.0.2.2", "ADDR=192.0.2.256", "ADDR=2001:db8::1", "ADDR=IPV6:192.0.2.1",
		"ADDR=IPV6:fe80::1%eth0", "ADDR=192.0.2.1+0", "ADDR=192.0.2.1+0a", "PORT=-1", "PORT=65536", "PORT=x", "DESTPORT=1e3", "DESTADDR=x", "PROTO=LMTP", "HELO=a+20b",
		"LOGIN=a+0Ab", "NAME=a+00b", "LOGIN=" + strings.Repeat("x", 256), "NAME=\xc3\xb8",
	} {
		if got := c.do("XCLIENT "+bad, "501 5.5.4"); got != "501 5.5.4 Malformed XCLIENT" {
			t.Errorf("%q: %q", bad, got)
		}
		c.do("XCLIENT NAME=x", "220") // makes good for the error
	}
	for _, good := range []string{"NAME=client.example", "ADDR=192.0.2.1", "ADDR=IPV6:2001:DB8::1", "addr=ipv6:::1", "PORT=0", "PORT=[UNAVAILABLE]", "PROTO=[TEMPUNAVAIL]", "LOGIN=a+3Db"} {
		c.do("XCLIENT "+good, "220")
	}
}

// FuzzXclient: what is read is bounded and printable, and reads the same from any order of its words.
func FuzzXclient(f *testing.F) {
	for _, arg := range []string{"NAME=x ADDR=192.0.2.1 PORT=25", "ADDR=IPV6:::1 DESTADDR=[UNAVAILABLE]", "HELO=a LOGIN=b+40c PROTO=SMTP", "DESTPORT=1 x", "LOGIN=+"} {
		f.Add(arg)
	}
	f.Fuzz(func(t *testing.T, arg string) {
		x, err := parseXclient(arg)
		if err != nil {
			return
		}
		words := strings.Fields(arg)
		for i, j := 0, len(words)-1; i < j; i, j = i+1, j-1 {
			words[i], words[j] = words[j], words[i]
		}
		again, err := parseXclient(strings.Join(words, " "))
		if err != nil || !same(x.addr, again.addr) || !same(x.local, again.local) || !same(x.proto, again.proto) || !same(x.helo, again.helo) || !same(x.login, again.login) {
			t.Fatalf("%q: %+v, backwards %+v, %v", arg, x, again, err)
		}
		for _, s := range []*string{x.proto, x.helo, x.login} {
			if s != nil && *s != "" && !printable(*s, maxHeloName) {
				t.Fatalf("%q: %q", arg, *s)
			}
		}
	})
}

func same[T comparable](a, b *T) bool { return a == b || a != nil && b != nil && *a == *b }
