// Package mx finds the mail hosts of a domain: RFC 5321 5.1 with the implicit MX, RFC 7505 (null MX), the cut at one's own name, and
// the addresses of the hosts. And for a server what the DNS says about a client: its name, and what a list has on it (RFC 5782).
//
// It is a stub resolver of its own over a DNS codec: it tells a name that does not exist from one without the records, asks
// again over TCP what was truncated, believes only answers to its questions, and keeps answers as long as their TTL lets it, the negative
// ones too (RFC 2308). Names are absolute: resolv.conf's search list and /etc/hosts play no part. A Resolver reads resolv.conf
// once; make a new one when it has changed.
//
// A domain that is a CNAME counts as the name it leads to (RFC 5321 5.1). A mail host that is a CNAME is against RFC 2181 10.3 but
// found in the wild; it is followed.
package mx

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"

	"github.com/postel-mail/postel/internal/address"
	"github.com/postel-mail/postel/internal/status"
)

// Bounds of one look-up, whatever the servers answer.
const (
	DefaultTimeout = 30 * time.Second
	maxQueries     = 20
	maxHosts       = 50
	maxAddresses   = 32
)

// Why a domain has no mail hosts. Each is the cause within a *status.Error; find them with errors.Is. Any other error
// is temporary: the DNS did not answer, or not in a way that can be understood.
var (
	ErrBadName  = errors.New("not a domain name")
	ErrNoDomain = errors.New("no such domain")
	ErrNoHost   = errors.New("neither mail host nor address")
	ErrNullMX   = errors.New("domain takes no mail (null MX)")
	ErrUnusable = errors.New("MX records name no usable host")
	ErrLoop     = errors.New("mail loops back to this host")
)

// The rule that led to an Answer.
const (
	RuleMX       = "mx"       // MX records
	RuleImplicit = "implicit" // no MX record: the domain itself, with preference 0
	RuleLiteral  = "literal"  // an address literal is its own host
	RuleNull     = "null"     // with ErrNullMX
	RuleNone     = "none"     // with ErrNoHost
	RuleNoDomain = "nodomain" // with ErrNoDomain
	RuleUnusable = "unusable" // with ErrUnusable
	RuleSelf     = "self"     // with ErrLoop: only the own host and worse ones
)

var explanations = map[string]string{
	RuleMX:       "MX records, those of equal preference in random order (RFC 5321 5.1)",
	RuleImplicit: "no MX record, so that the domain is its own mail host with preference 0 (RFC 5321 5.1)",
	RuleLiteral:  "an address literal is its own mail host (RFC 5321 4.1.3)",
	RuleNull:     "a null MX record: the domain takes no mail (RFC 7505)",
	RuleNone:     "the domain exists, but has neither MX record nor address (RFC 5321 5.1)",
	RuleNoDomain: "the domain does not exist (RFC 5321 5.1)",
	RuleUnusable: "no host that is named can be used, and an address of the domain does not count then (RFC 5321 5.1)",
	RuleSelf:     "only this host and those not better than it are left: mail would loop (RFC 5321 5.1)",
}

// Explain says in words what a rule stands for, and where it is written.
func Explain(rule string) string { return explanations[rule] }

// Host is one mail host.
type Host struct {
	Preference uint16 // lower is better
	Name       string // lower case, A-labels, no root dot; or an address literal with its brackets
}

// Answer is what the DNS says about a domain. Beside an error it has Name and, where one applied, Rule.
type Answer struct {
	Name  string // the domain: lower case, A-labels
	Hosts []Host // best first, those of equal preference in random order; at most 50
	Rule  string
	TTL   time.Duration // for so long the answer holds
}

// Options say how a Resolver works. The zero value is the host's own configuration.
type Options struct {
	Servers []string                         // "192.0.2.53", "192.0.2.53:5353", "[2001:db8::53]:53"; none: /etc/resolv.conf
	Timeout time.Duration                    // the whole of one look-up; 0: DefaultTimeout
	Shuffle func(n int, swap func(i, j int)) // puts equal preferences in random order; nil: math/rand/v2
	File    string                           // instead of /etc/resolv.conf
	// Families says with which addresses this host can reach others; nil: as its interfaces tell.
	Families func() (v4, v6 bool)
}

// Resolver answers questions about mail hosts. It may be used by many goroutines.
type Resolver struct {
	stub    *stub
	cache   cache
	timeout time.Duration
	shuffle func(n int, swap func(i, j int))

	families func() (v4, v6 bool)
}

// New makes a Resolver. It fails on a server that is not an address, or a resolv.conf that cannot be read; a missing one
// means a server on this host, as resolv.conf(5) says.
func New(o Options) (*Resolver, error) {
	if o.Timeout <= 0 {
		o.Timeout = DefaultTimeout
	}
	if o.Shuffle == nil {
		o.Shuffle = rand.Shuffle
	}
	if o.Families == nil {
		o.Families = families
	}
	c, err := settings(o.Servers, cmp.Or(o.File, "/etc/resolv.conf"))
	if err != nil {
		return nil, err
	}
	return &Resolver{stub: newStub(c, o.Timeout), timeout: o.Timeout, shuffle: o.Shuffle, families: o.Families}, nil
}

// Lookup finds the mail hosts of a domain, or of an address literal in its brackets, which is its own host. A failure is a *status.Error:
// 553 5.1.3 ErrBadName, 550 5.1.2 ErrNoDomain and ErrNoHost, 556 5.1.10 ErrNullMX (RFC 7505), 550 5.4.4 ErrUnusable, and 451 4.4.3 for
// what may pass.
func (r *Resolver) Lookup(ctx context.Context, domain string) (Answer, error) {
	if _, ok := (address.Path{Domain: domain}).Literal(); ok {
		return Answer{Name: domain, Hosts: []Host{{Name: strings.ToLower(domain)}}, Rule: RuleLiteral}, nil
	}
	name, ok := domainName(domain)
	if !ok {
		return Answer{Name: domain}, status.Permanent(553, "5.1.3", "Not a domain name", ErrBadName)
	}
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	a, err := r.hosts(ctx, name)
	return a, outcome(name, err)
}

// hosts is RFC 5321 5.1 for a name that has been checked.
func (r *Resolver) hosts(ctx context.Context, name string) (Answer, error) {
	a := Answer{Name: name}
	left := maxQueries
	found, err := r.ask(ctx, &left, question{name, dns.TypeMX})
	if err != nil {
		return a, err
	}
	a.TTL = found.ttl
	switch {
	case !found.exists:
		a.Rule = RuleNoDomain
		return a, ErrNoDomain
	case found.null:
		a.Rule = RuleNull
		return a, ErrNullMX
	case found.records > 0 && len(found.hosts) == 0: // MX records are there, so the addresses do not count
		a.Rule = RuleUnusable
		return a, ErrUnusable
	case found.records > 0:
		a.Rule, a.Hosts = RuleMX, r.order(found.hosts)
		return a, nil
	}
	return r.implicit(ctx, &left, a, found.name)
}

// implicit takes the domain itself, or what its CNAME led to, as its mail host.
func (r *Resolver) implicit(ctx context.Context, left *int, a Answer, name string) (Answer, error) {
	for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA} {
		found, err := r.ask(ctx, left, question{name, qtype})
		if err != nil {
			return a, err
		}
		a.TTL = min(a.TTL, found.ttl)
		switch {
		case len(found.addrs) == 0:
		case !usable(name):
			a.Rule = RuleUnusable
			return a, ErrUnusable
		default:
			a.Rule, a.Hosts = RuleImplicit, []Host{{Name: name}}
			return a, nil
		}
	}
	a.Rule = RuleNone
	return a, ErrNoHost
}

// order copies hosts, best first and equal ones shuffled (RFC 5321 5.1: "MUST randomize them").
func (r *Resolver) order(hosts []Host) []Host {
	hosts = slices.Clone(hosts)
	r.shuffle(len(hosts), func(i, j int) { hosts[i], hosts[j] = hosts[j], hosts[i] })
	slices.SortStableFunc(hosts, func(a, b Host) int { return cmp.Compare(a.Preference, b.Preference) })
	return hosts
}

// Without cuts the hosts that are this host itself and those of the same or a worse preference (RFC 5321 5.1), so that mail only
// moves closer to its destination. The names are compared as the DNS does. When nothing is left, mail would loop: 554 5.4.6 ErrLoop.
func (a Answer) Without(own ...string) (Answer, error) {
	var names []string
	for _, o := range own {
		if n, err := address.ASCIIDomain(o); err == nil {
			names = append(names, n)
		}
	}
	cut := slices.IndexFunc(a.Hosts, func(h Host) bool { return slices.Contains(names, h.Name) })
	if cut < 0 {
		return a, nil
	}
	limit := a.Hosts[cut].Preference
	end := slices.IndexFunc(a.Hosts, func(h Host) bool { return h.Preference >= limit })
	a.Hosts = slices.Clone(a.Hosts[:end])
	if end == 0 {
		a.Rule = RuleSelf
		return a, outcome(a.Name, ErrLoop)
	}
	return a, nil
}

// Addresses finds the addresses of a mail host, at most 32, in the order in which they should be tried: IPv6 and IPv4 in turn beginning with IPv6
// (RFC 6724 2.1 prefers it), so that a caller who tries only a few tries both, whatever is broken on one of the two ways; but last the
// family of which this host has no address of its own to reach others with, where an attempt would be in vain. Each family is in the
// order in which the server gave it. An address or address literal is its own; localhost is not asked for (RFC 6761 6.3). Errors are
// those of Lookup, with ErrNoHost for a name without a usable address. One family that fails while the other is known is no error.
func (r *Resolver) Addresses(ctx context.Context, host string) ([]netip.Addr, error) {
	if a, ok := (address.Path{Domain: host}).Literal(); ok {
		return []netip.Addr{a}, nil
	}
	if a, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{a}, nil
	}
	name, err := address.ASCIIDomain(host)
	if err != nil || address.CheckDomain(name) != nil {
		return nil, status.Permanent(553, "5.1.3", "Not a host name", ErrBadName)
	}
	if name == "localhost" {
		return []netip.Addr{netip.IPv6Loopback(), netip.AddrFrom4([4]byte{127, 0, 0, 1})}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	addrs, err := r.addresses(ctx, name)
	return addrs, outcome(name, err)
}

func (r *Resolver) addresses(ctx context.Context, name string) ([]netip.Addr, error) {
	left := maxQueries
	v4, err4 := r.ask(ctx, &left, question{name, dns.TypeA})
	if err4 == nil && !v4.exists {
		return nil, ErrNoDomain
	}
	v6, err6 := r.ask(ctx, &left, question{name, dns.TypeAAAA})
	switch all := r.inOrder(v4.addrs, v6.addrs); {
	case len(all) > 0:
		return all, nil
	case err6 == nil && !v6.exists:
		return nil, ErrNoDomain
	case err4 != nil:
		return nil, err4
	case err6 != nil:
		return nil, err6
	}
	return nil, ErrNoHost
}

// inOrder mixes the families as Addresses has it.
func (r *Resolver) inOrder(v4, v6 []netip.Addr) []netip.Addr {
	switch has4, has6 := r.families(); {
	case !has6:
		return inTurn(slices.Concat(v4, v6), nil)
	case !has4:
		return inTurn(slices.Concat(v6, v4), nil)
	}
	return inTurn(v6, v4)
}

// inTurn mixes two lists, one of each, and drops repetitions.
func inTurn(a, b []netip.Addr) []netip.Addr {
	var all []netip.Addr
	for i := 0; i < max(len(a), len(b)) && len(all) < maxAddresses; i++ {
		for _, list := range [][]netip.Addr{a, b} {
			if i < len(list) && !slices.Contains(all, list[i]) {
				all = append(all, list[i])
			}
		}
	}
	return all
}

// domainName gives a domain as the DNS knows it. It must have two labels or more, and be no address written without brackets:
// RFC 5321 2.3.5 wants names that are fully qualified.
func domainName(domain string) (string, bool) {
	if address.CheckDomain(strings.TrimSuffix(domain, ".")) != nil {
		return "", false
	}
	name, err := address.ASCIIDomain(domain)
	return name, err == nil && strings.Contains(name, ".") && isHostName(name)
}

// isHostName tells names from addresses and from what the DNS cannot hold. CheckDomain has seen the rest.
func isHostName(name string) bool {
	if _, ok := dns.IsDomainName(name); !ok || len(name) > 253 || address.CheckDomain(name) != nil {
		return false
	}
	return strings.Trim(name[strings.LastIndexByte(name, '.')+1:], "0123456789") != ""
}

// usable reports whether mail may go to a host that the DNS names. "localhost" would be ourselves.
func usable(name string) bool {
	return isHostName(name) && name != "localhost" && !strings.HasSuffix(name, ".localhost")
}

// outcome gives an error of this package its meaning for mail.
func outcome(name string, err error) error {
	permanent := func(code int, enhanced, text string) error {
		return status.Permanent(code, enhanced, fmt.Sprintf(text, name), err)
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ErrNoDomain):
		return permanent(550, "5.1.2", "Domain %s does not exist")
	case errors.Is(err, ErrNoHost):
		return permanent(550, "5.1.2", "Domain %s has neither mail host nor address")
	case errors.Is(err, ErrNullMX):
		return permanent(556, "5.1.10", "Domain %s takes no mail")
	case errors.Is(err, ErrUnusable):
		return permanent(550, "5.4.4", "MX records of %s name no usable host")
	case errors.Is(err, ErrLoop):
		return permanent(554, "5.4.6", "Mail for %s loops back to this host")
	}
	return status.Temporary(451, "4.4.3", "DNS look-up of "+name+" failed, try again later", err)
}
