package pop3server

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

// three is a mailbox of three messages: 15, 5 and 0 octets.
var three = []string{"A: b\n\n.x\ny\n", "abc", ""}

// Each command in each state: how its reply begins. The user of the third column has marked message 2.
func TestEachCommandInEachState(t *testing.T) {
	for _, c := range []struct{ command, before, after string }{
		{"CAPA", "+OK", "+OK"},
		{"CAPA x", "-ERR CAPA takes no argument", "-ERR CAPA takes no argument"},
		{"STLS", "+OK begin TLS", "-ERR you are logged in already"},
		{"STLS x", "-ERR STLS takes no", "-ERR STLS takes no"},
		{"USER bob", "+OK send", "-ERR you are logged in already"},
		{"USER", "-ERR USER takes a name", "-ERR you"},
		{"PASS x", "-ERR USER comes first", "-ERR you"},
		{"STAT", "-ERR log in first", "+OK 2 15\r\n"},
		{"STAT 1", "-ERR STAT takes", "-ERR STAT takes"},
		{"LIST", "-ERR log in first", "+OK 2 messages (15 octets)\r\n"},
		{"LIST 1", "-ERR log", "+OK 1 15\r\n"},
		{"LIST 01", "-ERR log", "+OK 1 15\r\n"},
		{"LIST 2", "-ERR log", "-ERR that message is deleted"},
		{"LIST 0", "-ERR log", "-ERR a message number"},
		{"LIST 4", "-ERR log", "-ERR no such message"},
		{"LIST -1", "-ERR log", "-ERR a message number"},
		{"LIST +1", "-ERR log", "-ERR a message number"},
		{"LIST 1 1", "-ERR log", "-ERR a message number"},
		{"LIST 99999999999999999999", "-ERR log", "-ERR a message number"},
		{"UIDL", "-ERR log", "+OK 2 messages"},
		{"UIDL 3", "-ERR log", "+OK 3 uid-c\r\n"},
		{"UIDL 2", "-ERR log", "-ERR that message is deleted"},
		{"RETR 1", "-ERR log", "+OK 15 octets\r\n"},
		{"retr 3", "-ERR log", "+OK 0 octets\r\n"},
		{"RETR", "-ERR log", "-ERR a message number"},
		{"RETR 2", "-ERR log", "-ERR that message is deleted"},
		{"TOP 1 0", "-ERR log", "+OK"},
		{"TOP  1   1", "-ERR log", "+OK"},
		{"TOP 1", "-ERR log", "-ERR TOP takes"},
		{"TOP", "-ERR log", "-ERR TOP takes"},
		{"TOP 1 x", "-ERR log", "-ERR TOP takes"},
		{"TOP 1 1 1", "-ERR log", "-ERR TOP takes"},
		{"TOP 2 1", "-ERR log", "-ERR that message is deleted"},
		{"DELE 1", "-ERR log", "+OK"},
		{"DELE 2", "-ERR log", "-ERR that message is deleted"},
		{"DELE", "-ERR log", "-ERR a message number"},
		{"RSET", "-ERR log", "+OK 3 messages (20 octets)\r\n"},
		{"NOOP", "-ERR log", "+OK"},
		{"NoOp", "-ERR log", "+OK"},
		{"QUIT", "+OK bye", "+OK bye"},
		{"QUIT x", "-ERR QUIT takes", "-ERR QUIT takes"},
		{"LAST", "-ERR unknown", "-ERR unknown"},
		{"APOP bob 0", "-ERR unknown", "-ERR unknown"},
		{"AUTH", "-ERR unknown", "-ERR unknown"},
		{"RETR1", "-ERR unknown", "-ERR unknown"},
		{"", "-ERR unknown", "-ERR unknown"},
		{" STAT", "-ERR unknown", "-ERR unknown"},
		{"GET / HTTP/1.1", "-ERR this is POP3", "-ERR this is POP3"},
		{"NOOP\x00", "-ERR a control", "-ERR a control"},
		{"NO\rOP", "-ERR a control", "-ERR a control"},
		{"USER " + strings.Repeat("x", 248), "+OK", "-ERR you"},
		{"USER " + strings.Repeat("x", 249), "-ERR command is longer", "-ERR command is longer"},
		{strings.Repeat("x", 60000), "-ERR command is longer", "-ERR command is longer"},
	} {
		h := newHost(t, three...)
		h.pipe().do(c.command, c.before)
		a := h.login()
		a.do("DELE 2", "+OK")
		a.do(c.command, c.after)
	}
}

func TestText(t *testing.T) {
	h := newHost(t,
		"A: b\n\n.x\n..\n.\ny\n",
		"A: b\r\n\r\n.\r\nx\r\n\r\n",
		"no end of line.",
		"",
		"\n",
		"a\rb\n\x00\xff\n"+strings.Repeat(".", 70_000)+"\n",
		"only: header\n",
		strings.Repeat("\n", textBlock-1)+".\n",
		strings.Repeat("x", textBlock-1)+"\r\n.\n",
	)
	c := h.login()
	for i, m := range h.box.messages {
		c.do(fmt.Sprintf("RETR %d", i+1), "+OK")
		got := c.lines()
		var want strings.Builder // the slow way
		for line := range strings.Lines(m) {
			if line[0] == '.' {
				want.WriteByte('.')
			}
			want.WriteString(strings.TrimSuffix(strings.TrimSuffix(line, "\n"), "\r") + "\r\n")
		}
		if got != want.String()+".\r\n" {
			t.Errorf("RETR of %.60q: got %.60q, want %.60q", m, got, want.String())
		}
		size := int64(len(got) - len(".\r\n") - strings.Count("\n"+got, "\n..")) // "." at the end is no "..", but a stuffed one
		if told := h.box.Messages()[i].Size; told != size {
			t.Errorf("%.60q: size is %d, sent were %d octets", m, told, size)
		}
	}
	for _, x := range []struct {
		command, want string
	}{
		{"TOP 1 0", "A: b\r\n\r\n.\r\n"},
		{"TOP 1 1", "A: b\r\n\r\n..x\r\n.\r\n"},
		{"TOP 1 99", "A: b\r\n\r\n..x\r\n...\r\n..\r\ny\r\n.\r\n"},
		{"TOP 2 0", "A: b\r\n\r\n.\r\n"},
		{"TOP 2 2", "A: b\r\n\r\n..\r\nx\r\n.\r\n"},
		{"TOP 3 0", "no end of line.\r\n.\r\n"},
		{"TOP 4 5", ".\r\n"},
		{"TOP 5 0", "\r\n.\r\n"},
		{"TOP 7 0", "only: header\r\n.\r\n"},
		{"TOP 8 1", "\r\n\r\n.\r\n"},
		{"LIST", "1 22\r\n2 16\r\n3 17\r\n4 0\r\n5 2\r\n6 70011\r\n7 14\r\n8 32769\r\n9 16388\r\n.\r\n"},
		{"UIDL", "1 uid-a\r\n2 uid-b\r\n3 uid-c\r\n4 uid-d\r\n5 uid-e\r\n6 uid-f\r\n7 uid-g\r\n8 uid-h\r\n9 uid-i\r\n.\r\n"},
	} {
		c.do(x.command, "+OK")
		if got := c.lines(); got != x.want {
			t.Errorf("%s: got %q, want %q", x.command, got, x.want)
		}
	}
	c.do("QUIT", "+OK")
	c.closed()
	if h.box.removed != nil || h.box.closed != 1 || !strings.Contains(h.log.String(), "event=fetched user=bob client=pipe n=9 octets=119239 removed=0") {
		t.Errorf("removed %v, closed %d times\n%s", h.box.removed, h.box.closed, h.log)
	}
}

func TestCAPA(t *testing.T) {
	const base = "TOP\r\nUIDL\r\nPIPELINING\r\nRESP-CODES\r\nAUTH-RESP-CODE\r\nEXPIRE NEVER\r\n"
	capa := func(c *client) string {
		c.do("CAPA", "+OK")
		return c.lines()
	}
	h := newHost(t)
	c := h.tcp()
	if got := capa(c); got != base+"STLS\r\n.\r\n" {
		t.Errorf("in the clear: %q", got)
	}
	c.do("STLS", "+OK")
	c.handshake()
	if got := capa(c); got != base+"USER\r\n.\r\n" {
		t.Errorf("behind STLS: %q", got)
	}
	c.do("USER bob", "+OK")
	c.do("PASS se cret ", "+OK")
	if got := capa(c); got != base+".\r\n" {
		t.Errorf("logged in: %q", got)
	}
	h.TLS = nil
	if got := capa(h.tcp()); got != base+".\r\n" {
		t.Errorf("without TLS: %q", got)
	}
	h.PlaintextLogin = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	if got := capa(h.tcp()); got != base+"USER\r\n.\r\n" {
		t.Errorf("in a trusted network: %q", got)
	}
	if got := capa(h.pipe()); got != base+"USER\r\n.\r\n" {
		t.Errorf("on a pipe: %q", got)
	}
}

func TestLogin(t *testing.T) {
	h := newHost(t, three...)
	c := h.tcp()
	c.do("USER bob", "-ERR begin TLS with STLS first")
	c.do("PASS se cret ", "-ERR begin TLS with STLS first")
	h.TLS = nil
	h.tcp().do("USER bob", "-ERR no login without TLS")

	c = h.pipe()
	c.do("USER bob", "+OK")
	c.do("PASS se cret", "-ERR [AUTH] Authentication failed\r\n")
	c.do("PASS se cret ", "-ERR USER comes first")
	c.do("USER foreign", "+OK")
	c.do("PASS x", "-ERR [SYS/PERM] Mailbox belongs to another user of this host\r\n")
	c.do("USER broken", "+OK")
	c.do("PASS x", "-ERR [SYS/TEMP] Local error in processing, try again later\r\n")
	c.do("USER bob", "+OK")
	c.do("PASS se cret ", "+OK 3 messages (20 octets)\r\n")
	c.conn.Close()
	<-c.done
	if h.box.closed != 1 {
		t.Errorf("the mailbox was given back %d times", h.box.closed)
	}
	log := h.log.String()
	for _, want := range []string{
		"event=login user=bob client=pipe proto=pop3\n", "event=login-failed user=bob client=pipe proto=pop3 text=\"hash differs\"\n",
		"event=login-failed user=broken client=pipe proto=pop3 text=\"users: input/output error at /secret\"\n",
		"event=fetched user=bob client=pipe n=0 octets=0 removed=0\n", "event=disconnect client=pipe text=\"connection lost\"\n",
	} {
		if !strings.Contains(log, want) {
			t.Errorf("the log lacks %q:\n%s", want, log)
		}
	}
	if strings.Contains(log, "se cret") {
		t.Errorf("the log has the password:\n%s", log)
	}

	c = h.pipe()
	for range 4 {
		c.do("USER bob", "+OK")
		c.do("PASS x", "-ERR [AUTH]")
	}
	c.send("USER bob\r\nPASS x\r\nUSER bob\r\nPASS se cret \r\n")
	c.expect("+OK")
	c.expect("-ERR [AUTH]")
	c.closed()
}

func TestMailboxNotHad(t *testing.T) {
	h := newHost(t)
	h.box.inUse = true
	c := h.pipe()
	c.do("USER bob", "+OK")
	c.do("PASS se cret ", "-ERR [IN-USE] mailbox is in use by another session\r\n")
	c.closed()

	h.box.inUse, h.box.openErr = false, errors.New("maildir: permission denied at /secret")
	c = h.pipe()
	c.do("USER bob", "+OK")
	c.do("PASS se cret ", "-ERR [SYS/TEMP] the mailbox cannot be opened now\r\n")
	c.closed()
	if !strings.Contains(h.log.String(), `event=problem text="maildir: permission denied at /secret"`) {
		t.Errorf("log:\n%s", h.log)
	}
}

func TestDelete(t *testing.T) {
	h := newHost(t, three...)
	c := h.login()
	c.do("DELE 1", "+OK")
	c.do("DELE 3", "+OK")
	c.do("LIST", "+OK 1 messages (5 octets)")
	if got := c.lines(); got != "2 5\r\n.\r\n" {
		t.Errorf("LIST: %q", got)
	}
	c.do("RSET", "+OK 3")
	c.do("DELE 3", "+OK")
	c.do("DELE 2", "+OK")
	c.do("QUIT", "+OK bye")
	c.closed()
	if !slices.Equal(h.box.removed, []int{1, 2}) || h.box.closed != 1 {
		t.Errorf("removed %v, closed %d times", h.box.removed, h.box.closed)
	}
	if !strings.Contains(h.log.String(), "removed=2\n") {
		t.Errorf("log:\n%s", h.log)
	}

	for _, x := range []struct {
		err  error
		want string
	}{{errors.New("1 of 1 not removed"), "-ERR [SYS/TEMP] some deleted messages not removed\r\n"}, {fs.ErrPermission, "-ERR [SYS/PERM] some deleted messages not removed\r\n"}} {
		h = newHost(t, three...)
		h.box.failRm = x.err
		c = h.login()
		c.do("DELE 1", "+OK")
		c.do("QUIT", x.want)
		c.closed()
	}

	// A connection that is lost removes nothing, be it cut in the middle of a word.
	for _, last := range []string{"", "QUI", "QUIT", "RSET\r\nDELE 1\r\nRETR 1\r\n"} {
		h = newHost(t, three...)
		c = h.login()
		c.do("DELE 1", "+OK")
		c.send(last)
		c.conn.Close()
		<-c.done
		if h.box.removed != nil || h.box.closed != 1 {
			t.Errorf("after %q: removed %v, closed %d times", last, h.box.removed, h.box.closed)
		}
	}
}

// QUIT comes with the commands before it, but their replies do not get through.
func TestDeleteNeedsDeliveredReplies(t *testing.T) {
	h := newHost(t, strings.Repeat("x\n", 1<<20))
	c := h.tcp()
	c.do("STLS", "+OK")
	c.handshake()
	c.send("USER bob\r\nPASS se cret \r\nRETR 1\r\nDELE 1\r\nQUIT\r\n")
	c.expect("+OK")
	raw := c.conn.(*tls.Conn).NetConn()
	raw.Close() // with much unread: a reset
	<-c.done
	if h.box.removed != nil || h.box.closed != 1 {
		t.Errorf("removed %v, closed %d times", h.box.removed, h.box.closed)
	}
}

func TestBodyFails(t *testing.T) {
	h := newHost(t, three...)
	h.box.bodyErr = map[int]error{0: errGone, 1: errors.New("mbox: changed at /secret")}
	h.box.cut = map[int]bool{2: true}
	h.box.messages[2] = "half\n"
	c := h.login()
	c.do("RETR 1", "-ERR another program has removed that message\r\n")
	c.do("TOP 2 0", "-ERR [SYS/TEMP] that message cannot be read now\r\n")
	c.do("RETR 3", "+OK 6 octets")
	if got := c.lines(); strings.HasSuffix(got, ".\r\n") {
		t.Errorf("a message cut short looks whole: %q", got)
	}
	c.conn.Close()
	<-c.done
	if h.box.closed != 1 || !strings.Contains(h.log.String(), `text="input/output error at /secret"`) {
		t.Errorf("log:\n%s", h.log)
	}
}

func TestSTLS(t *testing.T) {
	h := newHost(t, three...)
	for _, behind := range []string{"USER bob\r\n", "x", "\x16\x03\x01"} {
		c := h.tcp()
		c.send("STLS\r\n" + behind)
		c.expect("-ERR nothing may follow STLS")
		c.closed()
	}
	c := h.pipe()
	c.do("USER bob", "+OK")
	c.do("STLS", "+OK")
	c.handshake()
	c.do("PASS se cret ", "-ERR USER comes first") // said in the clear, forgotten
	c.do("STLS", "-ERR TLS is in use already")
	c.do("USER bob", "+OK")
	c.do("PASS se cret ", "+OK")
	c.do("RETR 1", "+OK")
	if got := c.lines(); got != "A: b\r\n\r\n..x\r\ny\r\n.\r\n" {
		t.Errorf("RETR: %q", got)
	}
	c.do("QUIT", "+OK")
	c.closed()

	c = h.tcp()
	c.do("STLS", "+OK")
	c.send("USER bob\r\nPASS se cret \r\n") // no handshake
	if _, err := io.Copy(io.Discard, c.r); err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Logf("end of the connection: %v", err)
	}
	c.conn.Close()
	<-c.done
	if !strings.Contains(h.log.String(), "event=tls-failed") || !strings.Contains(h.log.String(), `text="octets behind STLS"`) {
		t.Errorf("log:\n%s", h.log)
	}

	h.ImplicitTLS = true
	c = h.tcp()
	c.do("USER bob", "+OK")
	c.do("PASS se cret ", "+OK")
	h.TLS, h.ImplicitTLS = nil, false
	h.tcp().do("STLS", "-ERR TLS is not offered here")
}

func TestPipelining(t *testing.T) {
	h := newHost(t, three...)
	c := h.pipe()
	go c.send("user bob\r\nPASS se cret \r\nSTAT\nLIST\r\nRETR 1\r\nFOO\r\nDELE 2\r\nUIDL 3\r\nNOOP\r\nQUIT\r\nSTAT\r\n")
	got, _ := io.ReadAll(c.r)
	want := "+OK send the password\r\n+OK 3 messages (20 octets)\r\n+OK 3 20\r\n+OK 3 messages (20 octets)\r\n1 15\r\n2 5\r\n3 0\r\n.\r\n" +
		"+OK 15 octets\r\nA: b\r\n\r\n..x\r\ny\r\n.\r\n-ERR unknown command\r\n+OK marked\r\n+OK 3 uid-c\r\n+OK done\r\n+OK bye\r\n"
	if string(got) != want {
		t.Errorf("got %q\nwant %q", got, want)
	}
	if !slices.Equal(h.box.removed, []int{1}) {
		t.Errorf("removed %v", h.box.removed)
	}
}

func TestBounds(t *testing.T) {
	h := newHost(t)
	c := h.pipe()
	for range maxEarly {
		c.do("NOOP", "-ERR log in first")
	}
	c.do("NOOP", "-ERR too many commands")
	c.closed()

	c = h.pipe()
	go func() {
		zeros := make([]byte, 64<<10)
		for range 16 { // until the server closes
			if _, err := c.conn.Write(zeros); err != nil {
				return
			}
		}
	}()
	c.expect("-ERR command is longer than 255 octets, no end")
	c.closed()

	h.Idle = 10 * time.Millisecond
	h.box.messages = three
	c = h.pipe()
	c.closed() // without a word
	if !strings.Contains(h.log.String(), `text="idle for too long"`) {
		t.Errorf("log:\n%s", h.log)
	}
}

func TestManyMessages(t *testing.T) {
	messages := make([]string, 5000)
	for i := range messages {
		messages[i] = "x\n"
	}
	h := newHost(t, messages...)
	c := h.login()
	for _, command := range []string{"LIST", "UIDL"} {
		c.do(command, "+OK 5000")
		if got := c.lines(); strings.Count(got, "\n") != 5001 {
			t.Errorf("%s has %d lines", command, strings.Count(got, "\n"))
		}
	}
}

func FuzzSession(f *testing.F) {
	f.Add([]byte("USER bob\r\nPASS se cret \r\nSTAT\r\nLIST\r\nUIDL\r\nRETR 1\r\nTOP 2 1\r\nDELE 3\r\nRSET\r\nNOOP\r\nQUIT\r\n"), []byte("A: b\n\n.\n"))
	f.Add([]byte("CAPA\r\nSTLS\r\nUSER bob\r\n"), []byte(""))
	f.Add([]byte("USER bob\nPASS se cret \nRETR 3\nTOP 3 0\n"), []byte("\r\n.\r\r\n"))
	f.Fuzz(func(t *testing.T, commands, message []byte) {
		h := newHost(t, append(slices.Clone(three[:2]), string(message))...)
		if strings.Count(string(commands), "PASS") > 8 {
			return // delays
		}
		c := h.pipe()
		go func() {
			_, _ = c.conn.Write(commands)
			_, _ = io.WriteString(c.conn, "\r\nQUIT\r\n")
		}()
		_ = c.conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		got, err := io.ReadAll(c.r)
		if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("%q: %v", commands, err)
		}
		c.conn.Close()
		<-c.done
		if len(got) > 0 && !strings.HasSuffix(string(got), "\r\n") && !strings.Contains(string(got), "begin TLS") {
			t.Errorf("%q: the last reply is cut: %q", commands, got)
		}
		if h.box.closed > 1 {
			t.Errorf("%q: the mailbox was given back %d times", commands, h.box.closed)
		}
	})
}

func FuzzText(f *testing.F) {
	f.Add([]byte("A: b\r\n\r\n.\n..\r\n"), 1, 3)
	f.Fuzz(func(t *testing.T, message []byte, lines, cut int) {
		cut = max(0, min(cut, len(message)))
		var whole strings.Builder
		s := stuffing{atStart: true}
		out := s.append(nil, message[:cut])
		whole.Write(s.end(s.append(out, message[cut:])))
		got := whole.String()
		if !strings.HasSuffix("\r\n"+got, "\r\n.\r\n") || strings.Contains(strings.TrimSuffix("\r\n"+got, ".\r\n"), "\r\n.\r\n") {
			t.Fatalf("%q is sent as %q", message, got)
		}
		lines = max(0, min(lines, 1000))
		limit := top{lines: lines}
		n, done := limit.cut(message[:cut], false)
		if !done {
			m, _ := limit.cut(message[cut:], true)
			n += m
		}
		again := top{lines: lines}
		if m, _ := again.cut(message, true); m != n {
			t.Fatalf("top %d of %q depends on where it is cut: %d and %d", lines, message, m, n)
		}
	})
}
