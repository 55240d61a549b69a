package mx

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

// stub asks the configured servers, one after the other, until one gives an answer that can be used.
type stub struct {
	conf
	first atomic.Uint32 // the server to ask first
}

func newStub(c conf, total time.Duration) *stub {
	tries := time.Duration(c.attempts * len(c.servers))
	c.timeout = min(c.timeout, total/tries) // every server gets its turn within the time
	return &stub{conf: c}
}

// question is a name in lower case without root dot, and a record type.
type question struct {
	name  string
	qtype uint16
}

func (q question) String() string { return dns.TypeToString[q.qtype] + " of " + q.name }

var (
	errQueries = errors.New("too many queries")
	errAnswer  = errors.New("no usable answer") // the server is there, but asking it again is of no use
	errSilent  = errors.New("no answer")
)

// ask puts q to the servers; left is how many queries may still be sent. Each server is tried attempts times, in turns. Where one
// is silent, the one that answers is asked first from then on.
func (s *stub) ask(ctx context.Context, left *int, q question) (reply, error) {
	n := uint32(len(s.servers))
	first := s.first.Load()
	if s.rotate {
		first = s.first.Add(1)
	}
	useless := make([]bool, n)
	var failure error
	for range s.attempts {
		for i := range n {
			k := (first + i) % n
			if useless[k] {
				continue
			}
			found, err := s.try(ctx, left, s.servers[k], q)
			if err == nil {
				if !s.rotate && !useless[first%n] {
					s.first.Store(k)
				}
				return found, nil
			}
			failure = fmt.Errorf("%s: server %s: %w", q, s.servers[k], err)
			if ctx.Err() != nil || errors.Is(err, errQueries) {
				return reply{}, failure
			}
			useless[k] = errors.Is(err, errAnswer)
		}
	}
	return reply{}, failure
}

// try puts q to one server: by UDP with EDNS0, by TCP when the answer is truncated, without EDNS0 for a server that does not know it
// (RFC 6891 6.2.2).
func (s *stub) try(ctx context.Context, left *int, server string, q question) (reply, error) {
	for tcp, edns := s.tcp, true; ; {
		if *left == 0 {
			return reply{}, errQueries
		}
		*left--
		m, err := s.exchange(ctx, server, q, tcp, edns)
		switch {
		case err != nil:
			return reply{}, err
		case m.Truncated:
			tcp = true
		case edns && (m.Rcode == dns.RcodeFormatError || m.Rcode == dns.RcodeNotImplemented):
			edns = false
		default:
			return judge(m, q)
		}
	}
}

// newQuery makes a query with a random id. The ids come from ChaCha8, seeded by the kernel: they cannot be foreseen.
func newQuery(q question, edns bool) (id uint16, packet []byte, err error) {
	m := new(dns.Msg).SetQuestion(dns.Fqdn(q.name), q.qtype)
	m.Id = uint16(rand.Uint32())
	if edns {
		m.SetEdns0(1232, false) // what passes without fragments
	}
	packet, err = m.Pack()
	return m.Id, packet, err
}

// exchange sends one query and reads its answer, on a socket of its own: the kernel picks a new port and lets in nothing but packets
// from the server.
func (s *stub) exchange(ctx context.Context, server string, q question, tcp, edns bool) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	id, packet, err := newQuery(q, edns)
	if err != nil {
		return nil, err
	}
	network, read := "udp", readUDP
	if tcp {
		network, read = "tcp", readTCP
		packet = append(binary.BigEndian.AppendUint16(nil, uint16(len(packet))), packet...)
	}
	conn, err := new(net.Dialer).DialContext(ctx, network, server)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	past := time.Unix(1, 0)
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(past) })() // ends what waits on conn
	if _, err := conn.Write(packet); err != nil {
		return nil, err
	}
	m, err := read(conn, id, q)
	if err != nil && ctx.Err() != nil {
		return nil, errSilent
	}
	return m, err
}

// maxStray is how many packets that are no answer to the question are passed over: a damaged or forged one must not end the
// query, a flood of them must.
const maxStray = 100

func readUDP(conn net.Conn, id uint16, q question) (*dns.Msg, error) {
	buf := make([]byte, 4096)
	for range maxStray {
		n, err := conn.Read(buf)
		if err != nil {
			return nil, err
		}
		if m, ok := parse(buf[:n], id, q); ok {
			return m, nil
		}
	}
	return nil, fmt.Errorf("%d packets that are no answer to the query: %w", maxStray, errAnswer)
}

func readTCP(conn net.Conn, id uint16, q question) (*dns.Msg, error) {
	var length [2]byte
	if _, err := io.ReadFull(conn, length[:]); err != nil {
		return nil, err
	}
	buf := make([]byte, binary.BigEndian.Uint16(length[:]))
	if _, err := io.ReadFull(conn, buf); err != nil {
		return nil, err
	}
	m, ok := parse(buf, id, q)
	if !ok || m.Truncated {
		return nil, fmt.Errorf("malformed message over TCP: %w", errAnswer)
	}
	return m, nil
}
