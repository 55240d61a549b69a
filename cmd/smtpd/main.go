// Smtpd is the SMTP server: the mail exchanger, and with --submission the server that users send by. It takes messages into the queue.
package main

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"github.com/postel-mail/postel/internal/alias"
	"github.com/postel-mail/postel/internal/config"
	"github.com/postel-mail/postel/internal/confine"
	"github.com/postel-mail/postel/internal/credentials"
	"github.com/postel-mail/postel/internal/daemon"
	"github.com/postel-mail/postel/internal/delivery"
	"github.com/postel-mail/postel/internal/destination"
	"github.com/postel-mail/postel/internal/ledger"
	"github.com/postel-mail/postel/internal/queue"
	"github.com/postel-mail/postel/internal/smtpserver"
	"github.com/postel-mail/postel/internal/sysexits"
	"github.com/postel-mail/postel/internal/userdb"
)

func main() { os.Exit(run(os.Args[1:])) }

type smtpd struct {
	*daemon.Daemon
	submission bool
	noScreen   bool
	spool      *queue.Spool   // nil with --check
	path       string         // of the spool
	ledger     *ledger.Ledger // nil where it cannot be used
	started    sync.WaitGroup // the journal is made
}

func run(args []string) int {
	d := &smtpd{Daemon: daemon.New("smtpd [flags]", "receive mail by SMTP, as mail exchanger or submission server",
		"  smtpd --listen :25\n  smtpd --submission --listen :587 --listen unix:/run/postel/submit.sock\n  printf 'EHLO x\\r\\nQUIT\\r\\n' | smtpd")}
	d.Flags().BoolVar(&d.submission, "submission", false, "take mail from users, who log in, for anywhere")
	d.Flags().BoolVar(&d.noScreen, "no-screen", false, "judge no client before its mail, whatever [screen] says")
	d.AddTLS(465)
	d.RunE = func(*cobra.Command, []string) error {
		defer d.close()
		return d.Run(daemon.Service{Load: d.load, Tune: d.tune, Bounds: d.bounds, Order: func() string { return d.spool.Order() }, Busy: func(c *config.Config) string {
			return "421 4.3.2 " + c.Hostname + " has too many connections, try again later"
		}, Started: func() { d.started.Go(d.keepJournal) }})
	}
	return d.Main(args)
}

// open opens the spool once; another one needs another process.
func (d *smtpd) open(c *config.Config) (err error) {
	switch {
	case d.CheckOnly:
		return nil
	case d.spool == nil:
		d.path = c.Spool
		if d.spool, err = queue.Open(c.Spool); err != nil {
			return sysexits.With(sysexits.TempFail, err)
		}
		if d.ledger, err = ledger.Open(c.Spool + "/ledger"); err != nil {
			d.Log.Problem("", err)
		}
	case c.Spool != d.path:
		return fmt.Errorf("spool: cannot change from %s to %s while the server runs", d.path, c.Spool)
	}
	d.spool.SetMinFree(int64(c.Limits.MinFree))
	return nil
}

// keepJournal makes the queue faster. Without a journal all is the same but that.
func (d *smtpd) keepJournal() {
	n, err := d.spool.Recover()
	if n > 0 {
		d.Log.Recovered(n)
	}
	problem := func(err error) { d.Log.Problem("", err) }
	if err = errors.Join(err, d.spool.StartJournal(problem)); err != nil {
		problem(err)
	}
}

func (d *smtpd) close() {
	d.started.Wait()
	if d.spool != nil {
		d.spool.Close()
	}
}

// bounds is what the server needs beside the queue.
func (d *smtpd) bounds(c *config.Config) confine.Bounds {
	b := confine.Bounds{Home: c.Spool, Read: slices.Concat([]string{c.Aliases}, c.TLS.Certificate, c.TLS.Key)}
	if strings.HasPrefix(c.Users, "/") {
		b.Read = append(b.Read, c.Users)
	}
	if c.Submission.Senders != "" {
		b.Read = append(b.Read, c.Submission.Senders)
	}
	if c.SMTPD.VerifyRelay {
		b.Read = append(b.Read, c.SMTP.Credentials)
		if c.SMTP.Certificate != "" {
			b.Read = append(b.Read, c.SMTP.Certificate, c.SMTP.Key)
		}
		tokens, err := credentials.Load(c.SMTP.Credentials)
		b.Programs = err == nil && tokens.HasPrograms()
	}
	if d.submission && c.Users == "system" {
		b.Read = append(b.Read, "/etc/shadow") // by its group
	}
	if d.submission && c.TLS.ClientCA != "" {
		b.Read = append(b.Read, c.TLS.ClientCA)
	}
	b.Programs = b.Programs || d.submission && (strings.HasPrefix(c.Users, "checkpassword:") || len(c.Auth.TokenCheck) > 0)
	return b
}

// load makes the server that the configuration describes.
func (d *smtpd) load(c *config.Config) (daemon.Engine, error) {
	domains := config.Strings(c.Domains)
	users, err := userdb.Open(c.Users, domains)
	if err != nil {
		return nil, err
	}
	users.Problem = func(err error) { d.Log.Problem("", err) }
	aliases, err := alias.Load(c.Aliases)
	if err == nil && d.CheckOnly {
		err = aliases.Check()
	}
	if err != nil {
		return nil, err
	}
	aliases.Problem = users.Problem
	s := &smtpserver.Server{
		Hostname: c.Hostname, Submission: d.submission, ImplicitTLS: d.ImplicitTLS, Log: d.Log,
		Home: c.Hostname, Domains: set(domains), RelayDomains: set(config.Strings(c.RelayDomains)),
		RelayNetworks: c.RelayNetworks, PlaintextLogin: c.TLS.PlaintextLogin, XclientNetworks: c.SMTPD.XclientNetworks,
		NormaliseNewlines: c.SMTPD.BareNewline == config.BareNewlineNormalise,
		MaxSize:           int64(c.Limits.MessageSize), MaxRecipients: c.Limits.Recipients, MaxHops: c.Limits.Hops,
	}
	if len(domains) > 0 {
		s.Home = domains[0]
	}
	agent := &delivery.Agent{Domains: domains, Delimiter: c.RecipientDelimiter, Aliases: aliases, Users: users, Log: d.Log}
	if usersAreHere(c.Local) {
		s.Verify = agent.Verify
	}
	if d.submission {
		if err := d.NeedPasswords(users, true); err != nil {
			return nil, err
		}
	}
	if s.TLS, err = d.TLS(c, "STARTTLS"); err != nil {
		return nil, err
	}
	if err = d.open(c); err == nil {
		err = d.logins(c, s, users)
	}
	if err == nil {
		err = d.policy(c, s, agent)
	}
	if err == nil {
		s.Screen, err = d.screen(c)
	}
	s.Spool, s.Rates = d.spool, d.rates(c)
	return s, err
}

func set(domains []string) map[string]bool {
	m := make(map[string]bool, len(domains))
	for _, d := range domains {
		m[d] = true
	}
	return m
}

// usersAreHere reports whether the host that delivers for the domains is this one, so that its tables know who exists.
func usersAreHere(local destination.Destination) bool {
	ip, err := netip.ParseAddr(local.Host)
	return local.Host == "" || local.Host == "localhost" || err == nil && ip.IsLoopback()
}
