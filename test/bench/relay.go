package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/postel-mail/postel/test/sink"
)

// relay sends messages of 2 KiB through Postfix and through smtpd and qmgr to a next hop, in turn, ten sessions at a time. Postfix's own smtp-source is the client.
func (b *bench) relay() error {
	const messages, sessions, size = 2000, 10, 2048
	if b.postfix.root == "" {
		say("relay", "left out: Postfix is not here")
		return nil
	}
	hop := sink.New()
	defer hop.Close()
	addr, err := hop.Listen("127.0.0.1:0", "")
	if err != nil {
		return err
	}
	if err := b.postfix.start("relayhost = [127.0.0.1]:" + addr[len("127.0.0.1:"):] + "\n"); err != nil {
		return err
	}
	dir := b.dir + "/relay"
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	if err := b.configure(dir, "[routes]\n\"*\" = \"smtp://"+addr+"\"\n"); err != nil {
		return err
	}
	const port = "127.0.0.1:2507"
	smtpd, err := launch(b.command(dir, "smtpd", "--listen", port), dir+"/log")
	if err != nil {
		return err
	}
	defer smtpd.end()
	qmgr, err := launch(b.command(dir, "qmgr"), dir+"/log")
	if err != nil {
		return err
	}
	defer qmgr.end()
	if err := smtpd.listens(port); err != nil {
		return err
	}
	// send gives the seconds of n messages and the processor time in microseconds of each.
	send := func(to string, n int, pids func() []int) (seconds, cpu float64, err error) {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		defer cancel()
		want := hop.Count("message") + n
		before, begin := used(pids()...), time.Now()
		c := inside(b.postfix.root, "/usr/sbin/smtp-source", "-d", "-s", strconv.Itoa(sessions), "-m", strconv.Itoa(n), "-l", strconv.Itoa(size), "-f", "s@sender.test", "-t", "x@remote.test", to)
		if out, err := c.CombinedOutput(); err != nil {
			return 0, 0, fmt.Errorf("smtp-source: %w: %s", err, out)
		}
		if err := hop.Await(ctx, "message", want); err != nil {
			return 0, 0, fmt.Errorf("%s: %d of %d messages: %w", to, hop.Count("message")-want+n, n, err)
		}
		seconds = time.Since(begin).Seconds()
		return seconds, float64((used(pids()...) - before).Microseconds()) / float64(n), nil
	}
	ours := func() []int { return []int{smtpd.Process.Pid, qmgr.Process.Pid} }
	theirs := func() []int { return family(b.postfix.master.Process.Pid) }
	var rates, cpus, rate, cpu, rate2, cpu2 ratios
	for range b.rounds {
		var s, c [2]float64
		for i, to := range []string{port, "127.0.0.1:25"} {
			pids := []func() []int{ours, theirs}[i]
			if _, _, err := send(to, sessions, pids); err != nil {
				return err
			}
			time.Sleep(500 * time.Millisecond)
			if s[i], c[i], err = send(to, messages, pids); err != nil {
				return err
			}
		}
		rates.add(s[1] / s[0])
		cpus.add(c[0] / c[1])
		rate.add(messages / s[0])
		rate2.add(messages / s[1])
		cpu.add(c[0])
		cpu2.add(c[1])
	}
	say("relay", "postel %.0f messages/s, postfix %.0f: ratio %s, wanted >= 3", rate.median(), rate2.median(), rates)
	say("relay", "postel %.0f us of processor a message, postfix %.0f: ratio %s, wanted <= 0.33", cpu.median(), cpu2.median(), cpus)
	return nil
}
