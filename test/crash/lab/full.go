package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/postel-mail/postel/internal/clock"
	"github.com/postel-mail/postel/test/sink"
)

// shortage is a disk that is too small.
type shortage struct {
	name    string
	options string // of a tmpfs
	minFree string
	size    int // of a letter
	least   int // letters that have to be taken before the first is refused; 0: none is
}

var shortages = []shortage{
	{"no space", "size=1m", "0B", 60_000, 10},
	{"no inodes", "size=8m,nr_inodes=24", "0B", 500, 4},
	{"less than min_free", "size=8m", "64MiB", 500, 0},
}

// full tries disks that fill up: what does not fit is refused for now, the queue still empties, and then mail comes in again.
func (m *machine) full(*plan) error {
	for _, s := range shortages {
		began := clock.Now()
		if err := unix.Mount("tmpfs", m.path("disk"), "tmpfs", 0, s.options); err != nil {
			return fmt.Errorf("mount tmpfs: %w", err)
		}
		taken, err := m.fill(s)
		if err = errors.Join(err, m.unmount()); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		fmt.Printf("%-17s %s: %d letters taken, the next refused with 452 and 75, all delivered, mail taken again; %.1f s\n",
			m.kind.name, s.name, taken, clock.Since(began).Seconds())
	}
	return nil
}

// fill sends letters until one is refused, then lets the runner empty the queue, whose next hop says "later" to each letter once.
func (m *machine) fill(s shortage) (taken int, err error) {
	hop := sink.New()
	hop.Keep = true
	defer hop.Close()
	next, err := hop.Listen("127.0.0.1:0", "rcpt first=1 450 4.2.0 Later")
	if err != nil {
		return 0, err
	}
	config, err := m.configure("working", m.disk("spool"), next, s.minFree)
	if err != nil {
		return 0, err
	}
	if err := m.must(program{config: config, args: []string{"qmgr", "--once"}}); err != nil { // it has run here before, and has its lock
		return 0, err
	}
	address, server, err := m.smtpd(config)
	if err != nil {
		return 0, err
	}
	defer func() {
		_, e := server.stop()
		err = errors.Join(err, e)
	}()
	var letters []letter
	for refused := false; !refused; {
		l := newLetter(len(letters), relay, s.size)
		if refused, err = m.offer(address, l); err != nil {
			return taken, err
		}
		if !refused {
			letters = append(letters, l)
		}
		if len(letters) > 500 {
			return taken, errors.New("never full")
		}
	}
	if len(letters) < s.least || s.least == 0 && len(letters) > 0 {
		return taken, fmt.Errorf("%d letters were taken", len(letters))
	}
	l := newLetter(900, relay, s.size)
	if status, out, err := m.run(program{config: config, stdin: l.text(), args: append([]string{"sendmail", "-f", sender}, l.rcpts()...)}); err != nil || status != 75 {
		return taken, fmt.Errorf("sendmail exits %d (%v): %s", status, err, out)
	}
	if s.least == 0 { // nothing is queued, and nothing will be
		return 0, nil
	}
	if err := m.cram(); err != nil {
		return taken, err
	}
	runner, err := m.daemon(config, "qmgr")
	if err != nil {
		return taken, err
	}
	err = m.await(hop, len(letters))
	if err == nil {
		err = os.RemoveAll(m.disk("crammed")) // as much as a person would give back
	}
	if err == nil {
		l = newLetter(901, relay, s.size)
		letters = append(letters, l)
		var refused bool
		if refused, err = m.offer(address, l); refused {
			err = errors.Join(err, errors.New("refuses mail though there is room"))
		}
	}
	if err == nil {
		err = m.await(hop, len(letters))
	}
	log, err2 := runner.stop()
	if err = errors.Join(err, err2); err != nil {
		return taken, fmt.Errorf("%w\n%s", err, log)
	}
	return len(letters) - 1, once(letters, hop.Messages())
}

// cram takes all that is left of the disk, files and space.
func (m *machine) cram() error {
	if err := os.Mkdir(m.disk("crammed"), 0o700); err != nil {
		if errors.Is(err, unix.ENOSPC) {
			return nil
		}
		return err
	}
	for n := range 1000 {
		f, err := os.Create(m.disk(fmt.Sprintf("crammed/%d", n)))
		if errors.Is(err, unix.ENOSPC) {
			return nil
		} else if err != nil {
			return err
		}
		_, err = f.Write(make([]byte, 1<<20))
		f.Close()
		if errors.Is(err, unix.ENOSPC) {
			return nil
		} else if err != nil {
			return err
		}
	}
	return errors.New("the disk does not fill up")
}

// offer sends a letter, and reports whether it was refused because of the disk; any other refusal is an error.
func (m *machine) offer(address string, l letter) (refused bool, err error) {
	answer, err := m.sendAlone(address, l)
	switch {
	case err != nil:
		return false, err
	case strings.HasPrefix(answer, "452 4.3.1 "):
		return true, nil
	case answer[0] != '2':
		return true, fmt.Errorf("answers %q", answer)
	}
	return false, nil
}

// await waits until n letters have come.
func (m *machine) await(hop *sink.Sink, n int) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*limit)
	defer cancel()
	if err := hop.Await(ctx, "message", n); err != nil {
		return fmt.Errorf("the queue does not empty: %d letters of %d in %v", hop.Count("message"), n, 2*limit)
	}
	return nil
}

// once asks that each letter came once and whole, and nothing else.
func once(letters []letter, came []sink.Message) (err error) {
	times := map[letter]int{}
	for _, message := range came {
		l, whole := identify([]byte(message.Text))
		if times[l]++; !whole {
			err = errors.Join(err, fmt.Errorf("half a message: %q", l))
		}
	}
	for _, l := range letters {
		if times[l] != 1 {
			err = errors.Join(err, fmt.Errorf("%s came %d times", l, times[l]))
		}
	}
	if len(times) != len(letters) {
		err = errors.Join(err, fmt.Errorf("%d letters came of %d", len(times), len(letters)))
	}
	return err
}
