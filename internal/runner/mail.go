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
	entry  *entry
	msg    *queue.Message
	policy *Policy   // for this attempt
	left   int       // jobs not done
	tried  bool      // a result counts
	saved  bool      // the state on disk is that of msg
	next   time.Time // of the next attempt
	over   bool      // its lifetime ends with this attempt
}

// saveAfter is how long deliveries stay unrecorded while other recipients of their message are still being tried.
const saveAfter = 3 * time.Second

// opened splits a claimed message into jobs.
func (l *loop) opened(e *entry, m *queue.Message, err error) {
	now, p := clock.Now(), l.Policy()
	switch bad := (*queue.CorruptError)(nil); {
	case err == nil && l.ctx.Err() != nil:
		m.Close()
		l.later(e, now)
		return
	case err == nil:
	case errors.Is(err, queue.ErrGone):
		l.forget(e)
		return
	case errors.Is(err, queue.ErrBusy): // its writer is still at it, or a person looks
		l.later(e, now.Add(time.Second))
		return
	case errors.As(err, &bad):
		l.Log.Corrupt(e.id, bad)
		if bad.Moved {
			l.forget(e)
		} else {
			l.later(e, now.Add(p.Longest))
		}
		return
	default:
		l.Log.Problem(e.id, err)
		l.later(e, now.Add(p.First))
		return
	}
	if e.kept != nil {
		hold := m.State.Hold // a person's word, which only the disk has
		m.State = *e.kept
		m.State.Hold = hold
	}
	if m.State.Hold {
		m.Close()
		l.claimed--
		l.put(e, now, held)
		return
	}
	mail := &mail{entry: e, msg: m, policy: p, saved: e.kept == nil}
	mail.begin(now)
	l.enlist(mail, split(mail))
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
	m.over = st.Attempts > 0 && st.Waited > p.Lifetime
	m.next = now.Add(p.nextWait(st.Attempts + 1))
}

// enlist puts jobs into their lanes. A message that is all for one lane which has enough to do is put back, unclaimed, until the lane calls it; one
// for several lanes goes to all, since its other recipients must not wait.
func (l *loop) enlist(m *mail, jobs []*job) {
	if len(jobs) == 0 { // all are settled; a report or the removal is still to be done
		l.finish(m)
		return
	}
	name := jobs[0].lane
	several := slices.ContainsFunc(jobs, func(j *job) bool { return j.lane != name })
	if at := l.lanes[name]; !several && at != nil && len(at.waiting) >= 2*m.policy.Concurrency {
		m.msg.Close()
		l.claimed--
		l.put(m.entry, m.entry.due, parked)
		at.parked = append(at.parked, m.entry)
		return
	}
	for _, j := range jobs {
		at := l.lanes[j.lane]
		if at == nil {
			at = &lane{}
			l.lanes[j.lane] = at
		}
		at.waiting = append(at.waiting, j)
		m.left++
	}
}

// split groups the recipients that wait by lane, in the order of the envelope.
func split(mail *mail) []*job {
	byLane := map[string]*job{}
	var jobs []*job
	for i, rcpt := range mail.msg.Envelope.Rcpts {
		if mail.msg.State.Rcpts[i].Progress != queue.Waiting {
			continue
		}
		dests, _ := mail.policy.Routes.For(rcpt.To)
		domain := rcpt.To.ASCII().Domain
		name := laneOf(dests, domain)
		j := byLane[name]
		if j == nil || len(j.req.Rcpts) >= perJob(dests[0]) {
			j = &job{mail: mail, lane: name, req: transport.Request{Message: mail.msg, Dests: dests, Domain: domain}}
			byLane[name] = j
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

func isProgram(d destination.Destination) bool { return d.Kind == destination.Pipe || d.IsLocal() }

// attempted notes what a job brought, and settles the message after its last one. No results: it was not tried.
func (l *loop) attempted(j *job, results []transport.Result) {
	m := j.mail
	for i, r := range results {
		l.note(m, j.req.Rcpts[i], r)
	}
	if m.left--; m.left == 0 {
		l.finish(m)
		return
	}
	if !m.saved { // what is delivered must not be forgotten while a slow host keeps the message
		time.AfterFunc(saveAfter, func() {
			l.post(func() {
				if m.left > 0 && !m.saved {
					m.saved = l.record(m, false)
				}
			})
		})
	}
}

// note judges one attempt for one recipient, and logs it. When the runner is stopping, a failure for now is the runner's and does not count.
func (l *loop) note(m *mail, i int, r transport.Result) {
	e, o := m.msg.Envelope, &m.msg.State.Rcpts[i]
	if r.Err != nil && r.Err.Temporary() && l.ctx.Err() != nil {
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
		o.Told = e.From.IsNull() || r.DSN || !e.Rcpts[i].Wants("SUCCESS")
		l.Log.Delivered(d, r.Code, r.Text)
		return
	case r.Err.Temporary() && !m.over:
		l.Log.Deferred(d, m.next, r.Err)
		return
	case r.Err.Temporary():
		o.Last = status.Permanent(554, "5.4.7", "Could not be delivered in time; the last answer was: "+strings.TrimSpace(r.Err.Reply()), r.Err.Err)
	}
	o.Progress, o.Said = queue.Failed, o.Said && o.Last == r.Err
	o.Told = e.From.IsNull() || !e.Rcpts[i].Wants("FAILURE") // no report on a report (RFC 5321 6.1)
	l.Log.Bounced(d, o.Last)
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
		l.forget(m.entry)
		return
	}
	m.entry.kept = nil
	if !m.saved {
		m.entry.kept = &m.msg.State
	}
	l.later(m.entry, m.next)
}

// record writes the state, and reports whether it could. While it cannot, the runner goes by what it remembers.
func (l *loop) record(m *mail, sync bool) bool {
	if err := m.msg.Record(sync); err != nil {
		l.Log.Problem(m.msg.ID(), fmt.Errorf("the state is not recorded, after a restart recipients may be tried again: %w", err))
		return false
	}
	return true
}
