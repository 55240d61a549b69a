// Package runner is the queue runner: it takes messages from the queue when they are due, finds each recipient's next hop, has package
// transport try it, and records, reports or removes what comes of it.
//
// One goroutine, loop, owns the schedule and decides; everything that waits for disk or network runs in goroutines of its own and
// comes back as an event. A message is claimed, split into one job per lane (a next hop), and settled when all its jobs are done. Of a message that
// nobody works on the runner remembers only when it is due.
//
// What keeps one from starving another: each lane has its own queue, and a limit that grows while its hosts answer and shrinks when they do not; a
// lane that has not answered yet gets one job, on a budget of its own; a lane whose hosts cannot be reached is closed for a while; senders
// take turns; new mail takes turns with mail that was tried before; and messages that must wait for their lane or their sender wait unclaimed.
//
// RFC 5321 4.5.4.1 is the strategy for trying again, RFC 3461 decides who is told.
package runner

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime/debug"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postel-mail/postel/internal/clock"
	"github.com/postel-mail/postel/internal/durable"
	"github.com/postel-mail/postel/internal/ledger"
	"github.com/postel-mail/postel/internal/maillog"
	"github.com/postel-mail/postel/internal/queue"
	"github.com/postel-mail/postel/internal/transport"
)

// Runner works on one spool. All fields are set before Run.
type Runner struct {
	Spool   *queue.Spool
	Policy  func() *Policy // as it is configured now
	Attempt func(context.Context, transport.Request) []transport.Result
	Log     *maillog.Log
	Wake    time.Duration               // the queue is looked at this often even when nothing wakes the runner
	Started func()                      // the spool is this runner's, and nothing has begun; may be nil
	Collect func(context.Context) error // queues what others left to be queued; called at each look at the queue; may be nil
	Ledger  *ledger.Ledger              // counts reports over all processes; nil: nothing holds them back

	ledgerFailed sync.Once
}

// Policy is what a configuration says to the runner. It does not change; a new configuration is a new one.
type Policy struct {
	Routes         Routes
	Hostname       string        // in reports
	Lifetime       time.Duration // of a message; then it is returned
	BounceLifetime time.Duration // of one from the null path
	Warn           time.Duration // after which the sender is told of a delay; 0 never
	First          time.Duration // wait before the second attempt
	Longest        time.Duration // between attempts
	Concurrency    int           // jobs of one lane at once
	Processes      int           // jobs at once, of lanes that answer
}

const (
	// maxOpen bounds the messages that are open at once, each a descriptor, and apart from that maxSlow those whose destination makes them wait, each a
	// descriptor and a connection. Where fewer descriptors are allowed the bounds are lower.
	maxOpen = 1000
	maxSlow = 1000
	// slowAfter is when a job counts as slow.
	slowAfter = 5 * time.Second
	// programGrace is how long programs may go on when the runner stops. Sessions are told at once; they finish the message whose final dot they have sent.
	programGrace = 25 * time.Second
	// sweepEvery is how often idle lanes are forgotten, and somebody is told when mail is late.
	sweepEvery = time.Minute
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
	r.beginWork(lock)
	defer func() { _ = lock.Truncate(0) }()
	programs, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(programGrace, end) })()
	l := newLoop(r, ctx, mode)
	l.programs = programs
	defer close(l.quit)
	defer trigger.Close()
	go l.listen(trigger)
	l.run()
	if mode != Stay {
		return l.failed
	}
	return nil
}

// beginWork leaves a word in the lock file for the time that the runner works. If it is there already, the last runner was killed, and what it had sent
// but not recorded will be sent again: the one window that SMTP has (RFC 1047).
func (r *Runner) beginWork(lock *os.File) {
	if st, err := lock.Stat(); err == nil && st.Size() > 0 {
		r.Log.Unclean()
	}
	_, _ = lock.WriteAt([]byte("working\n"), 0) // without it only that one line is missing
}

type loop struct {
	*Runner
	ctx      context.Context
	programs context.Context // ends programGrace after ctx
	mode     Mode
	events   chan func() // run by the loop's goroutine
	quit     chan struct{}
	epoch    time.Time // 0 on the runner's clock, which a clock that is set does not move

	schedule *schedule
	kept     map[key]*queue.State // what could not be recorded: it counts instead of the state on disk
	called   map[key]call         // messages on the way back from a parking line
	parts    map[key]*part        // messages whose attempt goes on later
	urged    map[key]bool         // messages that a person wants tried now
	tired    map[key]bool         // messages that were parked for too long
	busy     map[key]int          // how often another had the message, one time after the other
	noted    map[key]bool         // messages of which a person has changed something while they were worked on
	lanes    map[string]*lane
	senders  map[senderKey]*sender
	rings    [2][]*sender // with jobs that may begin: of new mail, and of mail that was tried before
	trials   []*sender    // with lanes that want to try whether somebody answers
	turn     int          // of the rings
	claims   int          // of the heaps

	most, slowest int // maxOpen and maxSlow, as descriptors allow
	claimed       int // messages that are open
	retrying      int // of these, tried before
	running       int // jobs of lanes that answer
	slow          int // jobs that wait for their destination, or find out whether it answers

	cleaning   bool  // what crashed writers left is being removed
	collecting bool  // what others left is being queued
	failed     error // why the queue could not be read the last time
	looking    bool  // the queue is being read
	again      bool  // and is to be read once more
	looks      uint8
	late       int64 // no word about late mail before
}

func newLoop(r *Runner, ctx context.Context, mode Mode) *loop {
	l := &loop{Runner: r, ctx: ctx, programs: ctx, mode: mode, events: make(chan func(), 64), quit: make(chan struct{}), epoch: clock.Now(),
		schedule: newSchedule(), kept: map[key]*queue.State{}, called: map[key]call{}, parts: map[key]*part{},
		urged: map[key]bool{}, tired: map[key]bool{}, busy: map[key]int{}, noted: map[key]bool{}, lanes: map[string]*lane{}, senders: map[senderKey]*sender{},
		most: maxOpen, slowest: maxSlow}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err == nil && limit.Cur < 4*maxOpen {
		share := max(10, (int(limit.Cur)-100)/4) // a quarter for messages, two for slow ones and their connections, one for the rest
		l.most, l.slowest = min(maxOpen, share), min(maxSlow, share)
	}
	return l
}

// now is the time on the runner's clock.
func (l *loop) now() int64 { return int64(clock.Since(l.epoch)) }

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
				l.visit(true)
			default:
				l.notice(keyOf(id))
			}
		})
	})
	if err != nil {
		l.Log.Problem("", fmt.Errorf("the trigger cannot be read, new mail waits for the next look: %w", err))
	}
}

func (l *loop) run() {
	l.visit(true)
	look, sweep := time.NewTicker(l.Wake), time.NewTicker(sweepEvery)
	defer look.Stop()
	defer sweep.Stop()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	stop := l.ctx.Done()
	for {
		stopping, now := l.ctx.Err() != nil, l.now()
		if stopping {
			l.dropWaiting()
		} else {
			l.claim(now)
			l.dispatch()
		}
		if l.claimed == 0 && !l.looking && !l.collecting && !l.cleaning && (stopping || l.done()) { // the spool is closed after that
			return
		}
		timer.Reset(l.sleep(stopping, now))
		select {
		case f := <-l.events:
			f()
		case <-timer.C:
		case <-look.C:
			l.clean()
			l.visit(false)
		case <-sweep.C:
			l.sweep()
		case <-stop:
			stop = nil
		}
	}
}

// sleep is how long nothing more is due than at now. What was due then and could not be claimed waits for an event.
func (l *loop) sleep(stopping bool, now int64) time.Duration {
	wait := time.Hour
	if stopping {
		return wait
	}
	for heap := range l.schedule.due {
		if _, due := l.schedule.top(heap); due > now {
			wait = min(wait, time.Duration(due-now))
		}
	}
	return wait
}

// done reports whether the mode is fulfilled while nothing is worked on.
func (l *loop) done() bool {
	switch l.mode {
	case Once:
		for id, times := range l.busy {
			if times < longBusy && l.schedule.slots[id].place == waiting {
				return false
			}
		}
		now := l.now()
		for heap := range l.schedule.due {
			if _, due := l.schedule.top(heap); due <= now {
				return false
			}
		}
		return true
	case UntilEmpty:
		return l.schedule.count[waiting] == 0
	}
	return false
}

// claim opens what is due, new mail and old in turns. Mail that was tried before may take half of the places, so that there is always one for new mail.
func (l *loop) claim(now int64) {
	for l.claimed-l.slow < l.most && l.claimed < l.most+l.slowest {
		l.claims = 1 - l.claims
		heap := l.claims
		if !l.claimable(heap, now) {
			if heap = 1 - heap; !l.claimable(heap, now) {
				return
			}
		}
		id, due := l.schedule.top(heap)
		l.schedule.due[heap].pop()
		tried := heap == 1
		l.schedule.put(id, due, working, tried)
		l.claimed++
		if tried {
			l.retrying++
		}
		l.async(func() {
			m, err := l.Spool.Claim(id.String())
			l.post(func() { l.opened(id, m, err) })
		}, func() { l.later(id, l.in(l.Policy().Longest)) })
	}
}

// claimable reports whether the first message of a heap may be opened now.
func (l *loop) claimable(heap int, now int64) bool {
	_, due := l.schedule.top(heap)
	return due <= now && (heap == heapOf(false) || l.retrying-l.slow < l.most/2)
}

// in is the time on the runner's clock after a wait.
func (l *loop) in(wait time.Duration) int64 { return l.now() + int64(wait) }

// release notes that a message is not worked on any more.
func (l *loop) release(id key) {
	l.claimed--
	if l.schedule.slots[id].tried {
		l.retrying--
	}
	l.arrived(id)
}

// forget ends the work on a message that is not in the queue any more.
func (l *loop) forget(id key) {
	l.release(id)
	l.erase(id)
}

// erase drops all that is known of a message that is not worked on.
func (l *loop) erase(id key) {
	l.schedule.forget(id)
	delete(l.kept, id)
	delete(l.parts, id)
	delete(l.urged, id)
	delete(l.tired, id)
	delete(l.busy, id)
	delete(l.noted, id)
}

// later ends the work on a message for now.
func (l *loop) later(id key, due int64) {
	l.release(id)
	l.schedule.put(id, due, waiting, l.schedule.slots[id].tried)
	l.notedMeanwhile(id)
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
