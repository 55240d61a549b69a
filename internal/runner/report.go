package runner

import (
	"bufio"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/postel-mail/postel/internal/clock"
	"github.com/postel-mail/postel/internal/dsn"
	"github.com/postel-mail/postel/internal/maillog"
	"github.com/postel-mail/postel/internal/message"
	"github.com/postel-mail/postel/internal/queue"
	"github.com/postel-mail/postel/internal/status"
)

// news is what came of telling about a message.
type news struct {
	told  bool  // the state has changed: something was told, or will never be
	waits bool  // something has to wait, since its recipient gets too many reports
	err   error // why something could not be told; it stays to be told
}

// report queues the notifications that are due, one for each kind of news, and notes at once what has been told. late says that this is the time to
// tell of a delay.
func (l *loop) report(m *mail, late bool) (n news) {
	e, st, p := m.msg.Envelope, &m.msg.State, m.policy
	late = late && !e.From.IsNull() && p.Warn > 0 && !st.Warned && st.Waited > p.Warn
	if !late && !slices.ContainsFunc(st.Rcpts, func(o queue.Outcome) bool { return o.Progress != queue.Waiting && !o.Told }) {
		return n // as nearly always
	}
	for _, kind := range []struct {
		action dsn.Action
		about  func(i int, o *queue.Outcome) bool
		noted  func(*queue.Outcome)
	}{
		{dsn.Failed, func(_ int, o *queue.Outcome) bool { return o.Progress == queue.Failed && !o.Told }, tell},
		{dsn.Delivered, func(_ int, o *queue.Outcome) bool { return o.Progress == queue.Delivered && !o.Told }, tell},
		{dsn.Relayed, func(_ int, o *queue.Outcome) bool { return o.Progress == queue.Relayed && !o.Told }, tell},
		{dsn.Expanded, func(_ int, o *queue.Outcome) bool { return o.Progress == queue.Expanded && !o.Told }, tell},
		{dsn.Delayed, func(i int, o *queue.Outcome) bool {
			return late && o.Progress == queue.Waiting && o.Last != nil && e.Rcpts[i].Wants("DELAY")
		}, func(*queue.Outcome) { st.Warned = true }},
	} {
		r := &dsn.Report{Hostname: p.Hostname, Action: kind.action, Message: e, Now: clock.Now(),
			Until: st.Last.Add(p.Lifetime - st.Waited), Original: m.msg.Body(), Size: m.msg.Size()}
		var about []*queue.Outcome
		for i := range st.Rcpts {
			if o := &st.Rcpts[i]; kind.about(i, o) {
				about = append(about, o)
				r.Rcpts = append(r.Rcpts, dsn.Recipient{Recipient: e.Rcpts[i], Err: o.Last, Relay: o.Relay, Said: o.Said, Attempt: st.Last})
			}
		}
		if len(about) == 0 {
			continue
		}
		one := l.tell(m, r)
		if one.told {
			for _, o := range about {
				kind.noted(o)
			}
		}
		n.told, n.waits = n.told || one.told, n.waits || one.waits
		if n.err == nil {
			n.err = one.err
		}
	}
	return n
}

func tell(o *queue.Outcome) { o.Told = true }

// tell queues one report, unless nobody is to get it or not now.
func (l *loop) tell(m *mail, r *dsn.Report) (n news) {
	if m.msg.Envelope.From.IsNull() {
		last, err := isDoubleBounce(m.msg)
		if err != nil {
			return news{err: err}
		}
		if last {
			l.Log.Dropped(m.msg.ID(), "this was a report to postmaster, and it could not be delivered")
			return news{told: true}
		}
	}
	to := strings.ToLower(r.To().Key())
	if l.mayReport(to, r.Now) {
		if err := l.send(r); err != nil {
			l.unreported(to, r.Now)
			return news{err: err}
		}
		return news{told: true}
	}
	switch {
	case r.Action == dsn.Delayed: // the next attempt is another occasion
		return news{}
	case !m.tried && !m.msg.State.Pending() && m.msg.State.Waited > m.policy.BounceLifetime:
		l.Log.Dropped(m.msg.ID(), fmt.Sprintf("%s was sent too many reports for too long; %d recipients are not reported", r.To().Angle(), len(r.Rcpts)))
		return news{told: true}
	}
	l.Log.Problem(m.msg.ID(), fmt.Errorf("the report to %s waits: too many were sent there in this hour", r.To().Angle()))
	return news{waits: true}
}

// isDoubleBounce reports whether a message is a report to postmaster about mail without a sender. It is found out by the header and not by the envelope,
// which is another one when postmaster's mail is sent on to somebody else.
func isDoubleBounce(m *queue.Message) (bool, error) {
	h, err := message.ReadHeader(bufio.NewReaderSize(m.Body(), 4096), message.MaxHeader)
	if errors.As(err, new(*status.Error)) {
		return false, nil // larger than any header of ours
	}
	return err == nil && dsn.IsDoubleBounce(h), err
}

// send queues a report.
func (l *loop) send(r *dsn.Report) error {
	e, err := r.Envelope()
	if err != nil {
		return err
	}
	w, err := l.Spool.Create(e)
	if err != nil {
		return err
	}
	defer w.Abort()
	if _, err := r.WriteTo(w); err != nil {
		return err
	}
	if err := w.Commit(); err != nil {
		return err
	}
	l.post(func() { l.notice(keyOf(e.ID)) }) // the trigger may come after the last message is done and Run with it
	l.Log.Report(r.Message.ID, e.ID, r.Kind())
	l.Log.Accepted(maillog.Accepted{ID: e.ID, From: e.From, Size: w.Size(), NRcpt: 1, Client: "local", Proto: "local", UID: -1})
	return nil
}

// reportsPerHour is how many reports one address gets in any hour: more than a person reads, and in a day more than a letter to a list of thousands
// brings back. It bounds what somebody who has been made the sender of a flood gets from it through this host. Half of them may come at once, the others at regular intervals.
const (
	reportsPerHour = 200
	reportInterval = time.Hour / (reportsPerHour / 2)
)

// mayReport reports whether another report may go to an address now, and counts it. The ledger has, for each address, when the reports that it was sent
// would all be paid for, one an interval; that is an hour ahead at most.
func (r *Runner) mayReport(to string, now time.Time) (may bool) {
	r.paid(to, now, func(at time.Time) time.Time {
		if next := at.Add(reportInterval); next.Sub(now) <= time.Hour {
			at, may = next, true
		}
		return at
	}, func() { may = true })
	return may
}

// unreported takes back what mayReport has counted last.
func (r *Runner) unreported(to string, now time.Time) {
	r.paid(to, now, func(at time.Time) time.Time { return at.Add(-reportInterval) }, func() {})
}

// paid changes the time when reports to an address are paid for; otherwise is for a ledger that cannot be used, which holds nothing up.
func (r *Runner) paid(to string, now time.Time, change func(time.Time) time.Time, otherwise func()) {
	if r.Ledger == nil {
		otherwise()
		return
	}
	err := r.Ledger.Update("report "+to, func(old string) (string, time.Duration) {
		at := now
		if n, err := strconv.ParseInt(old, 10, 64); err == nil {
			at = time.Unix(0, n)
		}
		if at.Before(now) || at.Sub(now) > time.Hour { // paid for, or the clock was set back
			at = now
		}
		at = change(at)
		return strconv.FormatInt(at.UnixNano(), 10), at.Sub(now)
	})
	if err != nil {
		otherwise()
		r.ledgerFailed.Do(func() { r.Log.Problem("", fmt.Errorf("reports are not counted: %w", err)) })
	}
}
