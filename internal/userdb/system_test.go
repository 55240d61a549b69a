package userdb

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/postel-mail/postel/internal/clock"
)

const (
	sysHash   = "$5$saltsalt$0IyaXrmV7.sGNS6tirgqHLqX/G.FBvgkYA.lpPdS5sA" // "secret"
	sysPasswd = `root:x:0:0:root:/root:/bin/bash
# comment
+::::::
alice:x:1001:1001:Alice,,,:/home/alice:/bin/bash
mail:x:1002:8::/var/mail:/usr/sbin/nologin
late:x:1003:1003::/home/late:/bin/sh
gone:x:1004:1004::/home/gone:/bin/sh
star:x:1005:1005::/home/star:/bin/sh
bang:x:1006:1006::/home/bang:/bin/sh
empty:x:1007:1007::/home/empty:/bin/sh
des:x:1008:1008::/home/des:/bin/sh
noshadow:x:1009:1009::/home/noshadow:/bin/sh
pc$:x:1010:1010::/nonexistent:/bin/false
broken:x:no:1:::
stale:x:1011:1011::/home/stale:/bin/sh
alice:x:0:0:second:/root:/bin/sh
`
	sysGroup = `root:x:0:
staff:x:50:alice,late
alice:x:1001:alice
mail:x:8:alice
broken:x:z:alice
`
)

func sysShadow() string {
	return strings.ReplaceAll(`root:HASH:19000:0:99999:7:::
alice:HASH:19000:0:99999:7:::
mail:HASH:19000:0:99999:7:::
late:HASH:19000:0:99999:7::19999:
gone:HASH:19000:0:99999:7::20000:
star:*:19000:0:99999:7:::
bang:!HASH:19000:0:99999:7:::
empty::19000:0:99999:7:::
des:ab1Hs.q5JmZ9k:19000:0:99999:7:::
plain:{PLAIN}secret:19000:0:99999:7:::
stale:HASH:19000:0:90:7:14::
broken line
`, "HASH", sysHash)
}

func TestCheckPasswords(t *testing.T) {
	db, dir := openTestSystem(t)
	if err := db.CheckPasswords(); err != nil {
		t.Error(err)
	}
	if err := os.Remove(filepath.Join(dir, "shadow")); err != nil {
		t.Fatal(err)
	}
	if err := db.CheckPasswords(); err == nil || !strings.Contains(err.Error(), "shadow") {
		t.Errorf("without shadow: %v", err)
	}
	if err := (&DB{source: &passwdFile{}}).CheckPasswords(); err != nil {
		t.Errorf("a file: %v", err)
	}
}

func openTestSystem(t *testing.T) (*DB, string) {
	t.Helper()
	etc := t.TempDir()
	write(t, filepath.Join(etc, "passwd"), sysPasswd)
	write(t, filepath.Join(etc, "group"), sysGroup)
	write(t, filepath.Join(etc, "shadow"), sysShadow())
	db, err := Open("system", []string{"example.org"})
	if err != nil {
		t.Fatal(err)
	}
	if db.source, err = openSystem(db, etc); err != nil {
		t.Fatal(err)
	}
	return db, etc
}

func TestSystemLookup(t *testing.T) {
	db, _ := openTestSystem(t)
	alice := User{Name: "alice", UID: 1001, GID: 1001, Groups: []int{50, 8}, Home: "/home/alice", Shell: "/bin/bash"}
	for _, c := range []struct {
		in   string
		want User
	}{
		{"alice", alice}, {"Alice@Example.org", alice}, {"alice@example.net", User{}}, {"nobody", User{}}, {"+", User{}}, {"pc$", User{}}, {"broken", User{}},
		{"root", User{Name: "root", Home: "/root", Shell: "/bin/bash"}},
	} {
		got, err := db.Lookup(context.Background(), c.in)
		if c.want.Name == "" {
			if err != ErrNoUser {
				t.Errorf("Lookup(%q): got %v, %v, want ErrNoUser", c.in, got, err)
			}
		} else if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("Lookup(%q): got %+v, %v, want %+v", c.in, got, err, c.want)
		}
	}
}

func TestSystemAuthenticate(t *testing.T) {
	db, etc := openTestSystem(t)
	day := time.Unix(19999*86400, 0)
	clock.Set(func() time.Time { return day })
	defer clock.Set(nil)
	check := func(name, password string, want bool) {
		t.Helper()
		u, err := db.Authenticate(context.Background(), name, password)
		if want && (err != nil || u.Name != name) || !want && !errors.Is(err, ErrBadCredentials) {
			t.Errorf("Authenticate(%q, %q): got %v, %v, want %v", name, password, u, err, want)
		}
	}
	check("alice", "secret", true)
	check("mail", "secret", true)
	check("gone", "secret", true)
	for _, name := range []string{"root", "late", "star", "bang", "empty", "des", "noshadow", "plain", "nobody", "stale", ""} {
		check(name, "secret", false)
	}
	check("alice", "wrong", false)
	check("empty", "", false)
	day = day.Add(24 * time.Hour)
	check("gone", "secret", false)
	check("alice", "secret", true)

	write(t, filepath.Join(etc, "shadow"), "alice:*:19000:0:99999:7:::\n")
	if err := db.Reload(); err != nil {
		t.Fatal(err)
	}
	check("alice", "secret", false)
}

// A server that may not read shadow(5) says so, and refuses nobody for good.
func TestShadowUnreadable(t *testing.T) {
	db, etc := openTestSystem(t)
	if err := os.Remove(filepath.Join(etc, "shadow")); err != nil {
		t.Fatal(err)
	}
	_, err := db.Authenticate(context.Background(), "alice", "secret")
	if err == nil || errors.Is(err, ErrBadCredentials) || !strings.Contains(err.Error(), "shadow") {
		t.Errorf("got %v, want a temporary error that names the file", err)
	}
	if _, err := db.Lookup(context.Background(), "alice"); err != nil {
		t.Errorf("Lookup: %v", err)
	}
}

func TestHostUsers(t *testing.T) {
	db, err := Open("system", nil)
	if err != nil {
		t.Fatal(err)
	}
	if u, err := db.Lookup(context.Background(), "root"); err != nil || u.UID != 0 || u.Home == "" {
		t.Errorf("Lookup(root): got %+v, %v", u, err)
	}
}

// program writes a checkpassword program.
func program(t testing.TB, text string) *DB {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "check")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text), 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "passwd"), sysPasswd)
	write(t, filepath.Join(dir, "group"), sysGroup)
	db, err := Open("checkpassword:"+path, []string{"example.org"})
	if err != nil {
		t.Fatal(err)
	}
	if db.source, err = openCheckpassword(db, path, dir); err != nil {
		t.Fatal(err)
	}
	return db
}

const goodProgram = `
input=$(tr '\0' '|' <&3)
case $input in
'alice|se cret|'*'|') export USER=alice HOME=/home/elsewhere SHELL=/bin/zsh; exec "$@" ;;
'bob@example.net|x|'*) export USER=bob@example.net HOME=/srv/bob SHELL=; exec "$@" ;;
'evil|'*) export USER=../x HOME=/; exec "$@" ;;
'nohome|'*) export USER=alice HOME=; exec "$@" ;;
'temp|'*) exit 111 ;;
'misused|'*) exit 2 ;;
'killed|'*) kill -9 $$ ;;
'much|'*) exec yes x ;;
esac
exit 1
`

func TestCheckpassword(t *testing.T) {
	db := program(t, goodProgram)
	ctx := context.Background()
	u, err := db.Authenticate(ctx, "alice", "se cret")
	want := User{Name: "alice", UID: 1001, GID: 1001, Groups: []int{50, 8}, Home: "/home/elsewhere", Shell: "/bin/zsh"}
	if err != nil || !reflect.DeepEqual(u, want) {
		t.Errorf("alice: got %+v, %v, want %+v", u, err, want)
	}
	u, err = db.Authenticate(ctx, "bob@example.net", "x")
	want = User{Name: "bob", Domain: "example.net", UID: -1, GID: -1, Home: "/srv/bob"}
	if err != nil || !reflect.DeepEqual(u, want) {
		t.Errorf("bob: got %+v, %v, want %+v", u, err, want)
	}
	for _, c := range []struct {
		name, password string
		bad            bool
	}{
		{"alice", "wrong", true}, {"alice", "", true}, {"alice", strings.Repeat("x", 510), true}, {"a\x00b", "x", true}, {"alice", "se cret\x00", true},
		{"evil", "x", false}, {"nohome", "x", false}, {"temp", "x", false}, {"misused", "x", false}, {"killed", "x", false}, {"much", "x", false},
	} {
		u, err := db.Authenticate(ctx, c.name, c.password)
		if err == nil || errors.Is(err, ErrBadCredentials) != c.bad || u.Name != "" {
			t.Errorf("Authenticate(%q): got %v, %v, want bad credentials %v", c.name, u, err, c.bad)
		}
	}
	if u, err := db.Lookup(ctx, "alice"); err != nil || u.Home != "/home/alice" {
		t.Errorf("Lookup(alice): got %+v, %v", u, err)
	}
}

func TestCheckpasswordGivesUp(t *testing.T) {
	db := program(t, "exec sleep 1000")
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if _, err := db.Authenticate(ctx, "alice", "x"); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrBadCredentials) {
		t.Errorf("got %v, want context.DeadlineExceeded", err)
	}
}

// FuzzSystemTables: no passwd, group or shadow file does harm, and what is accepted has names.
func FuzzSystemTables(f *testing.F) {
	f.Add("alice:x:1000:1000:Alice:/home/alice:/bin/sh\nstaff:x:50:alice\nalice:$6$x$y:19000:0:99999:7:::\n")
	f.Fuzz(func(t *testing.T, text string) {
		if users, err := parseSystemPasswd(strings.NewReader(text), "passwd"); err == nil {
			for name := range users {
				if name == "" || strings.ContainsAny(name, ":\n") {
					t.Fatalf("%q has user %q", text, name)
				}
			}
		}
		_, _ = parseGroup(strings.NewReader(text), "group")
		_, _ = parseShadow(strings.NewReader(text), "shadow")
	})
}

// FuzzCheckpassword: whatever a program says, an account that comes of it has a good name and an absolute home.
func FuzzCheckpassword(f *testing.F) {
	f.Add("USER=bob\x00HOME=/home/bob\x00SHELL=/bin/sh\x00UID=0\x00")
	f.Add("USER=bob@example.org\x00HOME=/x\x00USER=root\x00")
	f.Add("USER=\nroot\x00HOME=x")
	c := program(f, "exit 1").source.(*checkpassword)
	f.Fuzz(func(t *testing.T, environ string) {
		u, err := c.user(t.Context(), []byte(environ))
		if err == nil && (u.Name == "" || !strings.HasPrefix(u.Home, "/") || strings.ContainsAny(u.Name, "/\n\x00: ") || u.UID == 0 && u.Name != "root") {
			t.Errorf("%q gives %+v", environ, u)
		}
	})
}
