package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// socket compares `sendmail -oi -t` of a user who may not write the queue, through the submit socket, with that of the queue's owner. No runner looks on.
func (b *bench) socket() error {
	dir := b.dir + "/socket"
	config := fmt.Sprintf("hostname = \"bench.test\"\nspool = %q\nusers = %q\naliases = \"\"\nsubmit = %q\n[limits]\nmin_free = \"1MiB\"\n", dir+"/spool", b.dir+"/users", dir+"/submit.sock")
	if err := errors.Join(os.Mkdir(dir, 0o755), os.WriteFile(dir+"/postel.toml", []byte(config), 0o644)); err != nil {
		return err
	}
	if os.Getuid() != 0 {
		say("socket", "left out: only root can be two users")
		return nil
	}
	smtpd, err := launch(b.command(dir, "smtpd", "--submission", "--listen", "unix:"+dir+"/submit.sock"), dir+"/log")
	if err != nil {
		return err
	}
	defer smtpd.end()
	for range 100 {
		if _, err = os.Stat(dir + "/submit.sock"); err == nil {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	if err != nil {
		return err
	}
	as := func(uid uint32) func() *exec.Cmd {
		return func() *exec.Cmd {
			c := b.command(dir, "sendmail", "-oi", "-t")
			c.Stdin = strings.NewReader(strings.Replace(letter, "u2@bench.test", "u2@next.test", 1)) // bench.test is local
			c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
			return c
		}
	}
	const nobody = 65534
	if err := b.compare("socket", "<= 1.3", []contender{{"through the submit socket", as(nobody)}, {"writing the queue", as(0)}}); err != nil {
		return err
	}
	return (&exchanger{spool: dir + "/spool"}).empty(2 * 100 * b.rounds) // none went into drop/
}
