package smtpclient

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"

	"github.com/postel-mail/postel/internal/address"
	"github.com/postel-mail/postel/internal/envelope"
)

const chunking = `S| "250-mx.example\r\n250-PIPELINING\r\n250-8bitmime\r\n250 Chunking\r\n"
`

// flight is what the client says to a server that has it all, for two recipients.
const flight = hello + chunking + `
	C: MAIL FROM:<a@a.example>
	C: RCPT TO:<b@b.example>
	C: RCPT TO:<c@b.example>
	C: BDAT 21 LAST
	C: Subject: x
	C:
	C. hello
`

func TestChunking(t *testing.T) {
	both := func(s string) string { return s + "\n" + s }
	const mails = "C: MAIL FROM:<a@a.example>\nC: RCPT TO:<b@b.example>\nC: RCPT TO:<c@b.example>\n"
	big := strings.Repeat(strings.Repeat("x", 62)+"\r\n", 1<<10) // 64 KiB
	tests := []struct {
		name, script string
		lmtp, again  bool
		edit         func(e *envelope.Envelope)
		body         string
		want         string
		broken       bool
	}{
		{name: "one flight", script: flight + `
			S| "250 ok\r\n250 ok\r\n250 ok\r\n250 2.0.0 queued as 17\r\n"
			`, want: both("250 2.0.0 queued as 17")},
		{name: "one refused", script: flight + `
			S| "250 ok\r\n550 5.1.1 who?\r\n250 ok\r\n250 2.0.0 queued\r\n"
			`, want: "550 5.1.1 who?\n250 2.0.0 queued"},
		{name: "all refused", script: flight + `
			S| "250 ok\r\n550 5.1.1 who?\r\n450 4.2.1 later\r\n503 5.5.1 no recipients\r\n"
			`, want: "550 5.1.1 who?\n450 4.2.1 later"},
		{name: "MAIL refused", script: flight + `
			S| "451 4.7.1 greylisted\r\n503 no\r\n503 no\r\n503 no\r\n"
			`, want: both("451 4.7.1 greylisted")},
		{name: "message refused", script: flight + `
			S| "250 ok\r\n250 ok\r\n550 5.1.1 who?\r\n554 5.7.1 no such words\r\n"
			`, want: "554 5.7.1 no such words\n550 5.1.1 who?"},
		{name: "what was offered is not there", script: flight + `
			S| "250 ok\r\n250 ok\r\n250 ok\r\n500 5.5.2 what?\r\n"
			`, want: both("451 4.5.0 The server broke the protocol at BDAT (ours)"), broken: true},
		{name: "body run as commands", script: flight + `
			S| "250 ok\r\n250 ok\r\n250 ok\r\n554 5.5.1 no\r\n500 what?\r\n500 what?\r\n"
			`, want: both("554 5.5.1 no"), broken: true},
		{name: "3xx to the message", script: flight + `
			S| "250 ok\r\n250 ok\r\n250 ok\r\n354 more\r\n"
			`, want: both("451 4.5.0 The server broke the protocol at end of data; it may arrive twice (ours)"), broken: true},
		{name: "421 to MAIL", script: flight + `
			S: 421 4.3.2 closing
			`, want: both("421 4.3.2 closing (unsent)"), broken: true},
		{name: "421 to RCPT", script: flight + `
			S| "250 ok\r\n550 5.1.1 who?\r\n421 4.3.2 closing\r\n"
			`, want: "550 5.1.1 who?\n421 4.3.2 closing (unsent)", broken: true},
		{name: "421 to the message", script: flight + `
			S| "250 ok\r\n250 ok\r\n250 ok\r\n421 4.3.2 closing\r\n"
			`, want: both("421 4.3.2 closing"), broken: true},
		{name: "lost without a word", script: flight + `
			CLOSE`, want: both("451 4.4.2 Connection lost at MAIL; it may arrive twice (ours)"), broken: true},
		{name: "lost in the envelope", script: flight + `
			S| "250 ok\r\n550 5.1.1 who?\r\n"
			CLOSE`, want: "550 5.1.1 who?\n451 4.4.2 Connection lost at RCPT; it may arrive twice (ours)", broken: true},
		{name: "lost at the end", script: flight + `
			S| "250 ok\r\n250 ok\r\n250 ok\r\n"
			CLOSE`, want: both("451 4.4.2 Connection lost at end of data; it may arrive twice (ours)"), broken: true},
		{name: "malformed reply", script: flight + `
			S| "250 ok\r\nok\r\n"
			`, want: both("451 4.5.0 The server broke the protocol at RCPT; it may arrive twice (ours)"), broken: true},
		{name: "dots, and no line end at the end", body: ".\r\n..a\r\n.\r\n.", script: hello + chunking + mails + `
			C: BDAT 14 LAST
			C: .
			C: ..a
			C: .
			C. .
			S| "250 ok\r\n250 ok\r\n250 ok\r\n250 ok\r\n"
			`, want: both("250 ok")},
		{name: "tried before", again: true, script: hello + chunking + mails + `
			C. DATA
			S| "250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n"
			BODY
			S: 250 ok
			`, want: both("250 ok")},
		{name: "64 KiB", body: big, script: hello + chunking + mails + `
			C: BDAT 65536 LAST
			C| ` + fmt.Sprintf("%q", big) + `
			S| "250 ok\r\n250 ok\r\n250 ok\r\n250 ok\r\n"
			`, want: both("250 ok")},
		{name: "over 64 KiB", body: big + "\r\n", script: hello + chunking + mails + `
			C. DATA
			S| "250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n"
			BODY
			S: 250 ok
			`, want: both("250 ok")},
		{name: "without pipelining", script: hello + `
			S| "250-mx.example\r\n250 CHUNKING\r\n"
			C. MAIL FROM:<a@a.example>
			S: 250 ok
			C. RCPT TO:<b@b.example>
			S: 250 ok
			C. RCPT TO:<c@b.example>
			S: 550 5.1.1 who?
			C: BDAT 21 LAST
			C: Subject: x
			C:
			C. hello
			S: 250 2.0.0 ok
			`, want: "250 2.0.0 ok\n550 5.1.1 who?"},
		{name: "without pipelining, large, lost in the message", body: strings.Repeat(big, 400), script: hello + `
			S| "250-mx.example\r\n250 CHUNKING\r\n"
			C. MAIL FROM:<a@a.example>
			S: 250 ok
			C. RCPT TO:<b@b.example>
			S: 250 ok
			C. RCPT TO:<c@b.example>
			S: 250 ok
			C: BDAT 26214400 LAST
			S: 552 5.3.4 too large
			CLOSE`, want: both("552 5.3.4 too large"), broken: true},
		{name: "without pipelining, nobody left", script: hello + `
			S| "250-mx.example\r\n250 CHUNKING\r\n"
			C. MAIL FROM:<a@a.example>
			S: 250 ok
			C. RCPT TO:<b@b.example>
			S: 550 5.1.1 who?
			C. RCPT TO:<c@b.example>
			S: 550 5.1.1 who?
			`, want: both("550 5.1.1 who?")},
		{name: "without pipelining, text before the message", script: hello + `
			S| "250-mx.example\r\n250 CHUNKING\r\n"
			C. MAIL FROM:<a@a.example>
			S: 250 ok
			C. RCPT TO:<b@b.example>
			S: 250 ok
			C. RCPT TO:<c@b.example>
			S| "250 ok\r\n250 queued\r\n"
			`, want: both("451 4.5.0 The server broke the protocol at DATA (ours) (unsent)"), broken: true},
		{name: "LMTP", lmtp: true, script: strings.Replace(flight, "EHLO", "LHLO", 1) + `
			S| "250 ok\r\n250 ok\r\n250 ok\r\n250 2.0.0 one\r\n452 4.2.2 full\r\n"
			`, want: "250 2.0.0 one\n452 4.2.2 full"},
		{name: "LMTP, nobody", lmtp: true, script: strings.Replace(flight, "EHLO", "LHLO", 1) + `
			S| "250 ok\r\n550 5.1.1 who?\r\n550 5.1.1 who?\r\n503 5.5.1 nobody\r\n"
			`, want: both("550 5.1.1 who?")},
		{name: "LMTP, lost between answers", lmtp: true, script: strings.Replace(flight, "EHLO", "LHLO", 1) + `
			S| "250 ok\r\n250 ok\r\n250 ok\r\n250 2.0.0 one\r\n"
			CLOSE`, want: "250 2.0.0 one\n451 4.4.2 Connection lost at end of data; it may arrive twice (ours)", broken: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e := mail(t, "a@a.example", "b@b.example", "c@b.example")
			if tt.edit != nil {
				tt.edit(e)
			}
			if tt.body == "" {
				tt.body = letter
			}
			c := open(t, play(t, tt.script), Options{LMTP: tt.lmtp})
			defer c.Close()
			got := summaries(c.Send(context.Background(), Mail{Envelope: e, Rcpts: e.Rcpts, Body: text(tt.body), Again: tt.again}))
			if got != tt.want {
				t.Errorf("got\n%s\nwant\n%s", got, tt.want)
			}
			if c.Usable() == tt.broken {
				t.Errorf("usable is %v", c.Usable())
			}
		})
	}
}

// TestFlightRecipients: up to ten go with the message, more before it.
func TestFlightRecipients(t *testing.T) {
	for _, n := range []int{maxFlight, maxFlight + 1} {
		e := mail(t, "a@a.example")
		script := hello + chunking + "C: MAIL FROM:<a@a.example>\n"
		for range n {
			e.Rcpts = append(e.Rcpts, envelope.Recipient{To: address.Path{Local: "b", Domain: "b.example"}})
			script += "C: RCPT TO:<b@b.example>\n"
		}
		if n <= maxFlight {
			script += "C: BDAT 21 LAST\nC: Subject: x\nC:\nC. hello\n" + strings.Repeat("S: 250 ok\n", n+2)
		} else {
			script += "C. DATA\n" + strings.Repeat("S: 250 ok\n", n+1) + "S: 354 go\nBODY\nS: 250 ok"
		}
		c := open(t, play(t, script), Options{})
		for i, o := range c.Send(context.Background(), Mail{Envelope: e, Rcpts: e.Rcpts, Body: text(letter)}) {
			if o.Err != nil {
				t.Errorf("%d recipients: %d: %v", n, i, o.Err)
			}
		}
		c.Close()
	}
}

// TestAfterRefusal: behind a chunk that was refused only RSET brings back a known state (RFC 3030 2), behind one that was taken it is not needed.
func TestAfterRefusal(t *testing.T) {
	one := strings.Replace(strings.TrimPrefix(flight, hello+chunking), "C: RCPT TO:<c@b.example>", "", 1)
	c := open(t, play(t, hello+chunking+one+`S| "250 ok\r\n250 ok\r\n250 2.0.0 first\r\n"`+one+`S| "250 ok\r\n250 ok\r\n452 4.2.2 full\r\n"
		C. RSET
		S: 250 ok`+one+`S| "250 ok\r\n550 5.1.1 who?\r\n503 5.5.1 nobody\r\n"
		C. RSET
		S: 250 ok`+one+`S| "250 ok\r\n250 ok\r\n250 2.0.0 last\r\n"
		C. QUIT
		S: 221 bye`), Options{})
	e := mail(t, "a@a.example", "b@b.example")
	for _, want := range []string{"250 2.0.0 first", "452 4.2.2 full", "550 5.1.1 who?", "250 2.0.0 last"} {
		if got := summaries(c.Send(context.Background(), Mail{Envelope: e, Rcpts: e.Rcpts, Body: text(letter)})); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	c.Quit()
}

// TestLeftSession has a server that ends a session while it waits for a second message, with a word or without. Nothing of that is sent.
func TestLeftSession(t *testing.T) {
	for _, word := range []string{"", "421 4.4.2 idle\r\n"} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		client, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		server, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		l.Close()
		leave, said := make(chan bool), make(chan string, 1)
		go func() {
			_, _ = io.WriteString(server, "220 mx.example\r\n250-mx.example\r\n250-PIPELINING\r\n250 CHUNKING\r\n250 ok\r\n250 ok\r\n250 ok\r\n")
			<-leave
			_, _ = io.WriteString(server, word)
			_ = server.(*net.TCPConn).CloseWrite()
			b, _ := io.ReadAll(server)
			said <- string(b)
		}()
		c := open(t, client, Options{})
		e := mail(t, "a@a.example", "b@b.example")
		for _, want := range []string{"250 ok", "451 4.4.2 Connection lost at MAIL (ours) (unsent)"} {
			if got := summaries(c.Send(context.Background(), Mail{Envelope: e, Rcpts: e.Rcpts, Body: text(letter)})); got != want {
				t.Errorf("%q: got %s, want %s", word, got, want)
			}
			if want == "250 ok" {
				close(leave)
				for c.quiet() {
					runtime.Gosched() // until what the server does has come
				}
			}
		}
		if c.Usable() {
			t.Errorf("%q: still usable", word)
		}
		if b := <-said; strings.Count(b, "MAIL") != 1 {
			t.Errorf("%q: the client said %q", word, b)
		}
		server.Close()
	}
}

// stuckConn fails to write what is longer than a command.
type stuckConn struct {
	net.Conn
	answer io.Reader
}

func (c stuckConn) Write(p []byte) (int, error) {
	if strings.HasPrefix(string(p), "MAIL") {
		return 0, errors.New("broken pipe")
	}
	return len(p), nil
}

func (c stuckConn) Read(p []byte) (int, error) { return c.answer.Read(p) }

// TestFlightNotWritten: a message whose end was not written cannot have been taken, and the server may have said why it left.
func TestFlightNotWritten(t *testing.T) {
	for answer, want := range map[string]string{
		"":                             "451 4.4.2 Connection lost at MAIL (ours) (unsent)",
		"421 4.7.0 too much\r\n":       "421 4.7.0 too much (unsent)",
		"550 5.7.1 go away\r\n":        "550 5.7.1 go away",
		"250 ok\r\n550 5.1.1 who?\r\n": "550 5.1.1 who?",
		"250 ok\r\n250 ok\r\n":         "451 4.4.2 Connection lost at end of data (ours) (unsent)",
		"250 ok\r\n":                   "451 4.4.2 Connection lost at RCPT (ours) (unsent)",
	} {
		client, server := net.Pipe()
		defer server.Close()
		conn := stuckConn{client, strings.NewReader("220 mx.example\r\n250-mx.example\r\n250-PIPELINING\r\n250 CHUNKING\r\n" + answer)}
		c := open(t, conn, Options{})
		e := mail(t, "a@a.example", "b@b.example")
		if got := summaries(c.Send(context.Background(), Mail{Envelope: e, Rcpts: e.Rcpts, Body: text(letter)})); got != want {
			t.Errorf("%q: got %s, want %s", answer, got, want)
		}
		c.Close()
	}
}
