package smtpclient

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/postel-mail/postel/internal/address"
	"github.com/postel-mail/postel/internal/envelope"
	"github.com/postel-mail/postel/internal/status"
)

// hello is the start of most scripts.
const hello = `
S: 220 mx.example ready
C. EHLO me.example
`

func TestSend(t *testing.T) {
	base := func(t *testing.T) *envelope.Envelope { return mail(t, "a@a.example", "b@b.example", "c@b.example") }
	tests := []struct {
		name   string
		script string
		lmtp   bool
		edit   func(e *envelope.Envelope)
		body   string
		want   string
		broken bool
	}{
		{name: "lock step", script: hello + `
			S: 250 mx.example
			C. MAIL FROM:<a@a.example>
			S: 250 ok
			C. RCPT TO:<b@b.example>
			S: 250 ok
			C. RCPT TO:<c@b.example>
			S: 251 will forward
			C. DATA
			S: 354 go
			C: Subject: x
			C:
			C: hello
			C. .
			S: 250 2.0.0 queued as 17
			`, want: "250 2.0.0 queued as 17\n250 2.0.0 queued as 17"},
		{name: "HELO, bare codes, LF", script: `
			S| "220\n"
			C. EHLO me.example
			S: 500 what?
			C. HELO me.example
			S| "250\n"
			C. MAIL FROM:<a@a.example>
			S: 250
			C. RCPT TO:<b@b.example>
			S| "250-\r\n250\r\n"
			C. RCPT TO:<c@b.example>
			S| "250 \r\n"
			C. DATA
			S: 354
			C: Subject: x
			C:
			C: hello
			C. .
			S: 250
			`, want: "250 \n250 "},
		{name: "pipelining", script: hello + `
			S: 250-mx.example
			S: 250 pipelining
			C: MAIL FROM:<a@a.example>
			C: RCPT TO:<b@b.example>
			C: RCPT TO:<c@b.example>
			C. DATA
			S| "250 ok\r\n550 5.1.1 no such user\r\n250 ok\r\n354 go\r\n"
			C: Subject: x
			C:
			C: hello
			C. .
			S: 250 ok
			`, want: "550 5.1.1 no such user\n250 ok"},
		{name: "pipelining, nobody left, lone dot", script: hello + `
			S| "250-mx.example\r\n250 PIPELINING\r\n"
			C: MAIL FROM:<a@a.example>
			C: RCPT TO:<b@b.example>
			C: RCPT TO:<c@b.example>
			C. DATA
			S| "250 ok\r\n550 5.1.1 no such user\r\n450 4.2.1 later\r\n354 go\r\n"
			C. .
			S: 554 no valid recipients
			`, want: "550 5.1.1 no such user\n450 4.2.1 later"},
		{name: "pipelining, MAIL refused, RCPT not, DATA not: no dot", script: hello + `
			S| "250-mx.example\r\n250 PIPELINING\r\n"
			C: MAIL FROM:<a@a.example>
			C: RCPT TO:<b@b.example>
			C: RCPT TO:<c@b.example>
			C. DATA
			S| "550 5.7.1 go away\r\n250 ok\r\n503 no\r\n354 go\r\n"
			`, want: "550 5.7.1 go away\n550 5.7.1 go away", broken: true},
		{name: "pipelining, MAIL refused", script: hello + `
			S| "250-mx.example\r\n250 PIPELINING\r\n"
			C: MAIL FROM:<a@a.example>
			C: RCPT TO:<b@b.example>
			C: RCPT TO:<c@b.example>
			C. DATA
			S| "451 4.7.1 greylisted\r\n503 no\r\n503 no\r\n503 no\r\n"
			`, want: "451 4.7.1 greylisted\n451 4.7.1 greylisted"},
		{name: "all refused, then no DATA", script: hello + `
			S: 250 mx.example
			C. MAIL FROM:<a@a.example>
			S: 250 ok
			C. RCPT TO:<b@b.example>
			S: 550 no
			C. RCPT TO:<c@b.example>
			S: 552 5.2.2 full
			`, want: "550 5.0.0 no\n552 5.2.2 full"},
		{name: "552 for too many", script: hello + `
			S: 250 mx.example
			C. MAIL FROM:<a@a.example>
			S: 250 ok
			C. RCPT TO:<b@b.example>
			S: 250 ok
			C. RCPT TO:<c@b.example>
			S: 552 too many
			C. DATA
			S: 354 go
			C: Subject: x
			C:
			C: hello
			C. .
			S: 250 ok
			`, want: "250 ok\n452 4.5.3 too many"},
		{name: "DATA refused", script: hello + `
			S: 250 mx.example
			C. MAIL FROM:<a@a.example>
			S: 250 ok
			C. RCPT TO:<b@b.example>
			S: 250 ok
			C. RCPT TO:<c@b.example>
			S: 550 5.1.1 no
			C. DATA
			S: 451 4.3.0 not now
			`, want: "451 4.3.0 not now\n550 5.1.1 no"},
		{name: "message refused", script: hello + `
			S: 250 mx.example
			C. MAIL FROM:<a@a.example>
			S: 250 ok
			C. RCPT TO:<b@b.example>
			S: 250 ok
			C. RCPT TO:<c@b.example>
			S: 250 ok
			C. DATA
			S: 354 go
			C: Subject: x
			C:
			C: hello
			C. .
			S| "554-5.6.0 I do\r\n554 5.6.0 not like it\r\n"
			`, want: "554 5.6.0 I do not like it\n554 5.6.0 I do not like it"},
		{name: "421 at RCPT", script: hello + `
			S: 250 mx.example
			C. MAIL FROM:<a@a.example>
			S: 250 ok
			C. RCPT TO:<b@b.example>
			S: 550 5.1.1 no
			C. RCPT TO:<c@b.example>
			S: 421 4.3.2 closing
			`, want: "550 5.1.1 no\n421 4.3.2 closing (unsent)", broken: true},
		{name: "421 at the end", script: hello + `
			S: 250 mx.example
			C. MAIL FROM:<a@a.example>
			S: 250 ok
			C. RCPT TO:<b@b.example>
			S: 250 ok
			C. RCPT TO:<c@b.example>
			S: 250 ok
			C. DATA
			S: 354 go
			C: Subject: x
			C:
			C: hello
			C. .
			S: 421 4.3.2 closing
			`, want: "421 4.3.2 closing\n421 4.3.2 closing", broken: true},
		{name: "connection lost at the end", script: hello + `
			S: 250 mx.example
			C. MAIL FROM:<a@a.example>
			S: 250 ok
			C. RCPT TO:<b@b.example>
			S: 250 ok
			C. RCPT TO:<c@b.example>
			S: 250 ok
			C. DATA
			S: 354 go
			C: Subject: x
			C:
			C: hello
			C. .
			CLOSE
			`, want: "451 4.4.2 Connection lost at end of data; it may arrive twice (ours)\n451 4.4.2 Connection lost at end of data; it may arrive twice (ours)", broken: true},
		{name: "2xx to DATA", script: hello + `
			S: 250 mx.example
			C. MAIL FROM:<a@a.example>
			S: 250 ok
			C. RCPT TO:<b@b.example>
			S: 250 ok
			C. RCPT TO:<c@b.example>
			S: 250 ok
			C. DATA
			S: 250 thanks
			`, want: "451 4.5.0 The server broke the protocol at DATA (ours) (unsent)\n451 4.5.0 The server broke the protocol at DATA (ours) (unsent)", broken: true},
		{name: "an answer before the message", script: hello + `
			S| "250-mx.example\r\n250 PIPELINING\r\n"
			C: MAIL FROM:<a@a.example>
			C: RCPT TO:<b@b.example>
			C: RCPT TO:<c@b.example>
			C. DATA
			S| "250 ok\r\n250 ok\r\n550 5.1.1 no\r\n354 go\r\n250 queued\r\n"
			`, want: "451 4.5.0 The server broke the protocol at DATA (ours) (unsent)\n550 5.1.1 no", broken: true},
		{name: "3xx to RCPT", script: hello + `
			S: 250 mx.example
			C. MAIL FROM:<a@a.example>
			S: 250 ok
			C. RCPT TO:<b@b.example>
			S: 354 go
			`, want: "451 4.5.0 The server broke the protocol at RCPT (ours) (unsent)\n451 4.5.0 The server broke the protocol at RCPT (ours) (unsent)", broken: true},
		{name: "3xx to the message", script: hello + `
			S| "250-mx.example\r\n250 PIPELINING\r\n"
			C: MAIL FROM:<a@a.example>
			C: RCPT TO:<b@b.example>
			C: RCPT TO:<c@b.example>
			C. DATA
			S| "250 ok\r\n250 ok\r\n550 5.1.1 no\r\n354 go\r\n"
			BODY
			S: 354 more
			`, want: "451 4.5.0 The server broke the protocol at end of data; it may arrive twice (ours)\n550 5.1.1 no", broken: true},
		{name: "control byte in the sender", script: hello + `
			S: 250 mx.example
			`, edit: func(e *envelope.Envelope) { e.From.Local = "a\x7f" },
			want: strings.Repeat("\n553 5.1.7 The sender's address cannot be written for the server (ours)", 2)[1:]},
		{name: "malformed reply", script: hello + `
			S: 250 mx.example
			C. MAIL FROM:<a@a.example>
			S: 25O ok
			`, want: "451 4.5.0 The server broke the protocol at MAIL (ours) (unsent)\n451 4.5.0 The server broke the protocol at MAIL (ours) (unsent)", broken: true},
		{name: "unasked text behind the reply", script: hello + `
			S: 250 mx.example
			C. MAIL FROM:<a@a.example>
			S| "550 5.7.1 no\r\n250 ok\r\n"
			`, want: "550 5.7.1 no\n550 5.7.1 no", broken: true},
		{name: "LMTP", lmtp: true, script: `
			S: 220 mx.example ready
			C. LHLO me.example
			S| "250-mx.example\r\n250 PIPELINING\r\n"
			C: MAIL FROM:<a@a.example>
			C: RCPT TO:<b@b.example>
			C: RCPT TO:<b@b.example>
			C: RCPT TO:<d@b.example>
			C. DATA
			S| "250 ok\r\n250 ok\r\n250 ok\r\n550 5.1.1 who?\r\n354 go\r\n"
			C: Subject: x
			C:
			C: hello
			C. .
			S| "250 2.0.0 one\r\n452 4.2.2 full\r\n"
			`, edit: func(e *envelope.Envelope) {
			b := e.Rcpts[0]
			d := b
			d.To.Local = "d"
			e.Rcpts = []envelope.Recipient{b, b, d}
		}, want: "250 2.0.0 one\n452 4.2.2 full\n550 5.1.1 who?"},
		{name: "LMTP, connection lost between answers", lmtp: true, script: `
			S: 220 mx.example ready
			C. LHLO me.example
			S| "250-mx.example\r\n250 PIPELINING\r\n"
			C: MAIL FROM:<a@a.example>
			C: RCPT TO:<b@b.example>
			C: RCPT TO:<c@b.example>
			C. DATA
			S| "250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n"
			C: Subject: x
			C:
			C: hello
			C. .
			S: 250 2.0.0 one
			CLOSE
			`, want: "250 2.0.0 one\n451 4.4.2 Connection lost at end of data; it may arrive twice (ours)", broken: true},
		{name: "LMTP, 354 for nobody", lmtp: true, script: `
			S: 220 mx.example ready
			C. LHLO me.example
			S| "250-mx.example\r\n250 PIPELINING\r\n"
			C: MAIL FROM:<a@a.example>
			C: RCPT TO:<b@b.example>
			C: RCPT TO:<c@b.example>
			C. DATA
			S| "250 ok\r\n550 5.1.1 who?\r\n550 5.1.1 who?\r\n354 go\r\n"
			`, want: "550 5.1.1 who?\n550 5.1.1 who?", broken: true},
		{name: "parameters", script: hello + `
			S| "250-mx.example\r\n250-SIZE 1000\r\n250-DSN\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250 ENHANCEDSTATUSCODES\r\n"
			C. MAIL FROM:<a@a.example> SIZE=23 BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=a+20b+2B
			S: 250 ok
			C. RCPT TO:<"b> NOTIFY=NEVER"@b.example> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;b+3Dx@b.example
			S: 250 ok
			C. RCPT TO:<ü@b.example>
			S: 250 ok
			C. DATA
			S: 354 go
			C: Subject: ü
			C:
			C: hellö
			C. .
			S: 250 ok
			`, body: "Subject: ü\r\n\r\nhellö\r\n", edit: func(e *envelope.Envelope) {
			e.Ret, e.EnvID, e.SMTPUTF8 = "HDRS", "a b+", true
			e.Rcpts[0] = envelope.Recipient{To: address.Path{Local: "b> NOTIFY=NEVER", Domain: "b.example"}, Notify: "SUCCESS,DELAY", ORcpt: "rfc822;b=x@b.example"}
			e.Rcpts[1].To.Local = "ü"
		}, want: "250 ok\n250 ok"},
		{name: "no parameters where not offered", script: hello + `
			S: 250 mx.example
			C. MAIL FROM:<>
			S: 250 ok
			C. RCPT TO:<postmaster>
			S: 250 ok
			C. RCPT TO:<c@xn--bcher-kva.example>
			S: 250 ok
			C. DATA
			S: 354 go
			C: Subject: x
			C:
			C: hello
			C. .
			S: 250 ok
			`, edit: func(e *envelope.Envelope) {
			e.From, e.Ret, e.EnvID, e.SMTPUTF8, e.Body = address.Path{}, "FULL", "x", true, "8BITMIME"
			e.Rcpts[0] = envelope.Recipient{To: address.Path{Local: "postmaster"}, Notify: "NEVER", ORcpt: "rfc822;x@y"}
			e.Rcpts[1].To.Domain = "bücher.example"
		}, want: "250 ok\n250 ok"},
		{name: "over SIZE", script: hello + `
			S| "250-mx.example\r\n250 SIZE 10\r\n"
			`, want: "552 5.3.4 Message is larger than the 10 octets that the server takes (ours)\n552 5.3.4 Message is larger than the 10 octets that the server takes (ours)"},
		{name: "SIZE without a limit", script: hello + `
			S| "250-mx.example\r\n250-SIZE 0\r\n250 SIZE\r\n"
			C. MAIL FROM:<a@a.example> SIZE=21
			S: 550 5.7.1 no
			`, want: "550 5.7.1 no\n550 5.7.1 no"},
		{name: "address needs SMTPUTF8", script: hello + `
			S: 250 mx.example
			C. MAIL FROM:<a@a.example>
			S: 250 ok
			C. RCPT TO:<c@b.example>
			S: 250 ok
			C. DATA
			S: 354 go
			C: Subject: x
			C:
			C: hello
			C. .
			S: 250 ok
			`, edit: func(e *envelope.Envelope) { e.Rcpts[0].To.Local = "ü" },
			want: "553 5.6.7 The server does not offer SMTPUTF8, which the address needs (ours)\n250 ok"},
		{name: "sender needs SMTPUTF8", script: hello + `
			S: 250 mx.example
			`, edit: func(e *envelope.Envelope) { e.From.Local = "ü" },
			want: strings.Repeat("\n553 5.6.7 The server does not offer SMTPUTF8, which the sender's address needs (ours)", 2)[1:]},
		{name: "header needs SMTPUTF8", body: "Subject: ü\r\n\r\nhello\r\n", script: hello + `
			S| "250-mx.example\r\n250 8BITMIME\r\n"
			`, edit: func(e *envelope.Envelope) { e.SMTPUTF8 = true },
			want: strings.Repeat("\n554 5.6.9 The server does not offer SMTPUTF8, which the message's header needs (ours)", 2)[1:]},
		{name: "only the body has UTF-8", body: "Subject: x\r\n\r\nü\r\n", script: hello + `
			S| "250-mx.example\r\n250 8BITMIME\r\n"
			C. MAIL FROM:<a@a.example> BODY=8BITMIME
			S: 550 5.7.1 no
			`, edit: func(e *envelope.Envelope) { e.SMTPUTF8 = true }, want: "550 5.7.1 no\n550 5.7.1 no"},
		{name: "control byte in an address", script: hello + `
			S: 250 mx.example
			C. MAIL FROM:<a@a.example>
			S: 250 ok
			C. RCPT TO:<c@b.example>
			S: 550 no
			`, edit: func(e *envelope.Envelope) { e.Rcpts[0].To.Local = "b\r\nRSET" },
			want: "553 5.1.3 The address cannot be written for the server (ours)\n550 5.0.0 no"},
		{name: "bare LF in the message", body: "a\n.\r\nRSET\r\n", script: hello + `
			S: 250 mx.example
			`, want: "451 4.3.0 Queued message cannot be read (ours)\n451 4.3.0 Queued message cannot be read (ours)"},
		{name: "bare CR at the end", body: "a\r\nb\r", script: hello + `
			S: 250 mx.example
			`, want: "451 4.3.0 Queued message cannot be read (ours)\n451 4.3.0 Queued message cannot be read (ours)"},
		{name: "dots, and no line end at the end", body: ".\r\n..a\r\n\r\n.", script: hello + `
			S: 250 mx.example
			C. MAIL FROM:<a@a.example>
			S: 250 ok
			C. RCPT TO:<b@b.example>
			S: 250 ok
			C. RCPT TO:<c@b.example>
			S: 250 ok
			C. DATA
			S: 354 go
			C: ..
			C: ...a
			C:
			C: ..
			C. .
			S: 250 ok
			`, want: "250 ok\n250 ok"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e := base(t)
			if tt.edit != nil {
				tt.edit(e)
			}
			if tt.body == "" {
				tt.body = letter
			}
			c := open(t, play(t, tt.script), Options{LMTP: tt.lmtp})
			defer c.Close()
			got := summaries(c.Send(context.Background(), Mail{Envelope: e, Rcpts: e.Rcpts, Body: text(tt.body)}))
			if got != tt.want {
				t.Errorf("got\n%s\nwant\n%s", got, tt.want)
			}
			if c.Usable() == tt.broken {
				t.Errorf("usable is %v", c.Usable())
			}
		})
	}
}

func TestOpen(t *testing.T) {
	login := Options{ServerName: "mx.example", Roots: testRoots, Login: &Login{User: "u", Password: "secret"}}
	implicit := login
	implicit.TLS = Implicit
	tests := []struct {
		name, script string
		o            Options
		want         string // "" is a session
		tls          bool
		retry        bool // ErrTLS
	}{
		{name: "STARTTLS not offered", script: hello + "S: 250 mx.example"},
		{name: "STARTTLS required, not offered", script: hello + "S: 250 mx.example", o: Options{TLS: Require},
			want: "451 4.7.4 TLS is required, but the server does not offer it"},
		{name: "STARTTLS off", script: hello + "S| \"250-mx.example\\r\\n250 STARTTLS\\r\\n\"", o: Options{TLS: Off}},
		{name: "STARTTLS", script: hello + `
			S| "250-mx.example\r\n250-SIZE 1\r\n250 STARTTLS\r\n"
			C. STARTTLS
			S: 220 go
			TLS
			C. EHLO me.example
			S| "250-mx.example\r\n250 DSN\r\n"`, tls: true},
		{name: "STARTTLS refused", script: hello + `
			S| "250-mx.example\r\n250 STARTTLS\r\n"
			C. STARTTLS
			S: 454 4.7.0 no entropy`},
		{name: "STARTTLS refused, required", script: hello + `
			S| "250-mx.example\r\n250 STARTTLS\r\n"
			C. STARTTLS
			S: 554 5.7.0 never`, o: Options{TLS: Require}, want: "451 4.7.0 STARTTLS refused: 554 5.7.0 never"},
		{name: "injection behind STARTTLS", script: hello + `
			S| "250-mx.example\r\n250 STARTTLS\r\n"
			C. STARTTLS
			S| "220 go\r\n250-mx.example\r\n250 AUTH PLAIN\r\n"`,
			want: "451 4.7.5 The server sent unprotected data behind its answer to STARTTLS"},
		{name: "no handshake", script: hello + `
			S| "250-mx.example\r\n250 STARTTLS\r\n"
			C. STARTTLS
			S: 220 go
			CLOSE`, want: "454 4.7.5 TLS handshake failed", retry: true},
		{name: "certificate does not verify", script: hello + `
			S| "250-mx.example\r\n250 STARTTLS\r\n"
			C. STARTTLS
			S: 220 go
			NOTLS`, o: Options{TLS: Require, Verify: true, ServerName: "other.example", Roots: testRoots}, want: "454 4.7.5 The server's certificate does not verify", retry: true},
		{name: "AUTH PLAIN", script: hello + `
			S| "250-mx.example\r\n250 STARTTLS\r\n"
			C. STARTTLS
			S: 220 go
			TLS
			C. EHLO me.example
			S| "250-mx.example\r\n250 AUTH LOGIN plain\r\n"
			C. AUTH PLAIN AHUAc2VjcmV0
			S: 235 2.7.0 welcome`, o: login, tls: true},
		{name: "AUTH LOGIN, old form, implicit TLS", script: `
			TLS
			S: 220 mx.example
			C. EHLO me.example
			S| "250-mx.example\r\n250 AUTH=LOGIN\r\n"
			C. AUTH LOGIN
			S: 334 VXNlcm5hbWU6
			C. dQ==
			S: 334 UGFzc3dvcmQ6
			C. c2VjcmV0
			S: 235 welcome`, o: implicit, tls: true},
		{name: "AUTH without TLS", script: hello + `
			S| "250-mx.example\r\n250 AUTH PLAIN\r\n"`, o: login, want: "451 4.7.4 TLS is required, but the server does not offer it"},
		{name: "AUTH refused, with an echo", script: `
			TLS
			S: 220 mx.example
			C. EHLO me.example
			S| "250-mx.example\r\n250 AUTH PLAIN\r\n"
			C. AUTH PLAIN AHUAc2VjcmV0
			S: 535 5.7.8 AHUAc2VjcmV0 is wrong`, o: implicit, want: "451 4.7.8 Login refused"},
		{name: "AUTH PLAIN, password too long for the command", script: `
			TLS
			S: 220 mx.example
			C. EHLO me.example
			S| "250-mx.example\r\n250 AUTH PLAIN\r\n"
			C. AUTH PLAIN
			S| "334 \r\n"
			C. AHUA` + strings.Repeat("eHh4", 300) + `
			S: 235 welcome`, o: Options{ServerName: "mx.example", Roots: testRoots, Login: &Login{User: "u", Password: strings.Repeat("xxx", 300)}, TLS: Implicit}, tls: true},
		{name: "AUTH out of step", script: `
			TLS
			S: 220 mx.example
			C. EHLO me.example
			S| "250-mx.example\r\n250 AUTH PLAIN\r\n"
			C. AUTH PLAIN AHUAc2VjcmV0
			S: 334 more
			C. *
			S: 501 ok`, o: implicit, want: "451 4.7.0 Login failed"},
		{name: "NUL in the password", script: `
			TLS
			S: 220 mx.example
			C. EHLO me.example
			S: 250 mx.example`, o: Options{ServerName: "mx.example", Roots: testRoots, Login: &Login{User: "u", Password: "a\x00b"}, TLS: Implicit}, want: "451 4.3.5 The login cannot be sent"},
		{name: "AUTH unknown", script: `
			TLS
			S: 220 mx.example
			C. EHLO me.example
			S| "250-mx.example\r\n250 AUTH CRAM-MD5\r\n"`, o: implicit, want: "451 4.7.0 The server offers no way to log in that is known here"},
		{name: "AUTH on a private connection", script: hello + `
			S| "250-mx.example\r\n250 AUTH PLAIN\r\n"
			C. AUTH PLAIN AHUAc2VjcmV0
			S: 235 welcome`, o: Options{Login: &Login{User: "u", Password: "secret"}, Private: true}},
		{name: "greeting refused", script: "S: 554 5.7.1 your address is listed", want: "451 4.7.1 Greeting refused: 554 5.7.1 your address is listed"},
		{name: "greeting busy", script: "S: 421 4.7.0 busy", want: "421 4.7.0 busy"},
		{name: "no greeting", script: "CLOSE", want: "451 4.4.2 Connection lost at greeting"},
		{name: "not SMTP", script: "S: HTTP/1.1 400 Bad Request", want: "451 4.5.0 The server broke the protocol at greeting"},
		{name: "EHLO and HELO refused", script: hello + `
			S: 550 bad name
			C. HELO me.example
			S: 550 5.7.1 bad name`, want: "451 4.7.1 EHLO refused: 550 5.7.1 bad name"},
		{name: "EHLO refused for now", script: hello + "S: 451 4.3.0 later", want: "451 4.3.0 EHLO refused: 451 4.3.0 later"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.o.Hostname = "me.example"
			c, err := New(context.Background(), play(t, tt.script), tt.o)
			if tt.want != "" {
				var s *status.Error
				if !errors.As(err, &s) || s.Reply() != tt.want {
					t.Fatalf("got %v, want %s", err, tt.want)
				}
				if !s.Temporary() || errors.Is(err, ErrTLS) != tt.retry {
					t.Errorf("temporary %v, TLS failed %v", s.Temporary(), errors.Is(err, ErrTLS))
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if c.tls != tt.tls {
				t.Errorf("protected is %v", c.tls)
			}
			if !c.Calls("MX.example") || c.Calls("me.example") {
				t.Errorf("names are %q", c.names)
			}
			if tt.tls && c.size() != 0 {
				t.Error("an extension from before TLS survived it")
			}
		})
	}
}

func TestReuse(t *testing.T) {
	script := hello + `
		S| "250-mx.example\r\n250-LIMITS MAILMAX=3 RCPTMAX=2 RCPTDOMAINMAX=1\r\n250 PIPELINING\r\n"
		C: MAIL FROM:<a@a.example>
		C: RCPT TO:<b@b.example>
		C. DATA
		S| "250 ok\r\n550 5.1.1 who?\r\n503 no\r\n"
		C. RSET
		S: 250 ok
		C: MAIL FROM:<a@a.example>
		C: RCPT TO:<b@b.example>
		C. DATA
		S| "250 ok\r\n250 ok\r\n354 go\r\n"
		C: Subject: x
		C:
		C: hello
		C. .
		S: 250 ok
		C: MAIL FROM:<a@a.example>
		C: RCPT TO:<b@b.example>
		C. DATA
		S| "550 5.7.1 no\r\n503 no\r\n503 no\r\n"
		C. QUIT
		S: 221 bye`
	c := open(t, play(t, script), Options{})
	e := mail(t, "a@a.example", "b@b.example", "c@B.example", "d@d.example", "e@d.example")
	ctx := context.Background()
	for i, want := range []string{"550 5.1.1 who?", "250 ok", "550 5.7.1 no"} {
		if !c.Usable() {
			t.Fatalf("not usable before message %d", i)
		}
		if got := summaries(c.Send(ctx, Mail{Envelope: e, Rcpts: e.Rcpts[:1], Body: text(letter)})); got != want {
			t.Fatalf("message %d: got %s, want %s", i, got, want)
		}
	}
	if c.Usable() {
		t.Error("usable after MAILMAX messages")
	}
	for _, tt := range []struct{ from, to, want int }{{0, 4, 2}, {1, 4, 1}, {0, 1, 1}, {2, 4, 2}} {
		if got := c.Fit(e.Rcpts[tt.from:tt.to]); got != tt.want {
			t.Errorf("Fit of %d:%d is %d, want %d", tt.from, tt.to, got, tt.want)
		}
	}
	c.Quit()
	if c.Usable() {
		t.Error("usable after Quit")
	}
}

// TestResetRefused has a server that will not forget a transaction: nothing more is sent to it.
func TestResetRefused(t *testing.T) {
	c := open(t, play(t, hello+`
		S: 250 mx.example
		C. MAIL FROM:<a@a.example>
		S: 250 ok
		C. RCPT TO:<b@b.example>
		S: 550 5.1.1 who?
		C. RSET
		S: 500 5.5.1 what?`), Options{})
	e := mail(t, "a@a.example", "b@b.example")
	for _, want := range []string{"550 5.1.1 who?", "451 4.5.1 RSET refused: 500 5.5.1 what? (ours) (unsent)"} {
		if got := summaries(c.Send(context.Background(), Mail{Envelope: e, Rcpts: e.Rcpts, Body: text(letter)})); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	if c.Usable() {
		t.Error("still usable")
	}
}

// TestManyRecipients has more commands in flight than socket buffers hold when nobody reads.
func TestManyRecipients(t *testing.T) {
	const n = 5000
	e := mail(t, "a@a.example")
	rcpt := envelope.Recipient{To: address.Path{Local: strings.Repeat("x", 64), Domain: "b.example"}}
	// The server reads one command and answers with 512 octets before it reads the next.
	answer := "S| \"250 " + strings.Repeat("y", 506) + "\\r\\n\"\n"
	var script strings.Builder
	script.WriteString(hello + "S| \"250-mx.example\\r\\n250 PIPELINING\\r\\n\"\nC: MAIL FROM:<a@a.example>\n" + answer)
	for range n {
		e.Rcpts = append(e.Rcpts, rcpt)
		script.WriteString("C: RCPT TO:" + rcpt.To.Angle() + "\n" + answer)
	}
	script.WriteString("C: DATA\nS: 354 go\nC: Subject: x\nC:\nC: hello\nC: .\nS: 250 ok")
	c := open(t, play(t, script.String()), Options{})
	defer c.Close()
	for i, o := range c.Send(context.Background(), Mail{Envelope: e, Rcpts: e.Rcpts, Body: text(letter)}) {
		if o.Err != nil {
			t.Fatalf("recipient %d: %v", i, o.Err)
		}
	}
}

// TestBodyFails breaks the message's file while it is sent: there must be no final dot, and no end of the connection that looks like one.
func TestBodyFails(t *testing.T) {
	const size = 4 * blockSize
	line := strings.Repeat("a", 62) + "\r\n"
	whole := strings.NewReader(strings.Repeat(line, size/len(line)))
	for _, bad := range []error{io.ErrClosedPipe, nil} {
		script := hello + "S: 250 mx.example\nC: MAIL FROM:<a@a.example>\nS: 250 ok\nC: RCPT TO:<b@b.example>\nS: 250 ok\nC: DATA\nS: 354 go\nNODOT"
		c := open(t, play(t, script), Options{})
		e := mail(t, "a@a.example", "b@b.example")
		scanned := false
		body := io.NewSectionReader(readerAt(func(p []byte, at int64) (int, error) {
			n, err := whole.ReadAt(p, at)
			if scanned && at >= 2*blockSize {
				if bad == nil { // the file changes under the reader
					copy(p, "\n.\n")
				}
				return n, bad
			}
			scanned = scanned || at+int64(n) == size
			return n, err
		}), 0, size)
		got := summaries(c.Send(context.Background(), Mail{Envelope: e, Rcpts: e.Rcpts, Body: body}))
		if want := "451 4.3.0 Queued message cannot be read (ours)"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		if c.Usable() {
			t.Error("still usable")
		}
	}
}

type readerAt func(p []byte, at int64) (int, error)

func (f readerAt) ReadAt(p []byte, at int64) (int, error) { return f(p, at) }

// TestEarlyRefusal has a server that answers in the middle of the message and closes.
func TestEarlyRefusal(t *testing.T) {
	c := open(t, play(t, hello+`
		S: 250 mx.example
		C: MAIL FROM:<a@a.example>
		S: 250 ok
		C: RCPT TO:<b@b.example>
		S: 250 ok
		C: DATA
		S: 354 go
		C: hello
		S: 552 5.3.4 too large
		CLOSE`), Options{})
	defer c.Close()
	e := mail(t, "a@a.example", "b@b.example")
	got := summaries(c.Send(context.Background(), Mail{Envelope: e, Rcpts: e.Rcpts, Body: text(strings.Repeat("hello\r\n", 2<<20))}))
	if got != "552 5.3.4 too large" {
		t.Errorf("got %s", got)
	}
}

func TestTimeout(t *testing.T) {
	impatient, short := rfc5321, rfc5321
	impatient.command, short.final = 50*time.Millisecond, 50*time.Millisecond
	_, err := New(context.Background(), play(t, "S| \"220-wait\\r\\n\""), Options{Hostname: "me.example", times: &impatient})
	if s := status.Of(err); s.Reply() != "451 4.4.2 Timeout at greeting" {
		t.Errorf("got %v", err)
	}
	c := open(t, play(t, hello+"S: 250 mx.example\nC: MAIL FROM:<a@a.example>\nS: 250 ok\nC: RCPT TO:<b@b.example>\nS: 250 ok\nC: DATA\nS: 354 go\nC: Subject: x\nC:\nC: hello\nC: ."),
		Options{times: &short})
	e := mail(t, "a@a.example", "b@b.example")
	if got := summaries(c.Send(context.Background(), Mail{Envelope: e, Rcpts: e.Rcpts, Body: text(letter)})); got != "451 4.4.2 Timeout at end of data; it may arrive twice (ours)" {
		t.Errorf("got %s", got)
	}
}

// TestStop ends the context in each phase: at once before the final dot, with a grace after it.
func TestStop(t *testing.T) {
	head := hello + "S: 250 mx.example\nC: MAIL FROM:<a@a.example>\nS: 250 ok\nC: RCPT TO:<b@b.example>\n"
	tail := head + "S: 250 ok\nC: DATA\nS: 354 go\nC: Subject: x\nC:\nC: hello\nC: .\n"
	one := strings.Replace(flight, "C: RCPT TO:<c@b.example>", "", 1)
	long, short := rfc5321, rfc5321
	short.grace = 50 * time.Millisecond
	for _, tt := range []struct {
		name, script, want string
		times              *timeouts
	}{
		{"in the envelope", head + "STOP", "451 4.4.2 Attempt was stopped at RCPT (ours) (unsent)", &long},
		{"after the dot, no answer", tail + "STOP", "451 4.4.2 Attempt was stopped at end of data; it may arrive twice (ours)", &short},
		{"with the envelope, no answer", one + "STOP", "451 4.4.2 Attempt was stopped at MAIL; it may arrive twice (ours)", &short},
		{"with the envelope, answer", one + "STOP\nS: 250 ok\nS: 250 ok\nS: 250 taken", "250 taken", &long},
		{"after the dot, answer", tail + "STOP\nS: 250 ok", "250 ok", &long},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(context.Background())
			c := open(t, play(t, tt.script, cancel), Options{times: tt.times})
			defer c.Close()
			e := mail(t, "a@a.example", "b@b.example")
			if got := summaries(c.Send(ctx, Mail{Envelope: e, Rcpts: e.Rcpts, Body: text(letter)})); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
			if c.Usable() {
				t.Error("still usable")
			}
		})
	}
}
