// Package build builds programs for the tests of a package, once.
package build

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"testing"
)

// Main is a TestMain's work: it builds packages, named as go build has them, the way the Makefile does, into a new folder that every user may enter, sets *dir to it,
// runs the tests, and removes the folder. It gives the exit status.
func Main(m *testing.M, dir *string, packages ...string) (status int) {
	var err error
	if *dir, err = os.MkdirTemp("", "postel-bin-"); err != nil {
		return failed(err)
	}
	defer os.RemoveAll(*dir)
	c := exec.Command("go", append([]string{"build", "-trimpath", "-o", *dir + "/"}, packages...)...)
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := c.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("go build: %w\n%s", err, out)
	}
	if err = errors.Join(err, os.Chmod(*dir, 0o755)); err != nil {
		return failed(err)
	}
	return m.Run()
}

func failed(err error) int {
	fmt.Fprintln(os.Stderr, err)
	return 70
}
