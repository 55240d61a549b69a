package alias

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// maxList bounds an included file and a .forward in octets.
const maxList = 1 << 20

// ReadList reads an included file. It must be a regular file that only its owner can write, not a symbolic link.
func ReadList(path string) (List, error) {
	text, owner, err := readFile(path, maxList, unix.O_NOFOLLOW, 0o022)
	if err != nil {
		return List{}, err
	}
	items, err := ParseList(text, path)
	return List{Items: items, Owner: owner}, err
}

// ReadForward reads the .forward file name in the home that is open as dir, under the rules of ReadList; besides it must have no second
// name and belong to user id owner or to root. A file that is not there is an error that is fs.ErrNotExist. path stands in errors.
func ReadForward(dir int, name, path string, owner int) (List, error) {
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return List{}, &os.PathError{Op: "open", Path: path, Err: err}
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	text, st, err := readOpen(f, maxList, 0o022)
	switch {
	case err != nil:
		return List{}, err
	case int(st.Uid) != owner && st.Uid != 0:
		return List{}, fmt.Errorf("%s: belongs to user %d, not to %d or root", path, st.Uid, owner)
	case st.Nlink != 1:
		return List{}, fmt.Errorf("%s: has more than one name", path)
	}
	items, err := ParseList(text, path)
	return List{Items: items, Owner: int(st.Uid)}, err
}

func readFile(path string, most int64, flags int, others uint32) (text string, owner int, err error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY|flags, 0)
	if err != nil {
		return "", 0, fmt.Errorf("alias: %w", err)
	}
	defer f.Close()
	text, st, err := readOpen(f, most, others)
	return text, int(st.Uid), err
}

// readOpen reads a file whole, when it is a regular file without any of the mode bits others.
func readOpen(f *os.File, most int64, others uint32) (string, unix.Stat_t, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return "", st, &os.PathError{Op: "stat", Path: f.Name(), Err: err}
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return "", st, fmt.Errorf("%s: not a regular file", f.Name())
	case st.Mode&others != 0:
		return "", st, fmt.Errorf("%s: others can write it (mode %04o); chmod go-w", f.Name(), st.Mode&0o7777)
	case st.Size > most:
		return "", st, fmt.Errorf("%s: larger than %d octets", f.Name(), most)
	}
	b, err := io.ReadAll(io.LimitReader(f, most+1))
	if err != nil {
		return "", st, err
	}
	if int64(len(b)) > most {
		return "", st, errors.New(f.Name() + ": grows while it is read")
	}
	return string(b), st, nil
}
