package queue

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"sync"
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

// ErrVersion says that a file is one that a newer postel has written. It is left alone.
var ErrVersion = errors.New("unknown version of the queue format; it is left alone")

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
	m, err := withState(s.open(id, true, true))
	var bad *CorruptError
	if errors.As(err, &bad) && !errors.Is(err, ErrVersion) {
		if e := s.queue.Replace(id, s.corrupt, id); e != nil {
			return nil, errors.Join(err, e)
		}
		bad.Moved = true
	}
	return m, err
}

// Peek opens a message for looking, without a lock and without reading it whole: mailq's view. It may go away at any time.
func (s *Spool) Peek(id string) (*Message, error) { return withState(s.Look(id)) }

// Look is Peek without the state, for who goes through a million messages: State is of no use until ReadState.
func (s *Spool) Look(id string) (*Message, error) { return s.open(id, false, false) }

// ClaimUnread is Claim for who changes a message's state, or removes it, and does not ask what is in it: it is not read whole, its sum is not checked, and
// nothing is moved to corrupt/.
func (s *Spool) ClaimUnread(id string) (*Message, error) { return withState(s.open(id, true, false)) }

func withState(m *Message, err error) (*Message, error) {
	if err != nil {
		return nil, err
	}
	if err := m.ReadState(); err != nil {
		m.Close()
		return nil, err
	}
	return m, nil
}

// ReadState reads the state of a message as it is now.
func (m *Message) ReadState() (err error) {
	m.State, err = m.spool.readState(m.ID(), len(m.Envelope.Rcpts))
	return err
}

// Schedule reads when a message is due and whether it is held, from the first lines of its state alone. The zero time is at once; without a
// state there is false.
func (s *Spool) Schedule(id string) (next time.Time, held, there bool) {
	f, err := openQuietly(s.state, id, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return time.Time{}, false, false // the attempt will tell
	}
	defer f.Close()
	var head [512]byte // more than the lines that come before the recipients
	n, err := unix.Pread(int(f.Fd()), head[:], 0)
	if err != nil {
		return time.Time{}, false, false
	}
	text, _, _ := strings.Cut(string(head[:n]), "\nRcpt: ")
	text, _, _ = strings.Cut(text, "\nEnd\n")
	st, _ := parseState(strings.TrimSuffix(text, "\n")+"\nEnd\n", id, 0)
	if st.Expire {
		return time.Time{}, st.Hold, true
	}
	return st.Next, st.Hold, true
}

func (s *Spool) open(id string, lock, whole bool) (m *Message, err error) {
	if !ValidID(id) {
		return nil, ErrGone
	}
	f, err := openQuietly(s.queue, id, unix.O_RDWR)
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
	if lock {
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
	if err := m.read(st.Size, whole); err != nil {
		var io *fs.PathError
		if errors.As(err, &io) {
			return nil, err // the disk, not the file
		}
		return nil, &CorruptError{ID: id, Err: err}
	}
	if m.Envelope.ID != id {
		return nil, &CorruptError{ID: id, Err: fmt.Errorf("the file is named %s, its envelope says %s", id, m.Envelope.ID)}
	}
	return m, nil
}

// lookers are for head and envelope: one read of 4 KiB holds nearly all of them.
var lookers = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, 4<<10) }}

// blocks are for reading a message whole.
var blocks = sync.Pool{New: func() any { return new([64 << 10]byte) }}

// openQuietly opens a file without a new time of access, where the caller may ask for that: else a look at a million files would be a million writes.
func openQuietly(d *durable.Dir, name string, flags int) (*os.File, error) {
	f, err := d.Open(name, flags|unix.O_NOATIME, 0)
	if errors.Is(err, unix.EPERM) { // another's file
		f, err = d.Open(name, flags, 0)
	}
	return f, err
}

func (m *Message) read(size int64, check bool) error {
	counter := &countingReader{r: io.NewSectionReader(m.file, 0, size)}
	buf := lookers.Get().(*bufio.Reader)
	buf.Reset(counter)
	defer func() {
		buf.Reset(nil)
		lookers.Put(buf)
	}()
	head, err := buf.Peek(headLength)
	if err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	total, sum, err := parseHead(string(head))
	if err != nil {
		return err
	}
	if total != size-int64(headLength) {
		return fmt.Errorf("has %d octets, its head says %d", size, total+int64(headLength))
	}
	if check {
		h := &checksum{}
		rest := io.NewSectionReader(m.file, int64(headLength), total)
		block := blocks.Get().(*[64 << 10]byte)
		_, err := io.CopyBuffer(struct{ io.Writer }{h}, struct{ io.Reader }{rest}, block[:])
		blocks.Put(block)
		if err != nil {
			return err
		}
		if h.Sum32() != sum {
			return fmt.Errorf("sum is %08x, its head says %08x", h.Sum32(), sum)
		}
	}
	_, _ = buf.Discard(headLength) // all of it is there
	if m.Envelope, err = envelope.Read(buf); err != nil {
		return err
	}
	m.start = counter.n - int64(buf.Buffered())
	m.size = size - m.start
	return nil
}

// parseHead reads what headFormat wrote, and nothing else.
func parseHead(head string) (total int64, sum uint32, err error) {
	rest, ok := strings.CutPrefix(head, magic)
	if !ok {
		if v, ok := strings.CutPrefix(head, "postel-queue "); ok && v[0] >= '0' && v[0] <= '9' {
			return 0, 0, ErrVersion
		}
		return 0, 0, errors.New("not a queue file")
	}
	size, rest, _ := strings.Cut(rest, "\n")
	size, isSize := strings.CutPrefix(size, "Size: ")
	hex, isSum := strings.CutPrefix(rest, "Sum: ")
	hex, ok = strings.CutSuffix(hex, "\n")
	n, err := strconv.ParseUint(size, 10, 63)
	h, err2 := strconv.ParseUint(hex, 16, 32)
	if !ok || !isSize || !isSum || err != nil || err2 != nil || len(size) != 20 || len(hex) != 8 || strings.ContainsAny(hex, "ABCDEF") {
		return 0, 0, errors.New("malformed head")
	}
	return int64(n), uint32(h), nil
}

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
