package delivery

import (
	"context"
	"errors"
	"fmt"
	"os/user"
	"strings"

	"github.com/postel-mail/postel/internal/address"
	"github.com/postel-mail/postel/internal/alias"
	"github.com/postel-mail/postel/internal/destination"
	"github.com/postel-mail/postel/internal/status"
	"github.com/postel-mail/postel/internal/userdb"
)

// Limits of one expansion: lists inside lists, and items in all of them.
const (
	maxDepth = 10
	maxItems = 10_000
)

// target is one thing that an address stands for.
type target struct {
	kind   kind
	to     address.Path            // what it is delivered as: Delivered-To; toAddress: where it goes on to
	user   userdb.User             // toUser, toPlace: whose; the zero User for a place in aliases
	listed bool                    // toPlace: it stands in a list of this host
	owner  int                     // user id of that list's owner
	final  bool                    // toUser: the mailbox, whatever .forward says
	place  destination.Destination // toPlace
	piped  bool                    // toPlace: "|command", which gets a From_ line as sendmail and local(8) write one
	sender address.Path            // toAddress: envelope sender
	list   bool                    // toAddress: that is a list's owner
}

type kind int

const (
	toUser kind = iota
	toPlace
	toAddress
)

// expansion follows aliases from one recipient.
type expansion struct {
	*job
	seen  map[address.Path]state // aliases
	have  map[string]bool        // targets
	items int
}

type state int

const (
	open   state = iota + 1 // its items are being followed
	closed                  // they have been
)

// expand finds the targets of the recipient through aliases and the table of users. Names behind an alias that nobody has are noted as
// failed; an error stops the job.
func (j *job) expand(ctx context.Context) error {
	x := &expansion{job: j, seen: map[address.Path]state{}, have: map[string]bool{}}
	return x.address(ctx, j.m.Recipient, 0)
}

func (x *expansion) add(t target, key string) {
	if !x.have[key] {
		x.have[key] = true
		x.targets = append(x.targets, t)
	}
}

// names are the aliases that an address can stand in, most special first; that of its whole domain is not among them.
func (a *Agent) names(p address.Path) []address.Path {
	names := []address.Path{p, {Local: p.Local}}
	if base, detail := address.Split(p.Local, a.Delimiter); detail != "" || base != p.Local {
		names = []address.Path{p, {Local: base, Domain: p.Domain}, {Local: p.Local}, {Local: base}}
	}
	for i := range names {
		names[i] = fold(names[i])
	}
	return names
}

func fold(p address.Path) address.Path {
	p = p.ASCII()
	p.Local = strings.ToLower(p.Local)
	return p
}

// address follows one address: of another host, an alias, a user, all of a domain, a role.
func (x *expansion) address(ctx context.Context, p address.Path, depth int) error {
	if !x.a.isOurs(p.Domain) {
		x.add(target{kind: toAddress, to: p, sender: x.m.Sender}, "to "+p.Key())
		return nil
	}
	loop := false
	for _, name := range x.a.names(p) {
		found, err := x.alias(ctx, name, p, depth)
		if found || err != nil {
			return err
		}
		loop = loop || x.seen[name] == open
	}
	u, err := x.a.FindUser(ctx, p)
	if err == nil {
		x.addUser(u, p, false)
	}
	if !errors.Is(err, userdb.ErrNoUser) {
		return err
	}
	return x.nobody(ctx, p, depth, loop)
}

func (x *expansion) addUser(u userdb.User, p address.Path, final bool) {
	x.add(target{kind: toUser, to: p, user: u, final: final}, "user "+u.String()+" "+strings.ToLower(p.Local))
}

// nobody follows an address that is neither an alias nor a user: the alias of the domain, then the roles that must have a
// mailbox everywhere.
func (x *expansion) nobody(ctx context.Context, p address.Path, depth int, loop bool) error {
	found, err := x.alias(ctx, fold(address.Path{Domain: p.Domain}), p, depth)
	if found || err != nil {
		return err
	}
	if isRole(p) {
		return x.role(ctx, p, depth)
	}
	if loop {
		return misconfigured(fmt.Errorf("%s: alias loop, and there is no such user", p.Angle()))
	}
	if depth == 0 {
		return unknownUser(p)
	}
	x.unknown(p)
	return nil
}

// unknown notes, once, that an alias stands for somebody who is not there.
func (x *expansion) unknown(p address.Path) {
	if key := "unknown " + fold(p).String(); !x.have[key] {
		x.have[key] = true
		x.fail(p, unknownUser(p))
	}
}

// alias follows the alias name, where there is one, on behalf of address p. One that is being followed is no alias for its own items: that
// is how a name can stand among them, and what cuts loops.
func (x *expansion) alias(ctx context.Context, name, p address.Path, depth int) (found bool, err error) {
	switch x.seen[name] {
	case open:
		return false, nil
	case closed:
		return true, nil
	}
	list, err := x.a.Aliases.Lookup(name)
	if err != nil {
		return false, misconfigured(err)
	}
	if len(list.Items) == 0 {
		return false, nil
	}
	if depth == maxDepth {
		return true, misconfigured(fmt.Errorf("%s: aliases stand in aliases more than %d deep", x.m.Recipient.Angle(), maxDepth))
	}
	owner, err := x.owner(name, p)
	if err != nil {
		return true, err
	}
	x.seen[name] = open
	err = x.list(ctx, list, p, owner, depth+1)
	x.seen[name] = closed
	return true, err
}

// owner is the envelope sender of what goes through the alias name: owner-name, where there is that alias too; else null.
func (x *expansion) owner(name, p address.Path) (address.Path, error) {
	if name.Local == "" || strings.HasPrefix(name.Local, "owner-") {
		return address.Path{}, nil
	}
	owner := address.Path{Local: "owner-" + name.Local, Domain: p.Domain}
	for _, n := range []address.Path{fold(owner), {Local: owner.Local}} {
		list, err := x.a.Aliases.Lookup(n)
		if err != nil {
			return address.Path{}, misconfigured(err)
		}
		if len(list.Items) > 0 {
			return owner, nil
		}
	}
	return address.Path{}, nil
}

// list follows the items of an alias or of an included file. Where the alias has an owner, all addresses, those of this host too, are
// sent on in the owner's name, so that what becomes of them is told to the owner and not to who wrote to the alias.
func (x *expansion) list(ctx context.Context, list alias.List, p, owner address.Path, depth int) error {
	for _, item := range list.Items {
		if x.items++; x.items > maxItems {
			return misconfigured(fmt.Errorf("%s: aliases stand for more than %d items", x.m.Recipient.Angle(), maxItems))
		}
		var err error
		switch item.Kind {
		case alias.Address:
			err = x.item(ctx, item, owner, depth)
		case alias.Include:
			err = x.include(ctx, item.Path, p, owner, depth)
		default:
			x.add(target{kind: toPlace, to: p, listed: true, owner: list.Owner, place: item.Dest, piped: item.Kind == alias.Command}, item.String())
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (x *expansion) item(ctx context.Context, item alias.Item, owner address.Path, depth int) error {
	p := item.Address
	if p.Domain == "" {
		p.Domain = x.m.Recipient.Domain
	}
	if !owner.IsNull() {
		x.add(target{kind: toAddress, to: p, sender: owner, list: true}, "to "+p.Key()+" from "+owner.Key())
		return nil
	}
	if !item.Final || !x.a.isOurs(p.Domain) {
		return x.address(ctx, p, depth)
	}
	u, err := x.a.FindUser(ctx, p)
	switch {
	case err == nil:
		x.addUser(u, p, true)
	case errors.Is(err, userdb.ErrNoUser):
		x.unknown(p)
	default:
		return err
	}
	return nil
}

func (x *expansion) include(ctx context.Context, path string, p, owner address.Path, depth int) error {
	if depth == maxDepth {
		return misconfigured(fmt.Errorf("%s: lists are included more than %d deep", path, maxDepth))
	}
	list, err := alias.ReadList(path)
	if err != nil {
		return misconfigured(err)
	}
	return x.list(ctx, list, p, owner, depth+1)
}

// FindUser finds the user of an address of ours, by the whole local part, then without its detail. ErrNoUser when there is none.
func (a *Agent) FindUser(ctx context.Context, p address.Path) (userdb.User, error) {
	u, err := a.Users.Lookup(ctx, p.Local+"@"+p.Domain)
	if base, _ := address.Split(p.Local, a.Delimiter); errors.Is(err, userdb.ErrNoUser) && base != p.Local {
		u, err = a.Users.Lookup(ctx, base+"@"+p.Domain)
	}
	if err != nil && !errors.Is(err, userdb.ErrNoUser) {
		return u, status.Temporary(451, "4.3.0", "User table is not available", err)
	}
	return u, err
}

// isRole reports whether an address must reach somebody on every host.
func isRole(p address.Path) bool {
	return strings.EqualFold(p.Local, "postmaster") || strings.EqualFold(p.Local, "abuse")
}

// role finds who reads postmaster's mail where neither alias nor user says so: for abuse, postmaster; then root, alias or user; then the account that
// this process runs as.
func (x *expansion) role(ctx context.Context, p address.Path, depth int) error {
	names := []string{"root"}
	if strings.EqualFold(p.Local, "abuse") {
		names = []string{"postmaster", "root"}
	}
	for _, name := range names {
		q := address.Path{Local: name, Domain: p.Domain}
		for _, n := range x.a.names(q) {
			if found, err := x.alias(ctx, n, q, depth); found || err != nil {
				return err
			}
		}
		u, err := x.a.FindUser(ctx, q)
		if err == nil {
			x.addUser(u, p, false)
		}
		if !errors.Is(err, userdb.ErrNoUser) {
			return err
		}
	}
	self, err := user.Current()
	if err != nil {
		return misconfigured(fmt.Errorf("nobody reads mail for %s: neither alias nor user postmaster or root, and %w", p.Angle(), err))
	}
	x.addUser(userdb.User{Name: "postmaster", UID: -1, GID: -1, Home: self.HomeDir}, p, true)
	return nil
}
