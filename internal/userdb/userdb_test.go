package userdb

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/postel-mail/postel/internal/clock"
)

// write puts a table on disk, as old as the settling time asks.
func write(t testing.TB, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	old := clock.Now().Add(-time.Hour)
	if err := os.Chtimes(path, old, old); err != nil {
		t.Fatal(err)
	}
}

// passed turns the clock forward by d for the rest of the test.
func passed(t *testing.T, d time.Duration) {
	base := clock.Now().Add(d)
	clock.Set(func() time.Time { return base })
	t.Cleanup(func() { clock.Set(nil) })
}

const passwdText = `# comment
alice:{PLAIN}wonder:1001:1002:Alice:/home/alice:/bin/sh:userdb_quota=1:2
bob@example.net:{PLAIN}builder::::/srv/bob::
Carol:{PLAIN}sings
dave@EXAMPLE.org:{PLAIN}own
dave:{PLAIN}bare
locked:!{PLAIN}x:1:1::/
nopass::1:1::/
müller:{PLAIN}weiß
`

func openPasswd(t *testing.T) (*DB, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "users")
	write(t, path, passwdText)
	db, err := Open(path, []string{"example.org", "bücher.example"})
	if err != nil {
		t.Fatal(err)
	}
	return db, path
}

func TestPasswdFileLookup(t *testing.T) {
	db, _ := openPasswd(t)
	alice := User{Name: "alice", UID: 1001, GID: 1002, Home: "/home/alice", Shell: "/bin/sh"}
	for _, c := range []struct {
		in   string
		want User // zero: ErrNoUser
	}{
		{"alice", alice}, {"ALICE", alice}, {"alice@example.org", alice}, {"Alice@Example.ORG", alice},
		{"alice@xn--bcher-kva.example", alice}, {"alice@bücher.example", alice}, {"alice@example.org.", alice},
		{"alice@example.net", User{}}, {"bob", User{}}, {"bob@example.org", User{}},
		{"bob@example.net", User{Name: "bob", Domain: "example.net", UID: -1, GID: -1, Home: "/srv/bob"}},
		{"BOB@EXAMPLE.NET", User{Name: "bob", Domain: "example.net", UID: -1, GID: -1, Home: "/srv/bob"}},
		{"Carol", User{Name: "Carol", UID: -1, GID: -1}}, {"carol", User{}},
		{"dave@example.org", User{Name: "dave", Domain: "example.org", UID: -1, GID: -1}},
		{"dave", User{Name: "dave", UID: -1, GID: -1}},
		{"müller", User{Name: "müller", UID: -1, GID: -1}},
		{"locked", User{Name: "locked", UID: 1, GID: 1, Home: "/"}},
		{"", User{}}, {"@example.org", User{}}, {"alice@", User{}}, {"alice@@example.org", User{}}, {"# comment", User{}},
		{"alice:{PLAIN}wonder", User{}}, {"alice\n", User{}}, {"ali\x00ce", User{}}, {"../alice", User{}}, {"-alice", User{}},
		{".", User{}}, {"..", User{}}, {"alice@example.org\r\nx", User{}}, {"al\xffice", User{}}, {strings.Repeat("a", 256), User{}},
		{"al ice", User{}}, {"alice%00", User{}}, {"$alice", User{}}, {"(alice)", User{}}, {"*", User{}},
	} {
		got, err := db.Lookup(context.Background(), c.in)
		if reflect.DeepEqual(c.want, User{}) {
			if err != ErrNoUser {
				t.Errorf("Lookup(%q): got %v, %v, want ErrNoUser", c.in, got, err)
			}
		} else if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("Lookup(%q): got %+v, %v, want %+v", c.in, got, err, c.want)
		}
	}
}

func TestPasswdFileAuthenticate(t *testing.T) {
	db, _ := openPasswd(t)
	for _, c := range []struct {
		name, password, want string // want: User.String, "" for ErrBadCredentials
	}{
		{"alice", "wonder", "alice"}, {"alice@example.org", "wonder", "alice"}, {"bob@example.net", "builder", "bob@example.net"},
		{"dave", "bare", "dave"}, {"dave@example.org", "own", "dave@example.org"}, {"müller", "weiß", "müller"},
		{"alice", "Wonder", ""}, {"alice", "", ""}, {"bob", "builder", ""}, {"alice@example.net", "wonder", ""}, {"nobody", "wonder", ""},
		{"dave", "own", ""}, {"locked", "x", ""}, {"locked", "{PLAIN}x", ""}, {"nopass", "", ""}, {"nopass", "x", ""},
		{"alice", "wonder\x00", ""}, {"alice", strings.Repeat("w", 1000), ""}, {"", "", ""}, {"alice:", "wonder", ""},
	} {
		u, err := db.Authenticate(context.Background(), c.name, c.password)
		if c.want == "" {
			if !errors.Is(err, ErrBadCredentials) || errors.Is(err, ErrNoUser) || !reflect.DeepEqual(u, User{}) {
				t.Errorf("Authenticate(%q, %q): got %+v, %v, want only ErrBadCredentials", c.name, c.password, u, err)
			}
		} else if err != nil || u.String() != c.want {
			t.Errorf("Authenticate(%q, %q): got %v, %v, want %s", c.name, c.password, u, err, c.want)
		}
	}
}

// An unknown user costs a check of the commonest kind.
func TestDecoy(t *testing.T) {
	text := "a:$6$salt$x\nb:{PLAIN}x\nc:$6$other$y\n"
	table, err := parsePasswdFile(strings.NewReader(text), "users")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := table.decoy.Cost(), "$6"; got != want {
		t.Errorf("decoy: got cost %q, want %q", got, want)
	}
	counted := &countingSecret{}
	db := &DB{checks: make(chan struct{}, 2)}
	if err := db.verify(context.Background(), nil, counted, "guess"); !errors.Is(err, ErrBadCredentials) || counted.n != 1 {
		t.Errorf("unknown user: got %v after %d checks, want ErrBadCredentials after 1", err, counted.n)
	}
}

type countingSecret struct{ n int }

func (c *countingSecret) Match(string) bool { c.n++; return true }
func (c *countingSecret) Cost() string      { return "" }

// Checks wait for their turn, and a caller that gives up is temporary.
func TestChecksAreBounded(t *testing.T) {
	db := &DB{checks: make(chan struct{}, 1)}
	db.checks <- struct{}{}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := db.verify(ctx, &countingSecret{}, nil, "x"); !errors.Is(err, context.Canceled) || errors.Is(err, ErrBadCredentials) {
		t.Errorf("got %v, want context.Canceled alone", err)
	}
}

func TestPasswdFileMistakes(t *testing.T) {
	long := strings.Repeat("x", 5000)
	for _, c := range []struct{ text, want string }{
		{"a:{PLAIN}x\na:{PLAIN}y\n", `users:2: user "a" stands in line 1 already`},
		{"a:{MD5}x\n", `users:1: user "a": password scheme "MD5" is none of`},
		{"../a:{PLAIN}x\n", `users:1: "../a" is not a user name`},
		{"a@b@c:{PLAIN}x\n", `users:1: "a@b@c" is not a user name`},
		{"a@-.example:{PLAIN}x\n", `users:1: user "a@-.example": domain has`},
		{"a:{PLAIN}x:-1\n", `"-1" is not a uid or gid`},
		{"a:{PLAIN}x:1:4294967295\n", `"4294967295" is not a uid or gid`},
		{"a:{PLAIN}x:1:1::home\n", `home "home" is not an absolute path`},
		{"\n#\n:\n", `users:3: "" is not a user name`},
		{"a:{PLAIN}x\n" + long + "\nb:{PLAIN}x\n", "users:2: line is longer than 4096 octets"},
		{long, "users:1: line is longer than 4096 octets"},
	} {
		_, err := parsePasswdFile(strings.NewReader(c.text), "users")
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.60q: got error %v, want %s", c.text, err, c.want)
		}
	}
	_, err := parsePasswdFile(strings.NewReader(strings.Repeat(":\n", 100000)), "users")
	if n := strings.Count(err.Error(), "\n") + 1; n != maxErrors {
		t.Errorf("a file of mistakes: got %d errors, want %d", n, maxErrors)
	}
}

func TestReload(t *testing.T) {
	db, path := openPasswd(t)
	var problems []error
	db.Problem = func(err error) { problems = append(problems, err) }
	has := func(name string, want bool) {
		t.Helper()
		_, err := db.Lookup(context.Background(), name)
		if got := err == nil; got != want {
			t.Errorf("user %s: got %v (%v), want %v", name, got, err, want)
		}
	}
	has("erin", false)
	write(t, path, "erin:{PLAIN}x\n")
	has("erin", false) // looked at less than a second ago
	passed(t, 2*time.Second)
	has("erin", true)
	has("alice", false)

	write(t, path, "erin:{PLAIN}x\nbroken:{\n")
	passed(t, 2*time.Second)
	has("erin", true)
	passed(t, 2*time.Second)
	has("erin", true)
	if len(problems) != 1 || !strings.Contains(problems[0].Error(), "users:2: ") {
		t.Errorf("a broken file: got problems %v, want one with file and line", problems)
	}
	if err := db.Reload(); err == nil || !strings.Contains(err.Error(), "users:2: ") {
		t.Errorf("Reload of a broken file: got %v, want an error with file and line", err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		passed(t, 2*time.Second)
		has("erin", true)
	}
	if len(problems) != 2 {
		t.Errorf("a removed file: got problems %v, want one more", problems)
	}
	write(t, path, "frank:{PLAIN}x\n")
	passed(t, 2*time.Second)
	has("frank", true)

	// A file that is being written is left alone.
	write(t, path, "grace:{PLAIN}x\n")
	passed(t, 2*time.Second)
	now := clock.Now()
	if err := os.Chtimes(path, now, now); err != nil {
		t.Fatal(err)
	}
	has("grace", false)
	if err := db.Reload(); err != nil {
		t.Fatal(err)
	}
	has("grace", true)
}

func TestOpenErrors(t *testing.T) {
	dir := t.TempDir()
	for _, spec := range []string{"", "users", "/nonexistent/users", dir, "checkpassword:", "checkpassword:/nonexistent", "checkpassword:" + dir} {
		if _, err := Open(spec, nil); err == nil {
			t.Errorf("Open(%q): got no error", spec)
		}
	}
}

func TestConcurrentUse(t *testing.T) {
	db, path := openPasswd(t)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 50 {
				if _, err := db.Authenticate(context.Background(), "alice", "wonder"); err != nil {
					t.Error(err)
				}
				if err := db.Reload(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	_ = path
}

func FuzzPasswdFile(f *testing.F) {
	f.Add(passwdText)
	f.Add("a:$y$j9T$$\nb:{ARGON2ID}$argon2id$$$$\n\x00:\xff@\n")
	f.Fuzz(func(t *testing.T, text string) {
		table, err := parsePasswdFile(strings.NewReader(text), "users")
		if err != nil {
			return
		}
		for key, e := range table.users {
			db := &DB{domains: map[string]bool{}}
			if n, ok := db.checkName(key); !ok {
				t.Errorf("user %q is in the table but not in the grammar (%+v)", key, n)
			}
			if strings.ContainsAny(key, "/:\n\x00") {
				t.Errorf("user %q", key)
			}
			_ = e.secret != nil && e.secret.Cost() == "" // costly to match
		}
	})
}
