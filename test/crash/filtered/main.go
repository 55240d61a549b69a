//go:build linux && amd64

// Filtered runs a program under a seccomp(2) filter that stops it, and all that it starts, for its tracer at the calls whose numbers are given:
//
//	filtered NUMBER,NUMBER... PROGRAM [ARGUMENT...]
//
// A tracer that asks for every call instead is five times slower.
package main

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

func main() { os.Exit(run(os.Args)) }

func run(args []string) int {
	runtime.LockOSThread() // the filter is the thread's
	if err := filter(strings.Split(args[1], ",")); err != nil {
		fmt.Fprintln(os.Stderr, "filtered:", err)
		return 71
	}
	fmt.Fprintln(os.Stderr, "filtered:", syscall.Exec(args[2], args[2:], os.Environ()))
	return 71
}

func filter(numbers []string) error {
	program := []unix.SockFilter{{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0}} // the call's number
	for i, s := range numbers {
		n, err := strconv.ParseUint(s, 10, 16)
		if err != nil {
			return err
		}
		program = append(program, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: uint32(n), Jt: uint8(len(numbers) - i)})
	}
	program = append(program,
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_TRACE})
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	f := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	return unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&f)), 0, 0)
}
