package screen

import (
	"encoding/base64"
	"fmt"
	"hash/fnv"
	"strconv"
	"strings"
	"time"

	"github.com/postel-mail/postel/internal/address"
	"github.com/postel-mail/postel/internal/clock"
	"github.com/postel-mail/postel/internal/status"
)

// Greylisting remembers in books of its own:
//
//	"grey NETWORK HASH"   "w TIME": somebody unknown came first at that time; "p TIME": came again, and is seen now and then since
//	"known NETWORK"       "N TIME": so many messages came from there after a wait
//	"fresh NETWORK"       how many entries the network has made lately
const (
	window    = 2 * 24 * time.Hour  // in which the second attempt must come
	passFor   = 36 * 24 * time.Hour // so long it need not wait again, since the last time
	refresh   = 24 * time.Hour      // that is noted no more often
	enough    = 5                   // messages after a wait make a network known
	maxFresh  = 100                 // entries that a network makes in an hour: a flood from one must not displace those of others
	freshTime = time.Hour
)

// Greylist says whether the client has to come again with a recipient: nil, or a *status.Error. It is asked at RCPT, behind everything else that may refuse it; and
// where from is null not until the message is about to come, since who asks at RCPT whether a sender exists asks so, and does not come again.
func (c *Client) Greylist(from, to address.Path) error {
	if c == nil || c.s.Greylist == 0 || c.s.Ledger == nil || c.network == "" || isRole(to) {
		return nil
	}
	if c.known || c.Verdict().Score < 0 || c.isKnown() {
		c.known = true
		return nil
	}
	wait := c.wait("grey " + c.network + " " + hash(from, to))
	if wait == 0 {
		c.proven = true
		return nil
	}
	seconds := int((wait + time.Second - 1) / time.Second)
	return status.Temporary(451, "4.7.1", fmt.Sprintf("Greylisted, try again in %d seconds", seconds), nil)
}

// Accepted notes that a message of the client is in the queue. After some that had to wait, its network is known.
func (c *Client) Accepted() {
	if c == nil || !c.proven {
		return
	}
	c.proven = false
	c.s.noteLedger(c.s.Ledger.Update(c.knownKey(), func(old string) (string, time.Duration) {
		n, _ := parseEntry(old)
		return entry(strconv.Itoa(min(n+1, enough))), passFor
	}))
}

func (c *Client) knownKey() string { return "known " + c.network }

// isKnown reports whether the network has shown often enough that it comes again.
func (c *Client) isKnown() bool {
	value, err := c.s.Ledger.Get(c.knownKey())
	c.s.noteLedger(err)
	n, seen := parseEntry(value)
	if n < enough {
		return false
	}
	if stale(seen) {
		c.s.noteLedger(c.s.Ledger.Update(c.knownKey(), func(string) (string, time.Duration) { return entry(strconv.Itoa(n)), passFor }))
	}
	return true
}

// wait gives how long the entry has to wait yet; 0 lets it pass, and so does a ledger that fails.
func (c *Client) wait(key string) time.Duration {
	old, err := c.s.Ledger.Get(key)
	if err != nil {
		c.s.noteLedger(err)
		return 0
	}
	_, seen := parseEntry(old)
	if strings.HasPrefix(old, "p ") && !stale(seen) {
		return 0
	}
	if old == "" {
		n, err := c.s.Ledger.Count("fresh "+c.network, 1, freshTime)
		c.s.noteLedger(err)
		if n > maxFresh {
			return c.s.Greylist
		}
	}
	var wait time.Duration
	err = c.s.Ledger.Update(key, func(old string) (string, time.Duration) {
		now := clock.Now()
		_, first := parseEntry(old)
		if strings.HasPrefix(old, "p ") {
			return entry("p"), passFor
		}
		if !strings.HasPrefix(old, "w ") || first.After(now) { // or the clock was wrong
			first = now.Truncate(time.Second)
		}
		if wait = first.Add(c.s.Greylist).Sub(now); wait > 0 {
			return fmt.Sprintf("w %d", first.Unix()), first.Add(c.s.Greylist + window).Sub(now)
		}
		wait = 0
		return entry("p"), passFor
	})
	if err != nil {
		c.s.noteLedger(err)
		return 0
	}
	return wait
}

// entry is a value of now.
func entry(word string) string { return fmt.Sprintf("%s %d", word, clock.Now().Unix()) }

// parseEntry reads a value: a number, where it begins with one, and a time.
func parseEntry(s string) (n int, at time.Time) {
	word, seconds, _ := strings.Cut(s, " ")
	t, _ := strconv.ParseInt(seconds, 10, 64)
	n, _ = strconv.Atoi(word)
	return n, time.Unix(t, 0)
}

// stale reports whether an entry is to be noted anew.
func stale(seen time.Time) bool {
	age := clock.Since(seen)
	return age > refresh || age < -refresh
}

// hash stands for sender and recipient, so that a key is short whatever strangers write. Case does not count in it, nor what many senders change with each message: digits and
// what is behind a plus sign in the sender's local part.
func hash(from, to address.Path) string {
	local, _, _ := strings.Cut(from.Local, "+")
	var b strings.Builder
	digits := false
	for _, r := range local {
		if was := digits; r >= '0' && r <= '9' {
			if digits = true; !was {
				b.WriteByte('#')
			}
			continue
		}
		digits = false
		b.WriteRune(r)
	}
	from.Local = b.String()
	sum := fnv.New128a() // who finds two alike has come twice, and it takes no more than that
	sum.Write([]byte(strings.ToLower(from.Key() + "\n" + to.Key())))
	return base64.RawURLEncoding.EncodeToString(sum.Sum(nil))
}
