package activation

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postel-mail/postel/internal/clock"
)

// ErrDraining is what a Read ends with when the server is stopping and the session is between transactions.
var ErrDraining = errors.New("server is stopping")

const (
	corkSize  = 8 << 10         // octets of replies that are held back at most
	lingerFor = time.Second     // how long Close lets a peer read the last reply
	lingerMax = 1 << 20         // octets that Close throws away meanwhile
	flushFor  = 5 * time.Second // to get the last reply out when the session set no timeout
)

// Conn is the guard between a protocol engine and the network. It is a net.Conn with four rules of its own:
//
// After a Read has failed every Read fails in the same way, so that what a client sends behind a timeout is never taken for
// commands; after a write has failed, every write and Read, so that no later reply is taken for one that was cut off. Writes are held back until the next Read, 8 KiB, Flush or Close, so that replies to pipelined commands share a packet
// (RFC 2920). Timeouts roll: each raw read and write gets the time anew. And Close lets the peer read the last reply, which a plain close with
// unread input would take away.
//
// TLS is put on top of it, and the engine keeps the Conn beside the tls.Conn. Reads and writes may run at the same time; neither may run twice.
type Conn struct {
	raw     net.Conn
	client  string
	ip      netip.Addr
	local   netip.Addr
	uid     int
	private bool

	ahead   []byte // read with the PROXY header that it stood behind
	readErr error
	sawEOF  atomic.Bool

	wmu      sync.Mutex // out and writeErr
	out      []byte
	writeErr error

	mu       sync.Mutex // what follows
	timeout  time.Duration
	until    time.Time
	armed    time.Time // the deadline of the Read that is on
	waiting  bool
	draining bool
	server   *Server // whose places may become scarce; nil without one
}

// NewConn puts the guard on a connection. Server does it for those it accepts; tests do it for theirs.
func NewConn(raw net.Conn) *Conn {
	c := &Conn{raw: raw, client: "unknown", uid: -1}
	switch a := raw.RemoteAddr().(type) {
	case nil: // the peer is gone already
	case *net.TCPAddr:
		if c.ip = bareIP(a); c.ip.IsValid() {
			c.client = c.ip.String()
		}
	case *net.UnixAddr:
		c.client, c.private = "unix", true
		c.uid = peerUID(raw)
	default:
		if a.Network() == "pipe" {
			c.client, c.private = "pipe", true
		}
	}
	if a, ok := raw.LocalAddr().(*net.TCPAddr); ok {
		c.local = bareIP(a)
	}
	return c
}

// bareIP is an address as networks are compared with it: a zone is in no network.
func bareIP(a *net.TCPAddr) netip.Addr { return a.AddrPort().Addr().Unmap().WithZone("") }

func peerUID(raw net.Conn) int {
	uid := -1
	if s, ok := raw.(*net.UnixConn); ok {
		if rc, err := s.SyscallConn(); err == nil {
			_ = rc.Control(func(fd uintptr) {
				if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
					uid = int(cred.Uid)
				}
			})
		}
	}
	return uid
}

// Client names the peer for log and trace: its IP address, "unix", "pipe", or "unknown" for a socket that cannot tell.
func (c *Conn) Client() string { return c.client }

// IP is the peer's address; not valid for UNIX sockets and pipes, nor where it is unknown.
func (c *Conn) IP() netip.Addr { return c.ip }

// LocalIP is our end's address; not valid for UNIX sockets and pipes.
func (c *Conn) LocalIP() netip.Addr { return c.local }

// Private reports whether the connection cannot be overheard, being a UNIX socket or a pipe, with nobody on the network behind it that a
// super-server names: it counts as protected like TLS, and as somebody on this host.
func (c *Conn) Private() bool { return c.private }

// Assume makes c the connection of another client, whom a proxy speaks for, to the address local. client is its name for log and trace, "" for "unknown"; ip and local
// may be invalid. It is a client on the network, known or not: never Private. Only the session's own goroutine may call it.
func (c *Conn) Assume(client string, ip, local netip.Addr) {
	c.ip, c.local, c.client, c.private, c.uid = ip.Unmap(), local.Unmap(), client, false, -1
	switch {
	case c.ip.IsValid():
		c.client = c.ip.WithZone("").String()
	case client == "":
		c.client = "unknown"
	}
}

// UID is the user at the other end of a UNIX socket; -1 elsewhere.
func (c *Conn) UID() int { return c.uid }

// Timeout bounds each raw read and write that begins from now on; 0 takes the bound away.
func (c *Conn) Timeout(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.timeout = d
}

// Until sets an end for all reads besides, however steadily octets come in; the zero time takes it away.
func (c *Conn) Until(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.until = t
}

// Wait says whether the session is between transactions, so that a server that stops may end its Reads with ErrDraining.
func (c *Conn) Wait(waiting bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waiting = waiting
}

// drain ends the pending and the later Reads of a session that waits.
func (c *Conn) drain() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.draining = true
	if c.waiting {
		_ = c.raw.SetReadDeadline(past) // a connection without deadlines is ended by Close
	}
}

var past = time.Unix(1, 0)

// Read flushes what was written and reads from the network.
func (c *Conn) Read(p []byte) (int, error) {
	if c.readErr != nil {
		return 0, c.readErr
	}
	if err := c.Flush(); err != nil {
		c.readErr = err
		return 0, err
	}
	if err := c.arm(); err != nil {
		c.readErr = err
		return 0, err
	}
	if len(c.ahead) > 0 {
		n := copy(p, c.ahead)
		if c.ahead = c.ahead[n:]; len(c.ahead) == 0 {
			c.ahead = nil
		}
		return n, nil
	}
	n, err := c.raw.Read(p)
	if err != nil {
		c.mu.Lock()
		if c.draining && c.waiting && errors.Is(err, os.ErrDeadlineExceeded) {
			err = ErrDraining
		}
		c.mu.Unlock()
		if err == io.EOF {
			c.sawEOF.Store(true)
		}
		c.readErr = err
	}
	return n, err
}

func (c *Conn) arm() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.draining && c.waiting {
		return ErrDraining
	}
	var t time.Time
	if c.timeout > 0 {
		t = clock.Now().Add(c.timeout)
	}
	t = earlier(t, c.until)
	if c.waiting && c.Crowded() {
		t = earlier(t, clock.Now().Add(c.server.Hurry))
	}
	c.armed = t
	return c.raw.SetReadDeadline(t)
}

// earlier gives the earlier of two times, where the zero time is never.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// Crowded reports whether the server has few places left, see Server.Hurry: a session should not take long, nor suffer much.
func (c *Conn) Crowded() bool { return c.server != nil && c.server.crowded.Load() }

// hasten shortens the pending Read of a session that waits.
func (c *Conn) hasten(until time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.waiting && !c.draining && (c.armed.IsZero() || until.Before(c.armed)) {
		c.armed = until
		_ = c.raw.SetReadDeadline(until) // a connection without deadlines keeps its place
	}
}

// Write holds p back; see Conn.
func (c *Conn) Write(p []byte) (int, error) {
	c.wmu.Lock()
	defer c.wmu.Unlock()
	if len(c.out)+len(p) > corkSize {
		if err := c.flush(); err != nil {
			return 0, err
		}
	}
	if len(p) > corkSize {
		return c.write(p)
	}
	c.out = append(c.out, p...)
	return len(p), nil
}

// Flush sends what was held back.
func (c *Conn) Flush() error {
	c.wmu.Lock()
	defer c.wmu.Unlock()
	return c.flush()
}

func (c *Conn) flush() error {
	if len(c.out) == 0 {
		return c.writeErr
	}
	_, err := c.write(c.out)
	c.out = c.out[:0]
	return err
}

// write sends p in pieces, so that the timeout is one of progress.
func (c *Conn) write(p []byte) (n int, err error) {
	const piece = 64 << 10
	if c.writeErr != nil {
		return 0, c.writeErr
	}
	defer func() { c.writeErr = err }()
	for n < len(p) && err == nil {
		c.mu.Lock()
		var t time.Time
		if c.timeout > 0 {
			t = clock.Now().Add(c.timeout)
		}
		c.mu.Unlock()
		if err = c.raw.SetWriteDeadline(t); err == nil {
			var m int
			m, err = c.raw.Write(p[n:min(len(p), n+piece)])
			n += m
		}
	}
	return n, err
}

// Close sends what was held back and ends the connection; see Conn.
func (c *Conn) Close() error {
	c.mu.Lock()
	if c.timeout == 0 || c.timeout > flushFor {
		c.timeout = flushFor
	}
	c.mu.Unlock()
	err := c.Flush()
	half, ok := c.raw.(interface{ CloseWrite() error })
	if err == nil && ok && !c.sawEOF.Load() && half.CloseWrite() == nil {
		_ = c.raw.SetReadDeadline(clock.Now().Add(lingerFor))
		_, _ = io.CopyN(io.Discard, c.raw, lingerMax)
	}
	return errors.Join(err, c.raw.Close())
}

// Handover gives the socket to another process: the file is for its standard input and output, and c is closed without a word to the
// peer. It must come before the first Read and Write.
func (c *Conn) Handover() (*os.File, error) {
	socket, ok := c.raw.(interface{ File() (*os.File, error) })
	if !ok {
		return nil, errors.New("not a socket")
	}
	f, err := socket.File()
	if err != nil {
		return nil, err
	}
	return f, c.raw.Close()
}

// abort ends the connection at once.
func (c *Conn) abort() { _ = c.raw.Close() }

// LocalAddr is our end.
func (c *Conn) LocalAddr() net.Addr { return c.raw.LocalAddr() }

// RemoteAddr is the peer's end.
func (c *Conn) RemoteAddr() net.Addr { return c.raw.RemoteAddr() }

// SetDeadline, SetReadDeadline and SetWriteDeadline do nothing: Timeout and Until rule. A library above must not shorten or lift
// the guard's bounds.
func (c *Conn) SetDeadline(time.Time) error { return nil }

// SetReadDeadline does nothing; see SetDeadline.
func (c *Conn) SetReadDeadline(time.Time) error { return nil }

// SetWriteDeadline does nothing; see SetDeadline.
func (c *Conn) SetWriteDeadline(time.Time) error { return nil }

// pipeAddr is the address of standard input and output.
type pipeAddr struct{}

func (pipeAddr) Network() string { return "pipe" }
func (pipeAddr) String() string  { return "pipe" }

// pipeConn is a connection over two files that know no deadlines, as pipes, plain files and terminals inherited from a shell: a goroutine reads ahead, one
// block at a time, so that a Read can give up waiting for it. Setting the files non-blocking instead would change them for the shell too.
type pipeConn struct {
	in, out  *os.File
	blocks   chan []byte
	err      error // of in, valid when blocks is closed
	left     []byte
	closed   chan struct{}
	once     sync.Once
	mu       sync.Mutex
	deadline time.Time
	changed  chan struct{} // closed and replaced when deadline changes
	remote   net.Addr
}

func newPipeConn(in, out *os.File, remote net.Addr) *pipeConn {
	p := &pipeConn{in: in, out: out, remote: remote, blocks: make(chan []byte), closed: make(chan struct{}), changed: make(chan struct{})}
	go func() {
		defer close(p.blocks)
		for {
			b := make([]byte, 32<<10)
			n, err := in.Read(b)
			if n > 0 {
				select {
				case p.blocks <- b[:n]:
				case <-p.closed:
					return
				}
			}
			if err != nil {
				p.err = err
				return
			}
		}
	}()
	return p
}

func (p *pipeConn) Read(b []byte) (int, error) {
	for len(p.left) == 0 {
		p.mu.Lock()
		deadline, changed := p.deadline, p.changed
		p.mu.Unlock()
		var expired <-chan time.Time
		if !deadline.IsZero() {
			t := time.NewTimer(deadline.Sub(clock.Now()))
			defer t.Stop()
			expired = t.C
		}
		select {
		case block, ok := <-p.blocks:
			if !ok {
				return 0, p.err
			}
			p.left = block
		case <-expired:
			return 0, os.ErrDeadlineExceeded
		case <-changed:
		case <-p.closed:
			return 0, net.ErrClosed
		}
	}
	n := copy(b, p.left)
	p.left = p.left[n:]
	return n, nil
}

func (p *pipeConn) Write(b []byte) (int, error) { return p.out.Write(b) }

func (p *pipeConn) Close() error {
	var err error
	p.once.Do(func() {
		close(p.closed)
		err = p.out.Close()
	})
	return err
}

func (p *pipeConn) SetReadDeadline(t time.Time) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.deadline = t
	close(p.changed)
	p.changed = make(chan struct{})
	return nil
}

func (p *pipeConn) SetDeadline(t time.Time) error    { return p.SetReadDeadline(t) }
func (p *pipeConn) SetWriteDeadline(time.Time) error { return nil }
func (p *pipeConn) LocalAddr() net.Addr              { return pipeAddr{} }
func (p *pipeConn) RemoteAddr() net.Addr             { return p.remote }
