package main

import (
	"time"

	"github.com/postel-mail/postel/internal/config"
	"github.com/postel-mail/postel/internal/mx"
	"github.com/postel-mail/postel/internal/screen"
)

// screen is what the exchanger has in front of it; nil where there is nothing to go by.
func (d *smtpd) screen(c *config.Config) (*screen.Screen, error) {
	k := c.Screen
	lookUp := len(k.DNSLists) > 0 || k.NoName > 0
	if d.submission || d.noScreen || !lookUp && k.GreetDelay == 0 && k.Greylist == 0 && !k.OwnName {
		return nil, nil
	}
	r := screen.Rules{
		GreetDelay: time.Duration(k.GreetDelay), Lists: k.DNSLists, RefuseAt: k.RefuseAt, NoName: k.NoName, OwnName: k.OwnName, Greylist: time.Duration(k.Greylist),
		Hostname: c.Hostname, Ledger: d.ledger, Problem: func(err error) { d.Log.Problem("", err) },
	}
	if lookUp {
		resolver, err := mx.New(mx.Options{Servers: c.DNS.Servers, Timeout: screen.LookupTime})
		if err != nil {
			return nil, err
		}
		r.Listed, r.ListText, r.ClientName = resolver.Listed, resolver.ListText, resolver.ClientName
	}
	return screen.New(r), nil
}
