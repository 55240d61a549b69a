package runner

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/postel-mail/postel/internal/clock"
	"github.com/postel-mail/postel/internal/destination"
	"github.com/postel-mail/postel/internal/maillog"
	"github.com/postel-mail/postel/internal/queue"
	"github.com/postel-mail/postel/internal/status"
	"github.com/postel-mail/postel/internal/transport"
)

// mail is a claimed message. Until its last job is done the loop alone touches it, then settle alone.
type mail struct {
	id     key
	msg    *queue.Message
	policy *Policy // for this attempt
	sender *sender // once it is in lanes
	due    int64   // since when it waits for its turn
	jobs   []*job  // not done
	begun  int     // of these, running
	idle   bool    // counted in sender.idle
	tried  bool    // a result counts
	saved  bool    // the state on disk is that of msg
	wait   time.Duration
	next   time.Time // of the next attempt: wait after the last result
	over   bool      // its lifetime ends with this attempt
	saving bool      // a timer will record it
	goesOn *part     // what it does is the rest of an attempt
	rest   *part     // what is left of this attempt comes later
}

// part is the rest of an attempt, of a message that waits unclaimed for it. Its other recipients who have failed for now wait their time.
type part struct {
	rcpts []int // still to be tried
	due   int64 // when the message was due
	next  int64 // when the others are due again
}

// saveAfter is how long deliveries stay unrecorded while other recipients of their message are still being tried.
const saveAfter = 3 * time.Second

// longBusy is how often a message is found busy, for some two seconds in all, until a runner that makes one pass goes by.
const longBusy = 8

// opened splits a claimed message into jobs.
func (l *loop) opened(id key, m *queue.Message, err error) {
	p := l.Policy()
	if !errors.Is(err, queue.ErrBusy) {
		delete(l.busy, id)
	}
	switch bad := (*queue.CorruptError)(nil); {
	case err == nil && l.ctx.Err() != nil:
		m.Close()
		l.later(id, l.now())
		return
	case err == nil:
	case errors.Is(err, queue.ErrGone):
		l.forget(id)
		return
	case errors.Is(err, queue.ErrBusy): // its writer is still at it, or a person looks, or a program that is just being started has the writer's lock
		l.later(id, l.in(min(10*time.Millisecond<<l.busy[id], time.Second)))
		l.busy[id] = min(l.busy[id]+1, longBusy)
		return
	case errors.As(err, &bad):
		l.Log.Corrupt(id.String(), bad)
		if bad.Moved {
			l.forget(id)
		} else {
			l.later(id, l.in(p.Longest))
		}
		return
	default:
		l.Log.Problem(id.String(), err)
		l.later(id, l.in(p.First))
		return
	}
	kept := l.kept[id]
	if kept != nil {
		hold, expire := m.State.Hold, m.State.Expire // a person's word, which only the disk has
		m.State = *kept
		m.State.Hold, m.State.Expire = hold, expire
	}
	if m.State.Hold {
		m.Close()
		l.release(id)
		l.schedule.put(id, l.now(), held, true)
		return
	}
	m.Announce()
	mail := &mail{id: id, msg: m, policy: p, saved: kept == nil, due: l.dueOf(id)}
	if rest := l.parts[id]; rest != nil && l.now() < rest.next && !l.urged[id] {
		mail.goesOn, mail.due = rest, rest.due
	}
	mail.begin(clock.Now())
	if m.State.Expire {
		l.expire(mail)
	}
	l.enlist(mail)
}

// begin counts the time that has passed, and sees what this attempt decides. A wait counts up to twice what was planned, so that a clock that was set or a runner
// that was off does not end a message's life.
func (m *mail) begin(now time.Time) {
	st, p := &m.msg.State, m.policy
	since, planned := now.Sub(m.msg.Envelope.Arrival), p.Longest
	if st.Attempts > 0 {
		since, planned = now.Sub(st.Last), NextWait(st.Attempts, p.First, p.Longest, 0)
	}
	st.Waited += min(max(0, since), 2*planned)
	st.Last = now
	before := st.Attempts
	if m.goesOn != nil {
		before--
	}
	m.over = before > 0 && st.Waited > p.lifetime(m.msg)
	m.wait = p.nextWait(before + 1)
	m.next = now.Add(m.wait)
}

// lifetime is how long a message may stay in the queue.
func (p *Policy) lifetime(m *queue.Message) time.Duration {
	if m.Envelope.From.IsNull() {
		return p.BounceLifetime
	}
	return p.Lifetime
}

// expire gives up the recipients that wait, as a person has asked for.
func (l *loop) expire(m *mail) {
	for i := range m.msg.State.Rcpts {
		o := &m.msg.State.Rcpts[i]
		if o.Progress != queue.Waiting {
			continue
		}
		text := "Given up by the administrator"
		if o.Last != nil {
			text += "; the last answer was: " + strings.TrimSpace(o.Last.Reply())
		}
		l.fail(m, i, maillog.Delivery{ID: m.msg.ID(), To: m.msg.Envelope.Rcpts[i].To, Relay: o.Relay, Delay: clock.Since(m.msg.Envelope.Arrival)},
			status.Permanent(554, "5.4.7", text, nil))
	}
}

// enlist puts the jobs of a message into their lanes. A message that is all for one lane which has enough to do, for this sender too, is put back, unclaimed, until
// the lane calls it, and so is any message of a sender who has very many; one for several lanes goes to all, unless places are scarce and all have enough to do.
func (l *loop) enlist(m *mail) {
	c, called := l.called[m.id]
	byLane, bySender := called && c.from.lane != nil, called && c.from.lane == nil
	l.arrived(m.id)
	m.jobs = l.split(m)
	if len(m.jobs) == 0 { // all are settled; a report or the removal is still to be done
		l.finish(m)
		return
	}
	s := l.senderOf(m)
	m.sender = s
	if l.urged[m.id] { // a person wants it tried: what is known of its destinations does not count
		delete(l.urged, m.id)
		for _, j := range m.jobs {
			j.lane.urge()
		}
	}
	if l.tired[m.id] {
		delete(l.tired, m.id)
		l.putOff(m)
		return
	}
	if !byLane && l.parks(m) {
		l.park(m, m.lines()...)
		return
	}
	if !byLane && !bySender && (s.idle >= l.share() || s.jobs >= manyJobs) {
		l.park(m, &s.line)
		return
	}
	touched := map[*lane]bool{}
	for _, j := range m.jobs {
		l.add(j.lane.flowOf(s), j)
		touched[j.lane] = true
	}
	l.count(m)
	for x := range touched {
		l.offer(x)
	}
}

// parks reports whether a message is to wait for its lanes: all have enough to do, and this sender, or whoever, has had a fair share.
func (l *loop) parks(m *mail) bool {
	x, several := m.jobs[0].lane, false
	for _, j := range m.jobs {
		if j.lane.closed > l.now() || !j.lane.crowded(m.policy) {
			return false
		}
		several = several || j.lane != x
	}
	if several {
		return l.scarce(m.sender)
	}
	return len(x.flowOf(m.sender).jobs) > 0 || !x.alive || x.waiting+x.coming >= max(2*x.room(m.policy), l.most/8)
}

// lines are those in which a message waits for its lanes. The first that calls gets it, for all of them.
func (m *mail) lines() (lines []*line) {
	for _, j := range m.jobs {
		if at := &j.lane.flowOf(m.sender).line; len(lines) < maxLines && !slices.Contains(lines, at) {
			lines = append(lines, at)
		}
	}
	return lines
}

// putOff ends the attempt of a message that has been parked for too long, so that its life goes on and its sender hears of it.
func (l *loop) putOff(m *mail) {
	jobs := m.jobs
	m.jobs = nil
	for _, j := range jobs {
		for i, r := range j.same(status.Temporary(451, "4.4.5", "Not tried: its destination is busy with other mail", nil)) {
			l.note(m, j.req.Rcpts[i], r)
		}
	}
	l.finish(m)
}

// split groups the recipients that wait by lane, in the order of the envelope.
func (l *loop) split(mail *mail) []*job {
	byLane := map[*lane]*job{}
	var jobs []*job
	for i, rcpt := range mail.msg.Envelope.Rcpts {
		if mail.msg.State.Rcpts[i].Progress != queue.Waiting || mail.goesOn != nil && !slices.Contains(mail.goesOn.rcpts, i) {
			continue
		}
		dests, _ := mail.policy.Routes.For(rcpt.To)
		domain := rcpt.To.ASCII().Domain
		x := l.laneNamed(laneOf(dests, domain), isProgram(dests[0]))
		j := byLane[x]
		if j == nil || len(j.req.Rcpts) >= perJob(dests[0]) {
			j = &job{mail: mail, lane: x, req: transport.Request{Message: mail.msg, Dests: dests, Domain: domain}}
			byLane[x] = j
			jobs = append(jobs, j)
		}
		j.req.Rcpts = append(j.req.Rcpts, i)
	}
	return jobs
}

// perJob bounds the recipients of one transaction: 100 is what every server takes (RFC 5321 4.5.3.1.8); programs get one.
func perJob(d destination.Destination) int {
	if isProgram(d) {
		return 1
	}
	return 100
}

func isProgram(d destination.Destination) bool {
	return d.Kind == destination.Pipe || d.Kind == destination.Discard || d.IsLocal()
}

// attempted notes what a job brought, and settles the message after its last one. No results: it was not tried.
func (l *loop) attempted(j *job, results []transport.Result) {
	m := j.mail
	m.next = clock.Now().Add(m.wait)
	for i, r := range results {
		l.note(m, j.req.Rcpts[i], r)
	}
	m.jobs = slices.DeleteFunc(m.jobs, func(other *job) bool { return other == j })
	if len(m.jobs) > 0 && l.ctx.Err() == nil {
		l.shelve(m)
	}
	l.count(m)
	if len(m.jobs) == 0 {
		l.finish(m)
		return
	}
	if !m.saved && !m.saving { // what is delivered must not be forgotten while a slow host keeps the message
		m.saving = true
		time.AfterFunc(saveAfter, func() {
			l.post(func() {
				if m.saving = false; len(m.jobs) > 0 && !m.saved {
					m.saved = l.record(m, false)
					m.msg.Announce()
				}
			})
		})
	}
}

// shelve breaks off the attempt of a message where all that is left of it waits in lanes with much to do, and places are scarce, for its sender or for all: it comes
// back as one that has only these recipients, and can be parked.
func (l *loop) shelve(m *mail) {
	if !m.tried || !l.scarce(m.sender) || slices.ContainsFunc(m.jobs, func(j *job) bool { return j.begun || !j.lane.crowded(m.policy) }) {
		return
	}
	jobs := m.jobs
	m.jobs, m.rest = nil, &part{due: m.due, next: l.in(m.wait)}
	for _, j := range jobs {
		m.rest.rcpts = append(m.rest.rcpts, j.req.Rcpts...)
		l.drop(j)
		l.offer(j.lane)
	}
	waiting := 0
	for _, o := range m.msg.State.Rcpts {
		if o.Progress == queue.Waiting {
			waiting++
		}
	}
	if waiting == len(m.rest.rcpts) { // after a restart it goes on at once, too
		m.next = clock.Now()
	}
}

// note judges one attempt for one recipient, and logs it. When the runner is stopping, a failure for now is the runner's and does not count.
func (l *loop) note(m *mail, i int, r transport.Result) {
	e, o := m.msg.Envelope, &m.msg.State.Rcpts[i]
	if r.Err != nil && r.Err.Temporary() && l.ctx.Err() != nil && !r.Twice {
		return
	}
	m.tried, m.saved = true, false
	d := maillog.Delivery{ID: e.ID, To: e.Rcpts[i].To, Dest: r.Dest.String(), Relay: r.Relay, Delay: clock.Since(e.Arrival)}
	o.Last, o.Relay, o.Said = r.Err, r.Relay, r.Remote
	switch {
	case r.Err == nil:
		o.Progress = queue.Delivered
		if r.Remote && r.Dest.Kind != destination.LMTP { // LMTP is final delivery
			o.Progress = queue.Relayed
		}
		if r.Expanded {
			o.Progress = queue.Expanded
		}
		o.Told = e.From.IsNull() || r.DSN || !e.Rcpts[i].Wants("SUCCESS")
		l.Log.Delivered(d, r.Code, r.Text)
	case r.Err.Temporary() && !m.over:
		l.Log.Deferred(d, m.next, r.Err)
	case r.Err.Temporary():
		l.fail(m, i, d, status.Permanent(554, "5.4.7", "Could not be delivered in time; the last answer was: "+strings.TrimSpace(r.Err.Reply()), r.Err.Err))
		o.Said = false
	default:
		l.fail(m, i, d, r.Err)
	}
}

// fail gives a recipient up.
func (l *loop) fail(m *mail, i int, d maillog.Delivery, s *status.Error) {
	e, o := m.msg.Envelope, &m.msg.State.Rcpts[i]
	m.tried, m.saved = true, false
	o.Progress, o.Last = queue.Failed, s
	o.Told = !e.From.IsNull() && !e.Rcpts[i].Wants("FAILURE") // where there is no sender, postmaster hears of it
	l.Log.Bounced(d, s)
}

// finish settles a message outside the loop.
func (l *loop) finish(m *mail) {
	stopping := l.ctx.Err() != nil
	l.async(func() {
		gone := l.settle(m, stopping)
		m.msg.Close()
		l.post(func() { l.settled(m, gone) })
	}, func() {
		m.msg.Close()
		m.next = clock.Now().Add(m.policy.Longest)
		l.settled(m, false)
	})
}

func (l *loop) settled(m *mail, gone bool) {
	if gone {
		l.forget(m.id)
		return
	}
	delete(l.kept, m.id)
	if !m.saved {
		l.kept[m.id] = &m.msg.State
	}
	due := l.in(m.next.Sub(clock.Now()))
	delete(l.parts, m.id)
	if m.rest != nil {
		l.parts[m.id], due = m.rest, l.now()
	}
	l.release(m.id)
	l.schedule.put(m.id, due, waiting, true)
	l.notedMeanwhile(m.id)
}

// record writes the state, and reports whether it could. While it cannot, the runner goes by what it remembers.
func (l *loop) record(m *mail, sync bool) bool {
	if err := m.msg.Record(sync); err != nil {
		l.Log.Problem(m.msg.ID(), fmt.Errorf("the state is not recorded, after a restart recipients may be tried again: %w", err))
		return false
	}
	return true
}
