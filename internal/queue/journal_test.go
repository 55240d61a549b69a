package queue

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/postel-mail/postel/internal/clock"
	"github.com/postel-mail/postel/internal/durable"
	"github.com/postel-mail/postel/internal/journal"
)

// noting gives a spool with a journal, whatever its file system is.
func noting(t *testing.T) (*Spool, *journals) {
	t.Helper()
	s := open(t)
	s.order.Store(int32(durable.RenameFsync))
	if err := s.startJournal(minHalf, func(err error) { t.Errorf("problem: %v", err) }); err != nil {
		t.Fatal(err)
	}
	j := s.flusher.journals.Load()
	if j == nil {
		t.Fatal("no journal")
	}
	return s, j
}

// send puts a message of about so many octets into the queue.
func send(t *testing.T, s *Spool, octets int) (id string) {
	w, err := s.Create(newEnvelope())
	if err == nil {
		_, err = io.WriteString(w, body+strings.Repeat("0123456789abcdef\r\n", octets/18))
	}
	if err == nil {
		err = w.Commit()
	}
	if err != nil {
		t.Errorf("a message of %d octets: %v", octets, err)
		return ""
	}
	return w.ID()
}

// records gives the records of all journals of a spool.
func records(t *testing.T, s *Spool) map[string][]byte {
	t.Helper()
	all := map[string][]byte{}
	for _, name := range left(t, s, journalName) {
		f, err := os.Open(s.dir.Path() + "/" + journalName + "/" + name)
		if err != nil {
			t.Fatal(err)
		}
		if err := journal.Read(f, func(r journal.Record) error { all[r.Name] = r.Data; return nil }); err != nil {
			t.Error(err)
		}
		f.Close()
	}
	return all
}

func left(t *testing.T, s *Spool, folder string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(s.dir.Path() + "/" + folder)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// TestJournalNotes: when Commit has returned, a message that fits is noted as its file is, and a larger one has been flushed.
func TestJournalNotes(t *testing.T) {
	s, j := noting(t)
	for _, octets := range []int{0, 2600, 60000, 70000} {
		id := send(t, s, octets)
		file, err := os.ReadFile(s.queue.Path() + "/" + id)
		if err != nil {
			t.Fatal(err)
		}
		data, ok := records(t, s)[id]
		if want := octets < 64000; ok != want || want && !bytes.Equal(data, file) {
			t.Errorf("%d octets: noted %v, want %v; %d octets of %d", octets, ok, want, len(data), len(file))
		}
		m, err := s.Claim(id)
		if err != nil {
			t.Fatal(err)
		}
		m.Close()
	}
	j.overdue()
	j.settled.Wait()
	if n := len(records(t, s)); n != 0 {
		t.Errorf("%d messages are noted when they are overdue", n)
	}
	s.Close()
	if names := left(t, s, journalName); len(names) != 0 {
		t.Errorf("after Close: %q", names)
	}
}

// TestJournalTurns: with many writers, both halves are used again and again; nobody waits for what cannot be noted.
func TestJournalTurns(t *testing.T) {
	s, j := noting(t)
	var all sync.WaitGroup
	var mu sync.Mutex
	ids := map[string]bool{}
	for range 8 {
		all.Go(func() {
			for i := range 12 {
				id := send(t, s, 1000+i*3000)
				mu.Lock()
				ids[id] = true
				mu.Unlock()
			}
		})
	}
	all.Wait()
	j.settled.Wait()
	if len(ids) != 8*12 {
		t.Errorf("%d messages", len(ids))
	}
	for id := range ids {
		if m, err := s.Claim(id); err != nil {
			t.Error(err)
		} else {
			m.Close()
		}
	}
	if j.active == nil || j.spare == nil {
		t.Error("the journal was given up")
	}
}

// TestJournalGivenUp: a journal that cannot be written costs nothing but speed.
func TestJournalGivenUp(t *testing.T) {
	s, j := noting(t)
	problems := 0
	j.problem = func(error) { problems++ }
	first := send(t, s, 100)
	if err := j.active.Close(); err != nil {
		t.Fatal(err)
	}
	second := send(t, s, 100)
	j.settled.Wait()
	if problems == 0 || j.active != nil || j.spare != nil {
		t.Errorf("%d problems; active %v, spare %v", problems, j.active, j.spare)
	}
	for _, id := range []string{first, second, send(t, s, 100)} {
		if m, err := s.Claim(id); err != nil {
			t.Error(err)
		} else {
			m.Close()
		}
	}
}

// TestJournalKept: what could not be flushed stays noted, for the next start.
func TestJournalKept(t *testing.T) {
	s, j := noting(t)
	problems := 0
	j.problem = func(error) { problems++ }
	flushes := 0
	j.flush = func() error {
		if flushes++; flushes > 1 {
			return nil // the kernel says it once
		}
		return errors.New("input/output error")
	}
	first := send(t, s, 100)
	j.mu.Lock()
	j.turn()
	j.mu.Unlock()
	id := send(t, s, 100)
	s.Close()
	if problems == 0 {
		t.Error("nobody heard")
	}
	if err := errors.Join(os.Remove(s.queue.Path()+"/"+id), os.Remove(s.queue.Path()+"/"+first)); err != nil {
		t.Fatal(err)
	}
	again, err := Open(s.dir.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if n, err := again.Recover(); n != 2 || err != nil {
		t.Errorf("recovered %d, %v", n, err)
	}
	for _, id := range []string{first, id} {
		if m, err := again.Claim(id); err != nil {
			t.Error(err)
		} else {
			m.Close()
		}
	}
}

// TestRecover: of what a journal has, that is made again which a power cut took or tore, and nothing else.
func TestRecover(t *testing.T) {
	s := open(t)
	dir, err := s.dir.Sub(journalName, 0o700)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	here := durable.Life(dir)
	if here == "" {
		t.Log("the kernel does not tell one mount from another")
	}
	type fate struct {
		name   string
		change func(t *testing.T, path string)
		again  bool // after a power cut
	}
	write := func(data string) func(*testing.T, string) {
		return func(t *testing.T, path string) {
			if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	remove := func(t *testing.T, path string) {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	fates := []fate{
		{"whole", func(*testing.T, string) {}, false},
		{"missing", remove, true},
		{"zeros", write(strings.Repeat("\x00", 500)), true},
		{"empty", write(""), true},
		{"longer", write(strings.Repeat("x", 70000)), true},
		{"missing, half in tmp", func(t *testing.T, path string) {
			remove(t, path)
			write("half")(t, strings.Replace(path, "/queue/", "/tmp/", 1))
		}, true},
		{"discarded", func(t *testing.T, path string) {
			m, err := s.Claim(path[len(path)-IDLength:])
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			if err := errors.Join(m.Discard(), s.SyncRemoved()); err != nil {
				t.Fatal(err)
			}
		}, false},
	}
	for _, life := range []string{here, "", "another boot 1"} {
		for _, f := range fates {
			t.Run(fmt.Sprintf("%s after %q", f.name, life), func(t *testing.T) {
				id := put(t, s)
				path := s.queue.Path() + "/" + id
				file, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				j, err := journal.Create(dir, NewID(Arrival(id)), life, minHalf)
				if err == nil {
					err = j.Append([]journal.Record{{Name: id, Data: file}})
				}
				if err != nil {
					t.Fatal(err)
				}
				f.change(t, path)
				before, _ := os.ReadFile(path)
				if n, err := s.Recover(); n != 0 || err != nil || len(records(t, s)) != 1 {
					t.Errorf("the journal of somebody who lives: %d, %v", n, err)
				}
				if err := j.Close(); err != nil {
					t.Fatal(err)
				}
				again, want := 0, before
				if f.again && (life == "" || life != here) {
					again, want = 1, file
				}
				if n, err := s.Recover(); n != again || err != nil {
					t.Errorf("made %d messages again, want %d; %v", n, again, err)
				}
				if after, _ := os.ReadFile(path); !bytes.Equal(after, want) {
					t.Errorf("%d octets, want %d", len(after), len(want))
				}
				if len(records(t, s)) != 0 || len(left(t, s, "tmp")) != 0 && again == 1 {
					t.Errorf("left: %q, %q", left(t, s, journalName), left(t, s, "tmp"))
				}
				_ = os.Remove(path)
				_ = os.Remove(strings.Replace(path, "/queue/", "/tmp/", 1))
				_ = os.Remove(dir.Path() + "/" + id + goneSuffix)
			})
		}
	}
}

// TestRecoverLeavesWhatItDoesNotKnow: a journal of a later version, or a damaged one, is an error and stays; others are taken.
func TestRecoverLeavesWhatItDoesNotKnow(t *testing.T) {
	s := open(t)
	dir, err := s.dir.Sub(journalName, 0o700)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	known, unknown := strings.Repeat("1", IDLength), strings.Repeat("2", IDLength)
	for name, text := range map[string]string{known: "", unknown: "postel-journal 2\n", "README": "x"} {
		if err := os.WriteFile(dir.Path()+"/"+name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := s.Recover(); n != 0 || !errors.Is(err, journal.ErrUnknown) {
		t.Errorf("%d, %v", n, err)
	}
	if got := strings.Join(left(t, s, journalName), " "); got != unknown+" README" {
		t.Errorf("left %q", got)
	}
}

// TestDiscarded: what a person has deleted is remembered for a while, where it may be noted.
func TestDiscarded(t *testing.T) {
	s, _ := noting(t)
	discard := func(id string) {
		m, err := s.Claim(id)
		if err == nil {
			err = m.Discard()
			m.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	gone := func() (n int) {
		for _, name := range left(t, s, journalName) {
			if strings.HasSuffix(name, goneSuffix) {
				n++
			}
		}
		return n
	}
	late := send(t, s, 100)
	discard(send(t, s, 100))
	now := clock.Now()
	clock.Set(func() time.Time { return now.Add(2 * noted) })
	defer clock.Set(nil)
	discard(late)
	if n := gone(); n != 1 {
		t.Errorf("%d are remembered, want 1", n)
	}
	for hours, want := range []int{1, 1, 0} {
		clock.Set(func() time.Time { return now.Add(time.Duration(hours) * 40 * time.Minute) })
		if err := s.Clean(); err != nil {
			t.Error(err)
		}
		if n := gone(); n != want {
			t.Errorf("%d are remembered after %d minutes, want %d", n, hours*40, want)
		}
	}
}
