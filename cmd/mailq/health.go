package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/postel-mail/postel/internal/config"
	"github.com/postel-mail/postel/internal/listing"
	"github.com/postel-mail/postel/internal/sysexits"
)

// health is the mode for monitoring. Its exit statuses are those of Nagios' plugins, the one place where postel exits 1, 2 and 3: nothing hands mail to it.
type health struct {
	warnAge, critAge     string
	warnCount, critCount int
	asked                bool
	limits               listing.Limits
	verdict              int
}

func (h *health) flags(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&h.warnAge, "warn-age", "", "for monitoring: exit 1 when a message is in the queue longer than `DURATION`")
	f.StringVar(&h.critAge, "crit-age", "", "exit 2 when a message is in the queue longer than `DURATION`")
	f.IntVar(&h.warnCount, "warn-count", -1, "exit 1 when there are more than `N` messages")
	f.IntVar(&h.critCount, "crit-count", -1, "exit 2 when there are more than `N` messages")
	for _, name := range []string{"warn-count", "crit-count"} {
		f.Lookup(name).DefValue = "0" // no default is shown
	}
}

// see notes whether a limit was given.
func (h *health) see(c *cobra.Command) {
	for _, name := range []string{"warn-age", "crit-age", "warn-count", "crit-count"} {
		h.asked = h.asked || c.Flags().Changed(name)
	}
}

func (h *health) check() error {
	h.limits = listing.Limits{WarnAge: -1, CritAge: -1, WarnCount: h.warnCount, CritCount: h.critCount}
	var err error
	if h.warnAge != "" {
		if h.limits.WarnAge, err = config.ParseDuration(h.warnAge); err != nil {
			return fmt.Errorf("--warn-age: %w", err)
		}
	}
	if h.critAge != "" {
		if h.limits.CritAge, err = config.ParseDuration(h.critAge); err != nil {
			return fmt.Errorf("--crit-age: %w", err)
		}
	}
	if h.warnCount < -1 || h.critCount < -1 {
		return errors.New("a count is not negative")
	}
	return nil
}

func (h *health) judge(chosen *listing.Selection) error {
	verdict, line := listing.Health(chosen, h.limits)
	return h.say(verdict, line)
}

// unknown turns an error into the verdict of that name, where a verdict was asked for.
func (h *health) unknown(err error) error {
	if err == nil || !h.asked {
		return err
	}
	verdict, line := listing.Unhealthy(err)
	return h.say(verdict, line)
}

func (h *health) say(verdict int, line string) error {
	h.verdict = verdict
	_, err := fmt.Println(line)
	return sysexits.With(sysexits.IOErr, err)
}
