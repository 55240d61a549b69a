package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// process is a program that stays.
type process struct {
	*exec.Cmd
	ended chan struct{} // closed at its end
}

// launch starts a program. What it says goes to the end of the file log.
func launch(c *exec.Cmd, log string) (*process, error) {
	f, err := os.OpenFile(log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	c.Stdout, c.Stderr = f, f
	if err := c.Start(); err != nil {
		return nil, err
	}
	p := &process{c, make(chan struct{})}
	go func() {
		defer close(p.ended)
		_ = c.Wait() // who waits for it to go on sees that it does not
	}()
	return p, nil
}

// end ends a program and those that it has started.
func (p *process) end() {
	_ = p.Process.Signal(syscall.SIGTERM) // it may be gone
	select {
	case <-p.ended:
	case <-time.After(3 * time.Second):
		p.kill()
	}
}

// kill ends a program at once.
func (p *process) kill() {
	_ = p.Process.Kill()
	<-p.ended
}

// pids is the process alone.
func (p *process) pids() []int { return []int{p.Process.Pid} }

// listens waits until somebody does at addr.
func (p *process) listens(addr string) error {
	for range 300 {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			return c.Close()
		}
		select {
		case <-p.ended:
			return errors.New(p.Path + " ended: " + p.ProcessState.String())
		case <-time.After(50 * time.Millisecond):
		}
	}
	return errors.New(p.Path + " does not listen at " + addr)
}

// family gives the process and those below it.
func family(pid int) []int {
	all := []int{pid}
	children := map[int][]int{}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, stat := range stats {
		if f := fields(stat); f != nil {
			child, _ := strconv.Atoi(filepath.Base(filepath.Dir(stat)))
			parent, _ := strconv.Atoi(f[1])
			children[parent] = append(children[parent], child)
		}
	}
	for i := 0; i < len(all); i++ {
		all = append(all, children[all[i]]...)
	}
	return all
}

// fields are those of proc_pid_stat(5) from the third on, so that number n stands at n-3; nil when the process is gone.
func fields(stat string) []string {
	b, err := os.ReadFile(stat)
	if err != nil {
		return nil
	}
	return strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
}

// used is the processor time that processes have used, with their children that have ended.
func used(pids ...int) (total time.Duration) {
	const tick = 10 * time.Millisecond // USER_HZ is 100 on every machine that Go knows
	for _, pid := range pids {
		f := fields(fmt.Sprintf("/proc/%d/stat", pid))
		for i := 14; i <= 17 && f != nil; i++ {
			n, _ := strconv.Atoi(f[i-3])
			total += time.Duration(n) * tick
		}
	}
	return total
}

// settle waits until the disk of path has nothing left to write.
func settle(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return fmt.Errorf("syncfs %s: %w", path, err)
	}
	time.Sleep(300 * time.Millisecond)
	return nil
}

// resident gives a process's memory now and at most, in MiB.
func resident(pid int) (now, most float64) {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	for line := range strings.Lines(string(b)) {
		var kib float64
		if _, err := fmt.Sscanf(line, "VmRSS: %f kB", &kib); err == nil {
			now = kib / 1024
		}
		if _, err := fmt.Sscanf(line, "VmHWM: %f kB", &kib); err == nil {
			most = kib / 1024
		}
	}
	return now, most
}

// postfix is a Postfix in a root of its own.
type postfix struct {
	root   string
	master *process
}

// quick takes everything out of a Postfix that would only slow a benchmark.
const quick = `compatibility_level = 3.6
myhostname = bench.test
mydestination =
inet_interfaces = loopback-only
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
alias_maps =
default_process_limit = 250
qmgr_message_active_limit = 20000
initial_destination_concurrency = 20
smtp_destination_concurrency_limit = 50
in_flow_delay = 0
smtpd_client_connection_count_limit = 0
smtpd_error_sleep_time = 0
smtpd_tls_security_level = none
smtp_tls_security_level = none
smtpd_peername_lookup = no
smtp_dns_support_level = disabled
`

// start starts it with more configuration; one that runs is stopped first.
func (p *postfix) start(more string) error {
	p.stop()
	if err := os.WriteFile(p.root+"/etc/postfix/main.cf", []byte(quick+more), 0o644); err != nil {
		return err
	}
	var err error
	if p.master, err = launch(inside(p.root, "/usr/sbin/postfix", "start-fg"), p.root+".log"); err != nil {
		return err
	}
	return p.master.listens("127.0.0.1:25")
}

// pids are its processes.
func (p *postfix) pids() []int { return family(p.master.Process.Pid) }

func (p *postfix) stop() {
	if p.master != nil {
		_ = inside(p.root, "/usr/sbin/postfix", "stop").Run() // end does the rest
		p.master.end()
		p.master = nil
		for range 100 { // its children have the sockets, and may outlive it
			c, err := net.Dial("tcp", "127.0.0.1:25")
			if err != nil {
				break
			}
			c.Close()
			time.Sleep(50 * time.Millisecond)
		}
	}
}
