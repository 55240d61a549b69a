package delivery

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/postel-mail/postel/internal/address"
	"github.com/postel-mail/postel/internal/alias"
	"github.com/postel-mail/postel/internal/status"
	"github.com/postel-mail/postel/internal/userdb"
)

// user delivers to a user, as this process: what .forward says, else the mailbox.
func (j *job) user(ctx context.Context, t target) (Outcome, error) {
	if err := j.checkLoop(t.to); err != nil {
		return Delivered, err
	}
	if t.final {
		return Delivered, j.store(ctx, t, j.a.Mailbox)
	}
	list, err := j.a.forward(t.user, t.to)
	if err != nil {
		return Delivered, err
	}
	if len(list.Items) == 0 {
		return Delivered, j.store(ctx, t, j.a.Mailbox)
	}
	f := j.forwarding(t)
	if err := f.list(list, 0); err != nil {
		return Delivered, err
	}
	outcome, err := f.end(f.run(ctx))
	if err != nil {
		return outcome, logged{err}
	}
	return outcome, nil
}

// forwarding follows one user's .forward.
type forwarding struct {
	*job
	t     target
	have  map[string]bool
	items int
}

// forwarding begins a job of its own for the user.
func (j *job) forwarding(t target) *forwarding {
	f := &forwarding{job: &job{a: j.a, m: j.m, delivered: j.delivered}, t: t, have: map[string]bool{}}
	f.m.Original, f.m.Recipient, f.m.DSN = j.original(), t.to, j.requests()
	return f
}

func (f *forwarding) add(t target, key string) {
	if !f.have[key] {
		f.have[key] = true
		f.targets = append(f.targets, t)
	}
}

// list follows the items of .forward and of what it includes. The user's own address is the mailbox; any other goes on through
// sendmail, since this process may have no right to it.
func (f *forwarding) list(list alias.List, depth int) error {
	for _, item := range list.Items {
		if f.items++; f.items > maxItems {
			return badForward(fmt.Errorf("%s: .forward stands for more than %d items", f.t.user, maxItems))
		}
		if item.Kind != alias.Address && ownUID(f.t.user) != os.Geteuid() {
			return badForward(fmt.Errorf("%s: %s in .forward needs that user's rights, and this process has none of them", f.t.user, item))
		}
		switch item.Kind {
		case alias.Address:
			p := item.Address
			if p.Domain == "" {
				p.Domain = f.t.to.Domain
			}
			if f.a.isSelf(p, f.t.to, f.t.user) {
				f.add(target{kind: toUser, to: f.t.to, user: f.t.user, final: true}, "self")
			} else {
				f.add(target{kind: toAddress, to: p, sender: f.m.Sender}, "to "+p.Key())
			}
		case alias.Include:
			if err := f.include(item.Path, depth); err != nil {
				return err
			}
		default:
			f.add(target{kind: toPlace, to: f.t.to, user: f.t.user, place: item.Dest, piped: item.Kind == alias.Command}, item.String())
		}
	}
	return nil
}

func (f *forwarding) include(path string, depth int) error {
	if depth == maxDepth {
		return badForward(fmt.Errorf("%s: lists are included more than %d deep", path, maxDepth))
	}
	list, err := alias.ReadList(path)
	if err == nil && list.Owner != 0 && list.Owner != ownUID(f.t.user) {
		err = fmt.Errorf("%s: belongs to user %d, not to %s or root", path, list.Owner, f.t.user)
	}
	if err != nil {
		return badForward(err)
	}
	return f.list(list, depth+1)
}

// isSelf reports whether p is the user whose address is own, with whatever detail.
func (a *Agent) isSelf(p, own address.Path, u userdb.User) bool {
	if !a.isOurs(p.Domain) || u.Domain != "" && p.ASCII().Domain != u.Domain {
		return false
	}
	base, _ := address.Split(p.Local, a.Delimiter)
	return strings.EqualFold(p.Local, own.Local) || strings.EqualFold(p.Local, u.Name) || strings.EqualFold(base, u.Name)
}

// extension is the detail of a user's address, "" where it has none.
func (a *Agent) extension(u userdb.User, p address.Path) string {
	base, detail := address.Split(p.Local, a.Delimiter)
	if strings.EqualFold(p.Local, u.Name) || !strings.EqualFold(base, u.Name) {
		return ""
	}
	return detail
}

// ownUID is the user id that a user's files belong to.
func ownUID(u userdb.User) int {
	if u.UID < 0 {
		return os.Geteuid()
	}
	return u.UID
}

// badForward is a .forward that cannot be followed. Not to follow it could bring mail to where its owner does not want it, so the
// message waits until it is mended.
func badForward(err error) error {
	return status.Temporary(451, "4.7.0", "Forwarding file of this user cannot be used", fmt.Errorf("delivery: %w", err))
}

// forward reads .forward+detail, or .forward where there is none. Without a home the user has neither; a home of one of the host's users
// that is missing may come back. The home must belong to the user or root, and nobody else may write to it.
func (a *Agent) forward(u userdb.User, p address.Path) (alias.List, error) {
	if u.Home == "" {
		return alias.List{}, nil
	}
	dir, err := unix.Open(u.Home, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) && u.UID < 0 {
		return alias.List{}, nil // it is made with the first message
	}
	if err != nil {
		return alias.List{}, status.Temporary(451, "4.3.0", "Home of this user is not available", &os.PathError{Op: "open", Path: u.Home, Err: err})
	}
	defer unix.Close(dir)
	names := []string{".forward"}
	if ext := a.extension(u, p); ext != "" && !strings.ContainsAny(ext, "/\x00") {
		names = []string{".forward" + a.Delimiter + ext, ".forward"}
	}
	for _, name := range names {
		list, err := alias.ReadForward(dir, name, u.Home+"/"+name, ownUID(u))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = checkHome(dir, u)
		}
		if err != nil {
			return alias.List{}, badForward(err)
		}
		return list, nil
	}
	return alias.List{}, nil
}

func checkHome(dir int, u userdb.User) error {
	var st unix.Stat_t
	if err := unix.Fstat(dir, &st); err != nil {
		return &os.PathError{Op: "stat", Path: u.Home, Err: err}
	}
	if st.Uid != 0 && int(st.Uid) != ownUID(u) {
		return fmt.Errorf("%s: belongs to user %d, not to %s or root, and has a .forward", u.Home, st.Uid, u)
	}
	if st.Mode&0o022 != 0 {
		return fmt.Errorf("%s: others can write to it (mode %04o), and it has a .forward", u.Home, st.Mode&0o7777)
	}
	return nil
}
