package delivery

import (
	"context"
	"os"
	"testing"

	"github.com/postel-mail/postel/internal/destination"
	"github.com/postel-mail/postel/internal/envelope"
	"github.com/postel-mail/postel/internal/userdb"
)

// TestRequests: what the sender wants to hear goes on as RFC 3461 5.2.7 has it, and the outcome says who is to tell of success.
func TestRequests(t *testing.T) {
	const all, some = " --notify=SUCCESS,DELAY --return=HDRS --envelope-id=id+2B1 --orcpt=rfc822;team@a.example --", " --notify=DELAY --return=HDRS --envelope-id=id+2B1 --orcpt=rfc822;team@a.example --"
	const head = "-G -i -f \"a b\"@sender.example"
	const list = "-G -i -f owner-team@example.org --"
	for _, tt := range []struct {
		name, aliases, forward, to string // forward is bob's
		sent                       string
		want                       Outcome
	}{
		{"a mailbox", "", "", "bob", "", Delivered},
		{"a local alias", "team: bob", "", "team", "", Delivered},
		{"several mailboxes", "team: bob, alice", "", "team", "", Delivered},
		{"a place", "team: discard:", "", "team", "", Delivered},

		{"one address", "team: x@r.example", "", "team", head + all + " x@r.example\n", Forwarded},
		{"alias to alias to address", "team: two\ntwo: x@r.example", "", "team", head + all + " x@r.example\n", Forwarded},
		{"the same address twice", "team: two, x@r.example\ntwo: x@R.example", "", "team", head + all + " x@R.example\n", Forwarded},
		{".forward", "", "x@r.example", "bob", head + all + " x@r.example\n", Forwarded},
		{"alias and .forward", "team: bob", "x@r.example", "team", head + all + " x@r.example\n", Forwarded},

		{"two addresses", "team: x@r.example, y@r.example", "", "team", head + some + " x@r.example y@r.example\n", Expanded},
		{"mailbox and address", "team: bob, y@r.example", "", "team", head + some + " y@r.example\n", Expanded},
		{".forward and keep", "", "\\bob, x@r.example", "bob", head + some + " x@r.example\n", Expanded},
		{"two, one has a .forward", "team: bob, alice", "x@r.example", "team", head + some + " x@r.example\n", Expanded},
		{"address and place", "team: x@r.example, discard:", "", "team", head + some + " x@r.example\n", Expanded},

		{"a list", "team: x@r.example\nowner-team: alice", "", "team", list + " x@r.example\n", Delivered},
		{"a list of its sender's own", "team: x@r.example\nowner-team: alice", "", "own", list + " x@r.example\n", Delivered},
		{"a list and a mailbox", "all: team, alice\nteam: x@r.example\nowner-team: alice", "", "all", list + " x@r.example\n", Delivered},
		{"a list and an address", "all: team, y@r.example\nteam: x@r.example\nowner-team: alice", "", "all",
			list + " x@r.example\n" + head + some + " y@r.example\n", Expanded},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, tt.aliases+"\n")
			if tt.forward != "" {
				r.write("bob/.forward", tt.forward+"\n")
			}
			r.AsUser = func(context.Context, userdb.User, destination.Destination, Message) (Outcome, error) {
				return Delivered, nil // of root, who writes to no place
			}
			m := msg(tt.to)
			if tt.to == "own" {
				m = msg("team")
				m.Sender.Local, m.Sender.Domain = "owner-team", "example.org"
			}
			m.DSN = envelope.DSN{Notify: "SUCCESS,DELAY", ORcpt: "rfc822;team@a.example", Ret: "HDRS", EnvID: "id+1"}
			got, err := r.Deliver(t.Context(), m)
			if err != nil || got != tt.want {
				t.Errorf("got %q, %v, want %q", got, err, tt.want)
			}
			if sent := r.read("sent"); sent != tt.sent {
				t.Errorf("sendmail got\n%swant\n%s", sent, tt.sent)
			}
		})
	}
}

// TestRequestsInPart: an alias of which one name is not there is not a forward to the other one.
func TestRequestsInPart(t *testing.T) {
	r := newRig(t, "team: x@r.example, nosuch\n")
	m := msg("team")
	m.DSN.Notify = "SUCCESS"
	if got := outcome(r.Deliver(t.Context(), m)); got != "550 5.1.1 User unknown" {
		t.Errorf("got %s", got)
	}
	if got, want := r.read("sent"), "-G -i -f \"a b\"@sender.example --notify=NEVER -- x@r.example\n"; got != want {
		t.Errorf("sendmail got %q, want %q", got, want)
	}
}

// TestOthersForward: what another process found in a user's .forward counts, and it is not asked to have success told where there are several.
func TestOthersForward(t *testing.T) {
	if os.Geteuid() != 0 {
		return // nobody else delivers then
	}
	r := newRig(t, "team: uid, bob\none: uid\n")
	r.write("users", "bob:{PLAIN}x\nuid:{PLAIN}x:1:1::/nowhere:\n")
	if err := r.Users.Reload(); err != nil {
		t.Fatal(err)
	}
	notify := ""
	r.AsUser = func(_ context.Context, _ userdb.User, _ destination.Destination, m Message) (Outcome, error) {
		notify = m.DSN.Notify
		return Forwarded, nil
	}
	for to, want := range map[string]string{"team": "NEVER expanded", "one": "SUCCESS forwarded"} {
		m := msg(to)
		m.DSN.Notify = "SUCCESS"
		got, err := r.Deliver(t.Context(), m)
		if got := notify + " " + string(got); err != nil || got != want {
			t.Errorf("%s: got %s, %v, want %s", to, got, err, want)
		}
	}
}

// TestChildSays: the program that delivers as another user is told, and its word counts.
func TestChildSays(t *testing.T) {
	for _, tt := range []struct {
		notify, says string
		want         Outcome
	}{
		{"SUCCESS", "forwarded", Forwarded}, {"SUCCESS", "expanded", Expanded}, {"SUCCESS", "delivered", Delivered}, {"SUCCESS", "", Delivered},
		{"SUCCESS", "forwarded, and much more than a word", Delivered}, {"FAILURE", "forwarded", Forwarded},
	} {
		m := msg("bob")
		m.DSN.Notify = tt.notify
		m.Open = func() (*os.File, error) { return os.Open(os.DevNull) }
		u := userdb.User{Name: "bob", UID: os.Getuid(), GID: os.Getgid()}
		if u.UID == 0 {
			u.UID, u.GID = 1, 1
		}
		got, err := Child{Program: script(t, "#!/bin/sh\necho \"$@\" >&2\n[ \"$3 $4 $5 $6\" = \"--user bob --notify="+tt.notify+" --\" ] || exit 75\necho '"+tt.says+"'\n")}.
			Deliver(context.Background(), u, destination.Destination{}, m)
		if err != nil || got != tt.want {
			t.Errorf("NOTIFY=%s, it says %q: got %q, %v, want %q", tt.notify, tt.says, got, err, tt.want)
		}
	}
}

// script makes a program that every user can run.
func script(t *testing.T, text string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "postel-delivery-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/program", []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	return dir + "/program"
}
