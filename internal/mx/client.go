package mx

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/miekg/dns"
)

// maxNames bounds the names of an address that are tried.
const maxNames = 5

// Listed gives what a DNS block or allow list has on an address (RFC 5782): its A records there, at most 32, which mean what the list says; none where the address is not
// on it. An error is temporary.
func (r *Resolver) Listed(ctx context.Context, ip netip.Addr, list string) ([]netip.Addr, error) {
	found, err := r.entry(ctx, ip, list, dns.TypeA)
	return found.addrs, err
}

// ListText gives why a list has an address: the first of its TXT records there, "" where there is none. It is at most 255 octets of printable ASCII, others
// written as \DDD. An error is temporary.
func (r *Resolver) ListText(ctx context.Context, ip netip.Addr, list string) (string, error) {
	found, err := r.entry(ctx, ip, list, dns.TypeTXT)
	return found.text, err
}

func (r *Resolver) entry(ctx context.Context, ip netip.Addr, list string, qtype uint16) (reply, error) {
	name := backward(ip.Unmap()) + bare(list)
	if _, ok := dns.IsDomainName(name); !ok || len(name) > 253 || !ip.IsValid() {
		return reply{}, fmt.Errorf("%q: %w", name, ErrBadName)
	}
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	left := maxQueries
	return r.ask(ctx, &left, question{name, qtype})
}

// backward writes the octets of an address, or for IPv6 its nibbles, last one first, a dot behind each (RFC 5782 2.1 and 2.4).
func backward(ip netip.Addr) string {
	var b strings.Builder
	for _, o := range slices.Backward(ip.AsSlice()) {
		if ip.Is4() {
			b.WriteString(strconv.Itoa(int(o)) + ".")
			continue
		}
		const digits = "0123456789abcdef"
		b.Write([]byte{digits[o&15], '.', digits[o>>4], '.'})
	}
	return b.String()
}

// ClientName gives the name that an address has, if the name in turn has the address (which nobody can do who does not hold both zones), and "" where there is no
// such name. Of several the first of the first five counts. An error is temporary: there may be one.
func (r *Resolver) ClientName(ctx context.Context, ip netip.Addr) (string, error) {
	ip = ip.Unmap().WithZone("")
	if !ip.IsValid() {
		return "", ErrBadName
	}
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	zone, qtype := "in-addr.arpa", dns.TypeA
	if ip.Is6() {
		zone, qtype = "ip6.arpa", dns.TypeAAAA
	}
	left := maxQueries
	found, err := r.ask(ctx, &left, question{backward(ip) + zone, dns.TypePTR})
	if err != nil {
		return "", err
	}
	var failed []error
	for _, name := range found.names {
		back, err := r.ask(ctx, &left, question{name, qtype})
		if err == nil && slices.Contains(back.addrs, ip) {
			return name, nil
		}
		failed = append(failed, err)
	}
	return "", errors.Join(failed...)
}
