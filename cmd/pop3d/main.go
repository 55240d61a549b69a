// Pop3d is the POP3 server: users fetch their mail from a Maildir or an mbox.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/postel-mail/postel/internal/activation"
	"github.com/postel-mail/postel/internal/config"
	"github.com/postel-mail/postel/internal/daemon"
	"github.com/postel-mail/postel/internal/mailbox"
	"github.com/postel-mail/postel/internal/mailstore"
	"github.com/postel-mail/postel/internal/pop3server"
	"github.com/postel-mail/postel/internal/status"
	"github.com/postel-mail/postel/internal/userdb"
)

func main() { os.Exit(run(os.Args[1:])) }

type pop3d struct{ *daemon.Daemon }

func run(args []string) int {
	d := &pop3d{daemon.New("pop3d [flags]", "let users fetch their mail by POP3",
		"  pop3d --listen :110\n  pop3d --tls --listen :995\n  printf 'CAPA\\r\\nQUIT\\r\\n' | pop3d")}
	d.AddTLS(995)
	d.RunE = func(*cobra.Command, []string) error { return d.run() }
	return d.Main(args)
}

func (d *pop3d) run() error {
	unix.Umask(0o077)
	s := daemon.Service{Load: d.load, Busy: func(*config.Config) string { return "-ERR [SYS/TEMP] too many connections, try again later" }}
	if os.Geteuid() == 0 && !d.Single() {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		s.Stopping = cancel
		s.Serve = func(conn *activation.Conn) { d.handOver(ctx, conn) }
	}
	return d.Run(s)
}

// load makes the server that the configuration describes.
func (d *pop3d) load(c *config.Config) (daemon.Engine, error) {
	domains := config.Strings(c.Domains)
	users, err := userdb.Open(c.Users, domains)
	if err != nil {
		return nil, err
	}
	users.Problem = func(err error) { d.Log.Problem("", err) }
	if err := d.NeedPasswords(users, false); err != nil {
		return nil, err
	}
	s := &pop3server.Server{Hostname: c.Hostname, ImplicitTLS: d.ImplicitTLS, PlaintextLogin: c.TLS.PlaintextLogin, Log: d.Log}
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
	s.TLS, err = d.TLS(c, "STLS")
	return s, err
}

// become makes this process the user whose mail is fetched, when that is another user of the host. The superuser it never is: who has logged in is not.
func (d *pop3d) become(u userdb.User) error {
	own := os.Geteuid()
	switch {
	case u.UID < 0 || u.UID == own:
		return nil
	case own != 0 || !d.Single():
		return status.Permanent(550, "5.7.0", "this server has no right to your mailbox",
			fmt.Errorf("user %s is user %d of this host, the server runs as %d", u, u.UID, own))
	}
	return userdb.Become(u)
}
