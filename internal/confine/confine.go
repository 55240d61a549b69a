// Package confine takes from a server what it does not need once its sockets are open, so that who takes it over gets little: the rights of root, by becoming the
// owner of the spool, and the files that are none of its business, by Landlock (Linux 5.13 and later; landlock(7)). Neither can be taken back.
//
// The kernel's Landlock is used as far as it goes, up to version 5. Reading is left for the folders of the system (/etc, /usr, /lib, /dev, /run, /proc, /sys) and for
// those of the files that are named, writing for what is named; nothing can be run.
package confine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/landlock-lsm/go-landlock/landlock"
	llsys "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"

	"github.com/postel-mail/postel/internal/userdb"
)

// Bounds is what a server needs.
type Bounds struct {
	Home     string   // the directory whose owner a server that was started by root becomes; it writes below it
	Read     []string // files and directories that it reads, where they exist; "" is none; the groups by which it may are kept
	Write    []string // directories besides Home in which it makes and removes files
	Programs bool     // it runs programs of the administrator, which cannot be kept within bounds that are not known
}

// system is what every process reads: names and time zones, libraries, certificates, what the kernel tells.
var system = []string{"/etc", "/usr", "/lib", "/lib64", "/dev", "/run", "/proc", "/sys"}

// Enter puts the process within b, and says for the log what it is now. After an error it is in between, and must end.
func Enter(b Bounds) (text string, err error) {
	who, err := become(b)
	if err != nil {
		return "", err
	}
	if b.Programs {
		return who + "; files not confined, since it runs programs", nil
	}
	version, err := llsys.LandlockGetABIVersion()
	if err != nil {
		return who + "; files not confined, the kernel has no Landlock", nil
	}
	const (
		read  = llsys.AccessFSReadFile | llsys.AccessFSReadDir
		write = read | llsys.AccessFSWriteFile | llsys.AccessFSTruncate | llsys.AccessFSMakeReg | llsys.AccessFSMakeDir | llsys.AccessFSMakeFifo | llsys.AccessFSMakeSock |
			llsys.AccessFSRemoveFile | llsys.AccessFSRemoveDir | llsys.AccessFSRefer
	)
	rules := []landlock.Rule{landlock.PathAccess(read, system...).IgnoreIfMissing(),
		landlock.PathAccess(llsys.AccessFSReadFile|llsys.AccessFSWriteFile, "/dev/null")}
	for _, path := range b.Read {
		if path == "" {
			continue
		}
		// A file's folder, since an editor puts a new file into the place of the old one. But for the root's, which would be all.
		if st, err := os.Stat(path); (err != nil || !st.IsDir()) && filepath.Dir(path) != "/" {
			path = filepath.Dir(path)
		}
		rules = append(rules, landlock.PathAccess(read, path).IgnoreIfMissing())
	}
	rules = append(rules, landlock.PathAccess(write, append([]string{b.Home}, b.Write...)...))
	if err := landlock.V5.BestEffort().RestrictPaths(rules...); err != nil {
		return "", fmt.Errorf("confine: Landlock: %w", err)
	}
	return fmt.Sprintf("%s; files by Landlock %d", who, min(version, 5)), nil
}

// become makes root the owner of Home. Where that is root too it stays.
func become(b Bounds) (text string, err error) {
	if os.Geteuid() != 0 {
		return fmt.Sprintf("user %d", os.Geteuid()), nil
	}
	var st unix.Stat_t
	if err := unix.Stat(b.Home, &st); err != nil {
		return "", &fs.PathError{Op: "stat", Path: b.Home, Err: err}
	}
	if st.Uid == 0 {
		return "user 0, who owns " + b.Home, nil
	}
	u := userdb.User{Name: fmt.Sprint(st.Uid), UID: int(st.Uid), GID: int(st.Gid)}
	for _, path := range b.Read {
		var f unix.Stat_t
		if err := unix.Stat(path, &f); errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
			continue
		} else if err != nil {
			return "", &fs.PathError{Op: "stat", Path: path, Err: err}
		}
		gid := int(f.Gid)
		if f.Mode&0o004 == 0 && f.Mode&0o040 != 0 && gid != 0 && gid != u.GID && !slices.Contains(u.Groups, gid) {
			u.Groups = append(u.Groups, gid)
		}
	}
	if err := userdb.Become(u); err != nil {
		return "", err
	}
	text = fmt.Sprintf("user %d, group %d", u.UID, u.GID)
	if len(u.Groups) > 0 {
		text += " and " + strings.Trim(fmt.Sprint(u.Groups), "[]")
	}
	return text, nil
}
