package submission

import (
	"errors"
	"fmt"

	"github.com/postel-mail/postel/internal/queue"
	"github.com/postel-mail/postel/internal/status"
	"github.com/postel-mail/postel/internal/sysexits"
)

// Verdict says what became of message id, as far as was heard of its recipients, in an error with a line for each that has not got it; nil when all have.
// until says how long it was waited for. The exit status is the highest of those that failed for good: 65, 67, 68 (no such host) or 69; else, for what is
// still in the queue, 75.
func Verdict(id string, rcpts []queue.News, until string) error {
	var lines []error
	exit, waiting, unknown := 0, 0, 0
	for i := range rcpts {
		switch r := &rcpts[i]; {
		case r.Progress == queue.Failed:
			exit = max(exit, exitOf(r.Last))
			lines = append(lines, errors.New(Line(r)))
		case r.Progress != queue.Waiting:
		case r.Last != nil:
			waiting++
			lines = append(lines, errors.New(Line(r)))
		default:
			unknown++
		}
	}
	switch {
	case len(rcpts) == 0:
		lines = append(lines, fmt.Errorf("message %s stays in the queue: no runner took it %s", id, until))
	case unknown > 0:
		lines = append(lines, fmt.Errorf("message %s stays in the queue: nothing is known of %d of %d recipients %s", id, unknown, len(rcpts), until))
	case waiting > 0:
		lines = append(lines, fmt.Errorf("message %s stays in the queue and will be tried again", id))
	case exit == 0:
		return nil
	}
	if exit == 0 {
		exit = sysexits.TempFail
	}
	return sysexits.With(exit, errors.Join(lines...))
}

func exitOf(s *status.Error) int {
	switch {
	case s == nil || s.Temporary():
		return sysexits.Unavailable // it was given up for another reason
	case s.Enhanced == "5.1.2":
		return sysexits.NoHost
	}
	return sysexits.FromStatus(s)
}

// Line says in one line what is known of a recipient.
func Line(r *queue.News) string {
	text, relay := r.To.String()+": ", status.Clean(r.Relay)
	switch {
	case r.Progress == queue.Relayed:
		return text + "relayed to " + relay
	case r.Progress == queue.Delivered:
		return text + "delivered"
	case r.Progress == queue.Expanded:
		return text + "sent on to several addresses"
	case r.Progress == queue.Failed:
		text += "failed: "
	default:
		text += "deferred: "
	}
	switch {
	case r.Last == nil:
		return text + "no reason is known"
	case relay != "" && r.Said:
		text += relay + " said "
	case relay != "":
		text += relay + ": "
	}
	return text + status.Clean(r.Last.Reply())
}
