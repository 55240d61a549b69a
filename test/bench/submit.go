package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"
)

// start compares the start of sendmail with that of a C program that returns 0.
func (b *bench) start() error {
	src := b.dir + "/nothing.c"
	if err := os.WriteFile(src, []byte("int main(void) { return 0; }\n"), 0o600); err != nil {
		return err
	}
	if out, err := exec.Command("cc", "-O2", "-o", b.dir+"/nothing", src).CombinedOutput(); err != nil {
		return fmt.Errorf("cc: %w: %s", err, out)
	}
	return b.compare("start", "", []contender{
		{"sendmail --version", func() *exec.Cmd { return b.command(b.dir, "sendmail", "--version") }},
		{"C: return 0", func() *exec.Cmd { return exec.Command(b.dir + "/nothing") }},
	})
}

var letter = "From: u1@bench.test\nTo: u2@bench.test\nSubject: bench\n\n" + strings.Repeat(strings.Repeat("x", 75)+"\n", 25)

// data is the letter as it stands behind DATA.
var data = strings.ReplaceAll(letter, "\n", "\r\n") + ".\r\n"

// submit compares `sendmail -oi -t` from start to exit. Nothing of it is delivered meanwhile.
func (b *bench) submit() error {
	postel := contender{"postel", func() *exec.Cmd {
		c := b.command(b.dir, "sendmail", "-oi", "-t")
		c.Stdin = strings.NewReader(letter)
		return c
	}}
	foreign := func(name, root, program string) contender {
		return contender{name, func() *exec.Cmd {
			c := inside(root, program, "-oi", "-t")
			c.Stdin = strings.NewReader(letter)
			return c
		}}
	}
	if b.postfix.root == "" {
		say("submit", "left out against Postfix: it is not here")
	} else {
		if err := b.postfix.start("defer_transports = smtp local virtual relay\n"); err != nil {
			return err
		}
		if err := b.compare("submit", "<= 0.3", []contender{postel, foreign("postfix", b.postfix.root, "/usr/sbin/sendmail")}); err != nil {
			return err
		}
	}
	if b.dma == "" {
		say("submit", "left out against dma: it is not here")
		return nil
	}
	return b.compare("submit", "<= 1.0", []contender{postel, foreign("dma", b.dma, "/usr/sbin/dma")})
}

// inside makes a command that runs in a root of its own.
func inside(root, program string, args ...string) *exec.Cmd {
	c := exec.Command(program, args...)
	c.Path, c.Err = program, nil
	c.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	c.SysProcAttr = &syscall.SysProcAttr{Chroot: root}
	c.Dir = "/"
	return c
}

type contender struct {
	name string
	make func() *exec.Cmd
}

// compare runs the first contender many times and then the second, in each round, and prints the ratio of the medians. They do not alternate: what Postfix goes on to
// do behind a command's back is to delay its own next one.
func (b *bench) compare(part, wanted string, c []contender) error {
	const n = 100
	var ratio ratios
	var medians [2]ratios // in milliseconds
	for range b.rounds {
		var all [2][]time.Duration
		for i := range c {
			time.Sleep(time.Second) // the other's daemons come to rest
			for range n {
				cmd := c[i].make()
				var errs bytes.Buffer
				cmd.Stderr = &errs
				begin := time.Now()
				if err := cmd.Run(); err != nil {
					return fmt.Errorf("%s: %w: %s", cmd, err, errs.String())
				}
				all[i] = append(all[i], time.Since(begin))
			}
		}
		var ms [2]float64
		for i := range all {
			slices.Sort(all[i])
			ms[i] = float64(all[i][n/2].Microseconds()) / 1000
			medians[i].add(ms[i])
		}
		ratio.add(ms[0] / ms[1])
	}
	if wanted != "" {
		wanted = ", wanted " + wanted
	}
	say(part, "%s %.2f ms, %s %.2f ms: ratio %s%s", c[0].name, medians[0].median(), c[1].name, medians[1].median(), ratio, wanted)
	return nil
}
