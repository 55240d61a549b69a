package transport

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/postel-mail/postel/internal/envelope"
	"github.com/postel-mail/postel/internal/smtpclient"
)

// TestRequireTLS: a message with REQUIRETLS goes to servers that are proven and keep to it, and to no others; a bounce goes anywhere (RFC 8689 4.2.1, 5).
func TestRequireTLS(t *testing.T) {
	const tls = `S: 220 hub.example
		C: EHLO me.example
		S| "250-hub.example\r\n250 STARTTLS\r\n"
		C: STARTTLS
		S: 220 go
		TLS
		C: EHLO me.example
		`
	const accept = `S: 250 ok
		C: RCPT TO:<b@b.example>
		S: 250 ok
		C: DATA
		S: 354 go
		BODY
		S: 250 taken
		C. QUIT
		S: 221 bye`
	const good = tls + `S| "250-hub.example\r\n250 REQUIRETLS\r\n"
		C: MAIL FROM:<a@a.example> REQUIRETLS
		` + accept
	const ignorant = tls + "S: 250 hub.example\nC. QUIT\nS: 221 bye"
	const clear = "S: 220 hub.example\nC: EHLO me.example\nS| \"250-hub.example\\r\\n250 REQUIRETLS\\r\\n\"\n"
	const strange = "S: 220 hub.example\nC: EHLO me.example\nS| \"250-hub.example\\r\\n250 STARTTLS\\r\\n\"\nC: STARTTLS\nS: 220 go\nNOTLS"
	const before = "S: 220 hub.example\nC: EHLO me.example\nS| \"250-hub.example\\r\\n250 STARTTLS\\r\\n\"\nC: STARTTLS\n"
	for _, tt := range []struct {
		name, from, dest string
		scripts          []string // of hub.example's addresses
		roots            bool
		want             string
	}{
		{"proven", "a@a.example", "smtp://hub.example", []string{good}, true, "250 taken (remote) at hub.example[127.0.0.1]:PORT"},
		{"not offered", "a@a.example", "smtp://hub.example", []string{ignorant}, true,
			"550 5.7.30 REQUIRETLS support required, and hub.example[127.0.0.1]:PORT does not offer it at hub.example[127.0.0.1]:PORT"},
		{"the second address offers it", "a@a.example", "smtp://hub.example", []string{ignorant, good}, true, "250 taken (remote) at hub.example[127.0.0.2]:PORT"},
		{"no TLS", "a@a.example", "smtp://hub.example", []string{clear}, true,
			"550 5.7.10 Message requires TLS: TLS is required, but the server does not offer it at hub.example[127.0.0.1]:PORT"},
		{"no certificate that verifies", "a@a.example", "smtp://hub.example", []string{strange}, false,
			"550 5.7.10 Message requires TLS: The server's certificate does not verify at hub.example[127.0.0.1]:PORT"},
		{"a handshake that breaks off", "a@a.example", "smtp://hub.example", []string{before + "S: 220 go\nCLOSE"}, true,
			"454 4.7.5 TLS handshake failed at hub.example[127.0.0.1]:PORT"},
		{"no TLS for now", "a@a.example", "smtp://hub.example", []string{before + "S: 454 4.7.5 try later\nCLOSE"}, true,
			"451 4.7.5 STARTTLS refused: 454 4.7.5 try later at hub.example[127.0.0.1]:PORT"},
		{"mail hosts", "a@a.example", "mx:b.example", []string{}, true, "550 5.7.10 Message requires TLS, and nothing proves the mail hosts of b.example"},
		{"a bounce, to one that knows it", "", "smtp://hub.example", []string{strings.Replace(good, "<a@a.example>", "<>", 1)}, true, "250 taken (remote) at hub.example[127.0.0.1]:PORT"},
		{"a bounce, in the clear", "", "mx:b.example", []string{clear + "C: MAIL FROM:<>\n" + accept}, true, "250 taken (remote) at hub.example[127.0.0.1]:PORT"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			scripts := map[string][]string{"127.0.0.9": nil}
			var addrs []string
			for i, s := range tt.scripts {
				addrs = append(addrs, "127.0.0."+strconv.Itoa(i+1))
				scripts[addrs[i]] = []string{s}
			}
			h := network(t, scripts)
			h.addrs["hub.example"], h.mx["b.example"] = addrs, "hub.example"
			tr := h.transport()
			if !tt.roots {
				tr.Roots = nil // the system's, which do not know it
			}
			m := enqueueAs(t, &envelope.Envelope{From: path(t, tt.from), UID: -1, RequireTLS: true, Rcpts: []envelope.Recipient{{To: path(t, "b@b.example")}}}, letter)
			if got := h.summary(tr.Attempt(context.Background(), all(m, dest(t, tt.dest)))); got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
			tr.Close()
		})
	}
}

// TestRequireTLSLevels: what the configuration says about TLS does not count for such a message, and its sessions are not those of others.
func TestRequireTLSLevels(t *testing.T) {
	m := enqueueAs(t, &envelope.Envelope{From: path(t, "a@a.example"), UID: -1, RequireTLS: true, Rcpts: []envelope.Recipient{{To: path(t, "b@b.example")}}}, letter)
	for to, want := range map[string]smtpclient.TLS{"smtp://hub.example": smtpclient.Require, "smtps://hub.example": smtpclient.Implicit, "lmtp://hub.example:24": smtpclient.Require,
		"lmtp:///run/lmtp.sock": smtpclient.Off} {
		w := newAttempt(&Transport{TLS: smtpclient.Off}, all(m, dest(t, to)))
		w.d = w.r.Dests[0]
		if s := w.prepare(); s != nil || w.o.TLS != want || w.o.Verify == w.o.Private || !strings.HasPrefix(w.key, "REQUIRETLS\n") {
			t.Errorf("%s: %v, %+v, key %q", to, s, w.o, w.key)
		}
	}
}

// TestBinaryProgram: a program gets a binary message as lines, and none that cannot be made so.
func TestBinaryProgram(t *testing.T) {
	const head = "Subject: x\r\nMIME-Version: 1.0\r\nContent-Type: multipart/"
	for _, tt := range []struct{ name, body, want, text string }{
		{"binary", head + "mixed; boundary=b\r\n\r\n--b\r\nContent-Type: x/y\r\nContent-Transfer-Encoding: binary\r\n\r\n\n.\r\n\x00\xff\r\n--b--\r\n", "250 2.0.0 Taken by the program at pipe",
			head + "mixed; boundary=b\r\n\r\n--b\r\nContent-Type: x/y\r\nContent-Transfer-Encoding: base64\r\n\r\nCi4NCgD/\r\n--b--\r\n"},
		{"lines", "Subject: x\r\n\r\n\xff\r\n", "250 2.0.0 Taken by the program at pipe", "Subject: x\r\n\r\n\xff\r\n"},
		{"signed", head + "signed; boundary=b\r\n\r\n--b\r\n\r\na\nb\r\n--b--\r\n", "554 5.6.3 The message is binary, and cannot be converted for this mailbox at pipe", ""},
		{"signed, with a NUL", head + "signed; boundary=b\r\n\r\n--b\r\n\r\n\x00\r\n--b--\r\n", "554 5.6.3 The message is binary, and cannot be converted for this mailbox at pipe", ""},
	} {
		dir := t.TempDir()
		m := enqueueAs(t, &envelope.Envelope{From: path(t, "a@a.example"), UID: -1, Body: "BINARYMIME", Rcpts: []envelope.Recipient{{To: path(t, "b@b.example")}}}, tt.body)
		tr := &Transport{Deliver: []string{script(t, dir, "cat > got\n")}}
		if got := (&hosts{}).summary(tr.Attempt(context.Background(), all(m, dest(t, "maildir:/m")))); got != tt.want {
			t.Errorf("%s: got %s, want %s", tt.name, got, tt.want)
		}
		if got := content(t, filepath.Join(dir, "got")); got != tt.text {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.text)
		}
	}
}

// content is that of a file, "" where there is none.
func content(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return string(b)
}
