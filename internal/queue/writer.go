package queue

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/postel-mail/postel/internal/clock"
	"github.com/postel-mail/postel/internal/durable"
	"github.com/postel-mail/postel/internal/envelope"
	"github.com/postel-mail/postel/internal/status"
)

// The head of a queue file has a fixed width, so that size and sum can be filled in last. Both are of the octets behind the head.
const (
	magic      = "postel-queue 1\n"
	headFormat = magic + "Size: %020d\nSum: %08x\n"
	headLength = len(magic) + len("Size: \nSum: \n") + 20 + 8
)

var buffers = sync.Pool{New: func() any { return bufio.NewWriterSize(nil, 64<<10) }}

// Writer is a message on its way into the queue.
type Writer struct {
	spool *Spool
	id    string
	file  *os.File
	buf   *bufio.Writer
	sum   *checksum
	total int64 // octets behind the head
	body  int64 // of these, the message
	err   error // the first that happened; sticky
}

// Create begins a message with that envelope, whose ID and Arrival it sets. The caller writes the message, lines ending in CRLF, and ends with Commit
// or Abort. Errors carry a status: 452 4.3.1 when the disk is full or below SetMinFree's bound, else 451 4.3.0.
func (s *Spool) Create(e *envelope.Envelope) (*Writer, error) {
	if s.broken.Load() {
		if err := s.probe(); err != nil {
			return nil, failed(fmt.Errorf("the disk does not flush: %w", err))
		}
		s.broken.Store(false)
	}
	if free, files, err := s.tmp.Free(); err != nil {
		return nil, failed(err)
	} else if free < s.minFree.Load() || files < 2 {
		return nil, status.Temporary(452, "4.3.1", "Insufficient system storage",
			fmt.Errorf("%s has %d octets and %d files free, limits.min_free is %d", s.dir.Path(), free, files, s.minFree.Load()))
	}
	e.Arrival = clock.Now().UTC()
	e.ID = newID(e.Arrival)
	f, err := s.tmp.Create(e.ID, 0o600)
	if err != nil {
		return nil, failed(err)
	}
	w := &Writer{spool: s, id: e.ID, file: f, sum: &checksum{}}
	if err := errors.Join(durable.TryFlock(f), s.tmp.Give(f)); err != nil {
		w.Abort()
		return nil, failed(err)
	}
	w.buf = buffers.Get().(*bufio.Writer)
	w.buf.Reset(f)
	_, _ = fmt.Fprintf(w.buf, headFormat, 0, 0) // the error sticks in buf
	w.put(append(e.AppendText(nil), '\n'))
	return w, nil
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
	if _, err := w.buf.Write(p); err != nil {
		w.err = failed(err)
	}
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
	w.spool.Trigger(w.id)
	return nil
}

func (w *Writer) commit() error {
	s := w.spool
	if err := w.buf.Flush(); err != nil {
		return err
	}
	head := fmt.Sprintf(headFormat, w.total, w.sum.Sum32())
	if _, err := w.file.WriteAt([]byte(head), 0); err != nil {
		return err
	}
	if durable.Order(s.order.Load()) == durable.FsyncRenameFsync {
		if err := s.flush(w.file.Sync); err != nil {
			return err
		}
		if err := s.tmp.Rename(w.id, s.queue, w.id); err != nil {
			return err
		}
		return w.named(s.flush(s.queue.Sync))
	}
	if err := s.tmp.Rename(w.id, s.queue, w.id); err != nil {
		return err
	}
	err := w.named(s.flush(w.file.Sync))
	s.confirm.Do(func() {
		if durable.FastCommits(s.queue) {
			s.order.Store(int32(durable.FsyncRenameFsync))
		}
	})
	if err == nil && durable.Order(s.order.Load()) == durable.FsyncRenameFsync { // the one flush was not enough after all
		err = w.named(errors.Join(s.flush(w.file.Sync), s.flush(s.queue.Sync)))
	}
	return err
}

// named takes the message's name back when the flush behind it failed: the client will hear that it was not accepted.
func (w *Writer) named(err error) error {
	if err != nil {
		err = errors.Join(err, w.spool.queue.Remove(w.id))
	}
	return err
}

// Abort drops the message. After Commit, or a second time, it does nothing.
func (w *Writer) Abort() {
	if w.file == nil {
		return
	}
	_ = w.spool.tmp.Remove(w.id) // a message under its final name is taken back by named; what stays in tmp/ is cleaned later
	if w.err == nil {
		w.err = errors.New("queue: write after the end of the message")
	}
	w.close()
}

func (w *Writer) close() {
	if w.buf != nil {
		w.buf.Reset(nil)
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
	name := "probe." + newID(clock.Now())
	f, err := s.tmp.Create(name, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write([]byte("probe\n"))
	return errors.Join(err, f.Sync(), s.tmp.Sync(), f.Close(), s.tmp.Remove(name))
}
