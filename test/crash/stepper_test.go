//go:build linux && amd64

// Package crash proves what docs/durability.md promises, on the real programs: a program that dies at any of its calls, or one of whose calls
// fails, loses no message that it answered for and leaves no half of one; and what is answered for has been flushed.
//
// The programs run under ptrace(2) and a seccomp(2) filter, which stop them at each call on a file below the folders that are watched. That
// is all it needs of the host. What a power cut does to data that was not flushed is not tried here.
package crash

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// args says where in a call's arguments the file stands: a descriptor, or a directory and a name in it; none is -1.
type args struct{ fd, dir, dir2 int }

// known are the calls on files; others are not looked at.
var known = map[uint64]struct {
	name string
	args
}{
	unix.SYS_READ:            {"read", args{0, -1, -1}},
	unix.SYS_PREAD64:         {"pread64", args{0, -1, -1}},
	unix.SYS_WRITE:           {"write", args{0, -1, -1}},
	unix.SYS_PWRITE64:        {"pwrite64", args{0, -1, -1}},
	unix.SYS_WRITEV:          {"writev", args{0, -1, -1}},
	unix.SYS_FSYNC:           {"fsync", args{0, -1, -1}},
	unix.SYS_FDATASYNC:       {"fdatasync", args{0, -1, -1}},
	unix.SYS_SYNCFS:          {"syncfs", args{0, -1, -1}},
	unix.SYS_FTRUNCATE:       {"ftruncate", args{0, -1, -1}},
	unix.SYS_FLOCK:           {"flock", args{0, -1, -1}},
	unix.SYS_FCHMOD:          {"fchmod", args{0, -1, -1}},
	unix.SYS_FCHOWN:          {"fchown", args{0, -1, -1}},
	unix.SYS_FSTAT:           {"fstat", args{0, -1, -1}},
	unix.SYS_FSTATFS:         {"fstatfs", args{0, -1, -1}},
	unix.SYS_GETDENTS64:      {"getdents64", args{0, -1, -1}},
	unix.SYS_CLOSE:           {"close", args{0, -1, -1}},
	unix.SYS_SENDFILE:        {"sendfile", args{0, -1, -1}},
	unix.SYS_COPY_FILE_RANGE: {"copy_file_range", args{2, -1, -1}},
	unix.SYS_OPENAT:          {"openat", args{-1, 0, -1}},
	unix.SYS_NEWFSTATAT:      {"newfstatat", args{-1, 0, -1}},
	unix.SYS_MKDIRAT:         {"mkdirat", args{-1, 0, -1}},
	unix.SYS_MKNODAT:         {"mknodat", args{-1, 0, -1}},
	unix.SYS_UNLINKAT:        {"unlinkat", args{-1, 0, -1}},
	unix.SYS_LINKAT:          {"linkat", args{-1, 0, 2}},
	unix.SYS_RENAMEAT:        {"renameat", args{-1, 0, 2}},
	unix.SYS_RENAMEAT2:       {"renameat2", args{-1, 0, 2}},
}

// event is a call that was made, or a line that was said on standard output (name "say", path the text).
type event struct {
	name, path, to string
	creates        bool // openat with O_CREAT
	failed         bool
}

func (e event) String() string { return strings.TrimRight(e.name+" "+e.path+" "+e.to, " ") }

// fault is what is done to one call.
type fault struct {
	name  string
	at    []string      // calls that it befalls; nil all
	kill  bool          // the process dies before the call
	all   bool          // with its whole family
	errno syscall.Errno // the call is not made and gives this
	short bool          // a write takes only half
	files bool          // sockets are left alone
}

func (f fault) befalls(e event) bool {
	if (f.errno == unix.ENOSPC || f.errno == unix.EDQUOT) && e.name == "openat" {
		return e.creates
	}
	if f.files && strings.HasPrefix(e.path, "socket:[") {
		return false
	}
	if f.at == nil {
		return e.name != "close" // the descriptor would stay open
	}
	for _, name := range f.at {
		if name == e.name {
			return true
		}
	}
	return false
}

var (
	// changing are the calls that change what is on the disk: to die before another one is to die before the next of these.
	changing = []string{"write", "pwrite64", "writev", "fsync", "fdatasync", "syncfs", "ftruncate", "sendfile", "copy_file_range", "openat",
		"mkdirat", "mknodat", "unlinkat", "linkat", "renameat", "renameat2"}

	killFamily = fault{name: "kill all", at: changing, kill: true, all: true}
	killOne    = fault{name: "kill one", at: changing, kill: true}
	failEIO    = fault{name: "EIO", errno: unix.EIO}
	filesEIO   = fault{name: "EIO", errno: unix.EIO, files: true} // a client waits a while for the answer of a socket that it cannot write to
	readEIO    = fault{name: "EIO of reads", errno: unix.EIO, at: []string{"read"}}
	failENOSPC = fault{name: "ENOSPC", errno: unix.ENOSPC, at: []string{"openat", "write", "pwrite64", "fsync", "mkdirat", "mknodat", "linkat", "renameat2"}}
	failEDQUOT = fault{name: "EDQUOT", errno: unix.EDQUOT, at: failENOSPC.at}
	failEMFILE = fault{name: "EMFILE", errno: unix.EMFILE, at: []string{"openat"}}
	failEINTR  = fault{name: "EINTR", errno: unix.EINTR, at: []string{"openat", "read", "write", "fsync", "flock"}}
	shortWrite = fault{name: "short write", short: true, at: []string{"write", "pwrite64"}}
)

// command is a program to run under the stepper. Its environment is what is given, its log goes to stderr.
type command struct {
	args  []string
	env   []string
	stdin string   // file name
	watch []string // folders
	// sockets has what is read from sockets and written to them watched too, under a path of "socket:[NUMBER]".
	sockets bool
}

// outcome is what a run came to.
type outcome struct {
	exit   int // -1 when killed
	stdout string
	stderr string
	hit    *event  // the call that the fault befell
	events []event // with what was said, in order
}

// tracer is one run.
type tracer struct {
	command
	n     int // the fault befalls the n-th call that it may
	fault fault
	seen  int
	out   outcome
	tasks map[int]*task // alive
}

// task is a thread of the family, and the call that it is in.
type task struct {
	started bool
	call    *event
	inject  bool
}

// run runs c and lets the fault befall its n-th call; with n == 0 nothing happens.
func (c command) run(n int, f fault) (outcome, error) {
	type result struct {
		outcome
		error
	}
	done := make(chan result)
	go func() { // with the thread locked and not unlocked: it ends with the goroutine, and with it whatever it traces
		runtime.LockOSThread()
		t := &tracer{command: c, n: n, fault: f, tasks: map[int]*task{}}
		err := t.run()
		done <- result{t.out, err}
	}()
	r := <-done
	return r.outcome, r.error
}

func (t *tracer) run() error {
	dir, err := os.MkdirTemp("", "stepper")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	var files []*os.File
	for _, name := range []string{t.stdin, dir + "/out", dir + "/err"} {
		if name == "" {
			name = os.DevNull
		}
		f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return err
		}
		defer f.Close()
		files = append(files, f)
	}
	var numbers []string
	for nr := range known {
		numbers = append(numbers, strconv.FormatUint(nr, 10))
	}
	args := append([]string{filepath.Join(cmp.Or(tools, bin), "filtered"), strings.Join(numbers, ",")}, t.args...)
	p, err := os.StartProcess(args[0], args, &os.ProcAttr{Env: t.env, Files: files, Sys: &syscall.SysProcAttr{Ptrace: true}})
	if err != nil {
		return fmt.Errorf("cannot trace %s: %w: these tests need ptrace(2), which containers may forbid (docker run --cap-add SYS_PTRACE)", t.args[0], err)
	}
	pid := p.Pid
	defer p.Release()
	var ws unix.WaitStatus
	if _, err := unix.Wait4(pid, &ws, 0, nil); err != nil || !ws.Stopped() {
		return fmt.Errorf("%s did not stop for its tracer (%v, status %#x): these tests need ptrace(2)", t.args[0], err, ws)
	}
	const options = unix.PTRACE_O_TRACESYSGOOD | unix.PTRACE_O_TRACECLONE | unix.PTRACE_O_TRACEFORK | unix.PTRACE_O_TRACEVFORK |
		unix.PTRACE_O_TRACEEXEC | unix.PTRACE_O_TRACESECCOMP | unix.PTRACE_O_EXITKILL
	if err := unix.PtraceSetOptions(pid, options); err != nil {
		return fmt.Errorf("ptrace: %w", err)
	}
	t.tasks[pid] = &task{started: true}
	if err := unix.PtraceCont(pid, 0); err != nil {
		return fmt.Errorf("ptrace: %w", err)
	}
	if err := t.loop(pid); err != nil {
		return err
	}
	out, err := os.ReadFile(dir + "/out")
	t.out.stdout = string(out)
	log, err2 := os.ReadFile(dir + "/err")
	t.out.stderr = string(log)
	return errors.Join(err, err2)
}

// loop lets the family run until all of it has ended.
func (t *tracer) loop(root int) error {
	for len(t.tasks) > 0 {
		var ws unix.WaitStatus
		tid, err := unix.Wait4(-1, &ws, unix.WALL|unix.WNOTHREAD, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if errors.Is(err, unix.ECHILD) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("wait: %w", err)
		}
		switch {
		case ws.Exited() || ws.Signaled():
			delete(t.tasks, tid)
			if tid == root {
				t.out.exit = ws.ExitStatus() // -1 for a signal
			}
			continue
		case !ws.Stopped():
			continue
		}
		k := t.tasks[tid]
		if k == nil {
			k = &task{}
			t.tasks[tid] = k
		}
		signal := 0
		switch sig := ws.StopSignal(); {
		case sig == unix.SIGTRAP|0x80 || sig == unix.SIGTRAP && ws.TrapCause() == unix.PTRACE_EVENT_SECCOMP:
			err = t.syscall(tid, k)
		case sig == unix.SIGTRAP && ws.TrapCause() == unix.PTRACE_EVENT_EXEC:
			var former uint
			if former, err = unix.PtraceGetEventMsg(tid); int(former) != tid {
				delete(t.tasks, int(former)) // it goes on under this number
			}
		case sig == unix.SIGTRAP: // a new task
		case sig == unix.SIGSTOP && !k.started:
			k.started = true
		default:
			signal = int(sig)
		}
		if err == nil && k.call != nil {
			err = unix.PtraceSyscall(tid, signal) // to the end of the call
		} else if err == nil {
			err = unix.PtraceCont(tid, signal)
		}
		if err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("ptrace: %w", err)
		}
	}
	return nil
}

// syscallInfo is struct ptrace_syscall_info.
type syscallInfo struct {
	op   uint8
	_    [23]byte
	body [7]uint64 // at entry: number and arguments; at exit: result
	_    [8]byte
}

func (t *tracer) syscall(tid int, k *task) error {
	var info syscallInfo
	if _, _, e := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_GET_SYSCALL_INFO, uintptr(tid), unsafe.Sizeof(info), uintptr(unsafe.Pointer(&info)), 0, 0); e != 0 {
		return e
	}
	switch info.op {
	case unix.PTRACE_SYSCALL_INFO_SECCOMP:
		return t.enter(tid, k, info.body[0], [6]uint64(info.body[1:]))
	case unix.PTRACE_SYSCALL_INFO_EXIT:
		return t.leave(tid, k, int64(info.body[0]))
	}
	return nil
}

func (t *tracer) enter(tid int, k *task, nr uint64, a [6]uint64) error {
	k.call = t.describe(tid, nr, a)
	if k.call == nil || k.call.name == "say" || t.n == 0 || !t.fault.befalls(*k.call) {
		return nil
	}
	if t.seen++; t.seen != t.n {
		return nil
	}
	t.out.hit = k.call
	switch {
	case t.fault.all:
		for tid := range t.tasks {
			_ = unix.Kill(tid, unix.SIGKILL) // gone already, perhaps
		}
	case t.fault.kill:
		return unix.Kill(tid, unix.SIGKILL)
	case t.fault.short && a[2] > 1:
		return t.change(tid, func(r *unix.PtraceRegs) { r.Rdx = a[2] / 2 })
	case t.fault.errno != 0:
		k.inject = true
		return t.change(tid, func(r *unix.PtraceRegs) { r.Orig_rax = ^uint64(0) }) // no such call
	}
	return nil
}

func (t *tracer) leave(tid int, k *task, result int64) error {
	e := k.call
	k.call = nil
	if e != nil {
		e.failed = result < 0 || k.inject
		t.out.events = append(t.out.events, *e)
	}
	if k.inject {
		k.inject = false
		return t.change(tid, func(r *unix.PtraceRegs) { r.Rax = uint64(-int64(t.fault.errno)) })
	}
	return nil
}

func (t *tracer) change(tid int, f func(*unix.PtraceRegs)) error {
	var r unix.PtraceRegs
	if err := unix.PtraceGetRegs(tid, &r); err != nil {
		return err
	}
	f(&r)
	return unix.PtraceSetRegs(tid, &r)
}

// describe tells what a call is about; nil for one that is not watched.
func (t *tracer) describe(tid int, nr uint64, a [6]uint64) *event {
	call, ok := known[nr]
	if !ok {
		return nil
	}
	e := &event{name: call.name}
	switch {
	case call.dir >= 0:
		e.path = t.path(tid, a[call.dir], a[call.dir+1])
		e.creates = nr == unix.SYS_OPENAT && a[2]&unix.O_CREAT != 0
		if call.dir2 >= 0 {
			e.to = t.path(tid, a[call.dir2], a[call.dir2+1])
		}
	case nr == unix.SYS_WRITE && a[0] == 1:
		return &event{name: "say", path: t.memory(tid, a[1], int(min(a[2], 8<<10)))}
	default:
		e.path, _ = os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", tid, int32(a[call.fd])))
	}
	if t.sockets && strings.HasPrefix(e.path, "socket:[") {
		return e
	}
	for _, dir := range t.watch {
		if e.path == dir || strings.HasPrefix(e.path, dir+"/") {
			return e
		}
	}
	return nil
}

// path is a name as the kernel sees it, links in it left out of account but those of /proc/self/fd.
func (t *tracer) path(tid int, dir, name uint64) string {
	path, _, _ := strings.Cut(t.memory(tid, name, unix.PathMax), "\x00")
	if rest, ok := strings.CutPrefix(path, "/proc/self/fd/"); ok {
		path, _ = os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", tid, rest))
	}
	if strings.HasPrefix(path, "/") {
		return filepath.Clean(path)
	}
	at := fmt.Sprintf("/proc/%d/cwd", tid)
	if int32(dir) != unix.AT_FDCWD {
		at = fmt.Sprintf("/proc/%d/fd/%d", tid, int32(dir))
	}
	base, _ := os.Readlink(at)
	return filepath.Join(base, path)
}

func (t *tracer) memory(tid int, at uint64, n int) string {
	f, err := os.Open(fmt.Sprintf("/proc/%d/mem", tid))
	if err != nil {
		return ""
	}
	defer f.Close()
	b := make([]byte, n)
	got, _ := f.ReadAt(b, int64(at)) // what is behind the name may not be mapped
	return string(b[:got])
}

// The layout that the kernel writes must be that of syscallInfo.
var _ = [1]struct{}{}[unsafe.Sizeof(syscallInfo{})-88]
