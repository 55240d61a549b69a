package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/postel-mail/postel/test/dnszone"
	"github.com/postel-mail/postel/test/sink"
)

// dead lets qmgr work on 10,000 messages to 1,000 destinations, three of ten dead, each in its own way: it refuses to connect, never greets, or never answers behind
// the message. What counts is when the 7,000 messages to living ones have arrived, against the same without the others.
func (b *bench) dead() error {
	world, err := newWorld()
	if err != nil {
		return err
	}
	defer world.close()
	const each = 10 // messages for each destination
	const patience = 5 * time.Minute
	var ratio, with, without ratios
	for range b.rounds {
		alone, _, err := b.deliver(world, "alive.test", 700, 700*each, patience)
		if err != nil {
			return err
		}
		among, came, err := b.deliver(world, "dead.test", 1000, 700*each, patience)
		if errors.Is(err, context.DeadlineExceeded) {
			say("dead", "%d of %d living destinations' messages came within %v, and all of them within %.1f s without dead destinations", came, 700*each, patience, alone)
			return nil
		}
		if err != nil {
			return err
		}
		without.add(alone)
		with.add(among)
		ratio.add(among / alone)
	}
	say("dead", "7,000 messages among dead destinations %.1f s, alone %.1f s: ratio %s, wanted <= 1.2", with.median(), without.median(), ratio)
	return nil
}

// deliver fills a queue and gives the seconds from the start of a runner until want messages have come.
func (b *bench) deliver(w *world, suffix string, domains, want int, patience time.Duration) (seconds float64, came int, err error) {
	dir := b.dir + "/dead"
	if err := errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o700)); err != nil {
		return 0, 0, err
	}
	if err := b.configure(dir, fmt.Sprintf("[dns]\nservers = [%q]\n[smtp]\nport = %s\n", w.dns.Addr(), w.port)); err != nil {
		return 0, 0, err
	}
	if out, err := exec.Command(b.fill, "-spool", dir+"/spool", "-n", fmt.Sprint(domains*10), "-domains", fmt.Sprint(domains), "-suffix", suffix, "-age", "1m").CombinedOutput(); err != nil {
		return 0, 0, fmt.Errorf("fill: %w: %s", err, out)
	}
	if err := exec.Command("sync", "-f", dir).Run(); err != nil {
		return 0, 0, err
	}
	before := w.sink.Count("message")
	begin := time.Now()
	qmgr, err := launch(b.command(dir, "qmgr"), dir+"/log")
	if err != nil {
		return 0, 0, err
	}
	defer qmgr.kill() // what hangs would keep it
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	err = w.sink.Await(ctx, "message", before+want)
	return time.Since(begin).Seconds(), w.sink.Count("message") - before, err
}

// world is a thousand and seven hundred mail hosts, on as many loopback addresses.
type world struct {
	sink *sink.Sink
	dns  *dnszone.Server
	port string
}

func newWorld() (w *world, err error) {
	w = &world{sink: sink.New()}
	defer func() {
		if err != nil {
			w.close()
		}
	}()
	closed, err := sink.Closed("127.30.0.1")
	if err != nil {
		return nil, err
	}
	if _, w.port, err = net.SplitHostPort(closed); err != nil {
		return nil, err
	}
	var zone strings.Builder
	zone.WriteString("test. SOA ns.test. admin.test. 1 3600 600 86400 60\n")
	for _, suffix := range []string{"alive", "dead"} {
		for i := range map[string]int{"alive": 700, "dead": 1000}[suffix] {
			ip, script := fmt.Sprintf("127.%d.%d.%d", map[string]int{"alive": 10, "dead": 20}[suffix], i/250, 1+i%250), ""
			refuses := false
			if suffix == "dead" {
				switch i % 10 {
				case 0:
					refuses = true
				case 1:
					script = "connect hang"
				case 2:
					script = "dot hang"
				}
			}
			fmt.Fprintf(&zone, "d%d.%s.test. MX 10 mx%d.%s.test.\nmx%d.%s.test. A %s\n", i, suffix, i, suffix, i, suffix, ip)
			if refuses {
				continue
			}
			if _, err := w.sink.Listen(net.JoinHostPort(ip, w.port), script); err != nil {
				return nil, err
			}
		}
	}
	z, err := dnszone.Parse(zone.String())
	if err == nil {
		w.dns, err = z.Serve("127.0.0.1:0")
	}
	return w, err
}

func (w *world) close() {
	w.sink.Close()
	if w.dns != nil {
		w.dns.Close()
	}
}
