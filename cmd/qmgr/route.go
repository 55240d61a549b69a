package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/postel-mail/postel/internal/address"
	"github.com/postel-mail/postel/internal/alias"
	"github.com/postel-mail/postel/internal/destination"
	"github.com/postel-mail/postel/internal/mx"
	"github.com/postel-mail/postel/internal/sysexits"
)

// showRoutes prints, for each address, its aliases, its next hop and that one's hosts. The exit status is that of the worst address.
func showRoutes(w io.Writer, t *tables, addrs []string) error {
	if len(addrs) == 0 {
		return sysexits.With(sysexits.Usage, fmt.Errorf("--route needs addresses"))
	}
	var worst error
	for _, s := range addrs {
		if err := showRoute(w, t, s, 0); err != nil && (worst == nil || sysexits.Of(err) > sysexits.Of(worst)) {
			worst = err
		}
	}
	return worst
}

// maxDepth bounds aliases of aliases.
const maxDepth = 10

func showRoute(w io.Writer, t *tables, s string, depth int) error {
	p, err := address.Parse(s)
	if err != nil { // a bare name
		if p, err = address.Parse(s + "@" + t.routes.Domains[0]); err != nil {
			return sysexits.With(sysexits.DataErr, fmt.Errorf("%q: %w", s, err))
		}
	}
	dest, rule := t.routes.For(p)
	indent := strings.Repeat("\t", depth)
	fmt.Fprintf(w, "%s%s: %s, to %s\n", indent, p, rule, dest)
	if rule == "local" {
		return showAliases(w, t, p, depth)
	}
	if dest.Kind != destination.MX {
		return nil
	}
	domain := dest.Host
	if domain == "" {
		domain = p.Domain
	}
	answer, err := t.resolver.Lookup(context.Background(), domain)
	if err == nil {
		answer, err = answer.Without(t.config.Hostname)
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
		addrs, err := t.resolver.Addresses(context.Background(), h.Name)
		if err != nil {
			fmt.Fprintf(w, indent+"\t%d %s: %v\n", h.Preference, h.Name, err)
			continue
		}
		for _, a := range addrs {
			fmt.Fprintf(w, indent+"\t%d %s %s\n", h.Preference, h.Name, a)
		}
	}
	return nil
}

// showAliases prints what stands for a local address in the aliases: for its full form, its name, and its domain, the first that is there.
func showAliases(w io.Writer, t *tables, p address.Path, depth int) error {
	user, _ := address.Split(p.Local, t.config.RecipientDelimiter)
	for _, name := range []address.Path{p, {Local: user, Domain: p.Domain}, {Local: p.Local}, {Local: user}, {Domain: p.Domain}} {
		list, err := t.aliases.Lookup(name)
		if err != nil {
			return sysexits.With(sysexits.Config, err)
		}
		if len(list.Items) == 0 {
			continue
		}
		for _, item := range list.Items {
			if item.Kind != alias.Address || item.Final || depth == maxDepth || item.Address == name {
				fmt.Fprintf(w, "%s%s\n", strings.Repeat("\t", depth+1), item)
			} else if err := showRoute(w, t, item.Address.String(), depth+1); err != nil {
				return err
			}
		}
		return nil
	}
	return nil
}
