// Package mbox keeps mail in one mbox file, in the form mboxrd: a From_ line in front of each message, an empty line behind it, and
// lines of ">"s and "From " quoted by one more ">". What was stored comes back octet by octet, but that every message ends in a
// line end.
//
// The file is locked as other mail programs lock it, by fcntl and by NAME.lock, both; where its directory may not be written, by fcntl
// alone. A delivery is appended and flushed; when that fails the file is cut back. A power cut may leave the last message torn, never an
// earlier one touched. A delivery that is tried again after a crash is stored twice: an mbox has no place for its name.
//
// The form is written here and not by a library, because a message is never held in memory: github.com/emersion/go-mbox keeps every
// line whole, in time that grows with its square, and its form (mboxo) does not give back what was stored. It reads our files in the tests.
package mbox

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postel-mail/postel/internal/clock"
	"github.com/postel-mail/postel/internal/durable"
	"github.com/postel-mail/postel/internal/mailbox"
	"github.com/postel-mail/postel/internal/status"
)

// File is an mbox file. It may be used by many goroutines, and by many processes at once.
type File struct {
	path     string
	patience time.Duration // how long a lock is waited for
}

// New names an mbox by its absolute path; it is made at the first delivery, mode 0600.
func New(path string) *File { return &File{path: path, patience: 30 * time.Second} }

// Deliver stores one message; see mailbox.Store. The file stays locked while d.Body is read.
func (m *File) Deliver(ctx context.Context, d mailbox.Delivery) error {
	err := m.deliver(ctx, d)
	if err == nil {
		return nil
	}
	err = fmt.Errorf("mbox: %w", err)
	switch {
	case durable.IsFull(err):
		return status.Temporary(452, "4.2.2", "Mailbox is full", err)
	case errors.Is(err, durable.ErrLocked):
		return status.Temporary(451, "4.2.0", "Mailbox is locked", err)
	}
	return err
}

func (m *File) deliver(ctx context.Context, d mailbox.Delivery) error {
	l, err := m.lock(ctx, true)
	if err != nil {
		return err
	}
	defer l.close()
	size, missing, err := l.tail()
	if err != nil {
		return err
	}
	err = l.append(ctx, missing, d)
	if err == nil {
		err = l.f.Sync()
	}
	if err == nil && size == 0 { // perhaps made just now
		err = l.dir.Sync()
	}
	if err != nil {
		return errors.Join(err, l.f.Truncate(size), l.f.Sync())
	}
	return nil
}

// append writes a message at the end of the file, behind the line ends that are missing there.
func (l *locked) append(ctx context.Context, missing string, d mailbox.Delivery) error {
	w := bufio.NewWriterSize(&patient{ctx, l.f}, 64<<10)
	arrival := d.Arrival
	if arrival.IsZero() {
		arrival = clock.Now()
	}
	fmt.Fprintf(w, "%sFrom %s %s\n", missing, fromSender(d.Sender), arrival.UTC().Format(time.ANSIC))
	q := &quotingWriter{w: w}
	if err := mailbox.CopyLines(q, io.MultiReader(strings.NewReader(d.Header), d.Body)); err != nil {
		return err
	}
	if err := w.WriteByte('\n'); err != nil {
		return err
	}
	return w.Flush()
}

// patient is a file that is written until its context ends.
type patient struct {
	ctx context.Context
	f   *os.File
}

func (p *patient) Write(b []byte) (int, error) {
	if err := p.ctx.Err(); err != nil {
		return 0, err
	}
	return p.f.Write(b)
}

type quotingWriter struct {
	w   io.Writer
	q   quoting
	buf []byte
}

// Write quotes p; the whole message has been written when its last octet was a line end.
func (q *quotingWriter) Write(p []byte) (int, error) {
	q.buf = q.q.append(q.buf[:0], p)
	if _, err := q.w.Write(q.buf); err != nil {
		return 0, err
	}
	return len(p), nil
}

// fromSender writes a sender as it can stand in the From_ line: one word, never empty.
func fromSender(sender string) string {
	if sender == "" {
		return "MAILER-DAEMON"
	}
	return strings.Map(func(r rune) rune {
		if r <= ' ' || r == 0x7f {
			return '-'
		}
		return r
	}, sender[:min(len(sender), 320)])
}

// locked is the mbox file while both locks are held.
type locked struct {
	dir    *durable.Dir
	name   string
	f      *os.File // opened for appending
	unlock func() error
}

// lock opens the file and takes both locks, or gives up with durable.ErrLocked. With create it is made where it is missing.
func (m *File) lock(ctx context.Context, create bool) (l *locked, err error) {
	l = &locked{name: filepath.Base(m.path)}
	if create {
		l.dir, err = durable.MakeDir(filepath.Dir(m.path))
	} else {
		l.dir, err = durable.OpenDir(filepath.Dir(m.path) + "/.")
	}
	if err != nil {
		return nil, err
	}
	end := clock.Now().Add(m.patience)
	err = l.try(create)
	for wait := 5 * time.Millisecond; errors.Is(err, durable.ErrLocked) && clock.Now().Before(end); wait = min(2*wait, 250*time.Millisecond) {
		if e := sleep(ctx, wait); e != nil {
			err = errors.Join(err, e)
			break
		}
		err = l.try(create)
	}
	if err != nil {
		l.dir.Close()
		return nil, fmt.Errorf("%s: %w", m.path, err)
	}
	return l, nil
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// try takes the locks if it can at once: fcntl, then NAME.lock. Then it makes sure that the file still has its name: while it was
// waited for, a session may have put a new one in its place.
func (l *locked) try(create bool) (err error) {
	const flags = unix.O_RDWR | unix.O_APPEND | unix.O_NONBLOCK
	l.f, err = l.dir.Open(l.name, flags, 0)
	if create && errors.Is(err, fs.ErrNotExist) {
		if l.f, err = l.dir.Open(l.name, flags|unix.O_CREAT|unix.O_EXCL, 0o600); errors.Is(err, fs.ErrExist) {
			return durable.ErrLocked // made by another just now
		}
	}
	if err != nil {
		return err
	}
	l.unlock = func() error { return nil }
	if err = l.verify(); err == nil {
		err = durable.TryLock(l.f)
	}
	if err == nil {
		unlock, e := l.dir.DotLock(l.name)
		switch {
		case e == nil:
			l.unlock = unlock
		case !errors.Is(e, fs.ErrPermission) && !errors.Is(e, unix.EROFS):
			err = e
		}
	}
	if err == nil {
		err = l.verify()
	}
	if err != nil {
		l.release()
		l.f.Close()
	}
	return err
}

// verify holds the open file against what an mbox must be.
func (l *locked) verify() error {
	var f, named unix.Stat_t
	if err := unix.Fstat(int(l.f.Fd()), &f); err != nil {
		return err
	}
	err := unix.Fstatat(l.dir.Fd(), l.name, &named, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) || err == nil && (named.Ino != f.Ino || named.Dev != f.Dev) {
		return durable.ErrLocked // try again with the new file
	}
	switch {
	case err != nil:
		return err
	case f.Mode&unix.S_IFMT != unix.S_IFREG:
		return errors.New("not a regular file")
	case f.Nlink != 1:
		return errors.New("has more than one name (hard links)")
	case int(f.Uid) != os.Geteuid():
		return fmt.Errorf("belongs to user %d, not to %d", f.Uid, os.Geteuid())
	}
	return nil
}

// release gives both locks back and leaves the file open.
func (l *locked) release() {
	_ = l.unlock() // a lock file that cannot be removed is stale once this process has ended
	_ = durable.Unlock(l.f)
}

func (l *locked) close() {
	l.release()
	l.f.Close()
	l.dir.Close()
}

var errNotMbox = errors.New("is not an mbox: it does not begin with a From_ line")

// tail gives the size of the file and what is missing at its end, so that a From_ line can follow: an empty line.
func (l *locked) tail() (size int64, missing string, err error) {
	st, err := l.f.Stat()
	if err != nil || st.Size() == 0 {
		return 0, "", err
	}
	size = st.Size()
	var head [len(fromWord)]byte
	if _, err := l.f.ReadAt(head[:], 0); err != nil && err != io.EOF {
		return 0, "", err
	}
	if string(head[:]) != fromWord {
		return 0, "", fmt.Errorf("%s/%s %w", l.dir.Path(), l.name, errNotMbox)
	}
	var end [2]byte
	if _, err := l.f.ReadAt(end[:], size-2); err != nil {
		return 0, "", err
	}
	switch {
	case end == [2]byte{'\n', '\n'}:
		return size, "", nil
	case end[1] == '\n':
		return size, "\n", nil
	}
	return size, "\n\n", nil
}
