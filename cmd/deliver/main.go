// Deliver is the delivery agent: it puts the message on its standard input where the recipient wants it, and says with its exit status what
// became of it: 0, 65, 67, 69 or 75, and nothing else.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/postel-mail/postel/internal/address"
	"github.com/postel-mail/postel/internal/alias"
	"github.com/postel-mail/postel/internal/config"
	"github.com/postel-mail/postel/internal/delivery"
	"github.com/postel-mail/postel/internal/destination"
	"github.com/postel-mail/postel/internal/envelope"
	"github.com/postel-mail/postel/internal/maillog"
	"github.com/postel-mail/postel/internal/process"
	"github.com/postel-mail/postel/internal/program"
	"github.com/postel-mail/postel/internal/status"
	"github.com/postel-mail/postel/internal/sysexits"
	"github.com/postel-mail/postel/internal/userdb"
)

func main() { os.Exit(run(os.Args[1:])) }

// deliver is one run of the program.
type deliver struct {
	*program.Program
	sender, to, user               string
	notify, orcpt, ret, envelopeID string
	said                           bool // the last line on stderr is a code and a reason
}

func run(args []string) int {
	unix.Umask(0o077)
	d := &deliver{Program: program.New("deliver [flags] [recipient]", "deliver the message on standard input",
		"  deliver -f alice@example.org bob@example.net <message\n  deliver --to maildir:~/Maildir <message")}
	d.Flags().StringVarP(&d.sender, "sender", "f", "", "envelope sender `ADDRESS`, <> for none (default that of a From_ line in front)")
	d.Flags().StringVar(&d.to, "to", "", "deliver to `DESTINATION`: maildir:PATH, mbox:PATH, pipe:PROGRAM or discard:")
	d.Flags().StringVar(&d.user, "user", "", "the recipient is user `NAME` with the home $HOME; no alias is looked up")
	d.Flags().StringVarP(&d.notify, "notify", "N", "", "report to the sender `WHEN`: never, or a list of success, failure and delay")
	d.Flags().StringVarP(&d.ret, "return", "R", "", "a report returns `WHAT` of the message: full or hdrs")
	d.Flags().StringVarP(&d.envelopeID, "envelope-id", "V", "", "reports quote `ID`")
	d.Flags().StringVar(&d.orcpt, "orcpt", "", "reports name `ADDR`, as TYPE;ADDRESS, as the recipient that the sender wrote to")
	d.Flags().Lookup("log").Usage = "log as `FORM`: " + maillog.Forms + " (default syslog)"
	d.Args = cobra.MaximumNArgs(1)
	d.RunE = func(_ *cobra.Command, args []string) error { return d.run(args) }
	flags := args
	if i := slices.Index(args, "--"); i >= 0 {
		flags = args[:i]
	}
	// cobra would take these two for itself, answer a shell, and exit 0 with the message lost.
	if slices.Contains(flags, cobra.ShellCompRequestCmd) || slices.Contains(flags, cobra.ShellCompNoDescRequestCmd) {
		return d.exit(sysexits.Usage)
	}
	return d.exit(d.Main(args))
}

// exit holds the status to the five that a calling mail system can rely on, and sees to it that the last line on stderr is a reason.
func (d *deliver) exit(code int) int {
	switch code {
	case sysexits.OK:
		return code
	case sysexits.Config:
		if d.CheckOnly {
			return code
		}
	case sysexits.DataErr, sysexits.NoUser, sysexits.Unavailable, sysexits.TempFail:
		if d.said {
			return code
		}
	}
	fmt.Fprintln(os.Stderr, "deliver: 4.3.5 Cannot deliver with this command line or configuration")
	return sysexits.TempFail
}

// say tells on stderr how a delivery failed: the cause, for who called by hand, and last code and reason, which mail systems pass on.
func (d *deliver) say(err error) error {
	if err == nil {
		return nil
	}
	s := status.Of(err)
	if s.Err != nil {
		for line := range strings.SplitSeq(s.Err.Error(), "\n") {
			fmt.Fprintf(os.Stderr, "deliver: %s\n", status.Clean(line))
		}
	}
	fmt.Fprintf(os.Stderr, "deliver: %s %s\n", s.Enhanced, status.Clean(s.Text))
	d.said = true
	return sysexits.With(sysexits.FromStatus(s), process.ErrSilent)
}

func (d *deliver) run(args []string) error {
	if d.LogForm == "" {
		d.LogForm = "syslog" // stderr is for the caller
	}
	c, err := d.Config()
	if err != nil {
		return err
	}
	agent, err := d.agent(c)
	if err != nil {
		return sysexits.With(sysexits.Config, err)
	}
	if d.CheckOnly {
		return sysexits.With(sysexits.Config, errors.Join(agent.Aliases.Check(), strangers(context.Background(), agent)))
	}
	var to destination.Destination
	if d.to != "" {
		if to, err = destination.Parse(d.to); err != nil {
			return sysexits.With(sysexits.Usage, fmt.Errorf("--to: %w", err))
		}
	}
	dsn, err := envelope.ParseDSN(d.notify, d.orcpt, d.ret, d.envelopeID)
	if err != nil {
		return sysexits.With(sysexits.Usage, err)
	}
	m, err := d.message(c, args)
	if err != nil {
		return d.say(err)
	}
	m.DSN = dsn
	outcome, err := d.deliver(context.Background(), agent, to, m)
	if err == nil && dsn.Notify != "" {
		fmt.Println(outcome)
	}
	return d.say(err)
}

// agent makes the delivery agent that the configuration describes.
func (d *deliver) agent(c *config.Config) (*delivery.Agent, error) {
	log, err := d.Log()
	if err != nil {
		return nil, err
	}
	self, err := process.Beside("deliver")
	if err != nil {
		return nil, err
	}
	sendmail, err := process.Beside("sendmail")
	if err != nil {
		return nil, err
	}
	file, err := d.ConfigPath()
	if err != nil {
		return nil, err
	}
	a := &delivery.Agent{Domains: config.Strings(c.Domains), Delimiter: c.RecipientDelimiter, Mailbox: c.Mailbox, Log: log,
		Sendmail: sendmail, Config: file,
		AsUser: delivery.Child{Program: self, Config: file}.Deliver, Become: userdb.Become}
	if a.Aliases, err = alias.Load(c.Aliases); err != nil {
		return nil, err
	}
	if d.user == "" { // that user's process may have no right to read the table
		a.Users, err = userdb.Open(c.Users, a.Domains)
	}
	return a, err
}

// strangers tells the addresses of this host in aliases that are neither an alias nor a user.
func strangers(ctx context.Context, a *delivery.Agent) error {
	var all []error
	for where, item := range a.Aliases.Addresses() {
		domains := a.Domains // a name without a domain is in that of the message's recipient
		if item.Address.Domain != "" {
			domains = []string{item.Address.Domain}
		}
		found := len(domains) == 0
		for _, d := range domains {
			p := address.Path{Local: item.Address.Local, Domain: d}
			err := a.Verify(ctx, p) // says no to other domains, but not that there is no such user
			if err == nil && item.Final {
				_, err = a.FindUser(ctx, p)
			}
			found = found || !errors.Is(err, userdb.ErrNoUser)
		}
		if !found {
			all = append(all, fmt.Errorf("%s: %s is neither an alias nor a user", where, item.Address))
		}
	}
	return errors.Join(all...)
}

// deliver brings the message to where flags and recipient say.
func (d *deliver) deliver(ctx context.Context, a *delivery.Agent, to destination.Destination, m delivery.Message) (delivery.Outcome, error) {
	switch {
	case d.user != "":
		u := userdb.User{Name: d.user, UID: os.Geteuid(), GID: os.Getegid(), Home: os.Getenv("HOME")}
		if i := strings.LastIndexByte(d.user, '@'); i >= 0 {
			u.Name, u.Domain = d.user[:i], d.user[i+1:]
		}
		if to.Kind != destination.None {
			return a.DeliverTo(ctx, u, to, m)
		}
		return a.DeliverUser(ctx, u, m)
	case to.Kind == destination.None:
		return a.Deliver(ctx, m)
	}
	u, err := d.owner(ctx, a, m)
	if err != nil {
		return delivery.Delivered, err
	}
	return a.DeliverTo(ctx, u, to, m)
}

// owner is the user whose home ~ is in --to: the recipient, where that is a user, or the caller.
func (d *deliver) owner(ctx context.Context, a *delivery.Agent, m delivery.Message) (userdb.User, error) {
	if d.Flags().NArg() == 0 {
		self, err := user.Current()
		if err != nil {
			return userdb.User{}, fmt.Errorf("cannot tell who you are: %w", err)
		}
		return userdb.User{Name: self.Username, UID: os.Geteuid(), GID: os.Getegid(), Home: self.HomeDir}, nil
	}
	u, err := a.FindUser(ctx, m.Recipient)
	if errors.Is(err, userdb.ErrNoUser) { // a place needs no user
		return userdb.User{UID: -1, GID: -1}, nil
	}
	return u, err
}
