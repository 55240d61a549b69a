package delivery

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// show writes targets as one line.
func show(targets []target) string {
	var all []string
	for _, t := range targets {
		s := ""
		switch t.kind {
		case toUser:
			s = "user " + t.user.String()
			if t.final {
				s += " final"
			}
			s += " as " + t.to.String()
		case toPlace:
			s = t.place.String() + " as " + t.to.String()
			if t.piped {
				s = "|" + s
			}
		case toAddress:
			s = "to " + t.to.String()
			if t.sender.Domain != "sender.example" {
				s += " from " + t.sender.String()
			}
		}
		all = append(all, s)
	}
	return strings.Join(all, "; ")
}

func TestExpand(t *testing.T) {
	var deep strings.Builder
	for i := range 12 {
		fmt.Fprintf(&deep, "d%d: d%d\n", i, i+1)
	}
	many := "many: " + strings.Repeat(":include:LIST, ", 20) + "\n"
	for _, tt := range []struct{ aliases, to, want string }{
		{"", "bob@example.org", "user bob as bob@example.org"},
		{"", "BOB+x+y@example.org", "user bob as BOB+x+y@example.org"},
		{"bob: bob, alice", "bob@example.org", "user bob as bob@example.org; user alice as alice@example.org"},
		{`bob: \bob, alice`, "bob@example.org", "user bob final as bob@example.org; user alice as alice@example.org"},
		{`bob: \nobody, alice`, "bob@example.org", "user alice as alice@example.org ! 550"},
		{"bob: alice\nalice: bob", "bob@example.org", "user bob as bob@example.org"},
		{"a: b\nb: c\nc: a, bob", "a@example.org", "! 451"},
		{"a: b, c\nb: bob\nc: b, bob, BOB@example.org, x@y.example, x@Y.example", "a@example.org", "user bob as bob@example.org; to x@y.example"},
		{"a: b, b", "a@example.org", " ! 550"},
		{"team: bob", "team+x@example.org", "user bob as bob@example.org"},
		{"team: bob\nteam+x: alice", "team+x@example.org", "user alice as alice@example.org"},
		{"team: bob\nteam@virtual.example: alice", "team+x@virtual.example", "user alice as alice@virtual.example"},
		{"team: bob\nteam@virtual.example: alice", "team@example.org", "user bob as bob@example.org"},
		{"@virtual.example: x@y.example", "anyone@virtual.example", "to x@y.example"},
		{"@virtual.example: x@y.example", "carol@virtual.example", "user carol@virtual.example as carol@virtual.example"},
		{"@virtual.example: carol", "anyone@virtual.example", "user carol@virtual.example as carol@virtual.example"},
		{"@virtual.example: no", "anyone@virtual.example", " ! 550"},
		{"team: |/bin/x a, /var/f, /var/d/, pipe:/bin/y, /dev/null, maildir:/srv/%n", "team@example.org",
			"|pipe:/bin/x a as team@example.org; mbox:/var/f as team@example.org; maildir:/var/d as team@example.org; " +
				"pipe:/bin/y as team@example.org; discard: as team@example.org; maildir:/srv/%n as team@example.org"},
		{"list: :include:LIST", "list@example.org", "user bob as bob@example.org; user alice as alice@example.org; to x@y.example"},
		{"list: :include:LIST\nowner-list: bob", "list@example.org",
			"to bob@example.org from owner-list@example.org; to alice@example.org from owner-list@example.org; to x@y.example from owner-list@example.org"},
		{"list: :include:LIST\nowner-list@virtual.example: bob", "list@example.org", "user bob as bob@example.org; user alice as alice@example.org; to x@y.example"},
		{"owner-list: owner-bob\nowner-bob: bob\nowner-owner-list: alice", "owner-list@example.org", "user bob as bob@example.org"},
		{"list: :include:SELF", "list@example.org", "! 451"},
		{"list: :include:OPEN", "list@example.org", "! 451"},
		{deep.String(), "d0@example.org", "! 451"},
		{deep.String() + "d12: bob", "d3@example.org", "user bob as bob@example.org"},
		{many, "many@example.org", "! 451"},
		{"postmaster: bob", "PostMaster@example.org", "user bob as bob@example.org"},
		{"root: bob", "postmaster@example.org", "user bob as bob@example.org"},
		{"postmaster: bob", "abuse@example.org", "user bob as bob@example.org"},
		{"@virtual.example: bob", "abuse@virtual.example", "user bob as bob@virtual.example"},
		{"", "abuse@example.org", "user postmaster final as abuse@example.org"},
		{"postmaster: postmaster", "postmaster@example.org", "user postmaster final as postmaster@example.org"},
		{"postmaster: root\nroot: postmaster", "postmaster@example.org", "user postmaster final as postmaster@example.org"},
	} {
		r := newRig(t, "")
		r.write("list", "bob, alice\n# nobody\n x@y.example\n")
		r.write("self", ":include:"+r.path("self")+"\n")
		r.write("open", "bob\n")
		if strings.Contains(tt.aliases, "many") {
			r.write("list", strings.Repeat("bob\n", 600))
		}
		if err := os.Chmod(r.path("open"), 0o666); err != nil {
			t.Fatal(err)
		}
		r.write("aliases", strings.NewReplacer("LIST", r.path("list"), "SELF", r.path("self"), "OPEN", r.path("open")).Replace(tt.aliases))
		if err := r.Aliases.Reload(); err != nil {
			t.Fatal(err)
		}
		j, err := r.begin(msg(tt.to))
		if err != nil {
			t.Fatal(err)
		}
		err = j.expand(t.Context())
		got := show(j.targets)
		for _, e := range j.failed {
			got += " ! " + reply(e)[:3]
		}
		if err != nil {
			got = "! " + reply(err)[:3]
		}
		if got != tt.want {
			t.Errorf("%s with %.80q: got %q, want %q", tt.to, tt.aliases, got, tt.want)
		}
	}
}

func TestForwardFile(t *testing.T) {
	for _, tt := range []struct{ forward, to, want string }{
		{".forward: ", "bob", "MAILBOX"},
		{".forward: # none\n", "bob", "MAILBOX"},
		{".forward: x@y.example, \\bob", "bob", "to x@y.example; user bob final as bob@example.org"},
		{".forward: bob", "bob", "user bob final as bob@example.org"},
		{".forward: bob+box@virtual.example, BOB", "bob", "user bob final as bob@example.org"},
		{".forward: bob@elsewhere.example", "bob", "to bob@elsewhere.example"},
		{".forward: alice, \\alice", "bob", "to alice@example.org"},
		{`.forward: "|/bin/x a", /f, /d/, maildir:~/m, discard:`, "bob",
			"|pipe:/bin/x a as bob@example.org; mbox:/f as bob@example.org; maildir:/d as bob@example.org; maildir:~/m as bob@example.org; discard: as bob@example.org"},
		{".forward+box: x@y.example", "bob+box", "to x@y.example"},
		{".forward+box: x@y.example", "bob+other", "MAILBOX"},
		{".forward: x@y.example", "bob+other", "to x@y.example"},
		{".forward: x@y.example", "bob+../../x", "to x@y.example"},
		{".forward: a b", "bob", "! 451 4.7.0 Forwarding file of this user cannot be used"},
		{".forward: :include:DIR/list", "bob", "to x@y.example; user bob final as bob@example.org"},
		{".forward: :include:DIR/bob/.forward", "bob", "! 451 4.7.0 Forwarding file of this user cannot be used"},
		{".forward: :include:/nonexistent", "bob", "! 451 4.7.0 Forwarding file of this user cannot be used"},
	} {
		r := newRig(t, "")
		r.write("list", "x@y.example\nbob\n")
		name, content, _ := strings.Cut(tt.forward, ": ")
		r.write("bob/"+name, strings.ReplaceAll(content, "DIR", r.dir))
		m := msg(tt.to)
		m.Recipient.Domain = "example.org"
		j, err := r.begin(m)
		if err != nil {
			t.Fatal(err)
		}
		u, err := r.FindUser(t.Context(), m.Recipient)
		if err != nil {
			t.Fatal(err)
		}
		if got := showForward(j, target{kind: toUser, to: m.Recipient, user: u}); got != tt.want {
			t.Errorf("%s with %q: got %q, want %q", tt.to, tt.forward, got, tt.want)
		}
	}
}

func showForward(j *job, t target) string {
	list, err := j.a.forward(t.user, t.to)
	if err == nil && len(list.Items) == 0 {
		return "MAILBOX"
	}
	f := j.forwarding(t)
	if err == nil {
		err = f.list(list, 0)
	}
	if err != nil {
		return "! " + reply(err)
	}
	return show(f.targets)
}

// TestForwardRefused: who can write the file, or the home that it lies in, is not only the user.
func TestForwardRefused(t *testing.T) {
	for name, spoil := range map[string]func(r *rig) error{
		"file writable": func(r *rig) error { return os.Chmod(r.path("bob/.forward"), 0o664) },
		"home writable": func(r *rig) error { return os.Chmod(r.path("bob"), 0o777) },
		"symlink": func(r *rig) error {
			return swap(r, func() error { return os.Symlink("../list", r.path("bob/.forward")) })
		},
		"hard link": func(r *rig) error {
			return swap(r, func() error { return os.Link(r.path("list"), r.path("bob/.forward")) })
		},
		"directory":          func(r *rig) error { return swap(r, func() error { return os.Mkdir(r.path("bob/.forward"), 0o700) }) },
		"file of a stranger": func(r *rig) error { return stranger(r, "bob/.forward") },
		"home of a stranger": func(r *rig) error { return stranger(r, "bob") },
	} {
		r := newRig(t, "")
		r.write("list", "x@y.example\n")
		r.write("bob/.forward", "x@y.example\n")
		if err := spoil(r); err != nil {
			t.Fatal(err)
		}
		if got := outcome(r.Deliver(t.Context(), msg("bob"))); got != "451 4.7.0 Forwarding file of this user cannot be used" {
			t.Errorf("%s: got %q", name, got)
		}
		if r.read("sent") != "" || len(r.stored("mail/example.org/bob")) > 0 {
			t.Errorf("%s: delivered all the same", name)
		}
	}
}

func swap(r *rig, create func() error) error {
	if err := os.Remove(r.path("bob/.forward")); err != nil {
		return err
	}
	return create()
}

// stranger gives a file to another user; who is not root cannot, and has the mode spoiled instead.
func stranger(r *rig, name string) error {
	if os.Geteuid() == 0 {
		return os.Chown(r.path(name), 4711, 4711)
	}
	return os.Chmod(r.path(name), 0o722)
}

func TestHomeMissing(t *testing.T) {
	r := newRig(t, "")
	for _, name := range []string{"bob", "alice"} {
		if err := os.Remove(r.path(name)); err != nil {
			t.Fatal(err)
		}
	}
	u, err := r.FindUser(t.Context(), msg("bob@example.org").Recipient)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.DeliverUser(t.Context(), u, msg("bob")); err != nil { // of the agent's own: it is made when it is needed
		t.Error(err)
	}
	u.UID = os.Geteuid()
	if got := outcome(r.DeliverUser(t.Context(), u, msg("bob"))); got != "451 4.3.0 Home of this user is not available" {
		t.Errorf("got %q", got)
	}
}

func TestForwardAndKeep(t *testing.T) {
	r := newRig(t, "team: bob, alice\n")
	r.write("bob/.forward", "x@remote.example, alice\n\\bob\n")
	m := msg("team")
	if _, err := r.Deliver(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	if got, want := r.read("sent"), "-G -i -f \"a b\"@sender.example -- x@remote.example alice@example.org\n"; got != want {
		t.Errorf("sendmail got %q, want %q", got, want)
	}
	if got := r.read("sent.message"); !strings.HasPrefix(got, "Delivered-To: bob@example.org\nReceived: x\n") {
		t.Errorf("got %q", got)
	}
	for _, name := range []string{"bob", "alice"} {
		if n := len(r.stored("mail/example.org/" + name)); n != 1 {
			t.Errorf("%s has %d messages", name, n)
		}
	}
	if log := r.log.String(); !strings.Contains(log, "event=forwarded id=0id to=<bob@example.org> forward=<x@remote.example>") {
		t.Errorf("log: %s", log)
	}
	r.write("sendmail.status", "69")
	if got := outcome(r.Deliver(t.Context(), m)); got != "550 5.3.0 Service unavailable" {
		t.Errorf("got %q", got)
	}
	if n := strings.Count(r.log.String(), "event=not-stored"); n != 1 {
		t.Errorf("%d times in the log: %s", n, r.log.String())
	}
}
