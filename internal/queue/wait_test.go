package queue

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postel-mail/postel/internal/address"
	"github.com/postel-mail/postel/internal/clock"
	"github.com/postel-mail/postel/internal/envelope"
	"github.com/postel-mail/postel/internal/status"
)

func newWaiter(t *testing.T, s *Spool) *Waiter {
	t.Helper()
	w, err := NewWaiter(s.dir.Path())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	return w
}

// waitedFor puts a message into the queue for which somebody waits under that name, and claims it.
func waitedFor(t *testing.T, s *Spool, name string, uid int, rcpts ...envelope.Recipient) *Message {
	t.Helper()
	e := newEnvelope()
	e.Wait, e.UID = name, uid
	if len(rcpts) > 0 {
		e.Rcpts = rcpts
	}
	w, err := s.Create(e)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort()
	_, _ = io.WriteString(w, body)
	if err := w.Commit(); err != nil {
		t.Fatal(err)
	}
	m, err := s.Claim(w.ID())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	return m
}

var long = status.Permanent(550, "5.1.1", strings.Repeat("no ", 500), errors.New(strings.Repeat("why ", 500)))

// TestWait: who waits hears first that a runner has the message, then of each recipient, whatever stands in its address and in the answer; and the wait ends
// when all are known.
func TestWait(t *testing.T) {
	s := open(t)
	w := newWaiter(t, s)
	var st unix.Stat_t
	if err := unix.Stat(s.dir.Path()+"/wait/"+w.Name(), &st); err != nil || st.Mode != unix.S_IFIFO|0o622 || !envelope.ValidWait(w.Name()) {
		t.Errorf("%q: mode %o, %v", w.Name(), st.Mode, err)
	}
	m := waitedFor(t, s, w.Name(), os.Getuid(), envelope.Recipient{To: address.Path{Local: "b> 0 d", Domain: "south.example"}},
		envelope.Recipient{To: address.Path{Local: "postmaster"}}, envelope.Recipient{To: address.Path{Local: "jü", Domain: "süd.example"}})
	ended := make(chan error, 1)
	go func() { ended <- w.Wait(t.Context()) }()
	m.Announce()
	m.State.Rcpts[0] = Outcome{Progress: Relayed, Relay: "mx\n[192.0.2.1]:25", Told: true}
	m.Announce()
	m.State.Rcpts[1] = Outcome{Last: status.Temporary(450, "4.2.1", "busy", nil), Relay: strings.Repeat("=", 5000)}
	m.Announce()
	m.State.Rcpts[2] = Outcome{Progress: Failed, Last: long, Relay: "mx", Said: true}
	m.Announce()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	for i, want := range []Outcome{m.State.Rcpts[0], {Last: m.State.Rcpts[1].Last}, {Progress: Failed, Relay: "mx", Said: true,
		Last: &status.Error{Code: 550, Enhanced: "5.1.1", Text: status.Clean(long.Text)}}} {
		r := w.Rcpts[i]
		got, last := fmt.Sprintf("%+v %v", r.Outcome, r.Last), fmt.Sprintf("%+v %v", want, want.Last)
		if got[strings.LastIndex(got, "Relay:"):] != last[strings.LastIndex(last, "Relay:"):] || r.Progress != want.Progress || r.To != m.Envelope.Rcpts[i].To {
			t.Errorf("of %d: got %v %s\nwant %s", i, r.To, got, last)
		}
	}
	if len(w.Rcpts) != 3 {
		t.Errorf("%d recipients", len(w.Rcpts))
	}
	w.Close()
	if err := unix.Stat(s.dir.Path()+"/wait/"+w.Name(), &st); !errors.Is(err, unix.ENOENT) {
		t.Errorf("it stays: %v", err)
	}
	m.Announce() // nobody is there, and nothing happens
}

// TestWaitEnds: with the context, and what was heard until then stays.
func TestWaitEnds(t *testing.T) {
	s := open(t)
	w := newWaiter(t, s)
	m := waitedFor(t, s, w.Name(), os.Getuid())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := w.Wait(ctx); !errors.Is(err, context.Canceled) || w.Rcpts != nil {
		t.Errorf("got %v %v", err, w.Rcpts)
	}
	m.State.Rcpts[1] = Outcome{Progress: Delivered}
	m.Announce()
	w = newWaiter(t, s)
	m.Envelope.Wait = w.Name()
	m.Announce()
	ctx, cancel = context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.Wait(ctx) }()
	for { // until it has read everything
		n, err := unix.IoctlGetInt(int(w.fifo.Fd()), unix.TIOCINQ)
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			break
		}
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) || len(w.Rcpts) != 2 || w.Rcpts[0].known() || w.Rcpts[1].Progress != Delivered {
		t.Errorf("got %v %+v", err, w.Rcpts)
	}
}

// TestAnnounceNeverWaits: a reader that sleeps, and files that are no reader's, cost the runner nothing.
func TestAnnounceNeverWaits(t *testing.T) {
	s := open(t)
	w := newWaiter(t, s)
	var rcpts []envelope.Recipient
	for range 100 {
		rcpts = append(rcpts, envelope.Recipient{To: address.Path{Local: "x", Domain: "y.example"}})
	}
	m := waitedFor(t, s, w.Name(), os.Getuid(), rcpts...)
	for i := range m.State.Rcpts {
		m.State.Rcpts[i] = Outcome{Progress: Failed, Last: long}
	}
	if _, err := unix.FcntlInt(w.fifo.Fd(), unix.F_SETPIPE_SZ, 4096); err != nil {
		t.Fatal(err)
	}
	m.Announce()
	dir := s.dir.Path() + "/wait/"
	const file, fifo, link = "0000000000000000file", "0000000000000000fifo", "0000000000000000link"
	if err := errors.Join(os.WriteFile(dir+file, nil, 0o666), unix.Mkfifo(dir+fifo, 0o666), os.Symlink(file, dir+link)); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{file, fifo, link, "0000000000000000none"} {
		m.Envelope.Wait = name
		m.Announce()
	}
	if text, err := os.ReadFile(dir + file); err != nil || len(text) > 0 {
		t.Errorf("into a file: %q %v", text, err)
	}
	other := newWaiter(t, s)
	m.Envelope.Wait, m.Envelope.UID = other.Name(), os.Getuid()+1
	m.Announce()
	if n, err := unix.IoctlGetInt(int(other.fifo.Fd()), unix.TIOCINQ); n != 0 || err != nil {
		t.Errorf("to another user: %d octets, %v", n, err)
	}
}

// TestWaitManyRecipients: the news of as many recipients as the configuration has by default are heard, even by a reader that sleeps meanwhile.
func TestWaitManyRecipients(t *testing.T) {
	s := open(t)
	w := newWaiter(t, s)
	var rcpts []envelope.Recipient
	for n := range 1000 {
		rcpts = append(rcpts, envelope.Recipient{To: address.Path{Local: fmt.Sprint("somebody.", n), Domain: "a.rather.long.domain.example"}})
	}
	m := waitedFor(t, s, w.Name(), os.Getuid(), rcpts...)
	for i := range m.State.Rcpts {
		m.State.Rcpts[i] = Outcome{Progress: Failed, Relay: "mail.a.rather.long.domain.example[192.0.2.1]:25", Last: status.Permanent(550, "5.1.1", strings.Repeat("no ", 100), nil)}
	}
	m.Announce()
	if err := w.Wait(t.Context()); err != nil || len(w.Rcpts) != 1000 {
		t.Errorf("%d, %v", len(w.Rcpts), err)
	}
}

// TestCleanWait: what nobody reads goes away after an hour, somebody's FIFO stays.
func TestCleanWait(t *testing.T) {
	s := open(t)
	w := newWaiter(t, s)
	dir := s.dir.Path() + "/wait"
	if err := errors.Join(os.WriteFile(dir+"/file", nil, 0o666), unix.Mkfifo(dir+"/left", 0o622), os.Symlink("file", dir+"/link"), os.Mkdir(dir+"/dir", 0o700)); err != nil {
		t.Fatal(err)
	}
	now := clock.Now()
	defer clock.Set(nil)
	for _, c := range []struct {
		later time.Duration
		want  string
	}{{30 * time.Minute, "dir file left link WAITER"}, {2 * time.Hour, "dir WAITER"}} {
		clock.Set(func() time.Time { return now.Add(c.later) })
		if err := s.Clean(); err != nil {
			t.Fatal(err)
		}
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		left := map[string]bool{}
		for _, e := range entries {
			left[strings.Replace(e.Name(), w.Name(), "WAITER", 1)] = true
		}
		if len(left) != len(strings.Fields(c.want)) {
			t.Errorf("after %v: %v, want %s", c.later, left, c.want)
		}
		for _, name := range strings.Fields(c.want) {
			if !left[name] {
				t.Errorf("after %v: no %s", c.later, name)
			}
		}
	}
}

// FuzzHear: no line does anything but be understood or passed over, and what is understood is bounded.
func FuzzHear(f *testing.F) {
	f.Add("2", "2 <a@b.example> 1 failed told mx[192.0.2.1]:25 said 550 5.1.1 no such user")
	f.Add("1000000000 ", "1 <> 0 relayed - - - 0 - ")
	f.Fuzz(func(t *testing.T, one, two string) {
		w := &Waiter{}
		w.hear(one)
		w.hear(two)
		if len(w.Rcpts) > maxWaiting {
			t.Fatalf("%d recipients", len(w.Rcpts))
		}
		_ = w.complete()
	})
}
