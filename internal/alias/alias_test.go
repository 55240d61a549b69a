package alias

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/postel-mail/postel/internal/address"
	"github.com/postel-mail/postel/internal/clock"
)

// words writes items as one line.
func words(items []Item) string {
	all := make([]string, len(items))
	for i, item := range items {
		all[i] = item.String()
	}
	return strings.Join(all, " , ")
}

func TestParseList(t *testing.T) {
	for _, tt := range []struct{ in, want string }{ // an error begins with "f:"
		{"", ""},
		{" , ,\n\n", ""},
		{"bob", "bob"},
		{"bob,carol@example.org\n# no, one\n  dave  ", "bob , carol@example.org , dave"},
		{`\bob, "|/bin/x \"a, b\" c"`, `\bob , pipe:/bin/x "a, b" c`},
		{"|/bin/x a  b", "pipe:/bin/x a b"},
		{`|"/bin/x 'a b'"`, `pipe:/bin/x "a b"`},
		{`|"/bin/a b" c`, `pipe:"/bin/a b" c`},
		{"|procmail", "pipe:procmail"},
		{"|../bin/x", "f:1: "},
		{"|", "f:1: "},
		{`"|"`, "f:1: "},
		{"|/bin/x 'a", "f:1: "},
		{"/var/mail/bob", "mbox:/var/mail/bob"},
		{"/srv/bob/", "maildir:/srv/bob"},
		{"/srv/bob//", "maildir:/srv/bob"},
		{`"/srv/a b, c/50%/"`, "maildir:/srv/a b, c/50%%"},
		{"/dev/null", "discard:"},
		{":include:/etc/list, :Include: /x", ":include:/etc/list , :include:/x"},
		{":include:list", "f:1: "},
		{"maildir:~/%n", "maildir:~/%n"},
		{"pipe:/bin/x 'a b'", `pipe:/bin/x "a b"`},
		{"discard:", "discard:"},
		{"smtp://host", "f:1: "},
		{"mx:", "f:1: "},
		{"maildir:", "f:1: "},
		{`"a b"@example.org, "c d", "e@f"`, `"a b"@example.org , "c d" , "e@f"`},
		{`Joe, Jr <joe@example.org>`, "Joe , joe@example.org"},
		{`"Joe, Jr" <joe@example.org>`, "joe@example.org"},
		{`"a\"b,c"@example.org`, `"a\"b,c"@example.org`},
		{"\nbob\n\na b\n", "f:4: "},
		{`"bob`, "f:1: "},
		{"a@b@c", "f:1: "},
		{"a\x00b", "f:1: "},
		{"|/bin/x a\x1b", "f:1: "},
		{"-oQ/tmp@example.org, -x", "-oQ/tmp@example.org , -x"},
		{"BÜCHER@bücher.example", "BÜCHER@bücher.example"},
		{strings.Repeat("a,", MaxItems+1), "f:1: "},
		{strings.Repeat("a\n", MaxItems+1), "f:10001: "},
	} {
		items, err := ParseList(tt.in, "f")
		got := words(items)
		if err != nil {
			got = err.Error()
		}
		if got != tt.want && !(err != nil && strings.HasPrefix(tt.want, "f:") && strings.HasPrefix(got, tt.want)) {
			t.Errorf("%.80q: got %.80q, want %q", tt.in, got, tt.want)
		}
	}
}

const table = `# aliases
postmaster: root
Team:	bob,
# between
	carol@example.org,

	"|/bin/x 'a b'"

owner-team: alice
"odd name" : bob
info@Example.org: alice
@virtual.example: catchall
Jörg@bücher.example: bob
team: twice
bad: a b
empty:
user+box: /srv/box/
`

func load(t *testing.T, text string) *Table {
	t.Helper()
	path := filepath.Join(t.TempDir(), "aliases")
	write(t, path, text)
	table, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestLookup(t *testing.T) {
	a := load(t, table)
	for _, tt := range []struct{ local, domain, want string }{
		{"Postmaster", "", "root"},
		{"TEAM", "", `bob , carol@example.org , pipe:/bin/x "a b"`},
		{"owner-team", "", "alice"},
		{"odd name", "", "bob"},
		{"INFO", "example.ORG", "alice"},
		{"info", "", ""},
		{"", "Virtual.Example", "catchall"},
		{"", "example.org", ""},
		{"JÖRG", "xn--bcher-kva.example", "bob"},
		{"bad", "", "ERR"},
		{"empty", "", "ERR"},
		{"user+box", "", "maildir:/srv/box"},
		{"nobody", "", ""},
		{"@virtual.example", "", ""},
	} {
		list, err := a.Lookup(address.Path{Local: tt.local, Domain: tt.domain})
		got := words(list.Items)
		if err != nil {
			got = "ERR"
		}
		if got != tt.want {
			t.Errorf("%q %q: got %q, %v; want %q", tt.local, tt.domain, got, err, tt.want)
		}
		if len(list.Items) > 0 && list.Owner != os.Geteuid() {
			t.Errorf("%q: owner %d", tt.local, list.Owner)
		}
	}
	err := a.Check()
	if err == nil {
		t.Fatal("Check finds nothing")
	}
	for _, want := range []string{":14: team stands in line 3 already", ":15: ", ":16: the alias stands for nothing"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("Check says %q, want %q in it", err, want)
		}
	}
}

// TestCheck: all mistakes are told, each with its line, in their order, and what works is not one.
func TestCheck(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/plain", "#!/bin/sh\n")
	write(t, dir+"/list", "ok\na b\n|\n")
	a := load(t, strings.ReplaceAll(`ok: ok, alice
c: d, \c
d: C
e: f, a b, c d
f: g
g: h@x.example
h@x.example: f
alice: alice, bob
bob: bob, alice
me: me
run: |/bin/sh -c true, |sh, |DIR/none -x, |DIR/plain, |DIR
long: :include:DIR/list, :include:DIR/none
c: twice
x: bob@c, \x
`, "DIR", dir))
	err := a.Check()
	want := []string{
		`:2: these aliases stand for each other: c, d; a user is written \c`,
		`:4: "a b": address has no domain`,
		`:4: "c d": address has no domain`,
		`:5: these aliases stand for each other: f, g, h@x.example; a user is written \f`,
		`:11: ` + dir + `/none does not exist`,
		`:11: ` + dir + `/plain is not a program that can be run`,
		`:11: ` + dir + ` is not a program that can be run`,
		`:12: ` + dir + `/list:2: "a b": address has no domain`,
		`:12: ` + dir + `/list:3: "|": there is no command`,
		`:12: alias: open ` + dir + `/none: no such file or directory`,
		`:13: c stands in line 2 already`,
	}
	if got, want := fmt.Sprint(err), a.path+strings.Join(want, "\n"+a.path); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	path := dir + "/aliases"
	write(t, path, "no colon\na: b\nb: c d\nneither\n")
	_, err = Load(path)
	want = []string{":1: no colon; write name: address", `:3: "c d": address has no domain`, ":4: no colon; write name: address"}
	if got, want := fmt.Sprint(err), path+strings.Join(want, "\n"+path); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	write(t, path, strings.Repeat("x\n", 1e6))
	if _, err := Load(path); strings.Count(fmt.Sprint(err), "\n") != maxTold {
		t.Errorf("%d lines", strings.Count(fmt.Sprint(err), "\n"))
	}
}

func TestAddresses(t *testing.T) {
	a := load(t, "team: bob, carol@y.example, |x, \\dave, Team\nbroken: a b\ninfo@x.example: eve, /file\n")
	var got []string
	for where, item := range a.Addresses() {
		got = append(got, strings.TrimPrefix(where, a.path)+" "+item.String())
	}
	if want := `:1 bob :1 carol@y.example :1 \dave :1 \Team :3 eve@x.example`; strings.Join(got, " ") != want {
		t.Errorf("got %q, want %q", got, want)
	}
	for range a.Addresses() {
		break
	}
	for range (*Table)(nil).Addresses() {
		t.Error("a nil table has addresses")
	}
}

func TestLookupNothing(t *testing.T) {
	missing, err := Load(filepath.Join(t.TempDir(), "none"))
	if err != nil {
		t.Fatal(err)
	}
	empty, err := Load("")
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range []*Table{nil, missing, empty} {
		if list, err := a.Lookup(address.Path{Local: "x"}); err != nil || len(list.Items) != 0 {
			t.Errorf("got %v, %v", list, err)
		}
		if err := errors.Join(a.Check(), a.Reload()); err != nil {
			t.Error(err)
		}
	}
}

func TestLoadRefuses(t *testing.T) {
	dir := t.TempDir()
	for _, tt := range []struct{ text, want string }{
		{"a: b\nno colon\n", ":2: no colon"},
		{"a: b\n@: c\n", ":2: "},
		{"a..b: c\n", ":1: "},
		{"a b: c\n", ":1: "},
		{"\tb\na: b\n", ":1: the first line"},
		{"\"a: b\n", ":1: no colon"},
	} {
		path := filepath.Join(dir, "aliases")
		write(t, path, tt.text)
		if _, err := Load(path); err == nil || !strings.HasPrefix(err.Error(), path+tt.want) {
			t.Errorf("%q: got %v, want %q", tt.text, err, tt.want)
		}
	}
	if _, err := Load(dir); err == nil {
		t.Error("a directory is read as a table")
	}
	open := filepath.Join(dir, "open")
	write(t, open, "a: b\n")
	if err := os.Chmod(open, 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(open); err == nil {
		t.Error("a file that all can write is read")
	}
}

func TestChangesAreSeen(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	clock.Set(func() time.Time { return now })
	defer clock.Set(nil)
	path := filepath.Join(t.TempDir(), "aliases")
	a, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	var problems []error
	a.Problem = func(err error) { problems = append(problems, err) }
	look := func(want string, wantProblems int) {
		t.Helper()
		list, err := a.Lookup(address.Path{Local: "x"})
		if got := words(list.Items); err != nil || got != want || len(problems) != wantProblems {
			t.Fatalf("got %q, %v, problems %v; want %q, %d problems", got, err, problems, want, wantProblems)
		}
	}
	look("", 0)
	write(t, path, "x: one\n")
	look("", 0) // not looked for again within the second
	now = now.Add(time.Second)
	look("one", 0)
	write(t, path, "x: three\n")
	now = now.Add(time.Second)
	look("three", 0)
	write(t, path, "broken\n")
	for range 2 { // told once
		now = now.Add(time.Second)
		look("three", 1)
	}
	if err := a.Reload(); err == nil {
		t.Error("Reload takes a broken file")
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		now = now.Add(time.Second)
		look("three", 2)
	}
	if !errors.Is(problems[1], fs.ErrNotExist) {
		t.Errorf("got %v", problems[1])
	}
	write(t, path, "x: four\n")
	now = now.Add(-time.Hour) // the clock was set back
	look("four", 2)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := a.Reload(); err != nil { // asked for, so it is meant
		t.Fatal(err)
	}
	look("", 2)
}

func TestReadForward(t *testing.T) {
	dir := t.TempDir()
	d, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	read := func(name string, owner int) error {
		_, err := ReadForward(int(d.Fd()), name, filepath.Join(dir, name), owner)
		return err
	}
	me := os.Geteuid()
	write(t, filepath.Join(dir, ".forward"), "bob\n")
	if err := read(".forward", me); err != nil {
		t.Errorf("a good file: %v", err)
	}
	if err := read(".forward", me+1); (err == nil) != (me == 0) { // root's is good for everybody
		t.Errorf("another's file: %v", err)
	}
	if err := read("none", me); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	for name, create := range map[string]func(path string) error{
		"symlink":  func(p string) error { return os.Symlink(".forward", p) },
		"dir":      func(p string) error { return os.Mkdir(p, 0o700) },
		"writable": func(p string) error { return errors.Join(os.WriteFile(p, nil, 0o600), os.Chmod(p, 0o620)) },
		"large":    func(p string) error { return os.WriteFile(p, make([]byte, maxList+1), 0o600) },
		"wrong":    func(p string) error { return os.WriteFile(p, []byte("a b"), 0o600) },
		"hardlink": func(p string) error { return os.Link(filepath.Join(dir, ".forward"), p) },
	} {
		if err := create(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
		if err := read(name, me); err == nil || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: got %v, want a refusal", name, err)
		}
	}
	if _, err := ReadList(filepath.Join(dir, "symlink")); err == nil {
		t.Error("a symbolic link is included")
	}
}

// FuzzParse: what is read as a list is written so that it is read as the same; a table never panics.
func FuzzParse(f *testing.F) {
	f.Add(table)
	f.Add(`"|/bin/x \"a, b\"", \bob, "/a b/", :include:/x, <a@b>`)
	f.Fuzz(func(t *testing.T, s string) {
		c, wrong := parse(s)
		c.loops(nil)
		for _, e := range c.entries {
			_, _ = e.items()
		}
		_ = join("f", wrong)
		items, err := ParseList(s, "f")
		if err != nil {
			return
		}
		for _, item := range items {
			if item.Kind != Address {
				continue
			}
			again, err := ParseList(","+item.String(), "f") // "#" begins a comment
			if err != nil || len(again) != 1 || again[0].String() != item.String() {
				t.Fatalf("%q has the item %q, which is read as %v, %v", s, item, again, err)
			}
		}
	})
}
