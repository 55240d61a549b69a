// Smtpd is the SMTP server: the mail exchanger, and with --submission the server that users send by. It takes messages into the queue.
package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"sync/atomic"

	"github.com/spf13/cobra"

	"github.com/postel-mail/postel/internal/activation"
	"github.com/postel-mail/postel/internal/alias"
	"github.com/postel-mail/postel/internal/config"
	"github.com/postel-mail/postel/internal/daemon"
	"github.com/postel-mail/postel/internal/delivery"
	"github.com/postel-mail/postel/internal/destination"
	"github.com/postel-mail/postel/internal/maillog"
	"github.com/postel-mail/postel/internal/program"
	"github.com/postel-mail/postel/internal/queue"
	"github.com/postel-mail/postel/internal/smtpserver"
	"github.com/postel-mail/postel/internal/status"
	"github.com/postel-mail/postel/internal/sysexits"
	"github.com/postel-mail/postel/internal/userdb"
)

func main() { os.Exit(run(os.Args[1:])) }

// smtpd is the running program.
type smtpd struct {
	*program.Program
	connections             daemon.Flags
	submission, implicitTLS bool

	log     *maillog.Log
	spool   *queue.Spool
	path    string                            // of the spool
	current atomic.Pointer[smtpserver.Server] // what new sessions get; replaced by SIGHUP
}

func run(args []string) int {
	d := &smtpd{Program: program.New("smtpd [flags]", "receive mail by SMTP, as mail exchanger or submission server",
		"  smtpd --listen :25\n  smtpd --submission --listen :587 --listen unix:/run/postel/submit.sock\n  printf 'EHLO x\\r\\nQUIT\\r\\n' | smtpd")}
	d.connections.Add(d.Program)
	d.Flags().BoolVar(&d.submission, "submission", false, "take mail from users, who log in, for anywhere")
	d.Flags().BoolVar(&d.implicitTLS, "tls", false, "speak TLS from the first octet (port 465)")
	d.RunE = func(*cobra.Command, []string) error { return d.run() }
	return d.Main(args)
}

func (d *smtpd) run() error {
	c, err := d.Config()
	if err != nil {
		return err
	}
	if d.log, err = d.Log(); err != nil {
		return err
	}
	server, err := d.load(c)
	if err != nil || d.CheckOnly {
		return sysexits.With(sysexits.Config, err)
	}
	if d.spool, err = queue.Open(c.Spool); err != nil {
		return sysexits.With(sysexits.CantCreat, err)
	}
	defer d.spool.Close()
	d.path = c.Spool
	d.use(c, server)

	busy := "421 4.3.2 " + c.Hostname + " has too many connections, try again later"
	if d.implicitTLS {
		busy = "" // the client expects a handshake
	}
	stays := !activation.SingleSession(d.connections.Listen)
	a, err := d.connections.Server(c, d.log, busy, d.reload)
	if err != nil {
		return err
	}
	a.Serve = func(conn *activation.Conn) { d.current.Load().ServeConn(conn) }
	if stays {
		d.log.Start(program.Version, d.spool.Order())
	}
	if err := a.Run(); err != nil {
		return err
	}
	if stays {
		d.log.Stop("told to, or idle")
	}
	return nil
}

// reload reads configuration, tables and certificate again. Sessions that go on keep what they began with.
func (d *smtpd) reload() error {
	c, err := d.Config()
	if err != nil {
		return err
	}
	if c.Spool != d.path {
		return fmt.Errorf("spool: cannot change from %s to %s while the server runs", d.path, c.Spool)
	}
	server, err := d.load(c)
	if err != nil {
		return err
	}
	d.use(c, server)
	return nil
}

func (d *smtpd) use(c *config.Config, s *smtpserver.Server) {
	d.spool.MinFree = int64(c.Limits.MinFree)
	s.Spool = d.spool
	d.current.Store(s)
}

// load makes the server that the configuration describes, but for its spool.
func (d *smtpd) load(c *config.Config) (*smtpserver.Server, error) {
	domains := config.Strings(c.Domains)
	users, err := userdb.Open(c.Users, domains)
	if err != nil {
		return nil, err
	}
	users.Problem = func(err error) { d.log.Problem("", err) }
	aliases, err := alias.Load(c.Aliases)
	if err == nil && d.CheckOnly {
		err = aliases.Check()
	}
	if err != nil {
		return nil, err
	}
	s := &smtpserver.Server{
		Hostname: c.Hostname, Submission: d.submission, ImplicitTLS: d.implicitTLS, Log: d.log,
		Home: c.Hostname, Domains: set(domains), RelayDomains: set(config.Strings(c.RelayDomains)),
		RelayNetworks: c.RelayNetworks, PlaintextLogin: c.TLS.PlaintextLogin,
		MaxSize: int64(c.Limits.MessageSize), MaxRecipients: c.Limits.Recipients, MaxHops: c.Limits.Hops,
	}
	if len(domains) > 0 {
		s.Home = domains[0]
	}
	if usersAreHere(c.Local) {
		agent := &delivery.Agent{Domains: domains, Delimiter: c.RecipientDelimiter, Aliases: aliases, Users: users, Log: d.log}
		s.Verify = agent.Verify
	}
	if d.submission {
		s.Authenticate = authenticate(users)
	}
	s.TLS, err = d.tls(c)
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

// authenticate gives the errors of the table of users the status that a client hears.
func authenticate(users *userdb.DB) func(context.Context, string, string) (string, error) {
	return func(ctx context.Context, user, password string) (string, error) {
		u, err := users.Authenticate(ctx, user, password)
		if errors.Is(err, userdb.ErrBadCredentials) {
			return "", status.Permanent(535, "5.7.8", "Authentication credentials invalid", err)
		}
		return u.String(), err
	}
}

// tls reads the certificate. Without one the server works, and offers no STARTTLS; with --tls it cannot.
func (d *smtpd) tls(c *config.Config) (*tls.Config, error) {
	cert, err := daemon.LoadCertificate(c.TLS.Certificate, c.TLS.Key)
	if errors.Is(err, fs.ErrNotExist) && !d.implicitTLS {
		if !d.CheckOnly {
			d.log.Problem("", fmt.Errorf("STARTTLS is not offered: %w", err))
		}
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return cert.Config(), nil
}
