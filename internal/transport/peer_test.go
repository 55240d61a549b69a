package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/emersion/go-smtp"

	"github.com/postel-mail/postel/internal/envelope"
	"github.com/postel-mail/postel/internal/queue"
)

// peer is a server written by others, go-smtp. It counts what it is given.
type peer struct {
	mu       sync.Mutex
	sessions int
	mails    int
	rcpts    []string
	octets   int64
	gate     sync.WaitGroup // the first messages are awaited before any is answered
	gated    int
}

func (p *peer) serve(t *testing.T, lmtp bool, l net.Listener) {
	t.Helper()
	s := smtp.NewServer(smtp.BackendFunc(func(*smtp.Conn) (smtp.Session, error) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.sessions++
		return &peerSession{p}, nil
	}))
	s.Domain, s.LMTP, s.EnableDSN, s.MaxRecipients = "mx.example", lmtp, true, 3
	s.TLSConfig = &tls.Config{Certificates: []tls.Certificate{testCert}}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Close()
		if err := <-done; err != nil && !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
	})
}

type peerSession struct{ p *peer }

func (s *peerSession) Reset()                               {}
func (s *peerSession) Logout() error                        { return nil }
func (s *peerSession) Mail(string, *smtp.MailOptions) error { return nil }

func (s *peerSession) Rcpt(to string, _ *smtp.RcptOptions) error {
	s.p.mu.Lock()
	defer s.p.mu.Unlock()
	s.p.rcpts = append(s.p.rcpts, to)
	return nil
}

func (s *peerSession) Data(r io.Reader) error {
	n, err := io.Copy(io.Discard, r)
	s.p.wait()
	s.p.mu.Lock()
	defer s.p.mu.Unlock()
	s.p.mails++
	s.p.octets += n
	return err
}

// wait opens the gate a little further, and waits until it is open.
func (p *peer) wait() {
	p.mu.Lock()
	if p.gated > 0 {
		p.gated--
		p.gate.Done()
	}
	p.mu.Unlock()
	p.gate.Wait()
}

// TestPeers sends to a hundred recipients, in the batches that the peer allows, by SMTP with TLS and by LMTP over a UNIX socket, several
// messages at once over sessions that are kept.
func TestPeers(t *testing.T) {
	for _, lmtp := range []bool{false, true} {
		p := &peer{}
		tr := &Transport{Hostname: "me.example", Port: 25, Addresses: (&hosts{}).addresses}
		network, addr := "tcp", "127.0.0.1:0"
		if lmtp {
			network, addr = "unix", filepath.Join(t.TempDir(), "lmtp")
		}
		l, err := net.Listen(network, addr)
		if err != nil {
			t.Fatal(err)
		}
		p.serve(t, lmtp, l)
		d := dest(t, "lmtp://"+l.Addr().String())
		if !lmtp {
			d = dest(t, "smtp://"+l.Addr().String())
		}
		e := envelope.Envelope{From: path(t, "a@a.example"), UID: -1}
		for i := range 100 {
			e.Rcpts = append(e.Rcpts, envelope.Recipient{To: path(t, "b"+strconv.Itoa(i/2)+"@b.example")})
		}
		var wg sync.WaitGroup
		for range 4 {
			copied := e
			m := enqueueAs(t, &copied, letter)
			wg.Go(func() {
				for range 3 {
					for i, o := range tr.Attempt(context.Background(), all(m, d)) {
						if o.Err != nil || !o.Remote || !o.DSN || !strings.HasPrefix(o.Text, "2.0.0 ") {
							t.Errorf("%s, recipient %d: %+v", d, i, o)
							return
						}
					}
				}
			})
		}
		wg.Wait()
		tr.Close()
		if p.mails != 12*34 || len(p.rcpts) != 1200 || p.octets != int64(p.mails*len(letter)) || p.sessions > 12 {
			t.Errorf("%s: %d mails to %d recipients, %d octets, in %d sessions", d, p.mails, len(p.rcpts), p.octets, p.sessions)
		}
	}
}

// TestLargeMessage sends 50 MiB. Memory does not grow with it: what is allocated in all, client and server together, stays far below
// the message.
func TestLargeMessage(t *testing.T) {
	const size = 50 << 20
	spool, err := queue.Open(t.TempDir() + "/spool")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(spool.Close)
	e := &envelope.Envelope{From: path(t, "a@a.example"), UID: -1, Rcpts: []envelope.Recipient{{To: path(t, "b@b.example")}}}
	w, err := spool.Create(e)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort()
	block := []byte(strings.Repeat("."+strings.Repeat("x", 509)+"\r\n", 64))
	for n := 0; n < size; n += len(block) {
		if _, err := w.Write(block); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Commit(); err != nil {
		t.Fatal(err)
	}
	m, err := spool.Claim(e.ID)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	h := network(t, map[string][]string{"127.0.0.1": {hello + `
		C: MAIL FROM:<a@a.example>
		C: RCPT TO:<b@b.example>
		C: DATA
		S| "250 ok\r\n250 ok\r\n354 go\r\n"
		BODY
		S: 250 ok` + bye}})
	tr := h.transport()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	r := tr.Attempt(context.Background(), all(m, dest(t, "smtp://127.0.0.1")))
	runtime.ReadMemStats(&after)
	if r[0].Err != nil {
		t.Fatal(r[0].Err)
	}
	if got := after.TotalAlloc - before.TotalAlloc; got > 1<<20 {
		t.Errorf("%d octets were allocated", got)
	}
	tr.Close()
}
