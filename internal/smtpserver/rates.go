package smtpserver

import (
	"fmt"
	"time"

	"github.com/postel-mail/postel/internal/activation"
	"github.com/postel-mail/postel/internal/clock"
	"github.com/postel-mail/postel/internal/ledger"
	"github.com/postel-mail/postel/internal/status"
)

// Rates bound what a client whom nobody vouches for does in a minute: an IPv4 address, or an IPv6 network of 64 bits. What is refused counts too, so that
// somebody who goes on and on has to stop before anything is taken again. A bound of 0 is none, and is not counted.
type Rates struct {
	Connections, Messages, Recipients int

	Ledger  *ledger.Ledger // holds the counts, for all servers of the host
	Problem func(error)    // hears that the ledger fails, which refuses nobody
}

// Bounds of a session when places are scarce (activation.Server.Hurry): each client that does not get on with its mail has somebody waiting behind it.
const (
	crowdedErrors  = 5           // in the place of maxErrors,
	crowdedIdle    = 10          // of maxIdle,
	crowdedCommand = time.Minute // of CommandTimeout within a transaction,
	crowdedTLS     = 10 * time.Second
)

// rated counts one of what, of which a minute has limit at most, and gives the refusal with that code when it is too many.
func (s *session) rated(code int, what string, limit int) error {
	ip := s.guard.IP()
	if limit == 0 || !ip.IsValid() || s.trusted() {
		return nil
	}
	network := activation.ClientNetwork(ip)
	n, err := s.srv.Rates.Ledger.Count("rate "+what+" "+network.String(), 1, time.Minute)
	if err != nil {
		s.srv.Rates.Problem(err)
	}
	if n <= limit {
		return nil
	}
	return status.Temporary(code, "4.7.0", "Too many "+what+" from your network within a minute, try again later",
		fmt.Errorf("%d %s within a minute from %s, and %d may be", n, what, network, limit))
}

// maxErrors and maxIdle are those of the session as things stand.
func (s *session) maxErrors() int {
	if s.guard.Crowded() {
		return crowdedErrors
	}
	return maxErrors
}

func (s *session) maxIdle() int {
	if s.guard.Crowded() {
		return crowdedIdle
	}
	return maxIdle
}

// until is when the next command has to be here. Between the chunks of a message its own time runs on.
func (s *session) until() time.Time {
	t := clock.Now().Add(s.patience())
	if s.xfer != nil && s.xfer.until().Before(t) {
		return s.xfer.until()
	}
	return t
}

// patience is how long a command may take. Between transactions the guard knows to hurry.
func (s *session) patience() time.Duration {
	if s.env != nil && s.guard.Crowded() {
		return min(s.srv.commandTimeout(), crowdedCommand)
	}
	return s.srv.commandTimeout()
}
