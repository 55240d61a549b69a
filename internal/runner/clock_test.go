package runner

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postel-mail/postel/internal/clock"
	"github.com/postel-mail/postel/internal/status"
)

// TestClockJumps: a host comes up with a clock that is a year ahead or behind, once or again and again. Nothing expires, nobody is told of a delay, each
// message is tried at most once in a pass and waits afterwards, and new mail goes out at once.
func TestClockJumps(t *testing.T) {
	const old = 20 // messages that wait
	for _, tt := range []struct {
		name  string
		jumps []time.Duration // from the true time
	}{
		{"ahead", []time.Duration{year}},
		{"behind", []time.Duration{-year}},
		{"ahead and back", []time.Duration{year, 0}},
		{"behind and back", []time.Duration{-year, 0}},
		{"there and back and there", []time.Duration{year, -year, year, -year, 0}},
		{"an hour to and fro", []time.Duration{time.Hour, 0, time.Hour, 0}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			asked, up := map[string]int{}, false
			g := newRig(t, func(to string) *status.Error {
				asked[to]++
				if up || strings.HasPrefix(to, "new") {
					return nil
				}
				return busy
			})
			start := clock.Now().Round(0)
			now := start
			clock.Set(func() time.Time { return now })
			defer clock.Set(nil)
			ids := map[string]bool{}
			for i := range old {
				from := "a@north.example"
				if i%5 == 0 {
					from = "" // a report, whose life is shorter
				}
				ids[g.put(t, from, to(fmt.Sprintf("old%d@south.example", i)))] = true
			}
			g.once(t)
			for n, jump := range tt.jumps {
				now = start.Add(jump)
				ids[g.put(t, "a@north.example", to(fmt.Sprintf("new%d@south.example", n)))] = true
				clear(asked)
				g.once(t)
				if asked[fmt.Sprintf("new%d@south.example", n)] != 1 {
					t.Errorf("jump %d: new mail was tried %v", n, asked)
				}
				if most := slices.Max(slices.Collect(maps.Values(asked))); most > 1 {
					t.Errorf("jump %d: a message was tried %d times in one pass", n, most)
				}
				clear(asked)
				g.once(t)
				if len(asked) > 0 {
					t.Errorf("jump %d: tried again at once: %v", n, asked)
				}
			}
			now = now.Add(5 * time.Hour) // more than the longest wait
			up = true
			clear(asked)
			g.once(t)
			if len(asked) != old {
				t.Errorf("at last %d of %d messages were tried", len(asked), old)
			}
			if left, err := g.Spool.IDs(); err != nil || len(left) > 0 {
				t.Errorf("left in the queue: %v, %v", left, err)
			}
			if log := g.log.String(); strings.Contains(log, "event=bounced") || strings.Contains(log, "event=report") || strings.Contains(log, "level=error") {
				t.Errorf("the log says:\n%s", log)
			}
			if len(ids) != old+len(tt.jumps) {
				t.Errorf("%d ids for %d messages", len(ids), old+len(tt.jumps))
			}
		})
	}
}

const year = 365 * 24 * time.Hour

// TestClockIsSteady: what a runner waits for is measured on a clock that nobody sets.
func TestClockIsSteady(t *testing.T) {
	g := newRig(t, func(string) *status.Error { return nil })
	l := newLoop(g.Runner, t.Context(), Stay)
	if text := l.epoch.String(); !strings.Contains(text, " m=") {
		t.Errorf("the runner counts from %s, which has no monotonic reading", text)
	}
	if text := clock.Now().String(); !strings.Contains(text, " m=") {
		t.Errorf("clock.Now is %s, which has no monotonic reading", text)
	}
}
