package maildir

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postel-mail/postel/internal/mailbox"
	"github.com/postel-mail/postel/internal/mailbox/mailboxtest"
	"github.com/postel-mail/postel/internal/status"
)

func TestStore(t *testing.T) {
	mailboxtest.Run(t, func(path string) mailbox.Store { return New(path) })
}

func deliver(t *testing.T, path, id, body string) {
	t.Helper()
	err := New(path).Deliver(context.Background(), mailbox.Delivery{ID: id, Arrival: time.Unix(1700000000, 123456789), Body: strings.NewReader(body)})
	if err != nil {
		t.Fatal(err)
	}
}

func list(t *testing.T, dir string) []string {
	t.Helper()
	var names []string
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func open(t *testing.T, path string) *session {
	t.Helper()
	s, err := New(path).Open(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s.(*session)
}

func body(t *testing.T, s *session, i int) string {
	t.Helper()
	r, err := s.Body(i)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestName(t *testing.T) {
	path := filepath.Join(t.TempDir(), "Maildir")
	deliver(t, path, "0ABC-1", "A: b\r\n\r\nx\r\n")
	names := list(t, path+"/new")
	if len(names) != 1 || !regexp.MustCompile(`^1700000000\.M123456Q0ABC-1\.[^,]+,S=8,W=11$`).MatchString(names[0]) {
		t.Errorf("new/ has %q", names)
	}
	st, err := os.Stat(path + "/new/" + names[0])
	if err != nil || st.Mode() != 0o600 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	for _, dir := range []string{path, path + "/tmp", path + "/new", path + "/cur"} {
		if st, err := os.Stat(dir); err != nil || st.Mode().Perm() != 0o700 {
			t.Errorf("%s: mode %v, %v", dir, st.Mode(), err)
		}
	}
	deliver(t, path, "", "x\n")
	if names := list(t, path+"/new"); len(names) != 2 || !regexp.MustCompile(`^1700000000\.M123456P\d+Q\d+R[0-9a-f]{8}\.[^,]+,S=2,W=3$`).MatchString(names[0]) {
		t.Errorf("new/ has %q", names)
	}
}

// A second try of a delivery must find the first, wherever a mail program has put it, and nothing else.
func TestSecondTry(t *testing.T) {
	path := filepath.Join(t.TempDir(), "Maildir")
	for _, id := range []string{"A-1", "A-11", "A.1", "a-1", "../x", strings.Repeat("long", 60), strings.Repeat("long", 60) + "x"} {
		deliver(t, path, id, "N: 1\n\n")
	}
	count := func() int { return len(list(t, path+"/new")) + len(list(t, path+"/cur")) }
	if count() != 7 {
		t.Fatalf("%d files after 7 deliveries", count())
	}
	for _, name := range list(t, path+"/new") {
		if strings.Contains(name, "QA-1.") {
			if err := os.Rename(path+"/new/"+name, path+"/cur/"+name+":2,FS"); err != nil {
				t.Fatal(err)
			}
		}
	}
	deliver(t, path, "A-1", "N: 1\nReceived: again, another size\n\n")
	deliver(t, path, "A-11", "N: 1\n\n")
	if count() != 7 {
		t.Errorf("%d files after second tries: %q", count(), list(t, path+"/new"))
	}
	if left := list(t, path+"/tmp"); len(left) > 0 {
		t.Errorf("tmp/ has %q", left)
	}
}

func TestForeignFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "Maildir")
	deliver(t, path, "1", "x\n")
	write := func(name, content string) {
		if err := os.WriteFile(filepath.Join(path, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("new/1600000001.V801I1M5.host", "a\nb")                 // Postfix, no end of line
	write("cur/1600000000.M7P1.host,S=4,W=6:2,S", "a\nb\n")       // Dovecot
	write("cur/1600000000.M7P1.host,S=3:2,", "a\r\n")             // the same up to sizes
	write("cur/no number:2,", "\n")                               //
	write("cur/.hidden", "x")                                     //
	write("cur/1600000002.x,W=99999999999999999999:2,S", "y\r\n") // a size that cannot be
	write("new/1600000003.\xff", "")
	if err := errors.Join(os.Symlink("/etc/passwd", path+"/cur/1600000004.link"), unix.Mkfifo(path+"/cur/1600000005.fifo", 0o600), os.Mkdir(path+"/new/1600000006.dir", 0o700)); err != nil {
		t.Fatal(err)
	}
	s := open(t, path)
	type message struct {
		uid  string
		size int64
		body string
	}
	want := []message{
		{hash("no number"), 2, "\n"},
		{"1600000000.M7P1.host", 3, "a\r\n"},
		{hash("1600000000.M7P1.host,S=4,W=6"), 6, "a\nb\n"},
		{"1600000001.V801I1M5.host", 6, "a\nb"},
		{"1600000002.x", 3, "y\r\n"},
		{hash("1600000003.\xff"), 0, ""},
		{s.Messages()[len(s.Messages())-1].UID, 3, "x\n"},
	}
	var got []message
	for i, m := range s.Messages() {
		got = append(got, message{m.UID, m.Size, body(t, s, i)})
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

// Other programs move and mark messages while a session reads them.
func TestMovedMeanwhile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "Maildir")
	for _, n := range []string{"1", "2", "3"} {
		deliver(t, path, n, "N: "+n+"\n\n")
	}
	s := open(t, path)
	var uids []string
	for _, m := range s.Messages() {
		uids = append(uids, m.UID)
	}
	for i, name := range list(t, path+"/new") {
		if i == 0 {
			continue
		}
		if err := os.Rename(path+"/new/"+name, path+"/cur/"+name+":2,"); err != nil {
			t.Fatal(err)
		}
	}
	if got := body(t, s, 1); got != "N: 2\n\n" {
		t.Errorf("message 2 is %q", got)
	}
	for _, name := range list(t, path+"/cur") {
		if err := os.Rename(path+"/cur/"+name, path+"/cur/"+name+"RS"); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Remove([]int{0, 1}); err != nil {
		t.Fatal(err)
	}
	for _, name := range list(t, path+"/cur") {
		if err := os.Remove(path + "/cur/" + name); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Body(2); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Body of a message that is gone: %v", err)
	}
	if err := s.Remove([]int{2}); err != nil {
		t.Errorf("Remove of a message that is gone: %v", err)
	}
	s.Close()

	deliver(t, path, "1", "N: 1\n\n") // it was removed, so nothing knows it
	if s = open(t, path); len(s.Messages()) != 1 || s.Messages()[0].UID != uids[0] {
		t.Errorf("messages are %v, UIDs were %v", s.Messages(), uids)
	}
}

func TestRemoveSaysWhatFailed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "Maildir")
	deliver(t, path, "1", "N: 1\n\n")
	deliver(t, path, "2", "N: 2\n\n")
	s := open(t, path)
	name := list(t, path+"/new")[0]
	if err := errors.Join(os.Remove(path+"/new/"+name), os.Mkdir(path+"/new/"+name, 0o700)); err != nil {
		t.Fatal(err)
	}
	err := s.Remove([]int{0, 1})
	if err == nil || !strings.Contains(err.Error(), "1 of 2 messages not removed") {
		t.Errorf("got %v", err)
	}
	if left := list(t, path+"/new"); !slices.Equal(left, []string{name}) {
		t.Errorf("left are %q", left)
	}
}

// Below the Maildir no symbolic link is followed; the Maildir itself may be one.
func TestSymlinks(t *testing.T) {
	path := filepath.Join(t.TempDir(), "Maildir")
	elsewhere := t.TempDir()
	if err := errors.Join(os.Mkdir(path, 0o700), os.Symlink(elsewhere, path+"/new")); err != nil {
		t.Fatal(err)
	}
	if err := New(path).Deliver(context.Background(), mailbox.Delivery{Body: strings.NewReader("x\n")}); err == nil {
		t.Error("delivered through a symbolic link")
	}
	if err := errors.Join(os.Remove(path+"/new"), os.Symlink("/etc/passwd", path+"/"+lockName)); err != nil {
		t.Fatal(err)
	}
	if _, err := New(path).Open(context.Background()); err == nil {
		t.Error("opened with a lock file that is a symbolic link")
	}
	if names := list(t, elsewhere); len(names) > 0 {
		t.Errorf("left elsewhere: %q", names)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := errors.Join(os.Remove(path+"/"+lockName), os.Symlink(path, link)); err != nil {
		t.Fatal(err)
	}
	deliver(t, link, "1", "x\n")
	if s := open(t, link); len(s.Messages()) != 1 {
		t.Errorf("%d messages behind the link", len(s.Messages()))
	}
}

func TestFull(t *testing.T) {
	path := filepath.Join(t.TempDir(), "Maildir")
	deliver(t, path, "1", "x\n")
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	_, werr := full.Write([]byte("x"))
	body := io.MultiReader(strings.NewReader("x\n"), failing{werr})
	err = New(path).Deliver(context.Background(), mailbox.Delivery{ID: "2", Body: body})
	if s := status.Of(err); s.Code != 452 || s.Enhanced != "4.2.2" {
		t.Errorf("no space: got %v", err)
	}
	if names := append(list(t, path+"/tmp"), list(t, path+"/new")...); len(names) != 1 {
		t.Errorf("left are %q", names)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func FuzzNames(f *testing.F) {
	for _, name := range []string{"1700000000.M1P2.host,S=1,W=2:2,S", "", ",", ":", ",S=,W=", "1.M,W=-1", strings.Repeat("9", 300), "a b", "Q1.M2QA-1.h"} {
		f.Add(name, "A-1")
	}
	f.Fuzz(func(t *testing.T, name, id string) {
		base := name[:baseLen(name)]
		u := uid(base)
		if len(u) < 1 || len(u) > 70 || strings.ContainsFunc(u, func(r rune) bool { return r < 0x21 || r > 0x7e }) {
			t.Errorf("uid of %q is %q", base, u)
		}
		if u != uid(base) {
			t.Errorf("uid of %q is not stable", base)
		}
		if n, ok := sentSize(base); ok && (n < 0 || n >= maxSent) {
			t.Errorf("sentSize of %q is %d", base, n)
		}
		arrived(name)
		made := deliveryName(time.Unix(1700000000, 0), id)
		if !hasKey(made+",S=1:2,S", idKey(id)) || strings.ContainsAny(made, "/\x00:,") || len(made) > 200 {
			t.Errorf("name of delivery %q is %q", id, made)
		}
		if other := name; other != id && hasKey(made, idKey(other)) {
			t.Errorf("deliveries %q and %q have one key", id, other)
		}
	})
}
