// Package program is what every main but sendmail's shares: the flags that all programs have, on top of package process.
package program

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/postel-mail/postel/internal/config"
	"github.com/postel-mail/postel/internal/maillog"
	"github.com/postel-mail/postel/internal/process"
	"github.com/postel-mail/postel/internal/sysexits"
)

// Program is one program of the suite while it starts.
type Program struct {
	*cobra.Command
	process.Process

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
	p.Prog = p.Name()
	p.Flags().SortFlags = false
	p.Flags().StringVarP(&p.ConfigFile, "config", "C", "", "configuration `FILE` (default $POSTEL_CONFIG, then "+config.DefaultFile+")")
	p.Flags().StringVar(&p.LogForm, "log", "", "log as `FORM`: "+maillog.Forms+" (default text, or syslog where stderr is a socket)")
	p.Flags().BoolVar(&p.CheckOnly, "check", false, "read configuration and tables, say what is wrong, and exit")
	p.Flags().Bool("help", false, "print this help and exit")
	p.Flags().BoolVar(&p.version, "version", false, "print the version and exit")
	return p
}

// NoArgs is the Args of a program that takes none besides flags.
func NoArgs(c *cobra.Command, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("unexpected argument %q (see %s --help)", args[0], c.Name())
	}
	return nil
}

// Main runs the program with the command line args (without the program's name) and gives its exit status, as process.Exit does.
func (p *Program) Main(args []string) (exit int) {
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
			return p.PrintVersion()
		}
		return run(c, args)
	}
	return p.Exit(p.Execute)
}
