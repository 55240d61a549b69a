package smtpserver

import (
	"fmt"
	"io"
	"strings"
	"testing"
)

// TestBinary: a binary message comes by BDAT alone, octet for octet behind its header, however it is cut (RFC 3030 3).
func TestBinary(t *testing.T) {
	const text = "Subject: x\r\n\r\n\n.\n\r\r.\r\n\x00.\r\n\r"
	for cut := range len(text) + 1 {
		h := newHost(t)
		c := h.pipe()
		c.do("EHLO x", "250")
		c.do("MAIL FROM:<> BODY=binarymime", "250")
		c.do("RCPT TO:<bob@own.example>", "250")
		go c.send(fmt.Sprintf("BDAT %d\r\n%sBDAT %d LAST\r\n%s", cut, text[:cut], len(text)-cut, text[cut:]))
		c.expect("250")
		c.expect("250 2.0.0 Ok: queued as ")
		if e, _, got := h.one(); got != text || e.Body != "BINARYMIME" {
			t.Errorf("cut at %d: got %q, body %q", cut, got, e.Body)
		}
	}
	for _, tt := range []struct{ name, send, want string }{
		{"DATA", "DATA\r\n", "503"},
		{"bare LF in the header", "BDAT 17 LAST\r\nSubject: x\ny\r\n\r\n\nNOOP\r\n", "550 5.6.0,"},
		{"bare CR at the end of a header", "BDAT 5 LAST\r\nA: b\rNOOP\r\n", "550 5.6.0,"},
		{"NUL in the header", "BDAT 9 LAST\r\nA: \x00\r\n\r\nxNOOP\r\n", "550 5.6.0,"},
		{"a header alone", "BDAT 4 LAST\r\nA: bNOOP\r\n", "250 2.0.0 Ok: queued as,250"},
		{"no header", "BDAT 4 LAST\r\n\r\n\n\nNOOP\r\n", "250 2.0.0 Ok: queued as,250"},
	} {
		for _, normalise := range []bool{false, true} { // which is not for a binary message
			h := newHost(t)
			h.NormaliseNewlines = normalise
			c := h.dial()
			c.do("EHLO x", "250")
			c.do("MAIL FROM:<> BODY=BINARYMIME", "250")
			c.do("RCPT TO:<bob@own.example>", "250")
			go func() { _, _ = io.WriteString(c.conn, tt.send) }()
			for want := range strings.SplitSeq(tt.want, ",") {
				if got := c.reply(); !strings.HasPrefix(got, want) || want == "" && got != "" {
					t.Errorf("%s: got %q, want %q", tt.name, got, want)
				}
			}
		}
	}
	h := newHost(t).trust()
	h.Submission = true
	c := h.dial()
	c.do("EHLO x", "250")
	c.do("MAIL FROM:<bob@own.example> BODY=BINARYMIME", "250")
	c.do("RCPT TO:<bob@own.example>", "250")
	c.send("BDAT 5 LAST\r\n\r\n\n\x00.")
	c.expect("250 2.0.0 Ok: queued as ")
	if _, _, got := h.one(); !strings.HasSuffix(got, "\r\n\r\n\n\x00.") {
		t.Errorf("got %q", got)
	}
}

func TestRequireTLS(t *testing.T) {
	h := newHost(t)
	c := h.dial()
	if got := c.do("EHLO x", "250"); strings.Contains(got, "REQUIRETLS") {
		t.Errorf("offered in the clear: %q", got)
	}
	c.do("MAIL FROM:<a@far.example> REQUIRETLS", "555 5.5.4")
	c.startTLS()
	if got := c.do("EHLO x", "250"); !strings.Contains(got, "REQUIRETLS\n") {
		t.Errorf("not offered: %q", got)
	}
	c.do("MAIL FROM:<a@far.example> REQUIRETLS=yes", "501 5.5.4")
	c.do("MAIL FROM:<a@far.example> requiretls", "250")
	c.do("RCPT TO:<bob@own.example> REQUIRETLS", "555 5.5.4")
	c.do("RCPT TO:<bob@own.example>", "250")
	c.do("DATA", "354")
	c.do("TLS-Required: No\r\n\r\n.", "250") // which the option outweighs (RFC 8689 4.1)
	if e, _, _ := h.one(); !e.RequireTLS {
		t.Errorf("envelope %+v", e)
	}
	h = newHost(t)
	c = h.dial()
	c.startTLS()
	c.do("MAIL FROM:<a@far.example>", "250")
	c.do("RCPT TO:<bob@own.example>", "250")
	c.do("DATA", "354")
	c.do("\r\n.", "250")
	if e, _, _ := h.one(); e.RequireTLS {
		t.Errorf("envelope %+v", e)
	}
}

// TestORcpt: an original recipient of type utf-8 comes raw under SMTPUTF8, and encoded always (RFC 6533 3).
func TestORcpt(t *testing.T) {
	for _, tt := range []struct {
		value string
		utf8  bool
		want  string // decoded, or the reply
	}{
		{"rfc822;a+2Bb@c", false, "rfc822;a+b@c"},
		{"RFC822;a@c", true, "rfc822;a@c"},
		{"utf-8;bøb@own.example", true, "utf-8;bøb@own.example"},
		{"UTF-8;bøb@own.example", true, "utf-8;bøb@own.example"},
		{"utf-8;bøb@own.example", false, "501 5.5.4"},
		{`utf-8;b\x{F8}b@own.example`, false, "utf-8;bøb@own.example"},
		{`utf-8;b\x{F8}b@own.example`, true, "utf-8;bøb@own.example"},
		{`utf-8;\x{2B}\x{3D}\x{5C}\x{20}\x{1F600}@d`, true, `utf-8;+=\ 😀@d`},
		{"utf-8;a@c", false, "utf-8;a@c"},
		{"utf-8;b\xf8b@own.example", true, "501 5."},
		{"rfc822;bøb@own.example", true, "501 5.5.4"},
		{"utf-8;", true, "501 5.5.4"},
		{`utf-8;\x{0A}`, true, "501 5.5.4"},
		{`utf-8;\x{85}`, true, "501 5.5.4"},
		{`utf-8;\x{D800}`, true, "501 5.5.4"},
		{`utf-8;\x{110000}`, true, "501 5.5.4"},
		{`utf-8;\x{f8}`, true, "501 5.5.4"},
		{`utf-8;\x{F8`, true, "501 5.5.4"},
		{`utf-8;a\b`, true, "501 5.5.4"},
		{"utf-8;a+2Bb", true, "501 5.5.4"},
		{"ø;a", true, "501 5.5.4"},
		{"utf-8;" + strings.Repeat("ø", 225), true, "utf-8;" + strings.Repeat("ø", 225)},
		{"utf-8;" + strings.Repeat("ø", 226), true, "501 5.5.4"},
	} {
		h := newHost(t)
		c := h.dial()
		c.do("EHLO x", "250")
		c.do("MAIL FROM:<>"+map[bool]string{true: " SMTPUTF8"}[tt.utf8], "250")
		c.send("RCPT TO:<bob@own.example> ORCPT=" + tt.value + "\r\n")
		got := c.reply()
		if strings.HasPrefix(got, "250") {
			c.do("DATA", "354")
			c.do(".", "250")
			e, _, _ := h.one() // written and read again
			got = e.Rcpts[0].ORcpt
		}
		if !strings.HasPrefix(got, tt.want) || strings.Contains(tt.want, ";") && got != tt.want {
			t.Errorf("%s, SMTPUTF8 %v: got %q, want %q", tt.value, tt.utf8, got, tt.want)
		}
	}
}

// TestLimitsLine: what LIMITS says is true (RFC 9422), and of at most six digits.
func TestLimitsLine(t *testing.T) {
	h := newHost(t)
	if got := h.dial().do("EHLO x", "250"); !strings.Contains(got, "\n250-LIMITS RCPTMAX=100\n") {
		t.Errorf("%q", got)
	}
	h.MaxRecipients = 5_000_000
	if got := h.dial().do("EHLO x", "250"); !strings.Contains(got, "\n250-LIMITS RCPTMAX=999999\n") {
		t.Errorf("%q", got)
	}
}

// TestNormalise: a bare LF becomes CRLF and a bare CR goes, in whatever pieces they come; the end of a message stays what it was.
func TestNormalise(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"A: b\n\nc\r\n", "A: b\r\n\r\nc\r\n"},
		{"a\r\r\nb\r\n", "a\r\nb\r\n"},
		{"A: b\r\n\r\r\nc\r\n", "A: b\r\n\r\nc\r\n"},
		{"a\rb\r\n", "ab\r\n"},
		{"a\n.\nb\r\n", "a\r\n.\r\nb\r\n"},
		{"a\n.\r\nb\r\n", "a\r\n.\r\nb\r\n"},
		{"a\r\n.\nb\r\n", "a\r\n\r\nb\r\n"}, // the dot at the start of a line is stuffing (RFC 5321 4.5.2)
		{"a\r\n.\r\r\nb\r\n", "a\r\n\r\nb\r\n"},
		{"a\n\r\n", "a\r\n\r\n"},
		{"a\n\r.\r\n", "a\r\n.\r\n"},
	} {
		for cut := range len(tt.in) {
			h := newHost(t)
			h.NormaliseNewlines = true
			c := h.pipe()
			c.begin()
			c.do("DATA", "354")
			go func() {
				c.send(tt.in[:cut])
				c.send(tt.in[cut:] + ".\r\n")
			}()
			if got := c.reply(); !strings.HasPrefix(got, "250 2.0.0 Ok: queued as ") {
				t.Fatalf("%q cut at %d: got %q", tt.in, cut, got)
			}
			if _, _, got := h.one(); got != tt.want {
				t.Errorf("%q cut at %d: got %q, want %q", tt.in, cut, got, tt.want)
			}
			c.do("NOOP", "250")
		}
	}
	for _, tt := range []struct{ in, want string }{
		{"a\n", "a\r\n"}, {"a", "a\r\n"}, {"a\r", "a\r\n"}, {"a\n\r", "a\r\n"}, {"\r", ""}, {".\n.\r\n", ".\r\n.\r\n"}, {"a\r\n", "a\r\n"},
	} {
		h := newHost(t)
		h.NormaliseNewlines = true
		c := h.dial()
		c.begin()
		c.send(fmt.Sprintf("BDAT %d LAST\r\n%s", len(tt.in), tt.in))
		c.expect("250 2.0.0 Ok: queued as ")
		if _, _, got := h.one(); got != tt.want {
			t.Errorf("BDAT %q: got %q, want %q", tt.in, got, tt.want)
		}
	}
	h := newHost(t)
	h.NormaliseNewlines, h.MaxSize = true, 64<<10
	c := h.dial()
	c.begin()
	c.do("DATA", "354")
	go c.send(strings.Repeat("\n", 40<<10) + "\r\n.\r\n") // it grows
	c.expect("552 5.3.4")
	c = h.dial()
	c.begin()
	c.do("DATA", "354")
	c.send("a\x00\r\n.\r\n")
	c.expect("550 5.6.0")
	h.none()
}
