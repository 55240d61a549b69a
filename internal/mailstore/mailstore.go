// Package mailstore turns a destination into the Store that it names, for the programs that put mail in and those that give it out: both
// must mean the same file.
package mailstore

import (
	"fmt"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/postel-mail/postel/internal/destination"
	"github.com/postel-mail/postel/internal/mailbox"
	"github.com/postel-mail/postel/internal/maildir"
	"github.com/postel-mail/postel/internal/mbox"
	"github.com/postel-mail/postel/internal/userdb"
)

// Open gives the store that d, a maildir: or mbox: destination, names for a user with these words. Nothing is touched yet.
func Open(d destination.Destination, w destination.Words) (mailbox.Store, error) {
	path, err := d.Expand(w)
	if err != nil {
		return nil, err
	}
	switch path = filepath.Clean(path); d.Kind {
	case destination.Maildir:
		return maildir.New(path), nil
	case destination.Mbox:
		return mbox.New(path), nil
	}
	return nil, fmt.Errorf("destination %q is not a mailbox", d)
}

// Words are what stands in the path for a user: a user who is listed without a domain has the first of domains.
func Words(u userdb.User, domains []string) destination.Words {
	w := destination.Words{User: u.String(), Local: u.Name, Domain: u.Domain, Home: u.Home}
	if w.Domain == "" && len(domains) > 0 {
		w.Domain = domains[0]
	}
	return w
}

// SpoolGroup is the group that a process of the user's needs besides its own to make lock files and new files beside an mbox as
// /var/mail/alice: that of the directory, where the directory is root's and its group may write to it. ok is false where there is none.
// A path below ~ has none, since the user could have any directory stand there.
func SpoolGroup(d destination.Destination, w destination.Words) (gid int, ok bool) {
	if d.Kind != destination.Mbox || strings.HasPrefix(d.Path, "~") {
		return 0, false
	}
	path, err := d.Expand(w)
	if err != nil {
		return 0, false
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Dir(filepath.Clean(path)), &st); err != nil || st.Uid != 0 || st.Gid == 0 || st.Mode&0o020 == 0 {
		return 0, false
	}
	return int(st.Gid), true
}
