package mx

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/postel-mail/postel/test/dnszone"
)

// script is a DNS server that answers each query with the packets that its function makes, however wrong.
type script struct {
	addr  string
	asked atomic.Int32
	udp   net.PacketConn
	tcp   net.Listener
	reply func(q *dns.Msg, tcp bool) [][]byte
}

func newScript(t testing.TB, reply func(q *dns.Msg, tcp bool) [][]byte) *script {
	t.Helper()
	s := &script{reply: reply}
	var err error
	for range 20 { // the same port must be free for both
		if s.tcp, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
		if s.udp, err = net.ListenPacket("udp", s.tcp.Addr().String()); err == nil {
			break
		}
		s.tcp.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	s.addr = s.tcp.Addr().String()
	var running sync.WaitGroup
	running.Go(s.serveUDP)
	running.Go(s.serveTCP)
	t.Cleanup(func() {
		s.udp.Close()
		s.tcp.Close()
		running.Wait()
	})
	return s
}

func (s *script) answer(packet []byte, tcp bool) [][]byte {
	q := new(dns.Msg)
	if q.Unpack(packet) != nil {
		return nil
	}
	s.asked.Add(1)
	return s.reply(q, tcp)
}

func (s *script) serveUDP() {
	buf := make([]byte, 4096)
	for {
		n, from, err := s.udp.ReadFrom(buf)
		if err != nil {
			return
		}
		for _, p := range s.answer(buf[:n], false) {
			_, _ = s.udp.WriteTo(p, from)
		}
	}
}

func (s *script) serveTCP() {
	for {
		conn, err := s.tcp.Accept()
		if err != nil {
			return
		}
		var length [2]byte
		if _, err := io.ReadFull(conn, length[:]); err == nil {
			packet := make([]byte, binary.BigEndian.Uint16(length[:]))
			if _, err := io.ReadFull(conn, packet); err == nil {
				for _, p := range s.answer(packet, true) {
					_, _ = conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(p))), p...))
				}
			}
		}
		conn.Close()
	}
}

// message makes a reply to q with an rcode and answers in master file form; what alter changes in it is what the test is about.
func message(q *dns.Msg, rcode int, answers string, alter ...func(*dns.Msg)) []byte {
	m := new(dns.Msg).SetRcode(q, rcode)
	m.RecursionAvailable = true
	m.Compress = true
	p := dns.NewZoneParser(strings.NewReader(answers), ".", "")
	p.SetDefaultTTL(300)
	for rr, ok := p.Next(); ok; rr, ok = p.Next() {
		m.Answer = append(m.Answer, rr)
	}
	for _, f := range alter {
		f(m)
	}
	packet, err := m.Pack()
	if err != nil {
		panic(fmt.Sprintf("%v: %v", answers, err)) // a mistake in the test
	}
	return packet
}

var parsedZone = sync.OnceValues(func() (*dnszone.Zone, error) { return dnszone.Parse(zone) })

// recorder catches what dnszone would send.
type recorder struct {
	dns.ResponseWriter
	sent []byte
}

func (r *recorder) LocalAddr() net.Addr { return &net.TCPAddr{} }
func (r *recorder) WriteMsg(m *dns.Msg) (err error) {
	if strings.HasPrefix(m.Question[0].Name, "nosoa.") {
		m.Ns = nil
	}
	r.sent, err = m.Pack()
	return err
}

// zoneReply answers from the zone of the tests.
func zoneReply(q *dns.Msg) [][]byte {
	z, err := parsedZone()
	if err != nil {
		return nil
	}
	var r recorder
	z.ServeDNS(&r, q)
	return [][]byte{r.sent}
}

const good = "d.example. MX 10 mx.d.example."

// TestServers: what a server may do to a query, and what comes of it. All of it is over UDP and TCP on loopback, with no wait but that of
// a look-up that is never answered, which is short.
func TestServers(t *testing.T) {
	ok := func(q *dns.Msg) []byte { return message(q, 0, good) }
	forged := "d.example. MX 1 evil.example."
	silent := func(*dns.Msg, bool) [][]byte { return nil }
	flags := func(f func(*dns.Msg)) func(*dns.Msg, bool) [][]byte {
		return func(q *dns.Msg, _ bool) [][]byte { return [][]byte{message(q, 0, "", f)} }
	}
	const found = "mx, 10 mx.d.example"
	const failed = "451 4.4.3 "
	tests := []struct {
		name  string
		reply func(q *dns.Msg, tcp bool) [][]byte
		want  string // a prefix
		asked int32
	}{
		{"plain", func(q *dns.Msg, _ bool) [][]byte { return [][]byte{ok(q)} }, found, 1},
		{"wrong id first", func(q *dns.Msg, _ bool) [][]byte {
			return [][]byte{message(q, 0, forged, func(m *dns.Msg) { m.Id++ }), ok(q)}
		}, found, 1},
		{"wrong question first", func(q *dns.Msg, _ bool) [][]byte {
			return [][]byte{message(q, 0, forged, func(m *dns.Msg) { m.Question[0].Name = "e.example." }), ok(q)}
		}, found, 1},
		{"wrong type first", func(q *dns.Msg, _ bool) [][]byte {
			return [][]byte{message(q, 0, forged, func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeA }), ok(q)}
		}, found, 1},
		{"two questions first", func(q *dns.Msg, _ bool) [][]byte {
			return [][]byte{message(q, 0, forged, func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) }), ok(q)}
		}, found, 1},
		{"no question first", func(q *dns.Msg, _ bool) [][]byte {
			return [][]byte{message(q, 0, forged, func(m *dns.Msg) { m.Question = nil }), message(q, dns.RcodeNameError, "", func(m *dns.Msg) { m.Question = nil }), ok(q)}
		}, found, 1},
		{"a query first", func(q *dns.Msg, _ bool) [][]byte {
			return [][]byte{message(q, 0, forged, func(m *dns.Msg) { m.Response = false }), ok(q)}
		}, found, 1},
		{"garbage first", func(q *dns.Msg, _ bool) [][]byte {
			cut := ok(q)
			return [][]byte{{}, {1}, cut[:11], cut[:len(cut)-3], slices.Concat(cut[:2], []byte("\x81\x80\xff\xff\xff\xff\xff\xff\xff\xff\xc0\x0c\xc0\x0c")), cut}
		}, found, 1},
		{"flood", func(q *dns.Msg, tcp bool) [][]byte {
			return slices.Repeat([][]byte{message(q, 0, forged, func(m *dns.Msg) { m.Id++ })}, maxStray)
		}, failed, 1},
		{"other case in the question", func(q *dns.Msg, _ bool) [][]byte {
			return [][]byte{message(q, 0, "D.Example. MX 10 MX.d.example.", func(m *dns.Msg) { m.Question[0].Name = "D.eXample." })}
		}, found, 1},
		{"records of another name", func(q *dns.Msg, _ bool) [][]byte { return [][]byte{message(q, 0, forged[2:]+"\n"+good)} }, found, 1},
		{"records of another class", func(q *dns.Msg, _ bool) [][]byte {
			return [][]byte{message(q, 0, "d.example. CH MX 1 evil.example.\n"+good)}
		}, found, 1},
		{"truncated", func(q *dns.Msg, tcp bool) [][]byte {
			return [][]byte{message(q, 0, good, func(m *dns.Msg) {
				if !tcp {
					m.Truncated, m.Answer[0].(*dns.MX).Mx = true, "evil.example."
				}
			})}
		}, found, 2},
		{"truncated in the middle of a record", func(q *dns.Msg, tcp bool) [][]byte {
			if tcp {
				return [][]byte{ok(q)}
			}
			p := message(q, 0, good, func(m *dns.Msg) { m.Truncated = true })
			return [][]byte{p[:len(p)-5]}
		}, found, 2},
		{"truncated over TCP too", func(q *dns.Msg, _ bool) [][]byte {
			return [][]byte{message(q, 0, good, func(m *dns.Msg) { m.Truncated = true })}
		}, failed, 2},
		{"truncated, no TCP", func(q *dns.Msg, tcp bool) [][]byte {
			if tcp {
				return nil
			}
			return [][]byte{message(q, 0, "", func(m *dns.Msg) { m.Truncated = true })}
		}, failed, 4},
		{"lies over TCP", func(q *dns.Msg, tcp bool) [][]byte {
			return [][]byte{message(q, 0, forged, func(m *dns.Msg) { m.Truncated = !tcp; m.Question[0].Qtype = dns.TypeMX + map[bool]uint16{true: 1}[tcp] })}
		}, failed, 2},
		{"no EDNS0: FORMERR", func(q *dns.Msg, _ bool) [][]byte {
			if q.IsEdns0() != nil {
				return [][]byte{message(q, dns.RcodeFormatError, "", func(m *dns.Msg) { m.Question = nil })}
			}
			return [][]byte{ok(q)}
		}, found, 2},
		{"no EDNS0: NOTIMP", func(q *dns.Msg, _ bool) [][]byte {
			if q.IsEdns0() != nil {
				return [][]byte{message(q, dns.RcodeNotImplemented, "")}
			}
			return [][]byte{ok(q)}
		}, found, 2},
		{"FORMERR", func(q *dns.Msg, _ bool) [][]byte { return [][]byte{message(q, dns.RcodeFormatError, "")} }, failed, 2},
		{"SERVFAIL", func(q *dns.Msg, _ bool) [][]byte { return [][]byte{message(q, dns.RcodeServerFailure, "")} }, failed, 1},
		{"REFUSED", func(q *dns.Msg, _ bool) [][]byte { return [][]byte{message(q, dns.RcodeRefused, "")} }, failed, 1},
		{"code 11", func(q *dns.Msg, _ bool) [][]byte { return [][]byte{message(q, 11, "")} }, failed, 1},
		{"silent", silent, failed, 2},
		{"no resolver", flags(func(m *dns.Msg) { m.RecursionAvailable = false }), failed, 1},
		{"referral", flags(func(m *dns.Msg) {
			m.Ns = []dns.RR{&dns.NS{Hdr: dns.RR_Header{Name: "example.", Rrtype: dns.TypeNS, Class: dns.ClassINET}, Ns: "ns.example."}}
		}), failed, 1},
		{"authority", flags(func(m *dns.Msg) { m.RecursionAvailable, m.Authoritative = false, true }), "550 5.1.2 neither", 3},
		{"alias out of an authority", func(q *dns.Msg, _ bool) [][]byte {
			return [][]byte{message(q, 0, "d.example. CNAME e.test.", func(m *dns.Msg) { m.RecursionAvailable, m.Authoritative = false, true })}
		}, failed, 1},
		{"NODATA", func(q *dns.Msg, _ bool) [][]byte { return [][]byte{message(q, 0, "")} }, "550 5.1.2 neither", 3},
		{"NXDOMAIN", func(q *dns.Msg, _ bool) [][]byte { return [][]byte{message(q, dns.RcodeNameError, "")} }, "550 5.1.2 no such", 1},
		{"NODATA, then SERVFAIL", func(q *dns.Msg, _ bool) [][]byte {
			return [][]byte{message(q, map[bool]int{false: dns.RcodeServerFailure}[q.Question[0].Qtype == dns.TypeMX], "")}
		}, failed, 2},
		{"giant", func(q *dns.Msg, tcp bool) [][]byte {
			if !tcp {
				return [][]byte{message(q, 0, "", func(m *dns.Msg) { m.Truncated = true })}
			}
			var b strings.Builder
			for i := range 3000 {
				fmt.Fprintf(&b, "d.example. MX %d mx%d.d.example.\n", i, i)
			}
			return [][]byte{message(q, 0, b.String())}
		}, "mx, 0 mx0.d.example, 1 mx1.d.example", 2},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newScript(t, tt.reply)
			o := Options{Servers: []string{s.addr}}
			if tt.name == "silent" {
				o.Timeout = 100 * time.Millisecond
			}
			got := show(resolver(t, o).Lookup(t.Context(), "d.example"))
			if !strings.HasPrefix(got, tt.want) {
				t.Errorf("got %s, want %s", got, tt.want)
			}
			if n := s.asked.Load(); n != tt.asked && tt.name != "silent" {
				t.Errorf("%d queries, want %d", n, tt.asked)
			}
		})
	}
}

// TestNextServer: another server is asked when one is of no use, and first from then on when that one was silent.
func TestNextServer(t *testing.T) {
	working := newScript(t, func(q *dns.Msg, _ bool) [][]byte {
		return [][]byte{message(q, 0, q.Question[0].Name+" MX 10 mx.d.example.")}
	})
	refusing := newScript(t, func(q *dns.Msg, _ bool) [][]byte { return [][]byte{message(q, dns.RcodeRefused, "")} })
	mute := newScript(t, func(*dns.Msg, bool) [][]byte { return nil })
	gone := newScript(t, nil)
	gone.udp.Close()
	for _, tt := range []struct {
		name  string
		other *script
		first uint32
	}{{"refusing", refusing, 0}, {"mute", mute, 1}, {"gone", gone, 1}} {
		r := resolver(t, Options{Servers: []string{tt.other.addr, working.addr}})
		if tt.other == mute { // a wait that is short, and many of them, so that a slow machine still sees the answer of the other
			r.stub.timeout, r.stub.attempts = 100*time.Millisecond, 10
		}
		if got := show(r.Lookup(t.Context(), "d.example")); got != "mx, 10 mx.d.example" {
			t.Errorf("%s: got %s", tt.name, got)
		}
		if first := r.stub.first.Load(); first != tt.first {
			t.Errorf("%s: server %d is asked first, want %d", tt.name, first, tt.first)
		}
	}
}

func TestRotate(t *testing.T) {
	var scripts []*script
	var servers []string
	for range 3 {
		s := newScript(t, func(q *dns.Msg, tcp bool) [][]byte {
			if !tcp {
				return nil
			}
			return [][]byte{message(q, 0, q.Question[0].Name+" MX 10 mx.d.example.")}
		})
		scripts, servers = append(scripts, s), append(servers, s.addr)
	}
	r := resolver(t, Options{Servers: servers})
	r.stub.rotate, r.stub.tcp = true, true
	for i := range 9 {
		if got := show(r.Lookup(t.Context(), fmt.Sprintf("d%d.example", i))); got != "mx, 10 mx.d.example" {
			t.Errorf("got %s", got)
		}
	}
	for i, s := range scripts {
		if n := s.asked.Load(); n != 3 {
			t.Errorf("server %d was asked %d times, want 3", i, n)
		}
	}
}

// TestBounds: a look-up ends after 20 queries, and with its context.
func TestBounds(t *testing.T) {
	s := newScript(t, func(q *dns.Msg, tcp bool) [][]byte { // four queries a try, and never an answer
		if q.IsEdns0() != nil {
			return [][]byte{message(q, dns.RcodeFormatError, "")}
		}
		return [][]byte{message(q, 0, "", func(m *dns.Msg) { m.Truncated = true })}
	})
	r := resolver(t, Options{Servers: slices.Repeat([]string{s.addr}, 12)})
	if got := show(r.Lookup(t.Context(), "d.example")); !strings.Contains(got, "too many queries") || s.asked.Load() != maxQueries {
		t.Errorf("after %d queries: got %s", s.asked.Load(), got)
	}

	ctx, cancel := context.WithCancel(t.Context())
	waiting := newScript(t, func(*dns.Msg, bool) [][]byte { cancel(); return nil })
	r = resolver(t, Options{Servers: []string{waiting.addr}})
	if got := show(r.Lookup(ctx, "d.example")); !strings.HasPrefix(got, "451 4.4.3 ") {
		t.Errorf("with its context ended: got %s", got)
	}
}

// TestHalfAnswered: one family of addresses that fails does not hide the other.
func TestHalfAnswered(t *testing.T) {
	s := newScript(t, func(q *dns.Msg, _ bool) [][]byte {
		if q.Question[0].Qtype == dns.TypeAAAA {
			return [][]byte{message(q, dns.RcodeServerFailure, "")}
		}
		if strings.HasPrefix(q.Question[0].Name, "none") {
			return [][]byte{message(q, 0, "")}
		}
		return [][]byte{message(q, 0, q.Question[0].Name+" A 192.0.2.1")}
	})
	r := resolver(t, Options{Servers: []string{s.addr}})
	if got, err := r.Addresses(t.Context(), "mx.example"); err != nil || fmt.Sprint(got) != "[192.0.2.1]" {
		t.Errorf("got %v, %v", got, err)
	}
	if got, err := r.Addresses(t.Context(), "none.example"); !strings.HasPrefix(show(Answer{}, err), "451 4.4.3 ") {
		t.Errorf("got %v, %v; want a temporary error", got, err)
	}
}

// FuzzReply: no packet makes parse or judge fail otherwise than by saying so, and what comes out is fit for use.
func FuzzReply(f *testing.F) {
	ask := new(dns.Msg).SetQuestion("d.example.", dns.TypeMX)
	ask.Id = 1
	types := []uint16{dns.TypeMX, dns.TypeA, dns.TypePTR, dns.TypeTXT}
	f.Add(message(ask, 0, good), 0)
	f.Add(message(ask, 0, "d.example. CNAME e.example.\ne.example. CNAME d.example."), 0)
	f.Add(message(ask, 0, "d.example. MX 0 .\nd.example. MX 1 a\\.b."), 0)
	f.Add(message(ask, dns.RcodeNameError, "", func(m *dns.Msg) { m.Truncated = true }), 0)
	ask.SetQuestion("d.example.", dns.TypeA)
	ask.Id = 1
	f.Add(message(ask, 0, "d.example. A 192.0.2.1"), 1)
	for kind, record := range map[int]string{2: "d.example. PTR a.example.\nd.example. PTR a\\010b.", 3: `d.example. TXT "a\255" "b"`} {
		ask.SetQuestion("d.example.", types[kind])
		ask.Id = 1
		f.Add(message(ask, 0, record), kind)
	}
	f.Fuzz(func(t *testing.T, packet []byte, kind int) {
		q := question{"d.example", types[uint(kind)%uint(len(types))]}
		m, ok := parse(packet, 1, q)
		if !ok || m.Truncated {
			return
		}
		found, err := judge(m, q)
		if err != nil {
			return
		}
		if len(found.hosts) > maxHosts || len(found.addrs) > maxAddresses || found.ttl < 0 || found.ttl > maxTTL {
			t.Fatalf("%q gives %+v", packet, found)
		}
		for _, h := range found.hosts {
			found.names = append(found.names, h.Name)
		}
		for _, name := range found.names {
			if strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r >= 0x7f }) || name == "" {
				t.Fatalf("%q gives host %q", packet, name)
			}
		}
		if strings.ContainsFunc(found.text, func(r rune) bool { return r < ' ' || r >= 0x7f }) || len(found.text) > 255 {
			t.Fatalf("%q gives text %q", packet, found.text)
		}
	})
}
