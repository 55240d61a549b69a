package queue

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postel-mail/postel/internal/durable"
	"github.com/postel-mail/postel/internal/envelope"
)

// ErrBusy says that the message is being written or that another has claimed it.
var ErrBusy = errors.New("queue: message is in use")

// ErrGone says that the message is not in the queue any more.
var ErrGone = errors.New("queue: no such message")

// CorruptError says that a queue file cannot be read and why. The file is in corrupt/ when Moved is set.
type CorruptError struct {
	ID    string
	Err   error
	Moved bool
}

func (e *CorruptError) Error() string { return "queue: " + e.ID + ": " + e.Err.Error() }

// Unwrap gives the cause.
func (e *CorruptError) Unwrap() error { return e.Err }

// errVersion is a file that a newer postel has written. It is left alone.
var errVersion = errors.New("unknown version of the queue format; it is left alone")

// Message is a queued message, locked by the one who claimed it.
type Message struct {
	Envelope *envelope.Envelope
	State    State

	spool *Spool
	file  *os.File
	start int64 // of the message in the file
	size  int64
}

// Claim opens and locks a message, checks it against its size and sum, and reads its state. ErrBusy and ErrGone are no faults. A file that
// is torn or not a queue file is moved to corrupt/ and reported as *CorruptError; a file of a later version is reported and left.
func (s *Spool) Claim(id string) (*Message, error) {
	m, err := s.open(id, true)
	var bad *CorruptError
	if errors.As(err, &bad) && !errors.Is(err, errVersion) {
		if e := s.queue.Replace(id, s.corrupt, id); e != nil {
			return nil, errors.Join(err, e)
		}
		bad.Moved = true
	}
	return m, err
}

// Peek opens a message for looking, without a lock and without reading it whole: mailq's view. It may go away at any time.
func (s *Spool) Peek(id string) (*Message, error) { return s.open(id, false) }

// Schedule reads when a message is due and whether it is held, from its state alone. The zero time is at once.
func (s *Spool) Schedule(id string) (next time.Time, held bool) {
	st, err := s.readState(id, -1)
	if err != nil {
		return time.Time{}, false // the attempt will tell
	}
	return st.Next, st.Hold
}

func (s *Spool) open(id string, claim bool) (m *Message, err error) {
	if !ValidID(id) {
		return nil, ErrGone
	}
	f, err := s.queue.Open(id, unix.O_RDWR|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrGone
	}
	if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.EISDIR) {
		return nil, &CorruptError{ID: id, Err: err}
	}
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	if claim {
		if err := durable.TryFlock(f); errors.Is(err, durable.ErrLocked) {
			return nil, ErrBusy
		} else if err != nil {
			return nil, err
		}
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, err
	}
	if st.Nlink == 0 {
		return nil, ErrGone // removed between open and lock
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, &CorruptError{ID: id, Err: errors.New("not a regular file")}
	}
	m = &Message{spool: s, file: f}
	if err := m.read(st.Size, claim); err != nil {
		var io *fs.PathError
		if errors.As(err, &io) {
			return nil, err // the disk, not the file
		}
		return nil, &CorruptError{ID: id, Err: err}
	}
	if m.Envelope.ID != id {
		return nil, &CorruptError{ID: id, Err: fmt.Errorf("the file is named %s, its envelope says %s", id, m.Envelope.ID)}
	}
	if m.State, err = s.readState(id, len(m.Envelope.Rcpts)); err != nil {
		return nil, err
	}
	return m, nil
}

func (m *Message) read(size int64, check bool) error {
	head := make([]byte, headLength)
	if _, err := m.file.ReadAt(head, 0); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	if !strings.HasPrefix(string(head), magic) {
		if v, ok := strings.CutPrefix(string(head), "postel-queue "); ok && v[0] >= '0' && v[0] <= '9' {
			return errVersion
		}
		return errors.New("not a queue file")
	}
	var total int64
	var sum uint32
	if _, err := fmt.Sscanf(string(head), headFormat2, &total, &sum); err != nil || fmt.Sprintf(headFormat, total, sum) != string(head) {
		return errors.New("malformed head")
	}
	if total != size-int64(headLength) {
		return fmt.Errorf("has %d octets, its head says %d", size, total+int64(headLength))
	}
	rest := io.NewSectionReader(m.file, int64(headLength), total)
	if check {
		h := &checksum{}
		if _, err := io.CopyBuffer(struct{ io.Writer }{h}, struct{ io.Reader }{rest}, make([]byte, 64<<10)); err != nil {
			return err
		}
		if h.Sum32() != sum {
			return fmt.Errorf("sum is %08x, its head says %08x", h.Sum32(), sum)
		}
	}
	counter := &countingReader{r: io.NewSectionReader(m.file, int64(headLength), total)}
	buf := bufio.NewReader(counter)
	var err error
	if m.Envelope, err = envelope.Read(buf); err != nil {
		return err
	}
	m.start = int64(headLength) + counter.n - int64(buf.Buffered())
	m.size = size - m.start
	return nil
}

// headFormat2 is headFormat for scanning, where a width limits what is read.
const headFormat2 = magic + "Size: %20d\nSum: %8x\n"

type countingReader struct {
	r io.Reader
	n int64
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// ID is the queue id.
func (m *Message) ID() string { return m.Envelope.ID }

// Size is the number of octets of the message.
func (m *Message) Size() int64 { return m.size }

// Body is the message, lines ending in CRLF, from its first octet. Each call gives a reader of its own.
func (m *Message) Body() *io.SectionReader { return io.NewSectionReader(m.file, m.start, m.size) }

// OpenBody opens the queue file once more, placed at the message's first octet: what a program gets as its standard input. It stays whole for the program
// whatever becomes of the caller.
func (m *Message) OpenBody() (*os.File, error) {
	f, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", m.file.Fd()), os.O_RDONLY, 0)
	if err != nil { // no /proc: by name; the lock that m holds keeps the name in place
		if f, err = m.spool.queue.Open(m.ID(), unix.O_RDONLY, 0); err != nil {
			return nil, err
		}
	}
	if _, err := f.Seek(m.start, io.SeekStart); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// Remove takes the message out of the queue, state last. It stays open until Close. A state that cannot be removed is left to Clean: the
// message is gone without it.
func (m *Message) Remove() error {
	err := m.spool.queue.Remove(m.ID())
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if err != nil {
		return err
	}
	_ = m.spool.state.Remove(m.ID())
	return nil
}

// Close gives the message back.
func (m *Message) Close() { _ = m.file.Close() }
