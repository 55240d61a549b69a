package queue

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"

	"golang.org/x/sys/unix"

	"github.com/postel-mail/postel/internal/clock"
	"github.com/postel-mail/postel/internal/durable"
	"github.com/postel-mail/postel/internal/envelope"
)

// dropName is the folder for those who may not write the queue. Everybody may make files in it (w, x), nobody sees those of others (no r), and only
// the owner of a file, of the spool, and root may remove one (the sticky bit).
const (
	dropName = "drop"
	dropMode = 0o1733
)

// Drop is the drop directory of a spool, as those use it who may not write the queue. Package drop is the other side.
type Drop struct {
	dir     *durable.Dir
	order   durable.Order
	minFree int64
	shared  bool // the files are for the folder's group too
}

// OpenDrop opens the drop directory of the spool at path. minFree is as SetMinFree has it.
func OpenDrop(path string, minFree int64) (*Drop, error) {
	dir, err := durable.EnterDir(path + "/" + dropName)
	if err != nil {
		return nil, err
	}
	d := &Drop{dir: dir, minFree: minFree}
	var st unix.Stat_t
	if err := unix.Fstat(dir.Fd(), &st); err != nil {
		d.Close()
		return nil, &fs.PathError{Op: "stat", Path: dir.Path(), Err: err}
	}
	d.shared = st.Mode&unix.S_ISGID != 0
	d.order, _ = durable.OrderOf(dir)
	return d, nil
}

// Close closes the directory.
func (d *Drop) Close() { _ = d.dir.Close() }

// Create begins a message, as that of a Spool does. Its file stands under its name at once, with mode 0600 and locked until Commit has returned; where
// the folder hands its group on (setgid), that group may read it.
func (d *Drop) Create(e *envelope.Envelope) (*Writer, error) {
	if err := room(d.dir, d.minFree); err != nil {
		return nil, err
	}
	e.Arrival = clock.Now().UTC()
	e.ID = NewID(e.Arrival)
	w, err := begin(d, d.dir, e)
	if err == nil && d.shared {
		if err = w.file.Chmod(0o640); err != nil {
			w.Abort()
			return nil, failed(err)
		}
	}
	return w, err
}

// publish flushes the file. It was made under its name before, so the one flush makes both last, where it does so for a renamed file too.
func (d *Drop) publish(w *Writer) error {
	if d.order == durable.RenameFsync {
		if err := w.file.Sync(); err != nil {
			return err
		}
		if !durable.FastCommits(d.dir) {
			return durable.Unflock(w.file)
		}
	}
	if err := durable.SyncFileSystem(w.file); err != nil {
		return err
	}
	return durable.Unflock(w.file) // before the close that wakes the collector
}

func (d *Drop) wake(string) {}

// DropDir opens the drop directory for the one who collects it; it is made where it is missing.
func (s *Spool) DropDir() (*durable.Dir, error) { return s.dir.Sub(dropName, dropMode) }

// TakeOver begins a message as Create does, under the id that it had in drop/. last is called when the message would survive a power cut and cannot be
// claimed yet; when it fails the message is taken back. Only the runner may call it, for an id that Has does not find.
func (s *Spool) TakeOver(id string, e *envelope.Envelope, last func() error) (*Writer, error) {
	if f, err := s.tmp.Open(id, unix.O_RDONLY|unix.O_NONBLOCK, 0); err == nil { // left by a crash in the middle of this
		err = durable.TryFlock(f)
		if err == nil {
			err = s.tmp.Remove(id)
		}
		if err = errors.Join(err, f.Close()); err != nil {
			return nil, failed(err)
		}
	}
	if err := s.state.Remove(id); err != nil && !errors.Is(err, fs.ErrNotExist) { // that of an earlier message with this id
		return nil, failed(err)
	}
	e.Arrival = clock.Now().UTC()
	e.ID = id
	w, err := s.create(e)
	if err == nil {
		w.to = handover{s, last}
	}
	return w, err
}

// handover is a spool that gets a message out of drop/.
type handover struct {
	*Spool
	last func() error
}

func (h handover) publish(w *Writer) error {
	if err := h.Spool.publish(w); err != nil {
		return err
	}
	return h.named(w.id, h.last())
}

// Exists reports whether there is a message id in the queue, whole or not.
func (s *Spool) Exists(id string) (bool, error) {
	if !ValidID(id) {
		return false, nil
	}
	return s.queue.Exists(id)
}

// Has reports whether message id is in the queue, and if so sees to it that it lasts. A torn one is put into corrupt/ and counts as none. uid is
// that of its envelope.
func (s *Spool) Has(id string) (has bool, uid int, err error) {
	if there, err := s.Exists(id); !there || err != nil {
		return false, 0, err
	}
	m, err := s.Claim(id)
	if errors.Is(err, ErrBusy) { // whoever works on it has checked it
		m, err = s.Peek(id)
	}
	var bad *CorruptError
	if errors.Is(err, ErrGone) || errors.As(err, &bad) && bad.Moved {
		return false, 0, nil
	}
	if err != nil {
		return false, 0, err
	}
	defer m.Close()
	return true, m.Envelope.UID, errors.Join(s.flush(m.file.Sync), s.flush(s.queue.Sync))
}

// Condemn puts a file of drop/ into corrupt/, or removes it where there is one of that name.
func (s *Spool) Condemn(drop *durable.Dir, id string) error {
	err := drop.Rename(id, s.corrupt, id)
	if errors.Is(err, fs.ErrExist) {
		err = drop.Remove(id)
	}
	return err
}

// ErrUnfinished says that a queue file was not written to its end, so that nobody was promised anything.
var ErrUnfinished = errors.New("queue: the file was not written to its end")

// ReadFile reads a queue file of size octets from r, once and in order, as it must be read while somebody may change it. It gives the envelope, of at most
// maxEnvelope octets, and the message: a reader that ends with a *CorruptError, and not with io.EOF, where what was read has not the sum of the head. A file
// that is at fault gives a *CorruptError, ErrUnfinished or ErrVersion.
func ReadFile(r io.Reader, size, maxEnvelope int64) (*envelope.Envelope, io.Reader, error) {
	if size < int64(headLength) {
		return nil, nil, ErrUnfinished
	}
	head := make([]byte, headLength)
	if _, err := io.ReadFull(r, head); err != nil {
		return nil, nil, shorter(err)
	}
	total, sum, err := parseHead(string(head))
	switch {
	case errors.Is(err, ErrVersion):
		return nil, nil, err
	case err == nil && total == 0:
		return nil, nil, ErrUnfinished
	case err == nil && total != size-int64(headLength):
		err = fmt.Errorf("has %d octets, its head says %d", size, total+int64(headLength))
	}
	if err != nil {
		return nil, nil, &CorruptError{Err: err}
	}
	limited := &io.LimitedReader{R: &summedReader{r: r, left: total, want: sum}, N: maxEnvelope}
	buf := bufio.NewReaderSize(limited, 32<<10)
	e, err := envelope.Read(buf)
	var disk *fs.PathError
	if err != nil && !errors.As(err, &disk) {
		err = &CorruptError{Err: err}
	}
	limited.N = math.MaxInt64
	return e, buf, err
}

// shorter is what the end of a file means that was longer when it was opened.
func shorter(err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return &CorruptError{Err: io.ErrUnexpectedEOF}
	}
	return err
}

// summedReader reads left octets and checks their sum at the end.
type summedReader struct {
	r    io.Reader
	left int64
	want uint32
	sum  checksum
}

func (s *summedReader) Read(p []byte) (int, error) {
	if s.left == 0 {
		if got := s.sum.Sum32(); got != s.want {
			return 0, &CorruptError{Err: fmt.Errorf("sum is %08x, its head says %08x", got, s.want)}
		}
		return 0, io.EOF
	}
	n, err := s.r.Read(p[:min(int64(len(p)), s.left)])
	_, _ = s.sum.Write(p[:n])
	s.left -= int64(n)
	if n > 0 {
		return n, nil // the error comes again
	}
	return 0, shorter(err)
}
