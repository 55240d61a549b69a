package main

import (
	"github.com/postel-mail/postel/internal/config"
	"github.com/postel-mail/postel/internal/guesses"
	"github.com/postel-mail/postel/internal/logins"
	"github.com/postel-mail/postel/internal/smtpserver"
	"github.com/postel-mail/postel/internal/userdb"
)

// logins lets the users log in, and counts who fails. d.ledger is open.
func (d *smtpd) logins(c *config.Config, s *smtpserver.Server, users *userdb.DB) error {
	if !d.submission {
		return nil
	}
	if err := d.ClientCA(c, s.TLS); err != nil {
		return err
	}
	s.Logins = logins.Checks(users, c.Auth.TokenCheck)
	if d.ledger == nil {
		return nil
	}
	seed, err := logins.Seed(d.ledger)
	if err != nil {
		d.Log.Problem("", err)
	} else {
		users.Seed = seed
	}
	s.Guesses = &guesses.Guesses{Ledger: d.ledger, Problem: d.once()}
	return nil
}
