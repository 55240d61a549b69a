package destination

import (
	"strings"
	"testing"
)

func TestExpand(t *testing.T) {
	alice := Words{User: "alice@example.org", Local: "alice", Domain: "example.org", Home: "/home/alice"}
	with := func(local, domain string) Words {
		return Words{User: local + "@" + domain, Local: local, Domain: domain, Home: "/srv/" + local}
	}
	for _, c := range []struct {
		path string
		w    Words
		want string // "" for an error
	}{
		{"~/Maildir", alice, "/home/alice/Maildir"},
		{"~", alice, "/home/alice"},
		{"~/", Words{Home: "/home/x/"}, "/home/x/"},
		{"~/Maildir", Words{Home: "/"}, "/Maildir"},
		{"/var/mail/%n", alice, "/var/mail/alice"},
		{"/srv/%d/%n/Maildir", alice, "/srv/example.org/alice/Maildir"},
		{"/srv/%u", alice, "/srv/alice@example.org"},
		{"/srv/%%/%n", alice, "/srv/%/alice"},
		{"~/Mail-%n", alice, "/home/alice/Mail-alice"},
		{"/srv/%n", with("a..b", "d"), "/srv/a..b"},

		{"/srv/%n", with("", "d"), ""},
		{"/srv/%n", with("..", "d"), ""},
		{"/srv/%n", with(".", "d"), ""},
		{"/srv/%n", with(".hidden", "d"), ""},
		{"/srv/%n", with("../x", "d"), ""},
		{"/srv/%n", with("a/../../x", "d"), ""},
		{"/srv/%n", with("a\x00b", "d"), ""},
		{"/srv/%n", with("a\nb", "d"), ""},
		{"/srv/%n", with(strings.Repeat("a", 256), "d"), ""},
		{"/srv/%d/x", with("a", ".."), ""},
		{"/srv/%d/x", with("a", "b/c"), ""},
		{"/srv/%u", with("..", "d"), ""},
		{"%n/x", alice, ""},
		{"/srv/%h", alice, ""},
		{"/srv/%", alice, ""},
		{"~bob/Maildir", alice, ""},
		{"~/Maildir", Words{}, ""},
		{"~/Maildir", Words{Home: "home"}, ""},
		{"~/Maildir", Words{Home: "/home/../etc"}, ""},
		{"~/Maildir", Words{Home: "/home/\x00"}, ""},
	} {
		got, err := Destination{Kind: Maildir, Path: c.path}.Expand(c.w)
		if got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("Expand %q with %+v: got %q, %v; want %q", c.path, c.w, got, err, c.want)
		}
	}
	if _, err := (Destination{Kind: SMTP, Host: "x"}).Expand(alice); err == nil {
		t.Error("Expand of smtp://x gave no error")
	}
}

func FuzzExpand(f *testing.F) {
	f.Add("/srv/%d/%n", "alice", "example.org")
	f.Add("~/%u", "..", "/")
	f.Fuzz(func(t *testing.T, path, local, domain string) {
		got, err := Destination{Kind: Mbox, Path: "/root/" + path}.Expand(Words{User: local + "@" + domain, Local: local, Domain: domain})
		if err != nil {
			return
		}
		if strings.Count(got, "/") != strings.Count("/root/"+path, "/") {
			t.Errorf("Expand %q with %q, %q climbed: %q", path, local, domain, got)
		}
	})
}
