package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postel-mail/postel/internal/clock"
)

// kind is a file system and how it is made and mounted.
type kind struct {
	name, fstype string
	size         int64
	mkfs         []string
	options      string
	whole        int      // octets that it trusts a disk to write whole
	order        string   // in which the programs have to flush
	check        []string // a program that has to look at it after a power cut
	faulty       bool     // the file system itself loses things now and then
	settled      bool     // nothing is promised for new folders, nor beside programs that remove files
	stepped      bool     // programs are stopped at every call on it
	noted        bool     // a server keeps a journal on it
	tests        []func(*machine, *plan) error
}

const (
	oneFlush   = "rename,fsync"
	twoFlushes = "fsync,rename,fsync-dir"
)

func ext4(features ...string) []string {
	return append([]string{"mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard"}, features...)
}

// Of xfs, log recovery leaves a block as it is whose first sector is new: it does not reckon with torn ones. With fast_commit the fsync of ext4 in Linux
// 6.18 returns too early now and then, whatever is flushed and in what order, and what its recovery makes of a journal does not always mount.
var kinds = []kind{
	{name: "ext4", fstype: "ext4", size: 48 << 20, mkfs: ext4("-J", "size=4"), options: "commit=300", whole: sector, order: oneFlush, stepped: true, noted: true},
	{name: "xfs", fstype: "xfs", size: 304 << 20, mkfs: []string{"mkfs.xfs", "-q", "-f", "-K"}, options: "nouuid", whole: page, order: oneFlush, noted: true},
	{name: "btrfs", fstype: "btrfs", size: 120 << 20, mkfs: []string{"mkfs.btrfs", "-q", "-f", "-M"}, options: "commit=300", whole: sector, order: oneFlush},
	{name: "ext4-fast_commit", fstype: "ext4", size: 32 << 20, mkfs: ext4("-J", "size=4", "-O", "fast_commit"), options: "commit=300", whole: sector,
		order: twoFlushes, faulty: true},
	{name: "ext4-no-journal", fstype: "ext4", size: 32 << 20, mkfs: ext4("-O", "^has_journal"), whole: sector, order: twoFlushes,
		check: []string{"e2fsck", "-fy"}, settled: true},
	{name: "small", tests: []func(*machine, *plan) error{(*machine).full}},
}

// onDisk are the tests of a kind that has none of its own.
var onDisk = []func(*machine, *plan) error{(*machine).selftest, (*machine).power, (*machine).killed, (*machine).faulty, (*machine).traces}

// machine is where programs run whose power can be cut: a mounted disk with the spool and the mailboxes, and what they need beside it.
type machine struct {
	kind kind
	bin  string
	work string // a tmpfs: fuse/ has the files of the server, disk/ the mounted disk
}

func (m *machine) path(name string) string { return filepath.Join(m.work, name) }
func (m *machine) disk(name string) string { return filepath.Join(m.work, "disk", name) }

// tell writes to a file of the server.
func (m *machine) tell(file, text string) error {
	f, err := os.OpenFile(m.path("fuse/"+file), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// mount mounts a disk of the server.
func (m *machine) mount(file string) error {
	f, err := os.OpenFile(m.path("fuse/"+file), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if strings.HasPrefix(file, "cut.") { // so that the server forgets it afterwards
		if err := os.Remove(m.path("fuse/" + file)); err != nil {
			return err
		}
	}
	loop, err := attach(f)
	if err != nil {
		return err
	}
	defer loop.Close() // without a mount this detaches it
	if len(m.kind.check) > 0 && strings.HasPrefix(file, "cut.") {
		c := exec.Command(m.kind.check[0], append(m.kind.check[1:], loop.Name())...)
		if out, err := c.CombinedOutput(); c.ProcessState == nil || c.ProcessState.ExitCode() > 1 { // 1: it repaired something
			return fmt.Errorf("%s: %w\n%s", c.Path, err, out)
		}
	}
	if err := unix.Mount(loop.Name(), m.path("disk"), m.kind.fstype, unix.MS_NOATIME, m.kind.options); err != nil {
		return &fs.PathError{Op: "mount " + file, Path: loop.Name(), Err: err}
	}
	return nil
}

// attach makes a block device of a file, which ends with its last user.
func attach(f *os.File) (*os.File, error) {
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer control.Close()
	for range 100 { // another may be faster
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, fmt.Errorf("no free loop device: %w", err)
		}
		loop, err := os.OpenFile(fmt.Sprintf("/dev/loop%d", n), os.O_RDWR, 0)
		if err != nil {
			return nil, err
		}
		config := &unix.LoopConfig{Fd: uint32(f.Fd()), Size: sector}
		config.Info.Flags = unix.LO_FLAGS_AUTOCLEAR
		if err = unix.IoctlLoopConfigure(int(loop.Fd()), config); err == nil {
			return loop, nil
		}
		loop.Close()
		if !errors.Is(err, unix.EBUSY) {
			return nil, fmt.Errorf("%s: %w", loop.Name(), err)
		}
	}
	return nil, errors.New("no free loop device")
}

// unmount ends the use of the disk.
func (m *machine) unmount() error {
	var err error
	for range 200 {
		if err = unix.Unmount(m.path("disk"), 0); !errors.Is(err, unix.EBUSY) {
			break
		}
		time.Sleep(20 * time.Millisecond) // a process of ours that has just ended
	}
	if err != nil {
		return fmt.Errorf("unmount: %w", err)
	}
	return nil
}

// users get mail at example.org; each has a home on the disk.
var users = []string{"alice", "bob", "carol"}

// configure writes the configuration NAME.toml, with the next hop for everything that is not local, and gives its path.
func (m *machine) configure(name, spool, next, minFree string) (string, error) {
	var table strings.Builder
	for _, user := range users {
		fmt.Fprintf(&table, "%s:{PLAIN}x:::%s:%s::\n", user, user, m.disk("mail/"+user))
	}
	file := m.path(name + ".toml")
	return file, errors.Join(
		os.WriteFile(m.path("users"), []byte(table.String()), 0o644),
		os.WriteFile(file, fmt.Appendf(nil, `hostname = "mail.example.org"
domains = ["example.org"]
spool = %q
users = %q
aliases = "/nonexistent"
[routes]
"*" = "smtp://%s"
[tls]
certificate = "/nonexistent"
key = "/nonexistent"
[queue]
retry = ["1s", "1s"]
[limits]
min_free = %q
`, spool, m.path("users"), next, minFree), 0o644))
}

// homes makes the folders that postel finds on a new host.
func (m *machine) homes() error {
	for _, user := range users {
		if err := os.MkdirAll(m.disk("mail/"+user), 0o700); err != nil {
			return err
		}
	}
	d, err := os.Open(m.disk(""))
	if err != nil {
		return err
	}
	defer d.Close()
	return unix.Syncfs(int(d.Fd()))
}

// limit is for one program that is not a server, and for anything that is waited for.
const limit = 30 * time.Second

// program is one that is run to its end.
type program struct {
	args   []string
	config string
	stdin  string
	env    []string
	uid    uint32        // 0: root
	limit  time.Duration // 0: limit
}

// run gives the exit status and what the program has printed.
func (m *machine) run(p program) (status int, output string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), cmp.Or(p.limit, limit))
	defer cancel()
	c := exec.CommandContext(ctx, filepath.Join(m.bin, p.args[0]), p.args[1:]...)
	c.Env = append(p.env, "POSTEL_CONFIG="+p.config, "PATH="+m.bin, "HOME=/")
	c.Stdin = strings.NewReader(p.stdin)
	if p.uid > 0 {
		c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: p.uid, Gid: p.uid}}
	}
	var out bytes.Buffer
	c.Stdout, c.Stderr = &out, &out
	err = c.Run()
	var ended *exec.ExitError
	if errors.As(err, &ended) && ctx.Err() == nil {
		return ended.ExitCode(), out.String(), nil
	}
	return 0, out.String(), err
}

// must is run for a program that has to exit 0.
func (m *machine) must(p program) error {
	status, out, err := m.run(p)
	if err != nil || status != 0 {
		return fmt.Errorf("%s exits %d (%v): %s", p.args[0], status, err, out)
	}
	return nil
}

// daemon is a program that stays.
type daemon struct {
	*exec.Cmd
	log string // its file
}

// daemon starts one.
func (m *machine) daemon(config, name string, args ...string) (*daemon, error) {
	log, err := os.CreateTemp(m.work, name+"-")
	if err != nil {
		return nil, err
	}
	defer log.Close()
	c := exec.Command(filepath.Join(m.bin, name), args...)
	c.Env = []string{"POSTEL_CONFIG=" + config, "PATH=" + m.bin, "HOME=/"}
	c.Stderr = log
	if err := c.Start(); err != nil {
		return nil, err
	}
	return &daemon{c, log.Name()}, nil
}

// stop ends it by SIGTERM and gives what it has logged.
func (d *daemon) stop() (string, error) {
	patience := time.AfterFunc(limit, func() { _ = d.Process.Kill() })
	defer patience.Stop()
	_ = d.Process.Signal(unix.SIGTERM)
	err := d.Wait()
	text, err2 := os.ReadFile(d.log)
	if err != nil {
		err = fmt.Errorf("%s: %w\n%s", d.Path, err, text)
	}
	return string(text), errors.Join(err, err2, os.Remove(d.log))
}

// kill ends it at once.
func (d *daemon) kill() error {
	_ = d.Process.Kill() // somebody may have been faster
	_ = d.Wait()         // says that it was killed
	return os.Remove(d.log)
}

// smtpd starts the server; its address is a socket beside the disk. The network has none of it.
func (m *machine) smtpd(config string) (address string, server *daemon, err error) {
	address = m.path("smtpd.sock")
	if err := os.Remove(address); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", nil, err
	}
	server, err = m.daemon(config, "smtpd", "--listen", "unix:"+address)
	if err != nil {
		return "", nil, err
	}
	for end := clock.Now().Add(limit); ; time.Sleep(5 * time.Millisecond) {
		if c, err := dial(address); err == nil {
			c.close()
			return address, server, nil
		}
		if clock.Now().After(end) {
			log, _ := server.stop()
			return "", nil, fmt.Errorf("smtpd does not listen: %s", log)
		}
	}
}

// names are the files of a folder on the disk, in order; none when it is not there.
func (m *machine) names(dir string) []string {
	entries, _ := os.ReadDir(m.disk(dir))
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	slices.Sort(names)
	return names
}
