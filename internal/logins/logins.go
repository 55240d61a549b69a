// Package logins joins the table of users, and the program that checks tokens, to package sasl: what a server of this host needs to let its users log in.
//
// An error with the status 535 says that somebody is not who they say; any other is temporary. The superuser cannot log in.
package logins

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/postel-mail/postel/internal/command"
	"github.com/postel-mail/postel/internal/ledger"
	"github.com/postel-mail/postel/internal/password"
	"github.com/postel-mail/postel/internal/sasl"
	"github.com/postel-mail/postel/internal/status"
	"github.com/postel-mail/postel/internal/userdb"
)

// Checks are those of a table of users. tokenCheck is the program that checks tokens and its arguments; without one no token is taken.
func Checks(users *userdb.DB, tokenCheck []string) *sasl.Checks {
	u := table{users}
	c := &sasl.Checks{Password: u.password, Scram: u.scram, CanScram: users.CanScram, Names: u.names}
	if len(tokenCheck) > 0 {
		c.Token = (&tokens{table: u, args: tokenCheck, running: make(chan struct{}, maxPrograms)}).check
	}
	return c
}

// Seed gives what the salts of SCRAM are made from, for userdb.DB.Seed: the same for all servers that share the ledger. It is made when it is missing.
func Seed(l *ledger.Ledger) ([]byte, error) {
	var seed string
	err := l.Update("scram seed", func(old string) (string, time.Duration) {
		if seed = old; seed == "" {
			seed = rand.Text()
		}
		return seed, 10 * 365 * 24 * time.Hour
	})
	return []byte(seed), err
}

func refused(err error) error {
	return status.Permanent(535, "5.7.8", "Authentication credentials invalid", err)
}

type table struct{ *userdb.DB }

func (t table) password(ctx context.Context, user, password string) (string, error) {
	u, err := t.Authenticate(ctx, user, password)
	if errors.Is(err, userdb.ErrBadCredentials) {
		return "", refused(err)
	}
	return u.String(), err
}

func (t table) scram(ctx context.Context, user string) (string, password.Scram, error) {
	u, keys, err := t.Scram(ctx, user)
	return u.String(), keys, err
}

// maxNames bounds the names of a certificate that are looked up.
const maxNames = 20

// names finds the user whom a certificate names, or the one among them that it wants to be.
func (t table) names(ctx context.Context, user string, names []string) (string, error) {
	for _, name := range names[:min(len(names), maxNames)] {
		login, err := t.account(ctx, name)
		if errors.Is(err, userdb.ErrNoUser) {
			continue
		}
		if err != nil || user == "" {
			return login, err
		}
		wanted, err := t.account(ctx, user)
		switch {
		case errors.Is(err, userdb.ErrNoUser):
			return "", refused(err)
		case err != nil || wanted == login:
			return login, err
		}
	}
	if user != "" {
		return "", refused(fmt.Errorf("the certificate of %s is not one of this user", strings.Join(names, ", ")))
	}
	return "", refused(fmt.Errorf("the certificate of %s is of no user", strings.Join(names, ", ")))
}

// account gives the login of a user who has proved in another way than by a password who they are.
func (t table) account(ctx context.Context, name string) (string, error) {
	u, err := t.Lookup(ctx, name)
	if err == nil && u.UID == 0 {
		return "", fmt.Errorf("%w: the superuser cannot log in", userdb.ErrNoUser)
	}
	return u.String(), err
}

const (
	maxPrograms = 20               // that check tokens, at once
	tokenTime   = 20 * time.Second // for each
	maxLogin    = 1 << 10          // octets of what it prints
)

// tokens checks tokens by a program. It has the token and a line end as its standard input, USER in its environment, where the client says who it is, and
// prints the login.
type tokens struct {
	table
	args    []string
	running chan struct{}
}

func (t *tokens) check(ctx context.Context, user, token string) (string, error) {
	select {
	case t.running <- struct{}{}:
		defer func() { <-t.running }()
	case <-ctx.Done():
		return "", ctx.Err()
	}
	env := []string{"PATH=/usr/local/bin:/usr/bin:/bin"}
	switch {
	case strings.HasPrefix(user, "()"): // which an old shell would run
		return "", refused(userdb.ErrNoUser)
	case user != "":
		env = append(env, "USER="+user)
	}
	stdin, w, err := os.Pipe()
	if err != nil {
		return "", fmt.Errorf("logins: %w", err)
	}
	defer stdin.Close()
	_, err = w.WriteString(token + "\n") // which an empty pipe holds
	if err = errors.Join(err, w.Close()); err != nil {
		return "", fmt.Errorf("logins: %w", err)
	}
	var out line
	s := command.Run(ctx, command.Spec{Args: t.args, Env: env, Stdin: stdin, Stdout: &out, Limit: tokenTime})
	login := strings.TrimSpace(string(out.text))
	switch {
	case s != nil && s.Temporary():
		return "", fmt.Errorf("logins: token check: %w", s)
	case s != nil:
		return "", refused(fmt.Errorf("token check: %w", s))
	case login == "":
		return "", fmt.Errorf("logins: token check %s: it printed no login", t.args[0])
	}
	name, err := t.account(ctx, login)
	if errors.Is(err, userdb.ErrNoUser) {
		return "", refused(fmt.Errorf("token check: %w: %.100q", err, login))
	}
	return name, err
}

// line keeps the first line that is written, up to maxLogin.
type line struct {
	text  []byte
	ended bool
}

func (l *line) Write(p []byte) (int, error) {
	if !l.ended {
		text, _, ended := bytes.Cut(p, []byte("\n"))
		l.ended = ended
		l.text = append(l.text, text[:min(len(text), maxLogin-len(l.text))]...)
	}
	return len(p), nil
}
