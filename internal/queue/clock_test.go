package queue

import (
	"slices"
	"testing"
	"time"

	"github.com/postel-mail/postel/internal/clock"
)

// TestIDsWhenTheClockJumps: ids are never given twice, whatever the clock does; those of one reading of the clock ascend, a small step back does not
// disturb that, and those of different years sort like the arrivals in their envelopes.
func TestIDsWhenTheClockJumps(t *testing.T) {
	start := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	now := start
	clock.Set(func() time.Time { return now })
	defer clock.Set(nil)
	seen := map[string]bool{}
	some := func() (ids []string) {
		for range 1000 {
			id := NewID(clock.Now())
			if seen[id] {
				t.Fatalf("%s twice", id)
			}
			seen[id] = true
			ids = append(ids, id)
		}
		if !slices.IsSorted(ids) {
			t.Errorf("at %v the ids do not ascend", now)
		}
		return ids
	}
	first := some()
	now = start.Add(-500 * time.Millisecond)
	if again := some(); again[0] < first[999] {
		t.Errorf("half a second back: %s after %s", again[0], first[999])
	}
	now = start.AddDate(1, 0, 0)
	ahead := some()
	now = start.AddDate(-1, 0, 0)
	behind := some()
	now = start.Add(time.Minute)
	after := some()
	if !slices.IsSorted([]string{behind[999], first[0], first[999], after[0], after[999], ahead[0]}) {
		t.Errorf("a year behind %s, at first %s, a minute later %s, a year ahead %s", behind[999], first[0], after[0], ahead[0])
	}
	// The same instant once more, as after a jump there and back: the chance in an id is what tells them apart.
	now = start
	some()
}

// TestCleanWhenTheClockJumps: a clock that is a year ahead has nothing removed that is still being written; one that is a year behind nothing at all.
func TestCleanWhenTheClockJumps(t *testing.T) {
	for _, tt := range []struct {
		name  string
		years int
		left  int
	}{
		{"ahead", 1, 1},
		{"behind", -1, 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := open(t)
			w, err := s.Create(newEnvelope())
			if err != nil {
				t.Fatal(err)
			}
			defer w.Abort()
			f, err := s.tmp.Create("crashed", 0o600)
			if err != nil {
				t.Fatal(err)
			}
			f.Close()
			now := clock.Now().AddDate(tt.years, 0, 0)
			clock.Set(func() time.Time { return now })
			defer clock.Set(nil)
			if err := s.Clean(); err != nil {
				t.Fatal(err)
			}
			var left []string
			if err := s.tmp.Names(func(name string) bool { left = append(left, name); return true }); err != nil {
				t.Fatal(err)
			}
			if len(left) != tt.left || !slices.Contains(left, w.id) {
				t.Errorf("left %q, want %d with %s", left, tt.left, w.id)
			}
		})
	}
}
