package smtpserver

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"math/big"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postel-mail/postel/internal/channel"
	"github.com/postel-mail/postel/internal/guesses"
	"github.com/postel-mail/postel/internal/ledger"
	"github.com/postel-mail/postel/internal/password"
	"github.com/postel-mail/postel/internal/sasl"
	"github.com/postel-mail/postel/internal/saslclient"
	"github.com/postel-mail/postel/internal/status"
)

// loginHost is a submission server with every mechanism, which counts failures; bob's password is "secret", his token "tok".
func loginHost(t *testing.T) *host {
	t.Helper()
	h := newHost(t)
	h.Submission = true
	channel.Watch(h.TLS)
	l, err := ledger.Open(t.TempDir() + "/ledger")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	h.Guesses = &guesses.Guesses{Ledger: l, Problem: func(err error) { t.Error(err) }}
	wrong := status.Permanent(535, "5.7.8", "wrong", nil)
	h.Logins.CanScram = func() bool { return true }
	h.Logins.Scram = func(_ context.Context, user string) (string, password.Scram, error) {
		secret := map[string]string{"bob": "secret"}[user]
		p, err := password.Parse("{PLAIN}" + secret + "!")
		if secret != "" {
			p, err = password.Parse("{PLAIN}" + secret)
		}
		keys, _ := password.ScramOf(p, []byte("salt"))
		return "bob@own.example", keys, err
	}
	h.Logins.Token = func(_ context.Context, _, token string) (string, error) {
		if token == "tok" {
			return "bob@own.example", nil
		}
		return "", wrong
	}
	h.Logins.Names = func(_ context.Context, user string, names []string) (string, error) {
		if user != "" && user != "bob" || !slices.Contains(names, "bob@own.example") {
			return "", wrong
		}
		return "bob@own.example", nil
	}
	return h
}

// testPerson is a certificate of somebody with addresses, its own authority.
func testPerson(emails ...string) tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "bob"}, EmailAddresses: emails,
		NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<33, 0), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		panic(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func b64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

// offered is the line of EHLO.
func (c *client) offered() string {
	c.t.Helper()
	for line := range strings.SplitSeq(c.do("EHLO client.example", "250"), "\n") {
		if names, ok := strings.CutPrefix(line[4:], "AUTH "); ok {
			return names
		}
	}
	return ""
}

// login logs in as our own client does, by the mechanism that it finds the strongest, and gives that and the last reply.
func (c *client) login(l saslclient.Login, offered string) (mechanism, reply string) {
	c.t.Helper()
	m, err := l.Choose(strings.Fields(offered))
	if err != nil {
		c.t.Fatal(err)
	}
	line := "AUTH " + m.Name()
	if first := m.Start(); first != nil {
		line += " " + b64(string(first))
	}
	for {
		c.send(line + "\r\n")
		reply = c.reply()
		if !strings.HasPrefix(reply, "334 ") {
			break
		}
		challenge, err := base64.StdEncoding.DecodeString(reply[4:])
		if err != nil {
			c.t.Fatalf("challenge %q: %v", reply, err)
		}
		response, err := m.Next(challenge)
		if line = b64(string(response)); err != nil {
			line = "*"
		}
	}
	if strings.HasPrefix(reply, "235") && m.Proved() != nil {
		c.t.Errorf("%s: %v", m.Name(), m.Proved())
	}
	return m.Name(), reply
}

// exporter is what RFC 9266 binds to.
func (c *client) exporter() []byte {
	c.t.Helper()
	state := c.conn.(*tls.Conn).ConnectionState()
	b, err := state.ExportKeyingMaterial("EXPORTER-Channel-Binding", nil, 32)
	if err != nil {
		c.t.Fatal(err)
	}
	return b
}

// TestMechanisms: what can be used is offered, and nothing else, and it works.
func TestMechanisms(t *testing.T) {
	h := loginHost(t)
	h.Guesses = nil
	c := h.dial()
	if got := c.offered(); got != "" {
		t.Errorf("in the clear AUTH is offered: %s", got)
	}
	c.do("AUTH SCRAM-SHA-256 "+b64("n,,n=bob,r=x"), "530 5.7.0")
	h.PlaintextLogin = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	const unbound = "SCRAM-SHA-256 PLAIN LOGIN OAUTHBEARER XOAUTH2"
	for _, c := range []*client{h.dial(), h.pipe()} {
		if got := c.offered(); got != unbound {
			t.Errorf("without TLS: %q, want %q", got, unbound)
		}
		c.do("AUTH SCRAM-SHA-256-PLUS", "504 5.5.4")
		c.do("AUTH EXTERNAL =", "504 5.5.4")
		c.do("AUTH CRAM-MD5", "504 5.5.4")
		if m, reply := c.login(saslclient.Login{User: "bob", Password: "secret"}, unbound); !strings.HasPrefix(reply, "235 2.7.0") {
			t.Errorf("%s: %s", m, reply)
		}
	}
	for _, tt := range []struct {
		login     saslclient.Login
		without   string // what somebody takes out of the offer
		bind      bool
		mechanism string
		reply     string
	}{
		{saslclient.Login{User: "bob", Password: "secret"}, "", true, sasl.ScramPlus, "235 2.7.0"},
		{saslclient.Login{User: "bob", Password: "wrong"}, "", true, sasl.ScramPlus, "535 5.7.8"},
		{saslclient.Login{User: "nobody", Password: "secret"}, "", true, sasl.ScramPlus, "535 5.7.8"},
		{saslclient.Login{User: "bob", Password: "secret"}, "", false, sasl.Scram, "235 2.7.0"},
		{saslclient.Login{User: "bob", Password: "secret"}, sasl.ScramPlus, true, sasl.Scram, "535 5.7.8"},
		{saslclient.Login{User: "bob", Token: "tok"}, "", false, sasl.OAuthBearer, "235 2.7.0"},
		{saslclient.Login{User: "bob", Token: "no"}, "", false, sasl.OAuthBearer, "535 5.7.8"},
		{saslclient.Login{User: "bob", Token: "tok"}, sasl.OAuthBearer, false, sasl.XOAuth2, "235 2.7.0"},
		{saslclient.Login{User: "bob", Token: "no"}, sasl.OAuthBearer, false, sasl.XOAuth2, "535 5.7.8"},
	} {
		c := h.dial()
		c.startTLS()
		offered := c.offered()
		if want := "SCRAM-SHA-256-PLUS " + unbound; offered != want {
			t.Errorf("with TLS: %q, want %q", offered, want)
		}
		if tt.bind {
			tt.login.Binding = c.exporter()
		}
		var left []string
		for _, name := range strings.Fields(offered) {
			if name != tt.without {
				left = append(left, name)
			}
		}
		m, reply := c.login(tt.login, strings.Join(left, " "))
		if m != tt.mechanism || !strings.HasPrefix(reply, tt.reply) {
			t.Errorf("%+v: by %s: %s; want by %s: %s", tt.login, m, reply, tt.mechanism, tt.reply)
		}
		if strings.HasPrefix(reply, "235") {
			c.do("MAIL FROM:<bob@own.example>", "250")
		} else {
			c.do("MAIL FROM:<bob@own.example>", "530")
		}
	}
	h.none()
	h.Submission = false
	c = h.dial()
	c.startTLS()
	if got := c.offered(); got != "" {
		t.Errorf("the exchanger offers AUTH: %s", got)
	}
	c.do("AUTH SCRAM-SHA-256", "502 5.5.1")
}

// TestClientCertificate: EXTERNAL is there for who has shown a certificate with a name, and no others.
func TestClientCertificate(t *testing.T) {
	h := loginHost(t)
	bob, nameless := testPerson("bob@own.example"), testPerson()
	h.TLS.ClientCAs, h.TLS.ClientAuth = x509.NewCertPool(), tls.VerifyClientCertIfGiven
	for _, p := range []tls.Certificate{bob, nameless} {
		leaf, err := x509.ParseCertificate(p.Certificate[0])
		if err != nil {
			t.Fatal(err)
		}
		h.TLS.ClientCAs.AddCert(leaf)
	}
	for _, tt := range []struct {
		shown []tls.Certificate
		arg   string
		reply string
	}{
		{[]tls.Certificate{bob}, " =", "235 2.7.0"},
		{[]tls.Certificate{bob}, "", "334 "},
		{[]tls.Certificate{bob}, " " + b64("bob"), "235 2.7.0"},
		{[]tls.Certificate{bob}, " " + b64("alice"), "535 5.7.8"},
		{[]tls.Certificate{nameless}, " =", "504 5.5.4"},
		{nil, " =", "504 5.5.4"},
	} {
		c := h.dial()
		c.do("EHLO client.example", "250")
		c.do("STARTTLS", "220 2.0.0")
		conn := tls.Client(c.conn, &tls.Config{InsecureSkipVerify: true, Certificates: tt.shown})
		if err := conn.Handshake(); err != nil {
			t.Fatal(err)
		}
		c.conn, c.r = conn, bufio.NewReader(conn)
		if got, want := strings.Contains(c.offered(), "EXTERNAL"), !strings.HasPrefix(tt.reply, "504"); got != want {
			t.Errorf("EXTERNAL offered %v, want %v", got, want)
		}
		c.do("AUTH EXTERNAL"+tt.arg, tt.reply)
		if tt.arg == "" {
			c.do("", "235 2.7.0")
		}
	}
	// A certificate of a stranger does not let its client in.
	c := h.dial()
	c.do("EHLO client.example", "250")
	c.do("STARTTLS", "220 2.0.0")
	conn := tls.Client(c.conn, &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{testPerson("bob@own.example")}})
	_ = conn.Handshake() // with TLS 1.3 the client is done before the server has looked
	if _, err := conn.Read(make([]byte, 1)); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("a stranger's certificate: %v", err)
	}
}

// TestBan: after ten failures, in as many sessions, no login from there is looked at, also not the right one, and the log says it once.
func TestBan(t *testing.T) {
	h := loginHost(t)
	right, wrong := "AUTH PLAIN "+b64("\x00bob\x00secret"), "AUTH PLAIN "+b64("\x00bob\x00wrong")
	session := func() *client { c := h.dial(); c.startTLS(); return c }
	session().do(wrong, "535 5.7.8")
	c := session()
	c.do("AUTH XOAUTH2 "+b64("user=bob\x01auth=Bearer no\x01\x01"), "334")
	c.conn.Close() // without another word
	for end := time.Now().Add(time.Minute); strings.Count(h.log.String(), "event=login-failed user=bob") < 2; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("a refused token does not count when the client hangs up:\n%s", h.log)
		}
	}
	c = session()
	c.do("AUTH OAUTHBEARER "+b64("n,,\x01auth=Bearer no\x01\x01"), "334")
	c.do("*", "535 5.7.8") // it heard that the token is wrong
	c.do("AUTH LOGIN "+b64("nobody"), "334")
	c.do(b64("wrong"), "535 5.7.8")
	c.do("AUTH PLAIN "+b64("\x00broken\x00x"), "454 4.7.0") // nobody has guessed
	c.do("AUTH PLAIN", "334")
	c.do("*", "501 5.7.0")
	c.conn.Close()
	for range 5 {
		session().do(wrong, "535 5.7.8")
	}
	c = session()
	if _, reply := c.login(saslclient.Login{User: "bob", Password: "wrong"}, "SCRAM-SHA-256"); !strings.HasPrefix(reply, "535 ") {
		t.Errorf("SCRAM: %s", reply)
	}
	if n := strings.Count(h.log.String(), "event=banned client=127.0.0.1 proto=smtp delay=600.000s\n"); n != 1 {
		t.Errorf("%d bans are logged, want 1:\n%s", n, h.log)
	}
	c.do(right, "421 4.7.0 Too many failed logins")
	c.closed()
	for _, line := range []string{"AUTH SCRAM-SHA-256 " + b64("n,,n=bob,r=x"), "AUTH OAUTHBEARER " + b64("n,,\x01auth=Bearer tok\x01\x01")} {
		c = session()
		c.do(line, "421 4.7.0")
		c.closed()
	}
	h.RelayNetworks = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")} // a host that sends for many
	session().do(right, "235 2.7.0")
}

// TestKnownNetwork: who has logged in from there before still can.
func TestKnownNetwork(t *testing.T) {
	h := loginHost(t)
	session := func() *client { c := h.dial(); c.startTLS(); return c }
	session().do("AUTH PLAIN "+b64("\x00bob\x00secret"), "235 2.7.0")
	for range 10 {
		session().do("AUTH PLAIN "+b64("\x00alice\x00wrong"), "535 5.7.8")
	}
	session().do("AUTH PLAIN "+b64("\x00alice\x00right"), "421 4.7.0")
	session().do("AUTH PLAIN "+b64("\x00bob\x00secret"), "235 2.7.0")
}
