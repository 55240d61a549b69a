package activation

import (
	"errors"
	"os"
	"slices"
	"time"

	"github.com/postel-mail/postel/internal/clock"
)

const (
	maxSaid = 64              // octets that Quiet takes
	hurried = 2 * time.Second // its longest wait when places are scarce
)

// Quiet waits d for the peer to say something, as a client does that does not wait for the server's greeting. It gives the first octets of that, which the next
// Read gives again, and nothing when the peer was quiet. It is otherwise a Read, and costs no more while it waits; an error is one. The wait is short
// when places are scarce, see Server.Hurry.
func (c *Conn) Quiet(d time.Duration) (said []byte, err error) {
	if err := c.Flush(); err != nil {
		c.readErr = err
		return nil, err
	}
	if c.Crowded() {
		d = min(d, hurried)
	}
	c.Until(clock.Now().Add(d))
	c.Wait(true)
	defer c.Until(time.Time{})
	defer c.Wait(false)
	said = make([]byte, maxSaid)
	n, err := c.Read(said)
	said = said[:n:n]
	if n > 0 {
		c.ahead = append(slices.Clone(said), c.ahead...)
	} else if errors.Is(err, os.ErrDeadlineExceeded) {
		c.readErr, err = nil, nil
	}
	return said, err
}
