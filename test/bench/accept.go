package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
)

// hold has Postfix keep what it has accepted, without another look at it.
const hold = "smtpd_recipient_restrictions = check_client_access static:HOLD, permit_mynetworks\n"

// accept lets Postfix's smtp-source bring messages to smtpd and to Postfix, which put them into the queue and go no further.
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
		source := func(to, rcpt string) func() error {
			args := []string{"-s", strconv.Itoa(load.sessions), "-m", strconv.Itoa(load.messages), "-l", strconv.Itoa(load.size), "-f", "s@sender.test", "-t", rcpt, to}
			if load.kept {
				args = append([]string{"-d"}, args...)
			}
			return func() error {
				if out, err := inside(b.postfix.root, "/usr/sbin/smtp-source", args...).CombinedOutput(); err != nil {
					return fmt.Errorf("smtp-source to %s: %w: %.300s", to, err, out)
				}
				return nil
			}
		}
		d := duel{what: load.name, unit: "messages", n: load.messages, rate: load.wanted, cpu: "us < 300",
			ours:   side{source(s.addr, "u@bench.test"), s.pids, func() error { return s.empty(load.messages) }},
			theirs: side{source("127.0.0.1:25", "x@remote.test"), b.postfix.pids, b.postfix.empty}}
		if err := b.fight("accept", d); err != nil {
			return err
		}
	}
	return nil
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
