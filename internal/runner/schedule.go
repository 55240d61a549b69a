package runner

import (
	"bytes"
	"math"

	"github.com/postel-mail/postel/internal/queue"
)

// key is a queue id without a pointer in it, so that a million of them cost the garbage collector nothing.
type key [queue.IDLength]byte

func keyOf(id string) (k key) {
	copy(k[:], id)
	return k
}

func (k key) String() string { return string(k[:]) }

// compare orders ids by arrival.
func compare(a, b key) int { return bytes.Compare(a[:], b[:]) }

// place is where a message is.
type place uint8

const (
	waiting place = iota // until it is due
	working              // claimed, or on the way there and back
	parked               // behind others of its lane or its sender
	held                 // until a person releases it
	places
)

// slot is what the runner remembers of a message that it does not work on.
type slot struct {
	due   int64  // on the runner's clock; of what waits for its turn, since when
	moved uint32 // schedule.moves when it was last put
	place place
	tried bool  // it is not new mail
	seen  uint8 // the look at the spool that saw it last
}

// schedule is every message of the queue and when it is due. It takes some eighty octets a message, without a pointer.
type schedule struct {
	slots map[key]slot
	due   [2]dueHeap // new mail, and mail that was tried before; may hold items that are not true any more
	count [places]int
	moves uint32
}

func newSchedule() *schedule { return &schedule{slots: map[key]slot{}} }

// put says where a message is from now on; due counts for those that wait and that are parked.
func (s *schedule) put(id key, due int64, where place, tried bool) {
	old, known := s.slots[id]
	if known {
		s.count[old.place]--
	}
	s.count[where]++
	s.moves++
	s.slots[id] = slot{due: due, moved: s.moves, place: where, tried: tried, seen: old.seen}
	if where == waiting && !(known && old.place == waiting && old.due == due && old.tried == tried) {
		s.due[heapOf(tried)].push(item{due, id})
		s.tidy(heapOf(tried))
	}
}

func heapOf(tried bool) int {
	if tried {
		return 1
	}
	return 0
}

// forget drops a message that is not in the queue any more.
func (s *schedule) forget(id key) {
	if old, known := s.slots[id]; known {
		s.count[old.place]--
		delete(s.slots, id)
	}
}

// top gives the message of a heap that is due first; math.MaxInt64 when there is none.
func (s *schedule) top(heap int) (key, int64) {
	h := &s.due[heap]
	for len(*h) > 0 {
		if first := (*h)[0]; s.true(first, heap) {
			return first.id, first.due
		}
		h.pop()
	}
	return key{}, math.MaxInt64
}

// true reports whether an item still says where its message is.
func (s *schedule) true(i item, heap int) bool {
	at, known := s.slots[i.id]
	return known && at.place == waiting && at.due == i.due && heapOf(at.tried) == heap
}

// tidy rebuilds a heap in which most items are not true any more, as after many retries by hand.
func (s *schedule) tidy(heap int) {
	h := &s.due[heap]
	if len(*h) < 1024 || len(*h) < 2*s.count[waiting] {
		return
	}
	kept := (*h)[:0]
	for _, i := range *h {
		if s.true(i, heap) {
			kept = append(kept, i)
		}
	}
	*h = kept
	for i := len(kept)/2 - 1; i >= 0; i-- {
		h.down(i)
	}
}

type item struct {
	due int64
	id  key
}

func (i item) before(j item) bool {
	return i.due < j.due || i.due == j.due && compare(i.id, j.id) < 0
}

// dueHeap is a binary heap by due time, then by arrival. container/heap would allocate for each item.
type dueHeap []item

func (h *dueHeap) push(i item) {
	*h = append(*h, i)
	for at := len(*h) - 1; at > 0; {
		up := (at - 1) / 2
		if !(*h)[at].before((*h)[up]) {
			return
		}
		(*h)[at], (*h)[up] = (*h)[up], (*h)[at]
		at = up
	}
}

func (h *dueHeap) pop() {
	last := len(*h) - 1
	(*h)[0] = (*h)[last]
	*h = (*h)[:last]
	h.down(0)
}

func (h dueHeap) down(at int) {
	for {
		least := at
		for child := 2*at + 1; child <= 2*at+2 && child < len(h); child++ {
			if h[child].before(h[least]) {
				least = child
			}
		}
		if least == at {
			return
		}
		h[at], h[least] = h[least], h[at]
		at = least
	}
}
