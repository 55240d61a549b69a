package activation

import (
	"errors"
	"io"
	"net"
	"testing"
	"time"
)

// TestQuiet: what the peer says is seen and kept, its end is seen at once, and silence changes nothing.
func TestQuiet(t *testing.T) {
	pair := func() (*Conn, net.Conn) {
		ours, theirs := net.Pipe()
		t.Cleanup(func() { ours.Close(); theirs.Close() })
		c := NewConn(ours)
		c.Timeout(time.Minute)
		return c, theirs
	}
	c, peer := pair()
	go func() { _, _ = io.WriteString(peer, "EHLO x\r\n") }()
	if said, err := c.Quiet(time.Minute); string(said) != "EHLO x\r\n" || err != nil {
		t.Errorf("a peer who speaks: got %q, %v", said, err)
	}
	if said, err := c.Quiet(time.Minute); string(said) != "EHLO x\r\n" || err != nil {
		t.Errorf("once more: got %q, %v", said, err)
	}
	buf := make([]byte, 100)
	if n, err := c.Read(buf); string(buf[:n]) != "EHLO x\r\n" || err != nil {
		t.Errorf("Read gives %q, %v", buf[:n], err)
	}

	c, peer = pair()
	peer.Close()
	for range 2 {
		if said, err := c.Quiet(time.Minute); len(said) > 0 || err == nil {
			t.Errorf("a peer who leaves: got %q, %v", said, err)
		}
	}
	if _, err := c.Read(buf); err == nil {
		t.Error("then Read gives no error")
	}

	c, peer = pair()
	if said, err := c.Quiet(time.Nanosecond); len(said) > 0 || err != nil {
		t.Errorf("a quiet peer: got %q, %v", said, err)
	}
	go func() { _, _ = io.WriteString(peer, "QUIT\r\n") }()
	if n, err := c.Read(buf); string(buf[:n]) != "QUIT\r\n" || err != nil {
		t.Errorf("then Read gives %q, %v", buf[:n], err)
	}

	c, _ = pair()
	done := make(chan error)
	go func() { _, err := c.Quiet(time.Hour); done <- err }()
	c.drain() // before or within the wait
	if err := <-done; !errors.Is(err, ErrDraining) {
		t.Errorf("a server that stops: got %v", err)
	}

	c, _ = pair()
	c.ahead = []byte("behind a header")
	if said, err := c.Quiet(time.Hour); string(said) != "behind a header" || err != nil {
		t.Errorf("octets behind a PROXY header: got %q, %v", said, err)
	}

	c, peer = pair()
	_, _ = c.Write([]byte("220-"))
	go func() { n, _ := peer.Read(buf); _, _ = peer.Write(buf[:n]) }()
	if said, err := c.Quiet(time.Hour); string(said) != "220-" || err != nil {
		t.Errorf("what was held back is sent first: got %q, %v", said, err)
	}
}
