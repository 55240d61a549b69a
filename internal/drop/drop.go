// Package drop collects the messages that users who may not write the queue have left in SPOOL/drop, and puts them into the queue. postel-queue(5) says
// what the folder is; queue.Drop is the side that leaves them.
//
// Everybody may make files there, so nothing in it is believed. A file is taken only when it is a regular file with one name that nobody has locked. It is
// read once, in order, while a copy of it is made, and the copy counts only when the sum of what was read is right: so its owner may change it at any
// time and gains nothing. The user is the owner of the file, whatever its envelope says; sender, recipients and message go through package submission,
// as if the user had come to this host's queue by himself.
//
// A message is taken once: its id is that of the file, and the file is removed when the copy would survive a power cut and before the runner may claim
// it. What a crash leaves in both places is recognised by the id.
//
// What a user can cost is bounded: so many messages and octets an hour are taken or thrown away, the rest waits on the user's own quota, and users take
// turns. What can never be taken is removed after an hour, or put into corrupt/ where it is whole, with an event in the log.
package drop

import (
	"context"
	"fmt"
	"math"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postel-mail/postel/internal/clock"
	"github.com/postel-mail/postel/internal/durable"
	"github.com/postel-mail/postel/internal/maillog"
	"github.com/postel-mail/postel/internal/queue"
	"github.com/postel-mail/postel/internal/submission"
)

// Collector takes messages out of SPOOL/drop. It may be used by many goroutines; the spool's lock has to be held, as by the runner.
type Collector struct {
	Spool *queue.Spool
	Log   *maillog.Log
	// Rules gives a Submission with what the configuration says now: Hostname and the limits.
	Rules func() submission.Submission

	mu       sync.Mutex // what follows
	dir      *durable.Dir
	entries  *os.File // where the last pass stopped reading names; nil: at the end
	settled  bool     // what a crash left in both places is cleared up
	accounts map[uint32]*account
	told     time.Time // when a failure of this host was logged
}

// What one user may cost in an hour. A thousand messages are more than a person or cron sends, and whoever runs a mailing list has the socket. 256 MiB
// are some messages of the largest size, and fill no disk before somebody looks. A file is taken as long as something is left of both, so a larger message
// comes through too.
const (
	maxMessages = 1000
	maxOctets   = 256 << 20
	period      = time.Hour
)

// Bounds of a pass.
const (
	maxNames    = 100_000 // looked at; the next pass goes on from there
	batch       = 5000    // names that users take turns in
	maxFailures = 3       // of this host, over files of one user, before his others wait for the next pass
)

// tooOld is the age at which a file that cannot be taken is removed.
const tooOld = time.Hour

// account is what a user has cost since the hour began.
type account struct {
	begun    time.Time
	messages int
	octets   int64
	told     bool // that the rest waits
}

func (a *account) full() bool { return a.messages >= maxMessages || a.octets >= maxOctets }

// Settle removes the files whose messages are in the queue already: a crash came between. It is done once, before anything is delivered, for a message that has
// left the queue is not recognised any more; it looks at names alone.
func (c *Collector) Settle(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.settle(ctx)
}

// Collect makes a pass over the folder: it takes in all that is whole, as far as the bounds let it. Its error is one of the folder itself.
func (c *Collector) Collect(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.settle(ctx); err != nil {
		return err
	}
	for uid, a := range c.accounts {
		if clock.Since(a.begun) >= period {
			delete(c.accounts, uid)
		}
	}
	for seen := 0; seen < maxNames && ctx.Err() == nil; {
		names, more, err := c.next()
		if err != nil {
			return err
		}
		seen += len(names)
		c.takeTurns(ctx, names)
		if !more {
			break
		}
	}
	return nil
}

// Close gives up the folder.
func (c *Collector) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.close()
}

func (c *Collector) close() {
	if c.entries != nil {
		c.entries.Close()
		c.entries = nil
	}
	if c.dir != nil {
		c.dir.Close()
		c.dir = nil
	}
}

// open opens the folder, anew when it is not the one of before: somebody may have taken it away, and any program makes another.
func (c *Collector) open() error {
	d, err := c.Spool.DropDir()
	if err != nil {
		return fmt.Errorf("drop: %w", err)
	}
	if c.dir != nil && sameFile(c.dir, d) {
		return d.Close()
	}
	c.close()
	c.dir = d
	if c.accounts == nil {
		c.accounts = map[uint32]*account{}
	}
	return nil
}

func sameFile(a, b *durable.Dir) bool {
	var x, y unix.Stat_t
	return unix.Fstat(a.Fd(), &x) == nil && unix.Fstat(b.Fd(), &y) == nil && x.Dev == y.Dev && x.Ino == y.Ino
}

// settle opens the folder and does what Settle does, where that is still to be done.
func (c *Collector) settle(ctx context.Context) error {
	if err := c.open(); err != nil || c.settled {
		return err
	}
	err := c.dir.Names(func(name string) bool {
		if there, err := c.Spool.Exists(name); there && err == nil {
			c.take(name)
		}
		return ctx.Err() == nil
	})
	if err != nil {
		return fmt.Errorf("drop: %w", err)
	}
	c.settled = ctx.Err() == nil
	return nil
}

// next reads a batch of names. more says whether there are others.
func (c *Collector) next() (names []string, more bool, err error) {
	if c.entries == nil {
		if c.entries, err = os.Open(fmt.Sprintf("/proc/self/fd/%d", c.dir.Fd())); err != nil {
			return nil, false, fmt.Errorf("drop: cannot be read: %w", err)
		}
	}
	for len(names) < batch {
		some, err := c.entries.Readdirnames(batch - len(names))
		names = append(names, some...)
		if err != nil || len(some) == 0 { // the end, or an error that the next pass meets again
			c.entries.Close()
			c.entries = nil
			return names, false, nil
		}
	}
	return names, true, nil
}

// takeTurns takes the files of a batch, one of each user in turn, those of one user in order of arrival.
func (c *Collector) takeTurns(ctx context.Context, names []string) {
	files := map[uint32][]string{}
	for _, name := range names {
		var st unix.Stat_t
		if unix.Fstatat(c.dir.Fd(), name, &st, unix.AT_SYMLINK_NOFOLLOW) != nil {
			continue // gone
		}
		if uid := payer(&st); !c.isFull(uid) {
			files[uid] = append(files[uid], name)
		}
	}
	users := make([]uint32, 0, len(files))
	for uid := range files {
		slices.Sort(files[uid])
		users = append(users, uid)
	}
	slices.Sort(users)
	failures := map[uint32]int{}
	for len(users) > 0 {
		users = slices.DeleteFunc(users, func(uid uint32) bool {
			if ctx.Err() != nil || c.isFull(uid) || failures[uid] == maxFailures {
				return true
			}
			if !c.take(files[uid][0]) {
				failures[uid]++
			}
			files[uid] = files[uid][1:]
			return len(files[uid]) == 0
		})
	}
}

// payer is whose account a file is on: its owner's, but nobody's for a file with more than one name, since another may have given it the one here.
func payer(st *unix.Stat_t) uint32 {
	if st.Mode&unix.S_IFMT != unix.S_IFDIR && st.Nlink > 1 {
		return math.MaxUint32
	}
	return st.Uid
}

func (c *Collector) account(uid uint32) *account {
	a := c.accounts[uid]
	if a == nil || clock.Since(a.begun) >= period {
		a = &account{begun: clock.Now()}
		c.accounts[uid] = a
	}
	return a
}

// isFull reports whether no more of a user's files are looked at for now, and tells so once.
func (c *Collector) isFull(uid uint32) bool {
	a := c.accounts[uid]
	if a == nil || clock.Since(a.begun) >= period || !a.full() {
		return false
	}
	if !a.told {
		a.told = true
		c.Log.Problem("", fmt.Errorf("drop: user %d has left %d messages with %d octets within an hour; what else is there waits for the next one", uid, a.messages, a.octets))
	}
	return true
}

// problem tells the log what is wrong with this host rather than with a file, once a minute.
func (c *Collector) problem(id string, err error) {
	if c.told.IsZero() || clock.Since(c.told) >= time.Minute {
		c.told = clock.Now()
		c.Log.Problem(id, fmt.Errorf("drop: %w", err))
	}
}
