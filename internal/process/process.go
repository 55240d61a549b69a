// Package process is what every program of the suite keeps to, whatever reads its flags: where the configuration is, which log, and the exit status at the
// end, also after a panic. It is the conventions of postel.7, once; package program adds the flags. It stands apart because sendmail, which is started
// for every message, has no time to load a library for flags.
package process

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"

	"github.com/postel-mail/postel/internal/config"
	"github.com/postel-mail/postel/internal/maillog"
	"github.com/postel-mail/postel/internal/sysexits"
)

// Version is what --version prints; the Makefile sets it from the tag.
var Version = "0.1.0"

// Process is one program of the suite while it runs.
type Process struct {
	Prog       string // its name
	ConfigFile string // --config
	LogForm    string // --log
	CheckOnly  bool   // --check
}

// Config reads the configuration; its errors exit 78.
func (p *Process) Config() (*config.Config, error) {
	c, err := config.Load(p.ConfigFile)
	return c, sysexits.With(sysexits.Config, err)
}

// ConfigPath is the configuration file that was asked for, as an absolute path for programs that start in another directory; "" for the default one.
func (p *Process) ConfigPath() (string, error) {
	file := p.ConfigFile
	if file == "" {
		file = os.Getenv("POSTEL_CONFIG")
	}
	if file == "" {
		return "", nil
	}
	return filepath.Abs(file)
}

// Log opens the log.
func (p *Process) Log() (*maillog.Log, error) {
	l, err := maillog.New(p.Prog, p.LogForm)
	return l, sysexits.With(sysexits.Usage, err)
}

// Exit runs the program and gives its exit status. What went wrong is said in lines "name: words" on stderr, or in the log when stderr is a socket. A
// panic is said too, and is 75: whoever called must not take a bug for a refusal.
func (p *Process) Exit(run func() error) (exit int) {
	defer func() {
		if v := recover(); v != nil {
			p.Say(fmt.Errorf("bug, please report it: %v\n%s", v, debug.Stack()))
			exit = sysexits.TempFail
		}
	}()
	err := run()
	if err != nil && err.Error() != "" {
		p.Say(err)
	}
	return sysexits.Of(err)
}

// Say tells the caller of the program something: in lines on stderr, or in the log when stderr is a socket.
func (p *Process) Say(err error) {
	if maillog.StderrIsSocket() {
		if l, e := maillog.New(p.Prog, "syslog"); e == nil {
			l.Problem("", err)
		}
		return
	}
	for line := range strings.SplitSeq(strings.TrimRight(err.Error(), "\n"), "\n") {
		fmt.Fprintf(os.Stderr, "%s: %s\n", p.Prog, line)
	}
}

// PrintVersion is what --version does.
func (p *Process) PrintVersion() error {
	_, err := fmt.Printf("%s (postel) %s\n", p.Prog, Version)
	return err
}

// ErrSilent is an error that has been said already: only its exit status counts.
var ErrSilent = errors.New("")

// Beside is the path of another program of the suite, which stands beside this one.
func Beside(name string) (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("cannot tell where this program is: %w", err)
	}
	return filepath.Join(filepath.Dir(self), name), nil
}
