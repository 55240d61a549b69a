package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// hold has Postfix keep what it has accepted, without another look at it.
const hold = "smtpd_recipient_restrictions = check_client_access static:HOLD, permit_mynetworks\n"

// accept lets Postfix's smtp-source bring messages to smtpd and to Postfix, in turn, which put them into the queue and go no further.
func (b *bench) accept() error {
	if b.postfix.root == "" {
		say("accept", "left out: Postfix is not here")
		return nil
	}
	if err := b.postfix.start(hold); err != nil {
		return err
	}
	s, err := b.exchanger("connections = 1000\nconnections_per_client = 1000\n")
	if err != nil {
		return err
	}
	defer s.end()
	for _, load := range []struct {
		name                     string
		sessions, messages, size int
		kept                     bool
		wanted                   string
	}{
		{"1 session", 1, 400, 2048, true, ">= 1.5"},
		{"10 sessions", 10, 1600, 2048, true, ">= 3"},
		{"50 sessions", 50, 1600, 2048, true, ">= 3"},
		{"200 sessions", 200, 1600, 2048, true, ">= 3"},
		{"10 sessions, 100 KiB", 10, 400, 100 << 10, true, ">= 2"},
		{"10 at a time, a connection for each", 10, 1600, 2048, false, ">= 3"},
	} {
		send := func(to, rcpt string, pids func() []int) (rate, cpu float64, err error) {
			args := []string{"-s", strconv.Itoa(load.sessions), "-m", strconv.Itoa(load.messages), "-l", strconv.Itoa(load.size), "-f", "s@sender.test", "-t", rcpt, to}
			if load.kept {
				args = append([]string{"-d"}, args...)
			}
			if err := settle(b.dir); err != nil {
				return 0, 0, err
			}
			before, begin := used(pids()...), time.Now()
			if out, err := inside(b.postfix.root, "/usr/sbin/smtp-source", args...).CombinedOutput(); err != nil {
				return 0, 0, fmt.Errorf("smtp-source: %w: %.300s", err, out)
			}
			seconds := time.Since(begin).Seconds()
			return float64(load.messages) / seconds, float64((used(pids()...) - before).Microseconds()) / float64(load.messages), nil
		}
		var d duel
		for range b.rounds {
			rate, cpu, err := send(s.addr, "u@bench.test", func() []int { return []int{s.Process.Pid} })
			if err != nil {
				return fmt.Errorf("smtpd, %s: %w", load.name, err)
			}
			rate2, cpu2, err := send("127.0.0.1:25", "x@remote.test", func() []int { return family(b.postfix.master.Process.Pid) })
			if err != nil {
				return fmt.Errorf("postfix, %s: %w", load.name, err)
			}
			d.add(rate, rate2, cpu, cpu2)
			if err := errors.Join(s.empty(load.messages), b.postfix.empty()); err != nil {
				return err
			}
		}
		d.say("accept", load.name+": ", "messages", load.wanted)
	}
	return nil
}

// duel is the figures of two servers in all rounds.
type duel struct{ ratio, rate, rate2, cpu, cpu2 ratios }

func (d *duel) add(rate, rate2, cpu, cpu2 float64) {
	d.ratio.add(rate / rate2)
	d.rate.add(rate)
	d.rate2.add(rate2)
	d.cpu.add(cpu)
	d.cpu2.add(cpu2)
}

func (d *duel) say(part, name, what, wanted string) {
	say(part, "%spostel %.0f %s/s, postfix %.0f: ratio %s, wanted %s; %.0f us of processor each, postfix %.0f", name, d.rate.median(), what, d.rate2.median(), d.ratio, wanted, d.cpu.median(), d.cpu2.median())
}

// empty removes the n messages that the server has accepted. Fewer, and it has not accepted what it said.
func (s *exchanger) empty(n int) error {
	all, err := filepath.Glob(s.spool + "/queue/*")
	if err != nil {
		return err
	}
	if len(all) != n {
		return fmt.Errorf("smtpd: %d messages are in the queue, %d were sent", len(all), n)
	}
	for _, file := range all {
		if err := os.Remove(file); err != nil {
			return err
		}
	}
	return nil
}

// empty removes every message that Postfix has.
func (p *postfix) empty() error {
	if out, err := inside(p.root, "/usr/sbin/postsuper", "-d", "ALL").CombinedOutput(); err != nil {
		return fmt.Errorf("postsuper: %w: %.300s", err, out)
	}
	return nil
}
