package durable

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Order is the order of calls in which a file is published so that it survives a power cut.
type Order int

const (
	// FsyncRenameFsync is: fsync(file), rename, fsync(directory). It holds on every file system.
	FsyncRenameFsync Order = iota
	// RenameFsync is: rename, fsync(file). On a file system that journals names together with the inode, the one flush makes
	// both last; a file that is torn by a crash can be seen under its name and must be told by its sum.
	RenameFsync
)

func (o Order) String() string {
	if o == RenameFsync {
		return "rename,fsync"
	}
	return "fsync,rename,fsync-dir"
}

// Magic numbers of statfs(2).
const (
	magicExt4  = 0xEF53
	magicXFS   = 0x58465342
	magicBtrfs = 0x9123683E
)

// OrderOf tells the order that d's file system needs, and why. RenameFsync is answered for xfs, for btrfs, and for ext4 with a
// journal, where it was tested by cutting the power; FsyncRenameFsync for everything else and whenever it cannot be told. RenameFsync does not hold for
// an ext4 of which FastCommits is true, which is asked apart since the answer may change.
func OrderOf(d *Dir) (Order, string) {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(d.fd, &fs); err != nil {
		return FsyncRenameFsync, err.Error()
	}
	switch int64(fs.Type) {
	case magicXFS:
		return RenameFsync, "xfs"
	case magicBtrfs:
		return RenameFsync, "btrfs"
	case magicExt4:
		device, err := blockDevice(d)
		if err != nil {
			return FsyncRenameFsync, "ext, device unknown: " + err.Error()
		}
		if _, err := os.Stat("/proc/fs/jbd2/" + device + "-8"); err != nil {
			return FsyncRenameFsync, "ext without a journal"
		}
		return RenameFsync, "ext4 with a journal"
	}
	return FsyncRenameFsync, fmt.Sprintf("file system %#x", uint64(fs.Type))
}

// InPlace reports whether d's file system is one of which it was tested that octets which are written over others, and flushed, cost no change of its own records.
func InPlace(d *Dir) bool {
	var fs unix.Statfs_t
	return unix.Fstatfs(d.fd, &fs) == nil && (int64(fs.Type) == magicExt4 || int64(fs.Type) == magicXFS)
}

// Life tells one mount of a file system from any other, also on a kernel that was started later: while it is the same, what programs have done to files is to be seen,
// flushed or not. "" where that cannot be told (before Linux 6.8).
func Life(d *Dir) string {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	var st unix.Statx_t
	if err != nil || unix.Statx(d.fd, "", unix.AT_EMPTY_PATH, unix.STATX_MNT_ID_UNIQUE, &st) != nil || st.Mask&unix.STATX_MNT_ID_UNIQUE == 0 {
		return ""
	}
	return fmt.Sprintf("%s %d", strings.TrimSpace(string(boot)), st.Mnt_id)
}

// FastCommits reports whether d is on an ext4 file system that has made fast commits, or whether that cannot be told. The feature shows nowhere
// but in its counters, which stay zero without it and move at the first fsync with it: so a "no" is to be asked for again
// after a fsync.
func FastCommits(d *Dir) bool {
	var st unix.Statfs_t
	if err := unix.Fstatfs(d.fd, &st); err != nil || int64(st.Type) != magicExt4 {
		return err != nil
	}
	device, err := blockDevice(d)
	if err != nil {
		return true
	}
	info, err := openat(unix.AT_FDCWD, "/proc/fs/ext4/"+device+"/fc_info", unix.O_RDONLY, 0)
	if errors.Is(err, unix.ENOENT) {
		return false // a kernel older than the feature (5.10)
	}
	if err != nil {
		return true
	}
	defer unix.Close(info)
	var buf [256]byte // the counters stand in front
	n, err := unix.Read(info, buf[:])
	if err != nil {
		return true
	}
	for line := range strings.Lines(string(buf[:n])) {
		count, what, _ := strings.Cut(strings.TrimSpace(line), " ")
		if (what == "commits" || what == "ineligible") && count != "0" {
			return true
		}
	}
	return false
}

// blockDevice is the kernel's name of the device under d, as "sda1".
func blockDevice(d *Dir) (string, error) {
	var st unix.Stat_t
	if err := unix.Fstat(d.fd, &st); err != nil {
		return "", err
	}
	link, err := os.Readlink(fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev)))
	return filepath.Base(link), err
}
