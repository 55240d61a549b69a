// Fill puts many messages into a spool in little time, for benchmarks: it writes the files that postel-queue(5) describes without a flush, a lock or a wakeup, so nothing
// of it is durable, and a runner that works on the spool meanwhile may take a half-written one for a torn one.
//
//	go run ./test/bench/fill -spool DIR -n 1000000 -deferred -domains 1000
//
// Message i of n arrived (n-i)*age/n ago, and its recipients are u<i>-<k>@d<i modulo domains>.<suffix>. With -deferred each has a state too: one attempt, at its arrival, that was
// answered with a 451, and the next between -next and -next plus -over from now.
package main

import (
	"errors"
	"flag"
	"fmt"
	"hash/crc32"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/postel-mail/postel/internal/address"
	"github.com/postel-mail/postel/internal/envelope"
	"github.com/postel-mail/postel/internal/queue"
	"github.com/postel-mail/postel/internal/status"
)

func main() {
	f := &filler{now: time.Now().UTC()}
	flag.StringVar(&f.spool, "spool", "", "spool `DIR`; made where it is missing")
	flag.IntVar(&f.n, "n", 1000, "how many messages")
	flag.BoolVar(&f.deferred, "deferred", false, "write a state for each")
	flag.IntVar(&f.domains, "domains", 1000, "how many recipient domains")
	flag.StringVar(&f.suffix, "suffix", "bench.test", "`DOMAIN` that they are below")
	flag.StringVar(&f.from, "from", "sender@bench.test", "the sender; empty for the null sender")
	flag.IntVar(&f.rcpts, "rcpts", 1, "recipients of each message")
	flag.IntVar(&f.size, "size", 2048, "`OCTETS` of each message, about")
	flag.DurationVar(&f.age, "age", 48*time.Hour, "of the oldest message")
	flag.DurationVar(&f.next, "next", time.Hour, "until the first deferred message is due")
	flag.DurationVar(&f.over, "over", 4*time.Hour, "between the first and the last that is due")
	flag.Parse()
	if f.spool == "" || f.n < 1 || f.domains < 1 || f.rcpts < 1 {
		flag.Usage()
		os.Exit(1)
	}
	if err := f.fill(); err != nil {
		fmt.Fprintln(os.Stderr, "fill:", err)
		os.Exit(1)
	}
	fmt.Printf("fill: %d messages in %.1f s\n", f.n, time.Since(f.now).Seconds())
}

type filler struct {
	spool, suffix, from     string
	n, domains, rcpts, size int
	deferred                bool
	age, next, over         time.Duration
	now                     time.Time

	sender address.Path
	body   []byte
}

func (f *filler) fill() error {
	if f.from != "" {
		var err error
		if f.sender, err = address.Parse(f.from); err != nil {
			return err
		}
	}
	spool, err := queue.Open(f.spool)
	if err != nil {
		return err
	}
	spool.Close()
	line := strings.Repeat("x", 74) + "\r\n"
	f.body = []byte("From: <" + f.from + ">\r\nSubject: bench\r\n\r\n" + strings.Repeat(line, f.size/len(line)+1))
	const workers = 4 // creating files waits for the directory's lock most of the time
	failed := make([]error, workers)
	var all sync.WaitGroup
	for w := range workers {
		all.Go(func() {
			for i := w; i < f.n && failed[w] == nil; i += workers {
				failed[w] = f.put(i)
			}
		})
	}
	all.Wait()
	return errors.Join(failed...)
}

func (f *filler) put(i int) error {
	arrival := f.now.Add(-time.Duration(float64(f.age) * float64(f.n-i) / float64(f.n))).Truncate(time.Microsecond)
	e := &envelope.Envelope{ID: queue.NewID(arrival), Arrival: arrival, From: f.sender, Client: "192.0.2.1", UID: -1}
	domain := fmt.Sprintf("d%d.%s", i%f.domains, f.suffix)
	for k := range f.rcpts {
		e.Rcpts = append(e.Rcpts, envelope.Recipient{To: address.Path{Local: fmt.Sprintf("u%d-%d", i, k), Domain: domain}})
	}
	rest := append(e.AppendText(nil), '\n')
	rest = append(rest, f.body...)
	head := fmt.Appendf(nil, "postel-queue 1\nSize: %020d\nSum: %08x\n", len(rest), crc32.Checksum(rest, castagnoli))
	if f.deferred {
		next := f.now.Add(f.next + time.Duration(float64(f.over)*float64(i)/float64(f.n))).Truncate(time.Microsecond)
		st := queue.State{Attempts: 1, Last: arrival, Next: next, Rcpts: make([]queue.Outcome, f.rcpts)}
		for k := range st.Rcpts {
			st.Rcpts[k] = queue.Outcome{Relay: "mx." + domain + "[192.0.2.7]:25", Said: true, Last: status.Temporary(451, "4.3.0", "Try again later", nil)}
		}
		if err := os.WriteFile(f.spool+"/state/"+e.ID, []byte(st.Text(e.ID)), 0o600); err != nil {
			return err
		}
	}
	return os.WriteFile(f.spool+"/queue/"+e.ID, append(head, rest...), 0o600)
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)
