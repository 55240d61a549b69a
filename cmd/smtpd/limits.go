package main

import (
	"sync"
	"time"

	"github.com/postel-mail/postel/internal/activation"
	"github.com/postel-mail/postel/internal/config"
	"github.com/postel-mail/postel/internal/smtpserver"
)

// hurry is how long a client may be silent between transactions when places are scarce, as Postfix has it under stress.
const hurry = 10 * time.Second

// tune sets who may have how many connections, and who speaks for others.
func (d *smtpd) tune(c *config.Config, a *activation.Server) {
	a.Proxies, a.Known, a.Hurry = c.SMTPD.ProxyNetworks, c.RelayNetworks, hurry
	if n := c.Limits.ConnectionsPerNetwork; n > 0 {
		a.PerNetwork = max(n, c.Limits.ConnectionsPerClient)
	}
	a.PerUser = c.Limits.ConnectionsPerClient
}

// once tells the log of the first problem: a ledger that fails does so for each client.
func (d *smtpd) once() func(error) {
	var once sync.Once
	return func(err error) { once.Do(func() { d.Log.Problem("", err) }) }
}

// rates are the bounds of a minute, which only count where there is a ledger.
func (d *smtpd) rates(c *config.Config) smtpserver.Rates {
	if d.ledger == nil {
		return smtpserver.Rates{}
	}
	return smtpserver.Rates{
		Connections: c.Limits.RateConnections, Messages: c.Limits.RateMessages, Recipients: c.Limits.RateRecipients, Ledger: d.ledger,
		Problem: d.once(),
	}
}
