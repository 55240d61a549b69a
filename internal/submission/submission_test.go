package submission

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/postel-mail/postel/internal/address"
	"github.com/postel-mail/postel/internal/clock"
	"github.com/postel-mail/postel/internal/envelope"
	"github.com/postel-mail/postel/internal/queue"
	"github.com/postel-mail/postel/internal/sysexits"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.FixedZone("", 3600))

func TestMain(m *testing.M) {
	clock.Set(func() time.Time { return now })
	os.Exit(m.Run())
}

func spool(t *testing.T) *queue.Spool {
	t.Helper()
	s, err := queue.Open(t.TempDir() + "/spool")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func submission() Submission {
	return Submission{Hostname: "host.example", MaxSize: 8 << 20, MaxHops: 3, UID: 1000, Name: "Me Myself",
		Sender: address.Path{Local: "me", Domain: "host.example"}, Trace: true}
}

func submit(s *Submission, q *queue.Spool, in io.Reader) (*Receipt, error) {
	m, err := s.Read(in)
	if err != nil {
		return nil, err
	}
	defer m.Close()
	return Send(m, q.Create)
}

// show writes a queued message's envelope and content for comparison, the id as ID, line ends as LF.
func show(t *testing.T, s *queue.Spool, id string) string {
	t.Helper()
	m, err := s.Claim(id)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	body, err := io.ReadAll(m.Body())
	if err != nil {
		t.Fatal(err)
	}
	e := m.Envelope
	var b strings.Builder
	fmt.Fprintf(&b, "%s ret=%s envid=%s body=%s utf8=%v %s uid=%d", e.From.Angle(), e.Ret, e.EnvID, e.Body, e.SMTPUTF8, e.Client, e.UID)
	for _, r := range e.Rcpts {
		fmt.Fprintf(&b, " %s %s;", r.To.Angle(), r.Notify)
	}
	if bare := strings.ReplaceAll(string(body), "\r\n", ""); strings.ContainsAny(bare, "\r\n") {
		t.Errorf("bare CR or LF in %q", body)
	}
	b.WriteString("\n" + strings.ReplaceAll(string(body), "\r\n", "\n"))
	return strings.ReplaceAll(b.String(), id, "ID")
}

func TestSubmit(t *testing.T) {
	const received = "Received: by host.example (postel, from userid 1000)\n\tid ID; Sun, 1 Mar 2026 12:00:00 +0100\n"
	const date = "Date: Sun, 1 Mar 2026 12:00:00 +0100\nMessage-ID: <ID@host.example>\n"
	path := func(s string) []envelope.Recipient {
		var all []envelope.Recipient
		for w := range strings.FieldsSeq(s) {
			local, domain, _ := strings.Cut(w, "@")
			all = append(all, envelope.Recipient{To: address.Path{Local: local, Domain: domain}})
		}
		return all
	}
	for _, c := range []struct {
		name string
		set  func(*Submission)
		in   string
		want string
	}{
		{"plain", func(s *Submission) { s.Recipients = path("a b@c") }, "Subject: x\n\nhello",
			"<me@host.example> ret= envid= body= utf8=false local uid=1000 <a@host.example> ; <b@c> ;\n" +
				received + "Subject: x\nFrom: Me Myself <me@host.example>\n" + date + "\nhello\n"},
		{"empty", func(s *Submission) { s.Recipients = path("a") }, "",
			"<me@host.example> ret= envid= body= utf8=false local uid=1000 <a@host.example> ;\n" +
				received + "From: Me Myself <me@host.example>\n" + date + "\n"},
		{"no header", func(s *Submission) { s.Recipients = path("a") }, "just text\n",
			"<me@host.example> ret= envid= body= utf8=false local uid=1000 <a@host.example> ;\n" +
				received + "From: Me Myself <me@host.example>\n" + date + "\njust text\n"},
		{"from header", func(s *Submission) { s.FromHeader = true; s.Recipients = path("x@y") }, "To: a, b@c\r\nBcc: d\r\ncc: A@HOST.example, b@C\r\n\r\nx\r\n.\r\ny",
			"<me@host.example> ret= envid= body= utf8=false local uid=1000 <x@y> ; <a@host.example> ; <b@c> ; <d@host.example> ; <A@HOST.example> ;\n" +
				received + "To: a@host.example, b@c\ncc: A@HOST.example, b@C\nFrom: Me Myself <me@host.example>\n" + date + "\nx\n.\ny\n"},
		{"dot", func(s *Submission) { s.EndAtDot = true; s.Recipients = path("a") }, "\nx\n.\ny\n",
			"<me@host.example> ret= envid= body= utf8=false local uid=1000 <a@host.example> ;\n" +
				received + "From: Me Myself <me@host.example>\n" + date + "\nx\n"},
		{"null sender", func(s *Submission) { s.Sender = address.Path{}; s.Name = ""; s.Recipients = path("a") }, "\n",
			"<> ret= envid= body= utf8=false local uid=1000 <a@host.example> ;\n" +
				received + "From: Mail Delivery System <MAILER-DAEMON@host.example>\n" + date + "\n"},
		{"relay", func(s *Submission) { s.Relay = true; s.Recipients = path("a") }, "To: b\nBcc: c\nReturn-Path: <d>\n\n" + strings.Repeat("x", 1000) + "\n",
			"<me@host.example> ret= envid= body= utf8=false local uid=1000 <a@host.example> ;\n" +
				received + "To: b\nBcc: c\nReturn-Path: <d>\n\n" + strings.Repeat("x", 1000) + "\n"},
		{"dsn and 8 bit", func(s *Submission) {
			s.Recipients = path("a")
			if err := s.SetDSN("success,Delay", "", "hdrs", "a+20b"); err != nil {
				t.Error(err)
			}
		}, "From: x@y\nDate: z\nMessage-ID: <i>\n\n\u00fc\n",
			"<me@host.example> ret=HDRS envid=a b body=8BITMIME utf8=false local uid=1000 <a@host.example> SUCCESS,DELAY;\n" +
				received + "From: x@y\nDate: z\nMessage-ID: <i>\n\n\u00fc\n"},
		{"utf-8 address", func(s *Submission) { s.Recipients = path("j\u00fc@b") }, "From: x@y\nDate: z\nMessage-ID: <i>\n\n",
			"<me@host.example> ret= envid= body= utf8=true local uid=1000 <j\u00fc@b> ;\n" +
				received + "From: x@y\nDate: z\nMessage-ID: <i>\n\n"},
		{"long line", func(s *Submission) { s.Recipients = path("a") }, "From: x@y\nDate: z\nMessage-ID: <i>\nContent-Type: text/plain\n\n" + strings.Repeat("0123456789", 100) + "\n",
			"<me@host.example> ret= envid= body= utf8=false local uid=1000 <a@host.example> ;\n" +
				received + "From: x@y\nDate: z\nMessage-ID: <i>\nContent-Type: text/plain\nMIME-Version: 1.0\nContent-Transfer-Encoding: quoted-printable\n\n" +
				quoted(strings.Repeat("0123456789", 100)) + "\n"},
		{"NUL in a text", func(s *Submission) { s.Recipients = path("a") }, "From: x@y\nDate: z\nMessage-ID: <i>\nContent-Type: text/plain\nX: a\x00b\n\n1\x002\n",
			"<me@host.example> ret= envid= body= utf8=false local uid=1000 <a@host.example> ;\n" +
				received + "From: x@y\nDate: z\nMessage-ID: <i>\nContent-Type: text/plain\nX: ab\nMIME-Version: 1.0\nContent-Transfer-Encoding: quoted-printable\n\n1=002\n"},
		{"NUL in a header alone", func(s *Submission) { s.Recipients = path("a") }, "From: x@y\nDate: z\nMessage-ID: <i>\nX: a\x00b\n\n12\n",
			"<me@host.example> ret= envid= body= utf8=false local uid=1000 <a@host.example> ;\n" +
				received + "From: x@y\nDate: z\nMessage-ID: <i>\nX: ab\n\n12\n"},
		{"NUL in a signed part", func(s *Submission) { s.Recipients = path("a") },
			"From: x@y\nDate: z\nMessage-ID: <i>\nContent-Type: multipart/signed; boundary=b\n\n--b\n\n1\x002\n--b--\n",
			"<me@host.example> ret= envid= body= utf8=false local uid=1000 <a@host.example> ;\n" +
				received + "From: x@y\nDate: z\nMessage-ID: <i>\nContent-Type: multipart/signed; boundary=b\n\n--b\n\n12\n--b--\n"},
		{"NUL in relayed mail", func(s *Submission) { s.Relay = true; s.Recipients = path("a") }, "X: y\n\n1\x002\n",
			"<me@host.example> ret= envid= body= utf8=false local uid=1000 <a@host.example> ;\n" + received + "X: y\n\n12\n"},
		{"hops at the limit", func(s *Submission) { s.Relay = true; s.Recipients = path("a") }, "Received: 1\nReceived: 2\nReceived: 3\n\n",
			"<me@host.example> ret= envid= body= utf8=false local uid=1000 <a@host.example> ;\n" + received + "Received: 1\nReceived: 2\nReceived: 3\n\n"},
	} {
		q := spool(t)
		s := submission()
		c.set(&s)
		r, err := submit(&s, q, iotest.HalfReader(strings.NewReader(c.in)))
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		got := show(t, q, r.ID)
		if got != c.want {
			t.Errorf("%s:\ngot\n%s\nwant\n%s", c.name, got, c.want)
		}
		if ids, _ := q.IDs(); len(ids) != 1 || r.NRcpt != strings.Count(got[:strings.Index(got, "\n")], ";") {
			t.Errorf("%s: %d messages, receipt %+v", c.name, len(ids), r)
		}
	}
}

// quoted breaks ASCII text as quoted-printable does.
func quoted(s string) string {
	var b strings.Builder
	for ; len(s) > 76; s = s[75:] {
		b.WriteString(s[:75] + "=\n")
	}
	return b.String() + s
}

func TestRefused(t *testing.T) {
	for _, c := range []struct {
		name string
		set  func(*Submission)
		in   io.Reader
		exit int
		text string
	}{
		{"no recipients", func(*Submission) {}, strings.NewReader("To: a\n\n"), sysexits.Usage, "no recipients"},
		{"none in header", func(s *Submission) { s.FromHeader = true }, strings.NewReader("To: x:;\n\n"), sysexits.DataErr, "no recipients in To, Cc or Bcc"},
		{"malformed in header", func(s *Submission) { s.FromHeader = true }, strings.NewReader("To: a@b, c d\n\n"), sysexits.DataErr, `To: malformed address "c d"`},
		{"long name in header", func(s *Submission) { s.FromHeader = true; s.Hostname = strings.Repeat("x.", 99) + "x" }, strings.NewReader("To: " + strings.Repeat("y", 60) + "\n\n"), sysexits.DataErr, "address is too long"},
		{"hops", func(s *Submission) { s.Recipients = []envelope.Recipient{{To: address.Path{Local: "a"}}} }, strings.NewReader("Received: 1\nReceived: 2\nReceived: 3\nReceived: 4\n\n"), sysexits.Unavailable, "554 5.4.6 Too many hops"},
		{"size", func(s *Submission) {
			s.Recipients = []envelope.Recipient{{To: address.Path{Local: "a"}}}
			s.MaxSize = 100
		}, strings.NewReader("\n" + strings.Repeat("x", 97)), sysexits.Unavailable, "552 5.3.4 Message is larger than 100 octets"},
		{"large size", func(s *Submission) {
			s.Recipients = []envelope.Recipient{{To: address.Path{Local: "a"}}}
			s.MaxSize = 2 << 20
		}, io.LimitReader(zeros{}, 2<<20), sysexits.Unavailable, "552 5.3.4"},
		{"header", func(s *Submission) { s.Recipients = []envelope.Recipient{{To: address.Path{Local: "a"}}} }, io.MultiReader(strings.NewReader("A: "), io.LimitReader(zeros{}, 2<<20)), sysexits.Unavailable, "552 5.3.4 Message header is too large"},
		{"input", func(s *Submission) { s.Recipients = []envelope.Recipient{{To: address.Path{Local: "a"}}} }, io.MultiReader(strings.NewReader("A: 1\n\nx"), iotest.ErrReader(errors.New("broken"))), sysexits.IOErr, "cannot read the message: broken"},
		{"late input", func(s *Submission) { s.Recipients = []envelope.Recipient{{To: address.Path{Local: "a"}}} }, io.MultiReader(io.LimitReader(zeros{}, 2<<20), iotest.ErrReader(errors.New("broken"))), sysexits.IOErr, "cannot read the message: broken"},
		{"disk", func(s *Submission) {
			s.Recipients = []envelope.Recipient{{To: address.Path{Local: "a"}}}
			s.DSN.EnvID = "full"
		}, strings.NewReader("\n"), sysexits.TempFail, "452 4.3.1"},
	} {
		q := spool(t)
		s := submission()
		c.set(&s)
		if s.DSN.EnvID == "full" {
			q.SetMinFree(1 << 62)
		}
		r, err := submit(&s, q, c.in)
		if err == nil || r != nil || sysexits.Of(err) != c.exit || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: got %+v, %v (exit %d), want exit %d %q", c.name, r, err, sysexits.Of(err), c.exit, c.text)
		}
		if ids, _ := q.IDs(); len(ids) != 0 {
			t.Errorf("%s: %d messages in the queue", c.name, len(ids))
		}
	}
	s := submission()
	s.Recipients, s.MaxSize = []envelope.Recipient{{To: address.Path{Local: "a"}}}, 101
	if _, err := submit(&s, spool(t), strings.NewReader("\n"+strings.Repeat("x", 97))); err != nil {
		t.Errorf("a message of just the largest size: %v", err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = '0'
	}
	return len(p), nil
}

func TestLarge(t *testing.T) {
	q := spool(t)
	s := submission()
	s.Recipients = []envelope.Recipient{{To: address.Path{Local: "a"}}}
	line := strings.Repeat("x", 70) + "\n"
	in := "From: a@b\n\n" + strings.Repeat(line, 3<<20/len(line))
	r, err := submit(&s, q, strings.NewReader(in))
	if err != nil {
		t.Fatal(err)
	}
	got := show(t, q, r.ID)
	if !strings.HasSuffix(got, in[len("From: a@b"):]) {
		t.Errorf("body of %d octets is not what went in", len(got))
	}
}

func TestSetDSN(t *testing.T) {
	for _, c := range []struct {
		notify, ret, envID string
		ok                 bool
	}{
		{"", "", "", true},
		{"never", "full", "a+2Bb", true},
		{"never,success", "", "", false},
		{"sometimes", "", "", false},
		{"", "body", "", false},
		{"", "", "a b", false},
		{"", "", "a+0Ab", false},
		{"", "", strings.Repeat("x", 101), false},
	} {
		s := submission()
		if err := s.SetDSN(c.notify, "", c.ret, c.envID); c.ok != (err == nil) {
			t.Errorf("%+v: got %v", c, err)
		}
	}
}

func TestFindUID(t *testing.T) {
	const passwd = "root:x:0:0:Charlie &,Room 1,555:/root:/bin/sh\n# comment\nbad:x:1000\nmüller:x:1000:1000:Jörg Müller:/h:/s\nnobody:x:65534:1::/:/x"
	for _, c := range []struct {
		uid         int
		login, name string
	}{{0, "root", "Charlie Root"}, {1000, "müller", "Jörg Müller"}, {65534, "nobody", ""}, {5, "", ""}} {
		if login, name := findUID(strings.NewReader(passwd), c.uid); login != c.login || name != c.name {
			t.Errorf("%d: got %q %q, want %q %q", c.uid, login, name, c.login, c.name)
		}
	}
}
