package durable

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postel-mail/postel/internal/clock"
)

// ErrLocked says that another process, or another descriptor of this one, has the lock.
var ErrLocked = errors.New("locked by another")

// TryLock takes an exclusive lock on the whole of f, or fails with ErrLocked. It is an open-file-description lock: it excludes the
// POSIX locks of other programs, is not lost when another descriptor of the file is closed, and a crash releases it.
func TryLock(f *os.File) error {
	lock := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart}
	err := retry(func() error { return unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &lock) })
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
		return ErrLocked
	}
	if err != nil {
		return &fs.PathError{Op: "lock", Path: f.Name(), Err: err}
	}
	return nil
}

// Unlock gives back the lock of TryLock; closing f does so too.
func Unlock(f *os.File) error {
	lock := unix.Flock_t{Type: unix.F_UNLCK, Whence: io.SeekStart}
	if err := retry(func() error { return unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &lock) }); err != nil {
		return &fs.PathError{Op: "unlock", Path: f.Name(), Err: err}
	}
	return nil
}

// TryFlock takes the flock(2) lock of f, shared by all descriptors that were duplicated from it, or fails with ErrLocked.
func TryFlock(f *os.File) error {
	err := flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB, "flock", f.Name())
	if errors.Is(err, unix.EAGAIN) {
		return ErrLocked
	}
	return err
}

// Flock is TryFlock for who knows that another holds the lock for a moment at most: it waits.
func Flock(f *os.File) error {
	return flock(int(f.Fd()), unix.LOCK_EX, "flock", f.Name())
}

// Unflock gives back the lock of TryFlock; closing the last descriptor does so too, but a moment after it tells inotify(7).
func Unflock(f *os.File) error {
	return flock(int(f.Fd()), unix.LOCK_UN, "funlock", f.Name())
}

// Lock waits for the flock of the directory itself; closing d gives it back, and Unlock.
func (d *Dir) Lock() error { return flock(d.fd, unix.LOCK_EX, "flock", d.path) }

// Unlock gives back the lock of Lock.
func (d *Dir) Unlock() error { return flock(d.fd, unix.LOCK_UN, "funlock", d.path) }

func flock(fd, how int, op, path string) error {
	if err := retry(func() error { return unix.Flock(fd, how) }); err != nil {
		return &fs.PathError{Op: op, Path: path, Err: err}
	}
	return nil
}

// staleDotLock is the age at which a dot lock of an unknown holder counts as left behind: procmail and maildrop use 1024 s.
const staleDotLock = 1024 * time.Second

// DotLock makes the lock file name+".lock" in d, which other mail programs look for, or fails with ErrLocked. A lock file that is left behind is
// removed first: its holder was on this host and is dead, or it names nobody and is older than 17 minutes. The
// function returned removes the lock.
func (d *Dir) DotLock(name string) (unlock func() error, err error) {
	lock := name + ".lock"
	for range 2 {
		f, err := d.Create(lock, 0o444)
		if err == nil {
			host, _ := os.Hostname()
			_, err = fmt.Fprintf(f, "%d:%s", os.Getpid(), host)
			if e := f.Close(); err == nil {
				err = e
			}
			if err != nil {
				return nil, errors.Join(err, d.Remove(lock))
			}
			return func() error { return d.Remove(lock) }, nil
		}
		if !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
		if err := d.steal(lock); err != nil {
			return nil, err
		}
	}
	return nil, ErrLocked
}

// steal removes a lock file that is left behind, and fails with ErrLocked where its holder may be alive. Whoever removes one has its flock:
// otherwise a second thief, who found the same file stale, would remove the new lock of the first.
func (d *Dir) steal(lock string) error {
	f, err := d.Open(lock, unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return ErrLocked
	}
	defer f.Close()
	if !isStale(f) || TryFlock(f) != nil {
		return ErrLocked
	}
	var opened, named unix.Stat_t
	err = unix.Fstat(int(f.Fd()), &opened)
	if err == nil {
		err = unix.Fstatat(d.fd, lock, &named, unix.AT_SYMLINK_NOFOLLOW)
	}
	switch {
	case errors.Is(err, unix.ENOENT) || err == nil && (opened.Ino != named.Ino || opened.Dev != named.Dev):
		return nil // another was faster
	case err != nil:
		return d.fail("stat", lock, err)
	}
	return d.Remove(lock)
}

// isStale reports whether the holder of a lock file is provably gone.
func isStale(f *os.File) bool {
	st, err := f.Stat()
	if err != nil || !st.Mode().IsRegular() {
		return false
	}
	var buf [256]byte
	n, _ := f.Read(buf[:])
	pidText, holder, _ := strings.Cut(strings.TrimSpace(string(buf[:n])), ":")
	host, _ := os.Hostname()
	if pid, err := strconv.Atoi(pidText); err == nil && pid > 0 && (holder == "" || holder == host) {
		return errors.Is(unix.Kill(pid, 0), unix.ESRCH)
	}
	return clock.Since(st.ModTime()) > staleDotLock
}
