// Package queue is the spool: one file per message, its states, and the calls that move it from one to the next.
// postel-queue(5) describes the files for people.
//
// The states of a message, and what a crash leaves in each:
//
//	a leaving   drop/ID exists, locked, not flushed  nothing was promised; whole, and taken, or torn, and removed after an hour
//	b left      drop/ID flushed, unlocked            the caller heard 0; from here the message is never lost
//	1 writing   tmp/ID exists, locked (flock)        nothing was promised; removed after an hour without a lock. With drop/ID beside it: b
//	2 named     queue/ID exists, locked, not flushed nothing was promised; after a power cut the file is whole, and
//	                                                 delivered (the client sends it again: a duplicate, never a loss), or
//	                                                 torn, told by Size and Sum, and moved to corrupt/. With drop/ID beside it: as c, or b
//	c collected queue/ID flushed, locked, drop/ID    as 3: Has finds it, drop/ID is removed before anything is claimed
//	j noted     queue/ID not flushed, locked, noted  as 3: Recover makes the file again; forgotten when it is flushed
//	            in a journal that is flushed
//	3 queued    queue/ID flushed, unlocked           the client heard 250; from here the message is never lost
//	4 claimed   queue/ID locked by the runner        as 3
//	5 deferred  state/ID beside it                   as 3; without a readable state every recipient counts as waiting
//	6 held      state/ID flushed, with Hold          as 3, and not tried
//	7 expiring  state/ID flushed, with Expire        as 3, and given up at the next attempt
//	8 reported  state/ID flushed, with "told"        as 3; the reports are queued before, so a crash in between has them sent twice
//	9 removed   neither                              a removal that a power cut undoes is a second delivery, never a loss
//	x corrupt   corrupt/ID                           kept for a person; a power cut may put it back, to be moved again
//
// With durable.FsyncRenameFsync the step from 1 to 2 comes after the file's flush and 3 is reached by flushing queue/; with
// durable.RenameFsync the file is flushed once, under its final name. A queue file is never changed or renamed after 3, save into corrupt/;
// what happens to its recipients is in state/ID. drop/ID is not renamed but copied, by 1, 2 and c: its owner could write to it for ever.
//
// Size and Sum make a torn file known, the lock one that is still being written; so a reader takes a file only with both.
package queue

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postel-mail/postel/internal/clock"
	"github.com/postel-mail/postel/internal/durable"
	"github.com/postel-mail/postel/internal/status"
)

// Spool is an open spool directory. It may be used by many goroutines, and by many processes at once.
type Spool struct {
	dir, tmp, queue, state, corrupt *durable.Dir
	reason                          string       // why order was chosen
	order                           atomic.Int32 // a durable.Order
	confirm                         sync.Once    // asks FastCommits after the first flush
	broken                          atomic.Bool  // a flush failed, and no probe has worked since
	minFree                         atomic.Int64 // octets
	flusher                         flusher
	wakeMu                          sync.Mutex // guards waker
	waker                           *os.File   // the trigger, for writing; nil while nobody listens
}

// triggerName is the FIFO that wakes the runner.
const triggerName = "trigger"

// Open opens the spool at path, and makes it and its folders where they are missing: the spool with mode 0711, so that everybody comes as far as drop/, and
// all but drop/ and wait/ with 0700.
func Open(path string) (s *Spool, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("cannot use the spool %s: %w", path, err)
		}
	}()
	s = &Spool{}
	s.dir, err = durable.OpenDir(path)
	if errors.Is(err, fs.ErrNotExist) {
		var parent *durable.Dir
		if parent, err = durable.OpenDir(filepath.Dir(path)); err != nil {
			return nil, err
		}
		defer parent.Close()
		s.dir, err = parent.Sub(filepath.Base(path), 0o711)
	}
	if err != nil {
		return nil, err
	}
	for name, dir := range map[string]**durable.Dir{"tmp": &s.tmp, "queue": &s.queue, "state": &s.state, "corrupt": &s.corrupt} {
		if *dir, err = s.dir.Sub(name, 0o700); err != nil {
			s.Close()
			return nil, err
		}
	}
	if err := errors.Join(s.makeTrigger(), s.makeOpen(dropName), s.makeOpen(waitName)); err != nil {
		s.Close()
		return nil, err
	}
	order, reason := durable.OrderOf(s.queue)
	s.order.Store(int32(order))
	s.reason = reason
	return s, nil
}

// SetMinFree sets the space in octets below which new messages are refused with 452 4.3.1, or the bound that MinFree stands for; at first there is none.
func (s *Spool) SetMinFree(octets int64) { s.minFree.Store(octets) }

// Close ends the journal, where there is one, and closes the spool's folders. Writers and messages that are still open stay usable only for closing.
func (s *Spool) Close() {
	if j := s.flusher.journals.Swap(nil); j != nil {
		_ = j.close() // a journal that is left is for the next start
	}
	for _, d := range []*durable.Dir{s.dir, s.tmp, s.queue, s.state, s.corrupt} {
		if d != nil {
			d.Close()
		}
	}
	if s.waker != nil {
		s.waker.Close()
	}
}

// Order says in which order files are made durable here, and why, for the log.
func (s *Spool) Order() string {
	if durable.Order(s.order.Load()) == durable.RenameFsync && durable.FastCommits(s.queue) {
		s.order.Store(int32(durable.FsyncRenameFsync))
		return durable.FsyncRenameFsync.String() + " (ext4 with fast_commit)"
	}
	return durable.Order(s.order.Load()).String() + " (" + s.reason + ")"
}

// makeOpen makes a folder of those that everybody may leave something in.
func (s *Spool) makeOpen(name string) error {
	if there, err := s.dir.Exists(name); there || err != nil {
		return err
	}
	d, err := s.dir.Sub(name, dropMode)
	if err != nil {
		return err
	}
	return d.Close()
}

func (s *Spool) makeTrigger() error {
	path := s.dir.Path() + "/" + triggerName
	err := unix.Mknodat(s.dir.Fd(), triggerName, unix.S_IFIFO|0o600, 0)
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	if err != nil {
		return &fs.PathError{Op: "mkfifo", Path: path, Err: err}
	}
	f, err := s.dir.Open(triggerName, unix.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	return s.dir.Give(f)
}

// Trigger makes the runner, where there is one, look at message id; with "" at the whole queue, states included. It never waits.
func (s *Spool) Trigger(id string) {
	s.wakeMu.Lock()
	defer s.wakeMu.Unlock()
	if s.waker == nil {
		f, err := s.dir.Open(triggerName, unix.O_WRONLY|unix.O_NONBLOCK, 0)
		if err != nil {
			return // ENXIO: nobody listens
		}
		s.waker = f
	}
	_, err := unix.Write(int(s.waker.Fd()), []byte(id+"\n"))
	if err != nil && !errors.Is(err, unix.EAGAIN) { // a full pipe makes the runner look at everything
		s.waker.Close() // EPIPE: the runner is gone, and the next one looks at everything
		s.waker = nil
	}
}

// Wakeups reads the trigger until f is closed. wake gets each id that was written; "" stands for anything else, and for a pipe so full that ids may
// have been lost: the whole queue is to be looked at.
func (s *Spool) Wakeups(f *os.File, wake func(id string)) error {
	const full = 32 << 10 // of the 64 KiB that a pipe holds
	buf := make([]byte, 64<<10)
	for {
		n, err := f.Read(buf)
		if err != nil {
			if errors.Is(err, os.ErrClosed) {
				return nil
			}
			return err
		}
		all := n >= full
		for line := range strings.Lines(string(buf[:n])) {
			if id := strings.TrimSuffix(line, "\n"); ValidID(id) {
				wake(id)
			} else {
				all = true
			}
		}
		if all {
			wake("")
		}
	}
}

// OpenTrigger opens the reading end of the trigger, for Wakeups.
func (s *Spool) OpenTrigger() (*os.File, error) {
	return s.dir.Open(triggerName, unix.O_RDWR|unix.O_NONBLOCK, 0) // for writing too, so that it never ends
}

// Lock makes the caller the runner of this spool until f is closed or the process ends; durable.ErrLocked when another is.
func (s *Spool) Lock() (f *os.File, err error) {
	f, err = s.dir.Open("lock", unix.O_RDWR|unix.O_CREAT, 0o600)
	if err != nil {
		return nil, err
	}
	if err = errors.Join(s.dir.Give(f), durable.TryLock(f)); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// IDs gives the ids of all messages, in order of arrival. Files that are not named like a message are left out.
func (s *Spool) IDs() ([]string, error) {
	var ids []string
	err := s.Each(func(id string, _ uint64) bool {
		ids = append(ids, id)
		return true
	})
	slices.Sort(ids)
	return ids, err
}

// Each calls yield with the id of each message, in the order of the directory, until it returns false. Nothing is kept of a queue that is
// large. Where many are then to be opened, the order of the files' inodes is the fastest.
func (s *Spool) Each(yield func(id string, inode uint64) bool) error { return each(s.queue, yield) }

// EachState does the same for the messages that have a state, with its inode.
func (s *Spool) EachState(yield func(id string, inode uint64) bool) error {
	return each(s.state, yield)
}

func each(d *durable.Dir, yield func(id string, inode uint64) bool) error {
	return d.Entries(func(name string, inode uint64) bool { return !ValidID(name) || yield(name, inode) })
}

// Clean removes what crashes left behind, an hour later: files in tmp/ without a lock, in state/ those that were never finished or
// whose message is gone, in wait/ what nobody reads, and in journal/ what says that a message was removed.
func (s *Spool) Clean() error {
	var failed []error
	err := s.tmp.Names(func(name string) bool {
		failed = append(failed, removeOld(s.tmp, name))
		return true
	})
	err2 := s.state.Names(func(name string) bool {
		id, _, _ := strings.Cut(strings.TrimPrefix(name, "."), ".") // of a state, or of one that is being written
		if ValidID(id) {
			if there, err := s.queue.Exists(id); there || err != nil {
				return true
			}
		}
		failed = append(failed, removeOld(s.state, name))
		return true
	})
	return errors.Join(append(failed, err, err2, s.cleanWait(), s.cleanJournal())...)
}

// removeOld removes a file that is older than an hour and that nobody has locked.
func removeOld(d *durable.Dir, name string) error {
	f, err := d.Open(name, unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil // gone, or not ours to open
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil || !st.Mode().IsRegular() || clock.Since(st.ModTime()) <= time.Hour || durable.TryFlock(f) != nil {
		return nil
	}
	return d.Remove(name)
}

// Ids: 11 digits of microseconds since 1970 and 9 of chance, in an alphabet that sorts as ASCII does. Twenty characters of lower case
// and digits, so they stand in file names, headers and replies as they are.
const (
	alphabet   = "0123456789abcdefghjkmnpqrstvwxyz"
	timeDigits = 11
	IDLength   = 20 // characters of an id
)

var lastMicros atomic.Int64

// NewID makes an id for a message that arrives at t. Ids of one process always ascend; ids of two hosts differ, by 45 random bits,
// also within one microsecond.
func NewID(t time.Time) string {
	micros := t.UnixMicro()
	for {
		last := lastMicros.Load()
		if micros <= last && last-micros < int64(time.Second/time.Microsecond) {
			micros = last + 1 // a clock that was set back by more is believed
		}
		if lastMicros.CompareAndSwap(last, micros) {
			break
		}
	}
	var id [IDLength]byte
	for i, n := timeDigits-1, uint64(micros); i >= 0; i-- {
		id[i] = alphabet[n%32]
		n /= 32
	}
	for i, n := timeDigits, rand.Uint64(); i < IDLength; i++ { // from the kernel's entropy, without the time that crypto/rand needs to start
		id[i] = alphabet[n%32]
		n /= 32
	}
	return string(id[:])
}

// ValidID reports whether s has the form of a queue id.
func ValidID(s string) bool {
	return len(s) == IDLength && strings.Trim(s, alphabet) == ""
}

// Arrival is when the message with that id arrived, as its id says it; the zero time where it is not an id.
func Arrival(id string) time.Time {
	if !ValidID(id) {
		return time.Time{}
	}
	var micros uint64
	for i := range timeDigits {
		micros = micros<<5 | uint64(strings.IndexByte(alphabet, id[i]))
	}
	return time.UnixMicro(int64(micros)).UTC()
}

// failed gives an error of the file system the status that the client hears.
func failed(err error) error {
	if durable.IsFull(err) {
		return status.Temporary(452, "4.3.1", "Insufficient system storage", err)
	}
	return status.Temporary(451, "4.3.0", "Cannot queue the message now", err)
}
