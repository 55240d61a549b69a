// Package program is what every main shares: the flags that all programs have, the configuration and the log they name, and the
// exit status at the end, also after a panic. It is the conventions of postel.7, once.
package program

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"

	"github.com/postel-mail/postel/internal/config"
	"github.com/postel-mail/postel/internal/maillog"
	"github.com/postel-mail/postel/internal/sysexits"
)

// Version is what --version prints; the Makefile sets it from the tag.
var Version = "0.1.0"

// Program is one program of the suite while it starts.
type Program struct {
	*cobra.Command
	ConfigFile string // --config
	LogForm    string // --log
	CheckOnly  bool   // --check

	version bool // --version
}

// New makes a program that is used as usage says ("deliver [flags] [recipient]"), with the flags that all have. short is its
// one line, example a use of it.
func New(usage, short, example string) *Program {
	p := &Program{Command: &cobra.Command{
		Use: usage, Short: short, Long: strings.ToUpper(short[:1]) + short[1:] + ".", Example: example,
		SilenceErrors: true, SilenceUsage: true, DisableFlagsInUseLine: true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
	}}
	p.Flags().SortFlags = false
	p.Flags().StringVarP(&p.ConfigFile, "config", "C", "", "configuration `FILE` (default $POSTEL_CONFIG, then "+config.DefaultFile+")")
	p.Flags().StringVar(&p.LogForm, "log", "", "log as `FORM`: "+maillog.Forms+" (default text, or syslog where stderr is a socket)")
	p.Flags().BoolVar(&p.CheckOnly, "check", false, "read configuration and tables, say what is wrong, and exit")
	p.Flags().Bool("help", false, "print this help and exit")
	p.Flags().BoolVar(&p.version, "version", false, "print the version and exit")
	return p
}

// Config reads the configuration; its errors exit 78.
func (p *Program) Config() (*config.Config, error) {
	c, err := config.Load(p.ConfigFile)
	return c, sysexits.With(sysexits.Config, err)
}

// ConfigPath is the configuration file that was asked for, as an absolute path for programs that start in another directory; "" for the default one.
func (p *Program) ConfigPath() (string, error) {
	file := p.ConfigFile
	if file == "" {
		file = os.Getenv("POSTEL_CONFIG")
	}
	if file == "" {
		return "", nil
	}
	return filepath.Abs(file)
}

// Beside is the path of another program of the suite, which stands beside this one.
func Beside(name string) (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("cannot tell where this program is: %w", err)
	}
	return filepath.Join(filepath.Dir(self), name), nil
}

// NoArgs is the Args of a program that takes none besides flags.
func NoArgs(c *cobra.Command, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("unexpected argument %q (see %s --help)", args[0], c.Name())
	}
	return nil
}

// Log opens the log.
func (p *Program) Log() (*maillog.Log, error) {
	l, err := maillog.New(p.Name(), p.LogForm)
	return l, sysexits.With(sysexits.Usage, err)
}

// Main runs the program with the command line args (without the program's name) and gives its exit status. What went wrong is
// said in lines "name: words" on stderr, or in the log when stderr is a socket. A panic is said too, and is 75: whoever called must
// not take a bug for a refusal.
func (p *Program) Main(args []string) (exit int) {
	defer func() {
		if v := recover(); v != nil {
			p.Say(fmt.Errorf("bug, please report it: %v\n%s", v, debug.Stack()))
			exit = sysexits.TempFail
		}
	}()
	p.SetArgs(args)
	p.SetFlagErrorFunc(func(_ *cobra.Command, err error) error {
		return sysexits.With(sysexits.Usage, fmt.Errorf("%w (see %s --help)", err, p.Name()))
	})
	check, run := p.Command.Args, p.RunE
	p.Command.Args = func(c *cobra.Command, args []string) error {
		if p.version || check == nil {
			return nil
		}
		return sysexits.With(sysexits.Usage, check(c, args))
	}
	p.RunE = func(c *cobra.Command, args []string) error {
		if p.version { // not by cobra's template: text/template alone makes every program a third larger and slower to start
			_, err := fmt.Printf("%s (postel) %s\n", p.Name(), Version)
			return err
		}
		return run(c, args)
	}
	err := p.Execute()
	if err != nil && err.Error() != "" {
		p.Say(err)
	}
	return sysexits.Of(err)
}

// Say tells the caller of the program something: in lines on stderr, or in the log when stderr is a socket.
func (p *Program) Say(err error) {
	if maillog.StderrIsSocket() {
		if l, e := maillog.New(p.Name(), "syslog"); e == nil {
			l.Problem("", err)
		}
		return
	}
	for line := range strings.SplitSeq(strings.TrimRight(err.Error(), "\n"), "\n") {
		fmt.Fprintf(os.Stderr, "%s: %s\n", p.Name(), line)
	}
}

// ErrSilent is an error that has been said already: only its exit status counts.
var ErrSilent = errors.New("")
