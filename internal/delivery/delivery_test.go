package delivery

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/postel-mail/postel/internal/address"
	"github.com/postel-mail/postel/internal/alias"
	"github.com/postel-mail/postel/internal/destination"
	"github.com/postel-mail/postel/internal/maillog"
	"github.com/postel-mail/postel/internal/status"
	"github.com/postel-mail/postel/internal/userdb"
)

// rig is an agent for example.org and virtual.example in a directory of its own. Users: bob and alice with homes, carol@virtual.example
// without.
type rig struct {
	*Agent
	t   *testing.T
	dir string
	log bytes.Buffer
}

const sendmailScript = `#!/bin/sh
echo "$@" >>DIR/sent
cat >DIR/sent.message
exit $(cat DIR/sendmail.status 2>/dev/null || echo 0)
`

func newRig(t *testing.T, aliases string) *rig {
	t.Helper()
	r := &rig{t: t, dir: t.TempDir()}
	r.write("aliases", aliases)
	r.write("users", fmt.Sprintf("bob:{PLAIN}x:::Bob:%[1]s/bob:\nalice:{PLAIN}x::::%[1]s/alice:\ncarol@virtual.example:{PLAIN}x\n", r.dir))
	r.write("sendmail", strings.ReplaceAll(sendmailScript, "DIR", r.dir))
	if err := os.Chmod(r.path("sendmail"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, home := range []string{"bob", "alice"} {
		if err := os.Mkdir(r.path(home), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	table, err := alias.Load(r.path("aliases"))
	if err != nil {
		t.Fatal(err)
	}
	domains := []string{"example.org", "virtual.example"}
	users, err := userdb.Open(r.path("users"), domains)
	if err != nil {
		t.Fatal(err)
	}
	r.Agent = &Agent{Domains: domains, Delimiter: "+", Aliases: table, Users: users, Sendmail: r.path("sendmail"), Log: maillog.ToWriter(&r.log, "deliver"),
		Mailbox: destination.Destination{Kind: destination.Maildir, Path: r.dir + "/mail/%d/%n"}}
	return r
}

func (r *rig) path(name string) string { return filepath.Join(r.dir, name) }

func (r *rig) write(name, text string) {
	r.t.Helper()
	if err := os.WriteFile(r.path(name), []byte(text), 0o600); err != nil {
		r.t.Fatal(err)
	}
}

// read gives a file's text, "" where there is none.
func (r *rig) read(name string) string {
	r.t.Helper()
	b, err := os.ReadFile(r.path(name))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		r.t.Fatal(err)
	}
	return string(b)
}

// stored gives the messages in a Maildir.
func (r *rig) stored(name string) []string {
	r.t.Helper()
	files, err := filepath.Glob(r.path(name + "/new/*"))
	if err != nil {
		r.t.Fatal(err)
	}
	var all []string
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			r.t.Fatal(err)
		}
		all = append(all, string(b))
	}
	slices.Sort(all)
	return all
}

const text = "Received: x\r\nSubject: y\r\n\r\nbody\r\n.\r\nend"

func msg(to string) Message {
	m := Message{ID: "0id.3", Sender: address.Path{Local: "a b", Domain: "sender.example"}, Body: strings.NewReader(text), Size: int64(len(text))}
	m.Recipient.Local, m.Recipient.Domain, _ = strings.Cut(to, "@")
	return m
}

func reply(err error) string {
	if err == nil {
		return ""
	}
	return status.Of(err).Reply()
}

func outcome(_ Outcome, err error) string { return reply(err) }

func TestDeliverToMailbox(t *testing.T) {
	r := newRig(t, "")
	if _, err := r.Deliver(t.Context(), msg("Bob+box@EXAMPLE.org")); err != nil {
		t.Fatal(err)
	}
	want := "Return-Path: <\"a b\"@sender.example>\nDelivered-To: Bob+box@EXAMPLE.org\nReceived: x\nSubject: y\n\nbody\n.\nend\n"
	if got := r.stored("mail/example.org/bob"); len(got) != 1 || got[0] != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if _, err := r.Deliver(t.Context(), msg("bob")); err != nil { // the same delivery, tried again
		t.Fatal(err)
	}
	if got := r.stored("mail/example.org/bob"); len(got) != 1 {
		t.Errorf("tried again: %d messages", len(got))
	}
	m := msg("carol@virtual.example")
	m.Sender = address.Path{}
	if _, err := r.Deliver(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	if got := r.stored("mail/virtual.example/carol"); len(got) != 1 || !strings.HasPrefix(got[0], "Return-Path: <>\nDelivered-To: carol@virtual.example\n") {
		t.Errorf("got %q", got)
	}
	if log := r.log.String(); !strings.Contains(log, "event=stored id=0id to=<carol@virtual.example> dest=maildir:") {
		t.Errorf("log: %s", log)
	}
}

func TestDeliverFails(t *testing.T) {
	for _, tt := range []struct{ to, aliases, want string }{
		{"nobody@example.org", "", "550 5.1.1 User unknown"},
		{"carol@example.org", "", "550 5.1.1 User unknown"},
		{"../bob@example.org", "", "550 5.1.1 User unknown"},
		{"bob@other.example", "", "550 5.7.1 Mail for this domain is not delivered here"},
		{"x@example.org", "x: a b\n", "451 4.3.5 Local configuration error"},
		{"x@example.org", "x: y\ny: x\n", "451 4.3.5 Local configuration error"},
		{"x@example.org", "x: :include:/nonexistent\n", "451 4.3.5 Local configuration error"},
		{"x@example.org", "x: y, bob\n", "550 5.1.1 User unknown"},
		{"x@example.org", "x: maildir:~/m, y, bob\n", "451 4.3.5 Local configuration error"},
	} {
		r := newRig(t, tt.aliases)
		if got := outcome(r.Deliver(t.Context(), msg(tt.to))); got != tt.want {
			t.Errorf("%s with %q: got %q, want %q", tt.to, tt.aliases, got, tt.want)
		}
		if strings.Contains(tt.aliases, "bob") && len(r.stored("mail/example.org/bob")) != 1 {
			t.Errorf("%s with %q: the others got nothing", tt.to, tt.aliases)
		}
		if n := strings.Count(r.log.String(), "event=not-stored"); n == 0 || n > 2 {
			t.Errorf("%s: log: %s", tt.to, r.log.String())
		}
	}
}

func TestUnusableMailbox(t *testing.T) {
	r := newRig(t, "")
	r.write("mail", "a file where a directory is wanted")
	if _, err := r.Deliver(t.Context(), msg("bob")); !status.Of(err).Temporary() {
		t.Errorf("got %v", err)
	}
}

func TestLoopGuard(t *testing.T) {
	r := newRig(t, "team: bob\n")
	for _, tt := range []struct{ header, to, want string }{
		{"Delivered-To: bob@example.org\n\n", "bob", "554 5.4.6 Mail forwarding loop for bob@example.org"},
		{"X: y\r\ndelivered-to:\r\n  BOB@Example.org \r\n\r\n", "bob", "554 5.4.6 Mail forwarding loop for bob@example.org"},
		{"Delivered-To: bob@example.org\n\n", "team", "554 5.4.6 Mail forwarding loop for bob@example.org"},
		{"Delivered-To: team@example.org\n\n", "team", "554 5.4.6 Mail forwarding loop for team@example.org"},
		{"Delivered-To: alice@example.org\n\nDelivered-To: bob@example.org\n", "bob", ""},
		{strings.Repeat("X: "+strings.Repeat("y", 1000)+"\n", 1100), "bob", "552 5.3.4 Message header is too large"},
	} {
		m := msg(tt.to)
		m.Body, m.Size = strings.NewReader(tt.header), int64(len(tt.header))
		if got := outcome(r.Deliver(t.Context(), m)); got != tt.want {
			t.Errorf("%.40q to %s: got %q, want %q", tt.header, tt.to, got, tt.want)
		}
	}
}

// TestForwardsComeLast: what is sent on is sent when all else went well, once.
func TestForwardsComeLast(t *testing.T) {
	r := newRig(t, "team: x@remote.example, maildir:~/nowhere, y@remote.example, bob\ngood: x@remote.example, bob, \"odd name\"@remote.example, x@Remote.example\n")
	if _, err := r.Deliver(t.Context(), msg("team")); !status.Of(err).Temporary() {
		t.Errorf("got %v", err)
	}
	if sent := r.read("sent"); sent != "" {
		t.Errorf("sent on although bob is tried again: %q", sent)
	}
	if _, err := r.Deliver(t.Context(), msg("good")); err != nil {
		t.Fatal(err)
	}
	if got, want := r.read("sent"), "-G -i -f \"a b\"@sender.example -- x@remote.example \"odd name\"@remote.example\n"; got != want {
		t.Errorf("sendmail got %q, want %q", got, want)
	}
	if got, want := r.read("sent.message"), "Delivered-To: good@example.org\nReceived: x\nSubject: y\n\nbody\n.\nend\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	r.write("sendmail.status", "75")
	if got := outcome(r.Deliver(t.Context(), msg("good"))); got != "451 4.3.0 Temporary failure" {
		t.Errorf("got %q", got)
	}
	r.Sendmail = "/nonexistent/sendmail"
	if _, err := r.Deliver(t.Context(), msg("good")); !status.Of(err).Temporary() {
		t.Errorf("without a sendmail: got %v", err)
	}
}

func TestOwner(t *testing.T) {
	r := newRig(t, "team: x@remote.example, bob\nowner-team: alice\n")
	m := msg("team@virtual.example")
	if _, err := r.Deliver(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	if got, want := r.read("sent"), "-G -i -f owner-team@virtual.example -- x@remote.example bob@virtual.example\n"; got != want {
		t.Errorf("sendmail got %q, want %q", got, want)
	}
}

func TestNullSenderGoesOn(t *testing.T) {
	r := newRig(t, "team: x@remote.example\n")
	m := msg("team")
	m.Sender = address.Path{}
	if _, err := r.Deliver(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	if got, want := r.read("sent"), "-G -i -f <> -- x@remote.example\n"; got != want {
		t.Errorf("sendmail got %q, want %q", got, want)
	}
}

func TestVerify(t *testing.T) {
	r := newRig(t, "team: x\nbad: a b\n@virtual.example: bob\ninfo@example.org: bob\n")
	for to, want := range map[string]string{
		"bob@example.org":         "",
		"BOB+x@example.org":       "",
		"bob":                     "",
		"team@example.org":        "",
		"Team+x@virtual.example":  "",
		"anyone@virtual.example":  "",
		"info@example.org":        "",
		"Postmaster":              "",
		"postmaster@example.org":  "",
		"abuse@example.org":       "",
		"carol@virtual.example":   "",
		"carol@example.org":       "550 5.1.1 User unknown",
		"nobody@example.org":      "550 5.1.1 User unknown",
		"bad@example.org":         "451 4.3.5 Local configuration error",
		"bob@other.example":       "550 5.7.1 Mail for this domain is not delivered here",
		"postmaster@other.domain": "550 5.7.1 Mail for this domain is not delivered here",
	} {
		if got := reply(r.Verify(t.Context(), msg(to).Recipient)); got != want {
			t.Errorf("%s: got %q, want %q", to, got, want)
		}
	}
}

// TestReads: whose an address is to send by.
func TestReads(t *testing.T) {
	r := newRig(t, "team: bob, alice, nosuch, x@y.example\nalice: bob\nlist: bob\nowner-list: alice\nbad: a b\ndeep: team\n@virtual.example: bob\n"+
		"loop: loop2\nloop2: loop\nbox: /var/box\n")
	for _, tt := range []struct {
		login, from string
		want        bool
		err         string
	}{
		{"bob", "bob@example.org", true, ""},
		{"bob", "BOB+x@virtual.example", true, ""},
		{"bob", "team@example.org", true, ""},
		{"bob", "Deep+x@virtual.example", true, ""},
		{"alice", "team@example.org", false, ""}, // bob reads alice's mail,
		{"alice", "alice@example.org", true, ""}, // but the name is alice's still
		{"bob", "alice@example.org", true, ""},
		{"alice", "bob@example.org", false, ""},
		{"bob", "list@example.org", false, ""}, // it has an owner
		{"bob", "owner-list@example.org", true, ""},
		{"bob", "anyone@virtual.example", true, ""},
		{"alice", "anyone@virtual.example", false, ""},
		{"bob", "carol@virtual.example", false, ""},
		{"carol@virtual.example", "carol@virtual.example", true, ""},
		{"carol", "carol@virtual.example", false, ""},
		{"bob", "nobody@example.org", false, ""},
		{"bob", "x@y.example", false, ""},
		{"bob", "bob@y.example", false, ""},
		{"bob", "box@example.org", false, ""},
		{"bob", "", false, ""},
		{"bob", "bad@example.org", false, "451 4.3.5 Local configuration error"},
		{"bob", "loop@example.org", false, "451 4.3.5 Local configuration error"},
	} {
		var p address.Path
		if tt.from != "" {
			p = msg(tt.from).Recipient
		}
		got, err := r.Reads(t.Context(), tt.login, p)
		if got != tt.want || reply(err) != tt.err {
			t.Errorf("%s as %s: got %v, %q, want %v, %q", tt.login, tt.from, got, reply(err), tt.want, tt.err)
		}
	}
	if strings.Contains(r.log.String(), "not-stored") {
		t.Errorf("a question is in the log\n%s", r.log.String())
	}
}

// TestVerifyAgrees: who is accepted is not bounced, whatever stands in the tables.
func TestVerifyAgrees(t *testing.T) {
	for _, aliases := range []string{"", "root: bob\n", "postmaster: bob\n", "@virtual.example: bob\nteam@virtual.example: alice\nsales: alice\n", "postmaster: postmaster\n", "abuse: abuse\n"} {
		r := newRig(t, aliases)
		for _, local := range []string{"bob", "bob+x", "BOB", "nobody", "nobody+x", "team", "team+x", "sales", "Sales+x", "postmaster", "POSTMASTER", "abuse", "root", "carol", "x%y.example", "x!bob", "+bob"} {
			for _, domain := range []string{"example.org", "virtual.example"} {
				p := address.Path{Local: local, Domain: domain}
				said := r.Verify(t.Context(), p)
				j := &job{a: r.Agent, m: Message{Recipient: p}, silent: true}
				if err := j.expand(t.Context()); reply(err) != reply(said) || err == nil && len(j.targets) == 0 {
					t.Errorf("%s with %q: told %q, then %q and %s", p, aliases, reply(said), reply(err), show(j.targets))
				}
			}
		}
	}
}

// TestRootTouchesNothing: a process that is root gives users' mail to another process, or becomes the user; one that is not does it itself.
func TestRootTouchesNothing(t *testing.T) {
	r := newRig(t, "team: bob, uid, /srv/x%/%n\nlast: bob, uid\n")
	uid := 4711
	if os.Geteuid() != 0 {
		uid = os.Geteuid()
	}
	r.write("users", fmt.Sprintf("bob:{PLAIN}x\nuid:{PLAIN}x:%d:%d::%s/bob:\n", uid, uid, r.dir))
	if err := r.Users.Reload(); err != nil {
		t.Fatal(err)
	}
	var as []string
	r.AsUser = func(_ context.Context, u userdb.User, to destination.Destination, m Message) (Outcome, error) {
		as = append(as, fmt.Sprintf("%s %s %s %s", u, to, m.Recipient, m.Original))
		return Delivered, nil
	}
	if os.Geteuid() != 0 {
		if _, err := r.Deliver(t.Context(), msg("uid")); err != nil || len(as) != 0 || len(r.stored("mail/example.org/uid")) != 1 {
			t.Errorf("got %v, %v", err, as)
		}
		return
	}
	if _, err := r.Deliver(t.Context(), msg("team")); err != nil {
		t.Fatal(err)
	}
	if got, want := strings.Join(as, "; "), "uid  uid@example.org team@example.org; nobody mbox:/srv/x%%/%%n team@example.org team@example.org"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	as = nil
	r.Become = func(u userdb.User) error { return fmt.Errorf("would be %s", u) }
	if _, err := r.Deliver(t.Context(), msg("last")); err == nil || !strings.Contains(err.Error(), "would be uid") || len(as) != 0 {
		t.Errorf("the last one: got %v, %v", err, as)
	}
	r.AsUser, r.Become = nil, nil
	if _, err := r.Deliver(t.Context(), msg("uid")); reply(err) != "451 4.3.5 Local configuration error" {
		t.Errorf("without a way: got %v", err)
	}
}
