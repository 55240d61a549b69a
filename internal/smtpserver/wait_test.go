package smtpserver

import (
	"net"
	"os"
	"strings"
	"testing"
)

// unix connects by a UNIX socket.
func (h *host) unix() *client {
	h.t.Helper()
	path := h.t.TempDir() + "/socket"
	l, err := net.Listen("unix", path)
	if err != nil {
		h.t.Fatal(err)
	}
	ended := make(chan bool)
	go func() {
		defer close(ended)
		if raw, err := l.Accept(); err == nil {
			h.session(raw)
		}
	}()
	raw, err := net.Dial("unix", path)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { raw.Close(); l.Close(); <-ended })
	return newClient(h.t, raw)
}

// TestXWAIT: only a user of this host may say where he waits, and only a name that leads nowhere else.
func TestXWAIT(t *testing.T) {
	const name = "0123456789abcdefghij"
	for _, c := range []struct {
		submission bool
		dial       func(*host) *client
		offered    bool
	}{
		{true, (*host).unix, true},
		{false, (*host).unix, false},
		{true, (*host).pipe, false},
		{true, (*host).dial, false},
	} {
		h := newHost(t).trust()
		h.Submission = c.submission
		cl := c.dial(h)
		if got := cl.do("EHLO x", "250"); strings.Contains(got, "XWAIT") != c.offered {
			t.Errorf("%+v: %q", c, got)
		}
		if !c.offered {
			cl.do("MAIL FROM:<a@own.example> XWAIT="+name, "555 5.5.4")
			continue
		}
		for _, bad := range []string{"../../../../etc/passwd", "0123456789ABCDEFGHIJ", "short", "0123456789/abcdefghij", strings.Repeat("x", 65)} {
			cl.do("MAIL FROM:<a@own.example> XWAIT="+bad, "501 5.5.4")
		}
		cl.do("MAIL FROM:<a@own.example> XWAIT", "501 5.5.4")
		cl.do("MAIL FROM:<a@own.example> XWAIT="+name, "250")
		cl.do("RCPT TO:<x@else.example>", "250")
		cl.do("DATA", "354")
		cl.do(".", "250")
		if e, _, _ := h.one(); e.Wait != name || e.UID != os.Getuid() {
			t.Errorf("queued %+v", e)
		}
	}
}
