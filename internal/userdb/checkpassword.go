package userdb

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/postel-mail/postel/internal/clock"
)

// checkpassword is a source: passwords by a program that speaks D. J. Bernstein's checkpassword interface
// (http://cr.yp.to/checkpwd/interface.html), accounts by the host's own users.
//
// The program gets "name\0password\0timestamp\0" on descriptor 3 and the command "/usr/bin/env -0" to run when they fit; USER, HOME
// and SHELL are read from what that prints. Exit status 1 is a wrong password, any other but 0 is temporary.
type checkpassword struct {
	program string
	system  *system
}

const (
	checkpasswordTime   = 30 * time.Second
	checkpasswordInput  = 512      // octets, by the interface
	checkpasswordOutput = 64 << 10 // octets
)

func openCheckpassword(db *DB, program, etc string) (*checkpassword, error) {
	fi, err := os.Stat(program)
	if err != nil {
		return nil, fmt.Errorf("userdb: checkpassword: %w", err)
	}
	if !strings.HasPrefix(program, "/") || !fi.Mode().IsRegular() || fi.Mode()&0o111 == 0 {
		return nil, fmt.Errorf("userdb: checkpassword: %s is not the absolute path of a program", program)
	}
	s, err := openSystem(db, etc)
	if err != nil {
		return nil, err
	}
	return &checkpassword{program, s}, nil
}

func (c *checkpassword) reload() error { return c.system.reload() }

func (c *checkpassword) lookup(ctx context.Context, n name) (User, error) {
	return c.system.lookup(ctx, n)
}

func (c *checkpassword) authenticate(ctx context.Context, n name, password string) (User, error) {
	input := n.full + "\x00" + password + "\x00" + strconv.FormatInt(clock.Now().Unix(), 10) + "\x00"
	if n.full == "" || password == "" || len(input) > checkpasswordInput {
		return User{}, ErrBadCredentials
	}
	select { // the program does the work, but the machine is the same
	case c.system.db.checks <- struct{}{}:
	case <-ctx.Done():
		return User{}, ctx.Err()
	}
	defer func() { <-c.system.db.checks }()
	out, err := c.run(ctx, input)
	if err != nil {
		return User{}, err
	}
	return c.user(ctx, out)
}

// run gives what "env -0" printed.
func (c *checkpassword) run(ctx context.Context, input string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, checkpasswordTime)
	defer cancel()
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("userdb: checkpassword: %w", err)
	}
	defer r.Close()
	_, err = w.WriteString(input) // fits in an empty pipe
	if err = errors.Join(err, w.Close()); err != nil {
		return nil, fmt.Errorf("userdb: checkpassword: %w", err)
	}
	out := &limitedBuffer{}
	cmd := exec.CommandContext(ctx, c.program, "/usr/bin/env", "-0")
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.ExtraFiles = "/", []string{"PATH=/usr/local/bin:/usr/bin:/bin"}, out, []*os.File{r}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	err = cmd.Run()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return nil, fmt.Errorf("userdb: checkpassword: %s: %w", c.program, ctx.Err())
	case errors.As(err, &exit) && exit.ExitCode() == 1:
		return nil, ErrBadCredentials
	case err != nil:
		return nil, fmt.Errorf("userdb: checkpassword: %s: %w", c.program, err)
	}
	return out.b.Bytes(), nil
}

// user reads the account from the environment that the program made. A user that the host knows besides has its ids.
func (c *checkpassword) user(ctx context.Context, environ []byte) (User, error) {
	env := map[string]string{}
	for v := range strings.SplitSeq(string(environ), "\x00") {
		key, value, _ := strings.Cut(v, "=")
		env[key] = value
	}
	n, ok := c.system.db.checkName(env["USER"])
	if !ok || !strings.HasPrefix(env["HOME"], "/") {
		return User{}, fmt.Errorf("userdb: checkpassword: %s: set USER=%q HOME=%q", c.program, env["USER"], env["HOME"])
	}
	u, err := c.system.lookup(ctx, n)
	if errors.Is(err, ErrNoUser) {
		u, err = User{Name: n.local, Domain: n.domain, UID: -1, GID: -1}, nil
	}
	u.Home, u.Shell = env["HOME"], env["SHELL"]
	return u, err
}

// limitedBuffer keeps what it gets and refuses more than 64 KiB.
type limitedBuffer struct{ b bytes.Buffer }

func (b *limitedBuffer) Write(p []byte) (int, error) {
	if b.b.Len()+len(p) > checkpasswordOutput {
		return 0, errors.New("too much output")
	}
	return b.b.Write(p)
}
