package process

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// ErrNoStdin says that the program was started without standard input.
var ErrNoStdin = errors.New("standard input is closed")

// Stdin gives the standard input, or ErrNoStdin. In place of a closed descriptor Go's runtime has opened /dev/null by then, where all
// input would be empty: it does so for reading and writing, while a shell's </dev/null is for reading only.
func Stdin() (*os.File, error) {
	var st unix.Stat_t
	flags, err := unix.FcntlInt(uintptr(unix.Stdin), unix.F_GETFL, 0)
	if err == nil {
		err = unix.Fstat(unix.Stdin, &st)
	}
	if err == nil && st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == unix.Mkdev(1, 3) && flags&unix.O_ACCMODE == unix.O_RDWR {
		err = ErrNoStdin
	}
	return os.Stdin, err
}
