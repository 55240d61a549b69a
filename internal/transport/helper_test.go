package transport

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/postel-mail/postel/internal/address"
	"github.com/postel-mail/postel/internal/destination"
	"github.com/postel-mail/postel/internal/envelope"
	"github.com/postel-mail/postel/internal/mx"
	"github.com/postel-mail/postel/internal/queue"
	"github.com/postel-mail/postel/internal/status"
	"github.com/postel-mail/postel/test/dialog"
)

var (
	testCert  tls.Certificate
	testRoots *x509.CertPool
)

func TestMain(m *testing.M) {
	var err error
	if testCert, testRoots, err = dialog.Certificate("hub.example"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

const letter = "Subject: x\r\n\r\nhello\r\n"

// enqueue makes a queued message and claims it.
func enqueue(t testing.TB, body, from string, to ...string) *queue.Message {
	t.Helper()
	e := &envelope.Envelope{From: path(t, from), UID: -1}
	for _, s := range to {
		e.Rcpts = append(e.Rcpts, envelope.Recipient{To: path(t, s)})
	}
	return enqueueAs(t, e, body)
}

func enqueueAs(t testing.TB, e *envelope.Envelope, body string) *queue.Message {
	t.Helper()
	spool, err := queue.Open(t.TempDir() + "/spool")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(spool.Close)
	w, err := spool.Create(e)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort()
	if _, err := w.Write([]byte(body)); err != nil {
		t.Fatal(err)
	}
	if err := w.Commit(); err != nil {
		t.Fatal(err)
	}
	m, err := spool.Claim(e.ID)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	return m
}

func path(t testing.TB, s string) address.Path {
	t.Helper()
	if s == "" {
		return address.Path{}
	}
	p, err := address.Parse(s)
	if err != nil {
		t.Fatalf("%s: %v", s, err)
	}
	return p
}

func dest(t testing.TB, s string) destination.Destination {
	t.Helper()
	d, err := destination.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// all is a request for all recipients of m.
func all(m *queue.Message, dests ...destination.Destination) Request {
	r := Request{Message: m, Dests: dests, Domain: m.Envelope.Rcpts[0].To.Domain}
	for i := range m.Envelope.Rcpts {
		r.Rcpts = append(r.Rcpts, i)
	}
	return r
}

// hosts is a network of scripted servers on loopback addresses, all on one port, with a table of names.
type hosts struct {
	t         *testing.T
	port      int
	mx        map[string]string   // domain: "host host,equal ..." in order of preference, "!" for an error, "." for a null MX
	addrs     map[string][]string // host: addresses
	mu        sync.Mutex
	connected []string // addresses in the order in which they were connected to
}

// network starts a server for each address; its scripts are played one a connection, and a connection without one is closed.
func network(t *testing.T, scripts map[string][]string) *hosts {
	t.Helper()
	h := &hosts{t: t, mx: map[string]string{}, addrs: map[string][]string{}}
	var listeners map[string]net.Listener
	for range 10 { // the port must be free on every address
		if listeners = h.listen(scripts); listeners != nil {
			break
		}
	}
	if listeners == nil {
		t.Fatal("no port is free on all addresses")
	}
	var wg sync.WaitGroup
	for ip, l := range listeners {
		wg.Go(func() { h.serve(l, ip, scripts[ip]) })
	}
	t.Cleanup(func() {
		for _, l := range listeners {
			l.Close()
		}
		wg.Wait()
	})
	return h
}

func (h *hosts) listen(scripts map[string][]string) map[string]net.Listener {
	all := map[string]net.Listener{}
	h.port = 0
	for ip := range scripts {
		l, err := net.Listen("tcp", net.JoinHostPort(ip, strconv.Itoa(h.port)))
		if err != nil {
			for _, l := range all {
				l.Close()
			}
			return nil
		}
		all[ip] = l
		h.port = l.Addr().(*net.TCPAddr).Port
	}
	return all
}

func (h *hosts) serve(l net.Listener, ip string, scripts []string) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for n := 0; ; n++ {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		h.mu.Lock()
		h.connected = append(h.connected, ip)
		h.mu.Unlock()
		if n >= len(scripts) {
			conn.Close()
			continue
		}
		wg.Go(func() {
			if err := (dialog.Server{Certificate: testCert}).Play(conn, scripts[n]); err != nil {
				h.t.Errorf("%s, connection %d: %v", ip, n, err)
			}
		})
	}
}

// transport is one that sees this network.
func (h *hosts) transport() *Transport {
	t := &Transport{Hostname: "me.example", Port: h.port, Roots: testRoots, MX: h.lookup, Addresses: h.addresses}
	h.t.Cleanup(t.Close)
	return t
}

func (h *hosts) lookup(_ context.Context, domain string) (mx.Answer, error) {
	s, ok := h.mx[domain]
	if !ok {
		return mx.Answer{}, status.Permanent(550, "5.1.2", "Domain "+domain+" does not exist", mx.ErrNoDomain)
	}
	if s == "!" {
		return mx.Answer{}, status.Temporary(451, "4.4.3", "DNS look-up failed", errors.New("timeout"))
	}
	if s == "." {
		return mx.Answer{}, status.Permanent(556, "5.1.10", "Domain "+domain+" takes no mail", mx.ErrNullMX)
	}
	a := mx.Answer{Name: domain}
	for i, equal := range strings.Fields(s) {
		for name := range strings.SplitSeq(equal, ",") {
			a.Hosts = append(a.Hosts, mx.Host{Preference: uint16(10 * i), Name: name})
		}
	}
	return a, nil
}

func (h *hosts) addresses(_ context.Context, host string) ([]netip.Addr, error) {
	if a, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{a}, nil
	}
	list, ok := h.addrs[host]
	if !ok {
		return nil, status.Permanent(550, "5.1.2", "Domain "+host+" does not exist", mx.ErrNoDomain)
	}
	var all []netip.Addr
	for _, s := range list {
		if s == "!" {
			return nil, status.Temporary(451, "4.4.3", "DNS look-up failed", errors.New("timeout"))
		}
		all = append(all, netip.MustParseAddr(s))
	}
	return all, nil
}

// summary is a result in short, with the port as PORT.
func (h *hosts) summary(results []Result) string {
	var lines []string
	for _, r := range results {
		s := fmt.Sprintf("%d %s", r.Code, r.Text)
		if r.Err != nil {
			s = r.Err.Reply()
		}
		if r.Remote {
			s += " (remote)"
		}
		if r.Relay != "" {
			s += " at " + r.Relay
		}
		lines = append(lines, s)
	}
	return strings.ReplaceAll(strings.Join(lines, "\n"), ":"+strconv.Itoa(h.port), ":PORT")
}
