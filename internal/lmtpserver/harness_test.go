package lmtpserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/postel-mail/postel/internal/activation"
	"github.com/postel-mail/postel/internal/address"
	"github.com/postel-mail/postel/internal/maillog"
	"github.com/postel-mail/postel/internal/status"
)

// host is a server whose deliveries are kept in memory. Its users are all but those whose names say what is wrong with them.
type host struct {
	Server
	mu        sync.Mutex
	delivered []delivered
	log       bytes.Buffer
}

type delivered struct {
	Message
	body string // without the trace in front
}

func newHost() *host {
	h := &host{}
	h.Server = Server{Hostname: "mail.own.example", MaxSize: 1 << 20, MaxRecipients: 100, Log: maillog.ToWriter(&h.log, "lmtpd"),
		Verify: h.verify, Deliver: h.deliver}
	return h
}

func (h *host) verify(_ context.Context, to address.Path) error {
	switch to.Local {
	case "unknown":
		return status.Permanent(550, "5.1.1", "User unknown", nil)
	case "later":
		return fmt.Errorf("users: %w", status.Temporary(451, "4.3.5", "Try later", errors.New("secret cause")))
	case "unjudged":
		return errors.New("secret: input/output error")
	case "panic":
		panic("bug in Verify")
	}
	return nil
}

func (h *host) deliver(_ context.Context, m Message) (string, error) {
	text, err := io.ReadAll(io.NewSectionReader(m.Body, 0, m.Body.Size()))
	if err != nil {
		return "", err
	}
	switch m.To.Local {
	case "full":
		return "", fmt.Errorf("maildir: %w", status.Permanent(552, "5.2.2", "Mailbox full", errors.New("secret cause")))
	case "busy":
		return "", status.Temporary(451, "4.2.0", "Mailbox busy", nil)
	case "unjudged-delivery":
		return "", errors.New("secret: input/output error")
	case "success":
		return "", &status.Error{Code: 250, Enhanced: "2.0.0", Text: "not an error"}
	case "panic-delivery":
		panic("bug in Deliver")
	}
	body := string(text)
	for i := strings.IndexByte(body, '\n') + 1; ; { // the Received field and its folds
		body = body[i:]
		if !strings.HasPrefix(body, "\t") {
			break
		}
		i = strings.IndexByte(body, '\n') + 1
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.delivered = append(h.delivered, delivered{m, body})
	return "delivered", nil
}

// got gives what was delivered, one line each: sender, recipient, body.
func (h *host) got() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var b strings.Builder
	for _, d := range h.delivered {
		fmt.Fprintf(&b, "%s %s %q\n", d.From.Angle(), d.To.Angle(), d.body)
	}
	return b.String()
}

// script is a client that sends its pieces, one a read, whatever the server says. An error among them is what that one read gives;
// behind the last piece the connection is closed.
type script struct {
	pieces []any // string, error or io.Reader
	out    bytes.Buffer
}

func (s *script) Read(p []byte) (int, error) {
	for len(s.pieces) > 0 {
		switch v := s.pieces[0].(type) {
		case error:
			s.pieces = s.pieces[1:]
			return 0, v
		case io.Reader:
			n, err := v.Read(p)
			if err == io.EOF {
				s.pieces, err = s.pieces[1:], nil
			}
			if n > 0 {
				return n, nil
			}
		case string:
			n := copy(p, v)
			if s.pieces[0] = v[n:]; n == len(v) {
				s.pieces = s.pieces[1:]
			}
			if n > 0 {
				return n, nil
			}
		}
	}
	return 0, io.EOF
}

func (s *script) Write(p []byte) (int, error)      { return s.out.Write(p) }
func (s *script) Close() error                     { return nil }
func (s *script) LocalAddr() net.Addr              { return &net.UnixAddr{Net: "unix"} }
func (s *script) RemoteAddr() net.Addr             { return &net.UnixAddr{Net: "unix"} }
func (s *script) SetDeadline(time.Time) error      { return nil }
func (s *script) SetReadDeadline(time.Time) error  { return nil }
func (s *script) SetWriteDeadline(time.Time) error { return nil }

// run plays a session and gives the server's side of it.
func (h *host) run(pieces ...any) string {
	s := &script{pieces: pieces}
	c := activation.NewConn(s)
	h.ServeConn(c)
	c.Close()
	return s.out.String()
}

// codes are the reply codes of a session, with enhanced codes, without greeting and the reply to LHLO.
func codes(out string) string {
	var all []string
	for line := range strings.Lines(out) {
		if len(line) > 4 && line[3] == ' ' {
			f := strings.Fields(line)
			code := f[0]
			if len(f) > 1 && strings.Count(f[1], ".") == 2 && code != "220" {
				code += " " + f[1]
			}
			all = append(all, code)
		}
	}
	return strings.Join(all, ", ")
}

const (
	hello = "LHLO client.example\r\n"
	mail  = "MAIL FROM:<from@a.example>\r\n"
	rcpt  = "RCPT TO:<to@own.example>\r\n"
	head  = hello + mail + rcpt
)

// replies of head
const headOK = "220, 250, 250 2.1.0, 250 2.1.5"

func check(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s:\n got %s\nwant %s", what, got, want)
	}
}

var timeout = os.ErrDeadlineExceeded
