package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/postel-mail/postel/test/sink"
)

// soak lets an exchanger, a submission server and a runner work for a long time, with good clients, hostile ones and such that die anywhere, while configuration and certificate are
// read again and again. Afterwards every message that was accepted has arrived once, and nothing is left of the sessions.
func (b *bench) soak() error {
	dir := b.dir + "/soak"
	hop := sink.New()
	defer hop.Close()
	next, err := hop.Listen("127.0.0.1:0", "")
	if err != nil {
		return err
	}
	if err := errors.Join(os.Mkdir(dir, 0o700), certify(dir)); err != nil {
		return err
	}
	config := fmt.Sprintf("hostname = \"bench.test\"\nspool = %q\nusers = %q\naliases = \"\"\nrelay_domains = [\"remote.test\"]\nrelay_networks = []\n[routes]\n\"*\" = \"smtp://%s\"\n"+
		"[tls]\ncertificate = %q\nkey = %q\n[limits]\nmin_free = \"1MiB\"\nconnections = 1000\n", dir+"/spool", b.dir+"/users", next, dir+"/cert.pem", dir+"/key.pem")
	if err := os.WriteFile(dir+"/postel.toml", []byte(config), 0o600); err != nil {
		return err
	}
	s := &soaking{bench: b, dir: dir, hop: hop, accepted: map[string]bool{}, unsure: map[string]bool{}}
	var stacks [2]map[string]int // goroutines of each program, after a short life and after a long one
	span := time.Duration(b.soaked) * time.Second
	for i, span := range []time.Duration{0, span} {
		if stacks[i], err = s.live(span); err != nil {
			return err
		}
	}
	for name, n := range stacks[1] {
		say("soak", "%s: %d goroutines at rest after %v, %d after 10 s, wanted the same", name, n, span, stacks[0][name])
	}
	return s.judge(span)
}

// soaking is what becomes of the messages, over two lives of the programs.
type soaking struct {
	*bench
	dir      string
	hop      *sink.Sink
	programs map[string]*process // those that live
	number   atomic.Int64        // of the last message

	mu       sync.Mutex
	accepted map[string]bool // by Message-ID: answered with 250
	unsure   map[string]bool // sent, and the answer not heard
	err      error           // the first of a good client
}

const (
	exchangerAddr  = "127.0.0.1:2525"
	submissionAddr = "127.0.0.1:2587"
)

// live is a life of 10 seconds and then of so many. It gives the number of goroutines that each program has at its end.
func (s *soaking) live(span time.Duration) (map[string]int, error) {
	s.programs = map[string]*process{}
	defer func() {
		for _, p := range s.programs {
			p.end()
		}
	}()
	for name, args := range map[string][]string{"exchanger": {"smtpd", "--listen", exchangerAddr}, "submission": {"smtpd", "--submission", "--listen", submissionAddr}, "qmgr": {"qmgr"}} {
		p, err := launch(s.command(s.dir, args[0], args[1:]...), s.dir+"/"+name)
		if err != nil {
			return nil, err
		}
		s.programs[name] = p
	}
	if err := errors.Join(s.programs["exchanger"].listens(exchangerAddr), s.programs["submission"].listens(submissionAddr)); err != nil {
		return nil, err
	}
	s.load(10 * time.Second)
	if span > 0 {
		before := s.sizes()
		s.load(span)
		after := s.sizes()
		for name, b := range before {
			a := after[name]
			say("soak", "%s: %.1f MiB PSS at rest after 10 s, %.1f after %v: ratio %.2f, wanted <= 1.1; %d descriptors more, wanted 0", name, b.pss, a.pss, span, a.pss/b.pss, a.files-b.files)
		}
	} else {
		s.sizes() // comes to rest
	}
	stacks := map[string]int{}
	for _, name := range []string{"exchanger", "submission", "qmgr"} {
		var err error
		if stacks[name], err = s.stacks(name); err != nil {
			return nil, err
		}
	}
	return stacks, s.err
}

// load lets clients of all kinds come for so long.
func (s *soaking) load(span time.Duration) {
	end := time.Now().Add(span)
	var all sync.WaitGroup
	repeat := func(n int, do func(i int) error) {
		for i := range n {
			all.Go(func() {
				for time.Now().Before(end) {
					if err := do(i); err != nil {
						s.mu.Lock()
						s.err = errors.Join(s.err, err)
						s.mu.Unlock()
						return
					}
					time.Sleep(time.Duration(rand.IntN(100)) * time.Millisecond)
				}
			})
		}
	}
	repeat(5, s.exchange)
	repeat(5, s.submit)
	repeat(10, s.die)
	repeat(40, func(i int) error { // hostile
		c, err := dialFrom(fmt.Sprintf("127.100.%d.1", i), []string{exchangerAddr, submissionAddr}[i/20])
		if err != nil {
			return err
		}
		over := time.AfterFunc(time.Until(end), func() { c.Close() })
		torment(c, i)
		over.Stop()
		c.Close()
		return nil
	})
	all.Go(func() {
		for n := 0; time.Now().Before(end); n++ {
			time.Sleep(min(5*time.Second, time.Until(end)))
			if n%3 == 0 {
				if err := certify(s.dir); err != nil {
					say("soak", "%v", err)
				}
			}
			for _, p := range s.programs {
				_ = p.Process.Signal(syscall.SIGHUP) // one that has ended is found out at the end
			}
		}
	})
	all.Wait()
}

// exchange is a session with the exchanger, of a client that has some messages.
func (s *soaking) exchange(i int) error {
	c, err := dialFrom(fmt.Sprintf("127.200.%d.1", i), exchangerAddr)
	if err != nil {
		return err
	}
	defer c.Close()
	t, err := greet(c)
	if err != nil {
		return err
	}
	for range 1 + rand.IntN(3) {
		if err := s.message(t, "a@far.example"); err != nil {
			return err
		}
	}
	return t.say("QUIT\r\n", "221")
}

// submit is a session with the submission server, under TLS and with a password.
func (s *soaking) submit(int) error {
	c, t, err := dial(submissionAddr, true)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := t.login(); err != nil {
		return err
	}
	if err := s.message(t, "u@bench.test"); err != nil {
		return err
	}
	return t.say("QUIT\r\n", "221")
}

// message sends one by DATA or by BDAT, and notes what became of it.
func (s *soaking) message(t talker, from string) error {
	id, text := s.letter()
	last := []step{{"DATA\r\n", "354"}, {text + ".\r\n", "250"}}
	if rand.IntN(2) == 0 {
		half := len(text) / 2
		last = []step{{fmt.Sprintf("BDAT %d\r\n%s", half, text[:half]), "250"}, {fmt.Sprintf("BDAT %d LAST\r\n%s", len(text)-half, text[half:]), "250"}}
	}
	if err := t.talk(append([]step{{"MAIL FROM:<" + from + ">\r\n", "250"}, {"RCPT TO:<x@remote.test>\r\n", "250"}}, last...)...); err != nil {
		s.note(s.unsure, id)
		return err
	}
	s.note(s.accepted, id)
	return nil
}

// letter makes a message that is like no other.
func (s *soaking) letter() (id, text string) {
	id = fmt.Sprintf("<%d@soak.example>", s.number.Add(1))
	lines := 10 + rand.IntN(60)
	if rand.IntN(20) == 0 {
		lines = 4000
	}
	return id, "From: <a@far.example>\r\nDate: Tue, 24 Nov 2026 12:00:00 +0000\r\nMessage-ID: " + id + "\r\n\r\n" + strings.Repeat(strings.Repeat("x", 70)+"\r\n", lines)
}

func (s *soaking) note(where map[string]bool, id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	where[id] = true
}

// die is a client that is gone at any moment, with or without a word of its system.
func (s *soaking) die(i int) error {
	addr := []string{exchangerAddr, submissionAddr}[i%2]
	c, err := dialFrom(fmt.Sprintf("127.201.%d.1", i), addr)
	if err != nil {
		return err
	}
	defer c.Close()
	if rand.IntN(2) == 0 {
		if err := c.(*net.TCPConn).SetLinger(0); err != nil {
			return err
		}
	}
	id, text := s.letter()
	begun := "EHLO x\r\nMAIL FROM:<a@far.example>\r\nRCPT TO:<x@remote.test>\r\n"
	words := []string{"", "EHLO", "EHLO x\r\nSTARTTLS\r\n", begun, begun + "DATA\r\n", begun + "DATA\r\n" + text, begun + fmt.Sprintf("BDAT %d LAST\r\n", len(text)) + text[:9],
		begun + fmt.Sprintf("BDAT %d LAST\r\n", len(text)) + text}
	n := rand.IntN(len(words))
	if n == len(words)-1 {
		s.note(s.unsure, id)
	}
	_, _ = c.Write([]byte(words[n])) // it may be thrown out
	time.Sleep(time.Duration(rand.IntN(50)) * time.Millisecond)
	return nil
}

type size struct {
	pss   float64
	files int
}

// sizes are those of the programs at rest.
func (s *soaking) sizes() map[string]size {
	all := map[string]size{}
	for name, p := range s.programs {
		all[name] = size{p.rested(), p.files()}
	}
	return all
}

// stacks ends a program by SIGQUIT, and counts the goroutines that it tells of.
func (s *soaking) stacks(name string) (int, error) {
	p := s.programs[name]
	delete(s.programs, name)
	if err := p.Process.Signal(syscall.SIGQUIT); err != nil {
		return 0, err
	}
	<-p.ended
	log, err := os.ReadFile(s.dir + "/" + name)
	if err != nil {
		return 0, err
	}
	_, trace, ok := strings.Cut(string(log), "SIGQUIT: quit")
	if n := strings.Count(string(log), "event=panic"); n > 0 || !ok {
		return 0, fmt.Errorf("%s: %d panics, its stacks were told: %v", name, n, ok)
	}
	return strings.Count(trace, "\ngoroutine "), os.Remove(s.dir + "/" + name)
}

// judge looks whether what was accepted has arrived, and what is left in the spool.
func (s *soaking) judge(span time.Duration) error {
	if out, err := s.command(s.dir, "qmgr", "--exit-when-empty").CombinedOutput(); err != nil { // takes away the journals that SIGQUIT has left
		return fmt.Errorf("qmgr --exit-when-empty: %w: %.300s", err, out)
	}
	ids := s.hop.IDs()
	lost, twice, refused := 0, 0, 0
	for id := range s.accepted {
		if ids[id] == 0 {
			lost++
		}
	}
	for id, n := range ids {
		if n > 1 {
			twice++
		}
		if !s.accepted[id] && !s.unsure[id] {
			refused++
		}
	}
	left := 0
	for _, folder := range []string{"tmp", "queue", "state", "corrupt", "journal", "drop", "wait"} {
		entries, err := os.ReadDir(s.dir + "/spool/" + folder)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		left += len(entries)
	}
	say("soak", "%d messages accepted in %v: %d lost, %d twice, %d never accepted and yet sent, wanted 0; %d files left in the spool, wanted 0", len(s.accepted), span, lost, twice, refused, left)
	return nil
}
