// Lmtpd is the LMTP server: it takes messages from a mail server and delivers them to the users of this host, one answer per recipient. It
// never queues.
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/postel-mail/postel/internal/activation"
	"github.com/postel-mail/postel/internal/alias"
	"github.com/postel-mail/postel/internal/config"
	"github.com/postel-mail/postel/internal/daemon"
	"github.com/postel-mail/postel/internal/delivery"
	"github.com/postel-mail/postel/internal/lmtpserver"
	"github.com/postel-mail/postel/internal/maillog"
	"github.com/postel-mail/postel/internal/program"
	"github.com/postel-mail/postel/internal/sysexits"
	"github.com/postel-mail/postel/internal/userdb"
)

func main() { os.Exit(run(os.Args[1:])) }

// lmtpd is the running program.
type lmtpd struct {
	*program.Program
	daemon.Flags

	log     *maillog.Log
	current atomic.Pointer[lmtpserver.Server] // what new sessions get; replaced by SIGHUP
}

func run(args []string) int {
	d := &lmtpd{Program: program.New("lmtpd [flags]", "deliver mail to the users of this host, taken by LMTP",
		"  lmtpd --listen unix:/run/postel/lmtp.sock\n  lmtpd --listen 127.0.0.1:24")}
	d.Flags.Add(d.Program)
	d.RunE = func(*cobra.Command, []string) error { return d.run() }
	return d.Main(args)
}

func (d *lmtpd) run() error {
	unix.Umask(0o077)
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
	stays := !activation.SingleSession(d.Listen)
	a, err := d.Server(c, d.log, "421 4.3.2 "+c.Hostname+" has too many connections, try again later", d.reload)
	if err != nil {
		return err
	}
	a.Serve = func(conn *activation.Conn) { d.current.Load().ServeConn(conn) }
	if stays {
		d.log.Start(program.Version, "")
	}
	if err := a.Run(); err != nil {
		return err
	}
	if stays {
		d.log.Stop("told to, or idle")
	}
	return nil
}

// reload reads configuration and tables again. Sessions that go on keep what they began with.
func (d *lmtpd) reload() error {
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
func (d *lmtpd) load(c *config.Config) (*lmtpserver.Server, error) {
	agent, err := d.agent(c)
	if err != nil {
		return nil, err
	}
	return &lmtpserver.Server{
		Hostname: c.Hostname, MaxSize: int64(c.Limits.MessageSize), MaxRecipients: c.Limits.Recipients, Log: d.log,
		Verify: agent.Verify,
		Deliver: func(ctx context.Context, m lmtpserver.Message) error {
			return agent.Deliver(ctx, delivery.Message{
				ID: m.ID + "." + strconv.Itoa(m.Number), Arrival: m.Arrival, Sender: m.From, Recipient: m.To,
				Body: m.Body, Size: m.Body.Size(), Open: m.Body.Open,
			})
		},
	}, nil
}

// agent makes the delivery agent. The programs that it starts are those beside this one.
func (d *lmtpd) agent(c *config.Config) (*delivery.Agent, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("cannot tell where this program is: %w", err)
	}
	file, err := d.configFile()
	if err != nil {
		return nil, err
	}
	a := &delivery.Agent{Domains: config.Strings(c.Domains), Delimiter: c.RecipientDelimiter, Mailbox: c.Mailbox, Log: d.log,
		Sendmail: filepath.Join(filepath.Dir(self), "sendmail"), Config: file,
		AsUser: delivery.Child{Program: filepath.Join(filepath.Dir(self), "deliver"), Config: file}.Deliver}
	if a.Users, err = userdb.Open(c.Users, a.Domains); err != nil {
		return nil, err
	}
	if a.Aliases, err = alias.Load(c.Aliases); err != nil {
		return nil, err
	}
	a.Users.Problem = func(err error) { d.log.Problem("", err) }
	a.Aliases.Problem = a.Users.Problem
	if d.CheckOnly {
		err = a.Aliases.Check()
	}
	return a, err
}

// configFile is the configuration that the programs get which deliver for this one: "" for the default.
func (d *lmtpd) configFile() (string, error) {
	file := d.ConfigFile
	if file == "" {
		file = os.Getenv("POSTEL_CONFIG")
	}
	if file == "" {
		return "", nil
	}
	return filepath.Abs(file) // they start in another directory
}
