package drop

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Watch takes in each message as soon as it is left, until ctx ends. Without it messages wait for Collect. Its error says why the folder cannot be
// watched.
func (c *Collector) Watch(ctx context.Context) error {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return unwatched(os.NewSyscallError("inotify_init", err))
	}
	f := os.NewFile(uintptr(fd), "inotify")
	defer f.Close()
	defer context.AfterFunc(ctx, func() { _ = f.Close() })()
	buf := make([]byte, 64<<10)
	spool := 0 // the descriptor of its watch
	for lost := true; ; {
		if lost { // what was left before the folder was watched, or while more came than can be told
			if spool, err = c.watch(fd); err != nil {
				return unwatched(err)
			}
			if err := c.Collect(ctx); err != nil {
				return unwatched(err)
			}
		}
		n, err := f.Read(buf)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return unwatched(err)
		}
		var names []string
		names, lost = events(buf[:n], int32(spool))
		c.mu.Lock()
		c.takeTurns(ctx, names)
		c.mu.Unlock()
	}
}

func unwatched(err error) error {
	return fmt.Errorf("drop: cannot be watched, what is left there waits for the next look at the queue: %w", err)
}

// watch asks for the events of files that were written to their end, and of a new folder: who has taken the old one away cannot be heard while it is open.
func (c *Collector) watch(fd int) (spool int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.open(); err != nil {
		return 0, err
	}
	_, err = unix.InotifyAddWatch(fd, fmt.Sprintf("/proc/self/fd/%d", c.dir.Fd()), unix.IN_CLOSE_WRITE|unix.IN_MOVED_TO|unix.IN_ONLYDIR)
	if err == nil {
		spool, err = unix.InotifyAddWatch(fd, filepath.Dir(c.dir.Path()), unix.IN_CREATE|unix.IN_MOVED_TO|unix.IN_ONLYDIR)
	}
	return spool, os.NewSyscallError("inotify_add_watch", err)
}

// events reads the names out of what inotify(7) tells of the folder, each once. lost says that there was more than the kernel could keep, or that there
// is another folder.
func events(b []byte, spool int32) (names []string, lost bool) {
	seen := map[string]bool{}
	for len(b) >= unix.SizeofInotifyEvent {
		watch, mask := int32(binary.NativeEndian.Uint32(b)), binary.NativeEndian.Uint32(b[4:])
		size := min(int(binary.NativeEndian.Uint32(b[12:])), len(b)-unix.SizeofInotifyEvent)
		text, _, _ := bytes.Cut(b[unix.SizeofInotifyEvent:][:size], []byte{0})
		b = b[unix.SizeofInotifyEvent+size:]
		name := string(text)
		switch {
		case mask&unix.IN_Q_OVERFLOW != 0:
			lost = true
		case watch == spool:
			lost = lost || mask&unix.IN_ISDIR != 0
		case name != "" && !seen[name]:
			seen[name] = true
			names = append(names, name)
		}
	}
	return names, lost
}
