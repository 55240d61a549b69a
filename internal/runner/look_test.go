package runner

import (
	"testing"
	"time"

	"github.com/postel-mail/postel/internal/clock"
)

// TestLookAtMany: a look at a large queue finds what has just come first, and of each other message whether it is new, waits or is held.
func TestLookAtMany(t *testing.T) {
	g := newRig(t, nil)
	now := clock.Now()
	clock.Set(func() time.Time { return now })
	defer clock.Set(nil)
	const third = 200
	want := map[string]slot{}
	for i := range 3 * third {
		id := g.put(t, "", to("u@x.example"))
		want[id] = slot{place: waiting}
		if i%3 == 0 {
			continue
		}
		m, err := g.Spool.Claim(id)
		if err != nil {
			t.Fatal(err)
		}
		m.State.Attempts, m.State.Last, m.State.Next, m.State.Hold = 1, now, now.Add(2*time.Hour), i%3 == 1
		want[id] = slot{place: waiting, tried: true, due: int64(time.Hour)}
		if m.State.Hold {
			want[id] = slot{place: held, tried: true, due: int64(time.Hour)}
		}
		if err := m.Record(false); err != nil {
			t.Fatal(err)
		}
		m.Close()
	}
	now = now.Add(time.Hour)
	young := g.put(t, "", to("u@x.example"))
	want[young] = slot{place: waiting}
	l := newLoop(g.Runner, t.Context(), Stay)
	l.look(true)
	for l.looking || l.cleaning {
		(<-l.events)()
		if _, there := l.schedule.slots[keyOf(young)]; !there && len(l.schedule.slots) > 0 {
			t.Fatal("new mail waits for others")
		}
	}
	if l.failed != nil || len(l.schedule.slots) != len(want) {
		t.Errorf("%d found, want %d; %v", len(l.schedule.slots), len(want), l.failed)
	}
	for id, w := range want {
		if got := l.schedule.slots[keyOf(id)]; got.place != w.place || got.tried != w.tried || time.Duration(got.due).Round(time.Second) != time.Duration(w.due) {
			t.Fatalf("%s: got %+v, want %+v", id, got, w)
		}
	}
}
