package mailstore

import (
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/postel-mail/postel/internal/destination"
	"github.com/postel-mail/postel/internal/mailbox"
	"github.com/postel-mail/postel/internal/maildir"
	"github.com/postel-mail/postel/internal/mbox"
	"github.com/postel-mail/postel/internal/userdb"
)

func parse(t *testing.T, s string) destination.Destination {
	t.Helper()
	d, err := destination.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestOpen(t *testing.T) {
	bare := userdb.User{Name: "alice", Home: "/home/alice"}
	listed := userdb.User{Name: "bob", Domain: "b.example", Home: "/srv/bob"}
	for _, c := range []struct {
		d    string
		u    userdb.User
		want mailbox.Store
	}{
		{"maildir:~/Maildir", bare, maildir.New("/home/alice/Maildir")},
		{"maildir:/srv/%d/%n/", bare, maildir.New("/srv/a.example/alice")},
		{"mbox:/srv/%u", bare, mbox.New("/srv/alice")},
		{"mbox:/srv/%u", listed, mbox.New("/srv/bob@b.example")},
		{"mbox:/srv/%d/%n", listed, mbox.New("/srv/b.example/bob")},
		{"maildir:~/Maildir", userdb.User{Name: "x"}, nil},
		{"maildir:/srv/%n", userdb.User{Name: ".."}, nil},
		{"smtp://x", bare, nil},
	} {
		got, err := Open(parse(t, c.d), Words(c.u, []string{"a.example", "b.example"}))
		if !reflect.DeepEqual(got, c.want) || (err == nil) != (c.want != nil) {
			t.Errorf("%s for %s: got %+v, %v; want %+v", c.d, c.u, got, err, c.want)
		}
	}
}

func TestSpoolGroup(t *testing.T) {
	dir := t.TempDir()
	if os.Geteuid() != 0 { // no directory of ours can be root's
		if gid, ok := SpoolGroup(parse(t, "mbox:"+dir+"/x"), destination.Words{}); ok {
			t.Errorf("our own directory gives group %d", gid)
		}
		return
	}
	for _, c := range []struct {
		d        string
		uid, gid int
		mode     os.FileMode
		want     int
	}{
		{"mbox:" + dir + "/%n", 0, 8, 0o775, 8},
		{"mbox:" + dir + "/%n", 0, 8, 0o755, 0},
		{"mbox:" + dir + "/%n", 0, 0, 0o775, 0},
		{"mbox:" + dir + "/%n", 1000, 8, 0o775, 0},
		{"mbox:" + dir + "/x/%n", 0, 8, 0o775, 0},
		{"mbox:~/alice", 0, 8, 0o775, 0},
		{"maildir:" + dir + "/%n", 0, 8, 0o775, 0},
	} {
		if err := os.Chown(dir, c.uid, c.gid); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(dir, c.mode); err != nil {
			t.Fatal(err)
		}
		gid, ok := SpoolGroup(parse(t, c.d), destination.Words{User: "alice", Local: "alice", Home: dir})
		if gid != c.want || ok != (c.want != 0) {
			t.Errorf("%s of %d:%d with mode %v: got %d, %v; want %d", filepath.Base(c.d), c.uid, c.gid, c.mode, gid, ok, c.want)
		}
	}
}
