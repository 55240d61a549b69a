// Bench measures what the README promises, each as a ratio within one run: of a program against a peer that is started by it, or of the same program under another
// load. Machines are shared and noisy: rounds are interleaved, and medians count. It judges nothing; it prints what was wanted beside what was found.
//
//	start    the start of sendmail, against that of a C program that does nothing
//	submit   sendmail -oi -t, against Postfix's and dma's
//	accept   SMTP in, queue: messages a second at 1 to 200 sessions, against Postfix
//	secure   TLS handshakes and submissions with a password under TLS, against Postfix
//	socket   sendmail -oi -t through the submit socket, against writing the queue
//	relay    SMTP in, queue, next hop: messages a second and processor time of a message, against Postfix
//	dead     a queue in which three destinations of ten are dead, against the same without them
//	memory   what a message of 50 MiB takes of each program
//	sessions the memory of smtpd with many open sessions, and behind them
//	hostile  20 good clients of smtpd among 2,000 hostile ones
//	soak     smtpd and qmgr for a long time, among clients of all kinds: what is lost, and what is left
//	folder   the queue's calls at 10,000, 100,000 and 1,000,000 messages
//	million  a runner's start with 1,000,000 deferred messages, its memory, and mailq's
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

func main() { os.Exit(run()) }

func run() int {
	b := &bench{}
	flag.StringVar(&b.bin, "bin", "bin", "postel's programs")
	flag.StringVar(&b.dir, "dir", "", "folder to work in, on the disk to be measured")
	flag.StringVar(&b.large, "large", "", "folder for a million messages")
	flag.StringVar(&b.cold, "cold", "", "command that makes the kernel forget what it knows of -large")
	flag.StringVar(&b.fill, "fill", "", "the program of ./fill")
	flag.StringVar(&b.postfix.root, "postfix", "", "root of a Postfix, on the same disk as -dir")
	flag.StringVar(&b.dovecot, "dovecot", "", "root of a Dovecot")
	flag.StringVar(&b.dma, "dma", "", "root of a dma")
	flag.IntVar(&b.rounds, "rounds", 5, "interleaved rounds")
	flag.IntVar(&b.million, "million", 1000000, "how many messages the large queue has")
	parts := flag.String("parts", "start,submit,socket,accept,secure,relay,dead,memory,sessions,hostile,soak,folder,million", "what to measure")
	flag.IntVar(&b.seconds, "seconds", 60, "how long the hostile clients stay")
	flag.IntVar(&b.soaked, "soak", 600, "how long the soak is, in seconds")
	against := flag.String("herd", "", "be the hostile clients of that server")
	flag.Parse()
	if *against != "" {
		herd(*against)
	}
	all := map[string]func() error{"start": b.start, "submit": b.submit, "socket": b.socket, "accept": b.accept, "secure": b.secure, "relay": b.relay, "dead": b.dead, "memory": b.memory, "sessions": b.sessions, "hostile": b.hostile, "soak": b.soak, "folder": b.folder, "million": b.deferred}
	errs := []error{b.prepare()}
	for part := range strings.SplitSeq(*parts, ",") {
		do := all[part]
		if do == nil {
			do = func() error { return errors.New("no such part") }
		}
		if err := do(); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", part, err))
		}
	}
	b.postfix.stop()
	if err := errors.Join(errs...); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		return 70
	}
	return 0
}

type bench struct {
	bin, dir, large, cold, fill, dma, dovecot string
	postfix                                   postfix
	rounds, million, seconds, soaked          int
	filled                                    int // messages in the large queue
}

// prepare configures a host whose spool is below dir.
func (b *bench) prepare() error {
	return errors.Join(b.configure(b.dir, ""), os.WriteFile(b.dir+"/users", []byte("u:{PLAIN}secret::::"+b.dir+"/u::\n"), 0o600), os.MkdirAll(b.dir+"/u", 0o700))
}

// configure writes dir/postel.toml, with more at its end.
func (b *bench) configure(dir, more string) error {
	config := fmt.Sprintf("hostname = \"bench.test\"\nspool = %q\nusers = %q\nmailbox = \"maildir:~/Maildir\"\naliases = \"\"\n[limits]\nmin_free = \"1MiB\"\n"+
		"message_size = \"64MiB\"\n", dir+"/spool", b.dir+"/users")
	return os.WriteFile(dir+"/postel.toml", []byte(config+more), 0o600)
}

// command makes a command of one of postel's programs, with the configuration of dir.
func (b *bench) command(dir, name string, args ...string) *exec.Cmd {
	c := exec.Command(filepath.Join(b.bin, name), args...)
	c.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "POSTEL_CONFIG=" + dir + "/postel.toml"}
	return c
}

// ratios are the figures of all rounds.
type ratios []float64

func (r *ratios) add(x float64) { *r = append(*r, x) }

// median is what counts; String gives it with the least and the most.
func (r ratios) median() float64 {
	s := slices.Sorted(slices.Values(r))
	return s[len(s)/2]
}

func (r ratios) String() string {
	return fmt.Sprintf("%.2f (%.2f-%.2f)", r.median(), slices.Min(r), slices.Max(r))
}

// say prints one result.
func say(part, format string, args ...any) {
	fmt.Printf("%-8s %s\n", part, fmt.Sprintf(format, args...))
}
