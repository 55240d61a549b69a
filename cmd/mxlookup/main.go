// Command mxlookup prints the mail hosts of domains, in the order in which postel's MTA tries them. See mxlookup(1).
package main

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/postel-mail/postel/internal/config"
	"github.com/postel-mail/postel/internal/hostlist"
	"github.com/postel-mail/postel/internal/maillog"
	"github.com/postel-mail/postel/internal/mx"
	"github.com/postel-mail/postel/internal/process"
	"github.com/postel-mail/postel/internal/program"
	"github.com/postel-mail/postel/internal/sysexits"
)

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	var (
		l       hostlist.List
		servers []string
		timeout string
	)
	p := program.New("mxlookup [flags] [name...]", "print the mail hosts of a domain, best first",
		`  mxlookup example.org | while read -r pref host; do echo "$host"; done`)
	f := p.Flags()
	f.BoolVarP(&l.Addresses, "addresses", "a", false, "add the addresses of each host")
	f.BoolVarP(&l.First, "first", "1", false, "print only the first line of each name")
	f.BoolVar(&l.JSON, "json", false, "print one JSON object a name")
	f.StringArrayVar(&l.Own, "me", nil, "leave out the host `NAME` and those that are not better; may be repeated")
	f.BoolVar(&l.Explain, "explain", false, "say on stderr which rule applied")
	f.StringArrayVar(&servers, "server", nil, "ask the DNS server at `ADDR`; may be repeated (default from the configuration, then /etc/resolv.conf)")
	f.StringVar(&timeout, "timeout", "30s", "take no longer than `DURATION` for a name")
	f.IntVar(&l.Jobs, "jobs", 100, "look up `N` names at a time, 1 to 1000")
	p.Args = cobra.ArbitraryArgs
	p.RunE = func(_ *cobra.Command, args []string) (err error) {
		if l.Timeout, err = config.ParseDuration(timeout); err != nil || l.Timeout == 0 {
			return sysexits.With(sysexits.Usage, fmt.Errorf("--timeout: %q is not a time to wait; write 30s or 5m", timeout))
		}
		if l.Jobs < 1 || l.Jobs > 1000 {
			return sysexits.With(sysexits.Usage, errors.New("--jobs: must be 1 to 1000"))
		}
		if l.Resolver, err = resolver(p, servers, l.Timeout); err != nil || p.CheckOnly {
			return err
		}
		if l.Say, err = complain(p); err != nil {
			return err
		}
		l.Named = len(args) != 1 || args[0] == "-"
		worst, err := l.Print(args, os.Stdin, os.Stdout)
		if err == nil && worst != sysexits.OK {
			return sysexits.With(worst, process.ErrSilent)
		}
		return sysexits.With(sysexits.IOErr, err) // not a broken pipe: that ends the program by its signal, as it ends cat
	}
	return p.Main(args)
}

// resolver asks the servers of the command line; without any, those of the configuration.
func resolver(p *program.Program, servers []string, timeout time.Duration) (*mx.Resolver, error) {
	blame := sysexits.Usage
	if len(servers) == 0 || p.CheckOnly {
		c, err := p.Config()
		if err != nil {
			return nil, err
		}
		servers, blame = append(servers, c.DNS.Servers...), sysexits.Config
	}
	r, err := mx.New(mx.Options{Servers: servers, Timeout: timeout})
	return r, sysexits.With(blame, err)
}

// complain gives a function that says one line on stderr, or in the log when one is asked for or stderr is a client's socket.
func complain(p *program.Program) (func(string), error) {
	log, err := p.Log()
	if err != nil || p.LogForm != "" || maillog.StderrIsSocket() {
		return func(line string) { log.Problem("", errors.New(line)) }, err
	}
	return func(line string) { fmt.Fprintf(os.Stderr, "%s: %s\n", p.Name(), line) }, nil
}
