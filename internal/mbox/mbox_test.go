package mbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	gombox "github.com/emersion/go-mbox"
	"golang.org/x/sys/unix"

	"github.com/postel-mail/postel/internal/durable"
	"github.com/postel-mail/postel/internal/mailbox"
	"github.com/postel-mail/postel/internal/mailbox/mailboxtest"
	"github.com/postel-mail/postel/internal/status"
)

func TestStore(t *testing.T) {
	mailboxtest.Run(t, func(path string) mailbox.Store { return New(path) })
}

var arrival = time.Date(2026, 2, 3, 4, 5, 6, 0, time.FixedZone("", 3600))

func delivery(sender, body string) mailbox.Delivery {
	return mailbox.Delivery{Arrival: arrival, Sender: sender, Header: "Return-Path: <>\n", Body: strings.NewReader(body)}
}

func deliver(t *testing.T, path, body string) {
	t.Helper()
	if err := New(path).Deliver(context.Background(), delivery("a@example.org", body)); err != nil {
		t.Fatal(err)
	}
}

func content(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
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

func bodyOf(t *testing.T, s *session, i int) string {
	t.Helper()
	r, err := s.Body(i)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestForm(t *testing.T) {
	path := filepath.Join(t.TempDir(), "box")
	deliver(t, path, "A: b\r\n\r\nFrom x\r\n>From y\r\nz")
	const first = "From a@example.org Tue Feb  3 03:05:06 2026\nReturn-Path: <>\nA: b\n\n>From x\n>>From y\nz\n\n"
	if got := content(t, path); got != first {
		t.Errorf("got %q, want %q", got, first)
	}
	for sender, want := range map[string]string{
		"": "MAILER-DAEMON", `"a b"@c`: `"a-b"@c`, "a\nFrom b": "a-From-b", strings.Repeat("x", 999): strings.Repeat("x", 320),
	} {
		if got := fromSender(sender); got != want {
			t.Errorf("sender %q: got %q, want %q", sender, got, want)
		}
	}
	if st, err := os.Stat(path); err != nil || st.Mode() != 0o600 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	if names, _ := os.ReadDir(filepath.Dir(path)); len(names) != 1 {
		t.Errorf("left behind: %v", names)
	}
}

// What stands at the end of the file, the next message begins behind an empty line.
func TestAppendBehind(t *testing.T) {
	for _, c := range []struct{ before, want string }{
		{"", ""},
		{"From x\nA: b\n\nc\n\n", "From x\nA: b\n\nc\n\n"},
		{"From x\nA: b\n\nc\n", "From x\nA: b\n\nc\n\n"},
		{"From x\nA: b\n\nc", "From x\nA: b\n\nc\n\n"},
		{"From ", "From \n\n"},
	} {
		path := filepath.Join(t.TempDir(), "box")
		write(t, path, c.before)
		var uid string
		s := open(t, path)
		if len(s.Messages()) > 0 {
			uid = s.Messages()[0].UID
		}
		s.Close()
		deliver(t, path, "x\n")
		want := c.want + "From a@example.org Tue Feb  3 03:05:06 2026\nReturn-Path: <>\nx\n\n"
		if got := content(t, path); got != want {
			t.Errorf("behind %q: got %q, want %q", c.before, got, want)
		}
		if s = open(t, path); uid != "" && s.Messages()[0].UID != uid {
			t.Errorf("behind %q: the UID of what was there changed", c.before)
		}
	}
}

func TestForeign(t *testing.T) {
	path := filepath.Join(t.TempDir(), "box")
	write(t, path, "From x  Mon Jan  1 00:00:00 2024\nA: 1\n\nbody\nFrom here it goes on\n>From\n\n"+
		"From y\r\nA: 2\r\n\r\nbody\r\n\r\n"+
		"From z\nA: 3\n\n>>From q\n\n\n"+
		"From e\n\n"+
		"From t\nA: 5\n\ntorn")
	want := []string{"A: 1\n\nbody\nFrom here it goes on\n>From\n", "A: 2\r\n\r\nbody\r\n", "A: 3\n\n>From q\n\n", "", "A: 5\n\ntorn"}
	sizes := []int64{6 + 2 + 6 + 22 + 7, 6 + 2 + 6, 6 + 2 + 9 + 2, 0, 6 + 2 + 6}
	s := open(t, path)
	if len(s.Messages()) != len(want) {
		t.Fatalf("got %v", s.Messages())
	}
	for i, m := range s.Messages() {
		if got := bodyOf(t, s, i); got != want[i] || m.Size != sizes[i] {
			t.Errorf("message %d: got %q, size %d; want %q, size %d", i, got, m.Size, want[i], sizes[i])
		}
	}
	for _, bad := range []string{"A: b\n\nx\n", "\nFrom x\n", "From", "x", "\x00", ">From x\n"} {
		write(t, path, bad)
		s.Close()
		if _, err := New(path).Open(context.Background()); !errors.Is(err, errNotMbox) {
			t.Errorf("%q: Open gave %v", bad, err)
		}
		if err := New(path).Deliver(context.Background(), delivery("", "x\n")); !errors.Is(err, errNotMbox) || content(t, path) != bad {
			t.Errorf("%q: Deliver gave %v, left %q", bad, err, content(t, path))
		}
	}
}

// UIDs stay when mail programs note what they did, and when other messages go.
func TestUID(t *testing.T) {
	const fresh = "From x\nA: 1\n\none\n\nFrom x\nA: 2\n\ntwo\n\nFrom x\nA: 2\n\ntwo\n\n"
	const marked = "From x\nStatus: RO\nX-IMAPbase: 1 2\n\tlong\nA: 1\nContent-Length: 4\n\none\n\nFrom x\nA: 2\nX-Status: A\n\ntwo\n\nFrom x\nA: 2\n\ntwo\n\n"
	uids := func(content string) (list []string) {
		items, err := scan(context.Background(), strings.NewReader(content))
		if err != nil {
			t.Fatal(err)
		}
		for _, item := range items {
			list = append(list, item.uid)
		}
		return list
	}
	want := uids(fresh)
	if len(want) != 3 || want[0] == want[1] || want[2] != want[1]+".2" {
		t.Errorf("uids are %q", want)
	}
	if got := uids(marked); !slices.Equal(got, want) {
		t.Errorf("marked: got %q, want %q", got, want)
	}
	if got := uids(fresh[strings.Index(fresh, "From x\nA: 2"):]); !slices.Equal(got, want[1:]) {
		t.Errorf("without the first: got %q, want %q", got, want[1:])
	}
	long := "From x\nA: 1\n\n" + strings.Repeat("line\n", 100_000)
	if got, other := uids(long+"a\n"), uids(long+"b\n"); got[0] != other[0] {
		t.Errorf("the UID of a long message depends on its end")
	}
}

func TestLocks(t *testing.T) {
	path := filepath.Join(t.TempDir(), "box")
	deliver(t, path, "1\n")
	impatient := &File{path: path}
	try := func(what string) {
		t.Helper()
		err := impatient.Deliver(context.Background(), delivery("", "2\n"))
		if s := status.Of(err); s.Enhanced != "4.2.0" || !errors.Is(err, durable.ErrLocked) {
			t.Errorf("%s: Deliver gave %v", what, err)
		}
		if _, err := impatient.Open(context.Background()); !errors.Is(err, mailbox.ErrInUse) {
			t.Errorf("%s: Open gave %v", what, err)
		}
	}
	write(t, path+".lock", fmt.Sprintf("%d", os.Getpid()))
	try("dot lock")
	os.Remove(path + ".lock")

	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lock := unix.Flock_t{Type: unix.F_RDLCK}
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &lock); err != nil {
		t.Fatal(err)
	}
	try("fcntl lock")
	waited := make(chan error)
	go func() { waited <- New(path).Deliver(context.Background(), delivery("", "3\n")) }()
	f.Close()
	if err := <-waited; err != nil {
		t.Errorf("Deliver after a wait: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	write(t, path+".lock", fmt.Sprintf("%d", os.Getpid()))
	cancel()
	if err := New(path).Deliver(ctx, delivery("", "4\n")); !errors.Is(err, context.Canceled) {
		t.Errorf("Deliver with a cancelled context while locked: %v", err)
	}
}

func TestRefused(t *testing.T) {
	dir := t.TempDir()
	path, target := filepath.Join(dir, "box"), filepath.Join(dir, "target")
	write(t, target, "")
	for what, make := range map[string]func() error{
		"symbolic link": func() error { return os.Symlink(target, path) },
		"hard link":     func() error { return os.Link(target, path) },
		"FIFO":          func() error { return unix.Mkfifo(path, 0o600) },
		"directory":     func() error { return os.Mkdir(path, 0o700) },
	} {
		if err := make(); err != nil {
			t.Fatal(err)
		}
		if err := New(path).Deliver(context.Background(), delivery("", "x\n")); err == nil {
			t.Errorf("delivered into a %s", what)
		}
		if _, err := New(path).Open(context.Background()); err == nil {
			t.Errorf("opened a %s", what)
		}
		os.Remove(path)
	}
	if got := content(t, target); got != "" {
		t.Errorf("the target has %q", got)
	}
	if os.Geteuid() == 0 {
		if err := errors.Join(os.Remove(target), os.WriteFile(path, nil, 0o666), os.Chown(path, 12345, 12345)); err != nil {
			t.Fatal(err)
		}
		if err := New(path).Deliver(context.Background(), delivery("", "x\n")); err == nil || !strings.Contains(err.Error(), "belongs to user 12345") {
			t.Errorf("delivered into another's file: %v", err)
		}
	}
}

func TestCutBack(t *testing.T) {
	path := filepath.Join(t.TempDir(), "box")
	write(t, path, "From x\nA: b\n\nno end")
	body := io.MultiReader(bytes.NewReader(make([]byte, 300_000)), iotest.ErrReader(unix.EDQUOT))
	err := New(path).Deliver(context.Background(), mailbox.Delivery{Body: body})
	if s := status.Of(err); s.Code != 452 || s.Enhanced != "4.2.2" {
		t.Errorf("got %v", err)
	}
	if got := content(t, path); got != "From x\nA: b\n\nno end" {
		t.Errorf("left %.80q", got)
	}
}

// Another program changes the file under an open session.
func TestChangedMeanwhile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "box")
	for i := range 4 {
		deliver(t, path, fmt.Sprintf("N: %d\n\n", i))
	}
	all := content(t, path)
	s := open(t, path)
	cut := strings.Index(all, "N: 0")
	cut += strings.Index(all[cut:], "From ")
	write(t, path, all[cut:]) // rewritten in place without the first
	if _, err := s.Body(2); !errors.Is(err, errChanged) {
		t.Errorf("Body gave %v", err)
	}
	if err := s.Remove([]int{0, 2}); err != nil { // 0 is gone already
		t.Fatal(err)
	}
	got := content(t, path)
	if strings.Contains(got, "N: 0") || !strings.Contains(got, "N: 1") || strings.Contains(got, "N: 2") || !strings.Contains(got, "N: 3") {
		t.Errorf("left %q", got)
	}
	s.Close()
	s = open(t, path)
	write(t, path, "From x\nnot long\n")
	if _, err := s.Body(1); !errors.Is(err, errChanged) {
		t.Errorf("Body behind the end gave %v", err)
	}
	os.Remove(path)
	if err := s.Remove([]int{0}); err != nil {
		t.Errorf("Remove without a file: %v", err)
	}
}

func TestRewriteKeepsMode(t *testing.T) {
	path := filepath.Join(t.TempDir(), "box")
	deliver(t, path, "1\n")
	deliver(t, path, "2\n")
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 {
		if err := os.Chown(path, -1, 12345); err != nil {
			t.Fatal(err)
		}
	}
	var before, after unix.Stat_t
	s := open(t, path)
	if err := errors.Join(unix.Stat(path, &before), os.WriteFile(filepath.Dir(path)+"/.box.postel", []byte("left by a crash"), 0o600),
		s.Remove([]int{0}), unix.Stat(path, &after)); err != nil {
		t.Fatal(err)
	}
	if before.Mode != after.Mode || before.Gid != after.Gid || before.Uid != after.Uid || before.Ino == after.Ino {
		t.Errorf("before %+v, after %+v", before, after)
	}
	if names, _ := os.ReadDir(filepath.Dir(path)); len(names) != 1 {
		t.Errorf("left behind: %v", names)
	}
	if got := bodyOf(t, s, 1); got != "Return-Path: <>\n2\n" { // of the file that was
		t.Errorf("after Remove: %q", got)
	}
}

// Writers and a session that removes, all at once: nothing is lost, merged or torn.
func TestManyAtOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "box")
	const writers, each = 4, 25
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				if err := New(path).Deliver(context.Background(), delivery("", fmt.Sprintf("N: %d.%d\n\nFrom x\n", w, i))); err != nil {
					t.Error(err)
				}
			}
		})
	}
	seen := map[string]bool{}
	for len(seen) < writers*each && !t.Failed() {
		s := open(t, path)
		for i := range s.Messages() {
			b := bodyOf(t, s, i)
			if seen[b] || !strings.HasSuffix(b, "\n\nFrom x\n") {
				t.Errorf("message %q is torn, or there twice", b)
			}
			seen[b] = true
		}
		all := make([]int, len(s.Messages()))
		for i := range all {
			all[i] = i
		}
		if err := errors.Join(s.Remove(all), s.Close()); err != nil {
			t.Error(err)
		}
	}
	wg.Wait()
	if st, err := os.Stat(path); err != nil || st.Size() != 0 {
		t.Errorf("%v octets are left, %v", st.Size(), err)
	}
}

// Another mboxo reader finds the same messages; mboxrd's further quotes are all that it leaves in.
func TestOtherReader(t *testing.T) {
	path := filepath.Join(t.TempDir(), "box")
	bodies := []string{"A: 1\n\none\n", "A: 2\n\nFrom x\n\nFrom y\n>From z\n", "A: 3\n\n.\n\nlast\n"}
	for _, b := range bodies {
		deliver(t, path, b)
	}
	r := gombox.NewReader(strings.NewReader(content(t, path)))
	for _, b := range bodies {
		m, err := r.NextMessage()
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(m)
		want := strings.ReplaceAll("Return-Path: <>\n"+strings.ReplaceAll(b, "\n>From ", "\n>>From "), "\n", "\r\n")
		if string(got) != want || err != nil {
			t.Errorf("got %q, %v; want %q", got, err, want)
		}
	}
	if _, err := r.NextMessage(); err != io.EOF {
		t.Errorf("after the last: %v", err)
	}
}

func FuzzQuoting(f *testing.F) {
	f.Add([]byte("From x\n>From y\n>>\nFro\n>"), 3)
	f.Fuzz(func(t *testing.T, text []byte, cut int) {
		cut = max(0, min(cut, len(text)))
		apply := func(out bool, text []byte) []byte {
			q := quoting{out: out}
			b := q.append(nil, text[:min(cut, len(text))])
			b = q.append(b, text[min(cut, len(text)):])
			return q.flush(b)
		}
		quoted := apply(false, text)
		for line := range bytes.SplitSeq(quoted, []byte("\n")) {
			if bytes.HasPrefix(line, []byte(fromWord)) {
				t.Errorf("%q quoted is %q", text, quoted)
			}
		}
		if got := apply(true, quoted); !bytes.Equal(got, text) {
			t.Errorf("%q quoted and back is %q", text, got)
		}
	})
}

// FuzzRoundTrip delivers two messages into a file and reads them back.
func FuzzRoundTrip(f *testing.F) {
	f.Add("A: b\n\nFrom x\n\n", "", "a@b")
	f.Add("\n\n\n", "From \r\n", "")
	f.Add("x", "\x00\r", " ")
	path := filepath.Join(f.TempDir(), "box")
	f.Fuzz(func(t *testing.T, one, two, sender string) {
		os.Remove(path)
		m := New(path)
		for _, b := range []string{one, two} {
			if err := m.Deliver(context.Background(), mailbox.Delivery{Sender: sender, Body: strings.NewReader(b)}); err != nil {
				t.Fatal(err)
			}
		}
		s, err := m.Open(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if len(s.Messages()) != 2 {
			t.Fatalf("%d messages from %q and %q", len(s.Messages()), one, two)
		}
		for i, b := range []string{one, two} {
			var want bytes.Buffer
			if err := mailbox.CopyLines(&want, strings.NewReader(b)); err != nil {
				t.Fatal(err)
			}
			var size mailbox.Size
			_, _ = size.Write(want.Bytes())
			if got := bodyOf(t, s.(*session), i); got != want.String() || s.Messages()[i].Size != size.Octets() {
				t.Errorf("%q: got %q, size %d; want size %d", b, got, s.Messages()[i].Size, size.Octets())
			}
		}
	})
}

// FuzzScan reads any file: messages must lie in it, in order, and be as long as their size says.
func FuzzScan(f *testing.F) {
	f.Add([]byte("From x\nA: b\n\nc\n\nFrom y\n\n"))
	f.Add([]byte("From \r\n\r\nFrom \r\n>From \n>"))
	f.Fuzz(func(t *testing.T, text []byte) {
		items, err := scan(context.Background(), bytes.NewReader(text))
		if err != nil {
			return
		}
		var end int64
		uids := map[string]bool{}
		for i, item := range items {
			if item.from != end || item.start < item.from || item.end < item.start || item.next < item.end || item.next > int64(len(text)) || uids[item.uid] {
				t.Fatalf("%q: item %d of %+v", text, i, items)
			}
			end, uids[item.uid] = item.next, true
			var size mailbox.Size
			q := quoting{out: true}
			_, _ = size.Write(q.flush(q.append(nil, text[item.start:item.end])))
			if size.Octets() != item.size {
				t.Fatalf("%q: item %d has size %d, want %d", text, i, item.size, size.Octets())
			}
		}
		if end != int64(len(text)) {
			t.Fatalf("%q: items end at %d", text, end)
		}
	})
}
