package runner

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/postel-mail/postel/internal/clock"
	"github.com/postel-mail/postel/internal/destination"
	"github.com/postel-mail/postel/internal/envelope"
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
	s := &sender{}
	a := &job{begun: true, turn: s}
	b := &job{begun: true, turn: s, patient: time.NewTimer(time.Hour)}
	defer b.patient.Stop()
	l.slowed(a)
	l.slowed(a)
	l.slowed(b) // no room
	if !a.slow || b.slow || l.slow != 1 || s.slow != 1 || l.running != 1 {
		t.Errorf("slow %v %v, counted %d and %d, running %d", a.slow, b.slow, l.slow, s.slow, l.running)
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

// TestLate: mail that was due long ago is spoken of wherever it waits, but not too often.
func TestLate(t *testing.T) {
	id, other := keyOf(strings.Repeat("1", queue.IDLength)), keyOf(strings.Repeat("2", queue.IDLength))
	const due = int64(time.Minute)
	flow := func(l *loop) *flow { return l.laneNamed("x", false).flowOf(&sender{}) }
	for _, tt := range []struct {
		name string
		wait func(l *loop)
		why  string
	}{
		{"to be opened", func(l *loop) { l.schedule.put(id, due, waiting, true) }, "all places are taken"},
		{"for its lane", func(l *loop) {
			l.schedule.put(id, due, parked, true)
			flow(l).parked = []key{other, id}
		}, "its destination is busy: x"},
		{"for its sender", func(l *loop) {
			l.schedule.put(id, due, parked, true)
			s := &sender{}
			s.line.parked = []key{other, id}
			l.senders[senderKey{}] = s
		}, "its sender has many messages that wait for their destinations"},
		{"to be opened again", func(l *loop) {
			l.schedule.put(id, due, parked, true)
			f := flow(l)
			f.parked = []key{id}
			l.call(&f.line)
		}, "all places are taken"},
		{"in its lane", func(l *loop) {
			l.schedule.put(id, due, working, true)
			f := flow(l)
			l.add(f, &job{mail: &mail{id: other, due: due + 1}})
			l.add(f, &job{mail: &mail{id: id, due: due}})
		}, "its destination is busy: x"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := newRig(t, nil)
			now := turn(t)
			l := newLoop(g.Runner, t.Context(), Stay)
			l.schedule.put(other, due+1, parked, true)
			*now = l.epoch.Add(2 * time.Minute)
			tt.wait(l)
			for _, at := range []struct {
				after time.Duration
				want  int
			}{{5 * time.Minute, 0}, {12 * time.Minute, 1}, {15 * time.Minute, 1}, {25 * time.Minute, 2}} {
				*now = l.epoch.Add(at.after)
				l.watch()
				if n := g.logged("event=late id=" + id.String()); n != at.want || n != g.logged(tt.why) || n != g.logged("event=late") {
					t.Errorf("after %v: want %d events about this, of %q:\n%s", at.after, at.want, tt.why, g.log.String())
				}
			}
		})
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
	if x.alive || !x.asks || len(l.trials) != 1 {
		t.Errorf("alive %v, asks %v, %d senders ask", x.alive, x.asks, len(l.trials))
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
	called := func(n int) bool { _, is := l.called[ids[n]]; return is }
	if !called(0) {
		t.Fatal("the first was not called")
	}
	l.found([]found{{id: ids[0], held: true, old: true}}, l.schedule.moves, true)
	if called(0) || !called(1) || x.coming != 1 {
		t.Errorf("held: %d coming", x.coming)
	}
	for i := 2; i < 5; i++ { // the look sees all but the second
		at := l.schedule.slots[ids[i]]
		at.seen = l.looks + 1
		l.schedule.slots[ids[i]] = at
	}
	l.looks++
	l.looked(l.schedule.moves, nil)
	if called(1) || !called(2) || x.coming != 1 {
		t.Errorf("deleted: %d coming", x.coming)
	}
}

// TestStuckSender: however many messages of one sender have a recipient whose host hangs, his others are tried, and what failed for now waits its time.
func TestStuckSender(t *testing.T) {
	const n = 400
	for _, tt := range []struct {
		name  string
		rcpts func(i int) []envelope.Recipient
	}{
		{"beside one that fails for now", func(i int) []envelope.Recipient {
			return []envelope.Recipient{to("u@hang.example"), to(fmt.Sprintf("u%d@bad.example", i))}
		}},
		{"beside another that hangs", func(int) []envelope.Recipient {
			return []envelope.Recipient{to("u@hang.example"), to("u@hang2.example")}
		}},
		{"beside many that hang", func(i int) []envelope.Recipient {
			return []envelope.Recipient{to(fmt.Sprintf("u@hang%d.example", i)), to("u@hang.example")}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := newRig(t, nil)
			g.policy.Concurrency, g.policy.Processes = 1, 50
			release := make(chan struct{})
			var mu sync.Mutex
			tried := map[string]int{}
			var others sync.WaitGroup
			g.Attempt = func(_ context.Context, r transport.Request) []transport.Result {
				if strings.HasPrefix(r.Domain, "hang") {
					<-release
				}
				mu.Lock()
				defer mu.Unlock()
				what := r.Message.ID() + " " + r.Domain
				if tried[what]++; tried[what] == 1 && !strings.HasPrefix(r.Domain, "hang") {
					others.Done()
				}
				if r.Domain == "bad.example" {
					return []transport.Result{{Dest: r.Dests[0], Err: busy, Code: 450, Remote: true}}
				}
				return ok(r)
			}
			bad := 0
			for i := range n {
				rcpts := tt.rcpts(i)
				if rcpts[1].To.Domain == "bad.example" {
					bad++
				}
				g.put(t, "one@north.example", rcpts...)
			}
			for i := range 20 {
				g.put(t, "one@north.example", to(fmt.Sprintf("u@live%d.example", i)))
			}
			others.Add(bad + 20)
			ended := make(chan error)
			go func() { ended <- g.Run(t.Context(), Once) }()
			others.Wait() // hangs when they wait for those that hang
			close(release)
			if err := <-ended; err != nil {
				t.Fatal(err)
			}
			for what, times := range tried {
				if times != 1 {
					t.Errorf("%s: tried %d times", what, times)
				}
			}
			if len(tried) != 2*n+20 {
				t.Errorf("%d of %d recipients were tried", len(tried), 2*n+20)
			}
			left := g.left(t)
			if len(left) != bad {
				t.Errorf("%d left, want %d", len(left), bad)
			}
			for _, id := range left {
				m, err := g.Spool.Peek(id)
				if err != nil {
					t.Fatal(err)
				}
				m.Close()
				if st := m.State; st.Attempts != 1 || st.Rcpts[0].Progress != queue.Relayed || !st.Next.After(clock.Now()) {
					t.Fatalf("state\n%s", st.Text(id))
				}
			}
		})
	}
}

// TestShelvedAndDue: who has failed for now is tried again with the rest of the attempt when that comes later than his time.
func TestShelvedAndDue(t *testing.T) {
	for _, tt := range []struct {
		after time.Duration
		want  []int
	}{{time.Minute, []int{1}}, {10 * time.Minute, []int{0, 1}}} {
		g := newRig(t, nil)
		now := turn(t)
		l := newLoop(g.Runner, t.Context(), Stay)
		id := g.put(t, "a@north.example", to("u@bad.example"), to("u@slow.example"))
		l.parts[keyOf(id)] = &part{rcpts: []int{1}, due: 7, next: int64(5 * time.Minute)}
		*now = now.Add(tt.after)
		l.schedule.put(keyOf(id), l.now(), working, true)
		l.claimed, l.retrying = 1, 1
		m, err := g.Spool.Claim(id)
		if err != nil {
			t.Fatal(err)
		}
		m.State.Attempts, m.State.Last = 1, now.Add(-tt.after)
		l.opened(keyOf(id), m, nil)
		var got []int
		for _, x := range l.lanes {
			for _, f := range x.flows {
				for _, j := range f.jobs {
					got = append(got, j.req.Rcpts...)
				}
			}
		}
		if slices.Sort(got); !slices.Equal(got, tt.want) {
			t.Errorf("after %v: tries recipients %v, want %v", tt.after, got, tt.want)
		}
		m.Close()
		clock.Set(nil)
	}
}

// TestTrialInAnyTurn: whether a destination answers is tried in the turn of any sender with mail for it, not only of the first, who may have used up what is his.
func TestTrialInAnyTurn(t *testing.T) {
	for _, second := range [][]envelope.Recipient{{to("u@x.example")}, {to("u@x.example"), to("u@y.example")}} {
		g := newRig(t, nil)
		release, hangs := make(chan struct{}), make(chan bool)
		var tried sync.WaitGroup
		tried.Add(1 + len(second))
		g.Attempt = func(_ context.Context, r transport.Request) []transport.Result {
			if r.Domain == "hang.example" {
				hangs <- true
				<-release
			} else {
				tried.Done()
			}
			return ok(r)
		}
		g.put(t, "a@north.example", to("u@hang.example"))
		g.Collect = func(context.Context) error {
			<-hangs
			g.put(t, "a@north.example", to("u@x.example"))
			g.put(t, "b@north.example", second...)
			return nil
		}
		l := newLoop(g.Runner, t.Context(), Once)
		l.slowest = 2 // one for each of two senders
		ended := make(chan struct{})
		go func() { l.run(); close(ended) }()
		tried.Wait() // hangs when b has to wait for a
		close(release)
		<-ended
		if ids := g.left(t); len(ids) != 0 {
			t.Errorf("%d left", len(ids))
		}
	}
}

// TestRetryReopens: who asks for another attempt gets one, also where nobody could be reached a moment ago.
func TestRetryReopens(t *testing.T) {
	g := newRig(t, nil)
	attempts := make(chan bool)
	dead := true
	g.Attempt = func(_ context.Context, r transport.Request) []transport.Result {
		if r.Urgent == dead {
			t.Errorf("urgent is %v while dead is %v", r.Urgent, dead)
		}
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

// TestRetryWhileTried: who asks for another attempt while one goes on gets one of his own, though nobody could be reached.
func TestRetryWhileTried(t *testing.T) {
	g := newRig(t, nil)
	attempts, release := make(chan bool), make(chan bool)
	g.Attempt = func(_ context.Context, r transport.Request) []transport.Result {
		attempts <- r.Urgent
		<-release
		return []transport.Result{{Dest: r.Dests[0], Err: noHost}}
	}
	g.put(t, "", to("a@south.example"))
	id := g.put(t, "", to("b@south.example"))
	m, err := g.Spool.Claim(id)
	if err != nil {
		t.Fatal(err)
	}
	m.State.Attempts, m.State.Last = 1, clock.Now()
	if err := m.Record(true); err != nil {
		t.Fatal(err)
	}
	m.Close()
	l := newLoop(g.Runner, t.Context(), Once)
	ended := make(chan struct{})
	go func() { l.run(); close(ended) }()
	if <-attempts {
		t.Error("the first attempt is urgent")
	}
	until := func(when func() bool) {
		for answer := make(chan bool); ; {
			l.post(func() { answer <- when() })
			if <-answer {
				return
			}
		}
	}
	until(func() bool { return !l.looking && l.schedule.count[parked] == 1 })
	l.post(func() { // as the trigger says it, of the one that waits
		for id, at := range l.schedule.slots {
			if at.place == parked {
				l.found([]found{{id: id, due: l.now(), old: true}}, l.schedule.moves, true)
			}
		}
	})
	until(func() bool { return l.lanes["mx:south.example"].urged && l.schedule.count[parked] == 1 })
	release <- true
	if !<-attempts {
		t.Error("the second attempt is not urgent")
	}
	release <- true
	<-ended
}
