package queue

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postel-mail/postel/internal/address"
	"github.com/postel-mail/postel/internal/clock"
	"github.com/postel-mail/postel/internal/durable"
)

// waitName is the folder of those who wait to hear what becomes of their messages: each has a FIFO there, which the envelope names (Wait). Everybody may
// make one, as in drop/, and nobody sees the names of others. The runner writes to one only when it belongs to who submitted the message, and never waits
// for its reader; nothing of this is durable, or has a part in what becomes of the message.
const waitName = "wait"

// News is what is known of one recipient.
type News struct {
	To address.Path
	Outcome
}

// Waiter hears what becomes of one message.
type Waiter struct {
	Rcpts []News // one for each recipient, as the queue has them; nil until a runner has claimed the message

	dir  *durable.Dir
	name string
	fifo *os.File
}

const (
	pipeBuf    = 4096    // PIPE_BUF: what is not longer is written whole or not at all
	pipeSize   = 1 << 20 // octets, for the news of some thousand recipients; what pipe(7) lets everybody have
	maxWaiting = 1 << 17 // recipients
)

// NewWaiter makes a FIFO in the spool at path. The envelope has to name it, by Name, and be that of this process's user.
func NewWaiter(path string) (w *Waiter, err error) {
	w = &Waiter{}
	if w.dir, err = durable.EnterDir(path + "/" + waitName); err != nil {
		return nil, err
	}
	var name [32]byte // so much chance that nobody else finds it
	if _, err = unix.Getrandom(name[:], 0); err == nil {
		for i := range name {
			name[i] = alphabet[name[i]%32]
		}
		err = unix.Mknodat(w.dir.Fd(), string(name[:]), unix.S_IFIFO|0o600, 0)
	}
	if err != nil {
		err = &os.PathError{Op: "mkfifo", Path: w.dir.Path(), Err: err}
		return nil, errors.Join(err, w.dir.Close())
	}
	w.name = string(name[:])
	w.fifo, err = w.dir.Open(w.name, unix.O_RDWR|unix.O_NONBLOCK, 0) // for writing too, so that it never ends
	if err == nil {
		_, _ = unix.FcntlInt(w.fifo.Fd(), unix.F_SETPIPE_SZ, pipeSize) // else what is lost then is heard as no news
		err = w.fifo.Chmod(0o622)                                      // the runner is another user
	}
	if err != nil {
		w.Close()
		return nil, err
	}
	return w, nil
}

// Name is for the envelope.
func (w *Waiter) Name() string { return w.name }

// Close gives up waiting.
func (w *Waiter) Close() {
	if w.fifo != nil {
		w.fifo.Close()
	}
	_ = w.dir.Remove(w.name) // else Clean does
	_ = w.dir.Close()
}

// Wait returns when all recipients are known, or with the error of ctx when that ends first.
func (w *Waiter) Wait(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = w.fifo.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	r := bufio.NewReaderSize(w.fifo, 2*pipeBuf)
	for !w.complete() {
		line, err := r.ReadSlice('\n')
		if err == nil {
			w.hear(string(line[:len(line)-1]))
		} else if ctx.Err() != nil {
			return ctx.Err()
		} else if err != bufio.ErrBufferFull { // from whom, if not the runner?
			return err
		}
	}
	return nil
}

func (w *Waiter) complete() bool {
	for i := range w.Rcpts {
		if !w.Rcpts[i].known() {
			return false
		}
	}
	return w.Rcpts != nil
}

// hear reads a line of Announce. What makes no sense is passed over.
func (w *Waiter) hear(line string) {
	count, line, some := strings.Cut(line, " ")
	n, err := strconv.Atoi(count)
	if err != nil || n < 1 || n > maxWaiting || w.Rcpts != nil && n != len(w.Rcpts) {
		return
	}
	if w.Rcpts == nil {
		w.Rcpts = make([]News, n)
	}
	if !some {
		return
	}
	to, line, err := address.ParseForward(line)
	if err != nil {
		return
	}
	if i, o, err := parseOutcome(strings.TrimPrefix(line, " "), n); err == nil {
		w.Rcpts[i] = News{To: to, Outcome: o}
	}
}

// Announce tells who waits for the message's outcome, if anybody does, what is known of each recipient by now: first a line with their number, so that it is
// clear that a runner has the message, then one for each that was tried. It never waits, and who does not listen has not heard it.
func (m *Message) Announce() {
	if m.Envelope.Wait == "" {
		return
	}
	f, err := m.spool.openWait(m.Envelope.Wait, m.Envelope.UID)
	if err != nil {
		return // gone, or nobody listens
	}
	defer f.Close()
	line := fmt.Appendf(nil, "%d\n", len(m.Envelope.Rcpts))
	_, err = unix.Write(int(f.Fd()), line)
	for i := 0; i < len(m.State.Rcpts) && err == nil; i++ { // EAGAIN: the reader sleeps
		if m.State.Rcpts[i].known() {
			line = m.news(line, i)
			_, err = unix.Write(int(f.Fd()), line)
		}
	}
}

// news writes the line about a recipient into b: the number of all, its address, and its line of the state.
func (m *Message) news(b []byte, i int) []byte {
	o := m.State.Rcpts[i]
	for {
		b = fmt.Appendf(b[:0], "%d %s ", len(m.Envelope.Rcpts), m.Envelope.Rcpts[i].To.Angle())
		if b = o.appendText(b, i); len(b) <= pipeBuf || o.Relay == "" {
			return b
		}
		o.Relay = "" // all else together is shorter
	}
}

// openWait opens the FIFO of a user who waits, if that is what the name stands for.
func (s *Spool) openWait(name string, uid int) (*os.File, error) {
	d, err := durable.EnterDir(s.dir.Path() + "/" + waitName)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	f, err := d.Open(name, unix.O_WRONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err = unix.Fstat(int(f.Fd()), &st); err == nil && (st.Mode&unix.S_IFMT != unix.S_IFIFO || int(st.Uid) != uid) {
		err = errors.New("another's")
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// cleanWait removes what is older than an hour and is not the FIFO of somebody who waits. Directories stay, as they can hold things.
func (s *Spool) cleanWait() error {
	d, err := durable.OpenDir(s.dir.Path() + "/" + waitName)
	if errors.Is(err, fs.ErrNotExist) { // a spool that is going away
		return nil
	}
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Names(func(name string) bool {
		var st unix.Stat_t
		if unix.Fstatat(d.Fd(), name, &st, unix.AT_SYMLINK_NOFOLLOW) != nil || clock.Now().Unix()-st.Ctim.Sec <= int64(time.Hour/time.Second) {
			return true
		}
		if st.Mode&unix.S_IFMT == unix.S_IFIFO {
			if f, err := d.Open(name, unix.O_WRONLY|unix.O_NONBLOCK, 0); err == nil { // it has a reader
				f.Close()
				return true
			}
		}
		_ = d.Remove(name) // it is another's, and may go away or be a directory
		return true
	})
}
