package logins

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/postel-mail/postel/internal/ledger"
	"github.com/postel-mail/postel/internal/status"
	"github.com/postel-mail/postel/internal/userdb"
)

// program checks the token "good TOKEN", says by its exit status what the token asks for, and keeps what it was given.
const program = `#!/bin/sh
read -r token
{ echo "token=$token"; echo "user=${USER-unset}"; echo "arg=$1"; env; } > "$2"
case $token in
good) echo "${USER:-bob}"; echo "not this" ;;
mapped) echo "  bob  " ;;
stranger) echo stranger ;;
root) echo root ;;
silent) ;;
killed) kill -9 $$ ;;
*) echo "no such token" >&2; exit "$token" ;;
esac
`

func open(t *testing.T) (db *userdb.DB, args []string, saw string) {
	t.Helper()
	dir := t.TempDir()
	write := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	db, err := userdb.Open(write("users", "bob:{PLAIN}secret\nalice@else.example:{PLAIN}x\nroot::0:0\n", 0o600), []string{"own.example"})
	if err != nil {
		t.Fatal(err)
	}
	saw = filepath.Join(dir, "saw")
	return db, []string{write("check", program, 0o700), "a word", saw}, saw
}

// judge says what came of a login: who it is, "refused" for the status 535, "temporary" for all else.
func judge(login string, err error) string {
	switch {
	case err == nil:
		return login
	case status.Of(err).Code == 535:
		return "refused"
	case status.Of(err).Temporary():
		return "temporary"
	}
	return err.Error()
}

func TestToken(t *testing.T) {
	db, args, saw := open(t)
	c := Checks(db, args)
	for _, tt := range []struct{ user, token, want string }{
		{"bob", "good", "bob"},
		{"Bob@own.example", "good", "bob"}, // the table's name for the user
		{"", "good", "bob"},
		{"robert@company.example", "mapped", "bob"},
		{"bob", "stranger", "refused"},
		{"bob", "root", "refused"},
		{"bob", "67", "refused"},
		{"bob", "77", "refused"},
		{"bob", "75", "temporary"},
		{"bob", "1", "temporary"},
		{"bob", "2", "temporary"},
		{"bob", "killed", "temporary"},
		{"bob", "silent", "temporary"},
		{"() { :;}; touch x", "good", "refused"},
		{"$(touch x)`touch y`", "good", "refused"},
	} {
		if got := judge(c.Token(t.Context(), tt.user, tt.token)); got != tt.want {
			t.Errorf("%q with token %q: got %s, want %s", tt.user, tt.token, got, tt.want)
		}
	}
	if got := judge(c.Token(t.Context(), "", "good")); got != "bob" {
		t.Errorf("no user: %s", got)
	}
	b, err := os.ReadFile(saw)
	if text := string(b); err != nil || !strings.HasPrefix(text, "token=good\nuser=unset\narg=a word\n") || strings.Contains(text, "HOME=") {
		t.Errorf("the program saw %q, %v", text, err)
	}
	if Checks(db, nil).Token != nil {
		t.Error("tokens are taken without a program")
	}
	if got := judge(Checks(db, []string{"/nonexistent"}).Token(t.Context(), "bob", "good")); got != "temporary" {
		t.Errorf("no such program: %s", got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if got := judge(c.Token(ctx, "bob", "good")); got != "temporary" {
		t.Errorf("too late: %s", got)
	}
}

// TestLongAnswer: what a program prints without end fills nothing.
func TestLongAnswer(t *testing.T) {
	var l line
	for range 1000 {
		if n, err := l.Write([]byte(strings.Repeat("x", 1000))); n != 1000 || err != nil {
			t.Fatal(n, err)
		}
	}
	if len(l.text) != maxLogin {
		t.Errorf("%d octets are kept, want %d", len(l.text), maxLogin)
	}
}

func TestNames(t *testing.T) {
	db, _, _ := open(t)
	c := Checks(db, nil)
	for _, tt := range []struct {
		user  string
		names []string
		want  string
	}{
		{"", []string{"bob@own.example"}, "bob"},
		{"", []string{"BOB@OWN.example"}, "bob"},
		{"", []string{"nobody@own.example", "alice@else.example", "bob@own.example"}, "alice@else.example"},
		{"bob", []string{"alice@else.example", "bob@own.example"}, "bob"},
		{"bob@own.example", []string{"bob@own.example"}, "bob"},
		{"alice@else.example", []string{"bob@own.example"}, "refused"},
		{"nobody", []string{"bob@own.example"}, "refused"},
		{"", []string{"bob@else.example"}, "refused"},
		{"bob", []string{"bob@else.example"}, "refused"},
		{"", []string{"root@own.example"}, "refused"},
		{"", []string{"bob\n@own.example", "", "../bob@own.example"}, "refused"},
		{"", append(make([]string, maxNames), "bob@own.example"), "refused"},
	} {
		if got := judge(c.Names(t.Context(), tt.user, tt.names)); got != tt.want {
			t.Errorf("%q by %q: got %s, want %s", tt.user, tt.names, got, tt.want)
		}
	}
}

func TestPassword(t *testing.T) {
	db, _, _ := open(t)
	c := Checks(db, nil)
	for _, tt := range []struct{ user, password, want string }{{"bob", "secret", "bob"}, {"bob@own.example", "secret", "bob"}, {"bob", "wrong", "refused"}, {"nobody", "secret", "refused"}} {
		if got := judge(c.Password(t.Context(), tt.user, tt.password)); got != tt.want {
			t.Errorf("%s: got %s, want %s", tt.user, got, tt.want)
		}
	}
	if login, keys, err := c.Scram(t.Context(), "bob@own.example"); login != "bob" || len(keys.StoredKey) != 32 || err != nil || !c.CanScram() {
		t.Errorf("SCRAM: %q, %v, can %v", login, err, c.CanScram())
	}
	if login, keys, err := c.Scram(t.Context(), "nobody"); login != "" || len(keys.StoredKey) != 32 || err != nil {
		t.Errorf("SCRAM for nobody: %q, %v", login, err)
	}
}

// TestSeed: all servers of a ledger have one.
func TestSeed(t *testing.T) {
	var seeds []string
	dir := t.TempDir()
	for _, path := range []string{dir + "/a", dir + "/a", dir + "/b"} {
		l, err := ledger.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		seed, err := Seed(l)
		if err := errors.Join(err, l.Close()); err != nil || len(seed) < 16 {
			t.Fatalf("%q, %v", seed, err)
		}
		seeds = append(seeds, string(seed))
	}
	if seeds[0] != seeds[1] || seeds[0] == seeds[2] {
		t.Errorf("seeds %q", seeds)
	}
}
