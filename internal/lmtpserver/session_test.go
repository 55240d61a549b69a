package lmtpserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/emersion/go-smtp"

	"github.com/postel-mail/postel/internal/activation"
	"github.com/postel-mail/postel/internal/envelope"
)

func TestDialog(t *testing.T) {
	for _, c := range []struct{ name, in, replies, delivered string }{
		{"greeting and quit", hello + "QUIT\r\nNOOP\r\n", "220, 250, 221 2.0.0", ""},
		{"one message", head + "DATA\r\nHi\r\n..dot\r\n.\r\nQUIT\r\n", headOK + ", 354, 250 2.1.5, 221 2.0.0", `<from@a.example> <to@own.example> "Hi\r\n.dot\r\n"` + "\n"},
		{"empty message", head + "DATA\r\n.\r\n", headOK + ", 354, 250 2.1.5", `<from@a.example> <to@own.example> ""` + "\n"},
		{"null sender", hello + "MAIL FROM:<>\r\n" + rcpt + "DATA\r\nx\r\n.\r\n", headOK + ", 354, 250 2.1.5", `<> <to@own.example> "x\r\n"` + "\n"},
		{"source route", hello + mail + "RCPT TO:<@a.example,@b.example:to@own.example>\r\nDATA\r\nx\r\n.\r\n", headOK + ", 354, 250 2.1.5", `<from@a.example> <to@own.example> "x\r\n"` + "\n"},
		{"two messages", head + "DATA\r\n1\r\n.\r\n" + mail + rcpt + "DATA\r\n2\r\n.\r\n", headOK + ", 354, 250 2.1.5, 250 2.1.0, 250 2.1.5, 354, 250 2.1.5",
			`<from@a.example> <to@own.example> "1\r\n"` + "\n" + `<from@a.example> <to@own.example> "2\r\n"` + "\n"},
		{"BDAT", head + "BDAT 4\r\nHi\r\nBDAT 0\r\nBDAT 3\r\n.\r\nBDAT 3 last\r\n.\r\nNOOP\r\n", headOK + ", 250 2.0.0, 250 2.0.0, 250 2.0.0, 250 2.1.5, 250 2.0.0",
			`<from@a.example> <to@own.example> "Hi\r\n.\r\n.\r\n"` + "\n"},
		{"BDAT between CR and LF", head + "BDAT 3\r\nHi\rBDAT 1 LAST\r\n\n", headOK + ", 250 2.0.0, 250 2.1.5", `<from@a.example> <to@own.example> "Hi\r\n"` + "\n"},
		{"BDAT without end of line", head + "BDAT 3 LAST\r\nHi\r", headOK + ", 250 2.1.5", `<from@a.example> <to@own.example> "Hi\r\n"` + "\n"},
		{"BDAT 0 LAST", head + "BDAT 0 LAST\r\nNOOP\r\n", headOK + ", 250 2.1.5, 250 2.0.0", `<from@a.example> <to@own.example> ""` + "\n"},
		{"BDAT refused takes its chunk", "BDAT 6\r\nQUIT\r\n" + hello + "BDAT 6 LAST\r\nQUIT\r\nNOOP\r\n", "220, 503 5.5.1, 250, 503 5.5.1, 250 2.0.0", ""},
		{"BDAT too large takes its chunk", head + "BDAT 2000000 LAST\r\n" + strings.Repeat("NOOP\r\n", 333333) + "x\nNOOP\r\n", headOK + ", 552 5.3.4, 250 2.0.0", ""},
		{"BDAT malformed", head + "BDAT 6 X\r\nQUIT\r\n", headOK + ", 501 5.5.4", ""},
		{"BDAT negative", head + "BDAT -6\r\nQUIT\r\n", headOK + ", 501 5.5.4", ""},
		{"BDAT huge", head + "BDAT 99999999999999999999\r\nQUIT\r\n", headOK + ", 501 5.5.4", ""},
		{"RSET between chunks", head + "BDAT 3\r\nHi\rRSET\r\n" + mail + rcpt + "DATA\r\nx\r\n.\r\n", headOK + ", 250 2.0.0, 250 2.0.0, 250 2.1.0, 250 2.1.5, 354, 250 2.1.5",
			`<from@a.example> <to@own.example> "x\r\n"` + "\n"},
		{"QUIT between chunks", head + "BDAT 3\r\nHi\rQUIT\r\n", headOK + ", 250 2.0.0, 221 2.0.0", ""},
		{"LHLO between chunks", head + "BDAT 3\r\nHi\r" + hello + "DATA\r\n", headOK + ", 250 2.0.0, 250, 503 5.5.1", ""},
		{"DATA between chunks", head + "BDAT 3\r\nHi\rDATA\r\n", headOK + ", 250 2.0.0, 503 5.5.1", ""},
		{"SMTP's greetings", "HELO x\r\nEHLO x\r\n", "220, 500 5.5.1, 500 5.5.1", ""},
		{"a browser", "POST / HTTP/1.1\r\nHost: localhost\r\n\r\n" + head, "220, 421 4.7.0", ""},
		{"unknown verbs", hello + "XYZZ\r\nX\r\nXY Z\r\n\r\n" + hello, "220, 250, 500 5.5.2, 501 5.5.2, 500 5.5.2, 500 5.5.2, 421 4.7.0", ""},
		{"bad addresses", hello + "MAIL FROM:a@b.example\r\nMAIL FROM:<a>\r\nMAIL FROM:<a@b.example>x\r\nMAIL a@b.example\r\nMAIL\r\nRCPT TO:<>\r\n" + mail + "RCPT TO:<>\r\nRCPT TO:<a@>\r\n",
			"220, 250, 501 5.1.7, 501 5.1.7, 501 5.1.7, 501 5.5.4, 501 5.5.4, 501 5.1.3, 250 2.1.0, 501 5.1.3, 501 5.1.3", ""},
		{"malformed requests", hello + "MAIL FROM:<a@b.example> RET=ALL\r\nMAIL FROM:<a@b.example> ENVID=" + strings.Repeat("x", 101) + "\r\n" + mail +
			"RCPT TO:<to@own.example> NOTIFY=NEVER,DELAY\r\nRCPT TO:<to@own.example> ORCPT=to@own.example\r\n" +
			"RCPT TO:<to@own.example> ORCPT=rfc822;" + strings.Repeat("x", 500) + "\r\n",
			"220, 250, 501 5.5.4, 501 5.5.4, 250 2.1.0, 501 5.5.4, 501 5.5.4, 501 5.5.4", ""},
		{"BINARYMIME is not offered", hello + "MAIL FROM:<a@b.example> BODY=BINARYMIME\r\nMAIL FROM:<a@b.example> BODY=8BITMIME SIZE=100\r\n", "220, 250, 504 5.5.4, 250 2.1.0", ""},
		{"bare LF in a body", head + "DATA\r\nHi\nthere\r\n.\r\nNOOP\r\n", headOK + ", 354, 550 5.6.0", ""},
		{"bare LF in a chunk", head + "BDAT 4\r\nHi\nxBDAT 2 LAST\r\n\r\nNOOP\r\n", headOK + ", 250 2.0.0, 550 5.6.0, 250 2.0.0", ""},
		{"bare LF in a command", hello + "MAIL FROM:<a@b.example>\n" + hello, "220, 250, 500 5.5.2", ""},
		{"a long line", hello + "NOOP " + strings.Repeat("x", 5000) + "\r\n" + hello, "220, 250, 500 5.5.6", ""},
		{"a line without end", hello + strings.Repeat("x", 100_000), "220, 250, 500 5.5.6", ""},
		{"too large", head + "DATA\r\n" + strings.Repeat("x", 1<<20) + "\r\n.\r\nNOOP\r\n", headOK + ", 354, 552 5.3.4, 250 2.0.0", ""},
		{"far too large", head + "DATA\r\n" + strings.Repeat("x", 10<<20) + "\r\n.\r\nNOOP\r\n", headOK + ", 354, 552 5.3.4", ""},
		{"a bug in Verify", hello + mail + "RCPT TO:<panic@own.example>\r\nNOOP\r\n", "220, 250, 250 2.1.0, 421 4.0.0", ""},
		{"a bug in Deliver", hello + mail + "RCPT TO:<panic-delivery@own.example>\r\n" + rcpt + "DATA\r\nx\r\n.\r\nNOOP\r\n", "220, 250, 250 2.1.0, 250 2.1.5, 250 2.1.5, 354, 451 4.3.0, 250 2.1.5, 250 2.0.0",
			`<from@a.example> <to@own.example> "x\r\n"` + "\n"},
		{"too many recipients", hello + mail + strings.Repeat(rcpt, 101), "220, 250, 250 2.1.0" + strings.Repeat(", 250 2.1.5", 100) + ", 452 4.5.3", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHost()
			out := h.run(c.in)
			check(t, "replies", codes(out), c.replies)
			check(t, "delivered", h.got(), c.delivered)
			if strings.Contains(h.log.String(), "event=panic") != strings.HasPrefix(c.name, "a bug in Deliver") {
				t.Errorf("log: %s", h.log.String())
			}
		})
	}
}

// A message that was sent behind a refused DATA, without waiting, must not run as commands.
func TestRefusedDATA(t *testing.T) {
	evil := mail + rcpt + "DATA\r\nsmuggled\r\n.\r\n"
	for _, c := range []struct{ name, in, replies string }{
		{"no recipient", hello + mail + "RCPT TO:<unknown@own.example>\r\nDATA\r\n" + evil, "220, 250, 250 2.1.0, 550 5.1.1, 503 5.5.1"},
		{"no transaction", hello + "DATA\r\n" + evil, "220, 250, 503 5.5.1"},
		{"argument", head + "DATA now\r\n" + evil, headOK + ", 501 5.5.4"},
		{"between chunks", head + "BDAT 3\r\nabcDATA\r\n" + evil, headOK + ", 250 2.0.0, 503 5.5.1"},
	} {
		h := newHost()
		check(t, c.name+": replies", codes(h.run(c.in)), c.replies)
		check(t, c.name+": delivered", h.got(), "")
		if !strings.Contains(h.log.String(), "without waiting for 354") {
			t.Errorf("%s: log: %s", c.name, h.log.String())
		}
	}
}

// A client that sends no message is sent away in the end; one that does may go on for ever.
func TestFloods(t *testing.T) {
	for _, c := range []struct {
		name, first, again string
		n                  int // times that again is answered before the end
		answers            int // to one again
	}{
		{"NOOP", hello, "NOOP\r\n", maxIdle - 1, 1},
		{"RSET", hello, "RSET\r\n", maxIdle - 1, 1},
		{"LHLO", hello, hello, maxIdle - 1, 1},
		{"transactions", hello, mail + rcpt + "RSET\r\n", maxIdle / 2, 3},
		{"refused MAIL", hello, "MAIL FROM:<nonsense>\r\n", maxErrors, 1},
		{"refused DATA", hello, "DATA\r\n", maxErrors, 1},
		{"refused BDAT", hello, "BDAT 1\r\nx", maxErrors, 1},
		{"unknown recipients", hello + mail, "RCPT TO:<unknown@own.example>\r\n", 100, 1},
		{"recipients over the limit", hello + mail, rcpt, 200, 1},
		{"empty chunks", head, "BDAT 0\r\n", maxIdle - 2, 1},
	} {
		h := newHost()
		pieces := []any{c.first}
		for range 1000 {
			pieces = append(pieces, c.again)
		}
		all := strings.Split(codes(h.run(pieces...)), ", ")
		if last := all[len(all)-1]; last != "421 4.7.0" {
			t.Errorf("%s: the last reply is %s", c.name, last)
		}
		greeting := strings.Count(c.first, "\n") + 1
		if got := len(all) - 1 - greeting; got > c.n*c.answers || got < (c.n-1)*c.answers {
			t.Errorf("%s: %d replies before the end, want %d", c.name, got, c.n*c.answers)
		}
	}
	for _, message := range []string{mail + "NOOP\r\n" + "RCPT TO:<unknown@own.example>\r\n" + rcpt + "DATA\r\nx\r\n.\r\n", mail + rcpt + "BDAT 2 LAST\r\nx\n" + mail + rcpt + "BDAT 3 LAST\r\nx\r\n"} {
		h := newHost()
		out := h.run(hello + strings.Repeat(message, 300) + "QUIT\r\n")
		if got := codes(out); !strings.HasSuffix(got, ", 221 2.0.0") {
			t.Errorf("%q: the session ends with %s", message, got[max(0, len(got)-100):])
		}
	}
}

// Wherever packets begin and end, the replies are the same.
func TestSplits(t *testing.T) {
	in := head + "DATA\r\n.\r.\r\n..\r\nx\r\r\n.\r\n" + mail + rcpt + "BDAT 5\r\n\r\n.\r\nBDAT 0\r\nBDAT 2 LAST\r\n\r\nNOOP\r\nRSET\r\nQUIT\r\n"
	whole := newHost()
	replies := whole.run(in)
	want := codes(replies)
	if !strings.HasSuffix(want, "221 2.0.0") {
		t.Fatalf("whole: got %s", want)
	}
	for i := range in {
		h := newHost()
		check(t, fmt.Sprintf("split at %d: replies", i), codes(h.run(in[:i], in[i:])), want)
		check(t, fmt.Sprintf("split at %d: delivered", i), h.got(), whole.got())
	}
	var pieces []any
	for i := range in {
		pieces = append(pieces, in[i:i+1])
	}
	h := newHost()
	check(t, "byte by byte: replies", codes(h.run(pieces...)), want)
	check(t, "byte by byte: delivered", h.got(), whole.got())
}

// Only CRLF.CRLF ends a message: of all line ends around a dot, none makes a second message, and none makes two of one.
func TestSmuggling(t *testing.T) {
	ends := []string{"\r\n", "\n", "\r", "\r\r\n", "\n\r", "\x00\r\n", "\r\n\x00", "\r\x00\n", ""}
	for _, before := range ends {
		for _, after := range ends {
			in := head + "DATA\r\nfirst" + before + "." + after + mail + rcpt + "DATA\r\nsmuggled\r\n.\r\nQUIT\r\n"
			if strings.Contains(before+"."+after, "\r\n.\r\n") {
				continue // it is the end
			}
			for _, split := range []int{len(in), strings.Index(in, "first") + 5, strings.Index(in, "first") + 5 + len(before), strings.Index(in, "first") + 6 + len(before)} {
				h := newHost()
				out := h.run(in[:split], in[split:])
				if n := strings.Count(out, "354 "); n != 1 {
					t.Errorf("%q.%q split at %d: %d times 354:\n%s", before, after, split, n, out)
				}
				if got := h.got(); strings.Count(got, "\n") > 1 || got != "" && !strings.Contains(got, "smuggled") {
					t.Errorf("%q.%q split at %d: delivered %s", before, after, split, got)
				}
			}
		}
	}
}

// What a client that went away had begun is not delivered.
func TestDropped(t *testing.T) {
	for _, in := range []string{
		head + "DATA\r\nHi\r\n", head + "DATA\r\nHi\r\n.", head + "DATA\r\nHi\r\n.\r", head + "DATA\r\n", head + "DATA\r\n" + strings.Repeat("x", 2<<20),
		head + "BDAT 100 LAST\r\nHi\r\n", head + "BDAT 100\r\nHi\r\n", head + "BDAT 4\r\nHi\r\n", head + "BDAT 100 LAST\r\n", head + "BDAT 100", head,
		head + "BDAT 4\r\nHi\r\nBDAT 4 LAST\r\nHi\r", head + "BDAT 0\r\n",
	} {
		for _, end := range []any{io.EOF, errors.New("connection reset"), timeout} {
			h := newHost()
			out := h.run(in, end)
			if got := h.got(); got != "" {
				t.Errorf("%.80q, then %v: delivered %s", in, end, got)
			}
			if strings.Contains(out, "250 2.1.5 <") || strings.Contains(out, "554") {
				t.Errorf("%.80q, then %v: replies\n%s", in, end, out)
			}
			if !strings.Contains(h.log.String(), "event=disconnect") {
				t.Errorf("%.80q, then %v: log\n%s", in, end, h.log.String())
			}
		}
	}
}

// Each recipient has its own answer, in the order of RCPT; one who is named twice gets one copy.
func TestAnswersInOrder(t *testing.T) {
	for _, body := range []string{"DATA\r\nx\r\n.\r\n", "BDAT 3 LAST\r\nx\r\n"} {
		h := newHost()
		in := hello + mail
		for _, local := range []string{"a", "full", "b", "a", "busy", "unknown", "full", "c", "A"} {
			in += "RCPT TO:<" + local + "@own.example>\r\n"
		}
		out := h.run(in + "RCPT TO:<a@OWN.example>\r\n" + body + "NOOP\r\n")
		var answers []string
		for line := range strings.Lines(out) {
			if f := strings.Fields(line); len(f) > 2 && f[2][0] == '<' {
				answers = append(answers, f[0]+f[2])
			}
		}
		want := "250<a@own.example> 552<full@own.example> 250<b@own.example> 250<a@own.example> 451<busy@own.example> " +
			"552<full@own.example> 250<c@own.example> 250<A@own.example> 250<a@OWN.example>"
		check(t, "answers", strings.Join(answers, " "), want)
		if n := strings.Count(h.got(), "\n"); n != 4 {
			t.Errorf("delivered %d copies, want one each to a, b, c, A:\n%s", n, h.got())
		}
		numbers := map[int]bool{}
		for _, d := range h.delivered {
			numbers[d.Number] = true
		}
		if len(numbers) != 4 {
			t.Errorf("recipients have numbers %v, want four different", numbers)
		}
	}
}

// Up to four recipients are delivered to at once, not more.
func TestParallel(t *testing.T) {
	h := newHost()
	var mu sync.Mutex
	running, most := 0, 0
	all := make(chan struct{})
	h.Deliver = func(context.Context, Message) (string, error) {
		mu.Lock()
		running++
		most = max(most, running)
		if running == parallel {
			close(all)
		}
		mu.Unlock()
		<-all // until four are here together
		mu.Lock()
		running--
		mu.Unlock()
		return "delivered", nil
	}
	in := hello + mail
	for i := range parallel {
		in += fmt.Sprintf("RCPT TO:<%d@own.example>\r\n", i)
	}
	h.run(in + "DATA\r\nx\r\n.\r\n")
	if most != parallel {
		t.Errorf("got %d deliveries at once, want %d", most, parallel)
	}
}

func TestMessage(t *testing.T) {
	h := newHost()
	h.Deliver = func(ctx context.Context, m Message) (string, error) {
		f, err := m.Body.Open()
		if err != nil {
			return "", err
		}
		defer f.Close()
		text, err := io.ReadAll(f)
		if err != nil {
			return "", err
		}
		if int64(len(text)) != m.Body.Size() {
			t.Errorf("Open gives %d octets, Size %d", len(text), m.Body.Size())
		}
		if !strings.HasPrefix(string(text), "Received: from client.example (unix)\r\n\tby mail.own.example with LMTP\r\n\tid "+m.ID+"\r\n\tfor <to@own.example>; ") {
			t.Errorf("trace: %.300s", text)
		}
		if m.Helo != "client.example" || m.Client != "unix" || m.Arrival.IsZero() {
			t.Errorf("message: %+v", m)
		}
		return h.deliver(ctx, m)
	}
	for _, n := range []int{10, memoryLimit - 300, memoryLimit, memoryLimit + 1, 1 << 20} {
		body := strings.Repeat("y", n-2) + "\r\n"
		h.delivered = nil
		out := h.run(head + "DATA\r\n" + body + ".\r\n")
		if len(h.delivered) != 1 || h.delivered[0].body != body {
			t.Fatalf("%d octets: delivered %d, replies %s", n, len(h.delivered), codes(out))
		}
		if id := h.delivered[0].ID; !strings.Contains(out, "<to@own.example> Ok: delivered "+id+"\r\n") {
			t.Errorf("reply without id %s: %s", id, out)
		}
	}
	left, err := filepath.Glob(filepath.Join(os.TempDir(), "postel-lmtp-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("files left: %v, %v", left, err)
	}
}

// A full disk refuses the message for now, and only that one.
func TestNoTemporaryFile(t *testing.T) {
	t.Setenv("TMPDIR", "/nonexistent")
	h := newHost()
	out := h.run(head + "DATA\r\n" + strings.Repeat("x", memoryLimit+1) + "\r\n.\r\n" + mail + rcpt + "DATA\r\nsmall\r\n.\r\n")
	check(t, "replies", codes(out), headOK+", 354, 451 4.3.0, 250 2.1.0, 250 2.1.5, 354, 250 2.1.5")
}

// pattern is a body of n octets in lines of 64.
type pattern struct{ n int64 }

func (p *pattern) Read(b []byte) (int, error) {
	const line = "0123456789012345678901234567890123456789012345678901234567890.\r\n"
	if p.n <= 0 {
		return 0, io.EOF
	}
	n := 0
	for n+len(line) <= len(b) && p.n > 0 {
		n += copy(b[n:], line)
		p.n -= int64(len(line))
	}
	return n, nil
}

// A message of 50 MiB goes through in little memory.
func TestLargeMessage(t *testing.T) {
	const size = 50 << 20
	for _, c := range []struct{ begin, end string }{{"DATA\r\n", ".\r\n"}, {fmt.Sprintf("BDAT %d LAST\r\n", size), ""}} {
		h := newHost()
		h.MaxSize = size
		var got int64
		h.Deliver = func(_ context.Context, m Message) (string, error) {
			var err error
			got, err = io.Copy(io.Discard, io.NewSectionReader(m.Body, 0, m.Body.Size()))
			return "delivered", err
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		out := h.run(head+c.begin, &pattern{size}, c.end)
		runtime.ReadMemStats(&after)
		if got < size || !strings.Contains(out, "250 2.1.5 <to@own.example>") {
			t.Errorf("%s: delivered %d octets, replies %s", c.begin[:4], got, codes(out))
		}
		if used := after.TotalAlloc - before.TotalAlloc; used > 2<<20 {
			t.Errorf("%s: allocated %d octets, want less than 2 MiB", c.begin[:4], used)
		}
	}
}

// listen serves sessions on a UNIX socket until the test ends.
func (h *host) listen(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "lmtp")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	var sessions sync.WaitGroup
	sessions.Go(func() {
		for {
			raw, err := l.Accept()
			if err != nil {
				return
			}
			sessions.Go(func() {
				c := activation.NewConn(raw)
				defer c.Close()
				h.ServeConn(c)
			})
		}
	})
	t.Cleanup(func() { l.Close(); sessions.Wait() })
	return path
}

// Another implementation's client is content.
func TestClient(t *testing.T) {
	h := newHost()
	raw, err := net.Dial("unix", h.listen(t))
	if err != nil {
		t.Fatal(err)
	}
	c := smtp.NewClientLMTP(raw)
	defer c.Close()
	for range 3 {
		if err := c.Mail("from@a.example", &smtp.MailOptions{Size: 100, Body: smtp.Body8BitMIME}); err != nil {
			t.Fatal(err)
		}
		if err := c.Rcpt("good@own.example", nil); err != nil {
			t.Fatal(err)
		}
		if err := c.Rcpt("full@own.example", nil); err != nil {
			t.Fatal(err)
		}
		var refused *smtp.SMTPError
		if err := c.Rcpt("unknown@own.example", nil); !errors.As(err, &refused) || refused.Code != 550 || refused.EnhancedCode != (smtp.EnhancedCode{5, 1, 1}) {
			t.Errorf("unknown user: got %v, want 550 5.1.1", err)
		}
		w, err := c.Data()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(w, bytes.NewReader([]byte("Subject: hi\r\n\r\n.hello\r\n"))); err != nil {
			t.Fatal(err)
		}
		_, err = w.CloseWithLMTPResponse()
		var failed smtp.LMTPDataError
		if !errors.As(err, &failed) || len(failed) != 1 || failed["full@own.example"].Code != 552 {
			t.Errorf("answers: got %v, want 552 for full alone", err)
		}
	}
	if err := c.Quit(); err != nil {
		t.Error(err)
	}
	if n := strings.Count(h.got(), `<good@own.example> "Subject: hi\r\n\r\n.hello\r\n"`); n != 3 {
		t.Errorf("delivered: %s", h.got())
	}
}

func FuzzSession(f *testing.F) {
	f.Add(head+"DATA\r\n.\r.\r\n..\r\nx\r\r\n.\r\nQUIT\r\n", uint8(7))
	f.Add(head+"BDAT 5\r\n\r\n.\r\nBDAT 0\r\nBDAT 2 LAST\r\n\r\nRSET\r\n"+mail+rcpt+"BDAT 10 LAST\r\nab", uint8(1))
	f.Add(hello+mail+mail+"RCPT TO:<\"a@b\"@c>\r\nRCPT TO:<postmaster>\r\nBDAT 3\r\nabcRSET\r\nDATA\r\n", uint8(200))
	f.Add("LHLO \x00\r\nSTARTTLSx\r\nNOOP \r\nVRFY x\r\nEXPN x\r\nBDAT 0\r\nBDAT x\r\n", uint8(3))
	f.Fuzz(func(t *testing.T, in string, step uint8) {
		var pieces []any
		for n := int(step) + 1; len(in) > n; in = in[n:] {
			pieces = append(pieces, in[:n])
		}
		h := newHost()
		out := h.run(append(pieces, in)...)
		for line := range strings.SplitAfterSeq(out, "\r\n") {
			if line != "" && (len(line) < 5 || line[0] < '2' || line[0] > '5' || strings.ContainsAny(line[:len(line)-2], "\r\n\x00\x1b")) {
				t.Errorf("reply %q", line)
			}
		}
		if strings.Contains(h.log.String(), "event=panic") || strings.Contains(h.log.String(), "go-smtp:") {
			t.Errorf("log: %s", h.log.String())
		}
		for _, d := range h.delivered {
			if strings.Contains(strings.ReplaceAll(d.body, "\r\n", ""), "\n") || d.body != "" && !strings.HasSuffix(d.body, "\r\n") {
				t.Errorf("delivered %q", d.body)
			}
		}
	})
}

// TestRequests: what the sender wants to hear comes through, of each message and recipient its own, and the answer says what became of it.
func TestRequests(t *testing.T) {
	h := newHost()
	got := map[string]envelope.DSN{}
	var mu sync.Mutex
	h.Deliver = func(_ context.Context, m Message) (string, error) {
		mu.Lock()
		defer mu.Unlock()
		got[m.To.Local] = m.DSN
		return "word-" + m.To.Local, nil
	}
	out := h.run(hello+"MAIL FROM:<a@b.example> RET=hdrs ENVID=x+2By\r\nRCPT TO:<a@own.example> NOTIFY=success,DELAY ORCPT=rfc822;o+3D@b.example\r\n"+
		"RCPT TO:<b@own.example>\r\nRCPT TO:<c@own.example> NOTIFY=NEVER ORCPT=utf-8;\\x{F8}@b.example\r\nDATA\r\nx\r\n.\r\n",
		mail+"RCPT TO:<d@own.example>\r\nDATA\r\nx\r\n.\r\n")
	for name, want := range map[string]envelope.DSN{
		"a": {Notify: "SUCCESS,DELAY", ORcpt: "rfc822;o=@b.example", Ret: "HDRS", EnvID: "x+y"},
		"b": {Ret: "HDRS", EnvID: "x+y"},
		"c": {Notify: "NEVER", ORcpt: "utf-8;ø@b.example", Ret: "HDRS", EnvID: "x+y"},
		"d": {},
	} {
		if got[name] != want {
			t.Errorf("%s: got %+v, want %+v", name, got[name], want)
		}
		if !strings.Contains(out, "250 2.1.5 <"+name+"@own.example> Ok: word-"+name+" ") {
			t.Errorf("%s: no answer in\n%s", name, out)
		}
	}
	if !strings.Contains(out, "250-XDSN\r\n") || strings.Contains(out, "-DSN") {
		t.Errorf("it offers\n%s", out)
	}
}
