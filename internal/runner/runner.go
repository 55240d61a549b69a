// Package runner is the queue runner: it takes messages from the queue when they are due, finds each recipient's next hop, has package
// transport try it, and records, reports or removes what comes of it.
//
// One goroutine, loop, owns the schedule and decides; everything that waits for disk or network runs in goroutines of its own and
// comes back as an event. A message is claimed, split into one job per lane (a next hop), and settled when all its jobs are done. Each lane has its own
// queue and limit. A lane whose hosts cannot be reached is closed for a while, and messages for a lane that has enough to do are put back
// unclaimed, so that neither a dead nor a slow destination keeps others waiting.
//
// RFC 5321 4.5.4.1 is the strategy for trying again, RFC 3461 decides who is told.
package runner

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime/debug"
	"time"

	"github.com/postel-mail/postel/internal/clock"
	"github.com/postel-mail/postel/internal/durable"
	"github.com/postel-mail/postel/internal/maillog"
	"github.com/postel-mail/postel/internal/queue"
	"github.com/postel-mail/postel/internal/status"
	"github.com/postel-mail/postel/internal/transport"
)

// Runner works on one spool. All fields are set before Run.
type Runner struct {
	Spool   *queue.Spool
	Policy  func() *Policy // as it is configured now
	Attempt func(context.Context, transport.Request) []transport.Result
	Log     *maillog.Log
	Wake    time.Duration // the queue is looked at this often even when nothing wakes the runner
	Started func()        // the spool is this runner's; may be nil
}

// Policy is what a configuration says to the runner. It does not change; a new configuration is a new one.
type Policy struct {
	Routes      Routes
	Hostname    string        // in reports
	Lifetime    time.Duration // of a message; then it is returned
	Warn        time.Duration // after which the sender is told of a delay; 0 never
	First       time.Duration // wait before the second attempt
	Longest     time.Duration // between attempts
	Concurrency int           // jobs of one lane at once
	Processes   int           // jobs at once
}

const (
	// maxClaimed bounds the messages that are open at once, each a descriptor.
	maxClaimed = 1000
	// programGrace is how long programs may go on when the runner stops. Sessions are told at once; they finish the message whose final dot they have sent.
	programGrace = 25 * time.Second
	// closedFor is how long a lane is closed whose hosts could not be reached, at most.
	closedFor = time.Minute
)

// Mode says when Run returns.
type Mode int

// Stay is the daemon; Once makes one pass over what is due; UntilEmpty waits until nothing but held messages is queued.
const (
	Stay Mode = iota
	Once
	UntilEmpty
)

// ErrRunning says that another runner has the spool.
var ErrRunning = errors.New("another queue runner works on this spool")

// Run works until ctx ends or mode is fulfilled. Jobs that run when ctx ends are awaited; what they did is recorded.
func (r *Runner) Run(ctx context.Context, mode Mode) error {
	lock, err := r.Spool.Lock()
	if errors.Is(err, durable.ErrLocked) {
		return ErrRunning
	}
	if err != nil {
		return err
	}
	defer lock.Close()
	if r.Started != nil {
		r.Started()
	}
	trigger, err := r.Spool.OpenTrigger()
	if err != nil {
		return err
	}
	programs, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(programGrace, end) })()
	l := &loop{Runner: r, ctx: ctx, programs: programs, mode: mode, events: make(chan func()), quit: make(chan struct{}),
		known: map[string]*entry{}, lanes: map[string]*lane{}}
	defer close(l.quit)
	defer trigger.Close()
	go l.listen(trigger)
	l.run()
	if mode != Stay {
		return l.failed
	}
	return nil
}

// entry is a message that waits or is worked on.
type entry struct {
	id    string
	due   time.Time
	index int // in the heap; -1 when it is not there
	place place
	moved int          // l.moves when it was last put
	lane  *lane        // that has called it back from parking
	kept  *queue.State // what could not be recorded; nil: the state on disk is true
}

// place is where an entry is.
type place int

const (
	waiting place = iota // in the heap
	working              // claimed, or on the way there and back
	parked               // in a lane that has enough to do
	held                 // until a person releases it
)

type job struct {
	mail *mail
	lane string
	req  transport.Request
}

type lane struct {
	waiting []*job
	parked  []*entry
	active  int
	coming  int           // called back, not here yet
	closed  time.Time     // until when
	why     *status.Error // it was closed
}

type loop struct {
	*Runner
	ctx      context.Context
	programs context.Context // ends programGrace after ctx
	mode     Mode
	events   chan func() // run by the loop's goroutine
	quit     chan struct{}
	known    map[string]*entry
	due      dueHeap
	lanes    map[string]*lane
	moves    int   // counts puts
	claimed  int   // messages being worked on
	running  int   // jobs
	cleaning bool  // what crashed writers left is being removed
	failed   error // why the queue could not be read the last time
	looking  bool  // the queue is being read
	again    bool  // and is to be read once more
}

// post hands an event to the loop.
func (l *loop) post(f func()) {
	select {
	case l.events <- f:
	case <-l.quit:
	}
}

// async runs work in a goroutine. A panic in it is logged and costs what recovered makes of it, not the runner.
func (l *loop) async(work, recovered func()) {
	go func() {
		defer func() {
			if v := recover(); v != nil {
				l.Log.Panic("", v, debug.Stack())
				l.post(recovered)
			}
		}()
		work()
	}()
}

func (l *loop) listen(trigger *os.File) {
	err := l.Spool.Wakeups(trigger, func(id string) {
		l.post(func() {
			switch {
			case l.mode == Once: // a pass ends, whatever comes in meanwhile
			case id == "":
				l.look(true)
			default:
				l.add(id)
			}
		})
	})
	if err != nil {
		l.Log.Problem("", fmt.Errorf("the trigger cannot be read, new mail waits for the next look: %w", err))
	}
}

func (l *loop) run() {
	l.clean()
	l.look(true)
	ticker := time.NewTicker(l.Wake)
	defer ticker.Stop()
	stop := l.ctx.Done()
	for {
		stopping := l.ctx.Err() != nil
		if stopping {
			l.dropWaiting()
		} else {
			l.start()
		}
		if l.claimed == 0 && !l.looking && !l.cleaning && (stopping || l.done()) { // the spool is closed after that
			return
		}
		var timer <-chan time.Time
		if len(l.due) > 0 && !stopping && l.claimed < maxClaimed {
			timer = time.After(max(0, l.due[0].due.Sub(clock.Now())))
		}
		select {
		case f := <-l.events:
			f()
		case <-timer:
		case <-ticker.C:
			l.clean()
			l.look(false)
		case <-stop:
			stop = nil
		}
	}
}

// done reports whether the mode is fulfilled while nothing is worked on.
func (l *loop) done() bool {
	switch l.mode {
	case Once:
		return len(l.due) == 0 || l.due[0].due.After(clock.Now())
	case UntilEmpty:
		return len(l.due) == 0
	}
	return false
}

// clean removes what crashed writers left.
func (l *loop) clean() {
	if l.cleaning {
		return
	}
	l.cleaning = true
	l.async(func() {
		if err := l.Spool.Clean(); err != nil {
			l.Log.Problem("", err)
		}
		l.post(func() { l.cleaning = false })
	}, func() { l.cleaning = false })
}

// look brings the schedule in line with the spool: messages that came or went without the trigger, and with all the times and holds
// that a person has changed. The disk is read outside the loop.
func (l *loop) look(all bool) {
	if l.looking {
		l.again = l.again || all
		return
	}
	l.looking = true
	skip := map[string]bool{} // whose state need not be read
	if !all {
		for id := range l.known {
			skip[id] = true
		}
	}
	asOf := l.moves
	latest := clock.Now().Add(l.Policy().Longest * 6 / 5)
	l.async(func() {
		ids, err := l.Spool.IDs()
		found := make([]*entry, len(ids))
		for i, id := range ids {
			found[i] = &entry{id: id, index: -1}
			if !skip[id] {
				var isHeld bool
				found[i].due, isHeld = l.Spool.Schedule(id)
				if isHeld {
					found[i].place = held
				}
				if found[i].due.After(latest) { // written by a clock that was ahead
					found[i].due = time.Time{}
				}
			}
		}
		l.post(func() { l.found(found, skip, asOf, err) })
	}, func() { l.looking = false })
}

func (l *loop) found(found []*entry, skip map[string]bool, asOf int, err error) {
	l.looking = false
	if err != nil {
		l.Log.Problem("", err)
		l.failed = err
		return
	}
	l.failed = nil
	there := make(map[string]bool, len(found))
	for _, f := range found {
		there[f.id] = true
		e := l.known[f.id]
		switch {
		case e == nil && !skip[f.id]:
			l.known[f.id] = f
			l.put(f, f.due, f.place)
		case e == nil || skip[f.id] || e.place == working || e.place == parked || e.moved > asOf:
		case f.place == held || e.place == held || !f.due.Equal(e.due):
			l.take(e)
			l.put(e, f.due, f.place)
		}
	}
	for id, e := range l.known { // deleted by a person
		if !there[id] && (e.place == held || e.place == waiting && skip[id]) {
			l.take(e)
			delete(l.known, id)
		}
	}
	if l.again {
		l.again = false
		l.look(true)
	}
}

// add takes a new message into the schedule.
func (l *loop) add(id string) {
	if l.known[id] == nil {
		e := &entry{id: id, index: -1}
		l.known[id] = e
		l.put(e, time.Time{}, waiting)
	}
}

// put puts an entry to where it waits.
func (l *loop) put(e *entry, due time.Time, where place) {
	l.moves++
	e.due, e.place, e.moved = due, where, l.moves
	if where == waiting {
		heap.Push(&l.due, e)
	}
}

// take takes an entry out of the heap, if it is there.
func (l *loop) take(e *entry) {
	l.arrived(e)
	if e.index >= 0 {
		heap.Remove(&l.due, e.index)
	}
}

// arrived notes that an entry which its lane has called back is on its own again.
func (l *loop) arrived(e *entry) {
	if e.lane != nil {
		e.lane.coming--
		e.lane = nil
	}
}

// start claims what is due and runs what may run.
func (l *loop) start() {
	now, p := clock.Now(), l.Policy()
	for len(l.due) > 0 && l.claimed < maxClaimed && !l.due[0].due.After(now) {
		e := heap.Pop(&l.due).(*entry)
		e.place = working
		l.claimed++
		l.async(func() {
			m, err := l.Spool.Claim(e.id)
			l.post(func() { l.arrived(e); l.opened(e, m, err) })
		}, func() { l.arrived(e); l.later(e, clock.Now().Add(p.Longest)) })
	}
	for name, lane := range l.lanes {
		for len(lane.waiting) > 0 && lane.active < p.Concurrency && l.running < p.Processes {
			j := lane.waiting[0]
			lane.waiting = lane.waiting[1:]
			l.launch(lane, j)
		}
		if n := min(len(lane.parked), p.Concurrency-len(lane.waiting)-lane.coming); n > 0 { // they come back as jobs
			lane.coming += n
			for _, e := range lane.parked[:n] {
				e.lane = lane
				l.put(e, now, waiting)
			}
			lane.parked = lane.parked[n:]
		}
		if len(lane.waiting) == 0 && len(lane.parked) == 0 && lane.active == 0 && lane.coming == 0 && !lane.closed.After(now) {
			delete(l.lanes, name)
		}
	}
}

func (l *loop) launch(lane *lane, j *job) {
	if lane.closed.After(clock.Now()) { // the answer is known
		results := make([]transport.Result, len(j.req.Rcpts))
		for i := range results {
			results[i] = transport.Result{Dest: j.req.Dests[0], Err: lane.why}
		}
		l.attempted(j, results)
		return
	}
	lane.active++
	l.running++
	ctx := l.ctx
	if isProgram(j.req.Dests[0]) {
		ctx = l.programs
	}
	back := func(results []transport.Result) {
		lane.active--
		l.running--
		l.judge(lane, results)
		l.attempted(j, results)
	}
	l.async(func() {
		results := l.Attempt(ctx, j.req)
		l.post(func() { back(results) })
	}, func() {
		results := make([]transport.Result, len(j.req.Rcpts))
		for i := range results {
			results[i].Err = status.Temporary(451, "4.3.0", "Internal software error", nil)
		}
		back(results)
	})
}

// judge closes a lane for a while when none of its hosts could be found or reached, and opens it at the first sign of life.
func (l *loop) judge(lane *lane, results []transport.Result) {
	if l.ctx.Err() != nil || len(results) == 0 {
		return
	}
	for _, r := range results {
		if r.Err == nil || r.Remote || r.Reached || r.Code != 0 || !r.Err.Temporary() || len(r.Err.Enhanced) < 4 || r.Err.Enhanced[:4] != "4.4." {
			lane.closed, lane.why = time.Time{}, nil
			return
		}
	}
	lane.closed, lane.why = clock.Now().Add(min(closedFor, l.Policy().First)), results[0].Err
}

// dropWaiting ends the jobs that have not begun, when the runner stops: their recipients stay as they are.
func (l *loop) dropWaiting() {
	for _, lane := range l.lanes {
		waiting := lane.waiting
		lane.waiting = nil
		for _, j := range waiting {
			l.attempted(j, nil)
		}
	}
}

// forget ends the work on a message that is not in the queue any more.
func (l *loop) forget(e *entry) {
	l.claimed--
	delete(l.known, e.id)
}

// later ends the work on a message for now.
func (l *loop) later(e *entry, due time.Time) {
	l.claimed--
	l.put(e, due, waiting)
}

// NextWait is the wait before the attempt after attempts: first, doubled each time up to longest, and up to a tenth more by chance (0 <= chance < 1),
// so that messages that failed together do not come back together.
func NextWait(attempts int, first, longest time.Duration, chance float64) time.Duration {
	wait := first
	for i := 1; i < attempts && wait < longest; i++ {
		wait *= 2
	}
	wait = min(wait, longest)
	return wait + time.Duration(float64(wait)*chance/10)
}

func (p *Policy) nextWait(attempts int) time.Duration {
	return NextWait(attempts, p.First, p.Longest, rand.Float64())
}

// dueHeap is a heap of entries by due time, then by arrival.
type dueHeap []*entry

func (h dueHeap) Len() int { return len(h) }
func (h dueHeap) Less(i, j int) bool {
	if h[i].due.Equal(h[j].due) {
		return h[i].id < h[j].id
	}
	return h[i].due.Before(h[j].due)
}
func (h dueHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}
func (h *dueHeap) Push(x any) {
	e := x.(*entry)
	e.index = len(*h)
	*h = append(*h, e)
}
func (h *dueHeap) Pop() any {
	e := (*h)[len(*h)-1]
	(*h)[len(*h)-1] = nil
	*h = (*h)[:len(*h)-1]
	e.index = -1
	return e
}
