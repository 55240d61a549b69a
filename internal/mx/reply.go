package mx

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// reply is what an answer says about the question, and all that is kept of it.
type reply struct {
	name    string // where the CNAMEs ended: lower case, no root dot
	exists  bool   // false: NXDOMAIN
	null    bool   // MX: nothing but the null MX
	records int    // of the type asked for, usable or not
	hosts   []Host // MX: the usable ones, best first, each once
	addrs   []netip.Addr
	names   []string // PTR: the first few that can be of hosts
	text    string   // TXT: the first record
	ttl     time.Duration
}

// Bounds on how long an answer is believed, and on a chain of CNAMEs.
const (
	maxTTL         = 24 * time.Hour
	maxNegativeTTL = time.Hour
	maxChain       = 8
)

// parse reads a packet if it is an answer to q with this id. Of a truncated one only the head is read, since it may end in the middle of
// a record.
func parse(packet []byte, id uint16, q question) (*dns.Msg, bool) {
	const header, truncated = 12, 1 << 1
	if len(packet) < header || binary.BigEndian.Uint16(packet) != id {
		return nil, false
	}
	if packet[2]&truncated != 0 {
		packet = slices.Clone(packet)
		clear(packet[6:header]) // no answer, authority and additional records
	}
	m := new(dns.Msg)
	if m.Unpack(packet) != nil || !m.Response || m.Opcode != dns.OpcodeQuery {
		return nil, false
	}
	if len(m.Question) == 0 { // some servers refuse so; it carries no data to believe
		return m, m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError && !m.Truncated
	}
	asked := m.Question[0]
	return m, len(m.Question) == 1 && asked.Qclass == dns.ClassINET && asked.Qtype == q.qtype && bare(asked.Name) == q.name
}

// bare gives a name of the codec in lower case without its root dot; the root itself is "".
func bare(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) }

// judge takes from m what it says about q. An error means that another server should be asked.
func judge(m *dns.Msg, q question) (reply, error) {
	if m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError {
		return reply{}, fmt.Errorf("%s: %w", cmp.Or(dns.RcodeToString[m.Rcode], "unknown code"), errAnswer)
	}
	found := reply{name: q.name, exists: true, ttl: maxTTL}
	chain, err := found.follow(m)
	if err != nil {
		return reply{}, err
	}
	for _, rr := range m.Answer {
		if h := rr.Header(); h.Class == dns.ClassINET && h.Rrtype == q.qtype && bare(h.Name) == found.name {
			found.take(rr)
		}
	}
	if found.records > 0 {
		found.tidy()
		return found, nil
	}
	found.exists = m.Rcode == dns.RcodeSuccess
	return found, found.negative(m, chain > 0)
}

// follow moves to the end of the CNAMEs that m has and gives their number.
func (r *reply) follow(m *dns.Msg) (int, error) {
	alias := map[string]*dns.CNAME{}
	for _, rr := range m.Answer {
		if c, ok := rr.(*dns.CNAME); ok && c.Hdr.Class == dns.ClassINET && alias[bare(c.Hdr.Name)] == nil {
			alias[bare(c.Hdr.Name)] = c
		}
	}
	for n := range maxChain + 1 {
		c := alias[r.name]
		if c == nil {
			return n, nil
		}
		r.name, r.ttl = bare(c.Target), min(r.ttl, ttl(c))
	}
	return 0, fmt.Errorf("more than %d CNAMEs in a chain: %w", maxChain, errAnswer)
}

func ttl(rr dns.RR) time.Duration {
	t := rr.Header().Ttl
	if t > 1<<31-1 { // RFC 2181 8
		return 0
	}
	return time.Duration(t) * time.Second
}

// take adds one record of the type that was asked for.
func (r *reply) take(rr dns.RR) {
	r.records++
	r.ttl = min(r.ttl, ttl(rr))
	switch rr := rr.(type) {
	case *dns.MX:
		name := bare(rr.Mx)
		r.null = name == "" && (r.null || r.records == 1)
		if usable(name) {
			r.hosts = append(r.hosts, Host{rr.Preference, name})
		}
	case *dns.A:
		r.takeAddress(rr.A)
	case *dns.AAAA:
		r.takeAddress(rr.AAAA)
	case *dns.PTR:
		if name := bare(rr.Ptr); usable(name) && len(r.names) < maxNames {
			r.names = append(r.names, name)
		}
	case *dns.TXT:
		if text := strings.Join(rr.Txt, ""); r.text == "" {
			r.text = text[:min(len(text), 255)]
		}
	}
}

// takeAddress leaves out what cannot be the address of a host, and IPv4 in the disguise of IPv6.
func (r *reply) takeAddress(ip []byte) {
	a, ok := netip.AddrFromSlice(ip)
	if len(ip) == 16 && a.Is4In6() {
		ok = false
	}
	broadcast := netip.AddrFrom4([4]byte{255, 255, 255, 255})
	if ok && !a.IsUnspecified() && !a.IsMulticast() && a != broadcast && len(r.addrs) < maxAddresses {
		r.addrs = append(r.addrs, a)
	}
}

// tidy sorts the hosts, keeps the best entry of each name and the best 50 of all.
func (r *reply) tidy() {
	slices.SortStableFunc(r.hosts, func(a, b Host) int { return cmp.Compare(a.Preference, b.Preference) })
	seen := map[string]bool{}
	r.hosts = slices.DeleteFunc(r.hosts, func(h Host) bool {
		again := seen[h.Name]
		seen[h.Name] = true
		return again
	})
	r.hosts = r.hosts[:min(len(r.hosts), maxHosts)]
}

// negative judges an answer without the records: how long it holds (RFC 2308), and whether m comes from somebody who knows. A server that
// is neither a resolver nor responsible for the name has only said "ask another"; to take that for "there is none" would
// bounce mail.
func (r *reply) negative(m *dns.Msg, aliased bool) error {
	var soa *dns.SOA
	referral := false
	for _, rr := range m.Ns {
		switch rr := rr.(type) {
		case *dns.SOA:
			soa = rr
		case *dns.NS:
			referral = true
		}
	}
	covered := soa != nil && dns.IsSubDomain(soa.Hdr.Name, dns.Fqdn(r.name))
	switch {
	case soa == nil && referral && !m.Authoritative:
		return fmt.Errorf("referral: %w", errAnswer)
	case !m.RecursionAvailable && (!m.Authoritative || aliased && !covered):
		return fmt.Errorf("neither resolver nor authority: %w", errAnswer)
	}
	if soa == nil {
		r.ttl = 0
		return nil
	}
	r.ttl = min(r.ttl, ttl(soa), time.Duration(soa.Minttl)*time.Second, maxNegativeTTL)
	return nil
}
