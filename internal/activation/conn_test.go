package activation

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/postel-mail/postel/internal/clock"
)

// patience bounds every wait of the tests; none needs it where the code is right.
const patience = 30 * time.Second

// within gives what comes out of c.
func within[T any](t *testing.T, what string, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatalf("%s: nothing after %v", what, patience)
		panic("not reached")
	}
}

// fake is a connection whose reads follow a script and whose calls are recorded.
type fake struct {
	net.Conn
	reads  []any // string or error, one for each Read
	writes []string
	read   []time.Time // deadlines
	write  []time.Time
	remote net.Addr
}

func (f *fake) Read(p []byte) (int, error) {
	if len(f.reads) == 0 {
		return 0, io.EOF
	}
	next := f.reads[0]
	f.reads = f.reads[1:]
	if err, ok := next.(error); ok {
		return 0, err
	}
	return copy(p, next.(string)), nil
}

func (f *fake) Write(p []byte) (int, error) {
	f.writes = append(f.writes, string(p))
	return len(p), nil
}

func (f *fake) SetReadDeadline(t time.Time) error  { f.read = append(f.read, t); return nil }
func (f *fake) SetWriteDeadline(t time.Time) error { f.write = append(f.write, t); return nil }
func (f *fake) Close() error                       { return nil }
func (f *fake) LocalAddr() net.Addr                { return pipeAddr{} }
func (f *fake) RemoteAddr() net.Addr {
	if f.remote == nil {
		return pipeAddr{}
	}
	return f.remote
}

// pair is a guard and the client's end of its connection.
func pair(t *testing.T) (*Conn, *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	raw, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close(); raw.Close() })
	if err := client.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return NewConn(raw), client.(*net.TCPConn)
}

func TestReadErrorsStick(t *testing.T) {
	for _, fault := range []error{os.ErrDeadlineExceeded, io.EOF, errors.New("reset")} {
		c := NewConn(&fake{reads: []any{"one", fault, "two"}})
		buf := make([]byte, 100)
		if n, err := c.Read(buf); string(buf[:n]) != "one" || err != nil {
			t.Fatalf("first: %q, %v", buf[:n], err)
		}
		for range 3 {
			if n, err := c.Read(buf); n != 0 || !errors.Is(err, fault) {
				t.Errorf("after %v: %q, %v", fault, buf[:n], err)
			}
		}
	}
}

func TestRepliesShareAPacket(t *testing.T) {
	raw := &fake{reads: []any{"a\r\nb\r\nc\r\n", "d\r\n"}}
	c := NewConn(raw)
	r := bufio.NewReader(c)
	for {
		line, err := r.ReadSlice('\n')
		if err != nil {
			break
		}
		if _, err := c.Write([]byte("250 " + string(line))); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := strings.Join(raw.writes, "|"), "250 a\r\n250 b\r\n250 c\r\n|250 d\r\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestCorkIsBounded(t *testing.T) {
	raw := &fake{}
	c := NewConn(raw)
	var want bytes.Buffer
	for _, n := range []int{5000, 3192, 1, 8192, 8193, 10, 70000} {
		p := bytes.Repeat([]byte{byte('a' + want.Len()%26)}, n)
		want.Write(p)
		if m, err := c.Write(p); m != n || err != nil {
			t.Fatalf("write of %d: %d, %v", n, m, err)
		}
		sent := len(strings.Join(raw.writes, ""))
		if held := want.Len() - sent; held > corkSize {
			t.Errorf("after a write of %d octets %d are held back", n, held)
		}
	}
	if raw.writes[0] != want.String()[:8192] {
		t.Errorf("the first packet has %d octets, want 8192", len(raw.writes[0]))
	}
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(raw.writes, ""); got != want.String() {
		t.Errorf("%d octets came out, in another order or number than the %d that went in", len(got), want.Len())
	}
}

func TestBoundsOfReads(t *testing.T) {
	now := time.Date(2026, 5, 4, 3, 2, 1, 0, time.UTC)
	defer clock.Set(nil)
	raw := &fake{reads: []any{"a", "b", "c", "d", "e"}}
	c := NewConn(raw)
	for i, tt := range []struct {
		timeout time.Duration
		until   time.Duration // from the beginning; 0 none
		at      time.Duration
		want    time.Duration // from the beginning; 0 none
	}{
		{0, 0, 0, 0},
		{time.Minute, 0, 0, time.Minute},
		{time.Minute, 0, 50 * time.Second, 110 * time.Second}, // rolls
		{time.Minute, 2 * time.Minute, 90 * time.Second, 2 * time.Minute},
		{0, 3 * time.Minute, 0, 3 * time.Minute},
	} {
		clock.Set(func() time.Time { return now.Add(tt.at) })
		c.Timeout(tt.timeout)
		c.Until(time.Time{})
		if tt.until != 0 {
			c.Until(now.Add(tt.until))
		}
		// What a library above asks for counts nothing.
		_, _, _ = c.SetDeadline(now), c.SetReadDeadline(now), c.SetWriteDeadline(now)
		raw.read = nil
		if _, err := c.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		want := time.Time{}
		if tt.want != 0 {
			want = now.Add(tt.want)
		}
		if len(raw.read) != 1 || !raw.read[0].Equal(want) {
			t.Errorf("%d: deadlines %v, want %v", i, raw.read, want)
		}
	}
}

// TestBoundsOfWrites: the timeout of a long write begins anew with each piece, so that it is one of progress.
func TestBoundsOfWrites(t *testing.T) {
	now := time.Date(2026, 5, 4, 3, 2, 1, 0, time.UTC)
	clock.Set(func() time.Time { now = now.Add(time.Second); return now })
	defer clock.Set(nil)
	raw := &fake{}
	c := NewConn(raw)
	c.Timeout(time.Minute)
	if n, err := c.Write(make([]byte, 200<<10)); n != 200<<10 || err != nil {
		t.Fatal(n, err)
	}
	if len(raw.write) != 4 || !raw.write[3].Equal(raw.write[0].Add(3*time.Second)) {
		t.Errorf("deadlines %v", raw.write)
	}
}

func TestTimeoutEndsARead(t *testing.T) {
	c, _ := pair(t)
	c.Timeout(time.Millisecond)
	done := make(chan error, 1)
	go func() { _, err := c.Read(make([]byte, 1)); done <- err }()
	if err := within(t, "read", done); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

func TestDrainEndsWaitingSessions(t *testing.T) {
	c, client := pair(t)
	c.Wait(true)
	done := make(chan error, 1)
	go func() { _, err := c.Read(make([]byte, 1)); done <- err }()
	c.drain()
	if err := within(t, "pending read", done); !errors.Is(err, ErrDraining) {
		t.Errorf("got %v", err)
	}
	// The farewell still goes out.
	if _, err := c.Write([]byte("421\r\n")); err != nil {
		t.Fatal(err)
	}
	go c.Close()
	if got, err := io.ReadAll(client); string(got) != "421\r\n" || err != nil {
		t.Errorf("client read %q, %v", got, err)
	}
}

func TestDrainLetsATransactionEnd(t *testing.T) {
	c, client := pair(t)
	c.Wait(true)
	c.Wait(false)
	c.drain()
	if _, err := client.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 1)
	if n, err := c.Read(buf); n != 1 || err != nil {
		t.Fatalf("in a transaction: %d, %v", n, err)
	}
	c.Wait(true)
	for range 2 {
		if _, err := c.Read(buf); !errors.Is(err, ErrDraining) {
			t.Errorf("after the transaction: %v", err)
		}
	}
}

// TestDrainMeetsATransaction: the drain comes when the session has a line that begins a transaction in hand, and its raw deadline must
// not end the Reads of that.
func TestDrainMeetsATransaction(t *testing.T) {
	c, client := pair(t)
	c.Wait(true)
	c.drain()
	c.Wait(false)
	if _, err := client.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Read(make([]byte, 1)); n != 1 || err != nil {
		t.Errorf("got %d, %v", n, err)
	}
}

// TestCloseLingers: without it the kernel would answer the unread input with a reset, which takes the reply from the client.
func TestCloseLingers(t *testing.T) {
	c, client := pair(t)
	if _, err := client.Write(make([]byte, 60<<10)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write([]byte("421 bye\r\n")); err != nil {
		t.Fatal(err)
	}
	closed := make(chan error, 1)
	go func() { closed <- c.Close() }()
	if got, err := io.ReadAll(client); string(got) != "421 bye\r\n" || err != nil {
		t.Errorf("client read %q, %v", got, err)
	}
	client.Close()
	if err := within(t, "close", closed); err != nil {
		t.Error(err)
	}
}

func TestPeer(t *testing.T) {
	for _, tt := range []struct {
		addr    net.Addr
		client  string
		private bool
	}{
		{&net.TCPAddr{IP: net.ParseIP("192.0.2.1"), Port: 9}, "192.0.2.1", false},
		{&net.TCPAddr{IP: net.ParseIP("::ffff:192.0.2.1")}, "192.0.2.1", false},
		{&net.TCPAddr{IP: net.ParseIP("2001:DB8::1")}, "2001:db8::1", false},
		{&net.TCPAddr{IP: net.ParseIP("fe80::1"), Zone: "eth0"}, "fe80::1", false},
		{&net.UnixAddr{Name: "@"}, "unix", true},
		{pipeAddr{}, "pipe", true},
		{&net.UDPAddr{IP: net.ParseIP("192.0.2.1")}, "unknown", false},
		{&net.TCPAddr{}, "unknown", false},
	} {
		c := NewConn(&fake{remote: tt.addr})
		if c.Client() != tt.client || c.Private() != tt.private || c.Private() && c.IP().IsValid() || c.UID() != -1 {
			t.Errorf("%v: client %q, private %v, IP %v, uid %d", tt.addr, c.Client(), c.Private(), c.IP(), c.UID())
		}
	}
	if c := NewConn(&peerless{}); c.Client() != "unknown" || c.Private() {
		t.Errorf("a socket whose peer is gone: client %q, private %v", c.Client(), c.Private())
	}
}

// peerless is a socket that does not tell its peer, since that is gone.
type peerless struct{ fake }

func (*peerless) RemoteAddr() net.Addr { return nil }

// pipes is a connection over pipes, and the other ends.
func pipes(t *testing.T) (c *pipeConn, in *os.File, out *os.File) {
	t.Helper()
	r, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	out, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); in.Close(); out.Close(); w.Close() })
	return newPipeConn(r, w, pipeAddr{}), in, out
}

func TestPipe(t *testing.T) {
	c, in, out := pipes(t)
	if _, err := in.WriteString("hello"); err != nil {
		t.Fatal(err)
	}
	in.Close()
	var got []byte
	buf := make([]byte, 2)
	for {
		n, err := c.Read(buf)
		got = append(got, buf[:n]...)
		if err != nil {
			if err != io.EOF {
				t.Error(err)
			}
			break
		}
	}
	if string(got) != "hello" {
		t.Errorf("read %q", got)
	}
	if _, err := c.Write([]byte("reply")); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(c.Close(), c.Close()); err != nil {
		t.Error(err)
	}
	if got, err := io.ReadAll(out); string(got) != "reply" || err != nil {
		t.Errorf("written %q, %v", got, err)
	}
}

func TestPipeDeadline(t *testing.T) {
	c, in, _ := pipes(t)
	read := func() <-chan error {
		done := make(chan error, 1)
		go func() { _, err := c.Read(make([]byte, 1)); done <- err }()
		return done
	}
	pending := read()
	if err := c.SetReadDeadline(past); err != nil {
		t.Fatal(err)
	}
	if err := within(t, "pending read", pending); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("pending: %v", err)
	}
	if err := c.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	pending = read()
	if _, err := in.WriteString("x"); err != nil {
		t.Fatal(err)
	}
	if err := within(t, "read without a deadline", pending); err != nil {
		t.Error(err)
	}
	pending = read()
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if err := within(t, "read at close", pending); !errors.Is(err, net.ErrClosed) {
		t.Errorf("at close: %v", err)
	}
}

func TestDrainEndsAWaitingPipe(t *testing.T) {
	raw, _, _ := pipes(t)
	c := NewConn(raw)
	c.Wait(true)
	done := make(chan error, 1)
	go func() { _, err := c.Read(make([]byte, 1)); done <- err }()
	c.drain()
	if err := within(t, "read", done); !errors.Is(err, ErrDraining) {
		t.Error(err)
	}
}

// brokenPipe fails the first write.
type brokenPipe struct {
	net.Conn
	writes int
}

func (b *brokenPipe) Write(p []byte) (int, error) {
	if b.writes++; b.writes == 1 {
		return 1, os.ErrDeadlineExceeded
	}
	return len(p), nil
}

// TestWriteErrorsStay: nothing is written behind a reply that was cut off, and nothing read.
func TestWriteErrorsStay(t *testing.T) {
	ours, theirs := net.Pipe()
	defer theirs.Close()
	raw := &brokenPipe{Conn: ours}
	c := NewConn(raw)
	defer c.Close()
	if _, err := c.Write([]byte("250 one\r\n")); err != nil {
		t.Fatal(err)
	}
	if err := c.Flush(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Flush: %v", err)
	}
	_, _ = c.Write([]byte("250 two\r\n"))
	if err := c.Flush(); !errors.Is(err, os.ErrDeadlineExceeded) || raw.writes != 1 {
		t.Errorf("then Flush: %v, %d writes", err, raw.writes)
	}
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Read: %v", err)
	}
}

// TestZone: a link-local client is in the networks that have its address, whatever link it is on.
func TestZone(t *testing.T) {
	c := NewConn(&fake{remote: &net.TCPAddr{IP: net.ParseIP("fe80::1"), Zone: "eth0", Port: 1}})
	if networks := []netip.Prefix{netip.MustParsePrefix("fe80::/64")}; !contains(networks, c.IP()) || c.Client() != "fe80::1" {
		t.Errorf("got %s, %s", c.IP(), c.Client())
	}
}
