// Qmgr is the queue runner; see qmgr(8).
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/postel-mail/postel/internal/config"
	"github.com/postel-mail/postel/internal/destination"
	"github.com/postel-mail/postel/internal/ledger"
	"github.com/postel-mail/postel/internal/maillog"
	"github.com/postel-mail/postel/internal/process"
	"github.com/postel-mail/postel/internal/program"
	"github.com/postel-mail/postel/internal/queue"
	"github.com/postel-mail/postel/internal/runner"
	"github.com/postel-mail/postel/internal/sysexits"
	"github.com/postel-mail/postel/internal/transport"
)

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	var once, untilEmpty, route bool
	var wake string
	p := program.New("qmgr [flags]", "run the mail queue", "  qmgr --log syslog\n  qmgr --once\n  qmgr --route alice@example.org")
	p.Flags().BoolVar(&once, "once", false, "make one pass over what is due, and exit")
	p.Flags().BoolVar(&untilEmpty, "exit-when-empty", false, "exit when nothing but held messages is queued")
	p.Flags().BoolVar(&route, "route", false, "print the route of each address in the arguments, and exit")
	p.Flags().StringVar(&wake, "wake", "5m", "look through the whole queue every `DURATION`, even when nothing wakes the runner")
	p.Args = func(_ *cobra.Command, args []string) error {
		if len(args) > 0 && !route {
			return fmt.Errorf("unexpected argument %q; addresses go with --route", args[0])
		}
		if len(args) == 0 && route {
			return errors.New("--route needs addresses")
		}
		return nil
	}
	p.RunE = func(_ *cobra.Command, args []string) error {
		// First of all: nothing that comes while the tables are read is lost, or ends the program; nor does a reader of the log that has gone.
		ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
		defer stop()
		hangups := make(chan os.Signal, 1)
		signal.Notify(hangups, unix.SIGHUP)
		signal.Notify(make(chan os.Signal, 1), unix.SIGPIPE)
		every, err := config.ParseDuration(wake)
		if err != nil || every == 0 {
			return sysexits.With(sysexits.Usage, fmt.Errorf("--wake %q: write a duration as 5m", wake))
		}
		t, err := load(p)
		if err != nil {
			return err
		}
		if p.CheckOnly {
			return sysexits.With(sysexits.Config, t.aliases.Check())
		}
		if route {
			return t.guide().Show(context.Background(), os.Stdout, args)
		}
		mode := runner.Stay
		if once {
			mode = runner.Once
		} else if untilEmpty {
			mode = runner.UntilEmpty
		}
		return work(ctx, p, t, mode, every, hangups)
	}
	return p.Main(args)
}

// work runs the queue until the mode is fulfilled or a signal says stop.
func work(ctx context.Context, p *program.Program, t *tables, mode runner.Mode, wake time.Duration, hangups <-chan os.Signal) error {
	log, err := p.Log()
	if err != nil {
		return err
	}
	spool, err := openSpool(t.config)
	if err != nil {
		return err
	}
	defer spool.Close()
	n, err := spool.Recover()
	if n > 0 {
		log.Recovered(n)
	}
	if err != nil {
		log.Problem("", err)
	}

	var current atomic.Pointer[tables]
	current.Store(t)
	go reload(p, log, hangups, &current)
	defer func() { current.Load().transport.Close() }()
	r := &runner.Runner{
		Spool: spool, Log: log, Wake: wake,
		Policy: func() *runner.Policy { return &current.Load().policy },
		Attempt: func(ctx context.Context, request transport.Request) []transport.Result {
			return current.Load().transport.Attempt(ctx, request)
		},
	}
	if mode == runner.Stay {
		r.Started = func() { log.Start(process.Version, spool.Order()) }
	}
	if r.Ledger, err = ledger.Open(t.config.Spool + "/ledger"); err != nil {
		log.Problem("", fmt.Errorf("reports are not counted: %w", err))
	} else {
		defer r.Ledger.Close()
	}
	defer collect(ctx, r, &current, mode)()
	err = r.Run(ctx, mode)
	switch {
	case errors.Is(err, runner.ErrRunning) && mode == runner.Once:
		spool.Trigger("") // it looks at everything that is due, which is what was asked for
		return nil
	case errors.Is(err, runner.ErrRunning):
		return sysexits.With(sysexits.TempFail, fmt.Errorf("%w: %s", err, t.config.Spool))
	case err == nil && ctx.Err() != nil:
		log.Stop("signal")
	}
	return err
}

func openSpool(c *config.Config) (*queue.Spool, error) {
	spool, err := queue.Open(c.Spool)
	if errors.Is(err, os.ErrPermission) {
		return nil, sysexits.With(sysexits.NoPerm, err)
	}
	if err != nil {
		return nil, err // for now: a full disk, no descriptors
	}
	spool.SetMinFree(int64(c.Limits.MinFree))
	return spool, nil
}

// reload reads configuration and tables again at each SIGHUP. Attempts that go on keep what they began with.
func reload(p *program.Program, log *maillog.Log, hangups <-chan os.Signal, current *atomic.Pointer[tables]) {
	for range hangups {
		t, err := load(p)
		if err == nil && t.config.Spool != current.Load().config.Spool {
			err = fmt.Errorf("spool: cannot change to %s while the runner works", t.config.Spool)
		}
		if err != nil {
			log.ReloadFailed(err)
			continue
		}
		current.Swap(t).transport.Close()
		log.Reload()
	}
}

// agent is the command line of the delivery agent.
func agent(p *program.Program) (destination.Destination, error) {
	deliver, err := process.Beside("deliver")
	if err != nil {
		return destination.Destination{}, err
	}
	args := []string{deliver}
	file, err := p.ConfigPath()
	if file != "" {
		args = append(args, "-C", file)
	}
	return destination.Destination{Kind: destination.Pipe, Args: args}, err
}
