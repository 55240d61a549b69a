package mbox

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/postel-mail/postel/internal/durable"
	"github.com/postel-mail/postel/internal/mailbox"
)

// session is what was in the file when it began. It holds no mbox lock while it lasts, so that mail can be delivered, but the flock(2)
// lock of the file, which tells sessions apart; on Linux nobody who delivers looks at that one. A crash releases it.
type session struct {
	mbox     *File
	f        *os.File
	items    []item
	messages []mailbox.Message
}

// Open reads what is in the file; see mailbox.Store. A message's UID is made from its From_ line, header and the beginning of its
// body, so it stays when others are removed and when a mail program notes what was read; of messages that are equal in all
// of that the second is called UID.2, and so on.
func (m *File) Open(ctx context.Context) (mailbox.Session, error) {
	l, err := m.lock(ctx, false)
	if errors.Is(err, fs.ErrNotExist) {
		return &session{mbox: m}, nil
	}
	if errors.Is(err, durable.ErrLocked) {
		return nil, mailbox.ErrInUse
	}
	if err != nil {
		return nil, fmt.Errorf("mbox: %w", err)
	}
	defer l.dir.Close()
	defer l.release()
	s := &session{mbox: m, f: l.f}
	if err := s.read(ctx); err != nil {
		l.f.Close()
		if errors.Is(err, durable.ErrLocked) {
			return nil, mailbox.ErrInUse
		}
		return nil, fmt.Errorf("mbox: %s: %w", m.path, err)
	}
	return s, nil
}

func (s *session) read(ctx context.Context) error {
	if err := durable.TryFlock(s.f); err != nil {
		return err
	}
	items, err := scanFile(ctx, s.f)
	s.items = items
	s.messages = make([]mailbox.Message, len(items))
	for i, item := range items {
		s.messages[i] = mailbox.Message{UID: item.uid, Size: item.size}
	}
	return err
}

// scanFile scans the file as long as it is now.
func scanFile(ctx context.Context, f *os.File) ([]item, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	return scan(ctx, io.NewSectionReader(f, 0, st.Size()))
}

// Messages lists the messages in the order of the file; see mailbox.Session.
func (s *session) Messages() []mailbox.Message { return s.messages }

var errChanged = errors.New("was changed by another program")

// Body opens a message. It fails when another program has written over it since the session began.
func (s *session) Body(i int) (io.ReadCloser, error) {
	item := s.items[i]
	sum := crc32.NewIEEE()
	if _, err := io.Copy(sum, io.NewSectionReader(s.f, item.from, min(item.next-item.from, sumSpan))); err != nil {
		return nil, fmt.Errorf("mbox: %w", err)
	}
	if sum.Sum32() != item.sum {
		return nil, fmt.Errorf("mbox: %s %w", s.mbox.path, errChanged)
	}
	size := item.end - item.start
	return &body{r: io.NewSectionReader(s.f, item.start, size), left: size, q: quoting{out: true}}, nil
}

// body reads a message and unquotes it.
type body struct {
	r        io.Reader
	left     int64 // octets of r
	q        quoting
	in, text []byte // text: unquoted and not yet read
	rest     []byte // of text
}

func (b *body) Read(p []byte) (int, error) {
	if b.in == nil {
		b.in = make([]byte, 32<<10)
	}
	for len(b.rest) == 0 {
		if b.left == 0 {
			if b.q.matched == 0 && !b.q.held {
				return 0, io.EOF
			}
			b.rest = b.q.flush(nil)
			break
		}
		n, err := b.r.Read(b.in)
		b.left -= int64(n)
		if err == io.EOF && b.left > 0 {
			err = io.ErrUnexpectedEOF
		}
		if err != nil && err != io.EOF {
			return 0, err
		}
		b.text = b.q.append(b.text[:0], b.in[:n])
		b.rest = b.text
	}
	n := copy(p, b.rest)
	b.rest = b.rest[n:]
	return n, nil
}

// Close does nothing: the file is the session's.
func (b *body) Close() error { return nil }

// Remove writes what is left to a new file, flushes it and puts it in the place of the old one, under both locks: after a crash
// either is there, whole, with the mail that arrived meanwhile. That is why the directory must be writable, and it suits every program that
// takes NAME.lock before it opens the file, or looks after locking whether the file still has its name, as Postfix, Exim, procmail
// and Dovecot do. All messages are removed, or none.
func (s *session) Remove(indexes []int) error {
	if len(indexes) == 0 {
		return nil
	}
	doomed := make(map[string]bool, len(indexes))
	for _, i := range indexes {
		doomed[s.items[i].uid] = true
	}
	if err := s.remove(doomed); err != nil {
		return fmt.Errorf("mbox: %d of %d messages not removed: %w", len(indexes), len(indexes), err)
	}
	return nil
}

func (s *session) remove(doomed map[string]bool) error {
	ctx := context.Background() // once begun it is finished
	l, err := s.mbox.lock(ctx, false)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // all of them are gone already
	}
	if err != nil {
		return err
	}
	defer l.close()
	items, err := scanFile(ctx, l.f)
	if err != nil {
		return err
	}
	tmp := "." + l.name + ".postel" // under the locks it is ours
	if err := l.dir.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	err = l.rewrite(tmp, items, doomed)
	if err == nil {
		err = l.dir.Replace(tmp, l.dir, l.name)
	}
	if err != nil {
		if e := l.dir.Remove(tmp); !errors.Is(e, fs.ErrNotExist) {
			err = errors.Join(err, e)
		}
		return err
	}
	return l.dir.Sync()
}

// rewrite writes the messages that are not doomed to a new file, flushed, with owner and mode of the old one.
func (l *locked) rewrite(tmp string, items []item, doomed map[string]bool) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(l.f.Fd()), &st); err != nil {
		return err
	}
	f, err := l.dir.Create(tmp, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	for i := 0; i < len(items); i++ {
		if doomed[items[i].uid] {
			continue
		}
		first := i
		for i+1 < len(items) && !doomed[items[i+1].uid] {
			i++
		}
		from, size := items[first].from, items[i].next-items[first].from
		n, err := io.Copy(f, io.NewSectionReader(l.f, from, size))
		if err == nil && n != size {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return err
		}
	}
	return errors.Join(unix.Fchown(int(f.Fd()), -1, int(st.Gid)), f.Chmod(os.FileMode(st.Mode&0o777)), f.Sync(), f.Close())
}

// Close gives the lock back.
func (s *session) Close() error {
	if s.f == nil {
		return nil
	}
	return s.f.Close()
}
