package queue

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/postel-mail/postel/internal/clock"
	"github.com/postel-mail/postel/internal/durable"
	"github.com/postel-mail/postel/internal/envelope"
	"github.com/postel-mail/postel/internal/journal"
	"github.com/postel-mail/postel/internal/status"
)

// The head of a queue file has a fixed width, so that size and sum can be filled in last. Both are of the octets behind the head.
const (
	magic      = "postel-queue 1\n"
	headFormat = magic + "Size: %020d\nSum: %08x\n"
	headLength = len(magic) + len("Size: \nSum: \n") + 20 + 8
)

// buffer holds a message that a journal can have, as nearly all are, until its end: so it is written once, with its head.
type buffer [journal.MaxData]byte

var buffers = sync.Pool{New: func() any { return new(buffer) }}

// Writer is a message on its way into the queue, or into the drop directory.
type Writer struct {
	to    target
	dir   *durable.Dir // where it is written
	id    string
	file  *os.File
	buf   *buffer
	held  int // octets in buf, which are not in the file
	sum   *checksum
	total int64 // octets behind the head
	body  int64 // of these, the message
	err   error // the first that happened; sticky
}

// target is where a Writer's message goes: a Spool or a Drop.
type target interface {
	publish(w *Writer) error // makes the whole file last under its name; after an error it is in w.dir at most
	wake(id string)          // the file can be had by now
}

// Create begins a message with that envelope, whose ID and Arrival it sets. The caller writes the message, lines ending in CRLF, and ends with Commit
// or Abort. Errors carry a status: 452 4.3.1 when the disk is full or below SetMinFree's bound, else 451 4.3.0.
func (s *Spool) Create(e *envelope.Envelope) (*Writer, error) {
	e.Arrival = clock.Now().UTC()
	e.ID = NewID(e.Arrival)
	return s.create(e)
}

func (s *Spool) create(e *envelope.Envelope) (*Writer, error) {
	if s.broken.Load() {
		if err := s.probe(); err != nil {
			return nil, failed(fmt.Errorf("the disk does not flush: %w", err))
		}
		s.broken.Store(false)
	}
	if err := room(s.tmp, s.minFree.Load()); err != nil {
		return nil, err
	}
	return begin(s, s.tmp, e)
}

// begin makes the file and writes the envelope.
func begin(to target, dir *durable.Dir, e *envelope.Envelope) (*Writer, error) {
	f, err := dir.Create(e.ID, 0o600)
	if err != nil {
		return nil, failed(err)
	}
	w := &Writer{to: to, dir: dir, id: e.ID, file: f, sum: &checksum{}}
	if err := errors.Join(durable.Flock(f), dir.Give(f)); err != nil { // the collector of drop/ may just look whether it is finished
		w.Abort()
		return nil, failed(err)
	}
	w.buf = buffers.Get().(*buffer)
	w.buffer(fmt.Appendf(nil, headFormat, 0, 0))
	w.put(append(e.AppendText(nil), '\n'))
	return w, nil
}

// MinFree is for SetMinFree: the smaller of 64 MiB and a hundredth of the file system.
const MinFree = -1

// room says whether a new message may be begun in d, with bound octets to be left free.
func room(d *durable.Dir, bound int64) error {
	space, err := d.Space()
	if err != nil {
		return failed(err)
	}
	if bound == MinFree {
		bound = min(64<<20, space.Total/100)
	}
	if space.Free < bound || space.Files < 2 {
		return status.Temporary(452, "4.3.1", "Insufficient system storage",
			fmt.Errorf("%s has %d octets and %d files free, limits.min_free is %d", d.Path(), space.Free, space.Files, bound))
	}
	return nil
}

// ID is the queue id.
func (w *Writer) ID() string { return w.id }

// Size is the number of octets of the message written so far.
func (w *Writer) Size() int64 { return w.body }

// Write adds octets of the message.
func (w *Writer) Write(p []byte) (int, error) {
	if w.err != nil {
		return 0, w.err
	}
	w.put(p)
	if w.err != nil {
		return 0, w.err
	}
	w.body += int64(len(p))
	return len(p), nil
}

func (w *Writer) put(p []byte) {
	w.sum.Write(p)
	w.total += int64(len(p))
	w.buffer(p)
}

// buffer adds octets to what is to be written.
func (w *Writer) buffer(p []byte) {
	for w.err == nil {
		n := copy(w.buf[w.held:], p)
		w.held += n
		if p = p[n:]; len(p) == 0 {
			return
		}
		w.spill()
	}
}

// spill writes what is in the buffer.
func (w *Writer) spill() {
	if _, err := w.file.Write(w.buf[:w.held]); err != nil {
		w.err = failed(err)
	}
	w.held = 0
}

// Commit puts the message into the queue. When it returns nil the message survives a power cut and the runner has been
// woken; after an error nothing of it is in the queue.
func (w *Writer) Commit() error {
	if w.err == nil {
		if err := w.commit(); err != nil {
			w.err = failed(err)
		}
	}
	if w.err != nil {
		w.Abort()
		return w.err
	}
	w.close()
	w.to.wake(w.id)
	return nil
}

func (w *Writer) commit() error {
	head := fmt.Appendf(nil, headFormat, w.total, w.sum.Sum32())
	if w.record().Data != nil {
		copy(w.buf[:], head)
		if _, err := w.file.Write(w.buf[:w.held]); err != nil {
			return err
		}
		return w.to.publish(w)
	}
	if w.spill(); w.err != nil {
		return w.err
	}
	if _, err := w.file.WriteAt(head, 0); err != nil {
		return err
	}
	return w.to.publish(w)
}

// record is the message for a journal; without octets where it is larger than the buffer.
func (w *Writer) record() journal.Record {
	if int64(w.held) < int64(headLength)+w.total {
		return journal.Record{}
	}
	return journal.Record{Name: w.id, Data: w.buf[:w.held]}
}

func (s *Spool) wake(id string) { s.Trigger(id) }

// publish moves the file into queue/ and flushes it, in the order that the file system asks for.
func (s *Spool) publish(w *Writer) error {
	if durable.Order(s.order.Load()) == durable.FsyncRenameFsync {
		if err := s.flush(w.file.Sync); err != nil {
			return err
		}
		if err := s.tmp.Rename(w.id, s.queue, w.id); err != nil {
			return err
		}
		return s.named(w.id, s.flush(s.queue.Sync))
	}
	if err := s.tmp.Rename(w.id, s.queue, w.id); err != nil {
		return err
	}
	err := s.named(w.id, s.flush(func() error { return s.flusher.sync(w.file, w.total, w.record()) }))
	s.confirm.Do(s.confirmOrder)
	if err == nil && durable.Order(s.order.Load()) == durable.FsyncRenameFsync { // the one flush was not enough after all
		err = s.named(w.id, errors.Join(s.flush(w.file.Sync), s.flush(s.queue.Sync)))
	}
	return err
}

// confirmOrder gives up the order of one flush where it does not hold.
func (s *Spool) confirmOrder() {
	if durable.FastCommits(s.queue) {
		s.order.Store(int32(durable.FsyncRenameFsync))
	}
}

// named takes a message's name back when the flush behind it failed: the client will hear that it was not accepted.
func (s *Spool) named(id string, err error) error {
	if err != nil {
		err = errors.Join(err, s.queue.Remove(id))
	}
	return err
}

// Abort drops the message. After Commit, or a second time, it does nothing.
func (w *Writer) Abort() {
	if w.file == nil {
		return
	}
	_ = w.dir.Remove(w.id) // a message in queue/ is taken back by named; what stays in tmp/ or drop/ is cleaned later
	if w.err == nil {
		w.err = errors.New("queue: write after the end of the message")
	}
	w.close()
}

func (w *Writer) close() {
	if w.buf != nil {
		buffers.Put(w.buf)
		w.buf = nil
	}
	if w.file != nil {
		_ = w.file.Close() // flushed already, or given up; this gives the lock back
		w.file = nil
	}
	if w.err == nil {
		w.err = errors.New("queue: write after the end of the message")
	}
}

// flush remembers that a flush failed: the kernel may have thrown the data away, so no later success on this spool is believed until a
// new file could be flushed.
func (s *Spool) flush(sync func() error) error {
	err := sync()
	if err != nil {
		s.broken.Store(true)
	}
	return err
}

// probe writes and flushes a new file.
func (s *Spool) probe() error {
	name := "probe." + NewID(clock.Now())
	f, err := s.tmp.Create(name, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write([]byte("probe\n"))
	return errors.Join(err, f.Sync(), s.tmp.Sync(), f.Close(), s.tmp.Remove(name))
}
