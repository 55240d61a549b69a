package transport

import (
	"errors"
	"net"
	"sync"
	"time"

	"github.com/postel-mail/postel/internal/clock"
	"github.com/postel-mail/postel/internal/status"
)

const (
	// silentTime is how long an address that did not answer is not asked again. A host that is down is often the host of many domains,
	// or the first of several smart hosts; each message for them would wait for it otherwise.
	silentTime = time.Minute
	maxSilent  = 1024 // addresses that are remembered
)

// silence remembers the addresses at which a session could not be opened because nobody answered in time. The zero value is empty.
type silence struct {
	mu    sync.Mutex
	addrs map[string]silent
}

type silent struct {
	why   *status.Error
	until time.Time
}

// get gives the failure that an address is known for, nil where it may be tried.
func (l *silence) get(addr string) *status.Error {
	l.mu.Lock()
	defer l.mu.Unlock()
	s, ok := l.addrs[addr]
	if left := s.until.Sub(clock.Now()); ok && (left <= 0 || left > silentTime) {
		delete(l.addrs, addr)
		return nil
	}
	return s.why
}

// put remembers a failure. A full list loses some other entry: it is a help, not a record.
func (l *silence) put(addr string, why *status.Error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.addrs == nil {
		l.addrs = map[string]silent{}
	}
	for other := range l.addrs {
		if len(l.addrs) < maxSilent {
			break
		}
		delete(l.addrs, other)
	}
	l.addrs[addr] = silent{why, clock.Now().Add(silentTime)}
}

// forget is for an address that has answered.
func (l *silence) forget(addr string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.addrs, addr)
}

// isTimeout tells silence from a refusal.
func isTimeout(s *status.Error) bool {
	var n net.Error
	return errors.As(s.Err, &n) && n.Timeout()
}
