package runner

import (
	"cmp"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/postel-mail/postel/internal/clock"
	"github.com/postel-mail/postel/internal/queue"
)

// batch is how many messages are handed to the loop at once when the spool is read.
const batch = 500

const (
	// atOnce is how many states are read at once: enough to keep a disk at work, and few enough that new mail need not wait for them.
	atOnce = 16
	// manyMessages is where the schedule is most of what the process has in memory.
	manyMessages = 100000
	// manyRecent bounds the messages of which it is asked, while the queue is still being listed, whether they are new.
	manyRecent = 1000
)

// entry is a message whose state is to be read, and where that lies: a disk gives many files fastest in the order of their inodes.
type entry struct {
	inode uint64 // 0 without a state
	id    key
}

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
// that a person has changed. The disk is read outside the loop: first the names, and which of the messages that are younger than the first wait are new,
// so that these are worked on at once, then the states of the others.
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
	var names []key
	var list []entry
	recent := 0
	flush := func() {
		var fresh []entry
		for _, id := range l.wanted(names, all) {
			e := entry{id: id}
			if recent < manyRecent && clock.Since(queue.Arrival(id.String())) < l.Policy().First {
				recent++
				if _, _, there := l.Spool.Schedule(id.String()); !there {
					fresh = append(fresh, e)
					continue
				}
			}
			list = append(list, e)
		}
		names = names[:0]
		l.fresh(fresh, asOf)
	}
	err := l.Spool.Each(func(id string, _ uint64) bool {
		if names = append(names, keyOf(id)); len(names) == batch {
			flush()
		}
		return l.ctx.Err() == nil
	})
	flush()
	if err == nil && len(list) > batch {
		list, err = l.locate(list, asOf)
	}
	if err == nil {
		l.readAll(list, asOf)
	}
	return err
}

// locate gives those of many messages that have a state, in the order in which a disk gives these fastest, and hands on the others.
func (l *loop) locate(list []entry, asOf uint32) ([]entry, error) {
	if len(list) > manyMessages { // the schedule has no pointers: to collect garbage more often costs little, and memory is what counts
		debug.SetGCPercent(25)
	}
	slices.SortFunc(list, func(a, b entry) int { return compare(a.id, b.id) })
	err := l.Spool.EachState(func(id string, inode uint64) bool {
		if i, there := slices.BinarySearchFunc(list, keyOf(id), func(e entry, id key) int { return compare(e.id, id) }); there {
			list[i].inode = inode
		}
		return l.ctx.Err() == nil
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(list, func(a, b entry) int { return cmp.Compare(a.inode, b.inode) })
	without, _ := slices.BinarySearchFunc(list, 1, func(e entry, inode uint64) int { return cmp.Compare(e.inode, inode) })
	for some := range slices.Chunk(list[:without], batch) {
		l.fresh(some, asOf)
	}
	return list[without:], nil
}

// fresh hands on messages without a state.
func (l *loop) fresh(list []entry, asOf uint32) {
	some := make([]found, len(list))
	for i, e := range list {
		some[i] = found{id: e.id, due: l.now()}
	}
	l.post(func() { l.found(some, asOf, false) })
}

// readAll reads the states of many messages, and hands on what it has while it goes on.
func (l *loop) readAll(list []entry, asOf uint32) {
	const some = 16
	var next atomic.Int64
	var readers sync.WaitGroup
	for range min(atOnce, len(list)/some+1) {
		readers.Add(1)
		l.async(func() {
			defer readers.Done()
			ids := make([]key, 0, some)
			for l.ctx.Err() == nil {
				end := int(next.Add(some))
				if end-some >= len(list) {
					return
				}
				ids = ids[:0]
				for _, e := range list[end-some : min(end, len(list))] {
					ids = append(ids, e.id)
				}
				l.readStates(ids, asOf, false)
			}
		}, func() {})
	}
	readers.Wait()
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
