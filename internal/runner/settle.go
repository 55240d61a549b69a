package runner

import (
	"fmt"
	"time"

	"github.com/postel-mail/postel/internal/clock"
	"github.com/postel-mail/postel/internal/destination"
	"github.com/postel-mail/postel/internal/dsn"
	"github.com/postel-mail/postel/internal/maillog"
	"github.com/postel-mail/postel/internal/queue"
	"github.com/postel-mail/postel/internal/status"
)

// settle records what became of a message's recipients, tells the sender what there is to tell, and removes the message when nothing is left to do;
// else it gives the time of the next attempt. When the runner is stopping, a failure for now is the runner's and not recorded.
//
// The order is that of docs/durability.md: a report is in the queue before the state says so, and the state is on disk before the message goes.
func (l *loop) settle(m *mail, stopping bool) (next time.Time, gone bool) {
	msg, e := m.msg, m.msg.Envelope
	now := clock.Now()
	st := &msg.State
	before := st.Attempts
	if len(m.results) > 0 {
		st.Attempts++
	}
	next = now.Add(l.nextWait(st.Attempts))
	expired := now.Sub(e.Arrival) > l.Lifetime

	for i := range st.Rcpts {
		r, tried := m.results[i]
		if !tried || st.Rcpts[i].Progress != queue.Waiting {
			continue
		}
		if stopping && r.Err != nil && r.Err.Temporary() {
			st.Attempts, next = before, now
			continue
		}
		l.note(msg, i, r, next, expired)
	}

	reports, told := l.reports(m, now)
	for _, report := range reports {
		if err := l.send(report); err != nil {
			l.Log.Problem(msg.ID(), fmt.Errorf("the report waits: %w", err))
			st.Next = next
			l.record(msg, false)
			return next, false
		}
	}
	for _, i := range told {
		st.Rcpts[i].Told = true
	}
	if st.Pending() {
		if len(m.results) == 0 {
			return next, false
		}
		st.Next = next
		l.record(msg, len(reports) > 0)
		return next, false
	}
	if len(reports) > 0 {
		l.record(msg, true)
	}
	if err := msg.Remove(); err != nil {
		l.Log.Problem(msg.ID(), err)
		l.record(msg, true) // so that nobody is sent it twice
		return now.Add(l.First), false
	}
	l.Log.Removed(msg.ID(), "")
	return next, true
}

func (l *loop) record(msg *queue.Message, sync bool) {
	if err := msg.Record(sync); err != nil {
		l.Log.Problem(msg.ID(), fmt.Errorf("the state is not recorded, recipients may be tried again: %w", err))
	}
}

// note judges one attempt for one recipient, and logs it.
func (l *loop) note(msg *queue.Message, i int, r result, next time.Time, expired bool) {
	e, o := msg.Envelope, &msg.State.Rcpts[i]
	d := maillog.Delivery{ID: e.ID, To: e.Rcpts[i].To, Dest: r.dest.String(), Relay: r.Relay, Delay: clock.Since(e.Arrival)}
	o.Last, o.Relay = r.Err, r.Relay
	switch {
	case r.Err == nil:
		o.Progress = queue.Delivered
		l.Log.Delivered(d, r.Code, r.Text)
	case !r.Err.Temporary():
		o.Progress = queue.Failed
		l.Log.Bounced(d, r.Err)
	case expired:
		o.Progress = queue.Failed
		o.Last = status.Permanent(554, "5.4.7", "Could not be delivered in time; the last answer was: "+r.Err.Reply(), r.Err.Err)
		l.Log.Bounced(d, o.Last)
	default:
		l.Log.Deferred(d, next, r.Err)
	}
}

// reports makes the notifications that are due, one for each kind of news, and lists the recipients they settle. There are none for the null path (RFC 5321 6.1).
func (l *loop) reports(m *mail, now time.Time) (reports []*dsn.Report, told []int) {
	msg := m.msg
	e, st := msg.Envelope, &msg.State
	if e.From.IsNull() {
		return nil, nil
	}
	byAction := map[dsn.Action][]dsn.Recipient{}
	warn := l.Warn > 0 && !st.Warned && now.Sub(e.Arrival) > l.Warn
	for i, o := range st.Rcpts {
		r, tried := m.results[i]
		rcpt := dsn.Recipient{Recipient: e.Rcpts[i], Err: o.Last, Relay: o.Relay, Attempt: r.at}
		switch {
		case o.Progress == queue.Failed && !o.Told && rcpt.Wants("FAILURE"):
			byAction[dsn.Failed] = append(byAction[dsn.Failed], rcpt)
			told = append(told, i)
		case o.Progress == queue.Delivered && tried && !o.Told && rcpt.Wants("SUCCESS") && !r.DSN:
			action := dsn.Delivered
			if r.Remote && r.dest.Kind != destination.LMTP { // LMTP is final delivery
				action = dsn.Relayed
			}
			byAction[action] = append(byAction[action], rcpt)
			told = append(told, i)
		case o.Progress == queue.Waiting && tried && warn && rcpt.Wants("DELAY"):
			byAction[dsn.Delayed] = append(byAction[dsn.Delayed], rcpt)
			st.Warned = true
		}
	}
	for _, action := range []dsn.Action{dsn.Failed, dsn.Delayed, dsn.Delivered, dsn.Relayed} {
		if len(byAction[action]) > 0 {
			reports = append(reports, &dsn.Report{
				Hostname: l.Hostname, Action: action, Message: e, Rcpts: byAction[action],
				Until: e.Arrival.Add(l.Lifetime), Now: now, Original: msg.Body(), Size: msg.Size(),
			})
		}
	}
	return reports, told
}

// send queues a report.
func (l *loop) send(report *dsn.Report) error {
	e := report.Envelope()
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
	l.Log.Report(report.Message.ID, e.ID, string(report.Action))
	l.Log.Accepted(maillog.Accepted{ID: e.ID, From: e.From, Size: w.Size(), NRcpt: 1, Client: "local", Proto: "local", UID: -1})
	return nil
}
