package userdb

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/postel-mail/postel/internal/clock"
	"github.com/postel-mail/postel/internal/password"
)

// system is a source: the host's own users.
type system struct {
	db     *DB
	passwd file[map[string]User]
	group  file[map[string][]int]
	shadow file[*shadow]
}

// openSystem reads passwd(5) and group(5) below etc. shadow(5) is read at the first login, because most servers may not and need not.
func openSystem(db *DB, etc string) (*system, error) {
	s := &system{
		db:     db,
		passwd: file[map[string]User]{path: etc + "/passwd", parse: parseSystemPasswd, problem: db.problem},
		group:  file[map[string][]int]{path: etc + "/group", parse: parseGroup, problem: db.problem},
		shadow: file[*shadow]{path: etc + "/shadow", parse: parseShadow, problem: db.problem},
	}
	return s, s.reload()
}

func (s *system) reload() error {
	if err := s.passwd.reload(); err != nil {
		return err
	}
	if err := s.group.reload(); err != nil {
		return err
	}
	return s.shadow.reloadIfRead()
}

func (s *system) lookup(_ context.Context, n name) (User, error) {
	users, err := s.passwd.get()
	if err != nil {
		return User{}, err
	}
	u, ok := users[n.local]
	if !ok {
		u, ok = users[strings.ToLower(n.local)]
	}
	if !ok || !n.bare {
		return User{}, ErrNoUser
	}
	groups, err := s.group.get()
	if err != nil {
		return User{}, err
	}
	for _, gid := range groups[u.Name] {
		if gid != u.GID {
			u.Groups = append(u.Groups, gid)
		}
	}
	return u, nil
}

// authenticate checks the password in shadow(5). A shell of nologin is no obstacle: it is how an account for mail alone is made.
func (s *system) authenticate(ctx context.Context, n name, password string) (User, error) {
	u, err := s.lookup(ctx, n)
	if err != nil && err != ErrNoUser {
		return User{}, err
	}
	t, err := s.shadow.get()
	if err != nil {
		return User{}, err
	}
	e := t.users[u.Name] // "" is nobody's name
	if err := s.db.verify(ctx, e.secret, t.decoy, password); err != nil {
		if e.unknown {
			return User{}, fmt.Errorf("%w: %s: the hash of %s is of a kind that is not known here", ErrBadCredentials, s.shadow.path, u.Name)
		}
		return User{}, err
	}
	if e.expired(clock.Now()) {
		return User{}, fmt.Errorf("%w: the account or its password has expired", ErrBadCredentials)
	}
	return u, nil
}

// parseSystemPasswd reads passwd(5). The system owns the file: lines that are no user's (those of NIS) and names that no mail can
// have are passed over.
func parseSystemPasswd(r io.Reader, path string) (map[string]User, error) {
	users := map[string]User{}
	err := eachLine(r, path, func(_ int, line string) error {
		f := strings.Split(line, ":")
		if len(f) != 7 || !validLocal(f[0]) {
			return nil
		}
		uid, err1 := parseID(f[2])
		gid, err2 := parseID(f[3])
		if _, twice := users[f[0]]; err1 != nil || err2 != nil || uid < 0 || gid < 0 || twice {
			return nil
		}
		u := User{Name: f[0], UID: uid, GID: gid, Shell: f[6]}
		if strings.HasPrefix(f[5], "/") {
			u.Home = f[5]
		}
		users[u.Name] = u
		return nil
	})
	return users, err
}

// maxGroups bounds the supplementary groups of one user, as the kernel does (NGROUPS_MAX).
const maxGroups = 65536

// parseGroup reads group(5) into the groups of each member.
func parseGroup(r io.Reader, path string) (map[string][]int, error) {
	groups := map[string][]int{}
	err := eachLine(r, path, func(_ int, line string) error {
		f := strings.Split(line, ":")
		if len(f) != 4 {
			return nil
		}
		gid, err := parseID(f[2])
		if err != nil || gid < 0 {
			return nil
		}
		for member := range strings.SplitSeq(f[3], ",") {
			if member != "" && len(groups[member]) < maxGroups {
				groups[member] = append(groups[member], gid)
			}
		}
		return nil
	})
	return groups, err
}

// shadow is shadow(5) in memory.
type shadow struct {
	users map[string]shadowEntry
	decoy password.Secret
}

type shadowEntry struct {
	secret  password.Secret // nil: locked, without a password, or unknown
	unknown bool            // a hash of a kind that is not known here
	expires int             // first day since 1970 on which the account is closed; 0 never
}

func (e shadowEntry) expired(now time.Time) bool {
	return e.expires > 0 && now.Unix()/86400 >= int64(e.expires)
}

func parseShadow(r io.Reader, path string) (*shadow, error) {
	t := &shadow{users: map[string]shadowEntry{}}
	var secrets []password.Secret
	err := eachLine(r, path, func(_ int, line string) error {
		f := strings.Split(line, ":")
		if len(f) != 9 || f[0] == "" {
			return nil
		}
		e := shadowEntry{expires: shadowExpiry(f)}
		if !strings.HasPrefix(f[1], "{") { // no schemes here
			var err error
			e.secret, err = password.Parse(f[1])
			e.unknown = err != nil
		}
		if e.secret != nil {
			secrets = append(secrets, e.secret)
		}
		t.users[f[0]] = e
		return nil
	})
	if err != nil {
		return nil, err
	}
	t.decoy = password.Decoy(secrets)
	return t, nil
}

// shadowExpiry is the first day since 1970 on which an account is closed, by its expiry date, or because its password was not changed
// in time and the days of grace behind that are over; 0 never.
func shadowExpiry(f []string) int {
	day := func(s string) int {
		n, err := strconv.Atoi(s)
		if err != nil || n < 0 || n > 1<<30 {
			return -1
		}
		return n
	}
	changed, longest, grace, expire := day(f[2]), day(f[4]), day(f[6]), day(f[7])
	if changed > 0 && longest >= 0 && longest < 10000 && grace >= 0 {
		if end := changed + longest + grace + 1; expire <= 0 || end < expire {
			return end
		}
	}
	return max(expire, 0)
}
