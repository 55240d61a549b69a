package activation

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

// header2 makes a header of version 2.
func header2(command, family byte, rest ...string) string {
	all := strings.Join(rest, "")
	b := append([]byte("\r\n\r\n\x00\r\nQUIT\n"), command, family)
	return string(binary.BigEndian.AppendUint16(b, uint16(len(all)))) + all
}

const (
	ends4 = "\xc0\x00\x02\x01\xcb\x00\x71\x09\x04\xd2\x00\x19"
	ends6 = "\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x04\xd2\x00\x19"
	noop  = "\x04\x00\x03abc"
)

// summed gives a header its checksum.
func summed(before, after string) string {
	h := []byte(header2(0x21, 0x11, ends4, before, "\x03\x00\x04\x00\x00\x00\x00", after))
	at := 16 + len(ends4) + len(before) + 3
	binary.BigEndian.PutUint32(h[at:], crc32.Checksum(h, crc32.MakeTable(crc32.Castagnoli)))
	return string(h)
}

func TestParseProxy(t *testing.T) {
	flipped := []byte(summed(noop, noop))
	flipped[17] ^= 1
	for _, tt := range []struct{ in, want string }{
		{"PROXY TCP4 192.0.2.1 203.0.113.9 1234 25\r\n", "192.0.2.1:1234 203.0.113.9:25"},
		{"PROXY TCP4 192.0.2.1 203.0.113.9 0 65535\r\n", "192.0.2.1:0 203.0.113.9:65535"},
		{"PROXY TCP6 2001:db8::1 2001:DB8::2 1234 25\r\n", "[2001:db8::1]:1234 [2001:db8::2]:25"},
		{"PROXY TCP6 ::ffff:192.0.2.1 2001:db8::2 1234 25\r\n", "192.0.2.1:1234 [2001:db8::2]:25"},
		{"PROXY UNKNOWN\r\n", "unknown"},
		{"PROXY UNKNOWN ffff::1 what ever 1 2\r\n", "unknown"},
		{"PROXY UNKNOWNX\r\n", ""},
		{"PROXY  TCP4 192.0.2.1 203.0.113.9 1234 25\r\n", ""},
		{"PROXY TCP4 192.0.2.1  203.0.113.9 1234 25\r\n", ""},
		{"PROXY TCP4 192.0.2.1 203.0.113.9 1234 25 \r\n", ""},
		{"PROXY TCP4 192.0.2.1 203.0.113.9 1234 25\n", ""},
		{"PROXY TCP4 192.0.2.1 203.0.113.9 1234\r\n", ""},
		{"PROXY TCP4 192.0.2.1 203.0.113.9 01234 25\r\n", ""},
		{"PROXY TCP4 192.0.2.1 203.0.113.9 +1234 25\r\n", ""},
		{"PROXY TCP4 192.0.2.1 203.0.113.9 65536 25\r\n", ""},
		{"PROXY TCP4 192.0.2.01 203.0.113.9 1234 25\r\n", ""},
		{"PROXY TCP4 2001:db8::1 2001:db8::2 1234 25\r\n", ""},
		{"PROXY TCP6 192.0.2.1 203.0.113.9 1234 25\r\n", ""},
		{"PROXY TCP6 fe80::1%eth0 2001:db8::2 1234 25\r\n", ""},
		{"PROXY UDP4 192.0.2.1 203.0.113.9 1234 25\r\n", ""},
		{"proxy TCP4 192.0.2.1 203.0.113.9 1234 25\r\n", ""},
		{"PROXY \r\n", ""},
		{"PROXY UNKNOWN " + strings.Repeat("x", 91) + "\r\n", "unknown"}, // 107 octets
		{"PROXY UNKNOWN " + strings.Repeat("x", 92) + "\r\n", ""},
		{"EHLO client.example\r\n", ""},
		{"\x16\x03\x01", ""},
		{header2(0x21, 0x11, ends4), "192.0.2.1:1234 203.0.113.9:25"},
		{header2(0x21, 0x11, ends4, noop, noop), "192.0.2.1:1234 203.0.113.9:25"},
		{header2(0x21, 0x21, ends6), "[2001:db8::1]:1234 [2001:db8::2]:25"},
		{header2(0x21, 0x21, ends6, noop), "[2001:db8::1]:1234 [2001:db8::2]:25"},
		{header2(0x21, 0x31, strings.Repeat("/", 216)), "unknown"},
		{header2(0x21, 0x00), "unknown"},
		{header2(0x21, 0x00, "anything"), "unknown"},
		{header2(0x20, 0x00), "local"},
		{header2(0x20, 0x11, "anything"), "local"},
		{header2(0x20, 0xff, ends4), "local"},
		{summed("", ""), "192.0.2.1:1234 203.0.113.9:25"},
		{summed(noop, noop), "192.0.2.1:1234 203.0.113.9:25"},
		{string(flipped), ""},
		{header2(0x21, 0x11, ends4, "\x03\x00\x03abc"), ""},
		{header2(0x21, 0x11, ends4, "\x04\x00\x04abc"), ""},
		{header2(0x21, 0x11, ends4, "\x04\x00"), ""},
		{header2(0x21, 0x11, ends4[:11]), ""},
		{header2(0x21, 0x21, ends4), ""},
		{header2(0x21, 0x31, strings.Repeat("/", 215)), ""},
		{header2(0x21, 0x12, ends4), ""},
		{header2(0x21, 0x22, ends6), ""},
		{header2(0x21, 0x41), ""},
		{header2(0x22, 0x11, ends4), ""},
		{header2(0x11, 0x11, ends4), ""},
		{header2(0x21, 0x11, ends4, strings.Repeat("\x04\x00\x00", 5457)), ""}, // over 16 KiB
		{strings.Replace(header2(0x21, 0x11, ends4), "QUIT", "QUIZ", 1), ""},
	} {
		got, n := proxyWords(tt.in + "behind")
		if got != tt.want || got != "" && n != len(tt.in) {
			t.Errorf("%q: %q with %d octets, want %q with %d", tt.in, got, n, tt.want, len(tt.in))
		}
		if tt.want == "" {
			continue
		}
		for i := range len(tt.in) {
			if _, _, err := parseProxy([]byte(tt.in[:i])); err != errShort {
				t.Errorf("%q: %v, want more", tt.in[:i], err)
			}
		}
	}
}

// proxyWords is what a header says, in words; "" for a bad one.
func proxyWords(in string) (words string, n int) {
	h, n, err := parseProxy([]byte(in))
	switch {
	case err != nil:
		return "", 0
	case h.local:
		return "local", n
	case !h.src.IsValid():
		return "unknown", n
	}
	return fmt.Sprint(h.src, " ", h.dst), n
}

// FuzzProxy: a header is the same whatever stands behind it and however it is cut; it is bounded; and one of version 1 can be written anew from what was read.
func FuzzProxy(f *testing.F) {
	for _, in := range []string{"PROXY TCP4 192.0.2.1 203.0.113.9 1234 25\r\nEHLO x\r\n", "PROXY TCP6 2001:db8::1 ::2 1 2\r\n", "PROXY UNKNOWN x\r\n", "EHLO x\r\n",
		header2(0x21, 0x11, ends4, noop), header2(0x21, 0x21, ends6), header2(0x20, 0), summed(noop, noop), header2(0x21, 0x31, strings.Repeat("/", 216))} {
		f.Add([]byte(in))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		h, n, err := parseProxy(in)
		if err != nil {
			if err == errShort && len(in) >= proxyMax {
				t.Fatalf("%q: wants more behind %d octets", in, len(in))
			}
			return
		}
		if n < 15 || n > len(in) || n > proxyMax {
			t.Fatalf("%q: %d octets", in, n)
		}
		if h.src.IsValid() != h.dst.IsValid() || h.local && h.src.IsValid() {
			t.Fatalf("%q: %+v", in, h)
		}
		for i := range min(n, 300) {
			if _, _, err := parseProxy(in[:i]); err != errShort {
				t.Fatalf("%q: %v after %d of %d octets", in, err, i, n)
			}
		}
		if again, m, err := parseProxy(append(slices.Clone(in[:n]), "PROXY \r\n"...)); again != h || m != n || err != nil {
			t.Fatalf("%q: %+v, then %+v, %d, %v", in, h, again, m, err)
		}
		if in[0] == 'P' && h.src.IsValid() {
			family := string(in[6:10])
			line := fmt.Sprintf("PROXY %s %s %s %d %d\r\n", family, h.src.Addr(), h.dst.Addr(), h.src.Port(), h.dst.Port())
			if again, _, err := parseProxy([]byte(line)); err == nil && again != h {
				t.Fatalf("%q: %+v, but %q: %+v", in, h, line, again)
			}
		}
	})
}

// proxies runs a server on loopback whose clients are proxies, and gives its address and what it says of bad headers.
func proxies(t *testing.T, s *Server) (addr string, unproxied chan string) {
	t.Helper()
	unproxied = make(chan string, 100)
	s.Proxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	s.Unproxied = func(proxy string, err error) { unproxied <- proxy + " " + err.Error() }
	s.Busy = "421 busy"
	if s.Serve == nil {
		s.Serve = func(c *Conn) {
			fmt.Fprintf(c, "%s ip=%v local=%v private=%v uid=%d\n", c.Client(), c.IP(), c.LocalIP(), c.Private(), c.UID())
			_, _ = io.Copy(c, c)
		}
	}
	s.begin()
	l := tcpListener(t)
	s.accept([]net.Listener{l}, make(chan struct{}, 1))
	t.Cleanup(func() { l.Close(); s.accepters.Wait(); s.sessions.Wait() })
	return l.Addr().String(), unproxied
}

// TestProxied: the session is the client's, what follows the header is not lost, and no client is private.
func TestProxied(t *testing.T) {
	addr, _ := proxies(t, &Server{})
	for _, tt := range []struct{ header, want string }{
		{"PROXY TCP4 192.0.2.1 203.0.113.9 1234 25\r\n", "192.0.2.1 ip=192.0.2.1 local=203.0.113.9 private=false uid=-1"},
		{header2(0x21, 0x21, ends6, noop), "2001:db8::1 ip=2001:db8::1 local=2001:db8::2 private=false uid=-1"},
		{"PROXY UNKNOWN\r\n", "unknown ip=invalid IP local=invalid IP private=false uid=-1"},
		{header2(0x21, 0x31, strings.Repeat("/", 216)), "unknown ip=invalid IP local=invalid IP private=false uid=-1"},
		{header2(0x20, 0x00), "127.0.0.1 ip=invalid IP local=invalid IP private=false uid=-1"}, // nor is the proxy trusted as one of the host's network
	} {
		c := dial(t, addr)
		for b := range slices.Chunk([]byte(tt.header+"behind\n"), 20) {
			if _, err := c.Write(b); err != nil {
				t.Fatal(err)
			}
		}
		c.hear(tt.want)
		c.hear("behind")
		c.say("more", "more")
		c.Close()
	}
}

// TestUnproxied: without a header there is no session, and not a word.
func TestUnproxied(t *testing.T) {
	addr, unproxied := proxies(t, &Server{Serve: func(c *Conn) { t.Error("served") }})
	for _, tt := range []struct{ in, want string }{
		{"EHLO client.example\r\n", "127.0.0.1 there is none"},
		{"PROXY TCP4 x\r\n", "127.0.0.1 the line is malformed"},
		{"PROXY TCP4 192.0.2.1", "127.0.0.1 unexpected EOF"},
	} {
		c := dial(t, addr)
		if _, err := io.WriteString(c, tt.in); err != nil {
			t.Fatal(err)
		}
		if err := c.ReadWriteCloser.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if got := within(t, "refusal", unproxied); got != tt.want {
			t.Errorf("%q: %q, want %q", tt.in, got, tt.want)
		}
		if b, _ := io.ReadAll(c); len(b) > 0 { // a reset is an end too
			t.Errorf("%q: heard %q", tt.in, b)
		}
	}
	dial(t, addr).Close() // whether the port is open
	if len(unproxied) > 0 {
		t.Errorf("said %q", <-unproxied)
	}
}

// TestProxyTime: a proxy that says nothing does not keep its place.
func TestProxyTime(t *testing.T) {
	raw := &fake{reads: []any{"PROXY ", "TCP4 ", errors.New("timeout")}}
	before := time.Now()
	if err := NewConn(raw).readProxy(); err == nil || err.Error() != "timeout" {
		t.Errorf("got %v", err)
	}
	for _, at := range raw.read {
		if at.IsZero() || at.After(before.Add(proxyTime+patience)) || !at.Equal(raw.read[0]) {
			t.Errorf("deadlines %v", raw.read)
		}
	}
}

// TestProxiedLimits: a client behind a proxy is counted as itself.
func TestProxiedLimits(t *testing.T) {
	addr, _ := proxies(t, &Server{PerClient: 1})
	from := func(client string) *client {
		c := dial(t, addr)
		if _, err := fmt.Fprintf(c, "PROXY TCP4 %s 203.0.113.9 1234 25\r\n", client); err != nil {
			t.Fatal(err)
		}
		return c
	}
	first := from("192.0.2.1")
	first.hear("192.0.2.1 ip=192.0.2.1 local=203.0.113.9 private=false uid=-1")
	twice := from("192.0.2.1")
	twice.hear("421 busy")
	twice.ended()
	twice.Close()
	other := from("192.0.2.2")
	other.hear("192.0.2.2 ip=192.0.2.2 local=203.0.113.9 private=false uid=-1")
	first.Close()
	again := from("192.0.2.3")
	again.hear("192.0.2.3 ip=192.0.2.3 local=203.0.113.9 private=false uid=-1")
}

// TestAheadOfEOF: what was read with the header comes before the end.
func TestAheadOfEOF(t *testing.T) {
	c := NewConn(&fake{reads: []any{"PROXY UNKNOWN\r\nQUIT\r\n"}})
	if err := c.readProxy(); err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(c)
	if !bytes.Equal(b, []byte("QUIT\r\n")) || err != nil {
		t.Errorf("got %q, %v", b, err)
	}
}
