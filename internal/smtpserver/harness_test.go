package smtpserver

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/postel-mail/postel/internal/activation"
	"github.com/postel-mail/postel/internal/address"
	"github.com/postel-mail/postel/internal/envelope"
	"github.com/postel-mail/postel/internal/maillog"
	"github.com/postel-mail/postel/internal/queue"
	"github.com/postel-mail/postel/internal/sasl"
	"github.com/postel-mail/postel/internal/status"
)

// host is a server with a spool of its own. It has the domain own.example with the user bob, and relays for back.example.
type host struct {
	*Server
	t   testing.TB
	log *syncBuffer
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

var testCertificate = sync.OnceValue(func() tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "mail.own.example"},
		DNSNames: []string{"mail.own.example"}, NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<33, 0)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		panic(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
})

func newHost(t testing.TB) *host {
	t.Helper()
	spool, err := queue.Open(t.TempDir() + "/spool")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(spool.Close)
	log := &syncBuffer{}
	return &host{t: t, log: log, Server: &Server{
		Hostname: "mail.own.example", Spool: spool, Log: maillog.ToWriter(log, "smtpd"),
		TLS:           &tls.Config{Certificates: []tls.Certificate{testCertificate()}, MinVersion: tls.VersionTLS12},
		Home:          "own.example",
		Domains:       map[string]bool{"own.example": true},
		RelayDomains:  map[string]bool{"back.example": true},
		RelayNetworks: nil,
		Verify: func(_ context.Context, p address.Path) error {
			switch p.Local {
			case "bob", "bøb":
				return nil
			case "wrapped":
				return fmt.Errorf("alias: %w", status.Permanent(550, "5.2.1", "Mailbox disabled", nil))
			case "broken":
				return errors.New("users: input/output error at /secret")
			}
			return status.Permanent(550, "5.1.1", "No such user", nil)
		},
		Logins: &sasl.Checks{Password: func(_ context.Context, user, password string) (string, error) {
			switch {
			case user == "bob" && password == "secret":
				return "bob@own.example", nil
			case user == "broken":
				return "", errors.New("users: input/output error")
			}
			return "", status.Permanent(535, "5.7.8", "wrong", nil)
		}},
		MaxSize: 1 << 20, MaxRecipients: 100, MaxHops: 50, LoginDelay: time.Nanosecond,
	}}
}

// serve runs sessions on loopback until the test ends, and gives the address.
func (h *host) serve() string {
	h.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		h.t.Fatal(err)
	}
	var sessions sync.WaitGroup
	sessions.Go(func() {
		for {
			raw, err := l.Accept()
			if err != nil {
				return
			}
			sessions.Go(func() { h.session(raw) })
		}
	})
	h.t.Cleanup(func() { l.Close(); sessions.Wait() })
	return l.Addr().String()
}

func (h *host) session(raw net.Conn) {
	c := activation.NewConn(raw)
	defer c.Close()
	h.ServeConn(c)
}

// dial connects by TCP and reads the greeting.
func (h *host) dial() *client {
	h.t.Helper()
	raw, err := net.Dial("tcp", h.serve())
	if err != nil {
		h.t.Fatal(err)
	}
	return newClient(h.t, raw)
}

// pipe connects by an in-memory pipe, on which each write of the client is one read of the server, and which counts as private.
func (h *host) pipe() *client {
	ours, theirs := net.Pipe()
	done := make(chan struct{})
	go func() { defer close(done); h.session(theirs) }()
	h.t.Cleanup(func() { ours.Close(); <-done })
	return newClient(h.t, ours)
}

// client is a test's end of a connection.
type client struct {
	t    testing.TB
	conn net.Conn
	r    *bufio.Reader
}

func newClient(t testing.TB, raw net.Conn) *client {
	t.Helper()
	t.Cleanup(func() { raw.Close() })
	_ = raw.SetDeadline(time.Now().Add(time.Minute)) // a hang is a failure
	c := &client{t: t, conn: raw, r: bufio.NewReader(raw)}
	c.expect("220 mail.own.example ESMTP")
	return c
}

func (c *client) send(s string) {
	c.t.Helper()
	if _, err := io.WriteString(c.conn, s); err != nil {
		c.t.Fatalf("sending %.60q: %v", s, err)
	}
}

// reply reads one reply, its lines joined by "\n". At the end of the connection it is "".
func (c *client) reply() string {
	var lines []string
	for {
		line, err := c.r.ReadString('\n')
		if err != nil {
			return strings.Join(lines, "\n")
		}
		if !strings.HasSuffix(line, "\r\n") {
			c.t.Errorf("line %q does not end in CR LF", line)
		}
		line = strings.TrimSuffix(line, "\r\n")
		lines = append(lines, line)
		if len(line) < 4 || line[3] != '-' {
			return strings.Join(lines, "\n")
		}
	}
}

func (c *client) expect(want string) string {
	c.t.Helper()
	got := c.reply()
	if !strings.HasPrefix(got, want) || want == "" && got != "" {
		c.t.Fatalf("got reply %q, want %q", got, want)
	}
	return got
}

func (c *client) do(command, want string) string {
	c.t.Helper()
	c.send(command + "\r\n")
	got := c.reply()
	if !strings.HasPrefix(got, want) {
		c.t.Fatalf("%.100q: got reply %q, want %q", command, got, want)
	}
	return got
}

// closed checks that the server ended the connection and has nothing more to say.
func (c *client) closed() {
	c.t.Helper()
	if got := c.reply(); got != "" {
		c.t.Fatalf("got %q, want the end of the connection", got)
	}
}

// startTLS does what its name says, from EHLO to EHLO.
func (c *client) startTLS() {
	c.t.Helper()
	c.do("EHLO client.example", "250")
	c.do("STARTTLS", "220 2.0.0")
	c.handshake()
	c.do("EHLO client.example", "250")
}

func (c *client) handshake() {
	c.t.Helper()
	t := tls.Client(c.conn, &tls.Config{InsecureSkipVerify: true})
	if err := t.Handshake(); err != nil {
		c.t.Fatal(err)
	}
	c.conn, c.r = t, bufio.NewReader(t)
}

// begin goes up to RCPT.
func (c *client) begin() {
	c.t.Helper()
	c.do("EHLO client.example", "250")
	c.do("MAIL FROM:<alice@far.example>", "250 2.1.0")
	c.do("RCPT TO:<bob@own.example>", "250 2.1.5")
}

// queued gives the messages of the queue: envelope and text.
func (h *host) queued() (envelopes []*envelope.Envelope, texts []string) {
	h.t.Helper()
	ids, err := h.Spool.IDs()
	if err != nil {
		h.t.Fatal(err)
	}
	for _, id := range ids {
		m, err := h.Spool.Claim(id)
		if err != nil {
			h.t.Fatal(err)
		}
		b, err := io.ReadAll(m.Body())
		if err != nil {
			h.t.Fatal(err)
		}
		m.Close()
		envelopes, texts = append(envelopes, m.Envelope), append(texts, string(b))
	}
	return envelopes, texts
}

// one gives the only message of the queue, without the Received field that was put in front.
func (h *host) one() (*envelope.Envelope, string, string) {
	h.t.Helper()
	envelopes, texts := h.queued()
	if len(texts) != 1 {
		h.t.Fatalf("%d messages in the queue, want 1\n%s", len(texts), h.log)
	}
	end := strings.Index(texts[0], "\r\n") + 2
	for strings.HasPrefix(texts[0][end:], "\t") {
		end += strings.Index(texts[0][end:], "\r\n") + 2
	}
	return envelopes[0], texts[0][:end], texts[0][end:]
}

func (h *host) none() {
	h.t.Helper()
	if _, texts := h.queued(); len(texts) != 0 {
		h.t.Fatalf("messages in the queue: %q", texts)
	}
}

func (h *host) trust() *host {
	h.RelayNetworks = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	return h
}
