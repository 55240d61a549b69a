package pop3server

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"io/fs"
	"math/big"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/postel-mail/postel/internal/activation"
	"github.com/postel-mail/postel/internal/mailbox"
	"github.com/postel-mail/postel/internal/maillog"
	"github.com/postel-mail/postel/internal/status"
)

// memory is a mailbox in memory, and its one session.
type memory struct {
	messages []string // as they are stored
	inUse    bool
	openErr  error
	bodyErr  map[int]error // for Body
	cut      map[int]bool  // the body breaks off at its end
	failRm   error

	removed []int
	closed  int
}

func (m *memory) Deliver(context.Context, mailbox.Delivery) error { return errors.ErrUnsupported }

func (m *memory) Open(context.Context) (mailbox.Session, error) {
	if m.inUse {
		return nil, mailbox.ErrInUse
	}
	return m, m.openErr
}

func (m *memory) Messages() []mailbox.Message {
	list := make([]mailbox.Message, len(m.messages))
	for i, text := range m.messages {
		var size mailbox.Size
		_, _ = io.WriteString(&size, text)
		list[i] = mailbox.Message{UID: "uid-" + string(rune('a'+i%26)) + strings.Repeat("x", i/26), Size: size.Octets()}
	}
	return list
}

func (m *memory) Body(i int) (io.ReadCloser, error) {
	r := io.Reader(strings.NewReader(m.messages[i]))
	if m.cut[i] {
		r = io.MultiReader(r, broken{})
	}
	return io.NopCloser(r), m.bodyErr[i]
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errors.New("input/output error at /secret") }

func (m *memory) Remove(indexes []int) error {
	m.removed = slices.Clone(indexes)
	return m.failRm
}

func (m *memory) Close() error { m.closed++; return nil }

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
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"pop.example"}, NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<33, 0)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		panic(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
})

// host is a server whose users are bob, with the mailbox box, and some who never get in.
type host struct {
	*Server
	t   testing.TB
	box *memory
	log *syncBuffer
}

func newHost(t testing.TB, messages ...string) *host {
	h := &host{t: t, box: &memory{messages: slices.Clone(messages)}, log: &syncBuffer{}}
	h.Server = &Server{
		Hostname: "pop.example", Log: maillog.ToWriter(h.log, "pop3d"), LoginDelay: time.Nanosecond,
		TLS: &tls.Config{Certificates: []tls.Certificate{testCertificate()}, MinVersion: tls.VersionTLS12},
		Login: func(_ context.Context, user, password string) (mailbox.Store, error) {
			switch {
			case user == "bob" && password == "se cret ":
				return h.box, nil
			case user == "foreign":
				return nil, status.Permanent(550, "5.7.0", "Mailbox belongs to another user of this host", nil)
			case user == "broken":
				return nil, errors.New("users: input/output error at /secret")
			}
			return nil, status.Permanent(535, "5.7.8", "Authentication failed", errors.New("hash differs"))
		},
	}
	return h
}

// session runs one session and checks that it gave its mailbox back.
func (h *host) session(raw net.Conn) {
	c := activation.NewConn(raw)
	h.ServeConn(c)
	c.Close()
}

// pipe connects by an in-memory pipe, which counts as private.
func (h *host) pipe() *client {
	h.t.Helper()
	ours, theirs := net.Pipe()
	return h.connect(ours, theirs)
}

// tcp connects by TCP, which does not.
func (h *host) tcp() *client {
	h.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		h.t.Fatal(err)
	}
	defer l.Close()
	ours, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		h.t.Fatal(err)
	}
	theirs, err := l.Accept()
	if err != nil {
		h.t.Fatal(err)
	}
	return h.connect(ours, theirs)
}

func (h *host) connect(ours, theirs net.Conn) *client {
	h.t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); h.session(theirs) }()
	h.t.Cleanup(func() { ours.Close(); <-done })
	_ = ours.SetDeadline(time.Now().Add(time.Minute)) // a hang is a failure
	c := &client{t: h.t, conn: ours, r: bufio.NewReader(ours), done: done}
	if h.ImplicitTLS {
		c.handshake()
	}
	c.expect("+OK pop.example")
	return c
}

// login connects and logs in.
func (h *host) login() *client {
	h.t.Helper()
	c := h.pipe()
	c.do("USER bob", "+OK")
	c.do("PASS se cret ", "+OK")
	return c
}

// client is a test's end of a connection.
type client struct {
	t    testing.TB
	conn net.Conn
	r    *bufio.Reader
	done chan struct{}
}

func (c *client) send(s string) {
	c.t.Helper()
	if _, err := io.WriteString(c.conn, s); err != nil {
		c.t.Fatalf("sending %.60q: %v", s, err)
	}
}

// line reads one line with its end; at the end of the connection what is there.
func (c *client) line() string {
	c.t.Helper()
	line, err := c.r.ReadString('\n')
	if err == nil && !strings.HasSuffix(line, "\r\n") {
		c.t.Errorf("line %q does not end in CR LF", line)
	}
	return line
}

func (c *client) expect(want string) string {
	c.t.Helper()
	got := c.line()
	if !strings.HasPrefix(got, want) || want == "" && got != "" {
		c.t.Fatalf("got reply %q, want %q", got, want)
	}
	return got
}

func (c *client) do(command, want string) string {
	c.t.Helper()
	c.send(command + "\r\n")
	got := c.line()
	if !strings.HasPrefix(got, want) || want == "" && got != "" {
		c.t.Fatalf("%.100q: got reply %q, want %q", command, got, want)
	}
	return got
}

// lines reads the rest of a reply of several lines, with the "." at its end.
func (c *client) lines() string {
	c.t.Helper()
	var all strings.Builder
	for {
		line := c.line()
		all.WriteString(line)
		if line == ".\r\n" || !strings.HasSuffix(line, "\n") {
			return all.String()
		}
	}
}

// closed checks that the server has nothing more to say and ends the session.
func (c *client) closed() {
	c.t.Helper()
	if got, err := io.ReadAll(c.r); len(got) > 0 || err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		c.t.Fatalf("got %q, %v; want the end of the connection", got, err)
	}
	c.conn.Close()
	<-c.done
}

func (c *client) handshake() {
	c.t.Helper()
	t := tls.Client(c.conn, &tls.Config{InsecureSkipVerify: true})
	if err := t.Handshake(); err != nil {
		c.t.Fatal(err)
	}
	c.conn, c.r = t, bufio.NewReader(t)
}

var errGone = &fs.PathError{Op: "open", Path: "/secret", Err: fs.ErrNotExist}
