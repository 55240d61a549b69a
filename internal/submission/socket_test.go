package submission

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postel-mail/postel/internal/activation"
	"github.com/postel-mail/postel/internal/address"
	"github.com/postel-mail/postel/internal/clock"
	"github.com/postel-mail/postel/internal/envelope"
	"github.com/postel-mail/postel/internal/maillog"
	"github.com/postel-mail/postel/internal/smtpserver"
	"github.com/postel-mail/postel/internal/status"
	"github.com/postel-mail/postel/internal/sysexits"
	"github.com/postel-mail/postel/test/dialog"
)

// realTime gives a test that speaks over sockets the real clock.
func realTime(t *testing.T) {
	clock.Set(nil)
	t.Cleanup(func() { clock.Set(func() time.Time { return now }) })
}

// serve listens at a socket, and gives the one connection that is made to handle.
func serve(t *testing.T, handle func(net.Conn) error) *Socket {
	t.Helper()
	path := t.TempDir() + "/submit.sock"
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		conn, err := l.Accept()
		if err == nil {
			err = handle(conn)
		}
		done <- err
	}()
	t.Cleanup(func() {
		l.Close()
		if err := <-done; err != nil && !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
	})
	return &Socket{Path: path, Hostname: "host.example"}
}

func play(t *testing.T, script string) *Socket {
	return serve(t, func(conn net.Conn) error { return dialog.Server{}.Play(conn, script) })
}

const (
	hello = `
		S: 220 mail.example ESMTP
		C. EHLO host.example
		S: 250-mail.example
		S: 250-pipelining
		S: 250-8BITMIME
		S: 250-SMTPUTF8
		S: 250 DSN
	`
	upToData = hello + `
		C: MAIL FROM:<me@host.example>
		C. RCPT TO:<a@b.example>
		S: 250 2.1.0 Ok
		S: 250 2.1.5 Ok
		C. DATA
		S: 354 go on
	`
)

func simple(in string) (*Message, error) {
	s := submission()
	s.Trace, s.Relay = false, true
	s.Recipients = []envelope.Recipient{{To: address.Path{Local: "a", Domain: "b.example"}}}
	return s.Read(strings.NewReader(in))
}

// TestSocketDialog: every word that goes over the socket.
func TestSocketDialog(t *testing.T) {
	realTime(t)
	k := play(t, hello+`
		C: MAIL FROM:<me@host.example> BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=a+20b
		C: RCPT TO:<jü@b.example> NOTIFY=SUCCESS,DELAY
		C. RCPT TO:<"a> NOTIFY=NEVER"@b.example> NOTIFY=NEVER ORCPT=rfc822;c+3D@d
		S: 250-2.1.0 one
		S: 250 2.1.0 two
		S| "250 2.1.5 Ok\r\n251 2.1.5 elsewhere\n"
		C. DATA
		S: 354 go on
		C| "Subject: x\r\nFrom: Me Myself <me@host.example>\r\nDate: D\r\nMessage-ID: <"
		C| "x@y>\r\n\r\n..\r\n..hidden\r\nü.\r\n....\r\nend\r\n.\r\n"
		S: 250 2.0.0 Ok: queued as 1k0ymwmgnx61xz2chmfc
		C: QUIT
	`)
	s := submission()
	s.Trace = false
	s.Recipients = []envelope.Recipient{{To: address.Path{Local: "jü", Domain: "b.example"}},
		{To: address.Path{Local: "a> NOTIFY=NEVER", Domain: "b.example"}, Notify: "NEVER", ORcpt: "rfc822;c=@d"}}
	if err := s.SetDSN("success,delay", "", "hdrs", "a+20b"); err != nil {
		t.Fatal(err)
	}
	m, err := s.Read(strings.NewReader("Subject: x\nFrom: Me Myself <me@host.example>\nDate: D\nMessage-ID: <x@y>\n\n.\n.hidden\nü.\n...\nend"))
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	r, err := Send(m, k.Create)
	if err != nil || r.ID != "1k0ymwmgnx61xz2chmfc" || r.NRcpt != 2 {
		t.Errorf("got %+v, %v", r, err)
	}
}

// TestSocketOutcomes: what is told apart is whether another way may be tried, and with which status the program ends.
func TestSocketOutcomes(t *testing.T) {
	realTime(t)
	const notTaken, maybe = -1, -2
	large := "\n" + strings.Repeat("0123456789\n", 100_000)
	for _, c := range []struct {
		name, script, in string
		want             int // exit status, or one of the above
		text             string
	}{
		{"taken", upToData + "BODY\nS: 250 thanks\nC: QUIT", "\n", 0, ""},
		{"taken, large", upToData + "BODY\nS: 250 thanks\nC: QUIT", large, 0, ""},
		{"busy", "S: 421 4.3.2 full", "\n", notTaken, "421 4.3.2 full"},
		{"no service", "S: 554 5.3.2 never", "\n", notTaken, "554 5.3.2 never"},
		{"closes at once", "CLOSE", "\n", notTaken, "connection closed"},
		{"no EHLO", "S: 220 x\nC. EHLO host.example\nS: 502 5.5.1 what", "\n", notTaken, "502 5.5.1 what"},
		{"no PIPELINING", "S: 220 x\nC. EHLO host.example\nS: 250 x", "\n", notTaken, "does not offer PIPELINING"},
		{"no XWAIT", "S: 220 x\nC. EHLO host.example\nS: 250-x\nS: 250 PIPELINING", "\n", notTaken, "does not offer XWAIT"},
		{"no 8BITMIME", "S: 220 x\nC. EHLO host.example\nS: 250-x\nS: 250 PIPELINING", "\n\u00fc\n", notTaken, "does not offer 8BITMIME"},
		{"sender for now", hello + "C: MAIL FROM:<me@host.example>\nC: RCPT TO:<a@b.example>\nS| \"452 4.3.1 disk\\r\\n503 5.5.1 no\\r\\n\"\nCLOSE", "\n", notTaken, "452 4.3.1 disk"},
		{"sender for good", hello + "C: MAIL FROM:<me@host.example>\nC: RCPT TO:<a@b.example>\nS| \"553 5.1.8 you\\r\\n503 5.5.1 no\\r\\n\"\nCLOSE", "\n", sysexits.Unavailable, "553 5.1.8 you: said of MAIL FROM:<me@host.example>"},
		{"no such user", hello + "C: MAIL FROM:<me@host.example>\nC. RCPT TO:<a@b.example>\nS: 250 ok\nS: 550 5.1.1 unknown", "\n", sysexits.NoUser, "550 5.1.1 unknown: said of RCPT TO:<a@b.example>"},
		{"recipient for now", hello + "C: MAIL FROM:<me@host.example>\nC. RCPT TO:<a@b.example>\nS: 250 ok\nS: 450 4.2.1 later", "\n", notTaken, "450 4.2.1"},
		{"too much in an hour", hello + "C: MAIL FROM:<me@host.example>\nC. RCPT TO:<a@b.example>\nS: 250 ok\nS: 450 4.7.1 enough", "\n", sysexits.TempFail, "450 4.7.1 enough"},
		{"DATA for now", strings.Replace(upToData, "354 go on", "452 4.3.1 disk", 1), "\n", notTaken, "452 4.3.1"},
		{"DATA for good", strings.Replace(upToData, "354 go on", "554 5.7.1 no", 1), "\n", sysexits.Unavailable, "554 5.7.1 no: said of DATA"},
		{"DATA misunderstood", strings.Replace(upToData, "354 go on", "250 ok", 1), "\n", notTaken, "250 "},
		{"closes in the message", upToData + "CLOSE", large, notTaken, "write: "},
		{"refused for now", upToData + "BODY\nS: 451 4.3.0 later", "\n", notTaken, "451 4.3.0"},
		{"refused for good", upToData + "BODY\nS: 554 5.7.1 spam", "\n", sysexits.Unavailable, "554 5.7.1 spam: said of the message"},
		{"bad message", upToData + "BODY\nS: 554 5.6.0 form", "\n", sysexits.DataErr, "554 5.6.0 form"},
		{"no answer", upToData + "BODY\nCLOSE", "\n", maybe, "may have taken it"},
		{"half an answer", upToData + "BODY\nS| \"25\"\nCLOSE", "\n", maybe, "connection closed"},
		{"nonsense for an answer", upToData + "BODY\nS: what?", "\n", maybe, "not a reply"},
		{"another question", upToData + "BODY\nS: 354 go on", "\n", maybe, "it says 354"},
		{"late answer", upToData + "BODY\nNODOT", "\n", maybe, "resource temporarily unavailable"},
		{"late greeting", "NODOT", "\n", notTaken, "resource temporarily unavailable"},
		{"long line", "S| \"" + strings.Repeat("x", maxReply+1) + "\"\nNODOT", "\n", notTaken, "too long"},
		{"many lines", `S| "` + strings.Repeat(`220-x\r\n`, maxReplies+1) + `"` + "\nNODOT", "\n", notTaken, "too many lines"},
		{"two codes", "S: 220-x\nS: 550 x", "\n", notTaken, "not a reply"},
		{"no code", "S: hello", "\n", notTaken, "not a reply"},
		{"short code", "S: 22", "\n", notTaken, "not a reply"},
		{"escapes", "S: 421 \x1b[31m\x07", "\n", notTaken, "421 4.0.0 ?[31m?"},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := play(t, c.script)
			const short = 10 * time.Millisecond
			create := k.Create
			switch c.name {
			case "late greeting":
				k.patience = short
			case "late answer": // and no other is
				create = func(e *envelope.Envelope) (*Session, error) {
					s, err := k.Create(e)
					if err == nil {
						s.patience = short
						wait := unix.NsecToTimeval(int64(short))
						err = unix.SetsockoptTimeval(s.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait)
					}
					return s, err
				}
			}
			m, err := simple(c.in)
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			if c.name == "no XWAIT" {
				m.Wait = "0123456789abcdef"
			}
			_, err = Send(m, create)
			got := sysexits.Of(err)
			var known *status.Error
			switch {
			case errors.Is(err, ErrNotTaken):
				got = notTaken
			case err != nil && !errors.As(err, &known):
				got = maybe
			}
			if got != c.want || !strings.Contains(fmt.Sprint(err), c.text) || strings.Count(fmt.Sprint(err), ErrNotTaken.Error()) > 1 {
				t.Errorf("got %d, want %d: %v", got, c.want, err)
			}
		})
	}
}

// TestNoSocket: where nobody listens another way may be tried.
func TestNoSocket(t *testing.T) {
	dir := t.TempDir()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: dir + "/left", Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	for _, path := range []string{"", dir + "/none", dir + "/left", dir, "/" + strings.Repeat("x", 200)} {
		m, err := simple("\n")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Send(m, (&Socket{Path: path}).Create); !errors.Is(err, ErrNotTaken) {
			t.Errorf("%q: %v", path, err)
		}
		m.Close()
	}
}

// TestManyRecipients: commands are not written further ahead than their answers fit into the socket.
func TestManyRecipients(t *testing.T) {
	realTime(t)
	s := submission()
	commands := []string{"MAIL FROM:<me@host.example>"}
	for n := range 2*maxAhead + 5 {
		s.Recipients = append(s.Recipients, envelope.Recipient{To: address.Path{Local: fmt.Sprint("r", n), Domain: "b.example"}})
		commands = append(commands, fmt.Sprintf("RCPT TO:<r%d@b.example>", n))
	}
	script := hello
	for some := range slices.Chunk(commands, maxAhead) {
		script += "C: " + strings.Join(some[:len(some)-1], "\nC: ") + "\nC. " + some[len(some)-1] + strings.Repeat("\nS: 250 ok", len(some)) + "\n"
	}
	k := play(t, script+"C. DATA\nS: 354 go\nBODY\nS: 250 ok\nC: QUIT")
	m, err := s.Read(strings.NewReader("\n"))
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if _, err := Send(m, k.Create); err != nil {
		t.Error(err)
	}
}

// TestSocketServer: our own server takes the message, knows who it is from, and what comes out is what went in.
func TestSocketServer(t *testing.T) {
	realTime(t)
	q := spool(t)
	var log bytes.Buffer
	server := &smtpserver.Server{Hostname: "mail.example", Submission: true, Spool: q, Log: maillog.ToWriter(&log, "smtpd"),
		MaxSize: 8 << 20, MaxRecipients: 10, MaxHops: 5}
	ended := make(chan bool)
	k := serve(t, func(conn net.Conn) error {
		defer close(ended)
		c := activation.NewConn(conn)
		server.ServeConn(c)
		_ = c.Close() // the client does not wait for the answer to QUIT
		return nil
	})
	in := "Subject: x\n\n" + strings.Repeat(".\n..\n.x\nx.\n\n", 40_000) + "\u00fc"
	s := submission()
	s.Trace, s.Name, s.Wait = false, "Me Myself", "0123456789abcdef"
	s.Recipients = []envelope.Recipient{{To: address.Path{Local: "a", Domain: "b.example"}, Notify: "NEVER"},
		{To: address.Path{Local: "b", Domain: "b.example"}, ORcpt: `utf-8;bj\ørn=x+\@b.example`}}
	m, err := s.Read(strings.NewReader(in))
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	r, err := Send(m, k.Create)
	if err != nil {
		t.Fatal(err)
	}
	got, err := q.Claim(r.ID)
	if err != nil {
		t.Fatal(err)
	}
	defer got.Close()
	all, err := io.ReadAll(got.Body())
	if err != nil {
		t.Fatal(err)
	}
	text := strings.ReplaceAll(string(all), "\r\n", "\n")
	want := fmt.Sprintf("Received: by mail.example (postel, from userid %d) with ESMTP\n\tid %s; ", os.Getuid(), r.ID)
	if !strings.HasPrefix(text, want) || strings.Count(text, "Received:") != 1 {
		t.Errorf("got %.200q, want %q", text, want)
	}
	if _, body, _ := strings.Cut(text, "\n\n"); body != in[len("Subject: x\n\n"):]+"\n" || !strings.Contains(text, "\nFrom: Me Myself <me@host.example>\n") {
		t.Errorf("got %.400q, %d octets", text, len(text))
	}
	e := got.Envelope
	if e.UID != os.Getuid() || e.Wait != s.Wait || e.Client != "unix" || e.Body != "8BITMIME" || len(e.Rcpts) != 2 || e.Rcpts[0].Notify != "NEVER" || e.Rcpts[1].Notify != "" ||
		e.Rcpts[1].ORcpt != s.Recipients[1].ORcpt {
		t.Errorf("got %+v", e)
	}
	<-ended
	if want := fmt.Sprintf("client=unix proto=ESMTP uid=%d\n", os.Getuid()); !strings.Contains(log.String(), want) || !strings.HasSuffix(log.String(), "event=disconnect client=unix\n") {
		t.Errorf("log %q, want %q", log.String(), want)
	}
}
