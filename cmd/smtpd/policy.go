package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/postel-mail/postel/internal/address"
	"github.com/postel-mail/postel/internal/callout"
	"github.com/postel-mail/postel/internal/config"
	"github.com/postel-mail/postel/internal/credentials"
	"github.com/postel-mail/postel/internal/delivery"
	"github.com/postel-mail/postel/internal/mx"
	"github.com/postel-mail/postel/internal/runner"
	"github.com/postel-mail/postel/internal/senders"
	"github.com/postel-mail/postel/internal/smtpclient"
	"github.com/postel-mail/postel/internal/smtpserver"
	"github.com/postel-mail/postel/internal/status"
	"github.com/postel-mail/postel/internal/transport"
	"github.com/postel-mail/postel/internal/userdb"
)

// policy says who may send as whom, how much, and which recipients of other hosts exist. agent knows those of this one.
func (d *smtpd) policy(c *config.Config, s *smtpserver.Server, agent *delivery.Agent) error {
	problem := func(err error) { d.Log.Problem("", err) }
	table, err := senders.Load(c.Submission.Senders, c.RecipientDelimiter, problem)
	if err != nil {
		return err
	}
	s.MaySend = owners{table, agent, strings.ToLower(c.Hostname)}.maySend
	ledgerFails := d.once()
	if d.ledger != nil {
		s.SentPerHour = c.Limits.SentPerHour
		s.Sent = func(login string, n int) int {
			sum, err := d.ledger.Count("sent "+login, n, time.Hour)
			if err != nil {
				ledgerFails(err)
			}
			return sum
		}
	}
	if !c.SMTPD.VerifyRelay {
		return nil
	}
	asker, err := relayAsker(c)
	if err != nil {
		return err
	}
	s.VerifyRelay = (&callout.Callout{Ask: asker, Ledger: d.ledger, Problem: ledgerFails}).Verify
	return nil
}

// owners knows whose an address is to send by.
type owners struct {
	table    *senders.Table
	agent    *delivery.Agent
	hostname string
}

func (o owners) maySend(ctx context.Context, login string, from address.Path) error {
	if o.table.Allows(login, from) {
		return nil
	}
	theirs, err := o.agent.Reads(ctx, login, from)
	if theirs {
		return nil
	}
	// A user of this host without mail here has the address that sendmail gives them.
	base, _ := address.Split(from.Local, o.agent.Delimiter)
	if strings.EqualFold(base, login) && from.ASCII().Domain == o.hostname {
		if _, unknown := o.agent.FindUser(ctx, from); errors.Is(unknown, userdb.ErrNoUser) {
			return nil
		}
	}
	if err != nil {
		return err
	}
	return status.Permanent(553, "5.7.1", "Sender address is not one of yours", fmt.Errorf("%s may not send as %s", login, from.Angle()))
}

// relayAsker asks the next hops, by the routes and with the means of qmgr.
func relayAsker(c *config.Config) (func(context.Context, address.Path) transport.Result, error) {
	logins, err := credentials.Load(c.SMTP.Credentials)
	if err != nil {
		return nil, err
	}
	certificate, err := logins.ReadCertificate(c.SMTP.Certificate, c.SMTP.Key)
	if err != nil {
		return nil, err
	}
	resolver, err := mx.New(mx.Options{Servers: c.DNS.Servers})
	if err != nil {
		return nil, err
	}
	level := map[config.TLSLevel]smtpclient.TLS{
		config.TLSOpportunistic: smtpclient.Opportunistic, config.TLSOff: smtpclient.Off, config.TLSRequire: smtpclient.Require,
	}
	t := &transport.Transport{
		Hostname: c.Hostname, Port: c.SMTP.Port, Bind: c.SMTP.Bind, TLS: level[c.SMTP.TLS],
		MX: resolver.Lookup, Addresses: resolver.Addresses, RefuseLoopback: c.SMTP.Port == 25,
		Credentials: logins.Login, Certificate: certificate,
	}
	routes := runner.Routes{Domains: config.Strings(c.Domains), Local: c.Local, Table: c.RouteTable()}
	return func(ctx context.Context, to address.Path) transport.Result {
		dests, _ := routes.For(to)
		return t.Ask(ctx, to, dests)
	}, nil
}
