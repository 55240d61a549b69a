package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/postel-mail/postel/test/build"
)

// bin is the folder of the program under test, where every user can run it.
var bin string

func TestMain(m *testing.M) { os.Exit(build.Main(m, &bin, ".")) }

// nobody is a user without rights, whom root can become.
const nobody = 65534

// rig is a host for example.org in a directory of its own, with the user bob, and the rights under which deliver runs: the test's own, or
// those of nobody where the test is root.
type rig struct {
	t    *testing.T
	dir  string
	as   *syscall.Credential
	home string // of bob
	env  []string
}

func newRig(t *testing.T) *rig {
	t.Helper()
	dir, err := os.MkdirTemp(bin, "host-") // t.TempDir is closed to other users
	r := &rig{t: t, dir: dir}
	r.must(errors.Join(err, os.Chmod(dir, 0o755)))
	t.Cleanup(func() { os.RemoveAll(dir) })
	r.home = r.path("home")
	r.must(os.Mkdir(r.home, 0o700))
	if os.Geteuid() == 0 {
		r.as = &syscall.Credential{Uid: nobody, Gid: nobody}
		r.must(os.Chown(r.home, nobody, nobody))
	}
	r.write("postel.toml", fmt.Sprintf("hostname = \"mail.example.org\"\ndomains = [\"example.org\"]\nusers = %q\naliases = %q\n", r.path("users"), r.path("aliases")))
	r.write("users", fmt.Sprintf("bob:{PLAIN}x::::%s:\n", r.home))
	r.write("aliases", "team: bob, nosuch\nbroken: a b\n")
	return r
}

func (r *rig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) path(name string) string { return filepath.Join(r.dir, name) }

func (r *rig) write(name, text string) {
	r.t.Helper()
	r.must(os.WriteFile(r.path(name), []byte(text), 0o644))
}

// forward writes bob's .forward.
func (r *rig) forward(text string) {
	r.t.Helper()
	r.write("home/.forward", text)
	if r.as != nil {
		r.must(os.Chown(r.path("home/.forward"), nobody, nobody))
	}
}

// result is what a run of deliver left.
type result struct {
	exit int
	last string // line on stderr
}

const simple = "Subject: test\n\nbody\n"

// run runs deliver with standard input in.
func (r *rig) run(in io.Reader, args ...string) result {
	r.t.Helper()
	var stderr bytes.Buffer
	cmd := exec.Command(bin+"/deliver", append([]string{"-C", r.path("postel.toml")}, args...)...)
	cmd.Stdin, cmd.Stderr, cmd.Dir = in, &stderr, "/"
	cmd.Env = append([]string{"PATH=/usr/bin:/bin", "HOME=" + r.home}, r.env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: r.as}
	err := cmd.Run()
	if err != nil && cmd.ProcessState == nil {
		r.t.Fatal(err)
	}
	lines := strings.Split(strings.TrimRight(stderr.String(), "\n"), "\n")
	return result{cmd.ProcessState.ExitCode(), lines[len(lines)-1]}
}

func (r *rig) deliver(args ...string) result {
	r.t.Helper()
	return r.run(strings.NewReader(simple), args...)
}

// ok runs deliver, which must succeed.
func (r *rig) ok(args ...string) {
	r.t.Helper()
	if got := r.deliver(args...); got.exit != 0 || got.last != "" {
		r.t.Fatalf("%q: exit %d, %q", args, got.exit, got.last)
	}
}

// check gives what is wrong with the aliases.
func (r *rig) check() string {
	r.t.Helper()
	cmd := exec.Command(bin+"/deliver", "-C", r.path("postel.toml"), "--check")
	out, err := cmd.CombinedOutput()
	if err != nil && cmd.ProcessState == nil {
		r.t.Fatal(err)
	}
	return strings.ReplaceAll(string(out), "deliver: "+r.path("aliases"), "")
}

// stored gives the messages in a Maildir.
func (r *rig) stored(maildir string) []string {
	r.t.Helper()
	files, err := filepath.Glob(maildir + "/new/*")
	r.must(err)
	var all []string
	for _, f := range files {
		b, err := os.ReadFile(f)
		r.must(err)
		all = append(all, string(b))
	}
	slices.Sort(all)
	return all
}

func (r *rig) expect(maildir string, want ...string) {
	r.t.Helper()
	if got := r.stored(maildir); !slices.Equal(got, want) {
		r.t.Errorf("%s: got %.300q, want %.300q", maildir, got, want)
	}
}

func TestExitStatus(t *testing.T) {
	r := newRig(t)
	r.write("bad.toml", "nonsense = 1\n")
	r.write("file", "in the way\n")
	r.write("mbox", "")
	r.must(os.Symlink("mbox", r.path("link")))
	to := func(d string) []string { return []string{"--to", d, "x@y.example"} }
	for _, tt := range []struct {
		args []string
		exit int
		last string
	}{
		{[]string{"--help"}, 0, ""},
		{[]string{"--version"}, 0, ""},
		{[]string{"bob"}, 0, ""},
		{[]string{"--", "bob@example.org"}, 0, ""},
		{[]string{"<Bob+x@EXAMPLE.ORG>", "-f", "<>"}, 0, ""},
		{[]string{"-f", "", "bob"}, 0, ""},
		{[]string{"-f", "-oQ/tmp@y.example", "bob"}, 0, ""},
		{[]string{"-f", "john doe@y.example", "bob"}, 0, ""},
		{[]string{"-f", "a@b@c.example", "bob"}, 69, "deliver: 5.1.7 Bad sender address"},
		{[]string{"-f", "a\n@c.example", "bob"}, 69, "deliver: 5.1.7 Bad sender address"},
		{[]string{"nosuch"}, 67, "deliver: 5.1.1 User unknown"},
		{[]string{"nosuch@example.org"}, 67, "deliver: 5.1.1 User unknown"},
		{[]string{"team"}, 67, "deliver: 5.1.1 User unknown"},
		{[]string{""}, 69, "deliver: 5.1.3 Bad recipient address"},
		{[]string{"<>"}, 69, "deliver: 5.1.3 Bad recipient address"},
		{[]string{"a@b@c"}, 69, "deliver: 5.1.3 Bad recipient address"},
		{[]string{"bob@other.example"}, 69, "deliver: 5.7.1 Mail for this domain is not delivered here"},
		{[]string{"broken"}, 75, "deliver: 4.3.5 Local configuration error"},
		{[]string{"--nosuchflag", "bob"}, 75, "deliver: 4.3.5 Cannot deliver with this command line or configuration"},
		{[]string{"bob", "alice"}, 75, "deliver: 4.3.5 Cannot deliver with this command line or configuration"},
		{[]string{"__complete", "bob"}, 75, "deliver: 4.3.5 Cannot deliver with this command line or configuration"},
		{[]string{"--", "__complete"}, 67, "deliver: 5.1.1 User unknown"},
		{[]string{"-C", r.path("bad.toml"), "bob"}, 75, "deliver: 4.3.5 Cannot deliver with this command line or configuration"},
		{[]string{"-C", "/nonexistent", "bob"}, 75, "deliver: 4.3.5 Cannot deliver with this command line or configuration"},
		{[]string{"--log", "loud", "bob"}, 75, "deliver: 4.3.5 Cannot deliver with this command line or configuration"},
		{to("nonsense"), 75, "deliver: 4.3.5 Cannot deliver with this command line or configuration"},
		{to("smtp://host"), 75, "deliver: 4.3.5 Local configuration error"},
		{to("discard:"), 0, ""},
		{to("pipe:/bin/false"), 75, "deliver: 4.3.0 Delivery program failed"},
		{to("pipe:/nonexistent"), 75, "deliver: 4.3.5 Delivery program cannot be started"},
		{to("pipe:/bin/sh -c 'exit 67'"), 67, "deliver: 5.1.1 User unknown"},
		{to("pipe:/bin/sh -c 'echo 5.6.0 spam; exit 65'"), 65, "deliver: 5.6.0 spam"},
		{to("pipe:/bin/sh -c 'exit 2'"), 75, "deliver: 4.3.0 Delivery program failed"},
		{to("maildir:" + r.path("file")), 75, "deliver: 4.3.0 Local error in processing, try again later"},
		{to("maildir:/proc/nosuch"), 75, "deliver: 4.3.0 Local error in processing, try again later"},
		{to("maildir:~/x"), 75, "deliver: 4.3.5 Local configuration error"},
		{to("mbox:" + r.path("link")), 75, "deliver: 4.3.0 Local error in processing, try again later"},
		{[]string{"--check"}, 78, ""},
		{[]string{"--check", "-C", r.path("bad.toml")}, 78, ""},
	} {
		got := r.deliver(tt.args...)
		if got.exit != tt.exit || got.last != tt.last && tt.exit != 78 {
			t.Errorf("%q: got %d, %q; want %d, %q", tt.args, got.exit, got.last, tt.exit, tt.last)
		}
	}
	r.write("aliases", "team: bob, bob@example.org, \\bob+x, x@remote.example, abuse\nbob: bob\nteam2: team, nosuch\nx: x\nbroken: a b\n@virtual.example: bob\n")
	if got := r.check(); got != ":5: \"a b\": address has no domain\n:3: nosuch is neither an alias nor a user\n:4: x is neither an alias nor a user\n" {
		t.Errorf("--check: %q", got)
	}
	r.write("aliases", "team: bob\n")
	r.ok("--check")
	r.write("aliases", "team bob\n")
	if got := r.deliver("bob"); got.exit != 75 {
		t.Errorf("with broken aliases: exit %d", got.exit)
	}
}

// TestInput: a message is the same however it comes.
func TestInput(t *testing.T) {
	want := "Return-Path: <>\nDelivered-To: bob@mail.example.org\nSubject: y\n\nFrom here\n.\n"
	for _, lines := range []string{"\n", "\r\n"} {
		for _, n := range []int{0, 1, 256<<10 - 40, 256 << 10, 600 << 10} {
			r := newRig(t)
			body := strings.Repeat("0123456789abcde\n", n/16+1)
			in := strings.ReplaceAll("Subject: y\n\nFrom here\n.\n"+body, "\n", lines)
			file, err := os.Create(r.path("message"))
			r.must(err)
			_, err = file.WriteString("envelope" + in)
			r.must(err)
			_, err = file.Seek(8, io.SeekStart)
			r.must(err)
			for _, stdin := range []io.Reader{strings.NewReader(in), file} {
				if got := r.run(stdin, "bob"); got.exit != 0 {
					t.Fatalf("%d: exit %d, %s", n, got.exit, got.last)
				}
			}
			file.Close()
			r.expect(r.path("home/Maildir"), want+body, want+body)
		}
	}
}

// TestClosedInput: a caller without standard input has no message. One that is empty is a message.
func TestClosedInput(t *testing.T) {
	r := newRig(t)
	shell := func(redirect string) string {
		var stderr bytes.Buffer
		cmd := exec.Command("/bin/sh", "-c", bin+"/deliver -C "+r.path("postel.toml")+" bob "+redirect+"; echo $?")
		cmd.Stderr, cmd.Env, cmd.SysProcAttr = &stderr, []string{"HOME=" + r.home}, &syscall.SysProcAttr{Credential: r.as}
		out, err := cmd.Output()
		r.must(err)
		return string(out) + stderr.String()
	}
	if got, want := shell("<&-"), "75\ndeliver: standard input is closed\ndeliver: 4.3.0 Cannot read the message\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	r.expect(r.path("home/Maildir"))
	if got := shell("</dev/null"); got != "0\n" {
		t.Errorf("an empty file: got %q", got)
	}
}

func TestFromLine(t *testing.T) {
	r := newRig(t)
	for _, in := range []string{
		"From alice@y.example Fri Jan  2 03:04:05 2026\n" + simple,
		"From MAILER-DAEMON@ Fri Jan  2 03:04:05 2026\r\n" + simple,
	} {
		if got := r.run(strings.NewReader(in), "bob"); got.exit != 0 {
			t.Fatal(got)
		}
	}
	if got := r.run(strings.NewReader("From alice@y.example Fri\n"+simple), "-f", "carol", "bob"); got.exit != 0 {
		t.Fatal(got)
	}
	rest := "Delivered-To: bob@mail.example.org\n" + simple
	r.expect(r.path("home/Maildir"), "Return-Path: <>\n"+rest, "Return-Path: <alice@y.example>\n"+rest, "Return-Path: <carol@mail.example.org>\n"+rest)
}

// TestSecondTry: the same delivery is stored once.
func TestSecondTry(t *testing.T) {
	r := newRig(t)
	r.env = []string{"POSTEL_ID=0abc.1"}
	r.ok("bob")
	r.ok("bob")
	if got := r.stored(r.path("home/Maildir")); len(got) != 1 {
		t.Errorf("%d messages", len(got))
	}
	r.env = []string{"POSTEL_ID=../../x"} // is no name
	r.ok("bob")
	r.ok("bob")
	if got := r.stored(r.path("home/Maildir")); len(got) != 3 {
		t.Errorf("%d messages", len(got))
	}
}

func TestOwnMailbox(t *testing.T) {
	r := newRig(t)
	r.ok("--to", "maildir:"+r.path("home/here"))
	r.ok("--user", "bob", "team@example.org")
	r.ok("--user", "bob")
	head := "Return-Path: <>\nDelivered-To: "
	r.expect(r.path("home/Maildir"), head+"bob@mail.example.org\n"+simple, head+"team@example.org\n"+simple)
	if got := r.stored(r.path("home/here")); len(got) != 1 || !strings.HasSuffix(got[0], simple) {
		t.Errorf("got %q", got)
	}
}

func TestForward(t *testing.T) {
	r := newRig(t)
	for _, tt := range []struct {
		forward string
		exit    int
		last    string
		kept    int
	}{
		{"bob, /dev/null\n", 0, "", 1},
		{"~HOME~/box/\n", 0, "", 0},
		{`"|/bin/sh -c 'cat >message; env >env'"` + "\n", 0, "", 0},
		{"|/bin/sh -c 'exit 75', bob\n", 75, "deliver: 4.3.0 Temporary failure", 1},
		{"|/bin/sh -c 'echo 5.7.1 not you; exit 69'\n", 69, "deliver: 5.7.1 not you", 0},
		{"|" + bin + "/deliver -C ~HOME~/../postel.toml bob\n", 69, "deliver: 5.4.6 Mail forwarding loop for bob@mail.example.org", 0},
		{"a b\n", 75, "deliver: 4.7.0 Forwarding file of this user cannot be used", 0},
		{"x@remote.example, bob\n", 75, "deliver: 4.3.5 Delivery program cannot be started", 1}, // there is no sendmail beside deliver
	} {
		r.must(os.RemoveAll(r.path("home/Maildir")))
		r.forward(strings.ReplaceAll(tt.forward, "~HOME~", r.home))
		got := r.deliver("-f", "alice@y.example", "bob")
		if got.exit != tt.exit || got.last != tt.last || len(r.stored(r.path("home/Maildir"))) != tt.kept {
			t.Errorf("%q: got %d, %q, %d kept; want %d, %q, %d", tt.forward, got.exit, got.last, len(r.stored(r.path("home/Maildir"))), tt.exit, tt.last, tt.kept)
		}
	}
	r.expect(r.path("home/box"), "Return-Path: <alice@y.example>\nDelivered-To: bob@mail.example.org\n"+simple)
	message, err := os.ReadFile(r.path("home/message"))
	r.must(err)
	first, rest, _ := strings.Cut(string(message), "\n")
	if !strings.HasPrefix(first, "From alice@y.example ") || rest != "Return-Path: <alice@y.example>\nDelivered-To: bob@mail.example.org\n"+simple {
		t.Errorf("the command got %q", message)
	}
}

// TestOthersRights: a process that is neither root nor the user stores mail where it may, but does nothing that the user chose.
func TestOthersRights(t *testing.T) {
	r := newRig(t)
	r.write("users", fmt.Sprintf("bob:{PLAIN}x:4711:4711::%s:\n", r.home))
	r.write("postel.toml", fmt.Sprintf("hostname = \"example.org\"\nusers = %q\naliases = %q\nmailbox = \"maildir:%s/%%n\"\n", r.path("users"), r.path("aliases"), r.path("mail")))
	r.write("list", "|/bin/true\n")
	r.write("aliases", "list: :include:"+r.path("list")+"\n")
	r.must(errors.Join(os.Mkdir(r.path("mail"), 0o700), os.Chmod(r.home, 0o755)))
	if r.as != nil {
		r.must(errors.Join(os.Chown(r.path("mail"), nobody, nobody), os.Chown(r.home, 4711, 4711), os.Chown(r.path("list"), 4711, 4711)))
	}
	r.ok("bob")
	r.forward("|/bin/true\n")
	if r.as != nil {
		r.must(os.Chown(r.path("home/.forward"), 4711, 4711))
		if got := r.deliver("list"); got.exit != 75 || got.last != "deliver: 4.3.5 Local configuration error" {
			t.Errorf("another user's list: %d, %s", got.exit, got.last)
		}
	}
	if got := r.deliver("bob"); got.exit != 75 || got.last != "deliver: 4.7.0 Forwarding file of this user cannot be used" {
		t.Errorf("another user's command: %d, %s", got.exit, got.last)
	}
}

func TestUnwritable(t *testing.T) {
	r := newRig(t)
	r.must(os.Chmod(r.home, 0o500))
	if got := r.deliver("bob"); got.exit != 75 {
		t.Errorf("got %d, %s", got.exit, got.last)
	}
	r.must(os.Chmod(r.home, 0o700))
	r.ok("bob")
	r.must(os.RemoveAll(r.path("home/Maildir/new")))
	r.must(os.Symlink(r.dir, r.path("home/Maildir/new")))
	if got := r.deliver("bob"); got.exit != 75 {
		t.Errorf("new/ is a symbolic link: got %d, %s", got.exit, got.last)
	}
}

// TestFull: on a file system that fills up nothing of the message can be seen. Only root can make one.
func TestFull(t *testing.T) {
	r := newRig(t)
	if err := unix.Mount("tmpfs", r.home, "tmpfs", 0, "size=64k,mode=0777"); err != nil {
		t.Logf("no small file system: %v", err)
		return
	}
	defer func() { r.must(unix.Unmount(r.home, 0)) }()
	large := simple + strings.Repeat("0123456789abcde\n", 16<<10)
	for _, to := range []string{"maildir:" + r.path("home/m"), "mbox:" + r.path("home/f")} {
		if got := r.run(strings.NewReader(large), "--to", to, "bob"); got.exit != 75 || got.last != "deliver: 4.2.2 Mailbox is full" {
			t.Errorf("%s: got %d, %s", to, got.exit, got.last)
		}
		r.ok("--to", to, "bob")
	}
	if n := len(r.stored(r.path("home/m"))); n != 1 {
		t.Errorf("%d messages", n)
	}
	if box, err := os.ReadFile(r.path("home/f")); err != nil || len(box) > 300 {
		t.Errorf("mbox of %d octets, %v", len(box), err)
	}
}

// TestRights: root does nothing for a user with its own rights.
func TestRights(t *testing.T) {
	if os.Geteuid() != 0 {
		return // the other tests run with a user's rights already
	}
	r := newRig(t)
	r.as = nil
	r.must(os.Mkdir(r.path("open"), 0o777))
	r.must(os.Chmod(r.path("open"), 0o777))
	users := ""
	for i, name := range []string{"bob", "alice"} {
		home := r.path("home-" + name)
		r.must(os.Mkdir(home, 0o700))
		r.must(os.Chown(home, 4711+i, 4711+i))
		users += fmt.Sprintf("%s:{PLAIN}x:%d:%d::%s:\n", name, 4711+i, 4711+i, home)
	}
	r.write("users", users)
	r.must(os.Chmod(r.path("users"), 0o600))
	r.write("aliases", fmt.Sprintf("team: bob, alice, \"|/bin/sh -c 'id -u >%[1]s/open/id'\", %[1]s/open/box/\nfinal: \\bob, alice\n", r.dir))
	r.write("home-alice/.forward", "alice, \"|/bin/sh -c 'id -u >id; id -G >groups'\"\n")
	r.must(os.Chown(r.path("home-alice/.forward"), 4712, 4712))
	r.ok("team")
	r.ok("bob")
	r.ok("final")
	for name, want := range map[string]string{"open/id": "65534\n", "home-alice/id": "4712\n", "home-alice/groups": "4712\n"} {
		if got, err := os.ReadFile(r.path(name)); err != nil || string(got) != want {
			t.Errorf("%s: got %q, %v", name, got, err)
		}
	}
	for name, want := range map[string]struct{ uid, messages int }{"home-bob/Maildir": {4711, 3}, "home-alice/Maildir": {4712, 2}, "open/box": {nobody, 1}} {
		files, err := filepath.Glob(r.path(name + "/new/*"))
		r.must(err)
		if len(files) != want.messages {
			t.Errorf("%s: %d messages", name, len(files))
		}
		for _, f := range append(files, r.path(name), r.path(name+"/tmp")) {
			var st unix.Stat_t
			r.must(unix.Lstat(f, &st))
			if int(st.Uid) != want.uid || int(st.Gid) != want.uid || st.Mode&0o077 != 0 {
				t.Errorf("%s: user %d, group %d, mode %o", f, st.Uid, st.Gid, st.Mode)
			}
		}
	}
	r.must(os.Mkdir(r.path("spool"), 0o775))
	r.must(errors.Join(os.Chmod(r.path("spool"), 0o2775), os.Chown(r.path("spool"), 0, 8)))
	r.write("spool.toml", fmt.Sprintf("hostname = \"example.org\"\nusers = %q\nmailbox = \"mbox:%s/%%u\"\n", r.path("users"), r.path("spool")))
	r.ok("-C", r.path("spool.toml"), "bob")
	r.ok("-C", r.path("spool.toml"), "bob")
	var st unix.Stat_t
	r.must(unix.Lstat(r.path("spool/bob"), &st))
	if st.Uid != 4711 || st.Gid != 8 || st.Mode != unix.S_IFREG|0o660 || st.Size < 2*int64(len(simple)) {
		t.Errorf("spool: user %d, group %d, mode %o, %d octets", st.Uid, st.Gid, st.Mode, st.Size)
	}
	if got := r.deliver("--to", "pipe:/bin/true", "x@y.example"); got.exit != 75 {
		t.Errorf("a command as root: exit %d", got.exit)
	}
}

// TestMemory: a message of 50 MiB is never held whole.
func TestMemory(t *testing.T) {
	r := newRig(t)
	f, err := os.Create(r.path("large"))
	r.must(err)
	defer f.Close()
	block := strings.Repeat("0123456789abcde\r\n", 1<<16/16)
	for range 50 << 20 / len(block) {
		_, err := f.WriteString(block)
		r.must(err)
	}
	// A program sees the high water mark of what started it, and comes last.
	r.write("aliases", fmt.Sprintf("big: bob, \"|/bin/sh -c 'cat >/dev/null; grep VmHWM /proc/$PPID/status >%s/peak'\"\n", r.home))
	for name, in := range map[string]io.Reader{"file": f, "pipe": struct{ io.Reader }{f}} {
		_, err := f.Seek(0, io.SeekStart)
		r.must(err)
		if got := r.run(in, "big"); got.exit != 0 {
			t.Fatalf("%s: exit %d, %s", name, got.exit, got.last)
		}
		peak, err := os.ReadFile(r.path("home/peak"))
		r.must(err)
		var kib int
		if _, err := fmt.Sscanf(string(peak), "VmHWM: %d kB", &kib); err != nil || kib > 32<<10 {
			t.Errorf("%s: %q, %v", name, peak, err)
		}
		t.Logf("%s: %d KiB", name, kib)
	}
}
