package channel

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net"
	"testing"
	"time"

	"github.com/postel-mail/postel/internal/sasl"
)

// certify makes a certificate for a host and an address, its own authority.
func certify(t *testing.T, key crypto.Signer, host string, emails ...string) tls.Certificate {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "bob"}, DNSNames: []string{host}, EmailAddresses: emails,
		NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<33, 0), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func ecKey(t *testing.T) crypto.Signer {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// connect makes a TLS session of both sides.
func connect(t *testing.T, server, client *tls.Config) (s, c *tls.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	theirs, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	ours, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(time.Minute)
	_ = ours.SetDeadline(deadline)
	_ = theirs.SetDeadline(deadline)
	t.Cleanup(func() { ours.Close(); theirs.Close() })
	s, c = Server(ours, server), tls.Client(theirs, client)
	done := make(chan error, 1)
	go func() {
		err := s.Handshake()
		if err == nil {
			_, err = s.Write([]byte("x")) // with it the client reads the ticket
		}
		done <- err
	}()
	if _, err := c.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	return s, c
}

// TestBindings: both sides have the same, and the certificate is the one that was shown, also when the session is a resumed one.
func TestBindings(t *testing.T) {
	a, b := certify(t, ecKey(t), "a.example"), certify(t, ecKey(t), "b.example")
	list := &tls.Config{Certificates: []tls.Certificate{a, b}}
	get := &tls.Config{GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		if hello.ServerName == "b.example" {
			return &b, nil
		}
		return &a, nil
	}}
	other := &tls.Config{Certificates: []tls.Certificate{a}, GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if hello.ServerName == "b.example" {
			return &tls.Config{Certificates: []tls.Certificate{b}}, nil
		}
		return nil, nil
	}}
	for name, server := range map[string]*tls.Config{"list": list, "function": get, "configuration": other} {
		Watch(server)
		for _, host := range []string{"a.example", "b.example", ""} {
			for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
				client := &tls.Config{InsecureSkipVerify: true, ServerName: host, MaxVersion: version, ClientSessionCache: tls.NewLRUClientSessionCache(1)}
				for _, resumed := range []bool{false, true} {
					s, c := connect(t, server, client)
					state := c.ConnectionState()
					if name != "configuration" && host != "" && state.DidResume != resumed {
						t.Fatalf("%s, %s: resumed %v", name, host, state.DidResume)
					}
					want, err := state.ExportKeyingMaterial("EXPORTER-Channel-Binding", nil, 32)
					if got := Of(s).Binding(sasl.Exporter); err != nil || !bytes.Equal(got, want) {
						t.Errorf("%s, %q, %x: %s: got %x, want %x, %v", name, host, version, sasl.Exporter, got, want, err)
					}
					sum := sha256.Sum256(state.PeerCertificates[0].Raw)
					if got := Of(s).Binding(sasl.EndPoint); !bytes.Equal(got, sum[:]) {
						t.Errorf("%s, %q, %x, resumed %v: %s: got %x, want %x", name, host, version, resumed, sasl.EndPoint, got, sum)
					}
				}
			}
		}
	}
}

// TestNoBinding: what cannot be known is not made up.
func TestNoBinding(t *testing.T) {
	if Of(nil).Binding != nil || Of(nil).Names != nil {
		t.Error("a connection without TLS has a binding")
	}
	client := &tls.Config{InsecureSkipVerify: true}
	s, _ := connect(t, &tls.Config{Certificates: []tls.Certificate{certify(t, ecKey(t), "a.example")}}, client)
	if b := Of(s).Binding(sasl.EndPoint); b != nil {
		t.Errorf("not watched: %x", b)
	}
	if b := Of(s).Binding("tls-unique"); b != nil {
		t.Errorf("tls-unique: %x", b)
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	config := &tls.Config{Certificates: []tls.Certificate{certify(t, key, "a.example")}}
	Watch(config)
	s, _ = connect(t, config, client)
	if b := Of(s).Binding(sasl.EndPoint); b != nil {
		t.Errorf("Ed25519, whose hash RFC 5929 does not say: %x", b)
	}
}

// TestNames: those of a certificate that was verified, and not of its subject.
func TestNames(t *testing.T) {
	bob, nameless := certify(t, ecKey(t), "", "bob@own.example", "bob@else.example"), certify(t, ecKey(t), "")
	pool := x509.NewCertPool()
	for _, c := range []tls.Certificate{bob, nameless} {
		leaf, err := x509.ParseCertificate(c.Certificate[0])
		if err != nil {
			t.Fatal(err)
		}
		pool.AddCert(leaf)
	}
	server := &tls.Config{Certificates: []tls.Certificate{certify(t, ecKey(t), "a.example")}, ClientCAs: pool, ClientAuth: tls.VerifyClientCertIfGiven}
	asks := server.Clone()
	asks.ClientAuth = tls.RequestClientCert
	for _, tt := range []struct {
		server *tls.Config
		client []tls.Certificate
		want   int
	}{{server, []tls.Certificate{bob}, 2}, {server, []tls.Certificate{nameless}, 0}, {server, nil, 0}, {asks, []tls.Certificate{bob}, 0}} {
		s, _ := connect(t, tt.server, &tls.Config{InsecureSkipVerify: true, Certificates: tt.client})
		if got := Of(s).Names; len(got) != tt.want {
			t.Errorf("%d certificates: names %q, want %d", len(tt.client), got, tt.want)
		}
	}
}
