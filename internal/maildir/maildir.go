// Package maildir keeps mail in a Maildir, as maildir(5) and the Maildir++ names ",S=" and ",W=" have it, together with other
// programs that work on it at the same time.
//
// A delivery is on disk before it is reported, and a second try of the same delivery finds the first. Below the Maildir's own
// path no symbolic link is followed. Only the INBOX is served; folders and quota are not here yet.
package maildir

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"sync/atomic"

	"github.com/postel-mail/postel/internal/clock"
	"github.com/postel-mail/postel/internal/durable"
	"github.com/postel-mail/postel/internal/mailbox"
	"github.com/postel-mail/postel/internal/status"
)

// Dir is a Maildir. It may be used by many goroutines, and by many processes at once.
type Dir struct{ path string }

// New names a Maildir by its absolute path; it is made at the first delivery.
func New(path string) *Dir { return &Dir{path} }

// parts are the open directories of a Maildir.
type parts struct{ root, tmp, new, cur *durable.Dir }

// open opens the directories; those that are missing are made. With create the Maildir itself is, too.
func (m *Dir) open(create bool) (p *parts, err error) {
	p = &parts{}
	if create {
		p.root, err = durable.MakeDir(m.path)
	} else {
		p.root, err = durable.OpenDir(m.path + "/.")
	}
	if err != nil {
		return nil, err
	}
	for name, dir := range map[string]**durable.Dir{"tmp": &p.tmp, "new": &p.new, "cur": &p.cur} {
		if *dir, err = p.root.Sub(name, 0o700); err != nil {
			p.close()
			return nil, err
		}
	}
	return p, nil
}

func (p *parts) close() {
	for _, d := range []*durable.Dir{p.root, p.tmp, p.new, p.cur} {
		if d != nil {
			d.Close()
		}
	}
}

// Deliver stores one message; see mailbox.Store.
func (m *Dir) Deliver(ctx context.Context, d mailbox.Delivery) error {
	if err := m.deliver(ctx, d); err != nil {
		err = fmt.Errorf("maildir: %w", err)
		if durable.IsFull(err) {
			return status.Temporary(452, "4.2.2", "Mailbox is full", err)
		}
		return err
	}
	return nil
}

// deliver takes the steps: write tmp/NAME, fsync it, rename it into new/, fsync new/. Before the rename nobody can see the message;
// a power cut behind it, before the report, is what the name is for: the next try of this delivery finds it.
func (m *Dir) deliver(ctx context.Context, d mailbox.Delivery) error {
	p, err := m.open(true)
	if err != nil {
		return err
	}
	defer p.close()
	if d.Arrival.IsZero() {
		d.Arrival = clock.Now()
	}
	if d.ID != "" {
		if done, err := p.delivered(d.ID); done || err != nil {
			return err
		}
	}
	tmp := uniqueName(clock.Now())
	name, err := p.write(ctx, tmp, d)
	if err == nil {
		err = p.tmp.Rename(tmp, p.new, name)
	}
	if err != nil {
		err = errors.Join(err, removed(p.tmp.Remove(tmp)))
		if d.ID != "" && errors.Is(err, fs.ErrExist) { // another try of this delivery was faster
			return p.new.Sync()
		}
		return err
	}
	if err := p.new.Sync(); err != nil { // a flush that failed once is not to be believed when it is repeated
		return errors.Join(err, p.new.Remove(name))
	}
	return nil
}

// removed forgives that a file is gone.
func removed(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// delivered looks for the delivery in new and cur. When it is there its directory is flushed, since the earlier try may have died
// before it did so.
func (p *parts) delivered(id string) (done bool, err error) {
	key := idKey(id)
	for _, dir := range []*durable.Dir{p.new, p.cur} {
		err := dir.Names(func(name string) bool {
			done = done || hasKey(name, key)
			return !done
		})
		if err != nil {
			return false, err
		}
		if done {
			return true, dir.Sync()
		}
	}
	return false, nil
}

// write makes tmp/tmp, flushed, and gives the name under which it is to be published.
func (p *parts) write(ctx context.Context, tmp string, d mailbox.Delivery) (name string, err error) {
	f, err := p.tmp.Create(tmp, 0o600)
	if err != nil {
		return "", err
	}
	defer f.Close()
	c := &counted{ctx: ctx, w: f}
	if err := mailbox.CopyLines(c, io.MultiReader(strings.NewReader(d.Header), d.Body)); err != nil {
		return "", err
	}
	if err := f.Sync(); err != nil {
		return "", err
	}
	base := uniqueName(d.Arrival)
	if d.ID != "" {
		base = deliveryName(d.Arrival, d.ID)
	}
	return fmt.Sprintf("%s,S=%d,W=%d", base, c.size, c.sent.Octets()), f.Close()
}

// counted writes to a file and counts: octets in the file, and octets as sent with CRLF.
type counted struct {
	ctx  context.Context
	w    io.Writer
	size int64
	sent mailbox.Size
}

func (c *counted) Write(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := c.w.Write(p)
	c.size += int64(n)
	_, _ = c.sent.Write(p[:n])
	return n, err
}

var deliveries atomic.Uint64

// random keeps processes apart that have the same number and host name, as in containers that share a Maildir.
func random() uint32 {
	var b [4]byte
	_, _ = rand.Read(b[:]) // never fails
	return binary.BigEndian.Uint32(b[:])
}

// hostName is the host's name as maildir(5) writes it into file names.
func hostName() string {
	host, _ := os.Hostname()
	host = strings.NewReplacer("/", `\057`, ":", `\072`, ",", `\054`).Replace(host)
	if host == "" || len(host) > 64 {
		return "localhost"
	}
	return host
}
