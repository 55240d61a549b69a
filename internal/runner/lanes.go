package runner

import (
	"slices"
	"strings"
	"time"

	"github.com/postel-mail/postel/internal/status"
	"github.com/postel-mail/postel/internal/transport"
)

const (
	// closedFor is how long a lane is closed whose hosts could not be reached: doubled each time that it happens again, up to the first wait of the policy.
	closedFor = time.Minute
	// A server that asks for patience (421, 4.7.x) gets one message in paceFirst; where it is 421, then in twice that, up to paceLongest. Each success halves it.
	paceFirst   = time.Second
	paceLongest = time.Minute
	// manyJobs is how many jobs of one sender may wait, those of messages included of which another recipient is being tried.
	manyJobs = 20000
	// maxLines is in how many lines one message waits.
	maxLines = 16
	// forgetLane is how long a lane without work is remembered, of rememberedLanes at most.
	forgetLane      = 5 * time.Minute
	rememberedLanes = 50000
)

// lane is a next hop: what shares connections and limits.
type lane struct {
	name    string
	program bool // no network: it has its whole limit always
	flows   map[*sender]*flow
	idle    []*flow // with jobs, in turn, that are not among their sender's ready ones
	ready   int     // flows that are
	waiting int     // jobs in flows
	parked  int     // in the lines of its flows
	turn    []*line // of its flows, with parked messages, in turn
	coming  int     // messages called back that are not here yet
	active  int     // jobs that run

	alive  bool // it has answered, and nothing has happened since
	asks   bool // it is among the trials of its senders
	urged  bool // a person wants it tried, and it has not been since
	limit  int  // jobs at once
	pace   time.Duration
	next   int64 // no job begins before that; 0 at once
	waking bool  // a timer will look after it
	closed int64 // until when
	fails  int   // that it was closed in a row
	lost   int   // sessions lost in a row by the first message of a lane that had not answered
	why    *status.Error
	used   int64
}

// senderKey is who sends, apart for new mail and for mail that was tried before.
type senderKey struct {
	tried bool
	from  string
}

// sender takes turns with others for the places to run in.
type sender struct {
	key    senderKey
	ready  []*flow // whose first job may begin
	ring   bool    // it is in its ring
	trials []*flow // of lanes that want to try whether somebody answers
	asks   bool    // it is in loop.trials
	slow   int     // jobs in loop.slow that began in its turn
	jobs   int     // in flows
	idle   int     // messages that are open while none of their jobs runs
	line   line    // messages that wait for these to become fewer
}

// flow is what one sender has for one lane.
type flow struct {
	line
	jobs  []*job
	ready bool // among sender.ready
	idle  bool // among lane.idle
	asks  bool // among sender.trials
}

// line is a parking line: messages that wait unclaimed, in order.
type line struct {
	parked []key
	coming int
	lane   *lane // whose flow it belongs to; nil: a sender's
	sender *sender
}

// call is of a message on the way back from a parking line.
type call struct {
	from *line
	due  int64 // when it was due at first
}

type job struct {
	mail    *mail
	lane    *lane
	flow    *flow // of the lane, once the job is in it
	req     transport.Request
	turn    *sender // in whose turn it began
	begun   bool
	slow    bool // counted in loop.slow
	patient *time.Timer
}

func (l *loop) laneNamed(name string, program bool) *lane {
	x := l.lanes[name]
	if x == nil {
		x = &lane{name: name, program: program, alive: program, limit: 1, flows: map[*sender]*flow{}}
		l.lanes[name] = x
	}
	return x
}

func (l *loop) senderOf(m *mail) *sender {
	k := senderKey{m.msg.State.Attempts > 0, m.msg.Envelope.From.String()}
	s := l.senders[k]
	if s == nil {
		s = &sender{key: k}
		s.line.sender = s
		l.senders[k] = s
	}
	return s
}

func (x *lane) flowOf(s *sender) *flow {
	f := x.flows[s]
	if f == nil {
		f = &flow{line: line{lane: x, sender: s}}
		x.flows[s] = f
	}
	return f
}

// add puts a job behind the others of its flow.
func (l *loop) add(f *flow, j *job) {
	j.flow = f
	f.jobs = append(f.jobs, j)
	f.lane.waiting++
	f.sender.jobs++
	f.rest()
	l.askFor(f)
}

// rest puts a flow with jobs behind the idle ones of its lane, unless it has a place there or among its sender's ready ones.
func (f *flow) rest() {
	if len(f.jobs) > 0 && !f.ready && !f.idle {
		f.idle = true
		f.lane.idle = append(f.lane.idle, f)
	}
}

// drop takes a job that has not begun out of its flow.
func (l *loop) drop(j *job) {
	f := j.flow
	f.jobs = slices.DeleteFunc(f.jobs, func(other *job) bool { return other == j })
	f.lane.waiting--
	f.sender.jobs--
}

// offer lets a lane begin what it may.
func (l *loop) offer(x *lane) {
	now := l.now()
	switch {
	case x.waiting == 0 || l.ctx.Err() != nil:
	case x.closed > now: // the answer is known
		for x.waiting > 0 {
			l.answer(x.take())
		}
	case x.next > now:
		if !x.waking {
			x.waking = true
			time.AfterFunc(time.Duration(x.next-now), func() { l.post(func() { x.waking = false; l.offer(x) }) })
		}
	case !x.alive:
		if x.active == 0 && !x.asks {
			x.asks = true
			for _, f := range x.flows {
				l.askFor(f)
			}
		}
	default:
		for room := x.room(l.Policy()) - x.active - x.ready; room > 0 && len(x.idle) > 0; {
			f := x.idle[0]
			x.idle = x.idle[1:]
			f.idle = false
			if len(f.jobs) == 0 {
				continue
			}
			room--
			f.ready = true
			x.ready++
			s := f.sender
			s.ready = append(s.ready, f)
			if !s.ring {
				s.ring = true
				ring := &l.rings[heapOf(s.key.tried)]
				*ring = append(*ring, s)
			}
		}
	}
	l.callBack(x)
}

// askFor puts a flow with mail among the trials of its sender, where its lane wants one. The lane tries one of its jobs in the turn of whichever of its senders is
// the first to have one.
func (l *loop) askFor(f *flow) {
	if f.lane.asks && !f.asks && len(f.jobs)+len(f.parked) > 0 {
		f.asks = true
		f.sender.trials = append(f.sender.trials, f)
		l.ask(f.sender)
	}
}

// ask puts a sender with lanes to try among those who take turns. Half of the slow places are the most that one gets.
func (l *loop) ask(s *sender) {
	if len(s.trials) > 0 && !s.asks && s.slow < max(1, l.slowest/2) {
		s.asks = true
		l.trials = append(l.trials, s)
	}
}

// trial gives the job by which one of a sender's lanes is to be tried, nil where none of them wants that any more.
func (l *loop) trial(s *sender) *job {
	for len(s.trials) > 0 {
		x := s.trials[0].lane
		s.trials[0].asks = false
		s.trials = s.trials[1:]
		if x.asks && !x.alive && x.active == 0 && x.waiting > 0 && x.closed <= l.now() && x.next <= l.now() {
			return x.take()
		}
		x.asks = false
		l.offer(x)
	}
	return nil
}

// room is how many jobs of a lane may run at once.
func (x *lane) room(p *Policy) int {
	switch {
	case x.program:
		return p.Concurrency
	case x.pace > 0:
		return 1
	}
	return min(x.limit, p.Concurrency)
}

// crowded reports whether a lane has enough to do for the moment: while it is not known to answer, one job.
func (x *lane) crowded(p *Policy) bool {
	if !x.alive {
		return x.waiting+x.coming+x.active >= 1
	}
	return x.waiting+x.coming >= 2*x.room(p)
}

// take gives the next job of a lane that has one, its senders in turn.
func (x *lane) take() *job {
	f := x.first()
	if f.idle {
		x.idle = x.idle[1:]
		f.idle = false
	}
	return x.pop(f)
}

// first gives the flow whose turn it is, of a lane with jobs: one that is idle, else one that its sender has among the ready.
func (x *lane) first() *flow {
	for len(x.idle) > 0 {
		f := x.idle[0]
		if len(f.jobs) > 0 {
			return f
		}
		x.idle = x.idle[1:]
		f.idle = false
	}
	for _, f := range x.flows {
		if len(f.jobs) > 0 {
			return f
		}
	}
	return nil
}

// pop takes the first job of a flow, and puts the flow behind the others.
func (x *lane) pop(f *flow) *job {
	j := f.jobs[0]
	f.jobs[0] = nil
	f.jobs = f.jobs[1:]
	x.waiting--
	f.sender.jobs--
	f.rest()
	return j
}

// pick gives the job that is to run next: of new mail and old in turns, the senders of each in turn; nil when none may.
func (l *loop) pick() *job {
	now := l.now()
	for range l.rings {
		l.turn = 1 - l.turn
		ring := &l.rings[l.turn]
		for len(*ring) > 0 {
			s := (*ring)[0]
			*ring = (*ring)[1:]
			f := s.ready[0]
			s.ready = s.ready[1:]
			if s.ring = len(s.ready) > 0; s.ring {
				*ring = append(*ring, s)
			}
			x := f.lane
			f.ready = false
			x.ready--
			if len(f.jobs) > 0 && x.alive && x.closed <= now && x.next <= now && x.active < x.room(l.Policy()) {
				return x.pop(f)
			}
			f.rest() // something has happened since it was made ready
			l.offer(x)
		}
	}
	return nil
}

// dispatch begins jobs as long as there are places.
func (l *loop) dispatch() {
	for l.slow < l.slowest && len(l.trials) > 0 {
		s := l.trials[0]
		l.trials = l.trials[1:]
		s.asks = false
		if j := l.trial(s); j != nil {
			l.launch(j, s)
		}
		l.ask(s)
	}
	for l.running < l.Policy().Processes {
		j := l.pick()
		if j == nil {
			return
		}
		l.launch(j, j.flow.sender)
		l.offer(j.lane)
	}
}

// launch begins a job in the turn of a sender.
func (l *loop) launch(j *job, turn *sender) {
	x := j.lane
	x.active++
	x.used = l.now()
	x.asks = false
	if x.pace > 0 {
		x.next = x.used + int64(x.pace)
	}
	j.begun, j.turn = true, turn
	j.mail.begun++
	l.count(j.mail)
	j.req.Urgent, x.urged = x.urged, false
	if j.slow = !x.alive; j.slow {
		l.slow++
		turn.slow++
	} else {
		l.running++
	}
	ctx := l.ctx
	if x.program {
		ctx = l.programs
	} else if !j.slow {
		j.patient = time.AfterFunc(slowAfter, func() { l.post(func() { l.slowed(j) }) })
	}
	l.async(func() {
		results := l.Attempt(ctx, j.req)
		l.post(func() { l.ended(j, results) })
	}, func() { l.ended(j, j.same(status.Temporary(451, "4.3.0", "Internal software error", nil))) })
}

// same is one failure for all recipients of a job.
func (j *job) same(s *status.Error) []transport.Result {
	return slices.Repeat([]transport.Result{{Dest: j.req.Dests[0], Err: s}}, len(j.req.Rcpts))
}

// slowed gives the place of a job that waits for its destination to others.
func (l *loop) slowed(j *job) {
	switch {
	case !j.begun || j.slow:
	case l.slow >= l.slowest: // perhaps later
		j.patient.Reset(slowAfter)
	default:
		j.slow = true
		l.running--
		l.slow++
		j.turn.slow++
	}
}

func (l *loop) ended(j *job, results []transport.Result) {
	x := j.lane
	x.active--
	x.used = l.now()
	if j.patient != nil {
		j.patient.Stop()
	}
	if j.slow {
		l.slow--
		j.turn.slow--
		l.ask(j.turn)
	} else {
		l.running--
	}
	j.begun = false
	j.mail.begun--
	if l.ctx.Err() == nil && !x.program {
		l.judge(x, results)
	}
	if x.urged { // since this job began
		x.reopen()
	}
	l.attempted(j, results)
	l.offer(x)
}

// judge learns from results how a lane is to be treated.
func (l *loop) judge(x *lane, results []transport.Result) {
	var unreached, lost, patience, busy, alive int
	for _, r := range results {
		switch {
		case r.Err != nil && r.Err.Code == 421:
			busy++
		case r.Err != nil && r.Err.Temporary() && r.Remote && strings.HasPrefix(r.Err.Enhanced, "4.7."):
			patience++
		case r.Err == nil || r.Remote || r.Code != 0 || !r.Err.Temporary():
			alive++
		case !strings.HasPrefix(r.Err.Enhanced, "4.4."): // this host's own trouble
		case r.Reached:
			lost++
		default:
			unreached++
		}
	}
	if alive > 0 { // at the first sign of life
		x.alive, x.fails, x.lost = true, 0, 0
		x.limit = min(x.limit+1, l.Policy().Concurrency)
	}
	if lost > 0 && alive == 0 && !x.alive {
		if x.lost++; x.lost > 1 { // whoever answers there takes nothing
			unreached, lost = unreached+lost, 0
		}
	}
	switch {
	case busy > 0:
		x.limit = max(1, x.limit/2)
		x.pace = min(max(paceFirst, 2*x.pace), paceLongest)
		x.next = max(x.next, l.in(x.pace))
	case patience > 0: // often it is about one recipient who is new there (greylisting)
		x.alive, x.limit = true, max(1, x.limit/2)
		x.pace = max(paceFirst, x.pace)
		x.next = max(x.next, l.in(x.pace))
	case alive > 0:
		if x.pace /= 2; x.pace < paceFirst {
			x.pace = 0
		}
	case lost > 0:
		x.alive = x.limit > 1
		x.limit = max(1, x.limit/2)
	case unreached > 0 && x.limit > 1 && x.active > 0: // others still talk
		x.limit = max(1, x.limit/2)
	case unreached > 0:
		x.alive, x.limit = false, 1
		x.closed, x.why = l.in(min(closedFor<<min(x.fails, 16), l.Policy().First)), results[0].Err
		x.fails++
	}
}

// urge has a lane tried at once, whatever is known of it.
func (x *lane) urge() {
	x.urged = true
	x.reopen()
}

func (x *lane) reopen() { x.closed, x.next, x.fails = 0, 0, 0 }

// answer ends a job for a closed lane.
func (l *loop) answer(j *job) {
	why := *j.lane.why
	why.Text = "Not tried again so soon: " + why.Text
	l.attempted(j, j.same(&why))
}

// park keeps a message unclaimed until one of its lines is called.
func (l *loop) park(m *mail, lines ...*line) {
	m.msg.Close()
	l.release(m.id)
	l.schedule.put(m.id, m.due, parked, l.schedule.slots[m.id].tried)
	for _, at := range lines {
		at.parked = append(at.parked, m.id)
		if x := at.lane; x != nil {
			x.parked++
			if len(at.parked) == 1 {
				x.turn = append(x.turn, at)
			}
			l.askFor(x.flows[at.sender])
		}
	}
}

// callBack brings parked messages of a lane back when it will soon have nothing to do, those of its senders in turn.
func (l *loop) callBack(x *lane) {
	for x.parked > 0 && !x.crowded(l.Policy()) && l.ctx.Err() == nil {
		at := x.turn[0]
		x.turn = x.turn[1:]
		l.call(at)
		if x.parked--; len(at.parked) > 0 {
			x.turn = append(x.turn, at)
		}
	}
}

// callSender brings parked messages of a sender back.
func (l *loop) callSender(s *sender) {
	for len(s.line.parked) > 0 && s.idle+s.line.coming < l.share()/2 && s.jobs < manyJobs {
		l.call(&s.line)
	}
}

// share is how many messages of one sender may wait open before others are parked.
func (l *loop) share() int { return l.most / 4 }

// scarce reports whether open messages have become many, of a sender or of all.
func (l *loop) scarce(s *sender) bool { return l.claimed >= l.most/2 || s.idle >= l.share()/4 }

// count keeps the number of a sender's idle messages, when something about one has changed.
func (l *loop) count(m *mail) {
	idle := len(m.jobs) > 0 && m.begun == 0
	switch {
	case idle && !m.idle:
		m.sender.idle++
	case !idle && m.idle:
		m.sender.idle--
	}
	m.idle = idle
	l.callSender(m.sender)
}

func (l *loop) call(at *line) {
	id := at.parked[0]
	at.parked = at.parked[1:]
	slot, known := l.schedule.slots[id]
	if !known || slot.place != parked { // another line has called it, or a person has put it elsewhere
		return
	}
	l.called[id] = call{at, slot.due}
	at.coming++
	if at.lane != nil {
		at.lane.coming++
	}
	l.schedule.put(id, l.now(), waiting, slot.tried) // behind those that nobody has looked at yet
}

// dueOf is since when a message waits for its turn.
func (l *loop) dueOf(id key) int64 {
	if c, called := l.called[id]; called {
		return c.due
	}
	return l.schedule.slots[id].due
}

// arrived notes that a message which was called back is on its own again.
func (l *loop) arrived(id key) {
	c, called := l.called[id]
	if !called {
		return
	}
	delete(l.called, id)
	at := c.from
	at.coming--
	if at.lane != nil {
		at.lane.coming--
		l.offer(at.lane)
	} else {
		l.callSender(at.sender)
	}
}

// relieve calls what has been parked for longer than the longest wait between attempts, to put it off.
func (l *loop) relieve(at *line) {
	if len(at.parked) == 0 {
		return
	}
	longest := int64(l.Policy().Longest)
	for len(at.parked) > 0 {
		id := at.parked[0]
		if slot, known := l.schedule.slots[id]; known && slot.place == parked {
			if l.now()-slot.due < longest {
				return
			}
			l.tired[id] = true
		}
		at.lane.parked--
		l.call(at)
	}
	at.lane.turn = slices.DeleteFunc(at.lane.turn, func(other *line) bool { return other == at })
}

// dropWaiting ends the jobs that have not begun, when the runner stops: their recipients stay as they are.
func (l *loop) dropWaiting() {
	for _, x := range l.lanes {
		for x.waiting > 0 {
			l.attempted(x.take(), nil)
		}
	}
}

// sweep forgets lanes and senders without work, and looks for mail that is late.
func (l *loop) sweep() {
	l.watch()
	now := l.now()
	for _, x := range l.lanes {
		for _, f := range x.flows {
			l.relieve(&f.line)
		}
	}
	for name, x := range l.lanes {
		for s, f := range x.flows {
			if len(f.jobs) == 0 && len(f.parked) == 0 && f.coming == 0 && !f.ready && !f.idle && !f.asks {
				delete(x.flows, s)
			}
		}
		unused := len(x.flows) == 0 && x.active == 0 && !x.waking
		if unused && (len(l.lanes) > rememberedLanes || x.closed < now && max(x.used, x.closed)+int64(forgetLane) < now) {
			delete(l.lanes, name)
		}
	}
	used := map[*sender]bool{}
	for _, x := range l.lanes {
		for s := range x.flows {
			used[s] = true
		}
	}
	for k, s := range l.senders {
		if !used[s] && s.idle == 0 && len(s.line.parked) == 0 && s.line.coming == 0 && !s.ring && len(s.trials) == 0 && s.slow == 0 {
			delete(l.senders, k)
		}
	}
}
