package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unicode"

	"golang.org/x/sys/unix"

	"github.com/postel-mail/postel/internal/address"
	"github.com/postel-mail/postel/internal/envelope"
	"github.com/postel-mail/postel/internal/queue"
	"github.com/postel-mail/postel/internal/status"
	"github.com/postel-mail/postel/test/build"
)

// bin is the folder of the program under test, where every user can run it.
var bin string

func TestMain(m *testing.M) { os.Exit(build.Main(m, &bin, ".")) }

// nobody is a user without rights, whom root can become.
const nobody = 65534

// host is a configuration and its spool, which is not there yet.
type host struct {
	t      *testing.T
	config string
	spool  string
	as     *syscall.Credential
}

func newHost(t *testing.T) *host {
	t.Helper()
	dir, err := os.MkdirTemp(bin, "host-") // t.TempDir is closed to other users
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	h := &host{t: t, config: dir + "/postel.toml", spool: dir + "/spool"}
	if err == nil {
		err = os.WriteFile(h.config, fmt.Appendf(nil, "hostname = \"host.example\"\nspool = %q\n", h.spool), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// enqueue puts a message into the queue and gives its id.
func (h *host) enqueue(from string, to ...string) string {
	h.t.Helper()
	spool, err := queue.Open(h.spool)
	if err != nil {
		h.t.Fatal(err)
	}
	defer spool.Close()
	if to == nil {
		to = []string{"b@y.example"}
	}
	e := &envelope.Envelope{From: address.Path{Local: from, Domain: "x.example"}, UID: -1}
	for _, one := range to {
		p, err := address.Parse(one)
		if err != nil {
			h.t.Fatal(err)
		}
		e.Rcpts = append(e.Rcpts, envelope.Recipient{To: p})
	}
	w, err := spool.Create(e)
	if err != nil {
		h.t.Fatal(err)
	}
	defer w.Abort()
	if err := w.Commit(); err != nil {
		h.t.Fatal(err)
	}
	return w.ID()
}

// run runs mailq.
func (h *host) run(stdin string, args ...string) (exit int, stdout, stderr string) {
	h.t.Helper()
	var out, errs bytes.Buffer
	c := exec.Command(bin+"/mailq", args...)
	c.Stdin, c.Stdout, c.Stderr = strings.NewReader(stdin), &out, &errs
	c.Env, c.SysProcAttr = []string{"POSTEL_CONFIG=" + h.config}, &syscall.SysProcAttr{Credential: h.as}
	if err := c.Run(); err != nil && c.ProcessState == nil {
		h.t.Fatal(err)
	}
	return c.ProcessState.ExitCode(), out.String(), errs.String()
}

// expect runs mailq and compares exit status and all that it prints.
func (h *host) expect(exit int, stdout, stderr string, args ...string) {
	h.t.Helper()
	gotExit, gotOut, gotErr := h.run("", args...)
	if gotExit != exit || gotOut != stdout || gotErr != stderr {
		h.t.Errorf("mailq %s: got exit %d, %q, %q; want %d, %q, %q", strings.Join(args, " "), gotExit, gotOut, gotErr, exit, stdout, stderr)
	}
}

func TestNoSpool(t *testing.T) {
	h := newHost(t)
	const id = "1jsk0m8b6ggqrrmcf4x2"
	h.expect(0, "Mail queue is empty\n", "")
	h.expect(0, "Mail queue is empty\n", "", "list", "--from", "x")
	h.expect(0, "", "", "--json")
	h.expect(0, "", "", "retry")
	h.expect(0, "      T 5m 10m 20m 40m 80m 160m 320m 640m 1280m 1280m+\nTOTAL 0  0   0   0   0   0    0    0    0     0      0\n", "", "--summary")
	h.expect(3, "MAILQ UNKNOWN: cannot use the spool: stat "+h.spool+"/queue: no such file or directory\n", "", "--warn-count", "5")
	h.expect(65, "", "mailq: "+id+": not in the queue\n", "show", id)
	h.expect(65, "", "mailq: "+id+": not in the queue\n", "delete", id)
	if _, err := os.Stat(h.spool); err == nil {
		t.Error("looking has made a spool")
	}
}

// TestClosedSpool: who may not look is told who may.
func TestClosedSpool(t *testing.T) {
	h := newHost(t)
	h.enqueue("a")
	if os.Geteuid() == 0 {
		h.as = &syscall.Credential{Uid: nobody, Gid: nobody}
	} else if err := os.Chmod(h.spool, 0); err != nil {
		t.Fatal(err)
	} else {
		defer os.Chmod(h.spool, 0o700)
	}
	exit, stdout, stderr := h.run("", "list")
	if exit != 77 || stdout != "" || !strings.HasSuffix(stderr, "permission denied; run mailq as root or as the user who owns the spool\n") {
		t.Errorf("got %d, %q, %q", exit, stdout, stderr)
	}
	exit, stdout, _ = h.run("", "--warn-count", "3")
	if exit != 3 || !strings.HasPrefix(stdout, "MAILQ UNKNOWN: cannot use the spool") || strings.Count(stdout, "\n") != 1 {
		t.Errorf("monitoring: got %d, %q", exit, stdout)
	}
}

func TestBrokenSpool(t *testing.T) {
	h := newHost(t)
	if err := os.WriteFile(h.spool, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	h.expect(74, "", "mailq: cannot use the spool: stat "+h.spool+"/queue: not a directory\n")
	h.expect(3, "MAILQ UNKNOWN: cannot use the spool: stat "+h.spool+"/queue: not a directory\n", "", "--crit-age", "1h")
}

// state is what the queue knows about a message.
func (h *host) state(id string) queue.State {
	h.t.Helper()
	spool, err := queue.Open(h.spool)
	if err != nil {
		h.t.Fatal(err)
	}
	defer spool.Close()
	m, err := spool.Peek(id)
	if err != nil {
		h.t.Fatal(err)
	}
	defer m.Close()
	return m.State
}

// defer1 notes an attempt in vain for the first recipient, and delivery to all others.
func (h *host) defer1(id string) {
	h.t.Helper()
	spool, err := queue.Open(h.spool)
	if err != nil {
		h.t.Fatal(err)
	}
	defer spool.Close()
	m, err := spool.Claim(id)
	if err != nil {
		h.t.Fatal(err)
	}
	defer m.Close()
	m.State.Attempts, m.State.Last, m.State.Next = 1, m.Envelope.Arrival, m.Envelope.Arrival.Add(time.Hour)
	for i := range m.State.Rcpts {
		m.State.Rcpts[i] = queue.Outcome{Progress: queue.Delivered, Told: true}
	}
	m.State.Rcpts[0] = queue.Outcome{Last: status.Temporary(451, "4.3.0", "later", nil), Relay: "mx.y.example[192.0.2.7]:25", Said: true}
	if err := m.Record(false); err != nil {
		h.t.Fatal(err)
	}
}

// TestVerbs: what each verb changes, and nothing else.
func TestVerbs(t *testing.T) {
	h := newHost(t)
	id := h.enqueue("a")
	h.defer1(id)
	before := h.state(id)
	for _, step := range []struct {
		args []string
		want string
		set  func(st *queue.State)
	}{
		{[]string{"hold"}, "held", func(st *queue.State) { st.Hold = true }},
		{[]string{"hold"}, "held", func(*queue.State) {}},
		{[]string{"release"}, "released", func(st *queue.State) { st.Hold = false }},
		{[]string{"release"}, "released", func(*queue.State) {}},
		{[]string{"retry"}, "due now", func(st *queue.State) { st.Next = time.Time{} }},
		{[]string{"retry"}, "due now", func(*queue.State) {}},
		{[]string{"expire"}, "given up", func(st *queue.State) { st.Expire = true }},
	} {
		h.expect(0, id+" "+step.want+"\n", "", append(step.args, id)...)
		step.set(&before)
		if after := h.state(id); after.Text(id) != before.Text(id) {
			t.Errorf("after %v: got\n%swant\n%s", step.args, after.Text(id), before.Text(id))
		}
	}
	h.expect(0, `{"done":"deleted","id":"`+id+"\"}\n", "", "delete", "--json", id)
	h.expect(65, "", "mailq: "+id+": not in the queue\n", "hold", id)
	for _, dir := range []string{"queue", "state"} {
		if left, err := os.ReadDir(h.spool + "/" + dir); err != nil || len(left) != 0 {
			t.Errorf("%s: %v %v", dir, left, err)
		}
	}
}

// TestBusy: what is being delivered is not changed; a retry of it is being done.
func TestBusy(t *testing.T) {
	h := newHost(t)
	id, free := h.enqueue("a"), h.enqueue("b")
	spool, err := queue.Open(h.spool)
	if err != nil {
		t.Fatal(err)
	}
	defer spool.Close()
	m, err := spool.Claim(id)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	for verb, word := range map[string]string{"hold": "held", "release": "released", "expire": "given up"} {
		h.expect(75, free+" "+word+"\n", "mailq: "+id+": is being delivered, try again\n", verb, "--older", "0s")
		h.expect(0, free+" released\n", "", "release", free)
	}
	h.expect(75, free+" deleted\n", "mailq: "+id+": is being delivered, try again\n", "delete", "--domain", "Y.EXAMPLE")
	h.expect(0, id+" is being delivered\n", "", "retry")
	h.expect(0, id+" is being delivered\n", "", "retry", id)
}

// TestTriggers: the runner hears of each message that was changed, and of no other.
func TestTriggers(t *testing.T) {
	h := newHost(t)
	one, other := h.enqueue("a"), h.enqueue("b")
	spool, err := queue.Open(h.spool)
	if err != nil {
		t.Fatal(err)
	}
	defer spool.Close()
	f, err := spool.OpenTrigger()
	if err != nil {
		t.Fatal(err)
	}
	woken := make(chan string, 100)
	ended := make(chan error)
	go func() { ended <- spool.Wakeups(f, func(id string) { woken <- id }) }()
	for _, verb := range []string{"hold", "release", "retry", "expire", "delete"} {
		if exit, _, stderr := h.run("", verb, "--from", "A@"); exit != 0 {
			t.Errorf("%s: exit %d %s", verb, exit, stderr)
		}
		if got := <-woken; got != one {
			t.Errorf("%s: woken for %q, want %q", verb, got, one)
		}
	}
	h.expect(0, other+" due now\n", "", "retry")
	if got := <-woken; got != other {
		t.Errorf("woken for %q, want %q", got, other)
	}
	f.Close()
	if err := <-ended; err != nil || len(woken) > 0 {
		t.Errorf("%v, %d more", err, len(woken))
	}
}

// TestFilters: filters are joined by and; a recipient who has the message does not count.
func TestFilters(t *testing.T) {
	h := newHost(t)
	a := h.enqueue("Alice", "bob@y.example", "carol@z.example")
	b := h.enqueue("dave", "Carol@Z.example", "x@b\u00fccher.example")
	h.defer1(a)
	for _, c := range []struct {
		args string
		want []string
	}{
		{"", []string{a, b}},
		{"--from alice@", []string{a}},
		{"--from <dave@x.example>", []string{b}},
		{"--to CAROL@", []string{b}},
		{"--to carol@ --domain b\u00fccher.example", nil},
		{"--to x@ --domain xn--bcher-kva.example", []string{b}},
		{"--domain Z.EXAMPLE", []string{b}},
		{"--domain example", nil},
		{"--domain y.example --from alice --older 0s --id " + a[3:15], []string{a}},
		{"--domain y.example --from dave", nil},
		{"--older 1h", nil},
	} {
		exit, stdout, stderr := h.run("", append([]string{"--json"}, strings.Fields(c.args)...)...)
		var got []string
		for line := range strings.Lines(stdout) {
			var m struct{ ID string }
			if err := json.Unmarshal([]byte(line), &m); err != nil {
				t.Fatalf("%s: %v", line, err)
			}
			got = append(got, m.ID)
		}
		if exit != 0 || stderr != "" || !slices.Equal(got, c.want) {
			t.Errorf("%s: got %d %q %q, want %q", c.args, exit, got, stderr, c.want)
		}
	}
}

// TestHealth: the verdict is the exit status, and the reason one line.
func TestHealth(t *testing.T) {
	h := newHost(t)
	held := h.enqueue("a")
	h.expect(0, held+" held\n", "", "hold", held)
	h.expect(0, "MAILQ OK: 1 message, none waits | messages=1;5;10;0; oldest=0s;3600;21600;0;\n", "",
		"--warn-age", "1h", "--crit-age", "6h", "--warn-count", "5", "--crit-count", "10")
	h.expect(1, "MAILQ WARNING: 1 message (more than 0), none waits | messages=1;0;10;0; oldest=0s;;;0;\n", "", "--warn-count", "0", "--crit-count", "10")
	h.expect(2, "MAILQ CRITICAL: 1 message (more than 0), none waits | messages=1;;0;0; oldest=0s;;;0;\n", "", "--crit-count", "0", "--from", "a@")
	h.expect(0, "MAILQ OK: 0 messages, none waits | messages=0;;0;0; oldest=0s;;;0;\n", "", "--crit-count", "0", "--from", "b@")
	h.expect(3, "MAILQ UNKNOWN: --warn-age: \"soon\" is not a duration; write 30s, 5m, 4h or 5d\n", "", "--warn-age", "soon")
	h.expect(3, "MAILQ UNKNOWN: a count is not negative\n", "", "--warn-count=-7")
	h.expect(64, "", "mailq: invalid argument \"x\" for \"--warn-count\" flag: strconv.ParseInt: parsing \"x\": invalid syntax (see mailq --help)\n", "--warn-count", "x")
	if err := os.WriteFile(h.config, []byte("nonsense"), 0o644); err != nil {
		t.Fatal(err)
	}
	if exit, stdout, stderr := h.run("", "--warn-count", "3"); exit != 3 || strings.Count(stdout, "\n") != 1 || !strings.HasPrefix(stdout, "MAILQ UNKNOWN: ") || stderr != "" {
		t.Errorf("got %d, %q, %q", exit, stdout, stderr)
	}
}

func TestTrace(t *testing.T) {
	h := newHost(t)
	const id, report = "1jsk0m8b6ggqrrmcf4x2", "1jsk0m8b6ggqrrmcf4x3"
	line := func(at, rest string) string {
		return "time=2026-11-23T17:50:0" + at + "Z level=info prog=qmgr " + rest + "\n"
	}
	one := line("1", "event=report id="+id+" report="+report+" kind=failed")
	two := line("2", "event=accepted id="+report+" from=<>")
	three := line("3", "event=removed id="+id+" text=\"\u202ex\x1b[2J\"")
	log := h.config + ".log"
	if err := os.WriteFile(log, []byte(three+two), 0o644); err != nil {
		t.Fatal(err)
	}
	want := one + "  " + two + strings.NewReplacer("\u202e", "?", "\x1b", "?").Replace(three)
	if exit, stdout, stderr := h.run(three+two+one, "trace", id); exit != 0 || stdout != want || stderr != "" {
		t.Errorf("stdin: got %d, %q, %q", exit, stdout, stderr)
	}
	if exit, stdout, stderr := h.run(one, "trace", id, log, "-"); exit != 0 || stdout != want || stderr != "" {
		t.Errorf("files: got %d, %q, %q", exit, stdout, stderr)
	}
	h.expect(0, `{"time":"2026-11-23T17:50:02Z","level":"info","prog":"qmgr","event":"accepted","id":"`+report+`","from":"<>"}`+"\n", "", "trace", "--json", report, log)
	h.expect(65, "", "mailq: "+id[:19]+"z: no log has a line about it\n", "trace", id[:19]+"z", log)
	h.expect(66, "", "mailq: open /nowhere: no such file or directory\n", "trace", id, "/nowhere")
	for _, args := range [][]string{{"trace"}, {"trace", "x"}, {"trace", id, "--from", "x"}, {"trace", id, "--summary"}, {"trace", id, "--warn-count", "1"}} {
		if exit, _, stderr := h.run("", args...); exit != 64 || stderr == "" {
			t.Errorf("%v: got %d, %q", args, exit, stderr)
		}
	}
}

// TestManyAtOnce: a hundred people hold and release at once; nobody loses anything.
func TestManyAtOnce(t *testing.T) {
	h := newHost(t)
	var ids []string
	for range 20 {
		ids = append(ids, h.enqueue("a"))
	}
	var all sync.WaitGroup
	for i := range 100 {
		all.Go(func() {
			exit, _, stderr := h.run("", []string{"hold", "release", "retry", "expire"}[i%4], "--older", "0s")
			if exit != 0 && exit != 75 {
				t.Errorf("exit %d: %s", exit, stderr)
			}
		})
	}
	all.Wait()
	for _, id := range ids {
		h.state(id)
	}
	if left, err := os.ReadDir(h.spool + "/state"); err != nil || len(left) > len(ids) {
		t.Errorf("%v %v", left, err)
	}
}

// TestTerminal: on a terminal, a long run says how far it is, and nothing that is queued speaks to the terminal.
func TestTerminal(t *testing.T) {
	h := newHost(t)
	h.enqueue("\u009b2J\u202e", "b@y.example")
	id := h.enqueue("a")
	for _, args := range [][]string{{}, {"show", "--older", "0s"}, {"--json"}, {"--summary"}, {"hold", id}} {
		out := h.onTerminal(args...)
		for _, r := range out {
			if !unicode.IsPrint(r) && r != '\r' && r != '\n' {
				t.Errorf("%v: %q in %q", args, r, out)
			}
		}
	}
	if exit, stdout, _ := h.run("", "show", "--older", "0s"); exit != 0 || !strings.Contains(stdout, "\u202e") {
		t.Errorf("in a pipe: %q", stdout) // octet for octet
	}
}

// onTerminal runs mailq with a terminal as its output, and gives what came there.
func (h *host) onTerminal(args ...string) string {
	h.t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		h.t.Fatal(err)
	}
	defer master.Close()
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		h.t.Fatal(err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR, 0)
	if err != nil {
		h.t.Fatal(err)
	}
	c := exec.Command(bin+"/mailq", args...)
	c.Stdout, c.Stderr, c.Env = slave, slave, []string{"POSTEL_CONFIG=" + h.config}
	err = c.Start()
	slave.Close()
	if err != nil {
		h.t.Fatal(err)
	}
	out, _ := io.ReadAll(master) // EIO at the end
	if err := c.Wait(); err != nil {
		h.t.Fatal(err)
	}
	return string(out)
}

// TestRetryHeld: what is held stays so, and nobody is told otherwise.
func TestRetryHeld(t *testing.T) {
	h := newHost(t)
	held, free := h.enqueue("held"), h.enqueue("free")
	h.expect(0, held+" held\n", "", "hold", held)
	h.expect(65, free+" due now\n", "mailq: "+held+": is held; release it first\n", "retry", held, free)
	h.expect(0, free+" due now\n", "", "retry")
	h.expect(0, "", "", "retry", "--from", "held")
	h.expect(0, held+" released\n", "", "release", held)
	h.expect(0, held+" due now\n", "", "retry", held)
}
