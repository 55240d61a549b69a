package queue

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/postel-mail/postel/internal/journal"
)

// TestFlusher: files that come while a batch is flushed are one batch, and each gets the outcome of its own flush.
func TestFlusher(t *testing.T) {
	var fl flusher
	dir := t.TempDir()
	const n, broken = 5, 3
	files := make([]*os.File, n)
	for i := range files {
		var err error
		if files[i], err = os.Create(fmt.Sprintf("%s/%d", dir, i)); err != nil {
			t.Fatal(err)
		}
		defer files[i].Close()
		if _, err := files[i].WriteString("x"); err != nil {
			t.Fatal(err)
		}
	}
	files[broken].Close()
	fl.turn.Lock() // a batch is being flushed
	outcomes := make([]chan error, n)
	for i, f := range files {
		outcomes[i] = make(chan error, 1)
		go func() { outcomes[i] <- fl.sync(f, 1, journal.Record{}) }()
	}
	var waiting *batch
	for count := 0; count < n; runtime.Gosched() {
		fl.mu.Lock()
		if waiting = fl.next; waiting != nil {
			count = len(waiting.files)
		}
		fl.mu.Unlock()
	}
	if err := fl.sync(files[0], together+1, journal.Record{}); err != nil {
		t.Errorf("a large file, which waits for nobody: %v", err)
	}
	fl.turn.Unlock()
	for i, c := range outcomes {
		if err := <-c; (err != nil) != (i == broken) {
			t.Errorf("file %d: %v", i, err)
		}
	}
	if fl.next != nil || len(waiting.files) != n {
		t.Errorf("flushed %d files together, want %d; left over: %v", len(waiting.files), n, fl.next)
	}
}

// TestTriggerAgain: runners come and go while a writer stays.
func TestTriggerAgain(t *testing.T) {
	s, err := Open(t.TempDir() + "/spool")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	s.Trigger(strings.Repeat("0", IDLength)) // nobody listens
	for i := range 3 {
		f, err := s.OpenTrigger()
		if err != nil {
			t.Fatal(err)
		}
		id := strings.Repeat("0", IDLength-1) + fmt.Sprint(i)
		s.Trigger(id)
		ended := make(chan error, 1)
		woken := ""
		go func() {
			ended <- s.Wakeups(f, func(id string) { woken += id + " "; f.Close() })
		}()
		if err := <-ended; err != nil || woken != id+" " {
			t.Errorf("runner %d: %v, woken for %q, want %q", i, err, woken, id)
		}
		s.Trigger(id) // nobody listens again
	}
}
