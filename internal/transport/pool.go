package transport

import (
	"slices"
	"sync"
	"time"

	"github.com/postel-mail/postel/internal/clock"
	"github.com/postel-mail/postel/internal/destination"
	"github.com/postel-mail/postel/internal/smtpclient"
)

// How long and how many sessions are kept for another message. A session that waits costs the peer a process, but opening one costs both sides more: as
// many are kept as attempts ever run at once, so that a busy relay opens none. What is not needed any more is gone after idleTime.
const (
	idleTime = 5 * time.Second
	idleMost = 256
	lifeTime = 5 * time.Minute // then the destination is looked up again
)

// session is an open session and where it leads.
type session struct {
	*smtpclient.Client
	key    string                  // the destinations it serves
	dest   destination.Destination // the one it leads to
	relay  string                  // Result.Relay
	opened time.Time
	timer  *time.Timer // ends it while it is idle
}

// pool keeps idle sessions. Whoever takes one out of idle, holding mu, owns it. The zero value is ready.
type pool struct {
	mu     sync.Mutex
	idle   []*session // oldest first
	closed bool
	byes   sync.WaitGroup // grows only with mu held and before closed
}

// take gives an idle session to the destination, or nil.
func (p *pool) take(key string) *session {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, s := range slices.Backward(p.idle) {
		if s.key == key {
			p.idle = slices.Delete(p.idle, i, i+1)
			s.timer.Stop() // too late for that: expire does not find it, or ends it when it is back
			return s
		}
	}
	return nil
}

// put keeps a session, or ends it where it is of no more use.
func (p *pool) put(s *session) {
	p.mu.Lock()
	surplus := s
	if !p.closed && s.Usable() && clock.Since(s.opened) < lifeTime {
		surplus = nil
		if s.timer == nil {
			s.timer = time.AfterFunc(idleTime, func() { p.expire(s) })
		} else {
			s.timer.Reset(idleTime)
		}
		p.idle = append(p.idle, s)
		if len(p.idle) > idleMost {
			surplus = p.idle[0]
			p.idle = slices.Delete(p.idle, 0, 1)
			surplus.timer.Stop()
		}
	}
	p.mu.Unlock()
	if surplus != nil {
		p.bye(surplus)
	}
}

// expire ends a session that nobody has taken.
func (p *pool) expire(s *session) {
	p.mu.Lock()
	i := slices.Index(p.idle, s)
	if i >= 0 {
		p.idle = slices.Delete(p.idle, i, i+1)
	}
	p.mu.Unlock()
	if i >= 0 {
		p.bye(s)
	}
}

// bye ends a session, in the background as long as somebody will wait for it: the peer may take some seconds.
func (p *pool) bye(s *session) {
	p.mu.Lock()
	closed := p.closed
	if !closed {
		p.byes.Go(s.Quit)
	}
	p.mu.Unlock()
	if closed {
		s.Quit()
	}
}

// close ends all sessions, and waits until the farewells are over: some seconds.
func (p *pool) close() {
	p.mu.Lock()
	for _, s := range p.idle {
		s.timer.Stop()
		p.byes.Go(s.Quit)
	}
	p.idle, p.closed = nil, true
	p.mu.Unlock()
	p.byes.Wait()
}
