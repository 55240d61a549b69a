package smtpclient

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"

	"github.com/postel-mail/postel/internal/envelope"
)

// peer is a server written by others, go-smtp, which records what it is given.
type peer struct {
	mu    sync.Mutex
	user  string
	mails []string // sender, parameters, recipients, parameters, message
}

// session is one of its sessions.
type session struct {
	p    *peer
	mail strings.Builder
}

func (s *session) AuthMechanisms() []string { return []string{"PLAIN"} }

func (s *session) Auth(string) (sasl.Server, error) {
	return sasl.NewPlainServer(func(_, user, password string) error {
		if password != "secret" {
			return smtp.ErrAuthFailed
		}
		s.p.user = user
		return nil
	}), nil
}

func (s *session) Reset()        { s.mail.Reset() }
func (s *session) Logout() error { return nil }

func (s *session) Mail(from string, o *smtp.MailOptions) error {
	s.mail.WriteString("from " + from + " " + string(o.Body) + " " + string(o.Return) + " " + o.EnvelopeID + "\n")
	return nil
}

func (s *session) Rcpt(to string, o *smtp.RcptOptions) error {
	if strings.HasPrefix(to, "no") {
		return &smtp.SMTPError{Code: 550, EnhancedCode: smtp.EnhancedCode{5, 1, 1}, Message: "no such user"}
	}
	s.mail.WriteString("to " + to + " " + o.OriginalRecipient + "\n")
	for _, n := range o.Notify {
		s.mail.WriteString("notify " + string(n) + "\n")
	}
	return nil
}

func (s *session) Data(r io.Reader) error {
	b, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	s.mail.Write(b)
	s.p.mu.Lock()
	defer s.p.mu.Unlock()
	s.p.mails = append(s.p.mails, s.mail.String())
	return nil
}

// lmtpSession answers for each recipient.
type lmtpSession struct{ session }

func (s *lmtpSession) LMTPData(r io.Reader, c smtp.StatusCollector) error {
	if err := s.Data(r); err != nil {
		return err
	}
	for i, line := range strings.Split(s.mail.String(), "\n") {
		if to, ok := strings.CutPrefix(line, "to "); ok {
			to, _, _ = strings.Cut(to, " ")
			if i == 2 {
				c.SetStatus(to, &smtp.SMTPError{Code: 452, EnhancedCode: smtp.EnhancedCode{4, 2, 2}, Message: "full"})
			} else {
				c.SetStatus(to, nil)
			}
		}
	}
	return nil
}

func serve(t *testing.T, p *peer, lmtp bool, l net.Listener) {
	t.Helper()
	s := smtp.NewServer(smtp.BackendFunc(func(*smtp.Conn) (smtp.Session, error) {
		if lmtp {
			return &lmtpSession{session{p: p}}, nil
		}
		return &session{p: p}, nil
	}))
	s.Domain, s.LMTP, s.EnableDSN, s.EnableSMTPUTF8, s.MaxRecipients = "mx.example", lmtp, true, true, 3
	s.EnableBINARYMIME = true
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

func TestPeerSMTP(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &peer{}
	serve(t, p, false, l)
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c := open(t, conn, Options{Login: &Login{User: "u", Password: "secret"}, ServerName: "mx.example", Roots: testRoots})
	if !c.tls || !c.DSN() || !c.offers("PIPELINING") || p.user != "u" {
		t.Errorf("protected %v, extensions %v, user %q", c.tls, c.ext, p.user)
	}
	e := mail(t, "a@a.example", "b@b.example", "no@b.example", `"x y"@b.example`, "b@b.example", "b@b.example")
	e.Ret, e.EnvID = "HDRS", "id 1"
	e.Rcpts[0].Notify, e.Rcpts[0].ORcpt = "FAILURE", "rfc822;B@b.example"
	if n := c.Fit(e.Rcpts); n != 3 {
		t.Errorf("Fit is %d", n)
	}
	body := ".\r\n..dots\r\n" + strings.Repeat(strings.Repeat("x", 998)+"\r\n", 500) + "ü\r\n.\r\n"
	want := "from a@a.example 8BITMIME HDRS id 1\nto b@b.example B@b.example\nnotify FAILURE\nto x y@b.example \nto b@b.example \n" + body
	for range 3 {
		out := c.Send(context.Background(), Mail{Envelope: e, Rcpts: e.Rcpts, Body: text(body)})
		got := summaries(out)
		if w := "250 2.0.0 OK: queued\n550 5.1.1 no such user\n250 2.0.0 OK: queued\n250 2.0.0 OK: queued\n452 4.5.3 Maximum limit of 3 recipients reached"; got != w {
			t.Fatalf("got\n%s\nwant\n%s", got, w)
		}
		if !c.Usable() {
			t.Fatal("not usable")
		}
	}
	if len(p.mails) != 3 {
		t.Fatalf("%d mails", len(p.mails))
	}
	for _, m := range p.mails {
		if m != want {
			t.Fatalf("got %.200q, want %.200q", m, want)
		}
	}
	c.Quit()
}

// TestPeerChunking sends by BDAT, which go-smtp offers.
func TestPeerChunking(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &peer{}
	serve(t, p, false, l)
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c := open(t, conn, Options{})
	e := mail(t, "a@a.example", "b@b.example", "no@b.example")
	large := strings.Repeat("\xff\r\n.\r\n\r\n\n", 20_000)
	for _, tt := range []struct {
		rcpts      []envelope.Recipient
		kind, body string
		want       string
	}{
		{e.Rcpts[:1], "", letter, "250 2.0.0 OK: queued"},
		{e.Rcpts, "", "open: \xff\r\n\r\nline", "250 2.0.0 OK: queued\n550 5.1.1 no such user"},
		{e.Rcpts[1:], "", letter, "550 5.1.1 no such user"},
		{e.Rcpts[:1], "BINARYMIME", "\r\na\n.\rb", "250 2.0.0 OK: queued"},
		{e.Rcpts[1:], "BINARYMIME", large, "550 5.1.1 no such user"},
		{e.Rcpts[:1], "BINARYMIME", large, "250 2.0.0 OK: queued"},
	} {
		e.Body = tt.kind
		if got := summaries(c.Send(context.Background(), Mail{Envelope: e, Rcpts: tt.rcpts, Body: text(tt.body)})); got != tt.want {
			t.Fatalf("%.40q: got\n%s\nwant\n%s", tt.body, got, tt.want)
		}
		if strings.HasPrefix(tt.want, "550") {
			continue
		}
		if strings.HasSuffix(tt.body, "line") {
			tt.body += "\r\n"
			tt.kind = "8BITMIME"
		}
		if got, want := p.mails[len(p.mails)-1], "from a@a.example "+tt.kind+"  \nto b@b.example \n"+tt.body; got != want {
			t.Fatalf("got %.200q, want %.200q", got, want)
		}
	}
	c.Quit()
	if len(p.mails) != 4 {
		t.Errorf("%d mails", len(p.mails))
	}
}

func TestPeerWrongPassword(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serve(t, &peer{}, false, l)
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	_, err = New(context.Background(), conn, Options{Hostname: "me.example", Login: &Login{User: "u", Password: "wrong"}, ServerName: "mx.example", Roots: testRoots})
	if err == nil || !strings.HasPrefix(err.Error(), "451 4.7.8 Login refused: 535") {
		t.Errorf("got %v", err)
	}
}

func TestPeerLMTP(t *testing.T) {
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "lmtp"))
	if err != nil {
		t.Fatal(err)
	}
	p := &peer{}
	serve(t, p, true, l)
	conn, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c := open(t, conn, Options{LMTP: true, TLS: Off, Private: true})
	e := mail(t, "", "b@b.example", "b@b.example", "no@b.example")
	for range 2 {
		got := summaries(c.Send(context.Background(), Mail{Envelope: e, Rcpts: e.Rcpts, Body: text(letter)}))
		if w := "250 2.0.0 <b@b.example> OK: queued\n452 4.2.2 <b@b.example> full\n550 5.1.1 no such user"; got != w {
			t.Fatalf("got\n%s\nwant\n%s", got, w)
		}
	}
	one := []envelope.Recipient{e.Rcpts[2]}
	if got := summaries(c.Send(context.Background(), Mail{Envelope: e, Rcpts: one, Body: text(letter)})); got != "550 5.1.1 no such user" {
		t.Errorf("got %s", got)
	}
	if got := summaries(c.Send(context.Background(), Mail{Envelope: e, Rcpts: e.Rcpts[:1], Body: text(letter)})); got != "250 2.0.0 <b@b.example> OK: queued" {
		t.Errorf("got %s", got)
	}
	c.Quit()
}
