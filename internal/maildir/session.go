package maildir

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/postel-mail/postel/internal/durable"
	"github.com/postel-mail/postel/internal/mailbox"
)

// lockName is the file that a session holds locked; a crash releases it. Deliveries and other mail programs need no lock.
const lockName = "postel.lock"

// entry is where a message was seen last.
type entry struct {
	name    string
	seconds int64 // when it arrived, from its name
	micros  int32
	base    int32 // length of the base in name
	cur     bool
}

func (e *entry) baseName() string { return e.name[:e.base] }

// session is one session's view: what was there when it began.
type session struct {
	parts
	lock     *os.File
	entries  []entry
	messages []mailbox.Message
}

// Open locks the Maildir and reads what is in it; see mailbox.Store. Messages come in the order of arrival. Files without ",W=" in
// their name are read for their size.
func (m *Dir) Open(ctx context.Context) (mailbox.Session, error) {
	p, err := m.open(false)
	if errors.Is(err, fs.ErrNotExist) {
		return &session{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("maildir: %w", err)
	}
	s := &session{parts: *p}
	if err := s.begin(ctx); err != nil {
		s.Close()
		if errors.Is(err, durable.ErrLocked) {
			return nil, mailbox.ErrInUse
		}
		return nil, fmt.Errorf("maildir: %w", err)
	}
	return s, nil
}

func (s *session) begin(ctx context.Context) (err error) {
	if s.lock, err = s.root.Open(lockName, unix.O_RDWR|unix.O_CREAT|unix.O_NONBLOCK, 0o600); err != nil {
		return err
	}
	if err = durable.TryLock(s.lock); err != nil {
		return err
	}
	if err = s.scan(); err != nil {
		return err
	}
	return s.measure(ctx)
}

// scan lists new, then cur: a message that another program moves meanwhile is seen twice rather than not at all.
func (s *session) scan() error {
	for _, dir := range []*durable.Dir{s.new, s.cur} {
		err := dir.Names(func(name string) bool {
			if name[0] != '.' {
				e := entry{name: name, base: int32(baseLen(name)), cur: dir == s.cur}
				e.seconds, e.micros = arrived(name)
				s.entries = append(s.entries, e)
			}
			return true
		})
		if err != nil {
			return err
		}
	}
	slices.SortStableFunc(s.entries, func(a, b entry) int {
		return cmp.Or(cmp.Compare(a.seconds, b.seconds), cmp.Compare(a.micros, b.micros), strings.Compare(a.baseName(), b.baseName()))
	})
	kept := s.entries[:0]
	for _, e := range s.entries {
		if n := len(kept); n > 0 && kept[n-1].baseName() == e.baseName() {
			kept[n-1] = e
			continue
		}
		kept = append(kept, e)
	}
	s.entries = kept
	return nil
}

// measure finds size and uid of each message. What turns out to be no file, or gone, is left out.
func (s *session) measure(ctx context.Context) error {
	s.messages = make([]mailbox.Message, 0, len(s.entries))
	seen := make(map[string]bool, len(s.entries))
	var buf []byte
	kept := s.entries[:0]
	for _, e := range s.entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		base := e.baseName()
		size, ok := sentSize(base)
		if !ok {
			if buf == nil {
				buf = make([]byte, 64<<10)
			}
			var err error
			size, err = s.count(&e, buf)
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, errNoFile) {
				continue
			}
			if err != nil {
				return err
			}
		}
		u := uid(base)
		if seen[u] { // names that differ in their sizes alone
			u = hash(base)
		}
		seen[u] = true
		kept = append(kept, e)
		s.messages = append(s.messages, mailbox.Message{UID: u, Size: size})
	}
	s.entries = kept
	return nil
}

// count reads a message for its size.
func (s *session) count(e *entry, buf []byte) (int64, error) {
	f, err := s.openEntry(e)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	var size mailbox.Size
	for {
		n, err := f.Read(buf)
		_, _ = size.Write(buf[:n])
		if err == io.EOF {
			return size.Octets(), nil
		}
		if err != nil {
			return 0, err
		}
	}
}

// Messages lists the messages; see mailbox.Session.
func (s *session) Messages() []mailbox.Message { return s.messages }

// Body opens a message. One that was moved or marked meanwhile is found under its new name.
func (s *session) Body(i int) (io.ReadCloser, error) {
	f, err := s.openEntry(&s.entries[i])
	if errors.Is(err, fs.ErrNotExist) {
		if err := s.refresh(); err != nil {
			return nil, fmt.Errorf("maildir: %w", err)
		}
		f, err = s.openEntry(&s.entries[i])
	}
	if err != nil {
		return nil, fmt.Errorf("maildir: %w", err)
	}
	return f, nil
}

var errNoFile = errors.New("not a regular file")

func (s *session) dir(e *entry) *durable.Dir {
	if e.cur {
		return s.cur
	}
	return s.new
}

func (s *session) openEntry(e *entry) (*os.File, error) {
	f, err := s.dir(e).Open(e.name, unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, unix.ELOOP) {
		return nil, errNoFile
	}
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = errNoFile
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// refresh finds every message of the session under the name it has now.
func (s *session) refresh() error {
	index := make(map[string]int, len(s.entries))
	for i := range s.entries {
		index[s.entries[i].baseName()] = i
	}
	for _, dir := range []*durable.Dir{s.new, s.cur} {
		err := dir.Names(func(name string) bool {
			if i, ok := index[name[:baseLen(name)]]; ok {
				e := &s.entries[i]
				e.name, e.cur = name, dir == s.cur // the base, and so its length, is the same
			}
			return true
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Remove removes messages, and flushes, so that a power cut does not bring them back. One that is gone already counts as removed.
func (s *session) Remove(indexes []int) error {
	var failed []error
	var missing []int
	for _, i := range indexes {
		e := &s.entries[i]
		err := s.dir(e).Remove(e.name)
		if errors.Is(err, fs.ErrNotExist) {
			missing = append(missing, i)
		} else if err != nil {
			failed = append(failed, err)
		}
	}
	if len(missing) > 0 {
		if err := s.refresh(); err != nil {
			return fmt.Errorf("maildir: %d of %d messages not removed: %w", len(failed)+len(missing), len(indexes), err)
		}
		for _, i := range missing {
			e := &s.entries[i]
			if err := removed(s.dir(e).Remove(e.name)); err != nil {
				failed = append(failed, err)
			}
		}
	}
	if len(failed) > 0 {
		return fmt.Errorf("maildir: %d of %d messages not removed: %w", len(failed), len(indexes), failed[0])
	}
	if len(indexes) == 0 {
		return nil
	}
	if err := errors.Join(s.new.Sync(), s.cur.Sync()); err != nil {
		return fmt.Errorf("maildir: %w", err)
	}
	return nil
}

// Close gives the lock back.
func (s *session) Close() error {
	s.parts.close()
	if s.lock == nil {
		return nil
	}
	return s.lock.Close()
}
