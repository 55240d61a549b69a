package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	goodClients    = 20
	hostileClients = 2000
	perHostile     = 40 // clients of one address
)

// hostile lets 20 clients send while 2,000 others hold what they can: some are silent, some send an octet a second of a command or a message, some flood, and some never
// finish a handshake; who is thrown out comes again. Every address is in a network of its own. What counts is how long a session of the good ones takes, from connect to QUIT.
func (b *bench) hostile() error {
	s, err := b.exchanger("connections = 2400\n")
	if err != nil {
		return err
	}
	defer s.end()
	span := time.Duration(b.seconds) * time.Second
	alone := s.goodOnes(min(span, 20*time.Second))
	if err := alone.err; err != nil {
		return err
	}
	var before, after float64
	for round := range 2 { // what the first leaves behind is the measure of the second
		herd := exec.Command(os.Args[0], "-herd", s.addr)
		herd.Stderr = os.Stderr
		if err := herd.Start(); err != nil {
			return err
		}
		time.Sleep(3 * time.Second)
		among := s.goodOnes(span)
		most, files := s.pss(), s.files()
		if err := errors.Join(herd.Process.Kill(), ignore(herd.Wait())); err != nil {
			return err
		}
		if after = s.rested(); round == 0 {
			before = after
		}
		say("hostile", "%d sessions of good clients among %d hostile ones in %v: p50 %v, p99 %v, wanted < 1s; %d refused or lost, wanted 0; alone p99 %v; %.1f MiB PSS and %d descriptors meanwhile",
			len(among.times), hostileClients, span, among.percentile(50), among.percentile(99), among.failed, alone.percentile(99), most, files)
		if among.failed > 0 {
			say("hostile", "the first of these: %v", among.err)
		}
	}
	say("hostile", "%.1f MiB when the first herd has left, %.1f when the second has: ratio %.2f, wanted <= 1.1; %d descriptors", before, after, after/before, s.files())
	log, err := os.ReadFile(b.dir + "/exchanger/log")
	if err != nil {
		return err
	}
	say("hostile", "the log: %d lines, %d panics, wanted 0; stress %d times", strings.Count(string(log), "\n"), strings.Count(string(log), "event=panic"),
		strings.Count(string(log), "event=stress n="))
	return nil
}

// ignore is for the end of a process that was killed.
func ignore(error) error { return nil }

// good is what became of the good clients' sessions.
type good struct {
	mu     sync.Mutex
	times  []time.Duration
	failed int
	err    error // the first
}

func (g *good) percentile(n int) time.Duration {
	if len(g.times) == 0 {
		return 0
	}
	slices.Sort(g.times)
	return g.times[len(g.times)*n/100].Round(time.Millisecond)
}

// goodOnes sends from 20 addresses for so long, with a short rest behind each session.
func (s *exchanger) goodOnes(span time.Duration) *good {
	g := &good{}
	var all sync.WaitGroup
	end := time.Now().Add(span)
	for i := range goodClients {
		all.Go(func() {
			for time.Now().Before(end) {
				began := time.Now()
				err := s.oneMessage(fmt.Sprintf("127.200.0.%d", i+1))
				g.mu.Lock()
				if g.times = append(g.times, time.Since(began)); err != nil {
					g.failed++
					if g.err == nil {
						g.err = err
					}
				}
				g.mu.Unlock()
				time.Sleep(50 * time.Millisecond)
			}
		})
	}
	all.Wait()
	return g
}

func (s *exchanger) oneMessage(from string) error {
	c, err := dialFrom(from, s.addr)
	if err != nil {
		return err
	}
	defer c.Close()
	t, err := greet(c)
	if err != nil {
		return err
	}
	return t.talk(step{"MAIL FROM:<a@far.example>\r\n", "250"}, step{"RCPT TO:<u@bench.test>\r\n", "250"},
		step{"DATA\r\n", "354"}, step{data, "250"}, step{"QUIT\r\n", "221"})
}

func dialFrom(from, addr string) (net.Conn, error) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: 30 * time.Second}
	return d.Dial("tcp", addr)
}

// herd is the hostile clients, in a process of their own, until it is killed.
func herd(addr string) {
	var all sync.WaitGroup
	for i := range hostileClients {
		all.Go(func() {
			for {
				c, err := dialFrom(fmt.Sprintf("127.100.%d.1", i/perHostile), addr)
				if err == nil {
					torment(c, i)
					c.Close()
				}
				time.Sleep(200 * time.Millisecond)
			}
		})
	}
	all.Wait()
}

// torment is a hostile client of the kind i, until it is thrown out.
func torment(c net.Conn, i int) {
	const begun = "EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<u@bench.test>\r\nDATA\r\n"
	heard := make(chan struct{})
	go func() {
		defer close(heard)
		if i%20 == 3 {
			return // it never reads
		}
		b := make([]byte, 4096)
		for {
			if _, err := c.Read(b); err != nil {
				return
			}
		}
	}()
	say := func(words string, times int, rest time.Duration) {
		for range times {
			if _, err := c.Write([]byte(words)); err != nil {
				return
			}
			select {
			case <-heard:
				if i%20 != 3 {
					return
				}
			case <-time.After(rest):
			}
		}
	}
	switch i % 4 {
	case 0: // silent
	case 1: // slow
		if i%8 == 1 {
			say(begun, 1, time.Second)
		}
		say("x", 1e6, time.Second)
	case 2: // half a handshake
		say("EHLO x\r\nSTARTTLS\r\n", 1, time.Second)
		say("\x16\x03\x01\x02\x00\x01\x00", 1, 0)
	case 3: // flooding
		flood := []string{strings.Repeat("NOOP\r\n", 1000), strings.Repeat("RCPT TO:<x@else.example>\r\n", 1000), strings.Repeat("\x00", 1<<16), begun + strings.Repeat("x\r\n", 1<<15)}[i/4%4]
		say(flood, 1000, time.Millisecond)
	}
	<-heard
}
