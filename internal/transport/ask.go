package transport

import (
	"context"

	"github.com/postel-mail/postel/internal/address"
	"github.com/postel-mail/postel/internal/destination"
	"github.com/postel-mail/postel/internal/status"
)

// Ask asks the next hops whether they would take a message for that recipient, each time over a session of its own, and sends none. Only an error whose result
// is Remote is their word about the recipient. Next hops that cannot be asked, programs and mailboxes, give no error.
func (t *Transport) Ask(ctx context.Context, to address.Path, dests []destination.Destination) Result {
	if len(dests) == 0 {
		return Result{Err: noWay(destination.Destination{})}
	}
	if !dests[0].IsHost() {
		return Result{Dest: dests[0]}
	}
	w := newAttempt(t, Request{Dests: dests, Domain: to.ASCII().Domain, Rcpts: []int{0}})
	w.ask = &to
	defer w.tell()
	for _, d := range dests {
		if len(w.todo) == 0 || ctx.Err() != nil {
			break
		}
		w.destination(ctx, d)
	}
	return w.results[0]
}

// question asks in the place of a transaction. Whatever the answer is, the session is of no more use.
func (w *attempt) question(ctx context.Context, s *session) (taken bool, elsewhere *status.Error) {
	o := s.Ask(ctx, *w.ask)
	w.results[0] = Result{Dest: w.d, Err: o.Err, Code: o.Code, Text: o.Text, Relay: s.relay, Remote: o.Code != 0, Reached: true}
	w.reached = true
	switch {
	case o.Unsent:
		return false, o.Err
	case isBusy(o):
		w.busy = append(w.busy, s.relay)
		return false, o.Err
	}
	w.todo = nil
	return false, nil
}
