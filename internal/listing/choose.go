package listing

import (
	"bytes"
	"cmp"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/postel-mail/postel/internal/address"
	"github.com/postel-mail/postel/internal/clock"
	"github.com/postel-mail/postel/internal/queue"
)

// Filter says which messages are meant: those with one of IDs, or where there are none, those that all else lets through.
type Filter struct {
	IDs    []string
	ID     string        // is in the id
	From   string        // is in the sender, which stands in angle brackets, in any case
	To     string        // is in a recipient that waits, as From
	Domain string        // is the domain of a recipient that waits, the same as To's where both are given
	Older  time.Duration // has been in the queue for longer
}

// IsEmpty reports whether f lets everything through.
func (f *Filter) IsEmpty() bool {
	return len(f.IDs) == 0 && f.ID+f.From+f.To+f.Domain == "" && f.Older == 0
}

// hasID decides what the id alone decides.
func (f *Filter) hasID(id string, now time.Time) bool {
	return strings.Contains(id, f.ID) && (f.Older == 0 || now.Sub(queue.Arrival(id)) > f.Older)
}

// has decides about a message, and reads its state where that matters.
func (f *Filter) has(m *queue.Message) (bool, error) {
	e := m.Envelope
	if f.From != "" && !contains(e.From, f.From) {
		return false, nil
	}
	if f.To == "" && f.Domain == "" {
		return true, nil
	}
	read := false
	for i, r := range e.Rcpts {
		if !contains(r.To, f.To) || f.Domain != "" && !sameDomain(r.To.Domain, f.Domain) {
			continue
		}
		if !read {
			if err := m.ReadState(); err != nil {
				return false, err
			}
			read = true
		}
		if m.State.Rcpts[i].Open() {
			return true, nil
		}
	}
	return false, nil
}

func contains(p address.Path, text string) bool {
	return text == "" || strings.Contains(strings.ToLower(p.Angle()), strings.ToLower(text))
}

func sameDomain(a, b string) bool {
	return strings.EqualFold(a, b) || address.Path{Domain: a}.ASCII() == address.Path{Domain: b}.ASCII()
}

// entry is a message in the queue: a million of them are 32 MB, and nothing for the garbage collector to follow.
type entry struct {
	inode uint64 // of its file; 0 where the id was given
	key   [queue.IDLength]byte
}

func (e *entry) id() string { return string(e.key[:]) }

// Selection is the messages of a spool that a filter may let through.
type Selection struct {
	Spool    *queue.Spool
	Filter   *Filter
	Progress *Progress // may be nil
	found    []entry   // in order of arrival, or as they were given
}

// Choose reads the names in a spool.
func Choose(spool *queue.Spool, f *Filter) (*Selection, error) {
	s := &Selection{Spool: spool, Filter: f}
	if len(f.IDs) > 0 {
		for _, id := range f.IDs {
			s.found = append(s.found, entry{key: [queue.IDLength]byte([]byte(id))})
		}
		return s, nil
	}
	now := clock.Now()
	err := spool.Each(func(id string, inode uint64) bool {
		if f.hasID(id, now) {
			s.found = append(s.found, entry{inode, [queue.IDLength]byte([]byte(id))})
		}
		return true
	})
	slices.SortFunc(s.found, func(a, b entry) int { return bytes.Compare(a.key[:], b.key[:]) })
	return s, err
}

const (
	// atOnce is how many messages are worked on at once: files that are not in memory come faster together than one by one, and so do flushes.
	atOnce = 16
	// A window is the messages that are worked on before the results of the first are handed on: at first few, for those who look at the top of a list. Within a
	// window files are opened in the order of their inodes, which is about that of the disk.
	firstWindow   = 16 * atOnce
	longestWindow = 1024 * atOnce
)

// result is what became of a message of a window.
type result[T any] struct {
	v    T
	err  error
	none bool // it is passed over
}

// Each works on the messages of s. work is called for several at once, each opened without a lock and without its state, and must close it;
// done gets what work gave, one at a time, in the order of s. A message that the filter does not let through is
// passed over, and so is one that has left the queue meanwhile, unless its id was asked for.
func Each[T any](s *Selection, work func(m *queue.Message) (T, error), done func(id string, v T, err error)) {
	one := func(id string) (r result[T]) {
		m, err := s.Spool.Look(id)
		if errors.Is(err, queue.ErrGone) && len(s.Filter.IDs) == 0 {
			return result[T]{none: true}
		}
		if err != nil {
			return result[T]{err: err}
		}
		if len(s.Filter.IDs) == 0 {
			if has, err := s.Filter.has(m); !has || err != nil {
				m.Close()
				return result[T]{err: err, none: err == nil}
			}
		}
		r.v, r.err = work(m)
		return r
	}
	for begin, window := 0, firstWindow; begin < len(s.found); window = min(2*window, longestWindow) {
		some := s.found[begin:min(begin+window, len(s.found))]
		results := make([]result[T], len(some))
		s.together(begin, some, func(i int) { results[i] = one(some[i].id()) })
		for i, r := range results {
			if r.none {
				continue
			}
			if r.err != nil {
				s.Progress.Clear()
			}
			done(some[i].id(), r.v, r.err)
		}
		begin += len(some)
	}
	s.Progress.Clear()
}

// together calls work for each of a window, atOnce at once, and returns when all are done. begun is how many messages of s come before it.
func (s *Selection) together(begun int, some []entry, work func(i int)) {
	order := make([]int, len(some))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return cmp.Or(cmp.Compare(some[a].inode, some[b].inode), cmp.Compare(a, b)) })
	var next atomic.Int64
	lane := func(p *Progress) {
		for i := int(next.Add(1)) - 1; i < len(order); i = int(next.Add(1)) - 1 {
			p.Step(begun+i, len(s.found))
			work(order[i])
		}
	}
	var others sync.WaitGroup
	for range min(atOnce, len(some)) - 1 {
		others.Go(func() { lane(nil) })
	}
	lane(s.Progress)
	others.Wait()
}
