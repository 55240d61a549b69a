// Package dnszone is a small authoritative DNS server for tests and the demonstration: zones in master file form
// (RFC 1035 5), served over UDP and TCP on one address.
//
// It tells a name that does not exist (NXDOMAIN) from one without records of the type (NODATA), follows CNAMEs within its zones,
// expands wildcards (RFC 4592) and truncates what does not fit (RFC 6891). It claims recursion, so that stub resolvers take it
// for a resolver. It does no delegation, no DNSSEC and no zone transfer.
package dnszone

import (
	"fmt"
	"net"
	"strings"

	"github.com/miekg/dns"
)

// Zone is the content of one master file: any number of zones, each begun by its SOA record.
type Zone struct {
	records map[string]map[uint16][]dns.RR // by owner, lower case with root dot, then by type; empty non-terminals have no types
	soas    map[string]*dns.SOA
}

// Parse reads a master file. $ORIGIN starts at the root and may change as often as needed; a record without a TTL gets 300 s;
// $INCLUDE is refused. A server answers REFUSED outside the names below a SOA; without any SOA it is authoritative for every name.
func Parse(text string) (*Zone, error) {
	z := &Zone{records: map[string]map[uint16][]dns.RR{}, soas: map[string]*dns.SOA{}}
	p := dns.NewZoneParser(strings.NewReader(text), ".", "zone")
	p.SetDefaultTTL(300)
	for rr, ok := p.Next(); ok; rr, ok = p.Next() {
		z.add(rr)
	}
	if err := p.Err(); err != nil {
		return nil, fmt.Errorf("dnszone: %w", err)
	}
	return z, nil
}

func (z *Zone) add(rr dns.RR) {
	owner := dns.CanonicalName(rr.Header().Name)
	if soa, ok := rr.(*dns.SOA); ok {
		z.soas[owner] = soa
	}
	for name, end := owner, false; !end; name = parent(name) { // the names above exist too, as empty non-terminals
		if z.records[name] == nil {
			z.records[name] = map[uint16][]dns.RR{}
		}
		end = name == "."
	}
	t := rr.Header().Rrtype
	z.records[owner][t] = append(z.records[owner][t], rr)
}

// parent cuts the first label: "a.example." gives "example.".
func parent(name string) string {
	if next, end := dns.NextLabel(name, 0); !end {
		return name[next:]
	}
	return "."
}

// authority is the SOA of the zone that name is in, and whether this server answers for it.
func (z *Zone) authority(name string) (*dns.SOA, bool) {
	for {
		if soa := z.soas[name]; soa != nil {
			return soa, true
		}
		if name == "." {
			return nil, len(z.soas) == 0
		}
		name = parent(name)
	}
}

// node is what stands at name, by itself or by a wildcard above it; nil when the name does not exist.
func (z *Zone) node(name string) map[uint16][]dns.RR {
	if n := z.records[name]; n != nil {
		return n
	}
	for name != "." {
		name = parent(name)
		if z.records[name] != nil { // the closest encloser; only its own wildcard counts
			return z.records["*."+strings.TrimPrefix(name, ".")]
		}
	}
	return nil
}

// answer fills m, a reply to one question.
func (z *Zone) answer(m *dns.Msg) {
	asked, qtype := m.Question[0].Name, m.Question[0].Qtype
	for range 9 { // a chain of CNAMEs is followed eight times
		name := dns.CanonicalName(asked)
		soa, ours := z.authority(name)
		if !ours {
			if len(m.Answer) == 0 {
				m.Rcode, m.Authoritative = dns.RcodeRefused, false
			}
			return
		}
		node := z.node(name)
		for t, set := range node {
			if t == qtype || qtype == dns.TypeANY {
				m.Answer = append(m.Answer, withOwner(set, asked)...)
			}
		}
		alias := node[dns.TypeCNAME]
		switch {
		case len(node[qtype]) > 0 || qtype == dns.TypeANY && len(node) > 0:
			return
		case len(alias) > 0:
			m.Answer = append(m.Answer, withOwner(alias, asked)...)
			asked = alias[0].(*dns.CNAME).Target
		default:
			if node == nil {
				m.Rcode = dns.RcodeNameError
			}
			if soa != nil {
				m.Ns = []dns.RR{soa}
			}
			return
		}
	}
}

// withOwner copies records with the owner as it was asked for: its case, or a wildcard's expansion.
func withOwner(set []dns.RR, owner string) []dns.RR {
	out := make([]dns.RR, len(set))
	for i, rr := range set {
		out[i] = dns.Copy(rr)
		out[i].Header().Name = owner
	}
	return out
}

// ServeDNS answers one query.
func (z *Zone) ServeDNS(w dns.ResponseWriter, query *dns.Msg) {
	m := new(dns.Msg)
	if len(query.Question) != 1 || query.Question[0].Qclass != dns.ClassINET {
		_ = w.WriteMsg(m.SetRcode(query, dns.RcodeRefused)) // a reply that cannot be sent is lost, as on any network
		return
	}
	m.SetReply(query)
	m.Authoritative, m.RecursionAvailable = true, true
	z.answer(m)
	size := dns.MaxMsgSize
	opt := query.IsEdns0()
	if opt != nil {
		m.SetEdns0(1232, false)
	}
	if w.LocalAddr().Network() == "udp" {
		size = dns.MinMsgSize
		if opt != nil {
			size = max(size, int(opt.UDPSize()))
		}
	}
	m.Truncate(size)
	_ = w.WriteMsg(m)
}

// Server serves one Zone on one address, UDP and TCP.
type Server struct {
	addr    string
	servers []*dns.Server
	done    chan error
}

// Serve starts serving z on addr, "127.0.0.1:0" for a port that is free for both UDP and TCP.
func (z *Zone) Serve(addr string) (*Server, error) {
	tcp, udp, err := listen(addr)
	if err != nil {
		return nil, fmt.Errorf("dnszone: %w", err)
	}
	s := &Server{addr: tcp.Addr().String(), done: make(chan error, 2)}
	s.servers = []*dns.Server{
		{Listener: tcp, Handler: z},
		{PacketConn: udp, Handler: z, UDPSize: dns.MaxMsgSize},
	}
	for _, d := range s.servers {
		started := make(chan struct{})
		d.NotifyStartedFunc = func() { close(started) }
		go func() { s.done <- d.ActivateAndServe() }()
		<-started
	}
	return s, nil
}

// listen takes the same port for both protocols. With port 0 the kernel picks one for TCP; where somebody else has it for UDP, the
// next one is tried.
func listen(addr string) (net.Listener, net.PacketConn, error) {
	for tries := 0; ; tries++ {
		tcp, err := net.Listen("tcp", addr)
		if err != nil {
			return nil, nil, err
		}
		udp, err := net.ListenPacket("udp", tcp.Addr().String())
		if err == nil {
			return tcp, udp, nil
		}
		tcp.Close()
		if tries == 20 {
			return nil, nil, err
		}
	}
}

// Addr is the address served, "127.0.0.1:5353".
func (s *Server) Addr() string { return s.addr }

// Close ends the server and waits until it has ended.
func (s *Server) Close() {
	for _, d := range s.servers {
		_ = d.Shutdown() // fails only when the server has ended already
	}
	for range s.servers {
		<-s.done
	}
}
