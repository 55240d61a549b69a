package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/postel-mail/postel/internal/address"
	"github.com/postel-mail/postel/internal/envelope"
	"github.com/postel-mail/postel/internal/queue"
	"github.com/postel-mail/postel/test/sink"
)

// fillTo brings the large queue to n deferred messages, due in an hour and later, but no later than a runner believes.
func (b *bench) fillTo(n int) error {
	if b.large == "" {
		return errors.New("no folder for so many messages")
	}
	if b.filled >= n {
		return nil
	}
	if err := os.MkdirAll(b.large, 0o700); err != nil {
		return err
	}
	out, err := exec.Command(b.fill, "-spool", b.large+"/spool", "-n", fmt.Sprint(n-b.filled), "-deferred", "-over", "3h", "-domains", "1000", "-size", "512").CombinedOutput()
	if err != nil {
		return fmt.Errorf("fill: %w: %s", err, out)
	}
	b.filled = n
	return exec.Command("sync", "-f", b.large).Run()
}

// forget makes what follows a start after a boot.
func (b *bench) forget() error {
	if b.cold == "" {
		return nil
	}
	if out, err := exec.Command("sh", "-c", b.cold).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", b.cold, err, out)
	}
	return nil
}

// folder measures the queue's calls while it grows. Each figure is that of one message; accepting is from Create to Commit, with its flush.
func (b *bench) folder() error {
	type figures struct{ accept, list, remove float64 } // microseconds
	var first figures
	for _, n := range []int{b.million / 100, b.million / 10, b.million} {
		if err := b.fillTo(n); err != nil {
			return err
		}
		f, err := func() (f figures, err error) {
			s, err := queue.Open(b.large + "/spool")
			if err != nil {
				return f, err
			}
			defer s.Close()
			begin := time.Now()
			ids, err := s.IDs()
			if err != nil {
				return f, err
			}
			f.list = micros(time.Since(begin)) / float64(len(ids))
			f.accept, f.remove, err = comeAndGo(s)
			return f, err
		}()
		if err != nil {
			return err
		}
		if first == (figures{}) {
			first = f
		}
		say("folder", "%9d messages: accept %.0f us, list %.2f us, remove %.1f us: ratios %.2f, %.2f, %.2f", n, f.accept, f.list, f.remove, f.accept/first.accept, f.list/first.list, f.remove/first.remove)
	}
	return nil
}

func micros(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1000 }

// comeAndGo puts messages into the queue and takes them out again, and gives the medians.
func comeAndGo(s *queue.Spool) (accept, remove float64, err error) {
	const n = 1000
	var accepts, removes []float64
	ids := make([]string, n)
	for i := range ids {
		e := &envelope.Envelope{UID: -1, From: address.Path{Local: "s", Domain: "bench.test"}, Rcpts: []envelope.Recipient{{To: address.Path{Local: "r", Domain: "bench.test"}}}}
		begin := time.Now()
		w, err := s.Create(e)
		if err != nil {
			return 0, 0, err
		}
		_, err = io.WriteString(w, letter)
		if err = errors.Join(err, w.Commit()); err != nil {
			return 0, 0, err
		}
		accepts = append(accepts, micros(time.Since(begin)))
		ids[i] = e.ID
	}
	for _, id := range ids {
		begin := time.Now()
		m, err := s.Claim(id)
		if err != nil {
			return 0, 0, err
		}
		err = m.Remove()
		m.Close()
		if err != nil {
			return 0, 0, err
		}
		removes = append(removes, micros(time.Since(begin)))
	}
	slices.Sort(accepts)
	slices.Sort(removes)
	return accepts[n/2], removes[n/2], nil
}

// deferred starts a runner on a million deferred messages, and sends one more at that moment.
func (b *bench) deferred() error {
	if err := b.fillTo(b.million); err != nil {
		return err
	}
	l := &large{bench: b, hop: sink.New()}
	defer l.hop.Close()
	addr, err := l.hop.Listen("127.0.0.1:0", "")
	if err != nil {
		return err
	}
	if err := b.configure(b.large, "[routes]\n\"*\" = \"smtp://"+addr+"\"\n"); err != nil {
		return err
	}
	for _, what := range []string{"after a boot", "again"} {
		if err := l.startRunner(what); err != nil {
			return err
		}
	}
	if err := b.forget(); err != nil {
		return err
	}
	for _, what := range []string{"after a boot", "again"} {
		c := b.command(b.large, "mailq", "--summary")
		begin := time.Now()
		if out, err := c.CombinedOutput(); err != nil {
			return fmt.Errorf("mailq: %w: %.200s", err, out)
		}
		took, used := time.Since(begin), c.ProcessState.SysUsage().(*syscall.Rusage)
		processor := c.ProcessState.UserTime() + c.ProcessState.SystemTime()
		say("million", "mailq --summary, %s: %.1f s, wanted < 10; %.1f s of processor, %d MiB from the disk, %.0f MiB at most", what, took.Seconds(), processor.Seconds(), used.Inblock/2048, float64(used.Maxrss)/1024)
	}
	return nil
}

// large is a runner's large queue, and where it sends.
type large struct {
	*bench
	hop  *sink.Sink
	sent int
}

// send submits a message and waits until it is delivered.
func (l *large) send() error {
	c := l.command(l.large, "sendmail", "-oi", "-t")
	c.Stdin = strings.NewReader(strings.Replace(letter, "u2@bench.test", "u2@next.test", 1)) // bench.test is local
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("sendmail: %w: %s", err, out)
	}
	l.sent++
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	return l.hop.Await(ctx, "message", l.sent)
}

// startRunner says how soon it delivers a new message, and the first time what it needs once it knows the queue.
func (l *large) startRunner(what string) error {
	if l.sent == 0 {
		if err := l.forget(); err != nil {
			return err
		}
	}
	begin := time.Now()
	qmgr, err := launch(l.command(l.large, "qmgr"), l.large+"/log")
	if err != nil {
		return err
	}
	defer qmgr.end()
	if err := l.send(); err != nil {
		return fmt.Errorf("a new message: %w", err)
	}
	say("million", "%d deferred, %s: a new message is delivered %.2f s after the runner's start, wanted < 10", l.million, what, time.Since(begin).Seconds())
	if l.sent > 1 {
		return nil
	}
	pid := qmgr.Process.Pid
	const quiet = 2 * time.Second // without work: the schedule is read
	for last, since := used(pid), time.Now(); time.Since(since) < quiet && time.Since(begin) < 15*time.Minute; {
		time.Sleep(quiet / 10)
		if now := used(pid); now-last > 10*time.Millisecond {
			last, since = now, time.Now()
		}
	}
	read := time.Since(begin) - quiet
	again := time.Now()
	if err := l.send(); err != nil {
		return fmt.Errorf("a new message later: %w", err)
	}
	took := time.Since(again)
	now, most := resident(pid)
	say("million", "the queue is read after %.0f s, %.0f s of processor; then a new message takes %.0f ms", read.Seconds(), used(pid).Seconds(), micros(took)/1000)
	say("million", "qmgr has %.0f MiB resident, %.0f at most, wanted < 300", now, most)
	return nil
}
