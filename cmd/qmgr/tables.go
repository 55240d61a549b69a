package main

import (
	"context"
	"net"
	"net/netip"
	"os"
	"syscall"

	"github.com/postel-mail/postel/internal/address"
	"github.com/postel-mail/postel/internal/alias"
	"github.com/postel-mail/postel/internal/config"
	"github.com/postel-mail/postel/internal/destination"
	"github.com/postel-mail/postel/internal/mx"
	"github.com/postel-mail/postel/internal/program"
	"github.com/postel-mail/postel/internal/runner"
	"github.com/postel-mail/postel/internal/smtpclient"
	"github.com/postel-mail/postel/internal/sysexits"
	"github.com/postel-mail/postel/internal/transport"
)

// tables is everything that SIGHUP reads again, as it was read at one moment.
type tables struct {
	config      *config.Config
	routes      runner.Routes
	agent       destination.Destination
	aliases     *alias.Table
	credentials smtpclient.Credentials
	resolver    *mx.Resolver
}

func load(p *program.Program) (*tables, error) {
	c, err := p.Config()
	if err != nil {
		return nil, err
	}
	t := &tables{config: c}
	if t.agent, err = agent(p); err != nil {
		return nil, err
	}
	local := c.Local
	if local.Kind == destination.None {
		local = t.agent
	}
	t.routes = runner.Routes{Domains: config.Strings(c.Domains), Local: local, Table: c.Routes, Literal: isOwnLiteral}
	if t.credentials, err = smtpclient.LoadCredentials(c.SMTP.Credentials); err != nil {
		return nil, sysexits.With(sysexits.Config, err)
	}
	if t.aliases, err = alias.Load(c.Aliases); err != nil {
		return nil, sysexits.With(sysexits.Config, err)
	}
	if t.resolver, err = mx.New(mx.Options{Servers: c.DNS.Servers}); err != nil {
		return nil, sysexits.With(sysexits.Config, err)
	}
	return t, nil
}

// guide shows routes by these tables.
func (t *tables) guide() *runner.Guide {
	c := t.config
	g := &runner.Guide{Routes: &t.routes, Aliases: t.aliases, Home: c.Hostname, Hostname: c.Hostname, Delimiter: c.RecipientDelimiter,
		MX: t.resolver.Lookup, Addresses: t.resolver.Addresses}
	if len(t.routes.Domains) > 0 {
		g.Home = t.routes.Domains[0]
	}
	return g
}

// isOwnLiteral reports whether the domain of p is one of this host's addresses in brackets (RFC 5321 4.1.3).
func isOwnLiteral(p address.Path) bool {
	ip, ok := p.Literal()
	if !ok {
		return false
	}
	own, err := net.InterfaceAddrs()
	if err != nil {
		return false
	}
	for _, a := range own {
		if prefix, err := netip.ParsePrefix(a.String()); err == nil && prefix.Addr().Unmap() == ip.Unmap() {
			return true
		}
	}
	return false
}

// newTransport makes the ways out; current gives the tables as they are at each attempt.
func newTransport(t *tables, current func() *tables) *transport.Transport {
	c := t.config
	level := map[config.TLSLevel]smtpclient.TLS{
		config.TLSOpportunistic: smtpclient.Opportunistic, config.TLSOff: smtpclient.Off, config.TLSRequire: smtpclient.Require,
	}
	return &transport.Transport{
		Hostname: c.Hostname, Port: c.SMTP.Port, Bind: c.SMTP.Bind, TLS: level[c.SMTP.TLS],
		MX: func(ctx context.Context, domain string) (mx.Answer, error) {
			return current().resolver.Lookup(ctx, domain)
		},
		Addresses: func(ctx context.Context, host string) ([]netip.Addr, error) {
			return current().resolver.Addresses(ctx, host)
		},
		RefuseLoopback: c.SMTP.Port == 25,
		Credentials:    func(host, user string) (string, error) { return current().credentials.Password(host, user) },
		Delimiter:      c.RecipientDelimiter,
		Deliver:        t.agent.Args,
		ProgramUser:    programUser(),
	}
}

// programUser is who runs the programs of pipe: routes when this process is root: the owner of nothing. The number is the kernel's own for
// nobody (/proc/sys/kernel/overflowuid), so that no table is needed.
func programUser() *syscall.Credential {
	if os.Geteuid() != 0 {
		return nil
	}
	const nobody = 65534
	return &syscall.Credential{Uid: nobody, Gid: nobody}
}
