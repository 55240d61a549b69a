package queue

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/postel-mail/postel/internal/address"
	"github.com/postel-mail/postel/internal/clock"
	"github.com/postel-mail/postel/internal/durable"
	"github.com/postel-mail/postel/internal/envelope"
	"github.com/postel-mail/postel/internal/status"
)

func newEnvelope() *envelope.Envelope {
	return &envelope.Envelope{
		From: address.Path{Local: "a", Domain: "north.example"}, UID: -1,
		Rcpts: []envelope.Recipient{{To: address.Path{Local: "b", Domain: "south.example"}}, {To: address.Path{Local: "c", Domain: "south.example"}}},
	}
}

const body = "Subject: x\r\n\r\nhello\r\n"

func put(t *testing.T, s *Spool) string {
	t.Helper()
	e := newEnvelope()
	w, err := s.Create(e)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort()
	if _, err := io.WriteString(w, body); err != nil {
		t.Fatal(err)
	}
	if err := w.Commit(); err != nil {
		t.Fatal(err)
	}
	return w.ID()
}

func open(t *testing.T) *Spool {
	t.Helper()
	s, err := Open(filepath.Join(t.TempDir(), "spool"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func TestRoundTrip(t *testing.T) {
	for _, order := range []durable.Order{durable.FsyncRenameFsync, durable.RenameFsync} {
		s := open(t)
		s.order.Store(int32(order))
		id := put(t, s)
		m, err := s.Claim(id)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(m.Body())
		if err != nil || string(got) != body || m.Size() != int64(len(body)) {
			t.Errorf("%v: body %q, size %d, %v", order, got, m.Size(), err)
		}
		if m.Envelope.ID != id || len(m.Envelope.Rcpts) != 2 || m.Envelope.Arrival.IsZero() {
			t.Errorf("%v: envelope %+v", order, m.Envelope)
		}
		f, err := m.OpenBody()
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := io.ReadAll(f); string(got) != body {
			t.Errorf("%v: file gives %q", order, got)
		}
		f.Close()
		if _, err := s.Claim(id); !errors.Is(err, ErrBusy) {
			t.Errorf("%v: second claim: %v", order, err)
		}
		m.Close()
		if m, err = s.Claim(id); err != nil {
			t.Fatal(err)
		}
		if err := m.Remove(); err != nil {
			t.Error(err)
		}
		m.Close()
		if _, err := s.Claim(id); !errors.Is(err, ErrGone) {
			t.Errorf("%v: claim after removal: %v", order, err)
		}
		for _, dir := range []string{"tmp", "queue", "state", "corrupt"} {
			if left, _ := os.ReadDir(s.dir.Path() + "/" + dir); len(left) != 0 {
				t.Errorf("%v: %s has %v", order, dir, left)
			}
		}
	}
}

// TestTorn takes every kind of damage that a power cut can leave under a queue file's name.
func TestTorn(t *testing.T) {
	for _, tt := range []struct {
		name  string
		spoil func(b []byte) []byte
	}{
		{"empty", func(b []byte) []byte { return nil }},
		{"cut in the head", func(b []byte) []byte { return b[:20] }},
		{"cut in the envelope", func(b []byte) []byte { return b[:headLength+10] }},
		{"cut in the body", func(b []byte) []byte { return b[:len(b)-1] }},
		{"longer", func(b []byte) []byte { return append(b, 'x') }},
		{"zeros for data", func(b []byte) []byte { clear(b[headLength:]); return b }},
		{"one bit", func(b []byte) []byte { b[len(b)-3] ^= 1; return b }},
		{"head not filled in", func(b []byte) []byte { copy(b, fmt.Sprintf(headFormat, 0, 0)); return b }},
		{"not a queue file", func(b []byte) []byte { return []byte("From a\n") }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := open(t)
			id := put(t, s)
			path := s.queue.Path() + "/" + id
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, tt.spoil(b), 0o600); err != nil {
				t.Fatal(err)
			}
			var bad *CorruptError
			if _, err := s.Claim(id); !errors.As(err, &bad) || !bad.Moved {
				t.Fatalf("claim: %v", err)
			}
			if _, err := os.Stat(s.corrupt.Path() + "/" + id); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestLaterVersionIsLeftAlone(t *testing.T) {
	s := open(t)
	id := put(t, s)
	path := s.queue.Path() + "/" + id
	b, _ := os.ReadFile(path)
	if err := os.WriteFile(path, bytes.Replace(b, []byte("queue 1"), []byte("queue 2"), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Claim(id); !errors.Is(err, ErrVersion) {
		t.Errorf("claim: %v", err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Error(err)
	}
}

// TestGolden reads a spool file of version 1 as it was first written, and must do so for ever.
func TestGolden(t *testing.T) {
	s := open(t)
	const id = "1jsk0m8b6ggqrrmcf4x2"
	b, err := os.ReadFile("testdata/version1/" + id)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.queue.Path()+"/"+id, b, 0o600); err != nil {
		t.Fatal(err)
	}
	m, err := s.Claim(id)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	got, _ := io.ReadAll(m.Body())
	if string(got) != "Subject: golden\r\n\r\nhello\r\n" || m.Envelope.From.String() != "alice@north.example" || m.Envelope.Rcpts[1].Notify != "NEVER" {
		t.Errorf("%+v %q", m.Envelope, got)
	}
}

// TestBeingWritten: a message under its final name that is still locked by its writer is not taken, whatever it looks like.
func TestBeingWritten(t *testing.T) {
	s := open(t)
	w, err := s.Create(newEnvelope())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.tmp.Rename(w.id, s.queue, w.id); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Claim(w.id); !errors.Is(err, ErrBusy) {
		t.Errorf("claim: %v", err)
	}
	w.file.Close() // the writer dies
	var bad *CorruptError
	if _, err := s.Claim(w.id); !errors.As(err, &bad) || !bad.Moved {
		t.Errorf("claim after the writer's death: %v", err)
	}
}

func TestAbortLeavesNothing(t *testing.T) {
	s := open(t)
	w, err := s.Create(newEnvelope())
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(w, body)
	w.Abort()
	w.Abort()
	if err := w.Commit(); err == nil {
		t.Error("commit after abort worked")
	}
	if ids, _ := s.IDs(); len(ids) != 0 {
		t.Error(ids)
	}
	if left, _ := os.ReadDir(s.tmp.Path()); len(left) != 0 {
		t.Error(left)
	}
}

func TestMinFree(t *testing.T) {
	s := open(t)
	s.SetMinFree(1 << 62)
	_, err := s.Create(newEnvelope())
	if got := status.Of(err); got == nil || got.Code != 452 || got.Enhanced != "4.3.1" {
		t.Errorf("got %v", err)
	}
}

// TestFailedFlushIsNotBelieved: after a flush that failed, new mail waits for a probe file that can be flushed.
func TestFailedFlushIsNotBelieved(t *testing.T) {
	s := open(t)
	w, err := s.Create(newEnvelope())
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(w, body)
	if err := s.named(w.id, s.flush(func() error { return errors.New("input/output error") })); err == nil {
		t.Fatal("no error")
	}
	w.Abort()
	if !s.broken.Load() {
		t.Fatal("not remembered")
	}
	put(t, s) // the probe works here
	if s.broken.Load() {
		t.Error("not forgotten after a probe that worked")
	}
}

func TestState(t *testing.T) {
	s := open(t)
	id := put(t, s)
	m, err := s.Claim(id)
	if err != nil {
		t.Fatal(err)
	}
	m.State.Attempts, m.State.Hold, m.State.Warned = 3, true, true
	m.State.Last, m.State.Waited = time.Date(2026, 1, 2, 2, 0, 0, 0, time.UTC), 90*time.Minute
	m.State.Next = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	m.State.Rcpts[0] = Outcome{Progress: Delivered}
	m.State.Rcpts[1] = Outcome{Last: status.Temporary(450, "4.2.1", "busy  now", nil), Relay: "mx a[::1]:25", Said: true}
	want := fmt.Sprintf("%+v", m.State)
	if err := m.Record(true); err != nil {
		t.Fatal(err)
	}
	m.Close()
	if m, err = s.Claim(id); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprintf("%+v", m.State); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	m.Close()
	// A state that cannot be read, or that is another's, counts as none.
	done := "Rcpt: 0 relayed told - said 0 - \nRcpt: 1 relayed told - said 0 - \nEnd\n"
	own := "postel-state 1\nId: " + id + "\n"
	for _, text := range []string{"", "garbage", "postel-state 1\nId: 1jsk0m8b6ggqrrmcf4x2\nAttempts: 1\nHold: yes\n" + done, "postel-state 1\n" + done, own + own + done,
		own + "Attempts: 3\n", own + "Attempts: -1\nEnd\n", own + "Rcpt: 9 failed - - - 0 - \nEnd\n"} {
		if err := os.WriteFile(s.state.Path()+"/"+id, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if m, err = s.Claim(id); err != nil {
			t.Fatal(err)
		}
		if m.State.Attempts != 0 || m.State.Hold || m.State.Rcpts[0].Progress != Waiting {
			t.Errorf("%q gives %+v", text, m.State)
		}
		if next, held, _ := s.Schedule(id); held || !next.IsZero() {
			t.Errorf("%q: next %v, held %v", text, next, held)
		}
		m.Close()
	}
}

func TestIDs(t *testing.T) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	seen := map[string]bool{}
	for range 4 {
		wg.Go(func() {
			last := ""
			for range 5000 {
				id := NewID(clock.Now())
				if !ValidID(id) || id <= last {
					t.Errorf("%q after %q", id, last)
				}
				last = id
				mu.Lock()
				if seen[id] {
					t.Errorf("%q twice", id)
				}
				seen[id] = true
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	t0 := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	if a, b := NewID(t0), NewID(t0.AddDate(300, 0, 0)); a >= b {
		t.Errorf("%q does not sort before %q", a, b)
	}
}

// TestMerge copies one spool into another, as cp does.
func TestMerge(t *testing.T) {
	a, b := open(t), open(t)
	ids := []string{put(t, a), put(t, b), put(t, a)}
	for _, id := range []string{ids[0], ids[2]} {
		data, _ := os.ReadFile(a.queue.Path() + "/" + id)
		if err := os.WriteFile(b.queue.Path()+"/"+id, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got, err := b.IDs()
	if err != nil || !slices.Equal(got, ids) {
		t.Errorf("got %v, want %v, %v", got, ids, err)
	}
	for _, id := range got {
		m, err := b.Claim(id)
		if err != nil {
			t.Fatal(err)
		}
		m.Close()
	}
}

func TestClean(t *testing.T) {
	s := open(t)
	old := clock.Now().Add(-2 * time.Hour)
	for _, name := range []string{"old", "new"} {
		if err := os.WriteFile(s.tmp.Path()+"/"+name, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	w, err := s.Create(newEnvelope()) // old, but being written
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort()
	for _, name := range []string{"old", w.id} {
		if err := os.Chtimes(s.tmp.Path()+"/"+name, old, old); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Clean(); err != nil {
		t.Fatal(err)
	}
	var left []string
	_ = s.tmp.Names(func(name string) bool { left = append(left, name); return true })
	slices.Sort(left)
	if want := []string{w.id, "new"}; !slices.Equal(left, want) {
		t.Errorf("left %v, want %v", left, want)
	}
}

func TestTriggerWakes(t *testing.T) {
	s := open(t)
	s.Trigger("") // nobody listens: nothing happens
	f, err := s.OpenTrigger()
	if err != nil {
		t.Fatal(err)
	}
	woken, ended := make(chan string, 10), make(chan error)
	go func() { ended <- s.Wakeups(f, func(id string) { woken <- id }) }()
	id := put(t, s)
	if got := <-woken; got != id {
		t.Errorf("woken for %q, want %q", got, id)
	}
	s.Trigger("")
	if got := <-woken; got != "" {
		t.Errorf("woken for %q, want all", got)
	}
	f.Close()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestTriggerOverflow: when ids are lost because the pipe is full, the runner looks at everything.
func TestTriggerOverflow(t *testing.T) {
	s := open(t)
	f, err := s.OpenTrigger()
	if err != nil {
		t.Fatal(err)
	}
	id := NewID(clock.Now())
	for range 10000 {
		s.Trigger(id)
	}
	all := make(chan bool, 1)
	go func() {
		_ = s.Wakeups(f, func(id string) {
			if id == "" {
				all <- true
			}
		})
	}()
	<-all
	f.Close()
}

func TestLock(t *testing.T) {
	s := open(t)
	f, err := s.Lock()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Lock(); !errors.Is(err, durable.ErrLocked) {
		t.Errorf("second lock: %v", err)
	}
	f.Close()
	if f, err = s.Lock(); err != nil {
		t.Error(err)
	}
	f.Close()
}

// FuzzMessage: no file in queue/ makes a reader do anything but accept it or move it away.
func FuzzMessage(f *testing.F) {
	dir := f.TempDir()
	s, err := Open(dir + "/spool")
	if err != nil {
		f.Fatal(err)
	}
	good, err := os.ReadFile("testdata/version1/1jsk0m8b6ggqrrmcf4x2")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(strings.Replace(string(good), "Arrival", "Departure", 1)))
	const id = "1jsk0m8b6ggqrrmcf4x2"
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := os.WriteFile(s.queue.Path()+"/"+id, data, 0o600); err != nil {
			t.Fatal(err)
		}
		m, err := s.Peek(id)
		if err != nil {
			return
		}
		defer m.Close()
		if b, err := io.ReadAll(m.Body()); err != nil || int64(len(b)) != m.Size() {
			t.Fatalf("%d octets, size %d, %v", len(b), m.Size(), err)
		}
	})
}

func FuzzState(f *testing.F) {
	const id = "1jsk0m8b6ggqrrmcf4x2"
	f.Add("postel-state 1\nId: " + id + "\nAttempts: 3\nNext: 2026-11-23T00:00:00.000000Z\nHold: yes\nRcpt: 0 failed told - said 550 5.1.1 no\nEnd\n")
	f.Fuzz(func(t *testing.T, text string) {
		st, ok := parseState(text, id, 3)
		if !ok {
			return
		}
		again, ok := parseState(string(st.appendText(nil, id)), id, 3)
		if !ok || fmt.Sprintf("%+v", again) != fmt.Sprintf("%+v", st) {
			t.Fatalf("%q gives %+v, then %+v", text, st, again)
		}
	})
}
