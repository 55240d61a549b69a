package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"github.com/postel-mail/postel/internal/process"
	"github.com/postel-mail/postel/internal/sysexits"
)

// command is the command line of another program of the suite.
func command(name string, common []string, args ...string) []string {
	return append(append([]string{name}, common...), args...)
}

// become replaces this process by another program. It returns only when that fails.
func become(args []string) error {
	path, err := process.Beside(args[0])
	if err == nil {
		err = syscall.Exec(path, args, os.Environ())
	}
	return fmt.Errorf("cannot run %s: %w", path, err)
}

// runAll runs programs side by side until all have ended. SIGTERM, SIGINT and SIGHUP are passed on; when one program ends, the others are
// told to. The error is that of the one that ended first.
func runAll(commands ...[]string) error {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	ended := make(chan error, len(commands))
	var running []*exec.Cmd
	tell := func(s os.Signal) {
		for _, c := range running {
			_ = c.Process.Signal(s) // it may have ended by now
		}
	}
	outcomes := 0
	for _, args := range commands {
		outcomes++
		c, err := start(args)
		if err != nil {
			ended <- err
			break
		}
		running = append(running, c)
		go func() { ended <- result(args[0], c.Wait()) }()
	}
	var first error
	for n := 0; n < outcomes; {
		select {
		case s := <-signals:
			tell(s)
		case err := <-ended:
			if n++; n == 1 {
				first = err
				tell(syscall.SIGTERM)
			}
		}
	}
	return first
}

func start(args []string) (*exec.Cmd, error) {
	path, err := process.Beside(args[0])
	if err != nil {
		return nil, err
	}
	c := &exec.Cmd{Path: path, Args: args, Stdout: os.Stdout, Stderr: os.Stderr}
	if err := c.Start(); err != nil {
		return nil, fmt.Errorf("cannot run %s: %w", args[0], err)
	}
	return c, nil
}

// result says with which exit status a program ended; what it had to say it has said itself.
func result(name string, err error) error {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return err
	}
	err = fmt.Errorf("%s ended: %w", name, err)
	if code := exit.ExitCode(); code >= sysexits.Usage {
		return sysexits.With(code, err)
	}
	return err
}
