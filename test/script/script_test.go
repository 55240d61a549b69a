// Package script runs the scenarios beside it, *.txt, on the real programs. The language is that of testscript
// (github.com/rogpeppe/go-internal), with these commands besides:
//
//	status N PROGRAM [ARG...]         runs it; its exit status must be N
//	asuser UID N PROGRAM [ARG...]     the same as that user, when the test runs as root; otherwise as itself
//	daemon NAME PROGRAM [ARG...]      starts it, waits until its log says that it works, and sets $NAME_ADDR
//	end NAME                          ends it by SIGTERM; it must exit 0. The end of the script does so too
//	log NAME REGEXP                   waits until its log matches
//	dialog ADDR FILE                  speaks with a server: lines "C: text" are sent, lines "S: text" say how the next reply begins;
//	                                  other lines of a reply of SMTP are passed over. "S: EOF" is the end of the connection, and "U: text"
//	                                  passes over all before the line text
//	dns FILE                          serves the zone and sets $DNS
//	expand FILE...                    puts the values of variables into files
//	capture NAME REGEXP               sets $NAME to what its group matched in the last stdout
//	waitfor PATTERN N                 waits until N files match
//	tmpfs DIR SIZE                    mounts an empty file system; see the condition [mount]
//
// Each script begins with a configured host, example.org with the users alice and bob, that finds no DNS server. All logs must parse.
package script

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"github.com/postel-mail/postel/test/build"
	"github.com/postel-mail/postel/test/dnszone"
)

// patience bounds every wait.
const patience = 30 * time.Second

var bin string // where the programs are

func TestMain(m *testing.M) { os.Exit(build.Main(m, &bin, "../../cmd/...")) }

func TestScripts(t *testing.T) {
	root, err := os.MkdirTemp("", "postel-script-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(root) })
	if err := os.Chmod(root, 0o755); err != nil { // other users look at it
		t.Fatal(err)
	}
	s := &suite{t: t}
	testscript.Run(t, testscript.Params{
		Dir: ".", WorkdirRoot: root, RequireExplicitExec: true, RequireUniqueNames: true,
		Setup:     setup,
		Condition: condition,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"status": status, "asuser": asUser, "daemon": s.daemon, "end": end, "log": waitLog, "dialog": dialog, "dns": dns,
			"expand": expand, "capture": capture, "waitfor": waitFor, "tmpfs": tmpfs,
		},
	})
}

type suite struct{ t *testing.T }

const configuration = `hostname = "mail.example.org"
domains = ["example.org"]
spool = "$WORK/spool"
users = "$WORK/users"
aliases = "$WORK/aliases"
relay_networks = []
[dns]
servers = ["127.0.0.1:9"]
[tls]
certificate = "$WORK/cert.pem"
key = "$WORK/key.pem"
`

// setup makes the host. Files of the script that have the same names win.
func setup(e *testscript.Env) error {
	e.Setenv("PATH", bin+":/usr/sbin:/usr/bin:/sbin:/bin")
	e.Setenv("HOME", e.WorkDir+"/home")
	e.Setenv("POSTEL_CONFIG", e.WorkDir+"/postel.toml")
	err := os.Chmod(e.WorkDir, 0o755)
	users := ""
	for _, user := range []string{"alice", "bob"} {
		users += user + ":{PLAIN}" + user + "-secret:::" + user + ":" + e.WorkDir + "/home/" + user + "::\n"
		err = errors.Join(err, os.MkdirAll(e.WorkDir+"/home/"+user, 0o700))
	}
	for name, text := range map[string]string{"postel.toml": configuration, "users": users, "aliases": ""} {
		f, e2 := os.OpenFile(filepath.Join(e.WorkDir, name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
		if errors.Is(e2, os.ErrExist) {
			continue
		}
		if e2 == nil {
			_, e2 = io.WriteString(f, os.Expand(text, e.Getenv))
			e2 = errors.Join(e2, f.Close())
		}
		err = errors.Join(err, e2)
	}
	return err
}

func condition(name string) (bool, error) {
	switch name {
	case "root":
		return os.Getuid() == 0, nil
	case "mount": // root, and in a container that lets it
		dir, err := os.MkdirTemp("", "mount")
		if err != nil {
			return false, err
		}
		defer os.Remove(dir)
		if unix.Mount("tmpfs", dir, "tmpfs", 0, "") != nil {
			return false, nil
		}
		return true, unix.Unmount(dir, 0)
	}
	return false, fmt.Errorf("unknown condition %q", name)
}

func need(ts *testscript.TestScript, neg bool, args []string, n int, usage string) {
	if neg || len(args) < n {
		ts.Fatalf("usage: %s", usage)
	}
}

func status(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, args, 2, "status N PROGRAM [ARG...]")
	check(ts, args[0], ts.Exec(args[1], args[2:]...))
}

func check(ts *testscript.TestScript, want string, err error) {
	got := 0
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if strconv.Itoa(got) != want {
		ts.Fatalf("exit status %d, want %s", got, want)
	}
}

func asUser(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, args, 3, "asuser UID N PROGRAM [ARG...]")
	uid, err := strconv.ParseUint(args[0], 10, 31)
	ts.Check(err)
	c := program(ts, args[2:])
	c.Stdout, c.Stderr = ts.Stdout(), ts.Stderr()
	if os.Getuid() == 0 {
		c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}}
	}
	check(ts, args[1], c.Run())
}

// program prepares a program that is ours.
func program(ts *testscript.TestScript, args []string) *exec.Cmd {
	c := exec.Command(filepath.Join(bin, args[0]), args[1:]...)
	c.Dir = ts.MkAbs(".")
	for _, name := range []string{"PATH", "HOME", "POSTEL_CONFIG"} {
		c.Env = append(c.Env, name+"="+ts.Getenv(name))
	}
	return c
}

// background is a daemon.
type background struct {
	t      *testing.T
	name   string
	cmd    *exec.Cmd
	mu     sync.Mutex
	lines  []string
	grown  chan struct{} // closed and replaced at each line, closed for good at the end
	exited chan error
	once   sync.Once
}

func (s *suite) daemon(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, args, 2, "daemon NAME PROGRAM [ARG...]")
	b := &background{t: s.t, name: ts.Name() + ": " + args[0], cmd: program(ts, args[1:]), grown: make(chan struct{}), exited: make(chan error, 1)}
	stderr, err := b.cmd.StderrPipe()
	ts.Check(err)
	ts.Check(b.cmd.Start())
	go b.read(stderr)
	ts.Defer(b.stop)
	daemons.Store(key{ts, args[0]}, b)
	sign := regexp.MustCompile(`event=listening addr=(\S+)`)
	if args[1] == "qmgr" {
		sign = regexp.MustCompile(`event=start()`)
	}
	addr, ok := b.wait(sign)
	if !ok {
		ts.Fatalf("%s does not work:\n%s", args[1], b.text())
	}
	ts.Setenv(args[0]+"_ADDR", addr)
}

type key struct {
	ts   *testscript.TestScript
	name string
}

var daemons sync.Map // of key to *background

func find(ts *testscript.TestScript, name string) *background {
	b, ok := daemons.Load(key{ts, name})
	if !ok {
		ts.Fatalf("no daemon %s", name)
	}
	return b.(*background)
}

func (b *background) read(r io.Reader) {
	for lines := bufio.NewScanner(r); lines.Scan(); {
		b.mu.Lock()
		b.lines = append(b.lines, lines.Text())
		close(b.grown)
		b.grown = make(chan struct{})
		b.mu.Unlock()
	}
	b.exited <- b.cmd.Wait()
	b.mu.Lock()
	close(b.grown)
	b.mu.Unlock()
}

func (b *background) text() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Join(b.lines, "\n")
}

// wait waits until a line of the log matches, and gives the first group.
func (b *background) wait(sign *regexp.Regexp) (string, bool) {
	late := time.After(patience)
	for from := 0; ; {
		b.mu.Lock()
		lines, grown := b.lines, b.grown
		b.mu.Unlock()
		for _, line := range lines[from:] {
			if m := sign.FindStringSubmatch(line); m != nil {
				return append(m, "")[1], true
			}
		}
		ended := from == len(lines) && isClosed(grown)
		from = len(lines)
		if ended {
			return "", false
		}
		select {
		case <-grown:
		case <-late:
			return "", false
		}
	}
}

func isClosed(c chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// stop ends the daemon in order and looks at its log.
func (b *background) stop() {
	b.once.Do(func() {
		_ = b.cmd.Process.Signal(unix.SIGTERM) // ended already: that shows below
		select {
		case err := <-b.exited:
			if err != nil {
				b.t.Errorf("%s: after SIGTERM: %v\n%s", b.name, err, b.text())
			}
		case <-time.After(patience):
			_ = b.cmd.Process.Kill()
			b.t.Errorf("%s: SIGTERM does not end it\n%s", b.name, b.text())
		}
		for line := range strings.SplitSeq(b.text(), "\n") {
			if err := parseLine(line); err != nil {
				b.t.Errorf("%s: log line %q: %v", b.name, line, err)
			}
		}
	})
}

var pair = regexp.MustCompile(`^([a-z_]+)=("(?:[^"\\]|\\.)*"|[^ "=\\]*)(?: |$)`)

// parseLine reads a line of the log as logfmt.
func parseLine(line string) error {
	var keys []string
	for rest := line; rest != ""; {
		m := pair.FindStringSubmatch(rest)
		if m == nil {
			return fmt.Errorf("cannot be read from %q on", rest)
		}
		if strings.HasPrefix(m[2], `"`) {
			if _, err := strconv.Unquote(m[2]); err != nil {
				return fmt.Errorf("%s: %w", m[1], err)
			}
		}
		keys = append(keys, m[1])
		rest = rest[len(m[0]):]
	}
	if got := strings.Join(keys, " ") + " "; !strings.HasPrefix(got, "time level prog event ") {
		return fmt.Errorf("its keys are %s", got)
	}
	return nil
}

func end(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, args, 1, "end NAME")
	find(ts, args[0]).stop()
}

func waitLog(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, args, 2, "log NAME REGEXP")
	sign, err := regexp.Compile(args[1])
	ts.Check(err)
	b := find(ts, args[0])
	if _, ok := b.wait(sign); !ok {
		ts.Fatalf("nothing in the log matches:\n%s", b.text())
	}
}

func dialog(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, args, 2, "dialog ADDR FILE")
	network, addr := "tcp", args[0]
	if path, ok := strings.CutPrefix(addr, "unix:"); ok {
		network, addr = "unix", path
	}
	conn, err := net.Dial(network, addr)
	ts.Check(err)
	defer conn.Close()
	ts.Check(conn.SetDeadline(time.Now().Add(patience)))
	r := bufio.NewReader(conn)
	for n, line := range strings.Split(strings.TrimRight(ts.ReadFile(args[1]), "\n"), "\n") {
		who, text, _ := strings.Cut(line, ": ")
		if text == "" {
			who, _, _ = strings.Cut(line, ":")
		}
		switch who {
		case "":
		case "C":
			_, err := io.WriteString(conn, text+"\r\n")
			ts.Check(err)
		case "U":
			for got := ""; got != text+"\r\n"; {
				if got, err = r.ReadString('\n'); err != nil {
					ts.Fatalf("%s:%d: %s: heard %q, %v", args[1], n+1, line, got, err)
				}
			}
		case "S":
			if err := hear(r, text); err != nil {
				ts.Fatalf("%s:%d: %s: %v", args[1], n+1, line, err)
			}
		default:
			ts.Fatalf("%s:%d: none of C:, S: and U:", args[1], n+1)
		}
	}
}

var continued = regexp.MustCompile(`^\d\d\d-`)

// hear reads a reply that begins with want.
func hear(r *bufio.Reader, want string) error {
	for {
		got, err := r.ReadString('\n')
		switch {
		case want == "EOF" && err == io.EOF && got == "":
			return nil
		case err != nil:
			return fmt.Errorf("heard %q, %w", got, err)
		case !strings.HasSuffix(got, "\r\n"):
			return fmt.Errorf("heard %q, without CR", got)
		case strings.HasPrefix(got, want):
			return nil
		case !continued.MatchString(got):
			return fmt.Errorf("heard %q", got)
		}
	}
}

func dns(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, args, 1, "dns FILE")
	zone, err := dnszone.Parse(ts.ReadFile(args[0]))
	ts.Check(err)
	s, err := zone.Serve("127.0.0.1:0")
	ts.Check(err)
	ts.Defer(s.Close)
	ts.Setenv("DNS", s.Addr())
}

func expand(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, args, 1, "expand FILE...")
	for _, name := range args {
		text := os.Expand(ts.ReadFile(name), ts.Getenv)
		ts.Check(os.WriteFile(ts.MkAbs(name), []byte(text), 0o644))
	}
}

func capture(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, args, 2, "capture NAME REGEXP")
	re, err := regexp.Compile("(?m)" + args[1])
	ts.Check(err)
	m := re.FindStringSubmatch(ts.ReadFile("stdout"))
	if len(m) < 2 {
		ts.Fatalf("no match for %s", args[1])
	}
	ts.Setenv(args[0], m[1])
}

func waitFor(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, args, 2, "waitfor PATTERN N")
	var found []string
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		var err error
		found, err = filepath.Glob(ts.MkAbs(args[0]))
		ts.Check(err)
		if strconv.Itoa(len(found)) == args[1] {
			return
		}
	}
	ts.Fatalf("found %d: %s", len(found), found)
}

func tmpfs(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, args, 2, "tmpfs DIR SIZE")
	dir := ts.MkAbs(args[0])
	ts.Check(os.MkdirAll(dir, 0o755))
	ts.Check(unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+args[1]))
	ts.Defer(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
}

// TestManual: every example of mxlookup(1) is run, word for word, by the script of that name.
func TestManual(t *testing.T) {
	page, err := os.ReadFile("../../man/mxlookup.1")
	if err != nil {
		t.Fatal(err)
	}
	script, err := os.ReadFile("mxlookup.txt")
	if err != nil {
		t.Fatal(err)
	}
	_, examples, _ := strings.Cut(string(page), "\n.Sh EXAMPLES\n")
	examples, _, _ = strings.Cut(examples, "\n.Sh ")
	n := 0
	for block := range strings.SplitSeq(examples, ".Bd -literal -offset indent\n") {
		block, _, ok := strings.Cut(block, ".Ed\n")
		if !ok {
			continue
		}
		n++
		if !bytes.Contains(script, []byte("\n"+strings.ReplaceAll(block, `\e`, `\`))) {
			t.Errorf("mxlookup.txt does not run\n%s", block)
		}
	}
	if n == 0 {
		t.Error("the page has no examples")
	}
}

func TestParseLine(t *testing.T) {
	for line, good := range map[string]bool{
		`time=1 level=info prog=x event=y`:                      true,
		`time=1 level=info prog=x event=y text="a \"b\" c" n=1`: true,
		`level=info prog=x event=y`:                             false,
		`time=1 level=info prog=x event=y text=a b`:             false,
		`time=1 level=info prog=x event=y text="a`:              false,
		`time=1 level=info prog=x event=y text="\q"`:            false,
		`panic: runtime error`:                                  false,
		``:                                                      false,
	} {
		if err := parseLine(line); (err == nil) != good {
			t.Errorf("%q: %v", line, err)
		}
	}
}
