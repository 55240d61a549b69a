package smtpclient

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/postel-mail/postel/internal/address"
	"github.com/postel-mail/postel/internal/envelope"
	"github.com/postel-mail/postel/test/dialog"
)

// testCert is the certificate of mx.example, testRoots what it verifies against, clientCert the client's own.
var (
	testCert, clientCert tls.Certificate
	testRoots            *x509.CertPool
)

func TestMain(m *testing.M) {
	var err error
	if testCert, testRoots, err = dialog.Certificate("mx.example"); err != nil {
		panic(err)
	}
	if clientCert, _, err = dialog.Certificate("client.example"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// play plays a server by a script over a loopback connection and gives the client's end.
func play(t *testing.T, script string, stop ...func()) net.Conn {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	s := dialog.Server{Certificate: testCert}
	if stop != nil {
		s.Stop = stop[0]
	}
	done := make(chan error, 1)
	go func() { done <- s.Play(server, script) }()
	t.Cleanup(func() {
		client.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return client
}

// path, mail and text make what tests send.
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

func mail(t testing.TB, from string, to ...string) *envelope.Envelope {
	t.Helper()
	e := &envelope.Envelope{From: path(t, from)}
	for _, s := range to {
		e.Rcpts = append(e.Rcpts, envelope.Recipient{To: path(t, s)})
	}
	return e
}

func text(s string) *io.SectionReader {
	return io.NewSectionReader(strings.NewReader(s), 0, int64(len(s)))
}

const letter = "Subject: x\r\n\r\nhello\r\n"

// open opens a session that must succeed.
func open(t *testing.T, conn net.Conn, o Options) *Client {
	t.Helper()
	if o.Hostname == "" {
		o.Hostname = "me.example"
	}
	c, err := New(context.Background(), conn, o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// summary is an outcome in short: "250 ok" or "550 5.1.1 no such user", then "(ours)" where it was not the server's word and
// "(unsent)". It shows where Twice is not what the text says.
func summary(o Outcome) string {
	s := fmt.Sprintf("%d %s", o.Code, o.Text)
	if o.Err != nil {
		s = o.Err.Reply()
		if o.Code == 0 {
			s += " (ours)"
		}
	}
	if o.Unsent {
		s += " (unsent)"
	}
	if o.Twice != strings.Contains(s, "may arrive twice") {
		s += fmt.Sprintf(" (Twice is %v)", o.Twice)
	}
	return s
}

func summaries(out []Outcome) string {
	var all []string
	for _, o := range out {
		all = append(all, summary(o))
	}
	return strings.Join(all, "\n")
}
