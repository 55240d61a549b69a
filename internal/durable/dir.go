// Package durable has the files that survive a crash, and the locks that do not: openat-style access below one open directory,
// publishing by rename, the flushes, and how to tell which of them a file system needs.
//
// The calls go straight to the kernel where os.File would add some of its own; nothing here follows a symbolic link in the last
// component of a name.
package durable

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Dir is an open directory. The names its methods take are single components: no slash, not "." or "..".
type Dir struct {
	path string // for errors and for O_PATH-less reopening
	fd   int
}

// OpenDir opens a directory that exists. A symbolic link in the last component is an error.
func OpenDir(path string) (*Dir, error) {
	fd, err := openat(unix.AT_FDCWD, path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return &Dir{path: path, fd: fd}, nil
}

// EnterDir opens a directory that the caller may write but perhaps not read. It is for Create, Remove, Space and OrderOf; its names cannot be
// read, and it cannot be flushed.
func EnterDir(path string) (*Dir, error) {
	fd, err := openat(unix.AT_FDCWD, path, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return &Dir{path: path, fd: fd}, nil
}

// MakeDir opens a directory by its absolute path, and makes it and its parents first where they are missing, durably and with mode
// 0700. Symbolic links in the path are followed.
func MakeDir(path string) (*Dir, error) {
	d, err := OpenDir(path + "/.")
	if !errors.Is(err, fs.ErrNotExist) || filepath.Dir(path) == path {
		return d, err
	}
	parent, err := MakeDir(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	defer parent.Close()
	return parent.Sub(filepath.Base(path), 0o700)
}

// Path is the name under which the directory was opened.
func (d *Dir) Path() string { return d.path }

// Fd is the descriptor, owned by d.
func (d *Dir) Fd() int { return d.fd }

// Close closes the directory.
func (d *Dir) Close() error { return unix.Close(d.fd) }

func (d *Dir) check(op, name string) error {
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
		return &fs.PathError{Op: op, Path: d.path + "/" + name, Err: unix.EINVAL}
	}
	return nil
}

func (d *Dir) fail(op, name string, err error) error {
	if err == nil {
		return nil
	}
	return &fs.PathError{Op: op, Path: d.path + "/" + name, Err: err}
}

// Open opens a file below d with flags of open(2); O_NOFOLLOW and O_CLOEXEC are added.
func (d *Dir) Open(name string, flags int, perm uint32) (*os.File, error) {
	if err := d.check("open", name); err != nil {
		return nil, err
	}
	fd, err := openat(d.fd, name, flags|unix.O_NOFOLLOW, perm)
	if err != nil {
		return nil, d.fail("open", name, err)
	}
	return os.NewFile(uintptr(fd), d.path+"/"+name), nil
}

// Create makes a new file for writing; it is an error when the name is taken, by whatever.
func (d *Dir) Create(name string, perm uint32) (*os.File, error) {
	return d.Open(name, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL, perm)
}

// Sub opens a directory below d, and makes it first where it is missing, durably and with the owner of d when the caller is root.
func (d *Dir) Sub(name string, perm uint32) (*Dir, error) {
	if err := d.check("open", name); err != nil {
		return nil, err
	}
	const flags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW
	fd, err := openat(d.fd, name, flags, 0)
	if errors.Is(err, unix.ENOENT) {
		err = unix.Mkdirat(d.fd, name, perm)
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return nil, d.fail("mkdir", name, err)
		}
		made := err == nil
		fd, err = openat(d.fd, name, flags, 0)
		if err == nil && made {
			err = errors.Join(d.give(fd), unix.Fchmod(fd, perm), d.Sync())
		}
	}
	if err != nil {
		return nil, d.fail("open", name, err)
	}
	return &Dir{path: d.path + "/" + name, fd: fd}, nil
}

// give hands a new file to the owner of d, when the caller is root and d is another's: what root leaves in a spool must be
// readable for the programs that run it.
func (d *Dir) give(fd int) error {
	if os.Geteuid() != 0 {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Fstat(d.fd, &st); err != nil {
		return err
	}
	if st.Uid == 0 {
		return nil
	}
	return unix.Fchown(fd, int(st.Uid), int(st.Gid))
}

// Give hands f to the owner of d when the caller is root and d is another's.
func (d *Dir) Give(f *os.File) error { return d.give(int(f.Fd())) }

// Rename moves a file into directory to under a name that must be free (renameat2 RENAME_NOREPLACE).
func (d *Dir) Rename(name string, to *Dir, newName string) error {
	return d.rename(name, to, newName, unix.RENAME_NOREPLACE)
}

// Replace moves a file into directory to, in place of what had that name.
func (d *Dir) Replace(name string, to *Dir, newName string) error {
	return d.rename(name, to, newName, 0)
}

func (d *Dir) rename(name string, to *Dir, newName string, flags uint) error {
	if err := errors.Join(d.check("rename", name), to.check("rename", newName)); err != nil {
		return err
	}
	err := retry(func() error { return unix.Renameat2(d.fd, name, to.fd, newName, flags) })
	if flags == unix.RENAME_NOREPLACE && errors.Is(err, unix.EINVAL) { // a file system without it
		if err = unix.Linkat(d.fd, name, to.fd, newName, 0); err == nil {
			err = unix.Unlinkat(d.fd, name, 0)
		}
	}
	if err != nil {
		return &os.LinkError{Op: "rename", Old: d.path + "/" + name, New: to.path + "/" + newName, Err: err}
	}
	return nil
}

// Remove removes a file.
func (d *Dir) Remove(name string) error {
	if err := d.check("remove", name); err != nil {
		return err
	}
	return d.fail("remove", name, unix.Unlinkat(d.fd, name, 0))
}

// Exists reports whether the name is taken.
func (d *Dir) Exists(name string) (bool, error) {
	if err := d.check("stat", name); err != nil {
		return false, err
	}
	var st unix.Stat_t
	err := unix.Fstatat(d.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	return err == nil, d.fail("stat", name, err)
}

// Sync flushes the directory: the names in it survive a power cut afterwards.
func (d *Dir) Sync() error {
	if err := retry(func() error { return unix.Fsync(d.fd) }); err != nil {
		return &fs.PathError{Op: "fsync", Path: d.path, Err: err}
	}
	return nil
}

// Names calls yield with the name of each entry but "." and "..", in the order of the directory, until it returns false. The names are read a
// block at a time, so the directory may be large.
func (d *Dir) Names(yield func(name string) bool) error {
	return d.Entries(func(name string, _ uint64) bool { return yield(name) })
}

// Entries does the same with the number of each entry's inode: what is read in the order of these comes fastest from a disk, while the order of a directory may be
// that of a hash.
func (d *Dir) Entries(yield func(name string, inode uint64) bool) error {
	fd, err := openat(d.fd, ".", unix.O_RDONLY|unix.O_DIRECTORY, 0) // with a reading position of its own
	if err != nil {
		return &fs.PathError{Op: "open", Path: d.path, Err: err}
	}
	defer unix.Close(fd)
	block := make([]byte, 32<<10)
	for {
		var n int
		err := retry(func() (err error) {
			n, err = unix.Getdents(fd, block)
			return err
		})
		if err != nil {
			return &fs.PathError{Op: "getdents", Path: d.path, Err: err}
		}
		if n == 0 {
			return nil
		}
		for rest := block[:n]; len(rest) > 0; {
			// struct linux_dirent64 of getdents64(2): inode, offset, length, type, name, NUL
			inode, length := binary.NativeEndian.Uint64(rest), binary.NativeEndian.Uint16(rest[16:])
			entry, _, _ := bytes.Cut(rest[19:length], []byte{0})
			rest = rest[length:]
			if name := string(entry); inode != 0 && name != "." && name != ".." && !yield(name, inode) {
				return nil
			}
		}
	}
}

// WriteFile puts a whole small file in place: temporary file, write, flush if durable is set, rename over what was there, and
// flush the directory. Without durable the old or the new content is there after a power cut, or an unreadable mix.
func (d *Dir) WriteFile(name string, data []byte, perm uint32, durable bool) error {
	tmp := fmt.Sprintf(".%s.%d", name, os.Getpid())
	if err := d.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := d.Create(tmp, perm)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = d.give(int(f.Fd()))
	}
	if err == nil && durable {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = d.Replace(tmp, d, name)
	}
	if err != nil {
		return errors.Join(err, d.Remove(tmp))
	}
	if durable {
		return d.Sync()
	}
	return nil
}

// Space is what is left on a file system for a caller without privileges.
type Space struct {
	Free, Total int64 // octets
	Files       int64 // that can still be made; a large number where the file system does not count them
}

// Space gives what is left on d's file system.
func (d *Dir) Space() (Space, error) {
	var st unix.Statfs_t
	if err := retry(func() error { return unix.Fstatfs(d.fd, &st) }); err != nil {
		return Space{}, d.fail("statfs", "", err)
	}
	space := Space{Free: int64(st.Bavail) * st.Bsize, Total: int64(st.Blocks) * st.Bsize, Files: int64(st.Ffree)}
	if st.Files == 0 {
		space.Files = 1 << 40
	}
	return space, nil
}

// SyncFileSystem flushes all of the file system that f is on, and then f once more so that the disk's own cache is flushed behind it. It makes
// a name last where the caller may not read the directory that it stands in, and has to flush what others wrote too.
func SyncFileSystem(f *os.File) error {
	if err := syncfs(int(f.Fd()), f.Name()); err != nil {
		return err
	}
	return f.Sync()
}

// SyncAll is SyncFileSystem for d's file system: what is written behind it cannot come to the disk before what it flushed.
func (d *Dir) SyncAll() error {
	if err := syncfs(d.fd, d.path); err != nil {
		return err
	}
	return d.Sync()
}

func syncfs(fd int, path string) error {
	if err := retry(func() error { return unix.Syncfs(fd) }); err != nil {
		return &fs.PathError{Op: "syncfs", Path: path, Err: err}
	}
	return nil
}

// IsFull reports whether err says that there is no space, no free file or no quota left.
func IsFull(err error) bool {
	return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT)
}

func openat(dir int, name string, flags int, perm uint32) (fd int, err error) {
	err = retry(func() error {
		fd, err = unix.Openat(dir, name, flags|unix.O_CLOEXEC, perm)
		return err
	})
	return fd, err
}

// retry repeats a call that a signal interrupted.
func retry(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
