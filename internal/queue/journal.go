package queue

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postel-mail/postel/internal/clock"
	"github.com/postel-mail/postel/internal/durable"
	"github.com/postel-mail/postel/internal/journal"
)

// journalName is the folder of journals.
const journalName = "journal"

// Of a process that keeps a journal.
const (
	maxHalf  = 8 << 20         // octets of each of its two files
	minHalf  = 96 << 10        // below that there is none
	ofFree   = 256             // each is at most this part of what is free
	settling = 5 * time.Second // how long a message is kept at most: as long as ext4 keeps what nobody flushes
)

// journals are the two files in which a process notes small messages as they come. The one flush of a batch is then that of the journal, which costs a third of what
// a new file's costs. The queue file is written before, so that all else is as without a journal; it is flushed later, with all others of its half, by a flush of the file
// system. Then the half is forgotten. Recover makes those files again which a power cut took before.
type journals struct {
	dir     *durable.Dir
	flush   func() error // of the file system
	problem func(error)

	flushing sync.Mutex // guards flushed
	flushed  error      // the first that flush gave: the kernel tells of what it could not write once, and the next flush is no proof of it

	mu      sync.Mutex       // guards what follows; held while a batch is written
	active  *journal.Journal // nil: there is none any more
	spare   *journal.Journal // nil: it is being settled
	due     *time.Timer      // for the first message in active
	settled sync.WaitGroup
}

var errNoRoom = errors.New("queue: the journal has no room")

// StartJournal notes small messages in a journal from now on, where the file system gains by it: on xfs, and on ext4 with a journal of its own and without fast commits.
// It takes some milliseconds. problem hears what goes wrong later, which costs no more than speed. It is for a process that takes many messages.
func (s *Spool) StartJournal(problem func(error)) error {
	space, err := s.queue.Space()
	half := min(maxHalf, space.Free/ofFree)
	if err != nil || half < minHalf || durable.Order(s.order.Load()) != durable.RenameFsync || !durable.InPlace(s.queue) {
		return err
	}
	return s.startJournal(half, problem)
}

func (s *Spool) startJournal(half int64, problem func(error)) error {
	dir, err := s.dir.Sub(journalName, 0o700)
	if err != nil {
		return err
	}
	j := &journals{dir: dir, flush: func() error { return s.flush(s.queue.SyncAll) }, problem: problem}
	j.due = time.AfterFunc(settling, j.overdue)
	if err = dir.Lock(); err == nil { // nobody takes what is being made for what was left
		for _, file := range []**journal.Journal{&j.active, &j.spare} {
			if err == nil {
				*file, err = journal.Create(dir, NewID(clock.Now()), durable.Life(dir), half)
			}
		}
		err = errors.Join(err, dir.Unlock())
	}
	if s.confirmOrder(); err != nil || durable.Order(s.order.Load()) != durable.RenameFsync {
		return errors.Join(err, j.close())
	}
	s.flusher.journals.Store(j)
	return nil
}

// put notes records, and returns when they would survive a power cut.
func (j *journals) put(records []journal.Record) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.active != nil && !j.active.Fits(records) {
		j.turn()
	}
	if j.active == nil || !j.active.Fits(records) {
		return errNoRoom
	}
	first := j.active.Empty()
	if err := j.active.Append(records); err != nil {
		j.problem(fmt.Errorf("queue: the journal is given up: %w", err))
		j.giveUp()
		return err
	}
	if first {
		j.due.Reset(settling)
	}
	return nil
}

// turn begins with the other half, where it is free.
func (j *journals) turn() {
	if j.spare != nil && !j.active.Empty() {
		full := j.active
		j.active, j.spare = j.spare, nil
		j.settle(full)
	}
}

// overdue settles the active half when its first message is old enough.
func (j *journals) overdue() {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.active == nil || j.active.Empty() {
		return
	}
	if j.turn(); !j.active.Empty() {
		j.due.Reset(settling / 5) // the other half is not free yet
	}
}

// settle flushes in the background what is noted in full, and forgets it.
func (j *journals) settle(full *journal.Journal) {
	j.settled.Go(func() {
		err := j.flushAll()
		if err != nil { // the queue is not what it seems to be: the next start makes it again
			err = errors.Join(err, full.Rename(""), full.Close())
		} else if err = full.Forget(); err != nil {
			err = errors.Join(err, full.Remove())
		}
		j.mu.Lock()
		defer j.mu.Unlock()
		switch {
		case err != nil:
			j.problem(fmt.Errorf("queue: the journal is given up: %w", err))
			j.giveUp()
		case j.active == nil:
			_ = full.Remove() // it is empty
		default:
			j.spare = full
		}
	})
}

func (j *journals) flushAll() error {
	j.flushing.Lock()
	defer j.flushing.Unlock()
	if j.flushed == nil {
		j.flushed = j.flush()
	}
	return j.flushed
}

// giveUp ends the journal. What is noted is settled, and messages are flushed one by one from now on.
func (j *journals) giveUp() {
	active, spare := j.active, j.spare
	j.active, j.spare = nil, nil
	if spare != nil {
		_ = spare.Remove() // it is empty
	}
	if active != nil {
		j.settle(active)
	}
}

// close settles everything, so that no journal is left.
func (j *journals) close() error {
	j.mu.Lock()
	j.giveUp()
	j.mu.Unlock()
	j.due.Stop()
	j.settled.Wait()
	return errors.Join(j.dir.Sync(), j.dir.Close())
}

// journalDir opens the folder of journals; nil without an error where there is none.
func (s *Spool) journalDir() (*durable.Dir, error) {
	dir, err := durable.OpenDir(s.dir.Path() + "/" + journalName)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return dir, err
}

// Recover makes those messages again that a power cut took out of the queue, or tore there, and that a journal has; n says how many. It is for whoever is about to work
// on the queue, before that. Journals of processes that live are left alone, and so is the queue where nothing but a process has ended: then it is as programs have left it.
func (s *Spool) Recover() (n int, err error) {
	dir, err := s.journalDir()
	if dir == nil {
		return 0, err
	}
	defer dir.Close()
	if err := dir.Lock(); err != nil { // another Recover is over then
		return 0, err
	}
	var over []*os.File
	var failed []error
	err = dir.Names(func(name string) bool {
		if !ValidID(name) {
			return true
		}
		f, err := dir.Open(name, unix.O_RDWR|unix.O_NONBLOCK, 0)
		if err == nil {
			err = durable.TryFlock(f)
		}
		if err == nil {
			var again int
			again, err = s.replay(dir, f)
			n += again
		}
		if err == nil {
			over = append(over, f)
			return true
		}
		if f != nil {
			f.Close()
		}
		if !errors.Is(err, durable.ErrLocked) && !errors.Is(err, fs.ErrNotExist) {
			failed = append(failed, fmt.Errorf("queue: cannot recover %s/%s, it is left: %w", dir.Path(), name, err))
		}
		return true
	})
	if len(over) > 0 {
		sync := s.flush(s.queue.SyncAll)
		for _, f := range over {
			if sync == nil {
				failed = append(failed, dir.Remove(path.Base(f.Name())))
			}
			f.Close()
		}
		failed = append(failed, sync, dir.Sync())
		s.Trigger("")
	}
	return n, errors.Join(append(failed, err)...)
}

// replay makes the messages of one journal again, where they are not in the queue.
func (s *Spool) replay(dir *durable.Dir, f *os.File) (n int, err error) {
	life, err := journal.Life(f)
	if err != nil || life != "" && life == durable.Life(dir) {
		return 0, err
	}
	err = journal.Read(f, func(r journal.Record) error {
		again, err := s.again(dir, r)
		if again {
			n++
		}
		return err
	})
	return n, err
}

// again makes one message again.
func (s *Spool) again(dir *durable.Dir, r journal.Record) (bool, error) {
	if !ValidID(r.Name) {
		return false, nil
	}
	if gone, err := dir.Exists(r.Name + goneSuffix); gone || err != nil {
		return false, err
	}
	if f, err := openQuietly(s.queue, r.Name, unix.O_RDONLY|unix.O_NONBLOCK); err == nil {
		same := r.Same(f)
		f.Close()
		if same {
			return false, nil
		}
	}
	if err := s.tmp.Remove(r.Name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	f, err := s.tmp.Create(r.Name, 0o600)
	if err != nil {
		return false, err
	}
	defer f.Close()
	_, err = f.Write(r.Data)
	if err = errors.Join(err, s.tmp.Give(f)); err == nil {
		err = s.tmp.Replace(r.Name, s.queue, r.Name)
	}
	if err != nil {
		return false, errors.Join(err, s.tmp.Remove(r.Name))
	}
	return true, nil
}

// goneSuffix is that of files in the folder of journals which say that a message is not to be made again.
const goneSuffix = ".gone"

// noted is longer than a message stays in a journal of somebody who lives.
const noted = time.Minute

// Discard is Remove for a person who does not want to see the message again, whatever is noted of it. SyncRemoved makes it last.
func (m *Message) Discard() error {
	if clock.Since(Arrival(m.ID())) > noted {
		return m.Remove()
	}
	dir, err := m.spool.journalDir()
	if dir != nil {
		defer dir.Close()
		var f *os.File
		if f, err = dir.Create(m.ID()+goneSuffix, 0o600); err == nil {
			err = errors.Join(dir.Give(f), f.Close())
		}
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return m.Remove()
}

// cleanJournal removes what Discard left.
func (s *Spool) cleanJournal() error {
	dir, err := s.journalDir()
	if dir == nil {
		return err
	}
	defer dir.Close()
	var failed []error
	err = dir.Names(func(name string) bool {
		if id, gone := strings.CutSuffix(name, goneSuffix); gone && ValidID(id) {
			failed = append(failed, removeOld(dir, name))
		}
		return true
	})
	return errors.Join(append(failed, err)...)
}

// SyncRemoved makes it last that messages were removed: else a power cut may bring them back.
func (s *Spool) SyncRemoved() error {
	dir, err := s.journalDir()
	if dir != nil {
		err = errors.Join(dir.Sync(), dir.Close())
	}
	return errors.Join(err, s.queue.Sync())
}
