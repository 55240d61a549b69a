package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/postel-mail/postel/internal/clock"
)

// The lab is three processes for each job. One serves the disks. Nothing but the end of the last mount ends it: without it every sync(2) of the host
// could hang. It never touches what is mounted from its disks, so that it cannot wait for itself. Another is the first process of namespaces of its own,
// and uses the disks: with it go all that it started, its mounts and its loop devices, however it ends. The one outside starts them, and may be killed.

// outside runs every job, as many at a time as there are processors.
func (p *plan) outside() error {
	if os.Geteuid() != 0 {
		return errors.New("needs root, to mount file systems")
	}
	if _, err := os.Stat("/dev/fuse"); err != nil {
		return fmt.Errorf("needs a kernel with FUSE: %w", err)
	}
	for name := range strings.SplitSeq(p.only, ",") {
		if _, err := kindOf(name); err != nil && p.only != "" {
			return err
		}
	}
	if p.seed == 0 {
		p.seed = uint64(clock.Now().Unix())
	}
	bin, err := filepath.Abs(p.bin)
	if err != nil {
		return err
	}
	p.bin = bin
	tools, err := os.MkdirTemp("", "postel-lab-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tools)
	p.steps = filepath.Join(tools, "steps")
	for _, args := range [][]string{{"test", "-c", "-o", p.steps, "./test/crash"}, {"build", "-o", tools, "./test/crash/filtered"}} {
		if out, err := exec.Command("go", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, out)
		}
	}
	fmt.Printf("seed %d\n", p.seed)
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	var wg sync.WaitGroup
	slots := make(chan struct{}, max(2, runtime.NumCPU()))
	failed := make(chan error, len(kinds))
	for _, k := range kinds {
		if p.only != "" && !slices.Contains(strings.Split(p.only, ","), k.name) {
			continue
		}
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			if err := p.job(ctx, k); err != nil {
				failed <- fmt.Errorf("%s: %w", k.name, err)
			}
		})
	}
	wg.Wait()
	close(failed)
	var all []error
	for err := range failed {
		all = append(all, err)
	}
	return errors.Join(all...)
}

// job starts the two processes for one kind, and waits for them.
func (p *plan) job(ctx context.Context, k kind) error {
	work, err := os.MkdirTemp("", "postel-lab-") // inside it is a mount point; here it stays empty
	if err != nil {
		return err
	}
	defer os.Remove(work)
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("/dev/fuse: %w", err)
	}
	fuse := os.NewFile(uintptr(fd), "/dev/fuse")
	defer fuse.Close()
	self := func(ctx context.Context, how syscall.SysProcAttr, args ...string) *exec.Cmd {
		c := exec.CommandContext(ctx, "/proc/self/exe", append(args, "-replay", p.replay)...)
		c.Stdout, c.Stderr = os.Stdout, os.Stderr
		c.ExtraFiles = []*os.File{fuse}
		c.SysProcAttr = &how
		return c
	}
	server := self(context.Background(), syscall.SysProcAttr{Setsid: true}, "-serve", k.name)
	if err := server.Start(); err != nil {
		return err
	}
	runtime.LockOSThread() // the signal comes at the death of the thread
	defer runtime.UnlockOSThread()
	err = self(ctx, syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET, Pdeathsig: unix.SIGKILL},
		"-inside", k.name, "-work", work, "-steps", p.steps, "-bin", p.bin, "-states", strconv.Itoa(p.states), "-seed", strconv.FormatUint(p.seed, 10)).Run()
	fuse.Close()
	_ = server.Process.Signal(unix.SIGTERM) // it has ended, or ends with the last mount
	return errors.Join(err, server.Wait())
}

// serve is the process that serves the disks of a kind, on descriptor 3.
func (p *plan) serve() error {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT, unix.SIGHUP)
	defer stop()
	k, err := kindOf(p.serves)
	if err != nil {
		return err
	}
	s := &server{fd: 3, kind: k, disks: map[string]*disk{}}
	if p.replay != "" {
		d, err := readRecord(p.replay, k)
		if err != nil {
			return err
		}
		s.disks[replayed], s.base = d, d.base
	} else if s.base, err = k.make(); err != nil {
		return err
	}
	return s.serve(ctx)
}

// make makes an empty file system.
func (k kind) make() (*image, error) {
	if k.mkfs == nil {
		return newImage(0), nil
	}
	f, err := os.CreateTemp("", "postel-lab-")
	if err != nil {
		return nil, err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if err := f.Truncate(k.size); err != nil {
		return nil, err
	}
	if out, err := exec.Command(k.mkfs[0], append(k.mkfs[1:], f.Name())...).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%s: %w\n%s", k.mkfs[0], err, out)
	}
	return readImage(f.Name())
}

// work is the process inside.
func (p *plan) insideWork() error {
	k, err := kindOf(p.inside)
	if err != nil {
		return err
	}
	m := &machine{kind: k, bin: p.bin, work: p.work}
	if err := m.furnish(); err != nil {
		return err
	}
	tests := k.tests
	switch {
	case p.replay != "":
		tests = onDisk[1:2]
	case tests == nil:
		tests = onDisk
	}
	for _, test := range tests {
		if err := test(m, p); err != nil {
			return err
		}
	}
	return nil
}

// furnish makes the namespaces fit for the programs: nothing that is mounted here is seen elsewhere, /proc is that of these processes, the
// folder for work is empty and holds the server's files, the loopback is up.
func (m *machine) furnish() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("mount --make-rprivate: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	if err := unix.Mount("tmpfs", m.work, "tmpfs", 0, "mode=755"); err != nil {
		return fmt.Errorf("mount %s: %w", m.work, err)
	}
	for _, dir := range []string{"fuse", "disk"} {
		if err := os.Mkdir(m.path(dir), 0o700); err != nil {
			return err
		}
	}
	if err := unix.Mount("lab", m.path("fuse"), "fuse.lab", 0, "fd=3,rootmode=40000,user_id=0,group_id=0"); err != nil {
		return fmt.Errorf("mount fuse: %w", err)
	}
	_ = unix.Close(3) // the mount has it
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, lo); err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	return nil
}
