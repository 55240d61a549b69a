package smtpserver

import (
	"bytes"
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"
)

// model reads DATA the slow way: octet by octet, with the rules of RFC 5321 4.5.2 and nothing else.
func model(in string, dots bool) (out string, used int, bad error, done bool) {
	var b strings.Builder
	start := true
	for i := 0; i < len(in); i++ {
		if dots && start && in[i] == '.' {
			if strings.HasPrefix(in[i:], ".\r\n") {
				return b.String(), i + 3, bad, true
			}
			start = false
			continue
		}
		c := in[i]
		crlf := c == '\n' && i > 0 && in[i-1] == '\r'
		if c == '\n' && !crlf || c == '\r' && i+1 < len(in) && in[i+1] != '\n' {
			bad = errBareLine
		}
		if c == 0 && bad == nil {
			bad = errNUL
		}
		start = crlf
		b.WriteByte(c)
	}
	return b.String(), len(in), bad, false
}

// feed gives s the input in the given pieces, as a session does.
func feed(s *scanner, pieces ...string) (out string, used int, done bool) {
	var b bytes.Buffer
	var pending []byte
	for _, p := range pieces {
		pending = append(pending, p...)
		for {
			o, n, end := s.scan(pending)
			b.Write(o)
			pending, used = pending[n:], used+n
			if end {
				return b.String(), used, true
			}
			if n == 0 {
				break
			}
		}
	}
	return b.String(), used, false
}

// TestScannerAll holds the scanner against the model over all inputs of up to six octets that matter, cut in two at every place.
func TestScannerAll(t *testing.T) {
	const alphabet = "\r\n.a\x00"
	var try func(in string)
	try = func(in string) {
		for _, dots := range []bool{true, false} {
			// Behind the input comes what decides everything: an octet that is not part of any end.
			full := in + "x"
			want, wantUsed, wantBad, wantDone := model(full, dots)
			for cut := range len(full) + 1 {
				s := &scanner{dots: dots}
				got, used, done := feed(s, full[:cut], full[cut:])
				if got != want || used != wantUsed || done != wantDone || (s.bad == nil) != (wantBad == nil) {
					t.Fatalf("dots %v, %q + %q:\ngot  %q, used %d, bad %v, done %v\nwant %q, used %d, bad %v, done %v",
						dots, full[:cut], full[cut:], got, used, s.bad, done, want, wantUsed, wantBad, wantDone)
				}
			}
		}
		if len(in) < 6 {
			for i := range len(alphabet) {
				try(in + alphabet[i:i+1])
			}
		}
	}
	try("")
}

func FuzzScanner(f *testing.F) {
	f.Add("a\r\n..b\r\n.\r\nQUIT\r\n", 3, true)
	f.Add("\r\r\n.\r\n", 1, true)
	f.Add("a\n.\r\n.\n\r\n.\r\n", 5, true)
	f.Add("a\x00\r", 2, false)
	f.Fuzz(func(t *testing.T, in string, cut int, dots bool) {
		in += "x"
		want, wantUsed, wantBad, wantDone := model(in, dots)
		cut = max(0, min(cut, len(in)))
		s := &scanner{dots: dots}
		got, used, done := feed(s, in[:cut], in[cut:])
		if got != want || used != wantUsed || done != wantDone || (s.bad == nil) != (wantBad == nil) {
			t.Fatalf("%q + %q: got %q, %d, %v, %v; want %q, %d, %v, %v", in[:cut], in[cut:], got, used, s.bad, done, want, wantUsed, wantBad, wantDone)
		}
	})
}

func TestParseBDAT(t *testing.T) {
	for _, tt := range []struct {
		in   string
		size int64
		last bool
		ok   bool
	}{
		{"0", 0, false, true}, {"10 LAST", 10, true, true}, {"10 last", 10, true, true}, {"9223372036854775807", 9223372036854775807, false, true},
		{"", 0, false, false}, {"-1", 0, false, false}, {"+1", 0, false, false}, {"1 LASTX", 0, false, false}, {"1  LAST", 0, false, false},
		{"1x", 0, false, false}, {"0x10", 0, false, false}, {"9223372036854775808", 0, false, false}, {"LAST", 0, false, false}, {"1 LAST 2", 0, false, false},
	} {
		size, last, ok := parseBDAT(tt.in)
		if ok != tt.ok || ok && (size != tt.size || last != tt.last) {
			t.Errorf("%q: got %d, %v, %v; want %d, %v, %v", tt.in, size, last, ok, tt.size, tt.last, tt.ok)
		}
	}
}

func TestBDAT(t *testing.T) {
	h := newHost(t)
	c := h.dial()
	c.begin()
	c.send("BDAT 13\r\nSubject: x\r\n\rBDAT 6\r\n\n.\r\n.\rNOOP\r\n") // nothing is a dot here, and a line may be cut in two
	c.expect("250 2.0.0 13 octets")
	c.expect("250 2.0.0 6 octets")
	c.expect("250")
	c.do("RCPT TO:<bob@own.example>", "503")
	c.do("MAIL FROM:<x@far.example>", "503")
	c.do("DATA", "503")
	c.send("BDAT 4\r\n\nend")
	c.expect("250")
	c.do("BDAT 0 LAST", "250 2.0.0 Ok: queued as ")
	if _, _, text := h.one(); text != "Subject: x\r\n\r\n.\r\n.\r\nend\r\n" {
		t.Errorf("got %q", text)
	}
}

func TestBDATRefused(t *testing.T) {
	for _, tt := range []struct{ name, send, want string }{
		{"no transaction", "BDAT 6\r\nQUIT\r\nNOOP\r\n", "503,250"},
		{"no recipient", "MAIL FROM:<>\r\nBDAT 6 LAST\r\nQUIT\r\nNOOP\r\n", "250,554,250"},
		{"bare LF", "MAIL FROM:<>\r\nRCPT TO:<bob@own.example>\r\nBDAT 3\r\na\nbNOOP\r\n", "250,250,550,"},
		{"bare CR at the end", "MAIL FROM:<>\r\nRCPT TO:<bob@own.example>\r\nBDAT 2\r\na\rBDAT 0 LAST\r\nNOOP\r\n", "250,250,250,550,"},
		{"bare CR between chunks", "MAIL FROM:<>\r\nRCPT TO:<bob@own.example>\r\nBDAT 2\r\na\rBDAT 1\r\nbNOOP\r\n", "250,250,250,550,"},
		{"malformed", "MAIL FROM:<>\r\nRCPT TO:<bob@own.example>\r\nBDAT x\r\nQUIT\r\n", "250,250,501,"},
		{"reset", "MAIL FROM:<>\r\nRCPT TO:<bob@own.example>\r\nBDAT 3\r\nabcRSET\r\nBDAT 0 LAST\r\nNOOP\r\n", "250,250,250,250,503,250"},
		{"too large", "MAIL FROM:<>\r\nRCPT TO:<bob@own.example>\r\nBDAT 1048577\r\n" + strings.Repeat("a", 1<<20+1) + "BDAT 3 LAST\r\nabcNOOP\r\n", "250,250,552,503,250"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := newHost(t)
			c := h.dial()
			c.do("EHLO client.example", "250")
			go func() { _, _ = io.WriteString(c.conn, tt.send) }()
			for want := range strings.SplitSeq(tt.want, ",") {
				c.expect(want)
			}
			h.none()
		})
	}
}

// TestLost: a message that breaks off is in the queue neither whole nor in part.
func TestLost(t *testing.T) {
	for _, send := range []string{"DATA\r\nabc\r\n.\r", "DATA\r\n", "BDAT 10\r\nabc", "BDAT 3\r\nabc"} {
		h := newHost(t)
		c := h.dial()
		c.begin()
		c.send(send)
		if err := c.conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(c.r); err != nil || strings.Contains(string(b), "queued") {
			t.Errorf("%q: got %q, %v", send, b, err)
		}
		h.none()
	}
}

func TestLongLineMemory(t *testing.T) {
	h := newHost(t)
	h.MaxSize = 64 << 20
	c := h.dial()
	c.begin()
	c.do("DATA", "354")
	c.send("\r\n")
	zeros := bytes.Repeat([]byte("0"), 1<<20)
	var before, after int64
	for i := range 40 {
		if _, err := c.conn.Write(zeros); err != nil {
			t.Fatal(err)
		}
		if i == 4 {
			before = heap()
		}
	}
	after = heap()
	c.do("\r\n.", "250")
	if after-before > 2<<20 {
		t.Errorf("36 MiB without a line end cost %d octets of heap", after-before)
	}
}

func TestCommandMemory(t *testing.T) {
	h := newHost(t)
	c := h.dial()
	c.send("EHLO " + strings.Repeat("a", 60<<10) + "\r\n")
	c.expect("500 5.5.2 Line too long")
	c.do("NOOP", "250")
	go func() { _, _ = c.conn.Write(bytes.Repeat([]byte("0"), 1<<20)) }()
	c.expect("500 5.5.2 Line too long")
	c.closed()
	if !strings.Contains(h.log.String(), "line without end") {
		t.Errorf("log: %s", h.log)
	}
}

// heap is the live heap in octets.
func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// TestLargeMessage: a message of 50 MiB costs little memory, however it comes: what is allocated in all, from the client's first octet to the answer, the client's part
// included, is less than 4 MiB.
func TestLargeMessage(t *testing.T) {
	const size = 50 << 20
	block := bytes.Repeat([]byte("."+strings.Repeat("x", 509)+"\r\n"), 64)
	for _, tt := range []struct{ name, param, begin, end string }{
		{"DATA", "", "DATA", "\r\n.\r\n"},
		{"BDAT", "", fmt.Sprintf("BDAT %d LAST", 2+size/len(block)*len(block)), ""},
		{"binary", " BODY=BINARYMIME", fmt.Sprintf("BDAT %d LAST", 2+size/len(block)*len(block)), ""},
		{"normalised", "", "DATA", "\r\n.\r\n"},
		{"submission", "", "DATA", "\r\n.\r\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := newHost(t).trust()
			h.MaxSize, h.NormaliseNewlines, h.Submission = 64<<20, tt.name == "normalised", tt.name == "submission"
			c := h.dial()
			c.do("EHLO client.example", "250")
			c.do("MAIL FROM:<alice@far.example>"+tt.param, "250")
			c.do("RCPT TO:<bob@own.example>", "250")
			c.send(tt.begin + "\r\n")
			if tt.begin == "DATA" {
				c.expect("354")
			}
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			c.send("\r\n")
			for range size / len(block) {
				if _, err := c.conn.Write(block); err != nil {
					t.Fatal(err)
				}
			}
			c.send(tt.end)
			c.expect("250 2.0.0 Ok: queued as ")
			runtime.ReadMemStats(&after)
			if got := after.TotalAlloc - before.TotalAlloc; got > 4<<20 {
				t.Errorf("%d octets were allocated", got)
			}
		})
	}
}
