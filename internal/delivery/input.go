package delivery

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// inMemory is the size in octets up to which a message that comes through a pipe is kept in memory.
const inMemory = 256 << 10

// file is a message in a file: size octets from start.
type file struct {
	*os.File
	start, size int64
}

// TakeIn sets m's Body, Size and Open to the message in a program's standard input. A regular file is used as it is, from where it
// stands; anything else is read to its end. A From_ line in front, which local(8) and procmail write, is left out; sender is the word behind "From".
func (m *Message) TakeIn(in *os.File) (sender string, err error) {
	f, err := wholeFile(in)
	if err == nil {
		sender, err = f.skipFrom()
	}
	if err != nil {
		return "", fmt.Errorf("delivery: take in message: %w", err)
	}
	m.Body, m.Size, m.Open = io.NewSectionReader(f, f.start, f.size), f.size, f.again
	return sender, nil
}

func wholeFile(in *os.File) (file, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(in.Fd()), &st); err != nil {
		return file{}, err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFREG {
		start, err := in.Seek(0, io.SeekCurrent)
		return file{in, start, max(0, st.Size-start)}, err
	}
	head := make([]byte, inMemory)
	n, err := io.ReadFull(in, head)
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		fd, err := unix.MemfdCreate("message", unix.MFD_CLOEXEC)
		if err != nil {
			return file{}, err
		}
		f := os.NewFile(uintptr(fd), "message")
		_, err = f.Write(head[:n])
		return file{f, 0, int64(n)}, err
	}
	if err != nil {
		return file{}, err
	}
	f, err := tempFile()
	if err != nil {
		return file{}, err
	}
	if _, err = f.Write(head); err != nil {
		return file{}, err
	}
	rest, err := io.Copy(f, in)
	return file{f, 0, inMemory + rest}, err
}

func (f *file) skipFrom() (sender string, err error) {
	line := make([]byte, min(2048, f.size))
	if _, err := f.ReadAt(line, f.start); err != nil && err != io.EOF {
		return "", err
	}
	line, _, ok := bytes.Cut(line, []byte("\n"))
	if !ok || !bytes.HasPrefix(line, []byte("From ")) {
		return "", nil
	}
	f.start += int64(len(line)) + 1
	f.size -= int64(len(line)) + 1
	sender, _, _ = strings.Cut(string(line[len("From "):]), " ")
	return sender, nil
}

// again gives the file for a program to read. It shares the reading position, which nothing else here uses.
func (f *file) again() (*os.File, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	g := os.NewFile(uintptr(fd), f.Name())
	_, err = g.Seek(f.start, io.SeekStart)
	return g, err
}
