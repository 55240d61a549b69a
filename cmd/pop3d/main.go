// Pop3d is the POP3 server: users fetch their mail from a Maildir or an mbox.
package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"sync/atomic"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/postel-mail/postel/internal/activation"
	"github.com/postel-mail/postel/internal/config"
	"github.com/postel-mail/postel/internal/daemon"
	"github.com/postel-mail/postel/internal/mailbox"
	"github.com/postel-mail/postel/internal/maillog"
	"github.com/postel-mail/postel/internal/mailstore"
	"github.com/postel-mail/postel/internal/pop3server"
	"github.com/postel-mail/postel/internal/program"
	"github.com/postel-mail/postel/internal/status"
	"github.com/postel-mail/postel/internal/sysexits"
	"github.com/postel-mail/postel/internal/userdb"
)

func main() { os.Exit(run(os.Args[1:])) }

// pop3d is the running program.
type pop3d struct {
	*program.Program
	connections daemon.Flags
	implicitTLS bool // --tls

	log     *maillog.Log
	single  bool                              // this process serves one session, and may become its user
	current atomic.Pointer[pop3server.Server] // what new sessions get; replaced by SIGHUP
}

func run(args []string) int {
	d := &pop3d{Program: program.New("pop3d [flags]", "let users fetch their mail by POP3",
		"  pop3d --listen :110\n  pop3d --tls --listen :995\n  printf 'CAPA\\r\\nQUIT\\r\\n' | pop3d")}
	d.connections.Add(d.Program)
	d.Flags().BoolVar(&d.implicitTLS, "tls", false, "speak TLS from the first octet (port 995)")
	d.RunE = func(*cobra.Command, []string) error { return d.run() }
	return d.Main(args)
}

func (d *pop3d) run() error {
	unix.Umask(0o077)
	d.single = activation.SingleSession(d.connections.Listen)
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
	d.current.Store(server)

	busy := "-ERR [SYS/TEMP] too many connections, try again later"
	if d.implicitTLS {
		busy = "" // the client expects a handshake
	}
	a, err := d.connections.Server(c, d.log, busy, d.reload)
	if err != nil {
		return err
	}
	a.Serve = func(conn *activation.Conn) { d.current.Load().ServeConn(conn) }
	if d.single {
		return a.Run()
	}
	if os.Geteuid() == 0 {
		ctx, cancel := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
		defer cancel()
		a.Serve = func(conn *activation.Conn) { d.handOver(ctx, conn) }
	}
	d.log.Start(program.Version, "")
	if err := a.Run(); err != nil {
		return err
	}
	d.log.Stop("told to, or idle")
	return nil
}

// reload reads configuration, tables and certificate again. Sessions that go on keep what they began with.
func (d *pop3d) reload() error {
	c, err := d.Config()
	if err != nil {
		return err
	}
	server, err := d.load(c)
	if err != nil {
		return err
	}
	d.current.Store(server)
	return nil
}

// load makes the server that the configuration describes.
func (d *pop3d) load(c *config.Config) (*pop3server.Server, error) {
	domains := config.Strings(c.Domains)
	users, err := userdb.Open(c.Users, domains)
	if err != nil {
		return nil, err
	}
	users.Problem = func(err error) { d.log.Problem("", err) }
	s := &pop3server.Server{Hostname: c.Hostname, ImplicitTLS: d.implicitTLS, PlaintextLogin: c.TLS.PlaintextLogin, Log: d.log}
	s.Login = func(ctx context.Context, name, password string) (mailbox.Store, error) {
		u, err := users.Authenticate(ctx, name, password)
		if errors.Is(err, userdb.ErrBadCredentials) {
			return nil, status.Permanent(535, "5.7.8", "wrong name or password", err)
		}
		if err != nil {
			return nil, err
		}
		words := mailstore.Words(u, domains)
		store, err := mailstore.Open(c.Mailbox, words)
		if err != nil {
			return nil, err
		}
		if gid, ok := mailstore.SpoolGroup(c.Mailbox, words); ok {
			u.Groups = append(u.Groups, gid)
		}
		return store, d.become(u)
	}
	s.TLS, err = d.tls(c)
	return s, err
}

// become makes this process the user whose mail is fetched, when that is another user of the host.
func (d *pop3d) become(u userdb.User) error {
	own := os.Geteuid()
	switch {
	case u.UID == 0:
		return status.Permanent(550, "5.7.0", "the mail of root cannot be fetched", nil)
	case u.UID < 0 || u.UID == own:
		return nil
	case own != 0 || !d.single:
		return status.Permanent(550, "5.7.0", "this server has no right to your mailbox",
			fmt.Errorf("user %s is user %d of this host, the server runs as %d", u, u.UID, own))
	}
	return userdb.Become(u)
}

// tls reads the certificate. Without one the server works, and offers no STLS; with --tls it cannot.
func (d *pop3d) tls(c *config.Config) (*tls.Config, error) {
	cert, err := daemon.LoadCertificate(c.TLS.Certificate, c.TLS.Key)
	if errors.Is(err, fs.ErrNotExist) && !d.implicitTLS {
		if !d.CheckOnly && !d.single { // said once, not for each connection
			d.log.Problem("", fmt.Errorf("STLS is not offered: %w", err))
		}
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return cert.Config(), nil
}
