package transport

import (
	"bufio"
	"context"
	"errors"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postel-mail/postel/internal/clock"
	"github.com/postel-mail/postel/internal/mx"
	"github.com/postel-mail/postel/internal/status"
)

// nowhere is a network of hosts that are played by functions, by the last part of their address: for tests in which time passes at once.
type nowhere map[string]func(net.Conn)

// transport is one that sees this network; all its hosts are mail hosts of every domain, in their order.
func (n nowhere) transport(t *testing.T, visited *[]string, names ...string) *Transport {
	var players sync.WaitGroup
	tr := &Transport{Hostname: "me.example", Port: 25,
		MX: func(context.Context, string) (a mx.Answer, err error) {
			for i, name := range names {
				a.Hosts = append(a.Hosts, mx.Host{Preference: uint16(i), Name: name})
			}
			return a, nil
		},
		Addresses: func(_ context.Context, host string) ([]netip.Addr, error) {
			return []netip.Addr{netip.MustParseAddr("192.0.2." + host)}, nil
		}}
	tr.dial = func(ctx context.Context, _, addr string) (net.Conn, error) {
		host := strings.TrimSuffix(strings.TrimPrefix(addr, "192.0.2."), ":25")
		*visited = append(*visited, host)
		play := n[host]
		if play == nil { // the packets are lost
			select {
			case <-time.After(connectTime):
				return nil, &net.OpError{Op: "dial", Err: context.DeadlineExceeded}
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		ours, theirs := net.Pipe()
		players.Go(func() { play(theirs) })
		return ours, nil
	}
	t.Cleanup(func() {
		tr.Close()
		players.Wait()
	})
	return tr
}

// mute reads and never answers.
func mute(c net.Conn) {
	buf := make([]byte, 1024)
	for {
		if _, err := c.Read(buf); err != nil {
			c.Close()
			return
		}
	}
}

// slow answers every command, after a while.
func slow(wait time.Duration) func(net.Conn) {
	return func(c net.Conn) {
		defer c.Close()
		r := bufio.NewReader(c)
		for reply := "220 hi"; ; {
			time.Sleep(wait)
			if _, err := c.Write([]byte(reply + "\r\n")); err != nil {
				return
			}
			line, err := r.ReadString('\n')
			if err != nil {
				return
			}
			switch {
			case strings.HasPrefix(line, "DATA"):
				reply = "354 go"
				if _, err := c.Write([]byte("354 go\r\n")); err != nil {
					return
				}
				for err == nil && line != ".\r\n" {
					line, err = r.ReadString('\n')
				}
				reply = "250 2.0.0 taken"
			default:
				reply = "250 ok"
			}
		}
	}
}

// TestSilentHosts: a host that does not answer, at connect or with its greeting, costs its time once; then it is passed over for a minute.
func TestSilentHosts(t *testing.T) {
	m := enqueue(t, letter, "a@a.example", "b@b.example")
	for name, cost := range map[string]time.Duration{"1": connectTime, "2": 5 * time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			var visited []string
			n := nowhere{"2": mute, "3": slow(0)}
			tr := n.transport(t, &visited, name, "3")
			for i, tt := range []struct {
				pause, cost time.Duration
				visited     string
			}{{0, cost, name + " 3"}, {10 * time.Second, 0, "3"}, {silentTime, cost, name + " 3"}} {
				visited = nil
				time.Sleep(tt.pause) // the session to host 3 is not kept so long
				begun := clock.Now()
				r := tr.Attempt(t.Context(), all(m, dest(t, "mx:")))
				if r[0].Err != nil || clock.Since(begun) != tt.cost || strings.Join(visited, " ") != tt.visited {
					t.Errorf("host %s, message %d: %+v after %v from %v", name, i, r[0], clock.Since(begun), visited)
				}
			}
		})
	}
}

// TestSilentOnly: the only host is silent: the second attempt fails at once, and says so.
func TestSilentOnly(t *testing.T) {
	m := enqueue(t, letter, "a@a.example", "b@b.example")
	synctest.Test(t, func(t *testing.T) {
		var visited []string
		tr := nowhere{}.transport(t, &visited, "1")
		for _, want := range []string{"451 4.4.1 Cannot connect to 1[192.0.2.1]:25 at 1[192.0.2.1]:25", "451 4.4.1 No answer from 1[192.0.2.1]:25 a short while ago at 1[192.0.2.1]:25"} {
			r := tr.Attempt(t.Context(), all(m, dest(t, "mx:")))
			if got := (&hosts{port: 1}).summary(r); got != want || r[0].Reached {
				t.Errorf("got %s, want %s", got, want)
			}
		}
		if len(visited) != 1 {
			t.Errorf("visited %v", visited)
		}
	})
}

// TestUrgent: who cannot wait has a silent host asked again at once; when that answers all are sent there again.
func TestUrgent(t *testing.T) {
	m := enqueue(t, letter, "a@a.example", "b@b.example")
	synctest.Test(t, func(t *testing.T) {
		var visited []string
		n := nowhere{}
		tr := n.transport(t, &visited, "1")
		for i, tt := range []struct {
			urgent, answers bool
			visited         int
		}{{false, false, 1}, {false, true, 0}, {true, false, 1}, {false, true, 0}, {true, true, 1}, {false, true, 1}} {
			delete(n, "1")
			if tt.answers {
				n["1"] = slow(0)
			}
			visited = nil
			r := all(m, dest(t, "mx:"))
			r.Urgent = tt.urgent
			result := tr.Attempt(t.Context(), r)[0]
			if sent := result.Err == nil; len(visited) != tt.visited || sent != (tt.answers && tt.visited > 0) {
				t.Errorf("attempt %d: visited %v, %+v", i, visited, result)
			}
			time.Sleep(10 * time.Second) // a session is not kept so long
		}
	})
}

// TestSilence: no more than maxSilent addresses are remembered, and a clock that is set back forgets them.
func TestSilence(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	clock.Set(func() time.Time { return now })
	t.Cleanup(func() { clock.Set(nil) })
	var s silence
	why := status.Temporary(451, "4.4.1", "x", nil)
	for i := range maxSilent + 10 {
		s.put(strconv.Itoa(i), why)
	}
	if len(s.addrs) != maxSilent || s.get(strconv.Itoa(maxSilent+9)) != why || s.get("other") != nil {
		t.Errorf("%d remembered", len(s.addrs))
	}
	now = now.Add(-time.Hour)
	if s.get(strconv.Itoa(maxSilent+9)) != nil {
		t.Error("remembered for an hour")
	}
	for err, want := range map[error]bool{context.DeadlineExceeded: true, &net.OpError{Err: context.DeadlineExceeded}: true, net.ErrClosed: false, errors.New("x"): false} {
		if isTimeout(status.Temporary(451, "4.4.1", "x", err)) != want {
			t.Errorf("%v: not %v", err, want)
		}
	}
}

// TestDeadline: a server that answers every command just in time does not hold an attempt for longer than an hour, nor is anything sent twice.
func TestDeadline(t *testing.T) {
	var to []string
	for i := range 30 {
		to = append(to, strconv.Itoa(i)+"@b.example")
	}
	m := enqueue(t, letter, "a@a.example", to...)
	synctest.Test(t, func(t *testing.T) {
		var visited []string
		tr := nowhere{"1": slow(4 * time.Minute), "2": slow(0)}.transport(t, &visited, "1", "2")
		begun := clock.Now()
		for i, r := range tr.Attempt(t.Context(), all(m, dest(t, "mx:"))) {
			if r.Err == nil || !r.Err.Temporary() || !strings.HasPrefix(r.Err.Text, "Attempt was stopped") || !r.Reached {
				t.Errorf("recipient %d: got %+v", i, r)
			}
		}
		if d := clock.Since(begun); d != attemptTime || len(visited) != 1 {
			t.Errorf("after %v, visited %v", d, visited)
		}
	})
}
