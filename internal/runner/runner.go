// Package runner is the queue runner: it takes messages from the queue when they are due, finds each recipient's next hop, has package
// transport try it, and records, reports or removes what comes of it.
//
// One goroutine, loop, owns the schedule and decides; everything that waits for disk or network runs in goroutines of its own and
// comes back as an event. A message is claimed, split into one job per lane (a next hop), and settled when all its jobs are done. Each lane has its own
// queue and limit, and a lane whose hosts cannot be reached is closed for a while, so that a dead destination does not keep others waiting.
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
	"strings"
	"time"

	"github.com/postel-mail/postel/internal/clock"
	"github.com/postel-mail/postel/internal/destination"
	"github.com/postel-mail/postel/internal/durable"
	"github.com/postel-mail/postel/internal/maillog"
	"github.com/postel-mail/postel/internal/queue"
	"github.com/postel-mail/postel/internal/status"
	"github.com/postel-mail/postel/internal/transport"
)

// Runner works on one spool. All fields are set before Run.
type Runner struct {
	Spool    *queue.Spool
	Routes   func() *Routes // as configured now
	Attempt  func(context.Context, transport.Request) []transport.Result
	Log      *maillog.Log
	Hostname string // in reports

	Lifetime    time.Duration // of a message; then it is returned
	Warn        time.Duration // after which the sender is told of a delay; 0 never
	First       time.Duration // wait before the second attempt
	Longest     time.Duration // between attempts
	Concurrency int           // jobs of one lane at once
	Processes   int           // jobs at once
	Wake        time.Duration // the whole queue is looked at this often even when nothing wakes the runner
}

// maxClaimed bounds the messages that are open at once, each a descriptor.
const maxClaimed = 1000

// programGrace is how long programs may go on when the runner stops. Sessions are told at once; they finish the message whose final dot they have sent.
const programGrace = 25 * time.Second

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
	if err := r.Spool.Clean(); err != nil {
		r.Log.Problem("", err)
	}
	trigger, err := r.Spool.OpenTrigger()
	if err != nil {
		return err
	}
	programs, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(programGrace, end) })()
	l := &loop{Runner: r, ctx: ctx, programs: programs, mode: mode, events: make(chan func()), known: map[string]*entry{}, lanes: map[string]*laneState{}}
	wakes, quit := make(chan string), make(chan struct{})
	defer close(quit)
	defer trigger.Close()
	go l.listen(trigger, wakes, quit)
	return l.run(wakes)
}

// entry is a message that waits or is worked on.
type entry struct {
	id    string
	due   time.Time
	index int // in the heap; -1 while it is worked on or held
	held  bool
}

// mail is a claimed message.
type mail struct {
	entry   *entry
	msg     *queue.Message
	left    int // jobs not done
	results map[int]result
}

type result struct {
	transport.Result
	dest destination.Destination
	at   time.Time
}

type job struct {
	mail *mail
	lane string
	req  transport.Request
}

type laneState struct {
	waiting []*job
	active  int
	closed  time.Time     // until when
	why     *status.Error // it was closed
}

type loop struct {
	*Runner
	ctx      context.Context
	programs context.Context // ends programGrace after ctx
	mode     Mode
	events   chan func() // run by the loop's goroutine
	known    map[string]*entry
	due      dueHeap
	lanes    map[string]*laneState
	claimed  int // messages being worked on
	running  int // jobs
}

func (l *loop) listen(trigger *os.File, wakes chan<- string, quit <-chan struct{}) {
	err := l.Spool.Wakeups(trigger, func(id string) {
		select {
		case wakes <- id:
		case <-quit:
		}
	})
	if err != nil {
		l.Log.Problem("", fmt.Errorf("the trigger cannot be read, new mail waits for the next look: %w", err))
	}
}

func (l *loop) run(wakes <-chan string) error {
	if err := l.scan(); err != nil {
		return err
	}
	look := time.NewTicker(l.Wake)
	defer look.Stop()
	stop := l.ctx.Done()
	for {
		stopping := l.ctx.Err() != nil
		if !stopping {
			l.start()
		}
		if l.claimed == 0 && (stopping || l.done()) {
			return nil
		}
		var timer <-chan time.Time
		if len(l.due) > 0 && !stopping && l.claimed < maxClaimed {
			timer = time.After(max(0, l.due[0].due.Sub(clock.Now())))
		}
		select {
		case f := <-l.events:
			f()
		case id := <-wakes:
			l.wake(id)
		case <-timer:
		case <-look.C:
			l.wake("")
		case <-stop:
			stop = nil
			l.dropWaiting()
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

func (l *loop) wake(id string) {
	if id == "" {
		if err := l.scan(); err != nil {
			l.Log.Problem("", err)
		}
		return
	}
	if l.known[id] == nil {
		l.add(id, time.Time{}, false)
	}
}

// scan brings the schedule in line with the spool: new messages, and times and holds that a person has changed.
func (l *loop) scan() error {
	ids, err := l.Spool.IDs()
	if err != nil {
		return err
	}
	for _, id := range ids {
		e := l.known[id]
		if e != nil && e.index < 0 && !e.held {
			continue // being worked on
		}
		next, held := l.Spool.Schedule(id)
		if e == nil {
			l.add(id, next, held)
			continue
		}
		e.due, e.held = next, held
		switch {
		case held && e.index >= 0:
			heap.Remove(&l.due, e.index)
		case !held && e.index >= 0:
			heap.Fix(&l.due, e.index)
		case !held:
			heap.Push(&l.due, e)
		}
	}
	return nil
}

func (l *loop) add(id string, due time.Time, held bool) {
	e := &entry{id: id, due: due, index: -1, held: held}
	l.known[id] = e
	if !held {
		heap.Push(&l.due, e)
	}
}

// start claims what is due and runs what may run.
func (l *loop) start() {
	now := clock.Now()
	for len(l.due) > 0 && l.claimed < maxClaimed && !l.due[0].due.After(now) {
		e := heap.Pop(&l.due).(*entry)
		l.claimed++
		go func() {
			m, err := l.Spool.Claim(e.id)
			l.events <- func() { l.opened(e, m, err) }
		}()
	}
	for name, lane := range l.lanes {
		for len(lane.waiting) > 0 && lane.active < l.Concurrency && l.running < l.Processes {
			j := lane.waiting[0]
			lane.waiting = lane.waiting[1:]
			l.launch(name, lane, j)
		}
		if len(lane.waiting) == 0 && lane.active == 0 && !lane.closed.After(now) {
			delete(l.lanes, name)
		}
	}
}

func (l *loop) launch(name string, lane *laneState, j *job) {
	if lane.closed.After(clock.Now()) { // the answer is known
		results := make([]transport.Result, len(j.req.Rcpts))
		for i := range results {
			results[i].Err = lane.why
		}
		l.attempted(j, results)
		return
	}
	lane.active++
	l.running++
	ctx := l.ctx
	if j.req.Dest.Kind == destination.Pipe || j.req.Dest.IsLocal() {
		ctx = l.programs
	}
	go func() {
		results := l.Attempt(ctx, j.req)
		l.events <- func() {
			lane.active--
			l.running--
			l.judge(lane, results)
			l.attempted(j, results)
		}
	}()
}

// judge closes a lane for a while when no host of it could be reached or found, and opens it at the first sign of life.
func (l *loop) judge(lane *laneState, results []transport.Result) {
	if l.ctx.Err() != nil {
		return
	}
	for _, r := range results {
		if r.Err == nil || !r.Err.Temporary() || !strings.HasPrefix(r.Err.Enhanced, "4.4.") {
			lane.closed, lane.why = time.Time{}, nil
			return
		}
	}
	if len(results) > 0 {
		lane.closed, lane.why = clock.Now().Add(min(time.Minute, l.First)), results[0].Err
	}
}

// opened splits a claimed message into jobs.
func (l *loop) opened(e *entry, m *queue.Message, err error) {
	switch bad := (*queue.CorruptError)(nil); {
	case err == nil:
	case errors.Is(err, queue.ErrGone):
		l.forget(e)
		return
	case errors.Is(err, queue.ErrBusy): // its writer is still at it, or a person looks
		l.later(e, clock.Now().Add(time.Second))
		return
	case errors.As(err, &bad):
		l.Log.Corrupt(e.id, bad)
		if bad.Moved {
			l.forget(e)
		} else {
			l.later(e, clock.Now().Add(l.Longest))
		}
		return
	default:
		l.Log.Problem(e.id, err)
		l.later(e, clock.Now().Add(l.First))
		return
	}
	if m.State.Hold {
		m.Close()
		l.claimed--
		e.held = true
		return
	}
	mail := &mail{entry: e, msg: m, results: map[int]result{}}
	for _, j := range l.split(mail) {
		lane := l.lanes[j.lane]
		if lane == nil {
			lane = &laneState{}
			l.lanes[j.lane] = lane
		}
		lane.waiting = append(lane.waiting, j)
		mail.left++
	}
	if mail.left == 0 { // all are settled; a report or the removal is still to be done
		mail.left = 1
		l.attempted(&job{mail: mail}, nil)
	}
}

// split groups the recipients that wait by lane, in the order of the envelope.
func (l *loop) split(mail *mail) []*job {
	routes := l.Routes()
	byLane := map[string]*job{}
	var jobs []*job
	for i, rcpt := range mail.msg.Envelope.Rcpts {
		if mail.msg.State.Rcpts[i].Progress != queue.Waiting {
			continue
		}
		dest, _ := routes.For(rcpt.To)
		domain := rcpt.To.ASCII().Domain
		name := lane(dest, domain)
		j := byLane[name]
		if j == nil || len(j.req.Rcpts) >= perJob(dest) {
			j = &job{mail: mail, lane: name, req: transport.Request{Message: mail.msg, Dest: dest, Domain: domain}}
			byLane[name] = j
			jobs = append(jobs, j)
		}
		j.req.Rcpts = append(j.req.Rcpts, i)
	}
	return jobs
}

// perJob bounds the recipients of one transaction: 100 is what every server takes (RFC 5321 4.5.3.1.8); programs get one.
func perJob(d destination.Destination) int {
	if d.Kind == destination.Pipe {
		return 1
	}
	return 100
}

// attempted notes what a job brought, and settles the message after its last one.
func (l *loop) attempted(j *job, results []transport.Result) {
	now := clock.Now()
	for i, r := range results {
		j.mail.results[j.req.Rcpts[i]] = result{Result: r, dest: j.req.Dest, at: now}
	}
	if j.mail.left--; j.mail.left > 0 {
		return
	}
	stopping := l.ctx.Err() != nil
	go func() {
		next, gone := l.settle(j.mail, stopping)
		j.mail.msg.Close()
		l.events <- func() {
			if gone {
				l.forget(j.mail.entry)
			} else {
				l.later(j.mail.entry, next)
			}
		}
	}()
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

func (l *loop) forget(e *entry) {
	l.claimed--
	delete(l.known, e.id)
}

func (l *loop) later(e *entry, due time.Time) {
	l.claimed--
	e.due = due
	heap.Push(&l.due, e)
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

func (l *loop) nextWait(attempts int) time.Duration {
	return NextWait(attempts, l.First, l.Longest, rand.Float64())
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
