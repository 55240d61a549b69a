package runner

import (
	"fmt"

	"github.com/postel-mail/postel/internal/clock"
	"github.com/postel-mail/postel/internal/dsn"
	"github.com/postel-mail/postel/internal/maillog"
	"github.com/postel-mail/postel/internal/queue"
)

// settle tells the sender what there is to tell, records what became of a message's recipients, and removes the message when nothing is left to do. It reports
// whether the message is gone; else m.next is when it is due again.
//
// The order is that of docs/durability.md: a report is in the queue before the state says so, and the state is on disk before the message goes.
func (l *loop) settle(m *mail, stopping bool) (gone bool) {
	st := &m.msg.State
	if stopping {
		m.next = clock.Now()
	}
	if m.tried {
		st.Attempts++
	}
	told, err := l.report(m, m.tried && !stopping)
	if err != nil {
		l.Log.Problem(m.msg.ID(), fmt.Errorf("a report waits: %w", err))
	}
	if err != nil || st.Pending() {
		if m.tried || told {
			st.Next = m.next
			m.saved = l.record(m, told)
		}
		return false
	}
	if told {
		m.saved = l.record(m, true)
	}
	if err := m.msg.Remove(); err != nil {
		l.Log.Problem(m.msg.ID(), err)
		m.saved = m.saved || l.record(m, true) // so that nobody is sent it twice
		m.next = clock.Now().Add(m.policy.First)
		return false
	}
	l.Log.Removed(m.msg.ID(), "")
	return true
}

// report queues the notifications that are due, one for each kind of news, and notes at once what has been told. It reports whether there was one.
// The error is that of the first that could not be queued; what it would have told stays to be told.
func (l *loop) report(m *mail, late bool) (told bool, err error) {
	e, st, p := m.msg.Envelope, &m.msg.State, m.policy
	late = late && !e.From.IsNull() && p.Warn > 0 && !st.Warned && st.Waited > p.Warn
	for _, news := range []struct {
		action dsn.Action
		about  func(r *queue.Outcome, notify bool) bool
		noted  func(r *queue.Outcome)
	}{
		{dsn.Failed, func(r *queue.Outcome, _ bool) bool { return r.Progress == queue.Failed && !r.Told }, tell},
		{dsn.Delivered, func(r *queue.Outcome, _ bool) bool { return r.Progress == queue.Delivered && !r.Told }, tell},
		{dsn.Relayed, func(r *queue.Outcome, _ bool) bool { return r.Progress == queue.Relayed && !r.Told }, tell},
		{dsn.Delayed, func(r *queue.Outcome, notify bool) bool {
			return late && r.Progress == queue.Waiting && r.Last != nil && notify
		}, func(*queue.Outcome) { st.Warned = true }},
	} {
		report := &dsn.Report{Hostname: p.Hostname, Action: news.action, Message: e, Now: clock.Now(),
			Until: st.Last.Add(p.Lifetime - st.Waited), Original: m.msg.Body(), Size: m.msg.Size()}
		var about []*queue.Outcome
		for i := range st.Rcpts {
			if o := &st.Rcpts[i]; news.about(o, e.Rcpts[i].Wants("DELAY")) {
				about = append(about, o)
				report.Rcpts = append(report.Rcpts, dsn.Recipient{Recipient: e.Rcpts[i], Err: o.Last, Relay: o.Relay, Said: o.Said, Attempt: st.Last})
			}
		}
		if len(about) == 0 {
			continue
		}
		if failed := l.send(report); failed != nil {
			if err == nil {
				err = failed
			}
			continue
		}
		told = true
		for _, o := range about {
			news.noted(o)
		}
	}
	return told, err
}

func tell(o *queue.Outcome) { o.Told = true }

// send queues a report.
func (l *loop) send(report *dsn.Report) error {
	e, err := report.Envelope()
	if err != nil {
		return err
	}
	w, err := l.Spool.Create(e)
	if err != nil {
		return err
	}
	defer w.Abort()
	if _, err := report.WriteTo(w); err != nil {
		return err
	}
	if err := w.Commit(); err != nil {
		return err
	}
	l.post(func() { l.add(e.ID) }) // the trigger may come after the last message is done and Run with it
	l.Log.Report(report.Message.ID, e.ID, string(report.Action))
	l.Log.Accepted(maillog.Accepted{ID: e.ID, From: e.From, Size: w.Size(), NRcpt: 1, Client: "local", Proto: "local", UID: -1})
	return nil
}
