package main

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/postel-mail/postel/internal/drop"
	"github.com/postel-mail/postel/internal/runner"
	"github.com/postel-mail/postel/internal/submission"
)

// collect has the runner take in what is left in the drop directory: at each look at the queue, and if it stays, at once. The function that it gives
// ends that.
func collect(ctx context.Context, r *runner.Runner, current *atomic.Pointer[tables], mode runner.Mode) (end func()) {
	c := &drop.Collector{Spool: r.Spool, Log: r.Log, Rules: func() submission.Submission {
		c := current.Load().config
		return submission.Submission{Hostname: c.Hostname, MaxSize: int64(c.Limits.MessageSize), MaxRecipients: c.Limits.Recipients, MaxHops: c.Limits.Hops}
	}}
	r.Collect = c.Collect
	ctx, cancel := context.WithCancel(ctx)
	var watching sync.WaitGroup
	started := r.Started
	r.Started = func() {
		if started != nil {
			started()
		}
		if err := c.Settle(ctx); err != nil {
			r.Log.Problem("", err)
		}
		if mode == runner.Once {
			return
		}
		watching.Go(func() {
			if err := c.Watch(ctx); err != nil {
				r.Log.Problem("", err)
			}
		})
	}
	return func() {
		cancel()
		watching.Wait()
		c.Close()
	}
}
