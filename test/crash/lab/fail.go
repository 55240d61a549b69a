package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"

	"github.com/postel-mail/postel/internal/clock"
)

// faulty tries disks that fail: the server goes on, refuses for now what it cannot promise, and what it promises is there.
func (m *machine) faulty(p *plan) error {
	began := clock.Now()
	runs := max(2, p.states/4)
	var all findings
	refused, recovered, hit := 0, 0, 0
	for n := range runs {
		name, seed := fmt.Sprintf("faulty%d", n), p.seed+uint64(n)
		chance := rand.New(rand.NewPCG(seed, 1<<35))
		healthy, failing := n, []int{1, 3, 100}[chance.IntN(3)]
		answers, err := m.fail(name, healthy, failing, chance)
		if err != nil {
			return fmt.Errorf("with EIO after %d writes and flushes, %d times: %w", healthy, failing, err)
		}
		h, err := m.history(name)
		if err != nil {
			return err
		}
		f, err := m.afterwards(h, state{name, h.end, dropped, seed})
		if err != nil {
			return err
		}
		all.add(f)
		if h.failed > 0 {
			hit++
		}
		if no := strings.Index(answers, "4"); no >= 0 {
			refused++
			if strings.Contains(answers[no:], "2") {
				recovered++
			}
		}
		if err := os.Remove(m.path("fuse/disk." + name)); err != nil {
			return err
		}
	}
	fmt.Printf("%-17s EIO: %d runs, in %d a letter was refused for now, in %d one was taken again; then %v; %.1f s\n",
		m.kind.name, runs, refused, recovered, &all, clock.Since(began).Seconds())
	if hit == 0 || refused == 0 {
		return errors.New("no failure of the disk met a letter")
	}
	if m.kind.settled && recovered == 0 { // with a journal it is the file system that has given up
		return errors.New("mail is not taken again though the disk works again")
	}
	return all.err(m.kind)
}

// fail sends letters over one connection after another to a server whose disk begins to fail, and at last works again. answers has a digit for each letter.
func (m *machine) fail(name string, healthy, failing int, chance *rand.Rand) (answers string, err error) {
	config, err := m.configure("working", m.disk("spool"), "127.0.0.1:9", "0B")
	if err != nil {
		return "", err
	}
	if err := m.mount("disk." + name); err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, m.unmount()) }()
	if err := m.homes(); err != nil {
		return "", err
	}
	address, server, err := m.smtpd(config)
	if err != nil {
		return "", err
	}
	const letters = 8
	for n := range letters {
		switch n {
		case 1:
			err = m.tell("fail."+name, fmt.Sprint(healthy, failing))
		case letters - 2:
			err = m.tell("fail."+name, "0 0")
		}
		if err != nil {
			break
		}
		l := newLetter(n, late, someSize(chance))
		var answer string
		if answer, err = m.sendAlone(address, l); err != nil {
			break
		}
		answers += answer[:1]
		switch {
		case answer[0] == '2':
			err = m.tell("mark."+name, acked+string(l))
		case answer[0] != '4':
			err = fmt.Errorf("%s is answered with %q", l, answer)
		}
	}
	_, err2 := server.stop()
	return answers, errors.Join(err, err2, m.tell("fail."+name, "0 0"))
}

// sendAlone sends a letter over a connection of its own.
func (m *machine) sendAlone(address string, l letter) (string, error) {
	c, err := dial(address)
	if err != nil {
		return "", err
	}
	defer c.close()
	return c.send(l)
}
