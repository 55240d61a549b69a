// Lmtpd is the LMTP server: it takes messages from a mail server and delivers them to the users of this host, one answer per recipient. It
// never queues.
package main

import (
	"context"
	"errors"
	"os"
	"strconv"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/postel-mail/postel/internal/alias"
	"github.com/postel-mail/postel/internal/config"
	"github.com/postel-mail/postel/internal/daemon"
	"github.com/postel-mail/postel/internal/delivery"
	"github.com/postel-mail/postel/internal/lmtpserver"
	"github.com/postel-mail/postel/internal/process"
	"github.com/postel-mail/postel/internal/userdb"
)

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	d := &lmtpd{daemon.New("lmtpd [flags]", "deliver mail to the users of this host, taken by LMTP",
		"  lmtpd --listen unix:/run/postel/lmtp.sock\n  lmtpd --listen 127.0.0.1:24")}
	d.RunE = func(*cobra.Command, []string) error {
		unix.Umask(0o077)
		return d.Run(daemon.Service{Load: d.load, Busy: func(c *config.Config) string {
			return "421 4.3.2 " + c.Hostname + " has too many connections, try again later"
		}})
	}
	return d.Main(args)
}

type lmtpd struct{ *daemon.Daemon }

// load makes the server that the configuration describes.
func (d *lmtpd) load(c *config.Config) (daemon.Engine, error) {
	agent, err := d.agent(c)
	if err != nil {
		return nil, err
	}
	return &lmtpserver.Server{
		Hostname: c.Hostname, MaxSize: int64(c.Limits.MessageSize), MaxRecipients: c.Limits.Recipients, Log: d.Log,
		Verify: agent.Verify,
		Deliver: func(ctx context.Context, m lmtpserver.Message) (string, error) {
			outcome, err := agent.Deliver(ctx, delivery.Message{
				ID: m.ID + "." + strconv.Itoa(m.Number), Arrival: m.Arrival, Sender: m.From, Recipient: m.To, DSN: m.DSN,
				Body: m.Body, Size: m.Body.Size(), Open: m.Body.Open,
			})
			return string(outcome), err
		},
	}, nil
}

// agent makes the delivery agent. The programs that it starts are those beside this one.
func (d *lmtpd) agent(c *config.Config) (*delivery.Agent, error) {
	sendmail, err := process.Beside("sendmail")
	if err != nil {
		return nil, err
	}
	deliver, err := process.Beside("deliver")
	if err != nil {
		return nil, err
	}
	file, err := d.ConfigPath()
	if err != nil {
		return nil, err
	}
	a := &delivery.Agent{Domains: config.Strings(c.Domains), Delimiter: c.RecipientDelimiter, Mailbox: c.Mailbox, Log: d.Log,
		Sendmail: sendmail, Config: file,
		AsUser: delivery.Child{Program: deliver, Config: file}.Deliver}
	if a.Users, err = userdb.Open(c.Users, a.Domains); err != nil {
		return nil, err
	}
	if a.Aliases, err = alias.Load(c.Aliases); err != nil {
		return nil, err
	}
	a.Users.Problem = func(err error) { d.Log.Problem("", err) }
	a.Aliases.Problem = a.Users.Problem
	if d.CheckOnly {
		if lacksRights(c.Users, os.Geteuid()) {
			d.Say(errors.New(`users = "system", and this is not root: mail for other users than its own will be deferred; run by root, or let users name a file`))
		}
		err = a.Aliases.Check()
	}
	return a, err
}

// lacksRights reports whether a server that runs as that user cannot become the users that it delivers to.
func lacksRights(users string, uid int) bool { return users == "system" && uid != 0 }
