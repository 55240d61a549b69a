// Package tablefile is a table in a text file that is read again by itself when it changes.
package tablefile

import (
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/postel-mail/postel/internal/clock"
)

// File is one table. Its fields are set before the first use; it may then be used by many goroutines.
type File[T any] struct {
	Path    string
	Max     int64                        // octets that it may have
	Parse   func(text string) (T, error) // its error names file and line
	Problem func(error)                  // hears once of each change that cannot be used; nil: nobody does

	mu      sync.Mutex
	content T
	seen    version // of what was read last, with success or without
	checked time.Time
}

// version tells one content of a file from another.
type version struct {
	size         int64
	mtime, ctime syscall.Timespec
	dev, inode   uint64
}

func versionOf(fi os.FileInfo) version {
	v := version{size: fi.Size()}
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		v.mtime, v.ctime, v.dev, v.inode = st.Mtim, st.Ctim, st.Dev, st.Ino
	}
	return v
}

// Load reads the file now. On an error what was read before stays in force.
func (f *File[T]) Load() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.load(clock.Now())
}

// Get gives the content, read again where the file has changed; it looks once a second. A file that changed within the last second may still be
// being written, and is left for the next time. One that cannot be used, or has gone, leaves the old content in force.
func (f *File[T]) Get() T {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := clock.Now()
	if age := now.Sub(f.checked); age >= 0 && age < time.Second {
		return f.content
	}
	f.checked = now
	fi, err := os.Stat(f.Path)
	var v version
	if err == nil {
		v = versionOf(fi)
		if age := now.Sub(fi.ModTime()); v == f.seen || age >= 0 && age < time.Second {
			return f.content
		}
		err = f.load(now)
	} else if f.seen == v {
		return f.content // told
	}
	f.seen = v
	if err != nil && f.Problem != nil {
		f.Problem(fmt.Errorf("%w; what was read before stays in force", err))
	}
	return f.content
}

func (f *File[T]) load(now time.Time) error {
	r, err := os.OpenFile(f.Path, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOCTTY, 0) // it may be a FIFO
	if err != nil {
		return err
	}
	defer r.Close()
	fi, err := r.Stat()
	switch {
	case err != nil:
		return err
	case !fi.Mode().IsRegular():
		return fmt.Errorf("%s: not a regular file", f.Path)
	case fi.Mode().Perm()&0o002 != 0:
		return fmt.Errorf("%s: others can write it (mode %04o); chmod o-w", f.Path, fi.Mode().Perm())
	}
	text, err := io.ReadAll(io.LimitReader(r, f.Max+1))
	if err == nil && int64(len(text)) > f.Max {
		err = fmt.Errorf("%s: larger than %d octets", f.Path, f.Max)
	}
	if err != nil {
		return err
	}
	content, err := f.Parse(string(text))
	if err != nil {
		return err
	}
	f.content, f.seen, f.checked = content, versionOf(fi), now
	return nil
}
