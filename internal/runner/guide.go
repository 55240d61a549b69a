package runner

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"

	"github.com/postel-mail/postel/internal/address"
	"github.com/postel-mail/postel/internal/alias"
	"github.com/postel-mail/postel/internal/destination"
	"github.com/postel-mail/postel/internal/mx"
	"github.com/postel-mail/postel/internal/sysexits"
)

// Guide shows the way of an address without going it.
type Guide struct {
	Routes    *Routes
	Aliases   *alias.Table
	Hostname  string // own: completes names without a domain, and is cut from lists of mail hosts
	Delimiter string

	// MX and Addresses are those of an *mx.Resolver.
	MX        func(ctx context.Context, domain string) (mx.Answer, error)
	Addresses func(ctx context.Context, host string) ([]netip.Addr, error)
}

// Show prints, for each address, its aliases, its next hops in order and their hosts. The error has a line for each address that failed, and the exit status of the worst: 65 not an
// address, 68 no such domain, 69 a domain that takes no mail, 75 not known now.
func (g *Guide) Show(ctx context.Context, w io.Writer, addrs []string) error {
	var failed []error
	worst := 0
	for _, s := range addrs {
		if err := g.show(ctx, w, s, 0); err != nil {
			failed = append(failed, err)
			worst = max(worst, sysexits.Of(err))
		}
	}
	return sysexits.With(worst, errors.Join(failed...))
}

// maxDepth bounds aliases of aliases.
const maxDepth = 10

func (g *Guide) show(ctx context.Context, w io.Writer, s string, depth int) error {
	p, err := address.Parse(s)
	if err != nil { // a bare name
		if p, err = address.Parse(s + "@" + g.Hostname); err != nil {
			return sysexits.With(sysexits.DataErr, fmt.Errorf("%q: %w", s, err))
		}
	}
	dests, rule := g.Routes.For(p)
	indent := strings.Repeat("\t", depth)
	for i, d := range dests {
		word := "to"
		if i > 0 {
			word = "then to"
		}
		fmt.Fprintf(w, "%s%s: %s, %s %s\n", indent, p, rule, word, d)
		if rule == "local" {
			return g.showAliases(ctx, w, p, depth)
		}
		err := g.showHosts(ctx, w, indent+"\t", p, d)
		switch {
		case err == nil:
		case i == len(dests)-1, errors.Is(err, mx.ErrNullMX):
			return err
		default:
			fmt.Fprintf(w, "%s\t%v\n", indent, err)
		}
	}
	return nil
}

// showHosts prints the hosts of a destination that have names, with their addresses.
func (g *Guide) showHosts(ctx context.Context, w io.Writer, indent string, p address.Path, d destination.Destination) error {
	if _, err := netip.ParseAddr(d.Host); d.Kind != destination.MX {
		if d.Host != "" && err != nil {
			g.showAddresses(ctx, w, indent, d.Host)
		}
		return nil
	}
	answer, err := g.MX(ctx, cmp.Or(d.Host, p.Domain))
	if err == nil {
		answer, err = answer.Without(g.Hostname)
	}
	switch {
	case errors.Is(err, mx.ErrNullMX):
		return sysexits.With(sysexits.Unavailable, fmt.Errorf("%s: %w", p, err))
	case errors.Is(err, mx.ErrNoDomain), errors.Is(err, mx.ErrNoHost):
		return sysexits.With(sysexits.NoHost, fmt.Errorf("%s: %w", p, err))
	case err != nil:
		return fmt.Errorf("%s: %w", p, err)
	}
	for _, h := range answer.Hosts {
		g.showAddresses(ctx, w, fmt.Sprintf("%s%d ", indent, h.Preference), h.Name)
	}
	return nil
}

func (g *Guide) showAddresses(ctx context.Context, w io.Writer, before, host string) {
	addrs, err := g.Addresses(ctx, host)
	if err != nil {
		fmt.Fprintf(w, "%s%s: %v\n", before, host, err)
	}
	for _, a := range addrs {
		fmt.Fprintf(w, "%s%s %s\n", before, host, a)
	}
}

// showAliases prints what stands for a local address in the aliases: for its full form, its name, and its domain, the first that is there.
func (g *Guide) showAliases(ctx context.Context, w io.Writer, p address.Path, depth int) error {
	user, _ := address.Split(p.Local, g.Delimiter)
	for _, name := range []address.Path{p, {Local: user, Domain: p.Domain}, {Local: p.Local}, {Local: user}, {Domain: p.Domain}} {
		list, err := g.Aliases.Lookup(name)
		if err != nil {
			return sysexits.With(sysexits.Config, err)
		}
		if len(list.Items) == 0 {
			continue
		}
		for _, item := range list.Items {
			if item.Kind != alias.Address || item.Final || depth == maxDepth || item.Address == name {
				fmt.Fprintf(w, "%s%s\n", strings.Repeat("\t", depth+1), item)
			} else if err := g.show(ctx, w, item.Address.String(), depth+1); err != nil {
				return err
			}
		}
		return nil
	}
	return nil
}
