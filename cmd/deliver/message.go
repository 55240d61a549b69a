package main

import (
	"os"
	"os/user"
	"regexp"
	"strings"

	"github.com/postel-mail/postel/internal/address"
	"github.com/postel-mail/postel/internal/clock"
	"github.com/postel-mail/postel/internal/config"
	"github.com/postel-mail/postel/internal/delivery"
	"github.com/postel-mail/postel/internal/process"
	"github.com/postel-mail/postel/internal/status"
)

// validID is what is taken from POSTEL_ID as the name of this delivery.
var validID = regexp.MustCompile(`^[0-9a-z.]{1,64}$`)

// message takes the message from standard input, and its envelope from flags, arguments and environment. Errors have a status.
func (d *deliver) message(c *config.Config, args []string) (m delivery.Message, err error) {
	switch {
	case len(args) > 0:
		m.Recipient, err = parse(args[0], c.Hostname)
	case d.user != "":
		m.Recipient, err = parse(d.user, c.Hostname)
	default:
		var self *user.User
		if self, err = user.Current(); err == nil {
			m.Recipient, err = parse(self.Username, c.Hostname)
		}
	}
	if err != nil || m.Recipient.IsNull() {
		return m, status.Permanent(553, "5.1.3", "Bad recipient address", err)
	}
	if id := os.Getenv("POSTEL_ID"); validID.MatchString(id) {
		m.ID = id
	}
	if s := os.Getenv("ORIGINAL_RECIPIENT"); s != "" {
		m.Original, _ = parse(s, c.Hostname) // of no use where it is malformed
	}
	m.Arrival = clock.Now()
	var from string
	in, err := process.Stdin()
	if err == nil {
		from, err = m.TakeIn(in)
	}
	if err != nil {
		return m, status.Temporary(451, "4.3.0", "Cannot read the message", err)
	}
	if d.Flags().Changed("sender") {
		if m.Sender, err = parse(d.sender, c.Hostname); err != nil {
			return m, status.Permanent(553, "5.1.7", "Bad sender address", err)
		}
	} else if from != "" {
		m.Sender, _ = parse(from, c.Hostname) // MAILER-DAEMON and worse: no sender
	}
	return m, nil
}

// parse reads an address from a command line: in angle brackets or not, without a domain, with a local part that should be quoted and
// is not. "" and "<>" are the null path.
func parse(s, domain string) (address.Path, error) {
	if s == "" || s == "<>" {
		return address.Path{}, nil
	}
	if strings.HasPrefix(s, "<") && strings.HasSuffix(s, ">") {
		s = s[1 : len(s)-1]
	}
	p, err := address.Parse(s)
	if err == nil {
		return p, nil
	}
	if p, err := address.Parse(s + "@" + domain); err == nil {
		return p, nil
	}
	if i := strings.LastIndexByte(s, '@'); i > 0 && !strings.Contains(s[:i], "@") {
		return address.Parse(address.Path{Local: s[:i], Domain: s[i+1:]}.String())
	}
	return p, err
}
