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
	"github.com/postel-mail/postel/internal/maillog"
	"github.com/postel-mail/postel/internal/program"
	"github.com/postel-mail/postel/internal/queue"
	"github.com/postel-mail/postel/internal/runner"
	"github.com/postel-mail/postel/internal/sysexits"
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
		every, err := config.ParseDuration(wake)
		if err != nil || every == 0 {
			return sysexits.With(sysexits.Usage, fmt.Errorf("--wake %q: write a duration as 5m", wake))
		}
		t, err := load(p)
		if err != nil {
			return err
		}
		if p.CheckOnly {
			return t.aliases.Check()
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
		return work(p, t, mode, every)
	}
	return p.Main(args)
}

// work runs the queue until the mode is fulfilled or a signal says stop.
func work(p *program.Program, t *tables, mode runner.Mode, wake time.Duration) error {
	log, err := p.Log()
	if err != nil {
		return err
	}
	spool, err := openSpool(t.config)
	if err != nil {
		return err
	}
	defer spool.Close()

	var current atomic.Pointer[tables]
	current.Store(t)
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	defer watchHangup(p, log, &current)()

	way := newTransport(t, current.Load)
	defer way.Close()
	c := t.config
	r := &runner.Runner{
		Spool: spool, Log: log, Hostname: c.Hostname, Attempt: way.Attempt,
		Routes:   func() *runner.Routes { return &current.Load().routes },
		Lifetime: time.Duration(c.Queue.Lifetime), Warn: time.Duration(c.Queue.Warn),
		First: time.Duration(c.Queue.Retry[0]), Longest: time.Duration(c.Queue.Retry[1]),
		Concurrency: c.Queue.Concurrency, Processes: c.Queue.Processes, Wake: wake,
	}
	if mode == runner.Stay {
		log.Start(program.Version, spool.Order())
	}
	err = r.Run(ctx, mode)
	if errors.Is(err, runner.ErrRunning) {
		return sysexits.With(sysexits.TempFail, fmt.Errorf("%w: %s", err, c.Spool))
	}
	if err == nil && ctx.Err() != nil {
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
	spool.MinFree = int64(c.Limits.MinFree)
	return spool, nil
}

// watchHangup reads the tables again on SIGHUP; the function it returns ends that.
func watchHangup(p *program.Program, log *maillog.Log, current *atomic.Pointer[tables]) (stop func()) {
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, unix.SIGHUP)
	go func() {
		for range hangups {
			if t, err := load(p); err != nil {
				log.ReloadFailed(err)
			} else {
				current.Store(t)
				log.Reload()
			}
		}
	}()
	return func() { signal.Stop(hangups); close(hangups) }
}

// agent is the command line of the delivery agent.
func agent(p *program.Program) (destination.Destination, error) {
	deliver, err := program.Beside("deliver")
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
