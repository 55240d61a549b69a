package listing

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/postel-mail/postel/internal/maillog"
	"github.com/postel-mail/postel/internal/queue"
	"github.com/postel-mail/postel/internal/sysexits"
)

// Verb is what can be done to a message.
type Verb string

// The verbs, as mailq takes them.
const (
	Retry   Verb = "retry"
	Hold    Verb = "hold"
	Release Verb = "release"
	Delete  Verb = "delete"
	Expire  Verb = "expire"
)

// done is what is said of a message to which it was done.
var done = map[Verb]string{Retry: "due now", Hold: "held", Release: "released", Delete: "deleted", Expire: "given up"}

// Change does what a verb says to the messages of s, each claimed so that the runner does not work on it, logs it, and tells the runner of each. said is called
// for each message with what was done. What is said is durable when Change has returned, save for a retry, which costs a wait when it is lost.
func Change(s *Selection, verb Verb, log *maillog.Log, said func(id, what string), failed func(id string, err error)) error {
	work := func(seen *queue.Message) (string, error) {
		id := seen.ID()
		seen.Close()
		what, err := s.change(id, verb, log)
		if err == nil && what != "" {
			s.Spool.Trigger(id)
		}
		return what, err
	}
	Each(s, work, func(id, what string, err error) {
		if err != nil {
			failed(id, err)
		} else if what != "" {
			said(id, what)
		}
	})
	if verb == Delete {
		return s.Spool.SyncRemoved()
	}
	return nil
}

// change does what the verb says to a message, and gives what to say of it; "" where it is left out.
func (s *Selection) change(id string, verb Verb, log *maillog.Log) (what string, err error) {
	asked := len(s.Filter.IDs) > 0
	m, err := s.Spool.ClaimUnread(id)
	switch {
	case errors.Is(err, queue.ErrBusy) && verb == Retry: // it is being tried
		return "is being delivered", nil
	case errors.Is(err, queue.ErrBusy):
		return "", sysexits.With(sysexits.TempFail, fmt.Errorf("%s: is being delivered, try again", id))
	case errors.Is(err, queue.ErrGone) && !asked:
		return "", nil // delivered meanwhile
	case err != nil:
		return "", err
	}
	defer m.Close()
	st := &m.State
	if st.Hold && (verb == Retry || verb == Expire) {
		if !asked {
			return "", nil
		}
		return "", sysexits.With(sysexits.DataErr, fmt.Errorf("%s: is held; release it first", id))
	}
	by := fmt.Sprintf("%s by uid %d", done[verb], os.Getuid())
	switch verb {
	case Delete:
		if err = m.Discard(); err == nil {
			log.Removed(id, by)
		}
		return done[verb], named(id, err)
	case Retry:
		if st.Next.IsZero() {
			return done[verb], nil
		}
		st.Next = time.Time{}
	case Expire:
		st.Expire, st.Next = true, time.Time{}
	case Hold, Release:
		if st.Hold == (verb == Hold) {
			return done[verb], nil
		}
		st.Hold = !st.Hold
	}
	if err = m.Record(verb != Retry); err == nil {
		log.Changed(id, by)
	}
	return done[verb], named(id, err)
}

func named(id string, err error) error {
	if err != nil {
		err = fmt.Errorf("%s: %w", id, err)
	}
	return err
}
