// Package sink is a mail server that takes everything and keeps nothing, for tests and benchmarks of what sends mail. It answers as its rules say: as a
// good server, or as one that refuses, puts off, hangs, dawdles or breaks off at any point.
//
// It speaks SMTP (RFC 5321) or LMTP (RFC 2033), with what its EHLO is told to offer of PIPELINING, SIZE, 8BITMIME, SMTPUTF8, CHUNKING, DSN, LIMITS,
// ENHANCEDSTATUSCODES, STARTTLS and AUTH (PLAIN and LOGIN). Of each message it records envelope, Message-ID and sums, and when it came. It is cheap,
// since it runs on the machine that is measured: a goroutine and 4 KiB for a connection, and no message is held.
//
// A port at which nobody listens is made by listening nowhere; see Closed.
package sink

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"time"
)

// Sink is what any number of listeners share: the record, and the rules' memory. The exported fields are set before the first Listen.
type Sink struct {
	Keep bool                // keep the messages' octets in the record
	Took func(Message)       // is called with each message, before the client is told that it was taken; may be nil
	tls  func() *tls.Config  // makes a certificate once, when the first listener needs one
	mu   sync.Mutex          // guards what follows
	news chan struct{}       // closed when a step is reached; nil: nobody waits
	done chan struct{}       // closed by Close
	free chan struct{}       // closed by Release
	all  []Message           // in order of arrival
	seen map[string]int      // how often a step was reached: "connect", "rcpt", ...; "message" and others, see Count
	past map[memory]int      // how often a rule with First applied
	open map[net.Conn]string // connections, and the address they came to
	most int                 // connections at once
	ends []net.Listener
	wg   sync.WaitGroup
}

// memory is what First counts by.
type memory struct {
	rule *Rule
	rcpt string
}

// Message is what is recorded of a message that was taken: one for each final reply to DATA or BDAT that said so.
type Message struct {
	At       time.Time
	Listener string   // the address it came to
	Conn     int      // the number of the connection, from 1
	Helo     string   // the client's name
	TLS      bool     // it came by TLS
	User     string   // who had logged in
	From     string   // without angle brackets
	Params   string   // of MAIL
	To       []string // those that were taken, without angle brackets
	ToParams []string // of RCPT
	Chunked  bool     // by BDAT
	ID       string   // Message-ID, with angle brackets
	Size     int64    // octets, without the dots that were added
	Sum      uint32   // CRC-32C of the octets behind the header
	Eight    bool     // it has octets above 127
	Bare     bool     // it has a CR without LF, or an LF without CR
	Longest  int      // octets of the longest line, with its CR LF
	Text     string   // all of it, with Keep
}

// New makes a sink without listeners.
func New() *Sink {
	return &Sink{tls: sync.OnceValue(certificate), done: make(chan struct{}), free: make(chan struct{}),
		seen: map[string]int{}, past: map[memory]int{}, open: map[net.Conn]string{}}
}

// Listen serves on addr, a TCP address or "unix:PATH", by a script; see Parse. It gives the address that it got.
func (s *Sink) Listen(addr, script string) (string, error) {
	rules, err := Parse(script)
	if err != nil {
		return "", err
	}
	return s.Serve(addr, rules)
}

// Serve is Listen with rules in Go.
func (s *Sink) Serve(addr string, b *Behaviour) (string, error) {
	network, address := "tcp", addr
	if len(addr) > 5 && addr[:5] == "unix:" {
		network, address = "unix", addr[5:]
	}
	l, err := net.Listen(network, address)
	if err != nil {
		return "", err
	}
	if network == "tcp" {
		addr = l.Addr().String()
	}
	s.mu.Lock()
	s.ends = append(s.ends, l)
	s.mu.Unlock()
	s.wg.Go(func() { s.accept(l, addr, b) })
	return addr, nil
}

func (s *Sink) accept(l net.Listener, addr string, b *Behaviour) {
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // of one connection, or no descriptors left
			time.Sleep(10 * time.Millisecond)
			continue
		}
		s.mu.Lock()
		s.open[c] = addr
		s.most = max(s.most, len(s.open))
		s.seen["connection"]++
		n := s.seen["connection"]
		s.tell()
		s.mu.Unlock()
		s.wg.Go(func() {
			newSession(s, b, c, addr, n).run()
			c.Close()
			s.mu.Lock()
			delete(s.open, c)
			s.seen["disconnection"]++
			s.tell()
			s.mu.Unlock()
		})
	}
}

// Close ends all listeners and connections, and waits for them.
func (s *Sink) Close() {
	s.mu.Lock()
	select {
	case <-s.done:
	default:
		close(s.done)
	}
	for _, l := range s.ends {
		l.Close()
	}
	for c := range s.open {
		c.Close()
	}
	s.mu.Unlock()
	s.wg.Wait()
}

// Release lets all that hangs go on, now and later.
func (s *Sink) Release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.free:
	default:
		close(s.free)
	}
}

// Messages is the record so far.
func (s *Sink) Messages() []Message {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Message(nil), s.all...)
}

// IDs counts the messages so far by their Message-ID: one that came twice, in two transactions, counts 2.
func (s *Sink) IDs() map[string]int {
	ids := map[string]int{}
	for _, m := range s.Messages() {
		ids[m.ID]++
	}
	return ids
}

// Count says how often a step was reached: "connection", "disconnection", each step of a rule's Step, "message" for a message that was taken, and "violation" for a client
// that pipelined where it was not offered, or ended a command with a bare LF.
func (s *Sink) Count(step string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seen[step]
}

// Connections gives the number of connections that are open, and the most that there were at once.
func (s *Sink) Connections() (now, most int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.open), s.most
}

// Await waits until a step was reached n times, or ctx ends.
func (s *Sink) Await(ctx context.Context, step string, n int) error {
	for {
		s.mu.Lock()
		if s.news == nil {
			s.news = make(chan struct{})
		}
		count, news := s.seen[step], s.news
		s.mu.Unlock()
		if count >= n {
			return nil
		}
		select {
		case <-news:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// reach counts a step.
func (s *Sink) reach(step string) {
	s.mu.Lock()
	s.seen[step]++
	s.tell()
	s.mu.Unlock()
}

// tell wakes those who wait. s.mu is held.
func (s *Sink) tell() {
	if s.news != nil {
		close(s.news)
		s.news = nil
	}
}

func (s *Sink) record(m Message) {
	s.mu.Lock()
	s.all = append(s.all, m)
	s.seen["message"]++
	s.tell()
	s.mu.Unlock()
	if s.Took != nil {
		s.Took(m)
	}
}

// again counts that a rule with First applies to rcpt, and reports whether it still does.
func (s *Sink) again(r *Rule, rcpt string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := memory{r, rcpt}
	if s.past[key] >= r.First {
		return false
	}
	s.past[key]++
	return true
}

// Closed gives an address at which nobody listens, so that to connect there is refused. Its port was free a moment ago.
func Closed(ip string) (string, error) {
	l, err := net.Listen("tcp", net.JoinHostPort(ip, "0"))
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}
