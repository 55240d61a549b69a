// Package command gives a message to a program: `pipe:` destinations, "|command" in aliases and .forward, sendmail for a forward.
//
// No shell is ever run. The program has the message as its standard input, an environment from a closed list, a process group of
// its own and a time limit; its exit status (sysexits(3)) and the last line of its output are the outcome, as Postfix's pipe(8) has it.
package command

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postel-mail/postel/internal/status"
	"github.com/postel-mail/postel/internal/sysexits"
)

// Limit is how long a program may take when its Spec says nothing.
const Limit = 1000 * time.Second

// searchPath is where a program without a slash in its name is looked for, and its own PATH.
const searchPath = "/usr/local/bin:/usr/bin:/bin"

// drain is how long output is awaited from what an ended program left behind.
const drain = time.Second

// Spec is one run of a program.
type Spec struct {
	Args       []string            // program and arguments; a program without a slash is looked for in /usr/local/bin, /usr/bin and /bin
	Env        []string            // the whole environment, as Words.Environ makes it; nothing is inherited
	Stdin      *os.File            // placed at the message's first octet; nil is /dev/null
	Stdout     io.Writer           // nil: the output is part of the outcome
	Dir        string              // working directory; "" is /
	Credential *syscall.Credential // user, group and groups to run as; nil is this process's own
	Limit      time.Duration       // 0 is the package's Limit
}

// Run runs the program to its end. The outcome is nil for exit status 0. Otherwise the exit status is read as sysexits(3), and the last
// line of the output, a leading "program: " cut off, is the text; a code "x.y.z" at its start is the enhanced code. Where exit status and
// code disagree on whether to try again, the message is kept for another try; a status that is not in sysexits(3) leaves it to
// the code. A program that cannot be started, runs too long or is ended by a signal says nothing about the message: temporary.
func Run(ctx context.Context, s Spec) *status.Error {
	program, err := find(s.Args)
	if err != nil {
		return status.Temporary(451, "4.3.5", "Delivery program cannot be started", fmt.Errorf("command: %w", err))
	}
	limit := s.Limit
	if limit == 0 {
		limit = Limit
	}
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var output lastLine
	cmd := &exec.Cmd{Path: program, Args: s.Args, Env: s.Env, Dir: s.Dir, Stdout: &output, Stderr: &output, WaitDelay: drain,
		SysProcAttr: &syscall.SysProcAttr{Setpgid: true, Credential: s.Credential}}
	if s.Stdin != nil { // a nil *os.File in the interface would not be nil
		cmd.Stdin = s.Stdin
	}
	if s.Stdout != nil {
		cmd.Stdout = s.Stdout
	}
	if cmd.Dir == "" {
		cmd.Dir = "/"
	}
	if cmd.Env == nil { // exec would hand down this process's own
		cmd.Env = []string{"PATH=" + searchPath}
	}
	if err := cmd.Start(); err != nil {
		return status.Temporary(451, "4.3.5", "Delivery program cannot be started", fmt.Errorf("command: %w", err))
	}
	killed := await(limited, cmd.Process.Pid)
	err = cmd.Wait()
	switch state := cmd.ProcessState; {
	case killed && ctx.Err() != nil:
		return status.Temporary(451, "4.3.0", "Delivery program was stopped", fmt.Errorf("command: %s: %w", program, ctx.Err()))
	case killed:
		return status.Temporary(451, "4.3.0", "Delivery program took too long", fmt.Errorf("command: %s: killed after %v", program, limit))
	case state == nil:
		return status.Temporary(451, "4.3.0", "Delivery program failed", fmt.Errorf("command: %s: %w", program, err))
	case !state.Exited():
		return status.Temporary(451, "4.3.0", "Delivery program failed", fmt.Errorf("command: %s: %v: %s", program, state, output.text()))
	default:
		return outcome(state.ExitCode(), program, output.text(), output.before())
	}
}

// await waits until the process has ended, and kills its group when ctx ends first. The process is not reaped here, so that its number
// cannot belong to a stranger when the group is killed.
func await(ctx context.Context, pid int) (killed bool) {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for errors.Is(unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil), unix.EINTR) {
		}
	}()
	select {
	case <-ended:
		return false
	case <-ctx.Done():
		_ = unix.Kill(-pid, unix.SIGKILL) // fails only when it has just ended
		<-ended
		return true
	}
}

// find gives the path of the program to run.
func find(args []string) (string, error) {
	if len(args) == 0 || args[0] == "" {
		return "", errors.New("no program is named")
	}
	name := args[0]
	if strings.HasPrefix(name, "/") {
		return name, nil
	}
	if strings.Contains(name, "/") {
		return "", fmt.Errorf("%q is not an absolute path", name)
	}
	for dir := range strings.SplitSeq(searchPath, ":") {
		path := filepath.Join(dir, name)
		if st, err := os.Stat(path); err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 {
			return path, nil
		}
	}
	return "", fmt.Errorf("%q is in none of %s", name, searchPath)
}

// outcome reads exit status and last line of output. The line before it is for the log, as the programs of this suite give the cause there.
func outcome(code int, program, line, before string) *status.Error {
	s := sysexits.ToStatus(code)
	if s == nil {
		return nil
	}
	s.Err = fmt.Errorf("command: %s: exit status %d: %s", program, code, cmp.Or(before, line))
	line = strings.TrimPrefix(line, filepath.Base(program)+": ")
	enhanced, text, ok := status.CutEnhanced(line)
	if !ok {
		if line != "" {
			s.Text = line
		}
		return s
	}
	if text != "" {
		s.Text = text
	}
	judged := code >= sysexits.Usage && code <= sysexits.Config
	temporary := enhanced[0] != '5' || judged && s.Temporary()
	switch {
	case temporary && !s.Temporary():
		s.Code = 451
	case !temporary && s.Temporary():
		s.Code = 550
	}
	s.Enhanced = "5" + enhanced[1:]
	if temporary {
		s.Enhanced = "4" + enhanced[1:]
	}
	return s
}

// lastLine is a writer that keeps the last two lines that have words in them, the first KiB of each.
type lastLine struct{ previous, last, current []byte }

func (l *lastLine) Write(p []byte) (int, error) {
	const most = 1024
	for _, c := range p {
		if c == '\n' {
			l.end()
		} else if len(l.current) < most {
			l.current = append(l.current, c)
		}
	}
	return len(p), nil
}

func (l *lastLine) end() {
	if len(strings.TrimSpace(string(l.current))) > 0 {
		l.previous, l.last = l.last, append(l.previous[:0], l.current...)
	}
	l.current = l.current[:0]
}

// before is the line in front of the last, "" where there is only one.
func (l *lastLine) before() string { return status.Clean(string(l.previous)) }

func (l *lastLine) text() string {
	l.end()
	return status.Clean(string(l.last))
}
