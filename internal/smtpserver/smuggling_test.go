package smtpserver

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/postel-mail/postel/internal/clock"
)

// TestSmuggling sends every pair of line ends around a dot, with a second message behind it, cut in two at every octet: by DATA, by DATA
// under TLS, and by BDAT. A client that means one message must never have two queued.
func TestSmuggling(t *testing.T) {
	ends := []string{"\r\n", "\n", "\r"}
	var frames []string
	for _, before := range ends {
		for _, behind := range ends {
			if before != "\r\n" || behind != "\r\n" {
				frames = append(frames, before+"."+behind)
			}
		}
	}
	frames = append(frames, "\r\n\x00.\r\n", "\r\n.\x00\r\n", "\r\n.\r\x00\n", "\r\x00\n.\r\n", "\n\r\n.\n", "\r\r\n.\n", "\r\n.\r\r\n", "\n.\n", "\r.\r")
	for _, mode := range []string{"plain", "tls", "bdat"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			for _, frame := range frames {
				text := "Subject: a\r\n\r\nb" + frame + "MAIL FROM:<evil@far.example>\r\nRCPT TO:<bob@own.example>\r\nDATA\r\nevil"
				for cut := range len(text) {
					smuggle(t, h, mode, text, cut)
				}
				h.none()
			}
		})
	}
}

func smuggle(t *testing.T, h *host, mode, text string, cut int) {
	t.Helper()
	ours, theirs := net.Pipe()
	done := make(chan struct{})
	go func() { defer close(done); h.session(theirs) }()
	defer func() { ours.Close(); <-done }()
	_ = ours.SetDeadline(clock.Now().Add(time.Minute))
	c := &client{t: t, conn: ours, r: bufio.NewReader(ours)}
	c.expect("220")
	if mode == "tls" {
		c.do("EHLO x", "250")
		c.do("STARTTLS", "220")
		tc := tls.Client(ours, &tls.Config{InsecureSkipVerify: true})
		c.conn, c.r = tc, bufio.NewReader(tc)
	}
	c.send("EHLO x\r\nMAIL FROM:<alice@far.example>\r\nRCPT TO:<bob@own.example>\r\n")
	c.expect("250")
	c.expect("250")
	c.expect("250")
	if mode == "bdat" {
		go func() {
			_, _ = io.WriteString(c.conn, fmt.Sprintf("BDAT %d LAST\r\n%s", len(text), text[:cut]))
			_, _ = io.WriteString(c.conn, text[cut:]+"NOOP\r\n") // the server may be gone
		}()
	} else {
		c.do("DATA", "354")
		go func() {
			_, _ = io.WriteString(c.conn, text[:cut])
			_, _ = io.WriteString(c.conn, text[cut:]+"\r\n.\r\nNOOP\r\n")
		}()
	}
	if got := c.reply(); !strings.HasPrefix(got, "550 5.6.0") {
		t.Fatalf("%s %q cut at %d: got %q, want 550 5.6.0", mode, text, cut, got)
	}
	if got := c.reply(); got != "" {
		t.Fatalf("%s %q cut at %d: got %q behind the refusal", mode, text, cut, got)
	}
}
