package delivery

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/postel-mail/postel/internal/address"
	"github.com/postel-mail/postel/internal/destination"
	"github.com/postel-mail/postel/internal/durable"
	"github.com/postel-mail/postel/internal/envelope"
	"github.com/postel-mail/postel/internal/mailbox"
	"github.com/postel-mail/postel/internal/mailstore"
	"github.com/postel-mail/postel/internal/userdb"
)

// run tries every target, what goes on to other addresses last. Failures are noted; an error stops the job.
func (j *job) run(ctx context.Context) error {
	j.single = len(j.targets) == 1 && len(j.failed) == 0
	j.outcome = Delivered
	forwards := slices.DeleteFunc(slices.Clone(j.targets), func(t target) bool { return t.kind != toAddress })
	here := slices.DeleteFunc(j.targets, func(t target) bool { return t.kind == toAddress })
	for i, t := range here {
		became, err := j.deliver(ctx, t, i == len(here)-1 && len(forwards) == 0)
		if err != nil {
			j.fail(t.to, err)
		}
		j.became(became)
	}
	if slices.ContainsFunc(j.failed, isTemporary) {
		return nil // all of it is tried again, and what was sent on cannot be called back
	}
	return j.sendOn(ctx, forwards)
}

// became takes what became of one target into account.
func (j *job) became(o Outcome) {
	switch {
	case j.single:
		j.outcome = o
	case o != Delivered:
		j.outcome = Expanded
	}
}

// requests are what the sender wants to hear of a target (RFC 3461 5.2.7).
func (j *job) requests() envelope.DSN {
	if j.single {
		return j.m.DSN
	}
	return j.m.DSN.WithoutSuccess()
}

// deliver delivers to a user or a place, with the right user's rights. last says that nothing comes after it.
func (j *job) deliver(ctx context.Context, t target, last bool) (Outcome, error) {
	if uid := os.Geteuid(); uid != 0 && t.listed && t.owner != uid && t.owner != 0 {
		return Delivered, misconfigured(fmt.Errorf("delivery: %s stands in a file of user %d, whose rights this process does not have", t.place, t.owner))
	} else if uid == 0 {
		as := t.user
		if t.listed {
			var err error
			if as, err = listOwner(t.owner); err != nil {
				return Delivered, misconfigured(err)
			}
		}
		if as.UID > 0 && t.kind == toUser {
			if err := j.a.makeSpool(as); err != nil {
				return Delivered, err
			}
		}
		if as.UID > 0 && (!last || j.a.Become == nil) {
			return j.asUser(ctx, t, as)
		}
		if as.UID > 0 {
			if err := j.a.Become(as); err != nil {
				return Delivered, fmt.Errorf("delivery: become user %s: %w", as, err)
			}
		}
	}
	if t.kind == toUser {
		return j.user(ctx, t)
	}
	return Delivered, j.place(ctx, t)
}

// asUser has another process deliver with the rights of as. A "|command" is that process itself.
func (j *job) asUser(ctx context.Context, t target, as userdb.User) (Outcome, error) {
	if t.piped {
		return Delivered, j.pipe(ctx, t, credential(as))
	}
	if j.a.AsUser == nil {
		return Delivered, misconfigured(fmt.Errorf("delivery: this process is root and has no way to deliver as user %s", as))
	}
	m := j.m
	if m.Original.IsNull() {
		m.Original = m.Recipient
	}
	m.Recipient, m.DSN = t.to, j.requests()
	switch {
	case t.final:
		t.place = j.a.Mailbox
	case t.listed && t.place.IsLocal(): // its words are not those of the user whose rights it gets
		path, err := t.place.Expand(j.a.words(t.user, t.to))
		if err != nil {
			return Delivered, misconfigured(err)
		}
		t.place.Path = strings.ReplaceAll(path, "%", "%%")
	}
	return j.a.AsUser(ctx, as, t.place, m)
}

// makeSpool makes the user's mbox where that lies in a directory of the host's, as /var/mail/bob does: the user could not. The user gets no
// right to the directory, which every "|command" would inherit; without it the mbox is locked by fcntl alone.
func (a *Agent) makeSpool(u userdb.User) error {
	words := a.words(u, address.Path{})
	gid, ok := mailstore.SpoolGroup(a.Mailbox, words)
	if !ok {
		return nil
	}
	path, err := a.Mailbox.Expand(words)
	if err != nil {
		return misconfigured(err)
	}
	dir, err := durable.OpenDir(filepath.Dir(path))
	if err != nil {
		return fmt.Errorf("delivery: %w", err)
	}
	defer dir.Close()
	name := filepath.Base(path)
	if there, err := dir.Exists(name); there || err != nil {
		return err
	}
	tmp := fmt.Sprintf(".%s.%d", name, os.Getpid())
	f, err := dir.Create(tmp, 0o600)
	if err != nil {
		return fmt.Errorf("delivery: %w", err)
	}
	defer f.Close()
	if err = errors.Join(f.Chown(u.UID, gid), f.Chmod(0o660)); err == nil {
		err = dir.Rename(tmp, dir, name)
	}
	if err != nil {
		err = errors.Join(err, dir.Remove(tmp))
	}
	if errors.Is(err, fs.ErrExist) { // another delivery was faster
		return nil
	}
	return err
}

// listOwner is who runs the commands and writes the files that stand in a list which user id uid owns: the owner, but for root it
// is nobody.
func listOwner(uid int) (userdb.User, error) {
	var acc *user.User
	var err error
	if uid == 0 {
		acc, err = user.Lookup("nobody")
	} else {
		acc, err = user.LookupId(strconv.Itoa(uid))
	}
	if err != nil {
		return userdb.User{}, fmt.Errorf("delivery: no account for what stands in aliases: %w", err)
	}
	u := userdb.User{Name: acc.Username, Home: acc.HomeDir}
	if u.UID, err = strconv.Atoi(acc.Uid); err == nil {
		u.GID, err = strconv.Atoi(acc.Gid)
	}
	if err == nil && u.UID == 0 {
		err = fmt.Errorf("delivery: user %s is root", u)
	}
	return u, err
}

// place delivers to one place, as this process.
func (j *job) place(ctx context.Context, t target) error {
	switch t.place.Kind {
	case destination.Maildir, destination.Mbox:
		return j.store(ctx, t, t.place)
	case destination.Pipe:
		return j.pipe(ctx, t, nil)
	case destination.Discard:
		j.a.Log.Stored(j.m.logID(), t.to, t.place.String())
		return nil
	}
	return misconfigured(fmt.Errorf("delivery: %s is no place on this host", t.place))
}

// words are what stands for ~ and %-words in a path; those of a place that is nobody's are the address.
func (a *Agent) words(u userdb.User, p address.Path) destination.Words {
	if u.Name == "" {
		p = fold(p)
		return destination.Words{User: p.Local + "@" + p.Domain, Local: p.Local, Domain: p.Domain}
	}
	return mailstore.Words(u, a.Domains)
}

// store puts the message into a mailbox.
func (j *job) store(ctx context.Context, t target, d destination.Destination) error {
	s, err := mailstore.Open(d, j.a.words(t.user, t.to))
	if err != nil {
		return misconfigured(err)
	}
	err = s.Deliver(ctx, mailbox.Delivery{ID: j.m.ID, Arrival: j.m.Arrival, Sender: j.m.Sender.String(), Header: j.header(t.to), Body: j.m.body()})
	if err != nil {
		return err
	}
	j.a.Log.Stored(j.m.logID(), t.to, d.String())
	return nil
}

// header is what final delivery puts in front.
func (j *job) header(to address.Path) string {
	return "Return-Path: " + j.m.Sender.Angle() + "\n" + deliveredTo(to)
}

func deliveredTo(to address.Path) string { return "Delivered-To: " + to.String() + "\n" }

// sendOn hands the message to sendmail for other addresses, as many at once as have the same envelope sender, and the same requests. A list's members get none, since
// what becomes of them is told to its owner.
func (j *job) sendOn(ctx context.Context, targets []target) error {
	const most = 500 // addresses on one command line
	for len(targets) > 0 {
		sender, list := targets[0].sender, targets[0].list
		var dsn envelope.DSN
		if !list {
			dsn = j.requests()
		}
		var now, later []target
		for _, t := range targets {
			if t.sender == sender && t.list == list && len(now) < most {
				now = append(now, t)
			} else {
				later = append(later, t)
			}
		}
		if err := j.sendmail(ctx, sender, dsn, now); err != nil {
			return err
		}
		for _, t := range now {
			j.a.Log.Forwarded(j.m.logID(), j.m.Recipient, t.to)
		}
		if !list {
			j.became(Forwarded)
		}
		targets = later
	}
	return nil
}
