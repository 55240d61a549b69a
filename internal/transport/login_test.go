package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"strconv"
	"strings"
	"testing"

	"github.com/postel-mail/postel/internal/destination"
	"github.com/postel-mail/postel/internal/smtpclient"
)

// TestPrepare: what a destination says about its sessions.
func TestPrepare(t *testing.T) {
	certificate := &tls.Certificate{}
	for _, tt := range []struct {
		dest  string
		level smtpclient.TLS
		want  smtpclient.TLS
		port  string
		user  string
		fails bool
	}{
		{dest: "mx:", level: smtpclient.Require, want: smtpclient.Require, port: "2525"},
		{dest: "smtp://hub.example", level: smtpclient.Off, want: smtpclient.Off, port: "2525"},
		{dest: "smtp://hub.example:26", want: smtpclient.Opportunistic, port: "26"},
		{dest: "smtps://hub.example", level: smtpclient.Off, want: smtpclient.Implicit, port: "465"},
		{dest: "smtps://hub.example:466", want: smtpclient.Implicit, port: "466"},
		{dest: "lmtp://hub.example:24", level: smtpclient.Require, want: smtpclient.Opportunistic, port: "24"},
		{dest: "lmtp:///run/lmtp.sock", level: smtpclient.Require, want: smtpclient.Off, port: "2525"},
		{dest: "smtp://relay@hub.example", want: smtpclient.Opportunistic, port: "2525", user: "relay"},
		{dest: "smtp://other@hub.example", fails: true},
	} {
		tr := &Transport{Hostname: "me.example", Port: 2525, TLS: tt.level, Certificate: certificate,
			Credentials: func(host, user string) (smtpclient.Login, error) {
				if host != "hub.example" || user != "relay" {
					return smtpclient.Login{}, errors.New("no line for it")
				}
				return smtpclient.Login{User: user, Password: "secret"}, nil
			}}
		w := newAttempt(tr, Request{Dests: []destination.Destination{dest(t, tt.dest)}})
		w.d = w.r.Dests[0]
		s := w.prepare()
		if tt.fails {
			if s == nil || !s.Temporary() {
				t.Errorf("%s: got %v", tt.dest, s)
			}
			continue
		}
		user := ""
		if w.o.Login != nil {
			user = w.o.Login.User
		}
		if s != nil || w.o.TLS != tt.want || w.port != tt.port || user != tt.user || w.o.Certificate != certificate || w.o.Hostname != "me.example" {
			t.Errorf("%s: got %v, %+v, port %s", tt.dest, s, w.o, w.port)
		}
	}
}

// TestTriedBefore: after a first attempt nothing is used that only some servers can.
func TestTriedBefore(t *testing.T) {
	const envelope = `
		S: 220 hub.example
		C: EHLO me.example
		S| "250-hub.example\r\n250-CHUNKING\r\n250 PIPELINING\r\n"
		C: MAIL FROM:<a@north.example>
		C: RCPT TO:<b@south.example>
		`
	for attempts, script := range []string{
		envelope + "C/ BDAT \nC: Subject: x\nC:\nC. hello\nS: 250 ok\nS: 250 ok\nS: 250 taken\nC. QUIT\nS: 221 bye",
		envelope + "C. DATA\nS: 250 ok\nS: 250 ok\nS: 354 go\nBODY\nS: 250 taken\nC. QUIT\nS: 221 bye",
	} {
		h := network(t, map[string][]string{"127.0.0.1": {script}})
		tr := h.transport()
		m := enqueue(t, "Subject: x\r\n\r\nhello\r\n", "a@north.example", "b@south.example")
		m.State.Attempts = attempts
		for _, r := range tr.Attempt(context.Background(), all(m, dest(t, strings.Replace("smtp://127.0.0.1:PORT", "PORT", strconv.Itoa(h.port), 1)))) {
			if r.Err != nil {
				t.Errorf("after %d attempts: %v", attempts, r.Err)
			}
		}
		tr.Close()
	}
}
