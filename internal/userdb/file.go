package userdb

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/postel-mail/postel/internal/clock"
)

// maxFile bounds a table in octets.
const maxFile = 256 << 20

// file is a table on disk that is read again when it changes.
type file[T any] struct {
	path    string
	parse   func(r io.Reader, path string) (T, error)
	problem func(error)

	mu      sync.Mutex
	content T
	read    bool      // content is there
	version version   // of content, or of the last one that could not be read
	checked time.Time // when the file was last looked at
}

// version tells one content of a file from another.
type version struct {
	size    int64
	mtime   time.Time
	dev, in uint64
}

func versionOf(fi os.FileInfo) version {
	v := version{size: fi.Size(), mtime: fi.ModTime()}
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		v.dev, v.in = uint64(st.Dev), st.Ino
	}
	return v
}

// get gives the content, read again when the file changed; it looks once a second. A file that changed within the last second may
// still be being written, and half a table would refuse the mail of the other half, so it is left for the next time.
func (f *file[T]) get() (T, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := clock.Now()
	if !f.read {
		return f.content, f.load(now)
	}
	if age := now.Sub(f.checked); age >= 0 && age < time.Second {
		return f.content, nil
	}
	f.checked = now
	fi, err := os.Stat(f.path)
	switch {
	case err != nil:
		if f.version != (version{}) {
			f.version = version{} // told once
			f.problem(fmt.Errorf("userdb: %w; what was read before stays in force", err))
		}
	case versionOf(fi) != f.version && now.Sub(fi.ModTime()) >= time.Second:
		if err := f.load(now); err != nil {
			f.version = versionOf(fi)
			f.problem(fmt.Errorf("%w; what was read before stays in force", err))
		}
	}
	return f.content, nil
}

// reload reads the file now.
func (f *file[T]) reload() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.load(clock.Now())
}

// reloadIfRead reads the file now, unless nobody asked for it yet.
func (f *file[T]) reloadIfRead() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.read {
		return nil
	}
	return f.load(clock.Now())
}

func (f *file[T]) load(now time.Time) error {
	r, err := os.Open(f.path)
	if err != nil {
		return fmt.Errorf("userdb: %w", err)
	}
	defer r.Close()
	fi, err := r.Stat()
	if err != nil {
		return fmt.Errorf("userdb: %w", err)
	}
	if !fi.Mode().IsRegular() {
		return fmt.Errorf("userdb: %s is not a regular file", f.path)
	}
	if fi.Size() > maxFile {
		return fmt.Errorf("userdb: %s is larger than 256 MiB", f.path)
	}
	content, err := f.parse(io.LimitReader(r, maxFile), f.path)
	if err != nil {
		return err
	}
	f.content, f.read, f.version, f.checked = content, true, versionOf(fi), now
	return nil
}

// maxLine bounds a line of a table in octets; maxErrors what is said about one file.
const (
	maxLine   = 4096
	maxErrors = 10
)

// eachLine calls do with every line of a table that is neither empty nor a comment, and its number. Errors are joined, each with
// file and line in front.
func eachLine(r io.Reader, path string, do func(n int, line string) error) error {
	var errs []error
	br := bufio.NewReaderSize(r, maxLine)
	for n := 1; len(errs) < maxErrors; n++ {
		b, err := br.ReadSlice('\n')
		line := strings.TrimRight(string(b), "\r\n")
		for errors.Is(err, bufio.ErrBufferFull) {
			line = "#" // nothing of it is used
			if _, err = br.ReadSlice('\n'); !errors.Is(err, bufio.ErrBufferFull) {
				errs = append(errs, fmt.Errorf("userdb: %s:%d: line is longer than %d octets", path, n, maxLine))
			}
		}
		if line != "" && line[0] != '#' {
			if err := do(n, line); err != nil {
				errs = append(errs, fmt.Errorf("userdb: %s:%d: %w", path, n, err))
			}
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return fmt.Errorf("userdb: read %s: %w", path, err)
		}
	}
	return errors.Join(errs...)
}
