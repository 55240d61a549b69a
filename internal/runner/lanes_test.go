package runner

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/postel-mail/postel/internal/clock"
	"github.com/postel-mail/postel/internal/destination"
	"github.com/postel-mail/postel/internal/queue"
	"github.com/postel-mail/postel/internal/status"
	"github.com/postel-mail/postel/internal/transport"
)

var patience = status.Temporary(451, "4.7.1", "too fast", nil)

// TestJudge: what results teach about a lane.
func TestJudge(t *testing.T) {
	yes := transport.Result{Code: 250, Remote: true}
	full := transport.Result{Err: busy, Code: 450, Remote: true}
	slow := transport.Result{Err: patience, Code: 451, Remote: true}
	bye := transport.Result{Err: status.Temporary(421, "4.3.2", "not now", nil)}
	lost := transport.Result{Err: status.Temporary(451, "4.4.2", "lost", nil), Reached: true}
	dead := transport.Result{Err: noHost}
	own := transport.Result{Err: status.Temporary(451, "4.3.0", "cannot read the file", nil)}
	for _, tt := range []struct {
		name   string
		begin  lane
		result []transport.Result
		alive  bool
		limit  int
		pace   time.Duration
		closed time.Duration
	}{
		{"the first yes opens it", lane{limit: 1}, []transport.Result{yes}, true, 2, 0, 0},
		{"a refusal is life too", lane{limit: 1}, []transport.Result{full}, true, 2, 0, 0},
		{"no further than the policy", lane{limit: 8, alive: true}, []transport.Result{yes}, true, 8, 0, 0},
		{"421 at once", lane{limit: 8, alive: true}, []transport.Result{bye}, true, 4, time.Second, 0},
		{"4.7.x", lane{limit: 8, alive: true}, []transport.Result{slow}, true, 4, time.Second, 0},
		{"4.7.x again", lane{limit: 1, alive: true, pace: 8 * time.Second}, []transport.Result{slow}, true, 1, 8 * time.Second, 0},
		{"421 again", lane{limit: 1, alive: true, pace: 8 * time.Second}, []transport.Result{bye}, true, 1, 16 * time.Second, 0},
		{"no slower than that", lane{limit: 1, alive: true, pace: time.Minute}, []transport.Result{bye}, true, 1, time.Minute, 0},
		{"a yes makes it faster", lane{limit: 1, alive: true, pace: 8 * time.Second}, []transport.Result{yes}, true, 2, 4 * time.Second, 0},
		{"and at last free", lane{limit: 1, alive: true, pace: time.Second}, []transport.Result{yes}, true, 2, 0, 0},
		{"a lost session", lane{limit: 8, alive: true}, []transport.Result{lost}, true, 4, 0, 0},
		{"the last of them", lane{limit: 1, alive: true}, []transport.Result{lost}, false, 1, 0, 0},
		{"lost before it ever answered", lane{limit: 1}, []transport.Result{lost}, false, 1, 0, 0},
		{"and again", lane{limit: 1, lost: 1}, []transport.Result{lost}, false, 1, 0, time.Minute},
		{"nobody there", lane{limit: 1}, []transport.Result{dead}, false, 1, 0, time.Minute},
		{"nobody there for the third time", lane{limit: 1, fails: 2}, []transport.Result{dead}, false, 1, 0, 4 * time.Minute},
		{"nobody there, no longer than the first wait", lane{limit: 1, fails: 40}, []transport.Result{dead}, false, 1, 0, 5 * time.Minute},
		{"unreached while others talk", lane{limit: 8, alive: true, active: 3}, []transport.Result{dead}, true, 4, 0, 0},
		{"one of two reached", lane{limit: 1}, []transport.Result{dead, yes}, true, 2, 0, 0},
		{"this host's trouble", lane{limit: 4, alive: true}, []transport.Result{own}, true, 4, 0, 0},
	} {
		g := newRig(t, nil)
		g.policy.Concurrency = 8
		now := clock.Now()
		clock.Set(func() time.Time { return now })
		l := newLoop(g.Runner, t.Context(), Stay)
		x := tt.begin
		l.judge(&x, tt.result)
		clock.Set(nil)
		if x.alive != tt.alive || x.limit != tt.limit || x.pace != tt.pace || time.Duration(x.closed) != tt.closed {
			t.Errorf("%s: alive %v limit %d pace %v closed %v, want %v %d %v %v", tt.name, x.alive, x.limit, x.pace, time.Duration(x.closed), tt.alive, tt.limit, tt.pace, tt.closed)
		}
	}
}

// meter counts what runs at once by domain.
type meter struct {
	mu        sync.Mutex
	now, most map[string]int
}

func newMeter() *meter { return &meter{now: map[string]int{}, most: map[string]int{}} }

func (m *meter) enter(r transport.Request) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.now[r.Domain]++
	m.most[r.Domain] = max(m.most[r.Domain], m.now[r.Domain])
}

func (m *meter) leave(r transport.Request) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.now[r.Domain]--
}

func ok(r transport.Request) []transport.Result {
	results := make([]transport.Result, len(r.Rcpts))
	for i := range results {
		results[i] = transport.Result{Dest: r.Dests[0], Code: 250, Remote: true}
	}
	return results
}

// TestGrowth: a destination gets one job until it has answered, then more, up to the policy's limit.
func TestGrowth(t *testing.T) {
	g := newRig(t, nil)
	g.policy.Concurrency, g.policy.Processes = 6, 100
	entered, leave := make(chan bool), make(chan bool)
	g.Attempt = func(_ context.Context, r transport.Request) []transport.Result {
		entered <- true
		<-leave
		return ok(r)
	}
	const n = 40
	for i := range n {
		g.put(t, "", to(fmt.Sprintf("u%d@south.example", i)))
	}
	ended := make(chan error)
	go func() { ended <- g.Run(t.Context(), Once) }()
	running := 0
	for done := range n {
		for ; running < min(1+done, 6, n-done); running++ {
			<-entered // hangs when it does not grow
		}
		select {
		case <-entered:
			t.Fatalf("more than %d at once after %d were done", running, done)
		case leave <- true:
			running--
		}
	}
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if ids, _ := g.Spool.IDs(); len(ids) != 0 {
		t.Errorf("%d left", len(ids))
	}
}

// TestHangingDestinations: many destinations that never answer do not keep the living ones waiting: they have a budget of their own.
func TestHangingDestinations(t *testing.T) {
	g := newRig(t, nil)
	g.policy.Concurrency, g.policy.Processes = 5, 10
	release := make(chan struct{})
	var living sync.WaitGroup
	living.Add(600)
	m := newMeter()
	g.Attempt = func(_ context.Context, r transport.Request) []transport.Result {
		m.enter(r)
		defer m.leave(r)
		if strings.HasPrefix(r.Domain, "dead") {
			<-release
			return []transport.Result{{Dest: r.Dests[0], Err: noHost, Reached: true}}
		}
		living.Done()
		return ok(r)
	}
	for range 4 {
		for i := range 150 {
			g.put(t, "", to(fmt.Sprintf("u@dead%d.example", i)))
			g.put(t, "", to(fmt.Sprintf("u@live%d.example", i)))
		}
	}
	ended := make(chan error)
	go func() { ended <- g.Run(t.Context(), Once) }()
	living.Wait()
	close(release)
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	for domain, most := range m.most {
		if strings.HasPrefix(domain, "dead") && most != 1 {
			t.Errorf("%s: %d at once", domain, most)
		}
	}
	if ids, _ := g.Spool.IDs(); len(ids) != 600 {
		t.Errorf("%d left, want those of the dead", len(ids))
	}
}

// TestSlowJobs: a job that waits for its destination gives its place to others.
func TestSlowJobs(t *testing.T) {
	g := newRig(t, nil)
	l := newLoop(g.Runner, t.Context(), Stay)
	l.slowest, l.running = 1, 2
	f := &flow{line: line{sender: &sender{}}}
	a := &job{begun: true, flow: f}
	b := &job{begun: true, flow: f, patient: time.NewTimer(time.Hour)}
	defer b.patient.Stop()
	l.slowed(a)
	l.slowed(a)
	l.slowed(b) // no room
	if !a.slow || b.slow || l.slow != 1 || l.running != 1 {
		t.Errorf("slow %v %v, counted %d, running %d", a.slow, b.slow, l.slow, l.running)
	}
}

// TestSenders: one sender with very many messages, to one destination or to many, does not keep another's waiting.
func TestSenders(t *testing.T) {
	for _, tt := range []struct {
		name   string
		domain func(i int) string
	}{
		{"one destination", func(int) string { return "south.example" }},
		{"many destinations", func(i int) string { return fmt.Sprintf("d%d.example", i) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := newRig(t, nil)
			g.policy.Concurrency, g.policy.Processes = 2, 4
			gate := make(chan struct{}, 3000)
			var few sync.WaitGroup
			few.Add(20)
			g.Attempt = func(_ context.Context, r transport.Request) []transport.Result {
				if r.Message.Envelope.From.Local == "few" {
					few.Done()
				} else {
					<-gate
				}
				return ok(r)
			}
			const many = 1500
			for i := range many {
				g.put(t, "many@north.example", to("u@"+tt.domain(i)))
			}
			for i := range 20 {
				g.put(t, "few@north.example", to("u@"+tt.domain(many+i)))
			}
			l := newLoop(g.Runner, t.Context(), Once)
			ended := make(chan struct{})
			go func() { l.run(); close(ended) }()
			for read := false; !read; { // every message has been looked at, and parked where it must wait
				answer := make(chan bool)
				l.post(func() {
					jobs := l.running + l.slow
					for _, x := range l.lanes {
						jobs += x.waiting
					}
					answer <- !l.looking && l.schedule.count[waiting] == 0 && l.claimed == jobs
				})
				read = <-answer
			}
			for range 100 { // of the many may be done before the few are
				gate <- struct{}{}
			}
			few.Wait() // hangs when they must wait for more
			close(gate)
			<-ended
			if ids, _ := g.Spool.IDs(); len(ids) != 0 {
				t.Errorf("%d left", len(ids))
			}
		})
	}
}

// TestNewMailFirst: a queue full of old mail does not keep new mail waiting.
func TestNewMailFirst(t *testing.T) {
	g := newRig(t, nil)
	g.policy.Concurrency, g.policy.Processes = 2, 4
	for i := range 1500 {
		id := g.put(t, "", to(fmt.Sprintf("u@d%d.example", i)))
		m, err := g.Spool.Claim(id)
		if err != nil {
			t.Fatal(err)
		}
		m.State.Attempts, m.State.Last, m.State.Next = 1, clock.Now(), clock.Now().Add(-time.Minute)
		if err := m.Record(false); err != nil {
			t.Fatal(err)
		}
		m.Close()
	}
	var mu sync.Mutex
	old, before := 0, -1
	g.Attempt = func(_ context.Context, r transport.Request) []transport.Result {
		mu.Lock()
		defer mu.Unlock()
		if r.Domain == "new.example" {
			before = old
		} else {
			old++
		}
		return ok(r)
	}
	g.put(t, "", to("u@new.example"))
	g.once(t)
	if before < 0 || before > 750 {
		t.Errorf("%d old messages went first", before)
	}
}

// TestShelved: messages whose other recipients are done wait unclaimed for the one slow lane that is left.
func TestShelved(t *testing.T) {
	g := newRig(t, nil)
	g.policy.Concurrency, g.policy.Processes = 1, 50
	release := make(chan struct{})
	var side sync.WaitGroup
	const n = maxOpen + 200
	side.Add(n)
	var mu sync.Mutex
	tried := map[string]int{}
	g.Attempt = func(_ context.Context, r transport.Request) []transport.Result {
		mu.Lock()
		tried[r.Message.ID()+r.Domain]++
		mu.Unlock()
		if r.Domain == "slow.example" {
			<-release
		} else {
			side.Done()
		}
		return ok(r)
	}
	for i := range n {
		g.put(t, fmt.Sprintf("s%d@north.example", i), to("u@slow.example"), to(fmt.Sprintf("u@d%d.example", i)))
	}
	ended := make(chan error)
	go func() { ended <- g.Run(t.Context(), Once) }()
	side.Wait() // more than can be open at once
	close(release)
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	for what, times := range tried {
		if times != 1 {
			t.Errorf("%s: tried %d times", what, times)
		}
	}
	if ids, _ := g.Spool.IDs(); len(ids) != 0 || len(tried) != 2*n {
		t.Errorf("%d left, %d tried", len(ids), len(tried))
	}
}

// TestPace: a destination that asks for patience gets one message at a time, and not at once.
func TestPace(t *testing.T) {
	g := newRig(t, nil)
	g.policy.Concurrency = 4
	var mu sync.Mutex
	var times []time.Time
	g.Attempt = func(_ context.Context, r transport.Request) []transport.Result {
		mu.Lock()
		defer mu.Unlock()
		if times = append(times, time.Now()); len(times) == 1 {
			return []transport.Result{{Dest: r.Dests[0], Err: patience, Code: 451, Remote: true}}
		}
		return ok(r)
	}
	for i := range 3 {
		g.put(t, "", to(fmt.Sprintf("u%d@south.example", i)))
	}
	g.once(t)
	if len(times) != 3 || times[1].Sub(times[0]) < paceFirst*9/10 {
		t.Errorf("attempts at %v", times)
	}
}

// TestExpire: what a person gives up comes back at once, without an attempt.
func TestExpire(t *testing.T) {
	asked := []string{}
	g := newRig(t, func(to string) *status.Error { asked = append(asked, to); return busy })
	id := g.put(t, "a@north.example", to("b@south.example"))
	m, err := g.Spool.Claim(id)
	if err != nil {
		t.Fatal(err)
	}
	m.State.Expire, m.State.Attempts, m.State.Next = true, 1, clock.Now().Add(time.Hour)
	m.State.Rcpts[0].Last = busy
	if err := m.Record(true); err != nil {
		t.Fatal(err)
	}
	m.Close()
	g.once(t)
	texts := g.reports(t)
	if len(texts) != 1 || !strings.Contains(texts[0], "Status: 5.4.7") || !strings.Contains(texts[0], "450 4.2.1 busy") {
		t.Errorf("reports %q", texts)
	}
	if len(asked) != 1 || asked[0] != "a@north.example" {
		t.Errorf("asked %v", asked)
	}
}

// TestUnclean: the word about a killed runner is logged once, and not after an orderly end.
func TestUnclean(t *testing.T) {
	g := newRig(t, func(string) *status.Error { return nil })
	g.once(t)
	g.once(t)
	if strings.Contains(g.log.String(), "event=unclean") {
		t.Error("logged after an orderly end")
	}
	if err := os.WriteFile(filepath.Join(g.dir, "lock"), []byte("working\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	g.once(t)
	g.once(t)
	if n := strings.Count(g.log.String(), "event=unclean"); n != 1 {
		t.Errorf("logged %d times", n)
	}
}

// TestLate: mail that was due long ago is spoken of, but not too often.
func TestLate(t *testing.T) {
	g := newRig(t, nil)
	now := clock.Now()
	clock.Set(func() time.Time { return now })
	defer clock.Set(nil)
	l := newLoop(g.Runner, t.Context(), Stay)
	id := keyOf(strings.Repeat("1", queue.IDLength))
	l.schedule.put(id, int64(time.Minute), waiting, true)
	for _, tt := range []struct {
		after time.Duration
		want  int
	}{{5 * time.Minute, 0}, {12 * time.Minute, 1}, {15 * time.Minute, 1}, {25 * time.Minute, 2}} {
		now = l.epoch.Add(tt.after)
		l.sweep()
		if n := strings.Count(g.log.String(), "event=late id="+id.String()); n != tt.want {
			t.Errorf("after %v: %d events, want %d", tt.after, n, tt.want)
		}
	}
}

// TestNotice: what a person changes about one message is read when the trigger names it.
func TestNotice(t *testing.T) {
	asked := make(chan string, 10)
	g := newRig(t, func(to string) *status.Error { asked <- to; return busy })
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- g.Run(ctx, Stay) }()
	id := g.put(t, "", to("b@south.example"))
	<-asked
	change := func(f func(*queue.State)) {
		for {
			m, err := g.Spool.Claim(id)
			if err == queue.ErrBusy { // the runner is still recording
				time.Sleep(time.Millisecond)
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			f(&m.State)
			if err := m.Record(true); err != nil {
				t.Fatal(err)
			}
			m.Close()
			g.Spool.Trigger(id)
			return
		}
	}
	change(func(s *queue.State) { s.Next = time.Time{} })
	<-asked
	change(func(s *queue.State) { s.Hold, s.Next = true, time.Time{} })
	change(func(s *queue.State) { s.Hold = false })
	<-asked
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
}

// TestScheduleSize: a waiting message costs less than 200 octets, and the schedule stays right and tidy under changes.
func TestScheduleSize(t *testing.T) {
	const n = 50000
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	s := newSchedule()
	id := func(i int) key { return keyOf(fmt.Sprintf("%0*d", queue.IDLength, i)) }
	for i := range n {
		s.put(id(i), int64(n-i), waiting, true)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if each := float64(after.HeapAlloc-before.HeapAlloc) / n; each > 130 {
		t.Errorf("%.0f octets a message", each)
	}
	for round := range 5 {
		for i := range n {
			s.put(id(i), int64(round*n+n-i), waiting, true)
		}
	}
	if len(s.due[1]) > 2*n {
		t.Errorf("%d items for %d messages", len(s.due[1]), n)
	}
	s.forget(id(n - 1))
	for i := n - 2; i > n-100; i-- {
		got, due := s.top(1)
		if got != id(i) || due != int64(4*n+n-i) {
			t.Fatalf("%v at %d, want %v", got, due, id(i))
		}
		s.due[1].pop()
		s.put(got, due, working, true)
	}
	runtime.KeepAlive(s)
}

// TestProgramsAreNotJudged: a program that fails has its lane open.
func TestProgramsAreNotJudged(t *testing.T) {
	g := newRig(t, nil)
	g.policy.Concurrency = 3
	g.policy.Routes.Table = map[string][]destination.Destination{"*": {{Kind: destination.Pipe, Args: []string{"/bin/x"}}}}
	var mu sync.Mutex
	n := 0
	g.Attempt = func(_ context.Context, r transport.Request) []transport.Result {
		mu.Lock()
		defer mu.Unlock()
		n++
		return []transport.Result{{Dest: r.Dests[0], Err: noHost}}
	}
	for i := range 10 {
		g.put(t, "", to(fmt.Sprintf("u%d@south.example", i)))
	}
	g.once(t)
	if n != 10 {
		t.Errorf("tried %d times", n)
	}
}

// TestLostWhileReady: a lane that loses its last session while its next job is among its sender's ready ones tries that job again.
func TestLostWhileReady(t *testing.T) {
	g := newRig(t, nil)
	g.policy.Concurrency = 4
	l := newLoop(g.Runner, t.Context(), Stay)
	x := l.laneNamed("x", false)
	x.alive, x.limit, x.active = true, 3, 2
	l.add(x.flowOf(&sender{}), &job{})
	l.offer(x)
	for range 2 {
		x.active--
		l.judge(x, []transport.Result{{Err: status.Temporary(451, "4.4.2", "lost", nil), Reached: true}})
		l.offer(x)
	}
	if x.alive || !x.probing || len(l.probes) != 1 {
		t.Errorf("alive %v, probing %v, %d senders ask", x.alive, x.probing, len(l.probes))
	}
}

// TestDroppedWhileReady: the room of a ready job that was dropped goes to the next flow.
func TestDroppedWhileReady(t *testing.T) {
	g := newRig(t, nil)
	l := newLoop(g.Runner, t.Context(), Stay)
	x := l.laneNamed("x", false)
	x.alive, x.limit = true, 1
	first, second := &job{}, &job{}
	l.add(x.flowOf(&sender{}), first)
	l.add(x.flowOf(&sender{}), second)
	l.offer(x)
	l.drop(first)
	l.offer(x)
	if got := l.pick(); got != second {
		t.Errorf("picked %p, want %p", got, second)
	}
}

// TestCalledAndGone: a message that is held or deleted on the way back from its line makes room for the next.
func TestCalledAndGone(t *testing.T) {
	g := newRig(t, nil)
	l := newLoop(g.Runner, t.Context(), Stay)
	x := l.laneNamed("x", false)
	f := x.flowOf(&sender{})
	var ids []key
	for i := range 5 {
		id := keyOf(fmt.Sprintf("%0*d", queue.IDLength, i))
		ids = append(ids, id)
		l.schedule.put(id, 0, parked, true)
		f.parked = append(f.parked, id)
		x.parked++
	}
	x.turn = append(x.turn, &f.line)
	l.offer(x)
	if l.called[ids[0]] == nil {
		t.Fatal("the first was not called")
	}
	l.found([]found{{id: ids[0], held: true, old: true}}, l.schedule.moves, true)
	if l.called[ids[0]] != nil || l.called[ids[1]] == nil || x.coming != 1 {
		t.Errorf("held: %d coming", x.coming)
	}
	for i := 2; i < 5; i++ { // the look sees all but the second
		at := l.schedule.slots[ids[i]]
		at.seen = l.looks + 1
		l.schedule.slots[ids[i]] = at
	}
	l.looks++
	l.looked(l.schedule.moves, nil)
	if l.called[ids[1]] != nil || l.called[ids[2]] == nil || x.coming != 1 {
		t.Errorf("deleted: %d coming", x.coming)
	}
}

// TestNotTriedAgainAtOnce: a recipient that failed for now waits its time, also while another of its message is held up.
func TestNotTriedAgainAtOnce(t *testing.T) {
	g := newRig(t, nil)
	g.policy.Concurrency, g.policy.Processes = 1, 50
	release := make(chan struct{})
	var mu sync.Mutex
	tried := map[string]int{}
	const n = 60 // less than one sender may have waiting
	var bad sync.WaitGroup
	bad.Add(n)
	g.Attempt = func(_ context.Context, r transport.Request) []transport.Result {
		if r.Domain == "slow.example" {
			<-release
			return ok(r)
		}
		mu.Lock()
		defer mu.Unlock()
		if tried[r.Message.ID()]++; tried[r.Message.ID()] == 1 {
			bad.Done()
		}
		return []transport.Result{{Dest: r.Dests[0], Err: busy, Code: 450, Remote: true}}
	}
	for i := range n {
		g.put(t, "one@north.example", to("u@slow.example"), to(fmt.Sprintf("u%d@bad.example", i)))
	}
	ended := make(chan error)
	go func() { ended <- g.Run(t.Context(), Once) }()
	bad.Wait()
	close(release)
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	for id, times := range tried {
		if times != 1 {
			t.Errorf("%s: tried %d times", id, times)
		}
	}
}

// TestRetryReopens: who asks for another attempt gets one, also where nobody could be reached a moment ago.
func TestRetryReopens(t *testing.T) {
	g := newRig(t, nil)
	attempts := make(chan bool)
	dead := true
	g.Attempt = func(_ context.Context, r transport.Request) []transport.Result {
		attempts <- true
		if dead {
			return []transport.Result{{Dest: r.Dests[0], Err: noHost}}
		}
		return ok(r)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- g.Run(ctx, Stay) }()
	id := g.put(t, "", to("b@south.example"))
	<-attempts
	for {
		m, err := g.Spool.Claim(id)
		if err != nil || m.State.Attempts == 0 { // the runner is still recording
			if err == nil {
				m.Close()
			}
			time.Sleep(time.Millisecond)
			continue
		}
		dead = false
		m.State.Next = time.Time{}
		if err := m.Record(true); err != nil {
			t.Fatal(err)
		}
		m.Close()
		g.Spool.Trigger(id)
		break
	}
	<-attempts
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
}
