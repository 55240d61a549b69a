package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/postel-mail/postel/internal/clock"
	"github.com/postel-mail/postel/test/sink"
)

// Words in a record: what has been promised, and what the next hop has.
const (
	acked = "ack "  // the letter was answered for
	took  = "took " // the next hop has the letter, and is about to say so
)

// How much mail comes in at once: SMTP sessions; callers of sendmail, root and another, who may not write the queue; and of deliver.
const (
	sessions   = 3
	perSession = 7
	perCaller  = 5
	stranger   = 65534
)

// record lets the programs work on the disk NAME, and gives the order in which they say to flush.
func (m *machine) record(name string, seed uint64) (order string, err error) {
	failed := make(chan error, 1)
	hop := sink.New()
	hop.Keep = true
	hop.Took = func(taken sink.Message) { // before the client is told
		l, _ := identify([]byte(taken.Text))
		if err := m.tell("mark."+name, took+string(l)); err != nil {
			select {
			case failed <- err:
			default:
			}
		}
	}
	defer hop.Close()
	address, err := hop.Listen("127.0.0.1:0", "rcpt to=*@later.example 450 4.2.0 Later")
	if err != nil {
		return "", err
	}
	config, err := m.configure("working", m.disk("spool"), address, "0B")
	if err != nil {
		return "", err
	}
	if err := m.mount("disk." + name); err != nil {
		return "", err
	}
	err = m.homes()
	if err == nil && m.kind.settled {
		err = m.settle(config)
	}
	if err == nil {
		order, err = m.serve(config, name, seed)
	}
	select {
	case e := <-failed:
		err = errors.Join(err, e)
	default:
	}
	return order, errors.Join(err, m.unmount())
}

// settledLetter is delivered to each user before a record begins.
var settledLetter = newLetter(900, direct, 300)

// settle makes the folders of the spool and of the mailboxes, by use, and flushes them.
func (m *machine) settle(config string) error {
	l := settledLetter
	for _, user := range users {
		if err := m.must(program{config: config, stdin: l.text(), args: []string{"deliver", "-f", sender, user + "@example.org"}}); err != nil {
			return err
		}
	}
	if err := m.must(program{config: config, args: []string{"qmgr", "--once"}}); err != nil {
		return err
	}
	return m.homes()
}

// serve runs server and runner, and all the clients at once.
func (m *machine) serve(config, name string, seed uint64) (order string, err error) {
	runner, err := m.daemon(config, "qmgr")
	if err != nil {
		return "", err
	}
	address, server, err := m.smtpd(config)
	if err != nil {
		_, err2 := runner.stop()
		return "", errors.Join(err, err2)
	}
	quiet := func() {}
	if !m.kind.settled {
		quiet = m.noise(seed)
	}
	err = m.clients(config, address, name, seed)
	quiet()
	_, err2 := server.stop()
	_, err3 := runner.stop()
	if err = errors.Join(err, err2, err3); err != nil {
		return "", err
	}
	_, server, err = m.smtpd(config) // by now it can know its file system
	if err != nil {
		return "", err
	}
	log, err := server.stop()
	_, order, _ = strings.Cut(log, " order=\"")
	order, _, _ = strings.Cut(order, "\"")
	return order, err
}

// clients sends all the letters.
func (m *machine) clients(config, address, name string, seed uint64) error {
	var wg sync.WaitGroup
	number, failed := 0, make(chan error, sessions+3)
	start := func(n int, classes []string, session func(letters []letter, chance *rand.Rand) error) {
		chance := rand.New(rand.NewPCG(seed, uint64(number)))
		letters := make([]letter, n)
		for i := range letters {
			letters[i] = newLetter(number, classes[chance.IntN(len(classes))], someSize(chance))
			number++
		}
		wg.Go(func() { failed <- session(letters, chance) })
	}
	promise := func(l letter, chance *rand.Rand) error {
		defer pause(chance)
		return m.tell("mark."+name, acked+string(l))
	}
	for range sessions {
		start(perSession, []string{local, relay, late, both}, func(letters []letter, chance *rand.Rand) error {
			c, err := dial(address)
			if err != nil {
				return err
			}
			defer c.close()
			for _, l := range letters {
				if answer, err := c.send(l); err != nil || answer[0] != '2' {
					return fmt.Errorf("smtpd answers %q to %s (%v)", answer, l, err)
				}
				if err := promise(l, chance); err != nil {
					return err
				}
			}
			return nil
		})
	}
	command := func(uid uint32, args ...string) func([]letter, *rand.Rand) error {
		return func(letters []letter, chance *rand.Rand) error {
			for _, l := range letters {
				number, _, _ := strings.Cut(string(l), ".")
				if err := m.must(program{config: config, uid: uid, stdin: l.text(), env: []string{fmt.Sprintf("POSTEL_ID=%020s.0", number)},
					args: append(args[:len(args):len(args)], l.rcpts()...)}); err != nil {
					return fmt.Errorf("%s: %w", l, err)
				}
				if err := promise(l, chance); err != nil {
					return err
				}
			}
			return nil
		}
	}
	start(perCaller, []string{local, relay, late, nobody}, command(0, "sendmail", "-i", "-f", sender))
	start(perCaller, []string{local, relay, late}, command(stranger, "sendmail", "-i", "-f", sender))
	start(perCaller, []string{direct}, command(0, "deliver", "-f", sender))
	wg.Wait()
	close(failed)
	var all []error
	for err := range failed {
		all = append(all, err)
	}
	return errors.Join(all...)
}

// noise is another program on the same disk, until it is stopped. Now and then it flushes, as others do.
func (m *machine) noise(seed uint64) (stop func()) {
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		chance := rand.New(rand.NewPCG(seed, 1<<32))
		for {
			select {
			case <-quit:
				return
			default:
			}
			// That the disk is full or broken is not the noise's concern.
			from, to := m.disk(fmt.Sprintf("noise-%d", chance.IntN(10))), m.disk(fmt.Sprintf("noise-%d", chance.IntN(10)))
			switch chance.IntN(4) {
			case 0:
				_ = os.Remove(to)
			case 1:
				_ = os.Rename(from, to)
			default:
				if f, err := os.OpenFile(to, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err == nil {
					_, _ = f.Write(make([]byte, chance.IntN(20000)))
					if chance.IntN(40) == 0 {
						_ = f.Sync()
					}
					_ = f.Close()
				}
			}
			time.Sleep(time.Duration(chance.IntN(3000)) * time.Microsecond)
		}
	}()
	return func() { close(quit); <-done }
}

// replayed is the disk that comes from -replay.
const replayed = "replayed"

// perRecord is how many power cuts are tried of one record.
const perRecord = 100

// power records and cuts until the states of the plan have been tried.
func (m *machine) power(p *plan) error {
	began := clock.Now()
	if p.replay != "" {
		f, _, err := m.cuts(replayed, p.states, p.seed)
		fmt.Printf("%-17s replay: %v; %.1f s\n", m.kind.name, &f, clock.Since(began).Seconds())
		return errors.Join(err, f.err(m.kind))
	}
	var all findings
	var order string
	flushes, letters := 0, 0
	for n := 0; n < p.states; n += perRecord {
		name, seed := fmt.Sprintf("power-%d", p.seed+uint64(n)), p.seed+uint64(n)
		var err error
		if order, err = m.record(name, seed); err != nil {
			return err
		}
		if !strings.HasPrefix(order, m.kind.order) {
			return fmt.Errorf("flushes by %q, and has to by %s", order, m.kind.order)
		}
		f, h, err := m.cuts(name, min(perRecord, p.states-n), seed)
		if err != nil {
			return err
		}
		flushes, letters = flushes+h.flushes, letters+len(h.letters(acked, h.end))
		all.add(f)
		if f.wrong(m.kind) > 0 {
			file := fmt.Sprintf("%s/postel-%s-%s.%d", os.TempDir(), m.kind.name, name, clock.Now().UnixNano())
			fmt.Printf("%-17s to try these again: -only %s -states %d -seed %d -replay %s\n", m.kind.name, m.kind.name, min(perRecord, p.states-n), seed, file)
			if err := m.tell("keep."+name, file); err != nil {
				return err
			}
			break
		}
		if err := os.Remove(m.path("fuse/disk." + name)); err != nil {
			return err
		}
	}
	fmt.Printf("%-17s power cut: %v; %s, %d flushes for %d letters; %.1f s\n", m.kind.name, &all, order, flushes, letters, clock.Since(began).Seconds())
	if m.kind.noted != (all.recovered > 0) {
		return fmt.Errorf("%d letters were made again out of a journal", all.recovered)
	}
	return all.err(m.kind)
}

// cuts tries n power cuts of a record.
func (m *machine) cuts(name string, n int, seed uint64) (all findings, h *history, err error) {
	if h, err = m.history(name); err != nil {
		return all, h, err
	}
	for _, s := range h.states(name, n, seed) {
		f, err := m.afterwards(h, s)
		if err != nil {
			return all, h, fmt.Errorf("%v: %w", s, err)
		}
		all.add(f)
	}
	return all, h, nil
}
