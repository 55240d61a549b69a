//go:build linux && amd64

package crash

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/postel-mail/postel/internal/durable"
	"github.com/postel-mail/postel/test/build"
	"github.com/postel-mail/postel/test/sink"
)

var bin, tools string // where the programs are, and those of these tests

func TestMain(m *testing.M) { os.Exit(run(m)) }

// run builds the programs, unless $POSTEL_BIN and $POSTEL_TOOLS have them.
func run(m *testing.M) int {
	bin, tools = os.Getenv("POSTEL_BIN"), os.Getenv("POSTEL_TOOLS")
	if bin != "" && tools != "" {
		return m.Run()
	}
	tools = "" // beside the others
	return build.Main(m, &bin, "../../cmd/...", "./filtered")
}

// body is long enough for several writes; its last line shows that the message is whole.
var body = strings.Repeat("The quick brown fox jumps over the lazy dog, again and again.\n", 2500) + "the end\n"

// host is a configured host in a folder of its own: alice, bob and carol get mail in example.org, and example.net is behind a next hop.
type host struct {
	t   *testing.T
	dir string
	hop *sink.Sink
}

// newHost makes one below $POSTEL_CRASH_DIR, or where temporary files are.
func newHost(t *testing.T) *host {
	dir, err := os.MkdirTemp(os.Getenv("POSTEL_CRASH_DIR"), "postel-crash-")
	if err != nil {
		t.Fatal(err)
	}
	h := &host{t: t, dir: dir, hop: sink.New()}
	h.hop.Keep = true
	next, err := h.hop.Listen("127.0.0.1:0", "")
	if err != nil {
		t.Fatal(err)
	}
	var users string
	for _, user := range []string{"alice", "bob", "carol"} {
		users += user + ":{PLAIN}x:::" + user + ":" + dir + "/" + user + "::\n"
		if err := os.Mkdir(filepath.Join(dir, user), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	h.write("users", users)
	h.write("postel.toml", fmt.Sprintf(`hostname = "mail.example.org"
domains = ["example.org"]
spool = %q
users = %q
aliases = %q
relay_networks = []
[tls]
certificate = "/nonexistent"
key = "/nonexistent"
[queue]
processes = 1
concurrency = 1
[routes]
"example.net" = "smtp://%s"
`, h.spool(), dir+"/users", dir+"/aliases", next))
	return h
}

// sent counts the messages that the next hop has taken by their recipients, and asks that each is whole.
func (h *host) sent() map[string]int {
	times := map[string]int{}
	for _, m := range h.hop.Messages() {
		times[m.To[0]]++
		if text := strings.ReplaceAll(m.Text, "\r\n", "\n"); !strings.HasSuffix(text, "\n\n"+body) {
			h.t.Errorf("half a message for the next hop: %d octets", len(text))
		}
	}
	return times
}

func (h *host) close() {
	h.hop.Close()
	if h.t.Failed() {
		h.t.Logf("kept: %s", h.dir)
		return
	}
	os.RemoveAll(h.dir)
}

func (h *host) spool() string { return h.dir + "/spool" }

// write writes a file of the host and gives its name.
func (h *host) write(name, text string) string {
	h.t.Helper()
	path := filepath.Join(h.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		h.t.Fatal(err)
	}
	return path
}

func (h *host) env() []string {
	return []string{"POSTEL_CONFIG=" + h.dir + "/postel.toml", "PATH=" + bin, "HOME=" + h.dir}
}

// command is a program under the stepper; changes below the host's folder are watched.
func (h *host) command(stdin, name string, args ...string) command {
	return command{args: append([]string{filepath.Join(bin, name)}, args...), env: h.env(), stdin: stdin,
		watch: []string{h.spool(), h.dir + "/alice", h.dir + "/bob", h.dir + "/carol"}}
}

// must runs a program that has to succeed.
func (h *host) must(stdin, name string, args ...string) string {
	h.t.Helper()
	runtime.LockOSThread() // so that no tracer is on the thread that has this child: it would wait for it
	defer runtime.UnlockOSThread()
	c := exec.Command(filepath.Join(bin, name), args...)
	c.Env = h.env()
	c.Stdin = strings.NewReader(stdin)
	out, err := c.CombinedOutput()
	if err != nil {
		h.t.Errorf("afterwards %s %q: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// names are the files in a folder of the host.
func (h *host) names(dir string) (names []string) {
	entries, _ := os.ReadDir(filepath.Join(h.dir, dir))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// received counts the messages of a user with that subject, and asks that each is whole.
func (h *host) received(user, subject string) int {
	h.t.Helper()
	n := 0
	for _, dir := range []string{"new", "cur"} {
		for _, name := range h.names(user + "/Maildir/" + dir) {
			text, err := os.ReadFile(filepath.Join(h.dir, user, "Maildir", dir, name))
			if err != nil {
				h.t.Error(err)
			}
			if !strings.Contains(string(text), "\nSubject: "+subject+"\n") {
				continue
			}
			n++
			if subject != bounce && !strings.HasSuffix(string(text), "\n\n"+body) {
				h.t.Errorf("half a message in %s/%s/%s: %d octets", user, dir, name, len(text))
			}
		}
	}
	return n
}

const bounce = "Undelivered mail returned to sender"

func letter(subject string) string {
	return "From: alice@example.org\nTo: bob@example.org\nSubject: " + subject + "\n\n" + body
}

// settled asks for a spool with nothing left, an hour later when a program was killed.
func (h *host) settled(killed bool) {
	h.t.Helper()
	if killed || len(h.names("spool/state")) > 0 {
		for _, dir := range []string{"tmp", "state"} {
			for _, name := range h.names("spool/" + dir) {
				if err := os.Chtimes(filepath.Join(h.spool(), dir, name), time.Unix(1, 0), time.Unix(1, 0)); err != nil {
					h.t.Error(err)
				}
			}
		}
		h.must("", "qmgr", "--once")
	}
	for _, dir := range []string{"queue", "state", "corrupt", "tmp"} {
		if names := h.names("spool/" + dir); len(names) > 0 {
			h.t.Errorf("left in %s: %q", dir, names)
		}
	}
}

// scenario is a program at work, and what has to hold after a fault and after recovery from it.
type scenario struct {
	name    string
	faults  []fault
	command func(h *host) command
	check   func(h *host, o outcome, f fault)
	// answered tells, in a trace without a fault, where the program answers for a message.
	answered func(event) bool
	// later is a folder where what is answered for last may be on its way before.
	later string
}

var submissionFaults = []fault{killFamily, failEIO, failENOSPC, failEDQUOT, failEMFILE, failEINTR, shortWrite}

var scenarios = []scenario{
	{
		name: "sendmail", faults: submissionFaults, answered: ended,
		command: func(h *host) command {
			return h.command(h.write("letter", letter("first")), "sendmail", "-f", "alice@example.org", "bob@example.org")
		},
		check: func(h *host, o outcome, f fault) { submitted(h, o.exit == 0, f) },
	},
	{
		name: "smtpd", faults: submissionFaults, answered: said("250 2.0.0 Ok: queued as "),
		command: func(h *host) command {
			return h.command(h.write("dialog", strings.ReplaceAll("EHLO x\nMAIL FROM:<alice@example.org>\nRCPT TO:<bob@example.org>\nDATA\n"+
				letter("first")+".\nQUIT\n", "\n", "\r\n")), "smtpd")
		},
		check: func(h *host, o outcome, f fault) {
			heard := strings.Contains(o.stdout, "250 2.0.0 Ok: queued as ")
			if !f.kill && o.exit == 0 && !heard && !strings.Contains(o.stdout, "\n45") && !strings.Contains(o.stdout, "\n421") {
				h.t.Errorf("neither accepted nor refused for now:\n%s", o.stdout)
			}
			if !f.kill && o.exit == 0 && durable.IsFull(f.errno) && !heard && !strings.Contains(o.stdout, "\n452 4.3.1 ") {
				h.t.Errorf("a full disk is answered with:\n%s", o.stdout)
			}
			submitted(h, heard, f)
		},
	},
	{
		name: "deliver", faults: submissionFaults, answered: ended,
		command: deliverCommand,
		check: func(h *host, o outcome, f fault) {
			if o.exit == 0 && h.received("bob", "first") != 1 {
				h.t.Errorf("%d messages after status 0", h.received("bob", "first"))
			}
			again, err := deliverCommand(h).run(0, fault{})
			if err != nil || again.exit != 0 {
				h.t.Errorf("the second try: %d, %v: %s", again.exit, err, again.stderr)
			}
			if n := h.received("bob", "first"); n != 1 {
				h.t.Errorf("%d messages after the second try", n)
			}
			if left := h.names("bob/Maildir/tmp"); len(left) > 0 && !f.kill {
				h.t.Errorf("left in Maildir/tmp: %q", left)
			}
		},
	},
	{
		name: "qmgr", faults: []fault{killFamily, killOne, failEIO, failENOSPC, failEMFILE, shortWrite},
		answered: removed, later: "/alice/", // the report
		command: func(h *host) command {
			h.must(letter("first"), "sendmail", "-f", "alice@example.org", "bob@example.org", "carol@example.org", "nobody@example.org")
			return h.command("", "qmgr", "--once")
		},
		check: func(h *host, o outcome, f fault) {
			h.must("", "mailq", "retry")
			h.must("", "qmgr", "--once")
			for _, user := range []string{"bob", "carol"} {
				if n := h.received(user, "first"); n != 1 {
					h.t.Errorf("%s has the message %d times", user, n)
				}
			}
			switch n := h.received("alice", bounce); {
			case n == 2: // between queueing a report and recording that
				repeated.add()
			case n != 1:
				h.t.Errorf("alice has %d reports: %q", n, h.names("alice/Maildir/new"))
			}
			h.settled(f.kill)
		},
	},
	{
		name: "relay", faults: []fault{killFamily, filesEIO, readEIO, shortWrite}, answered: removed,
		command: func(h *host) command {
			for _, to := range relayed {
				h.must(letter("first"), "sendmail", "-f", "alice@example.org", to)
			}
			c := h.command("", "qmgr", "--once")
			c.sockets = true
			return c
		},
		check: func(h *host, o outcome, f fault) {
			h.must("", "mailq", "retry")
			h.must("", "qmgr", "--once")
			again, sent := 0, h.sent()
			for _, to := range relayed {
				if sent[to] == 0 {
					h.t.Errorf("nothing has come for %s", to)
				}
				again += max(0, sent[to]-1)
			}
			// A runner cannot know whether a message has come whose answer it has not seen, or could not note.
			inFlight := 0
			if f.kill || o.hit != nil && strings.HasPrefix(o.hit.path, "socket:") {
				inFlight = 1
			}
			if again > inFlight {
				h.t.Errorf("%d messages came twice, %d were in flight: %v", again, inFlight, sent)
			}
			if again > 0 {
				resent.add()
			}
			h.settled(f.kill)
		},
	},
}

var relayed = []string{"dave@example.net", "erin@example.net", "frank@example.net"}

// removed tells where the runner is done with a message.
func removed(e event) bool {
	return e.name == "unlinkat" && strings.Contains(e.path, "/queue/") && !e.failed
}

func deliverCommand(h *host) command {
	c := h.command(h.write("letter", letter("first")), "deliver", "-f", "alice@example.org", "bob@example.org")
	c.env = append(c.env, "POSTEL_ID=0123456789abcdefghjk.0")
	return c
}

// submitted asks for the message exactly once where it was answered for, and not at all where it was refused; then for another one.
func submitted(h *host, heard bool, f fault) {
	h.t.Helper()
	h.must(letter("second"), "sendmail", "-f", "alice@example.org", "bob@example.org")
	h.must("", "qmgr", "--once")
	n := h.received("bob", "first")
	if n > 1 || heard && n == 0 || !heard && n > 0 && !f.kill {
		h.t.Errorf("accepted %v, delivered %d times", heard, n)
	}
	if n := h.received("bob", "second"); n != 1 {
		h.t.Errorf("the message after it came %d times", n)
	}
	h.settled(f.kill)
}

// counter counts over parallel tests.
type counter struct {
	sync.Mutex
	n int
}

func (c *counter) add() { c.Lock(); c.n++; c.Unlock() }

var points, repeated, resent counter

// TestEveryCall lets each fault befall each call of each scenario in turn.
func TestEveryCall(t *testing.T) {
	t.Cleanup(func() {
		t.Logf("%d faults in all; %d reports and %d messages to the next hop were sent twice", points.n, repeated.n, resent.n)
	})
	for _, s := range scenarios {
		for _, f := range s.faults {
			t.Run(s.name+"/"+f.name, func(t *testing.T) {
				t.Parallel()
				statuses := map[int]int{}
				n := 1
				for ; ; n++ {
					if n > 1000 {
						t.Fatal("no end of calls")
					}
					if !at(t, s, f, n, statuses) {
						break
					}
					points.add()
				}
				t.Logf("%d points, exit statuses %v", n-1, statuses)
				if n == 1 {
					t.Error("no call was found")
				}
			})
		}
	}
}

// at lets a fault befall the n-th call, and reports whether there was one.
func at(t *testing.T, s scenario, f fault, n int, statuses map[int]int) bool {
	h := newHost(t)
	defer h.close()
	failed := t.Failed()
	c := s.command(h)
	o, err := c.run(n, f)
	if err != nil {
		t.Fatal(err)
	}
	if o.hit != nil {
		statuses[o.exit]++
	}
	if !f.kill && !slices.Contains([]int{0, 75}, o.exit) {
		t.Errorf("exit status %d: %s", o.exit, o.stderr)
	}
	s.check(h, o, f)
	if t.Failed() && !failed {
		t.Logf("the above is of %s at call %d, %v, exit status %d, in %s\n%s%s", f.name, n, o.hit, o.exit, h.dir, o.stdout, o.stderr)
	}
	return o.hit != nil
}

// TestTrace: at the moment a program answers for a message, all of it has been flushed in the order that the file system asks for.
func TestTrace(t *testing.T) {
	for _, s := range scenarios {
		t.Run(s.name, func(t *testing.T) {
			h := newHost(t)
			defer h.close()
			c := s.command(h)
			if err := os.MkdirAll(h.spool(), 0o700); err != nil {
				t.Fatal(err)
			}
			dir, err := durable.OpenDir(h.spool())
			if err != nil {
				t.Fatal(err)
			}
			defer dir.Close()
			o, err := c.run(0, fault{})
			if err != nil || o.exit != 0 {
				t.Fatalf("exit status %d, %v: %s", o.exit, err, o.stderr)
			}
			trace := append(o.events, event{name: "exit"})
			if !slices.ContainsFunc(trace, s.answered) {
				t.Fatalf("no answer in the trace:\n%v\n%s", trace, o.stderr)
			}
			for _, wrong := range s.wrong(trace, h.spool(), dir) {
				t.Error(wrong)
			}
			if t.Failed() {
				for _, e := range trace {
					t.Log(e)
				}
			}
		})
	}
}

// wrong says, for each answer in a trace, what had not been flushed by then.
func (s scenario) wrong(trace []event, spool string, dir *durable.Dir) (all []string) {
	order := orderOf(dir)
	asked, _ := durable.OrderOf(dir)
	last := 0
	for i, e := range trace {
		if s.answered(e) {
			last = i
		}
	}
	for i, e := range trace {
		if !s.answered(e) {
			continue
		}
		n := -1
		this := func(event) bool { n++; return n == i }
		for _, wrong := range unflushed(trace[:i+1], spool, order, this) {
			if s.later != "" && i < last && strings.Contains(wrong, s.later) {
				continue
			}
			if order != asked && strings.Contains(wrong, spool) && strings.HasSuffix(wrong, "got its name before it was flushed") {
				continue // it learnt of the order from its first message, and flushed that in both
			}
			all = append(all, fmt.Sprintf("%v: at %v: %s", order, e, wrong))
		}
	}
	return all
}

// orderOf is the order that a file system asks for, as far as it shows.
func orderOf(dir *durable.Dir) durable.Order {
	order, _ := durable.OrderOf(dir)
	if durable.FastCommits(dir) {
		return durable.FsyncRenameFsync
	}
	return order
}

// TestFlushes: a message that is accepted costs one flush where the file system lets it, and two where it does not.
func TestFlushes(t *testing.T) {
	h := newHost(t)
	defer h.close()
	h.must(letter("before"), "sendmail", "-f", "alice@example.org", "bob@example.org") // makes the spool
	dir, err := durable.OpenDir(h.spool())
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	want := map[durable.Order]int{durable.RenameFsync: 1, durable.FsyncRenameFsync: 2}[orderOf(dir)]
	one := "MAIL FROM:<alice@example.org>\nRCPT TO:<bob@example.org>\nDATA\n" + letter("first") + ".\n"
	dialog := h.write("dialog", strings.ReplaceAll("EHLO x\n"+strings.Repeat(one, 4)+"QUIT\n", "\n", "\r\n"))
	o, err := h.command(dialog, "smtpd").run(0, fault{})
	if err != nil || o.exit != 0 {
		t.Fatalf("exit status %d, %v: %s", o.exit, err, o.stderr)
	}
	var flushes []int // before each answer
	n, queued := 0, said("250 2.0.0 Ok: queued as ")
	for _, e := range o.events {
		switch {
		case queued(e):
			flushes = append(flushes, n)
			n = 0
		case e.name == "fsync" || e.name == "fdatasync" || e.name == "syncfs":
			n++
		}
	}
	if len(flushes) != 4 || slices.ContainsFunc(flushes[1:], func(n int) bool { return n != want }) { // by the second the server knows its file system
		t.Errorf("flushes for each message: %v, want %d", flushes, want)
	}
	t.Logf("%v: flushes for each message %v", orderOf(dir), flushes)
}
