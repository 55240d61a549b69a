package mx

import (
	"context"
	"sync"
	"time"

	"github.com/postel-mail/postel/internal/clock"
)

// maxCached bounds the cache. The answers are small: reply keeps at most 50 hosts.
const maxCached = 4096

// cache keeps answers for their TTL. The zero value is empty.
type cache struct {
	mu      sync.Mutex
	entries map[question]entry
}

type entry struct {
	reply
	until time.Time
}

// get gives an answer that still holds, its TTL what is left of it.
func (c *cache) get(q question) (reply, bool) {
	c.mu.Lock()
	e, ok := c.entries[q]
	c.mu.Unlock()
	if e.ttl = e.until.Sub(clock.Now()); !ok || e.ttl <= 0 {
		return reply{}, false
	}
	return e.reply, true
}

// put keeps an answer. A full cache loses some other entries, expired or not: it is a help, not a record.
func (c *cache) put(q question, r reply) {
	if r.ttl <= 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.entries == nil {
		c.entries = map[question]entry{}
	}
	for k := range c.entries {
		if len(c.entries) < maxCached {
			break
		}
		delete(c.entries, k)
	}
	c.entries[q] = entry{r, clock.Now().Add(r.ttl)}
}

// ask answers from the cache or the servers.
func (r *Resolver) ask(ctx context.Context, left *int, q question) (reply, error) {
	if found, ok := r.cache.get(q); ok {
		return found, nil
	}
	found, err := r.stub.ask(ctx, left, q)
	if err == nil {
		r.cache.put(q, found)
	}
	return found, err
}
