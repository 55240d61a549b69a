package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/postel-mail/postel/internal/address"
	"github.com/postel-mail/postel/internal/alias"
	"github.com/postel-mail/postel/internal/config"
	"github.com/postel-mail/postel/internal/credentials"
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
	config    *config.Config
	policy    runner.Policy
	aliases   *alias.Table
	resolver  *mx.Resolver
	transport *transport.Transport
}

func load(p *program.Program) (*tables, error) {
	c, err := p.Config()
	if err != nil {
		return nil, err
	}
	t := &tables{config: c}
	agent, err := agent(p)
	if err != nil {
		return nil, err
	}
	local := c.Local
	if local.Kind == destination.None {
		local = agent
	}
	q := c.Queue
	t.policy = runner.Policy{
		Routes:   runner.Routes{Domains: config.Strings(c.Domains), Local: local, Table: c.RouteTable(), Literal: isOwnLiteral},
		Hostname: c.Hostname, Lifetime: time.Duration(q.Lifetime), BounceLifetime: time.Duration(q.BounceLifetime), Warn: time.Duration(q.Warn),
		First: time.Duration(q.Retry[0]), Longest: time.Duration(q.Retry[1]), Concurrency: q.Concurrency, Processes: q.Processes,
	}
	logins, err := credentials.Load(c.SMTP.Credentials)
	var certificate *tls.Certificate
	if err == nil {
		certificate, err = logins.ReadCertificate(c.SMTP.Certificate, c.SMTP.Key)
	}
	if err == nil && p.CheckOnly {
		err = checkLogins(c, logins)
	}
	if err != nil {
		return nil, sysexits.With(sysexits.Config, err)
	}
	if t.aliases, err = alias.Load(c.Aliases); err != nil {
		return nil, sysexits.With(sysexits.Config, err)
	}
	if t.resolver, err = mx.New(mx.Options{Servers: c.DNS.Servers}); err != nil {
		return nil, sysexits.With(sysexits.Config, err)
	}
	t.transport = newTransport(c, agent, logins, t.resolver)
	t.transport.Certificate = certificate
	return t, nil
}

// checkLogins sees that there is a way to log in for every destination with a login.
func checkLogins(c *config.Config, logins *credentials.Credentials) error {
	var missing []error
	for _, d := range slices.Concat(append(slices.Collect(maps.Values(c.RouteTable())), []destination.Destination{c.Local})...) {
		if d.User != "" {
			if _, err := logins.Login(d.Host, d.User); err != nil {
				missing = append(missing, fmt.Errorf("%s: %w, needed for %s", c.SMTP.Credentials, err, d))
			}
		}
	}
	return errors.Join(missing...)
}

// guide shows routes by these tables.
func (t *tables) guide() *runner.Guide {
	c := t.config
	return &runner.Guide{Routes: &t.policy.Routes, Aliases: t.aliases, Hostname: c.Hostname, Delimiter: c.RecipientDelimiter,
		MX: t.resolver.Lookup, Addresses: t.resolver.Addresses}
}

// isOwnLiteral reports whether the domain of p is one of this host's addresses in brackets (RFC 5321 4.1.3).
func isOwnLiteral(p address.Path) bool {
	ip, ok := p.Literal()
	return ok && mx.IsHostAddress(ip)
}

// newTransport makes the ways out.
func newTransport(c *config.Config, agent destination.Destination, logins *credentials.Credentials, r *mx.Resolver) *transport.Transport {
	level := map[config.TLSLevel]smtpclient.TLS{
		config.TLSOpportunistic: smtpclient.Opportunistic, config.TLSOff: smtpclient.Off, config.TLSRequire: smtpclient.Require,
	}
	return &transport.Transport{
		Hostname: c.Hostname, Port: c.SMTP.Port, Bind: c.SMTP.Bind, TLS: level[c.SMTP.TLS],
		MX: r.Lookup, Addresses: r.Addresses, RefuseLoopback: c.SMTP.Port == 25,
		Credentials: logins.Login, Delimiter: c.RecipientDelimiter,
		Deliver: agent.Args, ProgramUser: programUser(),
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
