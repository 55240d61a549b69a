package daemon

import (
	"bytes"
	"crypto/tls"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/postel-mail/postel/internal/clock"
	"github.com/postel-mail/postel/internal/config"
	"github.com/postel-mail/postel/internal/maillog"
)

// names gives the name in the certificate that a client of a server gets, and whether its session was resumed.
func names(t *testing.T, server *tls.Config, sni string, sessions tls.ClientSessionCache) (name string, resumed bool) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0") // a pipe would hold both ends in a Write where the handshake fails
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		theirs, err := l.Accept()
		if err == nil {
			defer theirs.Close()
			_, _ = tls.Server(theirs, server).Write([]byte("x")) // the client sees what went wrong
		}
	}()
	ours, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	c := tls.Client(ours, &tls.Config{ServerName: sni, InsecureSkipVerify: true, ClientSessionCache: sessions})
	if _, err := c.Read(make([]byte, 1)); err != nil { // the tickets come in front of it
		t.Fatal(err)
	}
	return c.ConnectionState().PeerCertificates[0].DNSNames[0], c.ConnectionState().DidResume
}

// pairs writes a certificate for each name.
func pairs(t *testing.T, hosts ...string) *config.Config {
	t.Helper()
	c := &config.Config{}
	for _, name := range hosts {
		cert, key := certificate(t, t.TempDir(), name)
		if err := os.Chmod(key, 0o600); err != nil {
			t.Fatal(err)
		}
		c.TLS.Certificate, c.TLS.Key = append(c.TLS.Certificate, cert), append(c.TLS.Key, key)
	}
	return c
}

func testDaemon(log *bytes.Buffer) *Daemon {
	d := New("testd", "be tested", "")
	d.Log, d.Listen = maillog.ToWriter(log, "testd"), []string{"127.0.0.1:0"}
	return d
}

// TestSNI: a client gets the certificate for the name it asks for, and the first for any other.
func TestSNI(t *testing.T) {
	var log bytes.Buffer
	server, err := testDaemon(&log).TLS(pairs(t, "a.example", "*.b.example"), "STARTTLS")
	if err != nil {
		t.Fatal(err)
	}
	for sni, want := range map[string]string{"a.example": "a.example", "A.Example": "a.example", "mail.b.example": "*.b.example", "b.example": "a.example", "c.example": "a.example", "": "a.example"} {
		if got, _ := names(t, server, sni, nil); got != want {
			t.Errorf("%q: got %q, want %q", sni, got, want)
		}
	}
}

func TestSessionTickets(t *testing.T) {
	for _, on := range []bool{true, false} {
		var log bytes.Buffer
		c := pairs(t, "a.example", "b.example")
		c.TLS.SessionTickets = on
		server, err := testDaemon(&log).TLS(c, "STARTTLS")
		if err != nil {
			t.Fatal(err)
		}
		sessions := tls.NewLRUClientSessionCache(0)
		names(t, server, "a.example", sessions)
		if _, resumed := names(t, server, "a.example", sessions); resumed != on {
			t.Errorf("session_tickets = %v: resumed %v", on, resumed)
		}
	}
}

func TestOldTLS(t *testing.T) {
	var log bytes.Buffer
	server, err := testDaemon(&log).TLS(pairs(t, "a.example"), "STARTTLS")
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := net.Pipe()
	defer ours.Close()
	go func() {
		defer theirs.Close()
		_ = tls.Server(theirs, server).Handshake() // refuses, as the client sees
	}()
	if err := tls.Client(ours, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}).Handshake(); err == nil {
		t.Error("TLS 1.1 is spoken")
	}
}

// TestRenewal: a certificate that has changed is read again, once it has rested, and one that cannot be read leaves the old ones in force, which is told once.
func TestRenewal(t *testing.T) {
	var log bytes.Buffer
	now := time.Now()
	clock.Set(func() time.Time { return now })
	defer clock.Set(nil)
	c := pairs(t, "old.example", "b.example")
	server, err := testDaemon(&log).TLS(c, "STARTTLS")
	if err != nil {
		t.Fatal(err)
	}
	expect := func(step, want string) {
		t.Helper()
		if got, _ := names(t, server, "", nil); got != want {
			t.Errorf("%s: got %q, want %q", step, got, want)
		}
	}
	put := func(from, to string, at time.Time) {
		t.Helper()
		text, err := os.ReadFile(from)
		if err == nil {
			err = os.WriteFile(to+".new", text, 0o600)
		}
		if err == nil {
			err = os.Chtimes(to+".new", at, at)
		}
		if err == nil {
			err = os.Rename(to+".new", to)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	cert, key := c.TLS.Certificate[0], c.TLS.Key[0]
	next := pairs(t, "new.example")
	now = now.Add(10 * time.Second)
	expect("unchanged", "old.example")
	put(next.TLS.Certificate[0], cert, now)
	now = now.Add(lookAgain - 1)
	expect("half, and not looked at", "old.example")
	now = now.Add(1)
	put(next.TLS.Key[0], key, now)
	expect("whole, and fresh", "old.example")
	if log.Len() > 0 {
		t.Errorf("log %s", &log)
	}
	now = now.Add(lookAgain)
	expect("rested", "new.example")
	put(os.DevNull, key, now)
	for range 3 {
		now = now.Add(lookAgain)
		expect("broken", "new.example")
	}
	if err := os.Remove(cert); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		now = now.Add(lookAgain)
		expect("gone", "new.example")
	}
	if got := log.String(); strings.Count(got, "event=reload-failed text=\"cannot read the certificate "+cert) != 2 || strings.Count(got, "\n") != 2 {
		t.Errorf("log %s", got)
	}
	back := pairs(t, "back.example")
	put(back.TLS.Certificate[0], cert, now)
	put(back.TLS.Key[0], key, now)
	now = now.Add(lookAgain)
	expect("back", "back.example")
}
