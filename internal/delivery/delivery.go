// Package delivery is final delivery: from a recipient of this host's domains through aliases(5), the table of users and .forward to
// mailboxes, programs and other addresses; the work of Postfix's local(8).
//
// An address is looked up in this order, names first with their detail ("user+detail"), then without:
//
//	alias name@domain, alias name, user, alias @domain, postmaster and abuse
//
// A user's .forward+detail or .forward then decides, else the mailbox. Return-Path (RFC 5321 4.4) and Delivered-To are put in front of
// the message, nothing else in it is touched; Delivered-To is what stops loops. Every target of an alias is tried, and the outcome is the
// worst of all: what is to be tried again is tried again as a whole. Stores know a delivery that they have, programs do not. Mail goes on to other
// addresses last, and only when nothing before has to be tried again, so that it is not sent on twice.
//
// What the sender wants to hear (RFC 3461) goes along as section 5.2.7 there has it; see Outcome.
//
// A process that is root touches no file and runs no program of a user: it has a child do so, or becomes the user for good. Not
// here yet: folders by detail, sender rewriting (SRS).
package delivery

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/postel-mail/postel/internal/address"
	"github.com/postel-mail/postel/internal/alias"
	"github.com/postel-mail/postel/internal/destination"
	"github.com/postel-mail/postel/internal/envelope"
	"github.com/postel-mail/postel/internal/maillog"
	"github.com/postel-mail/postel/internal/message"
	"github.com/postel-mail/postel/internal/status"
	"github.com/postel-mail/postel/internal/userdb"
)

// Agent delivers messages. Its fields are set before the first use; it may then be used by many goroutines.
type Agent struct {
	Domains   []string // those that are delivered here, in lower case and ASCII; the first completes a name without one
	Delimiter string   // between user and detail; "" for no details
	Aliases   *alias.Table
	Users     *userdb.DB
	Mailbox   destination.Destination // where a user's mail goes: Maildir or Mbox
	Sendmail  string                  // absolute path of the program that takes mail for other addresses
	Config    string                  // what that program gets as POSTEL_CONFIG; "" for none
	Log       *maillog.Log

	// AsUser delivers m as the user u, in another process: to the place to, or with to.Kind None as the recipient's .forward and mailbox
	// decide. Child.Deliver is one. A process that is root needs it.
	AsUser func(ctx context.Context, u userdb.User, to destination.Destination, m Message) (Outcome, error)
	// Become makes this process the user u for good. When it is set, a process that is root delivers the last target of a message so,
	// in the place of AsUser.
	Become func(u userdb.User) error
}

// Message is one message for one recipient.
type Message struct {
	ID        string    // the same on every try, postel's POSTEL_ID; "" for none
	Arrival   time.Time // the zero time is now
	Sender    address.Path
	Recipient address.Path
	Original  address.Path // as the sender wrote it, before aliases; the zero value is Recipient
	DSN       envelope.DSN // what the sender wants to hear
	Body      io.ReaderAt  // the message, lines ending in LF or CRLF
	Size      int64        // of Body, in octets
	// Open gives a file whose reading position is the message's first octet, to be closed by who gets it: the standard input of a
	// program. It is used for AsUser alone, by one delivery at a time.
	Open func() (*os.File, error)
}

// Outcome says of a message for which all was done who is to tell the sender of it, where the sender wants to hear of success.
type Outcome string

// The outcomes, but for Forwarded in the words of RFC 3464 2.3.3.
const (
	// Delivered is final delivery: a mailbox, a program or a mailing list has it. The list is an alias with an owner, and gets none of the sender's requests (RFC 3461 5.2.7.1).
	Delivered Outcome = "delivered"
	// Forwarded has gone on, with all requests, to the one address that the recipient stands for. Nothing is to be told here (RFC 3461 5.2.7.2).
	Forwarded Outcome = "forwarded"
	// Expanded has gone on to one or more of several, which do not tell of success, but for the rest as the sender wishes (RFC 3461 5.2.7.3 (c)).
	Expanded Outcome = "expanded"
)

func (m Message) body() *io.SectionReader { return io.NewSectionReader(m.Body, 0, m.Size) }

// logID is the queue id of the message: its ID without the number of the recipient.
func (m Message) logID() string {
	if i := strings.LastIndexByte(m.ID, '.'); i >= 0 {
		return m.ID[:i]
	}
	return m.ID
}

// Deliver delivers to the recipient, as aliases, .forward and mailbox decide. The error has a status; it has been logged.
func (a *Agent) Deliver(ctx context.Context, m Message) (Outcome, error) {
	m.Recipient = a.complete(m.Recipient)
	j, err := a.begin(m)
	if err == nil {
		err = j.checkLoop(m.Recipient)
	}
	if err == nil && !a.isOurs(m.Recipient.Domain) {
		err = status.Permanent(550, "5.7.1", "Mail for this domain is not delivered here", nil)
	}
	if err == nil {
		err = j.expand(ctx)
	}
	if err == nil {
		err = j.run(ctx)
	}
	return j.end(err)
}

// DeliverUser delivers to the user u, as .forward and mailbox decide; aliases are not looked up.
func (a *Agent) DeliverUser(ctx context.Context, u userdb.User, m Message) (Outcome, error) {
	m.Recipient = a.complete(m.Recipient)
	j, err := a.begin(m)
	if err == nil {
		j.targets = []target{{kind: toUser, to: m.Recipient, user: u}}
		err = j.run(ctx)
	}
	return j.end(err)
}

// DeliverTo delivers to one place, Maildir, Mbox, Pipe or Discard, with the rights of the user u where the process is root.
func (a *Agent) DeliverTo(ctx context.Context, u userdb.User, place destination.Destination, m Message) (Outcome, error) {
	m.Recipient = a.complete(m.Recipient)
	j, err := a.begin(m)
	if err == nil {
		j.targets = []target{{kind: toPlace, to: m.Recipient, user: u, place: place}}
		err = j.run(ctx)
	}
	return j.end(err)
}

// Verify says whether there is such a recipient: nil, 550 5.1.1, or a temporary error. Postmaster and abuse always are (RFC 5321 4.5.1,
// RFC 2142).
func (a *Agent) Verify(ctx context.Context, rcpt address.Path) error {
	rcpt = a.complete(rcpt)
	if !a.isOurs(rcpt.Domain) {
		return status.Permanent(550, "5.7.1", "Mail for this domain is not delivered here", nil)
	}
	for _, name := range a.names(rcpt) {
		if list, err := a.Aliases.Lookup(name); err != nil {
			return misconfigured(err)
		} else if len(list.Items) > 0 {
			return nil
		}
	}
	_, err := a.FindUser(ctx, rcpt)
	if !errors.Is(err, userdb.ErrNoUser) {
		return err
	}
	list, err := a.Aliases.Lookup(address.Path{Domain: rcpt.Domain})
	if err != nil {
		return misconfigured(err)
	}
	if len(list.Items) > 0 || isRole(rcpt) {
		return nil
	}
	return unknownUser(rcpt)
}

// Reads reports whether mail for p reaches the user of that login (User.String), by their own name or through aliases, so that it is theirs to send as p too. What an
// alias with an owner sends on is a mailing list's, and does not count.
func (a *Agent) Reads(ctx context.Context, login string, p address.Path) (bool, error) {
	if p.IsNull() || !a.isOurs(p.Domain) {
		return false, nil
	}
	u, err := a.FindUser(ctx, p) // an alias may take the user's mail, but not the name
	if err == nil && u.String() == login {
		return true, nil
	}
	if err != nil && !errors.Is(err, userdb.ErrNoUser) {
		return false, err
	}
	j := &job{a: a, m: Message{Recipient: p}, silent: true}
	err = j.expand(ctx)
	if slices.ContainsFunc(j.targets, func(t target) bool { return t.kind == toUser && t.user.String() == login }) {
		return true, nil
	}
	if errors.Is(err, userdb.ErrNoUser) {
		err = nil
	}
	return false, err
}

// complete gives a name without a domain the first of the agent's.
func (a *Agent) complete(p address.Path) address.Path {
	if p.Domain == "" && len(a.Domains) > 0 {
		p.Domain = a.Domains[0]
	}
	return p
}

func (a *Agent) isOurs(domain string) bool {
	d, err := address.ASCIIDomain(domain)
	return err == nil && slices.Contains(a.Domains, d)
}

func misconfigured(err error) error {
	return status.Temporary(451, "4.3.5", "Local configuration error", err)
}

func unknownUser(p address.Path) error {
	return status.Permanent(550, "5.1.1", "User unknown", fmt.Errorf("%s: %w", p.Angle(), userdb.ErrNoUser))
}

// job is one message on its way to all that its recipient stands for.
type job struct {
	a         *Agent
	m         Message
	delivered []string // values of Delivered-To
	targets   []target
	failed    []error
	single    bool // the recipient stands for one target
	outcome   Outcome
	silent    bool // nothing is delivered, and nothing is logged
}

// begin reads the header as far as the guard against loops needs it.
func (a *Agent) begin(m Message) (*job, error) {
	j := &job{a: a, m: m}
	h, err := message.ReadHeader(bufio.NewReaderSize(m.body(), 4096), message.MaxHeader)
	if err != nil {
		return j, fmt.Errorf("delivery: read message: %w", err)
	}
	for _, f := range h.Fields() {
		if f.Is("Delivered-To") {
			j.delivered = append(j.delivered, f.Value())
		}
	}
	return j, nil
}

// checkLoop says whether the message was delivered to p before.
func (j *job) checkLoop(p address.Path) error {
	for _, d := range j.delivered {
		if strings.EqualFold(d, p.String()) {
			return status.Permanent(554, "5.4.6", "Mail forwarding loop for "+p.String(), nil)
		}
	}
	return nil
}

// end logs what stopped the job as a whole, and gives the outcome.
func (j *job) end(err error) (Outcome, error) {
	if err != nil {
		j.fail(j.m.Recipient, err)
	}
	return j.outcome, worst(j.failed)
}

// logged is an error that is in the log already.
type logged struct{ error }

func (l logged) Unwrap() error { return l.error }

// fail notes and logs that p got nothing.
func (j *job) fail(p address.Path, err error) {
	s := status.Of(err)
	if !j.silent && !errors.As(err, new(logged)) {
		j.a.Log.NotStored(j.m.logID(), p, s)
	}
	j.failed = append(j.failed, s)
}

// worst is the first error that is temporary, else the first.
func worst(errs []error) error {
	if len(errs) == 0 {
		return nil
	}
	if i := slices.IndexFunc(errs, isTemporary); i >= 0 {
		return errs[i]
	}
	return errs[0]
}

func isTemporary(err error) bool { return status.Of(err).Temporary() }
