package runner

import (
	"runtime/debug"
	"slices"
	"time"

	"github.com/postel-mail/postel/internal/clock"
)

// batch is how many messages are handed to the loop at once when the spool is read.
const batch = 500

// manyMessages is where the schedule is most of what the process has in memory.
const manyMessages = 100000

// found is a message that was seen in the spool.
type found struct {
	id   key
	due  int64
	held bool
	old  bool // there is a state
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

// visit looks at the queue, and at the same time collects what is to come into it: new mail and old goes out meanwhile.
func (l *loop) visit(all bool) {
	l.look(all)
	if l.Collect == nil || l.collecting {
		return
	}
	l.collecting = true
	l.async(func() {
		err := l.Collect(l.ctx)
		l.post(func() { l.collected(err) })
	}, func() { l.collecting = false })
}

// collected ends a collection. What came in is known by the trigger, but to a runner that will end.
func (l *loop) collected(err error) {
	l.collecting = false
	if err != nil {
		l.Log.Problem("", err)
	}
	if l.mode != Stay && l.ctx.Err() == nil {
		l.look(l.looking) // once more, if one goes on that may have passed by
	}
}

// look brings the schedule in line with the spool: messages that came or went without the trigger, and with all the times and holds
// that a person has changed. The disk is read outside the loop: first the names, so that new mail is worked on at once, then the states.
func (l *loop) look(all bool) {
	if l.looking {
		l.again = l.again || all
		return
	}
	l.looking = true
	l.looks++
	asOf := l.schedule.moves
	l.async(func() {
		err := l.readSpool(all, asOf)
		l.post(func() { l.looked(asOf, err) })
	}, func() { l.looking = false })
}

// readSpool reads the spool for look, and hands on what it finds.
func (l *loop) readSpool(all bool, asOf uint32) error {
	var states []key // sorted
	err := l.Spool.EachState(func(id string) bool {
		states = append(states, keyOf(id))
		return l.ctx.Err() == nil
	})
	if err != nil {
		return err
	}
	if len(states) > manyMessages { // the schedule has no pointers: to collect garbage more often costs little, and memory is what counts
		debug.SetGCPercent(25)
	}
	slices.SortFunc(states, compare)
	var names, old []key
	flush := func() {
		wanted := l.wanted(names, all)
		names = names[:0]
		var fresh []found
		for _, id := range wanted {
			if _, there := slices.BinarySearchFunc(states, id, compare); there {
				old = append(old, id)
			} else {
				fresh = append(fresh, found{id: id, due: l.now()})
			}
		}
		l.post(func() { l.found(fresh, asOf, false) })
	}
	err = l.Spool.Each(func(id string) bool {
		if names = append(names, keyOf(id)); len(names) == batch {
			flush()
		}
		return l.ctx.Err() == nil
	})
	flush()
	if err != nil {
		return err
	}
	states = nil
	for some := range slices.Chunk(old, batch) {
		if l.ctx.Err() != nil {
			return nil
		}
		l.readStates(some, asOf, false)
	}
	return nil
}

// wanted says which of the messages seen in the queue the loop wants to know more of: all, or those that are new to it.
func (l *loop) wanted(names []key, all bool) []key {
	answer := make(chan []key, 1)
	names = slices.Clone(names)
	l.post(func() {
		wanted := names[:0]
		for _, id := range names {
			at, known := l.schedule.slots[id]
			if known {
				at.seen = l.looks
				l.schedule.slots[id] = at
			}
			if all || !known {
				wanted = append(wanted, id)
			}
		}
		answer <- wanted
	})
	select {
	case wanted := <-answer:
		return wanted
	case <-l.quit:
		return nil
	}
}

// readStates reads when messages are due, and hands it to the loop. person says that somebody has just changed something about them.
func (l *loop) readStates(ids []key, asOf uint32, person bool) {
	list := make([]found, 0, len(ids))
	wall, now := clock.Now(), l.now()
	latest := l.Policy().Longest * 6 / 5
	for _, id := range ids {
		f := found{id: id, due: now}
		var next time.Time
		next, f.held, f.old = l.Spool.Schedule(id.String())
		if wait := next.Sub(wall); !next.IsZero() && wait <= latest { // else it was written by a clock that was ahead
			f.due = now + int64(wait)
		}
		list = append(list, f)
	}
	l.post(func() { l.found(list, asOf, person) })
}

// found takes what was read into the schedule, unless it has changed since the reading began.
func (l *loop) found(list []found, asOf uint32, person bool) {
	now := l.now()
	for _, f := range list {
		at, known := l.schedule.slots[f.id]
		where := waiting
		if f.held {
			where = held
		}
		switch {
		case !known:
			l.schedule.put(f.id, f.due, where, f.old)
			at = l.schedule.slots[f.id]
			at.seen = l.looks
			l.schedule.slots[f.id] = at
		case !f.old && at.place == waiting: // still new
		case at.place == working || at.place == parked && where != held && !person || at.moved > asOf:
		case at.place != where || at.due != f.due:
			l.schedule.put(f.id, f.due, where, at.tried || f.old)
			if where == held || f.due > now {
				l.arrived(f.id)
			}
		}
		if person && f.old && where == waiting && f.due <= now && l.schedule.slots[f.id].place == waiting {
			l.urged[f.id] = true
		}
	}
}

// looked ends a look: what was not seen is gone, a person has deleted it.
func (l *loop) looked(asOf uint32, err error) {
	l.looking = false
	if l.failed = err; err != nil {
		l.Log.Problem("", err)
	} else if l.ctx.Err() == nil {
		var gone []key
		for id, at := range l.schedule.slots {
			if at.seen != l.looks && (at.place == waiting || at.place == held) && at.moved <= asOf {
				gone = append(gone, id)
			}
		}
		for _, id := range gone {
			l.erase(id)
			l.arrived(id)
		}
	}
	if l.looks == 1 { // not beside the first look: they would be in each other's way on the disk
		l.clean()
	}
	if l.again {
		l.again = false
		l.look(true)
	}
}

// notice takes a new message into the schedule, or what a person has changed about a known one.
func (l *loop) notice(id key) {
	at, known := l.schedule.slots[id]
	switch {
	case !known:
		l.schedule.put(id, l.now(), waiting, false)
	case at.place == working:
		l.noted[id] = true
	default:
		asOf := l.schedule.moves
		l.async(func() { l.readStates([]key{id}, asOf, true) }, func() {})
	}
}

// notedMeanwhile reads what a person has changed about a message while it was worked on.
func (l *loop) notedMeanwhile(id key) {
	if l.noted[id] {
		delete(l.noted, id)
		l.notice(id)
	}
}

// lateAfter is how long a message may wait after it was due before somebody is told, and how often.
const lateAfter = 10 * time.Minute

// watch logs the message that waits longest for its turn, when that is long.
func (l *loop) watch() {
	now := l.now()
	if now < l.late {
		return
	}
	var oldest key
	due, why := now, ""
	earlier := func(id key, at int64, reason string) {
		if at < due {
			oldest, due, why = id, at, reason
		}
	}
	const places, sender, lane = "all places are taken", "its sender has many messages that wait for their destinations", "its destination is busy: "
	for heap := range l.schedule.due {
		id, at := l.schedule.top(heap)
		earlier(id, at, places)
	}
	for id, c := range l.called {
		earlier(id, c.due, places)
	}
	if l.schedule.count[parked] > 0 {
		for id, at := range l.schedule.slots {
			if at.place == parked {
				earlier(id, at.due, sender)
			}
		}
	}
	for _, x := range l.lanes {
		for _, f := range x.flows {
			for _, j := range f.jobs {
				earlier(j.mail.id, j.mail.due, lane+x.name)
			}
			if why == sender && slices.Contains(f.parked, oldest) {
				why = lane + x.name
			}
		}
	}
	if wait := time.Duration(now - due); wait > lateAfter {
		l.late = l.in(lateAfter)
		l.Log.Late(oldest.String(), wait, why)
	}
}
