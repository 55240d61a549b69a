package listing

import (
	"bytes"
	"errors"
	"slices"
	"strings"
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

// key is an id: a million of them are 20 MB, and nothing for the garbage collector to follow.
type key [queue.IDLength]byte

// Selection is the messages of a spool that a filter may let through.
type Selection struct {
	Spool    *queue.Spool
	Filter   *Filter
	Progress *Progress // may be nil
	ids      []key     // in order of arrival, or as they were given
}

// Choose reads the names in a spool.
func Choose(spool *queue.Spool, f *Filter) (*Selection, error) {
	s := &Selection{Spool: spool, Filter: f}
	if len(f.IDs) > 0 {
		for _, id := range f.IDs {
			s.ids = append(s.ids, key([]byte(id)))
		}
		return s, nil
	}
	now := clock.Now()
	err := spool.Each(func(id string) bool {
		if f.hasID(id, now) {
			s.ids = append(s.ids, key([]byte(id)))
		}
		return true
	})
	slices.SortFunc(s.ids, func(a, b key) int { return bytes.Compare(a[:], b[:]) })
	return s, err
}

// atOnce is how many messages are worked on at once: files that are not in memory come faster together than one by one, and so do flushes.
const atOnce = 16

// Each works on the messages of s. work is called for several at once, each opened without a lock and without its state, and must close it or hand it on;
// done gets what work gave, one at a time, in the order of s. A message that the filter does not let through is
// passed over, and so is one that has left the queue meanwhile, unless its id was asked for.
func Each[T any](s *Selection, work func(m *queue.Message) (T, error), done func(id string, v T, err error)) {
	type result struct {
		v    T
		err  error
		none bool
	}
	one := func(id string) (r result) {
		m, err := s.Spool.Look(id)
		if errors.Is(err, queue.ErrGone) && len(s.Filter.IDs) == 0 {
			return result{none: true}
		}
		if err != nil {
			return result{err: err}
		}
		if len(s.Filter.IDs) == 0 {
			if has, err := s.Filter.has(m); !has || err != nil {
				m.Close()
				return result{err: err, none: err == nil}
			}
		}
		r.v, r.err = work(m)
		return r
	}
	var lanes [atOnce]chan result
	for lane := range lanes {
		results := make(chan result, 4)
		lanes[lane] = results
		go func() {
			for i := lane; i < len(s.ids); i += atOnce {
				results <- one(string(s.ids[i][:]))
			}
		}()
	}
	for i, id := range s.ids {
		s.Progress.Step(i, len(s.ids))
		if r := <-lanes[i%atOnce]; !r.none {
			if r.err != nil {
				s.Progress.Clear()
			}
			done(string(id[:]), r.v, r.err)
		}
	}
	s.Progress.Clear()
}
