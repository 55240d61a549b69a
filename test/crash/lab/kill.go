package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"

	"github.com/postel-mail/postel/internal/clock"
	"github.com/postel-mail/postel/test/sink"
)

// killed kills servers in the midst of their work, while the kernel and the runner go on, and starts them again: what was promised arrives, once.
func (m *machine) killed(p *plan) error {
	began := clock.Now()
	runs := max(3, p.states/10)
	promises, noted := 0, 0
	for n := range runs {
		promised, journals, err := m.kill(fmt.Sprintf("killed%d", n), rand.New(rand.NewPCG(p.seed+uint64(n), 1<<36)))
		if err != nil {
			return fmt.Errorf("kill %d: %w", n, err)
		}
		promises += promised
		noted += journals
	}
	if m.kind.noted != (noted > 0) {
		return fmt.Errorf("%d journals were left by %d kills", noted, runs)
	}
	fmt.Printf("%-17s kill: %d runs, %d promises, each kept once; %d journals left and taken away; %.1f s\n", m.kind.name, runs, promises, noted, clock.Since(began).Seconds())
	return nil
}

// kill kills a server once, and says how many promises there were and how many journals it left.
func (m *machine) kill(name string, chance *rand.Rand) (promises, journals int, err error) {
	hop := sink.New()
	hop.Keep = true
	defer hop.Close()
	next, err := hop.Listen("127.0.0.1:0", "")
	if err != nil {
		return 0, 0, err
	}
	config, err := m.configure("working", m.disk("spool"), next, "0B")
	if err != nil {
		return 0, 0, err
	}
	if err := m.mount("disk." + name); err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, m.unmount()) }()
	if err := m.homes(); err != nil {
		return 0, 0, err
	}
	runner, err := m.daemon(config, "qmgr")
	if err != nil {
		return 0, 0, err
	}
	kept, journals, err := m.killServer(config, chance)
	log, err2 := runner.stop()
	if err := errors.Join(err, err2); err != nil {
		return 0, 0, err
	}
	// What is on its way when the runner stops goes on with the next one.
	if err := m.must(program{config: config, args: []string{"qmgr", "--exit-when-empty"}, limit: limit / 2}); err != nil {
		return 0, 0, err
	}
	if left := m.names("spool/journal"); len(left) > 0 || strings.Contains(log, "event=recovered") {
		return 0, 0, fmt.Errorf("journals %q are left; the runner says: %s", left, about("recovered", log))
	}
	sent := map[letter]int{}
	for _, message := range hop.Messages() {
		l, whole := identify([]byte(message.Text))
		if sent[l]++; !whole {
			return 0, 0, fmt.Errorf("half of %s", l)
		}
	}
	for _, l := range kept {
		if sent[l] != 1 {
			return 0, 0, fmt.Errorf("%s was promised, and sent %d times", l, sent[l])
		}
	}
	return len(kept), journals, os.Remove(m.path("fuse/disk." + name))
}

// killServer lets sessions send until one of their promises, chosen by chance, kills the server. A second server takes up what it left, and some more letters.
func (m *machine) killServer(config string, chance *rand.Rand) (kept []letter, journals int, err error) {
	address, server, err := m.smtpd(config)
	if err != nil {
		return nil, 0, err
	}
	fatal := 1 + chance.IntN(sessions*perSession)
	m.burst(address, 0, func(l letter) {
		if kept = append(kept, l); len(kept) == fatal {
			_ = server.Process.Kill() // it is waited for below
		}
	})
	journals = len(m.names("spool/journal"))
	if err := server.kill(); err != nil {
		return nil, 0, err
	}
	if address, server, err = m.smtpd(config); err != nil {
		return nil, 0, err
	}
	m.burst(address, sessions*perSession, func(l letter) { kept = append(kept, l) })
	_, err = server.stop()
	return kept, journals, err
}

// burst sends letters, numbered from first on, in several sessions, each until the server is gone. promised hears of those that were answered for, one after the other.
func (m *machine) burst(address string, first int, promised func(letter)) {
	var mu sync.Mutex
	var all sync.WaitGroup
	for session := range sessions {
		all.Go(func() {
			c, err := dial(address)
			if err != nil {
				return
			}
			defer c.close()
			for i := range perSession {
				l := newLetter(first+session*perSession+i, relay, 300+(i*700)%5000)
				answer, err := c.send(l)
				if err != nil || answer[0] != '2' {
					return
				}
				mu.Lock()
				promised(l)
				mu.Unlock()
			}
		})
	}
	all.Wait()
}
