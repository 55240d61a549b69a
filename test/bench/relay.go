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
	send := func(to string) func() error {
		return func() error {
			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
			defer cancel()
			want := hop.Count("message") + messages
			c := inside(b.postfix.root, "/usr/sbin/smtp-source", "-d", "-s", strconv.Itoa(sessions), "-m", strconv.Itoa(messages), "-l", strconv.Itoa(size), "-f", "s@sender.test", "-t", "x@remote.test", to)
			if out, err := c.CombinedOutput(); err != nil {
				return fmt.Errorf("smtp-source: %w: %s", err, out)
			}
			if err := hop.Await(ctx, "message", want); err != nil {
				return fmt.Errorf("%s: %d of %d messages: %w", to, hop.Count("message")-want+messages, messages, err)
			}
			return nil
		}
	}
	ours := func() []int { return append(smtpd.pids(), qmgr.pids()...) }
	rest := func() error { time.Sleep(500 * time.Millisecond); return nil } // the queue is empty a moment after the last answer
	return b.fight("relay", duel{what: "2 KiB, 10 sessions", unit: "messages", n: messages, rate: ">= 3", cpu: "<= 0.33",
		ours: side{send(port), ours, rest}, theirs: side{send("127.0.0.1:25"), b.postfix.pids, rest}})
}
