package drop

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime/debug"

	"golang.org/x/sys/unix"

	"github.com/postel-mail/postel/internal/clock"
	"github.com/postel-mail/postel/internal/durable"
	"github.com/postel-mail/postel/internal/envelope"
	"github.com/postel-mail/postel/internal/maillog"
	"github.com/postel-mail/postel/internal/queue"
	"github.com/postel-mail/postel/internal/status"
	"github.com/postel-mail/postel/internal/submission"
	"github.com/postel-mail/postel/internal/sysexits"
)

// maxLine is how long a line of an envelope may be, in octets; see package envelope.
const maxLine = 2048

// What is wrong with a file decides what becomes of it. Any other error is one of this host, and the file waits.
type (
	// junkError is a file that is no message; it is removed when it is an hour old.
	junkError struct{ text string }
	// badError is a whole message that cannot be accepted, or one that was damaged; it goes to corrupt/.
	badError struct{ err error }
)

func (e *junkError) Error() string { return e.text }
func (e *badError) Error() string  { return e.err.Error() }

// errBusy says that the file is being written, or that its owner keeps it from being opened.
var errBusy = errors.New("in use")

// take takes in one file, if it can be, and puts it out of the way if it never can. It is false where this host has failed.
func (c *Collector) take(name string) bool {
	var st unix.Stat_t
	err := c.try(name, &st)
	var junk *junkError
	var bad *badError
	switch {
	case errors.As(err, &bad):
		if err = c.Spool.Condemn(c.dir, name); err == nil {
			c.Log.Corrupt(name, fmt.Errorf("from drop/, of user %d: %w", st.Uid, bad.err))
		}
	case errors.As(err, &junk):
		if clock.Now().Unix()-st.Ctim.Sec <= int64(tooOld.Seconds()) {
			return true
		}
		if err = c.discard(name, st.Mode); err == nil {
			c.Log.Discarded(name, int(st.Uid), junk.text)
		}
	case errors.Is(err, queue.ErrVersion):
		c.problem(name, err)
		return true
	}
	if err == nil || errors.Is(err, fs.ErrNotExist) || errors.Is(err, errBusy) {
		return true
	}
	a := c.account(payer(&st)) // the user cannot help it
	a.messages = max(0, a.messages-1)
	a.octets = max(0, a.octets-st.Size)
	c.problem(name, err)
	return false
}

// discard removes a file, or a directory that is empty. What is in a directory is not touched, and it costs no more than its name.
func (c *Collector) discard(name string, mode uint32) error {
	if mode&unix.S_IFMT != unix.S_IFDIR {
		return c.dir.Remove(name)
	}
	err := unix.Unlinkat(c.dir.Fd(), name, unix.AT_REMOVEDIR)
	if errors.Is(err, unix.ENOTEMPTY) {
		return errBusy
	}
	return err
}

// try takes in one file, and tells what it is. A bug that it brings to light costs the file, not the runner.
func (c *Collector) try(name string, st *unix.Stat_t) (err error) {
	defer func() {
		if v := recover(); v != nil {
			c.Log.Panic("local", v, debug.Stack())
			err = &badError{errors.New("it makes a program fail")}
		}
	}()
	f, err := c.openFile(name, st)
	if err != nil {
		return err
	}
	defer f.Close()
	has, uid, err := c.Spool.Has(name)
	switch {
	case err != nil:
		return err
	case has && uid == int(st.Uid): // a crash came between
		return c.dir.Remove(name)
	case has:
		return &badError{errors.New("its id is that of another message in the queue")}
	}
	c.account(payer(st)).octets += st.Size
	rules := c.Rules()
	maxEnvelope := int64(rules.MaxRecipients+100) * maxLine
	if st.Size > rules.MaxSize+maxEnvelope {
		return &badError{fmt.Errorf("has %d octets", st.Size)}
	}
	e, body, err := queue.ReadFile(f, st.Size, maxEnvelope)
	if err != nil {
		return judge(err)
	}
	rules.UID, rules.Trace = int(st.Uid), true
	if err := rules.SetEnvelope(e); err != nil {
		return &badError{err}
	}
	m, err := rules.Read(body)
	if err != nil {
		return judge(err)
	}
	defer m.Close()
	receipt, err := submission.Send(m, func(e *envelope.Envelope) (*queue.Writer, error) {
		return c.Spool.TakeOver(name, e, func() error { return c.dir.Remove(name) })
	})
	if err != nil {
		return judge(err)
	}
	c.Log.Accepted(maillog.Accepted{ID: receipt.ID, From: m.Sender, Size: receipt.Size, NRcpt: receipt.NRcpt, Client: "local", Proto: "local", UID: m.UID})
	return nil
}

// openFile opens and locks a file that may be a message. It is looked at before it is opened for reading, and opened without its name, so that nobody
// can put something else in its place in between: a device, say, for which the opening alone may mean something.
func (c *Collector) openFile(name string, st *unix.Stat_t) (*os.File, error) {
	p, err := c.dir.Open(name, unix.O_PATH, 0)
	if err != nil {
		return nil, err
	}
	defer p.Close()
	if err := unix.Fstat(int(p.Fd()), st); err != nil {
		return nil, err
	}
	c.account(payer(st)).messages++
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return nil, &junkError{"not a regular file"}
	case st.Nlink != 1:
		return nil, &junkError{fmt.Sprintf("a file with %d names", st.Nlink)}
	case !queue.ValidID(name):
		return nil, &junkError{"not named like a message"}
	}
	f, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", p.Fd()), unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, unix.EWOULDBLOCK) { // a lease, fcntl(2)
		return nil, errBusy
	}
	if errors.Is(err, fs.ErrPermission) {
		return nil, fmt.Errorf("files of user %d cannot be read: the runner has to be root, or of a group that the folder hands on (postel-queue(5))", st.Uid)
	}
	if err != nil {
		return nil, err
	}
	err = durable.TryFlock(f)
	if errors.Is(err, durable.ErrLocked) {
		err = errBusy
	}
	if err == nil {
		err = unix.Fstat(int(f.Fd()), st) // it may have grown until it could be locked
	}
	if err == nil && st.Nlink != 1 {
		err = errBusy // removed or linked meanwhile
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// judge tells a message that is at fault from a host that is.
func judge(err error) error {
	var disk *fs.PathError
	var torn *queue.CorruptError
	switch {
	case errors.As(err, &disk) || errors.Is(err, queue.ErrVersion):
		return err
	case errors.Is(err, queue.ErrUnfinished):
		return &junkError{"a message that was not written to its end"}
	case errors.As(err, &torn):
		return &badError{torn.Err}
	}
	if s := (*status.Error)(nil); errors.As(err, &s) && !s.Temporary() || sysexits.Of(err) == sysexits.DataErr {
		return &badError{err}
	}
	return err
}
