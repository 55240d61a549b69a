package userdb

import (
	"fmt"
	"syscall"
)

// Become makes this process, which is root, the user u for good: all its threads get the user's id, group and supplementary groups, and
// nothing of root is left. Where it fails half-way the process must touch nothing of the user's and end.
func Become(u User) error {
	if u.UID <= 0 || u.GID < 0 {
		return fmt.Errorf("userdb: user %s has no user and group to become", u)
	}
	if err := syscall.Setgroups(u.Groups); err != nil {
		return fmt.Errorf("userdb: set the groups of user %s: %w", u, err)
	}
	if err := syscall.Setgid(u.GID); err != nil {
		return fmt.Errorf("userdb: set the group of user %s: %w", u, err)
	}
	if err := syscall.Setuid(u.UID); err != nil {
		return fmt.Errorf("userdb: become user %s: %w", u, err)
	}
	if syscall.Geteuid() != u.UID || syscall.Setuid(0) == nil {
		return fmt.Errorf("userdb: still root after becoming user %s", u)
	}
	return nil
}
