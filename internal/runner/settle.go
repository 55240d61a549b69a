package runner

import (
	"fmt"

	"github.com/postel-mail/postel/internal/clock"
)

// settle tells the sender what there is to tell, records what became of a message's recipients, and removes the message when nothing is left to do. It reports
// whether the message is gone; else m.next is when it is due again.
//
// The order is that of docs/durability.md: a report is in the queue before the state says so, and the state is on disk before the message goes.
func (l *loop) settle(m *mail, stopping bool) (gone bool) {
	defer m.msg.Announce()
	st := &m.msg.State
	if stopping {
		m.next = clock.Now()
	}
	n := l.report(m, m.tried && !stopping)
	if n.err != nil {
		l.Log.Problem(m.msg.ID(), fmt.Errorf("a report waits: %w", n.err))
	}
	if (m.tried || n.waits) && m.goesOn == nil {
		st.Attempts++
	}
	if m.tried && !st.Pending() {
		st.Waited = 0 // from now on it is what a report that waits has waited
	}
	if n.err != nil || n.waits || st.Pending() {
		if m.tried || n.told || n.waits {
			st.Next = m.next
			m.saved = l.record(m, n.told)
		}
		return false
	}
	if n.told {
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
