// Package callout asks the next hop whether a recipient exists before mail for it is taken, and remembers the answers: the work of Postfix's verify(8).
//
// A yes holds for a week, and one that is older than a day is asked for again behind the client's back; a no holds for three hours. Whatever is neither is not
// kept: the client is asked to try again. So is a refusal by policy (5.7.x of RFC 3463): it is about this host or the null sender, which many servers judge at RCPT. The answers are in the ledger, in the book "rcpt", so that all servers of the host know them:
//
//	key "rcpt ADDRESS", value "yes TIME" or "no TIME REPLY", the time in seconds of Unix time
package callout

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/postel-mail/postel/internal/address"
	"github.com/postel-mail/postel/internal/clock"
	"github.com/postel-mail/postel/internal/ledger"
	"github.com/postel-mail/postel/internal/status"
	"github.com/postel-mail/postel/internal/transport"
)

const (
	yesTime  = 7 * 24 * time.Hour
	askAgain = 24 * time.Hour
	noTime   = 3 * time.Hour
	downTime = time.Minute // a next hop that cannot be reached is not asked
	maxCalls = 50          // at once
	maxText  = 300         // octets of a reply that are kept
)

// Callout asks. Its exported fields are set before the first use; it may then be used by many goroutines.
type Callout struct {
	// Ask is Transport.Ask with the routes of this host.
	Ask     func(ctx context.Context, to address.Path) transport.Result
	Ledger  *ledger.Ledger // nil: nothing is remembered
	Problem func(error)    // hears of errors of the ledger, which stop no mail
	Time    time.Duration  // how long a client waits for an answer; 0 is 10 seconds

	mu    sync.Mutex
	calls map[string]*call     // under way, by key
	down  map[string]time.Time // domains whose next hops could not be reached, and when to ask again
}

// call is one question. Who asks the same meanwhile waits for the same answer.
type call struct {
	done chan struct{}
	err  error
}

// Verify says whether the next hop takes mail for that recipient: nil, 550 5.1.1, 553 5.6.7 when it has no SMTPUTF8 and the address needs it, or 450 4.1.1 when that
// cannot be known now.
func (c *Callout) Verify(ctx context.Context, to address.Path) error {
	key := "rcpt " + to.Key()
	if known, at, err := parse(c.remembered(key)); known && clock.Since(at) > -askAgain { // else the clock has been put back
		if err == nil && clock.Since(at) > askAgain {
			_, _ = c.begin(key, to)
		}
		return err
	}
	asked, err := c.begin(key, to)
	if err != nil {
		return err
	}
	select {
	case <-asked.done:
		return asked.err
	case <-ctx.Done():
		return unknown(ctx.Err())
	}
}

// remembered is what the ledger has, "" for nothing.
func (c *Callout) remembered(key string) string {
	if c.Ledger == nil {
		return ""
	}
	value, err := c.Ledger.Get(key)
	if err != nil {
		c.Problem(err)
	}
	return value
}

// begin begins to ask, or finds who does so already.
func (c *Callout) begin(key string, to address.Path) (*call, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if asked := c.calls[key]; asked != nil {
		return asked, nil
	}
	switch domain := to.ASCII().Domain; {
	case clock.Now().Before(c.down[domain]):
		return nil, unknown(fmt.Errorf("the next hop of %s could not be reached a short while ago", domain))
	case len(c.calls) >= maxCalls:
		return nil, unknown(fmt.Errorf("%d addresses are being asked for already", maxCalls))
	case c.calls == nil:
		c.calls, c.down = map[string]*call{}, map[string]time.Time{}
	}
	asked := &call{done: make(chan struct{})}
	c.calls[key] = asked
	go c.call(key, to, asked)
	return asked, nil
}

func (c *Callout) call(key string, to address.Path, asked *call) {
	limit := c.Time
	if limit == 0 {
		limit = 10 * time.Second
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	r := c.ask(ctx, to)
	var value string
	var keep time.Duration
	now := strconv.FormatInt(clock.Now().Unix(), 10)
	switch {
	case r.Err == nil:
		value, keep = "yes "+now, yesTime
	case r.Remote && !r.Err.Temporary() && !strings.HasPrefix(r.Err.Enhanced, "5.7."):
		said := r.Relay + " said: " + r.Err.Reply()
		value, keep = "no "+now+" "+said[:min(len(said), maxText)], noTime
	case r.Reached && r.Err.Enhanced == "5.6.7": // RFC 6531 3.5: no session with it can name the recipient; tomorrow it may be another server
		asked.err = status.Permanent(553, "5.6.7", "The next hop takes no internationalized addresses", fmt.Errorf("callout: %s: %w", r.Relay, r.Err))
	default:
		asked.err = unknown(fmt.Errorf("%s: %w", r.Relay, r.Err))
	}
	if value != "" {
		_, _, asked.err = parse(value)
		c.remember(key, value, keep)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.calls, key)
	domain := to.ASCII().Domain
	if delete(c.down, domain); r.Err != nil && !r.Reached {
		c.down[domain] = clock.Now().Add(downTime)
	}
	close(asked.done)
}

func (c *Callout) remember(key, value string, keep time.Duration) {
	if c.Ledger == nil {
		return
	}
	if err := c.Ledger.Update(key, func(string) (string, time.Duration) { return value, keep }); err != nil {
		c.Problem(err)
	}
}

// ask is Ask, where a bug is no answer: in a goroutine of its own it would end the program.
func (c *Callout) ask(ctx context.Context, to address.Path) (r transport.Result) {
	defer func() {
		if v := recover(); v != nil {
			err := fmt.Errorf("callout: bug, please report it: %v", v)
			c.Problem(err)
			r = transport.Result{Err: status.Temporary(451, "4.3.0", "Internal error", err), Reached: true}
		}
	}()
	return c.Ask(ctx, to)
}

// parse reads what the ledger keeps. err is the answer.
func parse(value string) (known bool, at time.Time, err error) {
	word, rest, _ := strings.Cut(value, " ")
	seconds, said, _ := strings.Cut(rest, " ")
	n, bad := strconv.ParseInt(seconds, 10, 64)
	switch {
	case bad != nil:
		return false, at, nil
	case word == "yes":
		return true, time.Unix(n, 0), nil
	case word == "no":
		return true, time.Unix(n, 0), status.Permanent(550, "5.1.1", "Recipient is unknown at the next hop", errors.New(status.Clean(said)))
	}
	return false, at, nil
}

// unknown is what a client hears who should come again.
func unknown(cause error) error {
	return status.Temporary(450, "4.1.1", "Recipient cannot be verified now, try again later", fmt.Errorf("callout: %w", cause))
}
