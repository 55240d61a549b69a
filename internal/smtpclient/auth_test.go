package smtpclient

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
	"github.com/xdg-go/scram"

	"github.com/postel-mail/postel/internal/status"
)

// authPeer is go-smtp with mechanisms of xdg-go's and go-sasl's servers, for the user "u@x" with the password "secret" and the token "fresh".
type authPeer struct {
	mechanisms []string
	binding    bool // of SCRAM-SHA-256-PLUS; without it that is refused
	tls        *tls.Config

	conn *smtp.Conn
	log  []string // the mechanisms that were begun, and who has logged in
}

func (p *authPeer) NewSession(c *smtp.Conn) (smtp.Session, error) {
	p.conn = c
	return &authSession{p: p}, nil
}

type authSession struct {
	session
	p *authPeer
}

func (s *authSession) AuthMechanisms() []string { return s.p.mechanisms }

func (s *authSession) Auth(name string) (sasl.Server, error) {
	p := s.p
	p.log = append(p.log, name)
	in := func(user string) error { p.log = append(p.log, user); return nil }
	switch name {
	case "SCRAM-SHA-256", "SCRAM-SHA-256-PLUS":
		client, err := scram.SHA256.NewClient("u@x", "secret", "")
		if err != nil {
			return nil, err
		}
		stored, err := client.GetStoredCredentialsWithError(scram.KeyFactors{Salt: "salt", Iters: 4096})
		if err != nil {
			return nil, err
		}
		server, err := scram.SHA256.NewServer(func(string) (scram.StoredCredentials, error) { return stored, nil })
		if err != nil {
			return nil, err
		}
		if name == "SCRAM-SHA-256" {
			return &scramServer{ServerConversation: server.NewConversation(), in: in}, nil
		}
		state, ok := p.conn.TLSConnectionState()
		if !ok {
			return nil, errors.New("no TLS")
		}
		binding, err := scram.NewTLSExporterBinding(&state)
		if err != nil {
			return nil, err
		}
		if !p.binding {
			binding.Type = scram.ChannelBindingTLSUnique
		}
		return &scramServer{ServerConversation: server.NewConversationWithChannelBindingRequired(binding), in: in}, nil
	case "OAUTHBEARER":
		return &refuser{sasl.NewOAuthBearerServer(func(o sasl.OAuthBearerOptions) *sasl.OAuthBearerError {
			if o.Token != "fresh" {
				return &sasl.OAuthBearerError{Status: "invalid_token"}
			}
			_ = in(o.Username)
			return nil
		})}, nil
	case "XOAUTH2":
		return &xoauth2Server{in: in}, nil
	case "EXTERNAL":
		return sasl.NewExternalServer(func(identity string) error {
			state, _ := p.conn.TLSConnectionState()
			if len(state.PeerCertificates) == 0 || state.PeerCertificates[0].Subject.CommonName != identity {
				return smtp.ErrAuthFailed
			}
			return in(identity)
		}), nil
	case "LOGIN":
		return &loginServer{in: in}, nil
	}
	return sasl.NewPlainServer(func(_, user, password string) error {
		if password != "secret" {
			return smtp.ErrAuthFailed
		}
		return in(user)
	}), nil
}

// scramServer fits xdg-go's to go-smtp: a last message of the server's needs an answer.
type scramServer struct {
	*scram.ServerConversation
	in func(string) error
}

func (s *scramServer) Next(response []byte) ([]byte, bool, error) {
	switch {
	case response == nil:
		return []byte{}, false, nil
	case s.Done():
		return nil, true, s.in(s.Username())
	}
	challenge, err := s.Step(string(response))
	if err != nil {
		return nil, false, &smtp.SMTPError{Code: 535, EnhancedCode: smtp.EnhancedCode{5, 7, 8}, Message: challenge}
	}
	return []byte(challenge), false, nil
}

// xoauth2Server is as Google describes it.
type xoauth2Server struct {
	in      func(string) error
	refused bool
}

func (s *xoauth2Server) Next(response []byte) ([]byte, bool, error) {
	user, token, ok := strings.Cut(strings.TrimPrefix(string(response), "user="), "\x01auth=Bearer ")
	switch {
	case s.refused && len(response) == 0:
		return nil, true, smtp.ErrAuthFailed
	case response == nil:
		return []byte{}, false, nil
	case !ok || !strings.HasSuffix(token, "\x01\x01"):
		return nil, true, fmt.Errorf("client wrote %q", response)
	case token != "fresh\x01\x01":
		s.refused = true
		return []byte(`{"status":"401"}`), false, nil
	}
	return nil, true, s.in(user)
}

// refuser makes an error of go-sasl's a refusal.
type refuser struct{ sasl.Server }

func (r *refuser) Next(response []byte) ([]byte, bool, error) {
	challenge, done, err := r.Server.Next(response)
	if err != nil {
		err = smtp.ErrAuthFailed
	}
	return challenge, done, err
}

type loginServer struct {
	in   func(string) error
	said []string
}

func (s *loginServer) Next(response []byte) ([]byte, bool, error) {
	if response == nil {
		return []byte("User Name\x00"), false, nil
	}
	if s.said = append(s.said, string(response)); len(s.said) == 1 {
		return []byte("Password\x00"), false, nil
	}
	if s.said[1] != "secret" {
		return nil, true, smtp.ErrAuthFailed
	}
	return nil, true, s.in(s.said[0])
}

func (p *authPeer) start(t *testing.T) net.Conn {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := smtp.NewServer(p)
	s.Domain = "mx.example"
	s.MaxLineLength = 64 << 10
	s.TLSConfig = p.tls
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Close()
		if err := <-done; err != nil && !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
	})
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

// tokens is a Login.Token that gives these, one after the other.
func tokens(list ...string) func(context.Context, string) (string, error) {
	return func(_ context.Context, refused string) (string, error) {
		if i := slices.Index(list, refused) + 1; i < len(list) {
			return list[i], nil
		}
		return "", errors.New("no more tokens")
	}
}

func TestLogin(t *testing.T) {
	secret := &Login{User: "u@x", Password: "secret"}
	long := strings.Repeat("t", 8000)
	tests := []struct {
		name       string
		mechanisms string
		login      *Login
		version    uint16 // of TLS, at most
		noBinding  bool
		log        string
		want       string // of the error
	}{
		{name: "the strongest", mechanisms: "PLAIN LOGIN SCRAM-SHA-256 SCRAM-SHA-256-PLUS XOAUTH2", login: secret, log: "SCRAM-SHA-256-PLUS u@x"},
		{name: "no binding to TLS 1.2", mechanisms: "PLAIN SCRAM-SHA-256 SCRAM-SHA-256-PLUS", login: secret, version: tls.VersionTLS12, log: "SCRAM-SHA-256 u@x"},
		{name: "SCRAM", mechanisms: "PLAIN SCRAM-SHA-256", login: secret, log: "SCRAM-SHA-256 u@x"},
		{name: "another binding", mechanisms: "PLAIN SCRAM-SHA-256 SCRAM-SHA-256-PLUS", login: secret, noBinding: true, log: "SCRAM-SHA-256-PLUS SCRAM-SHA-256 u@x"},
		{name: "another binding, nothing else", mechanisms: "SCRAM-SHA-256-PLUS", login: secret, noBinding: true, log: "SCRAM-SHA-256-PLUS",
			want: "451 4.7.0 The server offers no way to log in that is known here"},
		{name: "wrong password, asked once", mechanisms: "PLAIN SCRAM-SHA-256 SCRAM-SHA-256-PLUS", login: &Login{User: "u@x", Password: "wrong"}, log: "SCRAM-SHA-256-PLUS",
			want: "451 4.7.8 Login refused: 535 5.7.8 e=invalid-proof"},
		{name: "PLAIN", mechanisms: "LOGIN PLAIN CRAM-MD5", login: secret, log: "PLAIN u@x"},
		{name: "LOGIN", mechanisms: "LOGIN", login: secret, log: "LOGIN u@x"},
		{name: "LOGIN, wrong", mechanisms: "LOGIN", login: &Login{User: "u@x", Password: "wrong"}, log: "LOGIN", want: "451 4.7.8 Login refused: 535 5.7.8 Authentication failed"},

		{name: "token", mechanisms: "PLAIN XOAUTH2 OAUTHBEARER", login: &Login{User: "u@x", Token: tokens("fresh")}, log: "OAUTHBEARER u@x"},
		{name: "token, XOAUTH2", mechanisms: "PLAIN XOAUTH2", login: &Login{User: "u@x", Token: tokens("fresh")}, log: "XOAUTH2 u@x"},
		{name: "token that has run out", mechanisms: "OAUTHBEARER", login: &Login{User: "u@x", Token: tokens("stale", "fresh")}, log: "OAUTHBEARER OAUTHBEARER u@x"},
		{name: "token that has run out, XOAUTH2", mechanisms: "XOAUTH2", login: &Login{User: "u@x", Token: tokens("stale", "fresh")}, log: "XOAUTH2 XOAUTH2 u@x"},
		{name: "refused twice", mechanisms: "XOAUTH2", login: &Login{User: "u@x", Token: tokens("stale", "old", "fresh")}, log: "XOAUTH2 XOAUTH2",
			want: "451 4.7.8 Login refused: 535 5.7.8 Authentication failed"},
		{name: "the same again", mechanisms: "XOAUTH2", login: &Login{User: "u@x", Token: func(context.Context, string) (string, error) { return "stale", nil }}, log: "XOAUTH2",
			want: "451 4.7.8 Login refused: 535 5.7.8 Authentication failed"},
		{name: "no token", mechanisms: "XOAUTH2", login: &Login{User: "u@x", Token: tokens()}, want: "451 4.7.0 No token could be had for the login"},
		{name: "token with blanks", mechanisms: "XOAUTH2", login: &Login{User: "u@x", Token: tokens("a b")}, want: "451 4.3.5 The login cannot be sent"},
		{name: "token too long for the command", mechanisms: "XOAUTH2", login: &Login{User: "u@x", Token: tokens(long, "fresh")}, log: "XOAUTH2 XOAUTH2 u@x"},
		{name: "token too long for an answer", mechanisms: "XOAUTH2", login: &Login{User: "u@x", Token: tokens(long+long, "fresh")}, log: "XOAUTH2", want: "451 4.7.0 Login failed"},
		{name: "token, none of its ways", mechanisms: "PLAIN", login: &Login{User: "u@x", Token: tokens("fresh")}, want: "451 4.7.0 The server offers no way to log in that is known here"},

		{name: "certificate", mechanisms: "PLAIN EXTERNAL", login: &Login{User: "client.example"}, log: "EXTERNAL client.example"},
		{name: "certificate of another", mechanisms: "PLAIN EXTERNAL", login: &Login{User: "other.example"}, log: "EXTERNAL",
			want: "451 4.7.8 Login refused: 535 5.7.8 Authentication failed"},
		{name: "certificate, no EXTERNAL", mechanisms: "PLAIN", login: &Login{User: "client.example"}, want: "451 4.7.0 The server offers no way to log in that is known here"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := &authPeer{mechanisms: strings.Fields(tt.mechanisms), binding: !tt.noBinding,
				tls: &tls.Config{Certificates: []tls.Certificate{testCert}, MaxVersion: tt.version, ClientAuth: tls.RequestClientCert}}
			c, err := New(context.Background(), p.start(t), Options{Hostname: "me.example", Login: tt.login, ServerName: "mx.example", Roots: testRoots, Certificate: &clientCert})
			got := ""
			if err != nil {
				s := status.Of(err)
				if said := "XOAUTH2: {\"status\":\"401\"}"; tt.name == "refused twice" && !strings.Contains(err.Error(), said) {
					t.Errorf("got %v, want %s in it", err, said)
				}
				if got = s.Reply(); !s.Temporary() || strings.Contains(err.Error(), "wrong") || strings.Contains(err.Error(), long) {
					t.Errorf("got %v", err)
				}
			} else {
				c.Close()
			}
			if log := strings.Join(p.log, " "); got != tt.want || log != tt.log {
				t.Errorf("got %q, log %q; want %q, %q", got, log, tt.want, tt.log)
			}
		})
	}
}

// TestHostileLogin has servers that do not keep to the exchange.
func TestHostileLogin(t *testing.T) {
	ir := base64.StdEncoding.EncodeToString([]byte("user=u\x01auth=Bearer token\x01\x01"))
	for _, tt := range []struct {
		name, mechanisms, script string
		login                    Login
		want                     string
	}{
		{"yes without proof", "SCRAM-SHA-256", "C/ AUTH SCRAM-SHA-256 \nS: 235 welcome", Login{User: "u", Password: "secret"}, "451 4.7.0 The server did not prove who it is at AUTH"},
		{"yes after a refusal", "XOAUTH2", "C. AUTH XOAUTH2 " + ir + "\nS: 334 e30=\nC.\nS: 235 welcome", Login{User: "u", Token: tokens("token")},
			"451 4.7.0 The server did not prove who it is at AUTH"},
		{"challenges without end", "LOGIN", "C. AUTH LOGIN\nS: 334\nC. dQ==\nS: 334 cHc=\nC. c2VjcmV0\nS: 334 cHc=\nC. *\nS: 501 well", Login{User: "u", Password: "secret"}, "451 4.7.0 Login failed"},
		{"not base64", "LOGIN", "C. AUTH LOGIN\nS: 334 ?\nC. *\nS: 501 well", Login{User: "u", Password: "secret"}, "451 4.7.0 Login failed"},
		{"two lines", "LOGIN", "C. AUTH LOGIN\nS: 334-dQ==\nS: 334 dQ==", Login{User: "u", Password: "secret"}, "451 4.5.0 The server broke the protocol at AUTH"},
		{"another yes", "LOGIN", "C. AUTH LOGIN\nS: 250 welcome", Login{User: "u", Password: "secret"}, "451 4.5.0 The server broke the protocol at AUTH"},
		{"gone", "LOGIN", "C. AUTH LOGIN\nCLOSE", Login{User: "u", Password: "secret"}, "451 4.4.2 Connection lost at AUTH"},
		{"gone behind the cancel", "LOGIN", "C. AUTH LOGIN\nS: 334 ?\nC. *\nCLOSE", Login{User: "u", Password: "secret"}, "451 4.4.2 Connection lost at AUTH"},
		{"busy", "LOGIN", "C. AUTH LOGIN\nS: 454 4.7.0 try later", Login{User: "u", Password: "secret"}, "451 4.7.0 Login refused: 454 4.7.0 try later"},
		{"busy, the token stays", "XOAUTH2", "C. AUTH XOAUTH2 " + ir + "\nS: 454 4.7.0 try later", Login{User: "u", Token: tokens("token", "other")}, "451 4.7.0 Login refused: 454 4.7.0 try later"},
		{"an echo of the token", "XOAUTH2", "C. AUTH XOAUTH2 " + ir + "\nS: 454 4.7.0 not with token", Login{User: "u", Token: tokens("token")}, "451 4.7.0 Login refused"},
		{"an echo of the token in a challenge", "XOAUTH2", "C. AUTH XOAUTH2 " + ir + "\nS: 334 dG9rZW4=\nC.\nS: 454 4.7.0 later", Login{User: "u", Token: tokens("token")}, "451 4.7.0 Login refused: 454 4.7.0 later"},
		{"an echo of an answer", "LOGIN", "C. AUTH LOGIN\nS: 334\nC. dQ==\nS: 334\nC. c2VjcmV0\nS: 535 5.7.8 c2VjcmV0?", Login{User: "u", Password: "secret"}, "451 4.7.8 Login refused"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			script := hello + `S| "250-mx.example\r\n250 AUTH ` + tt.mechanisms + `\r\n"` + "\n" + tt.script
			_, err := New(context.Background(), play(t, script), Options{Hostname: "me.example", Login: &tt.login, Private: true})
			s := status.Of(err)
			if err == nil || s.Reply() != tt.want || !s.Temporary() || s.Err != nil && strings.Contains(s.Err.Error(), "token") {
				t.Errorf("got %v, want %s", err, tt.want)
			}
		})
	}
}

// TestClientCertificate: who asks for one gets it, whatever authorities it names.
func TestClientCertificate(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		p := &authPeer{tls: &tls.Config{Certificates: []tls.Certificate{testCert}, MaxVersion: version, ClientAuth: tls.RequireAnyClientCert, ClientCAs: testRoots}}
		c := open(t, p.start(t), Options{TLS: Require, Certificate: &clientCert})
		if c.offers("STARTTLS") || !c.offers("PIPELINING") { // it has answered behind the handshake
			t.Errorf("%x: extensions are %v", version, c.ext)
		}
		state, _ := p.conn.TLSConnectionState()
		if len(state.PeerCertificates) != 1 || !bytes.Equal(state.PeerCertificates[0].Raw, clientCert.Certificate[0]) {
			t.Errorf("%x: another certificate", version)
		}
		c.Close()
	}
	p := &authPeer{tls: &tls.Config{Certificates: []tls.Certificate{testCert}, ClientAuth: tls.RequireAnyClientCert}}
	if _, err := New(context.Background(), p.start(t), Options{Hostname: "me.example", TLS: Require}); err == nil {
		t.Error("a session without the certificate that was asked for")
	}
}
