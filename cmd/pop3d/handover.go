package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postel-mail/postel/internal/activation"
)

// childDrain is how long a session process may take to end after SIGTERM; it gives its own session 30 s.
const childDrain = 35 * time.Second

// handOver gives a connection to a process of its own, as inetd would, and waits for its end. That is how root serves: the new process
// becomes the user for good when the user has logged in, which this one could not.
func (d *pop3d) handOver(ctx context.Context, conn *activation.Conn) {
	if err := d.child(ctx, conn); err != nil {
		d.Log.Problem("", fmt.Errorf("session process for %s: %w", conn.Client(), err))
	}
}

func (d *pop3d) child(ctx context.Context, conn *activation.Conn) error {
	socket, err := conn.Handover()
	if err != nil {
		return err
	}
	defer socket.Close()
	args, err := d.childArgs()
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, self, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = socket, socket, os.Stderr
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "LISTEN_") }) // its connection is stdin
	cmd.Cancel = func() error { return cmd.Process.Signal(unix.SIGTERM) }
	cmd.WaitDelay = childDrain
	if err := cmd.Start(); err != nil {
		return err
	}
	socket.Close()
	if err = cmd.Wait(); ctx.Err() != nil {
		return nil // it was told to end
	}
	return err
}

// childArgs are the flags that the process of a session needs.
func (d *pop3d) childArgs() ([]string, error) {
	var args []string
	if d.ConfigFile != "" {
		file, err := filepath.Abs(d.ConfigFile)
		if err != nil {
			return nil, err
		}
		args = append(args, "--config", file)
	}
	if d.LogForm != "" {
		args = append(args, "--log", d.LogForm)
	}
	if d.ImplicitTLS {
		args = append(args, "--tls")
	}
	return args, nil
}
