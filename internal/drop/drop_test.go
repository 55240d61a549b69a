package drop

import (
	"bytes"
	"context"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postel-mail/postel/internal/address"
	"github.com/postel-mail/postel/internal/clock"
	"github.com/postel-mail/postel/internal/durable"
	"github.com/postel-mail/postel/internal/envelope"
	"github.com/postel-mail/postel/internal/maillog"
	"github.com/postel-mail/postel/internal/queue"
	"github.com/postel-mail/postel/internal/submission"
)

const text = "From: a@north.example\r\nDate: x\r\nMessage-ID: <i>\r\nSubject: x\r\n\r\nhello\r\n"

// house is a spool with its collector.
type house struct {
	*Collector
	t    testing.TB
	path string // of the spool
	mu   sync.Mutex
	log  bytes.Buffer
}

func (h *house) Write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.log.Write(p)
}

func (h *house) logged() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.log.String()
}

func newHouse(t testing.TB) *house {
	t.Helper()
	h := &house{t: t, path: t.TempDir() + "/spool"}
	spool, err := queue.Open(h.path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(spool.Close)
	h.Collector = &Collector{Spool: spool, Log: maillog.ToWriter(h, "test"), Rules: func() submission.Submission {
		return submission.Submission{Hostname: "host.example", MaxSize: 64 << 10, MaxRecipients: 3, MaxHops: 3}
	}}
	t.Cleanup(h.Close)
	return h
}

// leave leaves a message as sendmail does, and gives its id.
func (h *house) leave() string {
	h.t.Helper()
	d, err := queue.OpenDrop(h.path, 0)
	if err != nil {
		h.t.Fatal(err)
	}
	defer d.Close()
	w, err := d.Create(&envelope.Envelope{UID: os.Getuid(), From: address.Path{Local: "a", Domain: "north.example"},
		Rcpts: []envelope.Recipient{{To: address.Path{Local: "b", Domain: "south.example"}, Notify: "NEVER"}}})
	if err != nil {
		h.t.Fatal(err)
	}
	_, _ = io.WriteString(w, text)
	if err := w.Commit(); err != nil {
		h.t.Fatal(err)
	}
	return w.ID()
}

// file is where a file lies in drop/.
func (h *house) file(name string) string { return h.path + "/drop/" + name }

// write puts a file there.
func (h *house) write(name string, data []byte) {
	h.t.Helper()
	if err := os.WriteFile(h.file(name), data, 0o600); err != nil {
		h.t.Fatal(err)
	}
}

// craft makes a queue file by hand.
func craft(lines, message string) []byte {
	rest := lines + "\n" + message
	return fmt.Appendf(nil, "postel-queue 1\nSize: %020d\nSum: %08x\n%s", len(rest), crc32.Checksum([]byte(rest), crc32.MakeTable(crc32.Castagnoli)), rest)
}

const goodLines = "Id: x\nArrival: 2026-11-23T17:50:04.560294Z\nFrom: <a@north.example>\nTo: <b@south.example>\n"

func (h *house) collect() {
	h.t.Helper()
	if err := h.Collect(context.Background()); err != nil {
		h.t.Error(err)
	}
}

func (h *house) ids() []string {
	h.t.Helper()
	ids, err := h.Spool.IDs()
	if err != nil {
		h.t.Fatal(err)
	}
	return ids
}

// names are the files of a folder.
func (h *house) names(dir string) (names []string) {
	h.t.Helper()
	entries, err := os.ReadDir(h.path + "/" + dir)
	if err != nil {
		h.t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// queued gives envelope and text of a message.
func (h *house) queued(id string) (*envelope.Envelope, string) {
	h.t.Helper()
	m, err := h.Spool.Claim(id)
	if err != nil {
		h.t.Fatal(err)
	}
	defer m.Close()
	b, err := io.ReadAll(m.Body())
	if err != nil {
		h.t.Fatal(err)
	}
	return m.Envelope, string(b)
}

func TestCollect(t *testing.T) {
	h := newHouse(t)
	id := h.leave()
	h.collect()
	e, got := h.queued(id)
	received := fmt.Sprintf("Received: by host.example (postel, from userid %d)\r\n\tid %s; ", os.Getuid(), id)
	if !strings.HasPrefix(got, received) || !strings.HasSuffix(got, "\r\n"+text) {
		t.Errorf("got %q", got)
	}
	if e.UID != os.Getuid() || e.Client != "local" || e.From.String() != "a@north.example" || e.Rcpts[0].Notify != "NEVER" {
		t.Errorf("got %+v", e)
	}
	if left := h.names("drop"); len(left) > 0 {
		t.Errorf("left %q", left)
	}
	if want := fmt.Sprintf("event=accepted id=%s from=<a@north.example> size=%d nrcpt=1 client=local proto=local uid=%d\n", id, len(got), os.Getuid()); !strings.HasSuffix(h.logged(), want) {
		t.Errorf("log %q, want %q", h.logged(), want)
	}
}

// TestLies: nothing that an envelope says about who it is from is believed, and the message is completed as any other.
func TestLies(t *testing.T) {
	h := newHouse(t)
	id := queue.NewID(clock.Now())
	h.write(id, craft(strings.Replace(goodLines, "To:", "Client: 192.0.2.1\nAuth: root\nUid: 0\nTo:", 1), "Bcc: x\r\nSubject: y\n\nbare\rcr\x00\n"))
	uid := os.Getuid()
	if uid == 0 {
		uid = 12345
		if err := os.Chown(h.file(id), uid, uid); err != nil {
			t.Fatal(err)
		}
	}
	h.collect()
	e, got := h.queued(id)
	if e.UID != uid || e.Client != "local" || e.Auth != "" || e.ID != id || clock.Since(e.Arrival) > time.Hour {
		t.Errorf("got %+v", e)
	}
	if !strings.Contains(got, fmt.Sprintf("from userid %d)", uid)) || strings.Contains(got, "Bcc") || strings.Contains(strings.ReplaceAll(got, "\r\n", ""), "\n") ||
		!strings.Contains(got, "\r\nMessage-ID: <"+id+"@host.example>\r\n") || strings.Contains(got, "\x00") {
		t.Errorf("got %q", got)
	}
}

// later lets the clock show two hours later.
func later(t *testing.T) {
	clock.Set(func() time.Time { return time.Now().Add(2 * time.Hour) })
	t.Cleanup(func() { clock.Set(nil) })
}

// TestTraps: what is no message is never opened for reading, stays for an hour, and then goes away.
func TestTraps(t *testing.T) {
	signal.Ignore(unix.SIGIO) // the lease
	id := queue.NewID(clock.Now())
	const junk, bad, stays = "junk", "bad", "stays"
	traps := []struct {
		name string
		lay  func(h *house) error
		want string
		file string // its name; "": id
	}{
		{"symbolic link to a message", func(h *house) error {
			h.write(id+".x", craft(goodLines, text))
			return os.Symlink(id+".x", h.file(id))
		}, junk, ""},
		{"symbolic link to nothing", func(h *house) error { return os.Symlink("/nonexistent", h.file(id)) }, junk, ""},
		{"hard link", func(h *house) error {
			other := h.path + "/other"
			return firstError(os.WriteFile(other, craft(goodLines, text), 0o600), os.Link(other, h.file(id)))
		}, junk, ""},
		{"FIFO", func(h *house) error { return unix.Mkfifo(h.file(id), 0o600) }, junk, ""},
		{"socket", func(h *house) error {
			fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
			defer unix.Close(fd)
			return firstError(err, unix.Bind(fd, &unix.SockaddrUnix{Name: h.file(id)}))
		}, junk, ""},
		{"directory", func(h *house) error { return os.Mkdir(h.file(id), 0o700) }, junk, ""},
		{"directory with something in it", func(h *house) error { return os.MkdirAll(h.file(id)+"/x", 0o700) }, stays, ""},
		{"name", func(h *house) error { h.write("message", craft(goodLines, text)); return nil }, junk, "message"},
		{"name with a newline", func(h *house) error { h.write("a\nlevel=info b", nil); return nil }, junk, "a\nlevel=info b"},
		{"long name", func(h *house) error { h.write(strings.Repeat("x", 255), nil); return nil }, junk, strings.Repeat("x", 255)},
		{"hidden name", func(h *house) error { h.write("..x", nil); return nil }, junk, "..x"},
		{"empty", func(h *house) error { h.write(id, nil); return nil }, junk, ""},
		{"half written", func(h *house) error {
			h.write(id, append([]byte("postel-queue 1\nSize: 00000000000000000000\nSum: 00000000\n"), goodLines...))
			return nil
		}, junk, ""},
		{"being written", func(h *house) error {
			h.write(id, craft(goodLines, text))
			f, err := os.Open(h.file(id))
			h.t.Cleanup(func() { f.Close() })
			return firstError(err, durable.TryFlock(f))
		}, stays, ""},
		{"lease", func(h *house) error {
			h.write(id, craft(goodLines, text))
			f, err := os.OpenFile(h.file(id), os.O_RDWR, 0)
			h.t.Cleanup(func() { f.Close() })
			_, err2 := unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_WRLCK)
			return firstError(err, err2)
		}, stays, ""},
		{"later version", func(h *house) error {
			h.write(id, bytes.Replace(craft(goodLines, text), []byte("queue 1"), []byte("queue 2"), 1))
			return nil
		}, stays, ""},
		{"not a queue file", func(h *house) error { h.write(id, bytes.Repeat([]byte("x\n"), 100)); return nil }, bad, ""},
		{"damaged", func(h *house) error {
			h.write(id, bytes.Replace(craft(goodLines, text), []byte("hello"), []byte("hullo"), 1))
			return nil
		}, bad, ""},
		{"recipients", func(h *house) error {
			h.write(id, craft(goodLines+"To: <1@x.example>\nTo: <2@x.example>\nTo: <3@x.example>\n", text))
			return nil
		}, bad, ""},
		{"a million recipients", func(h *house) error {
			h.write(id, craft(goodLines+strings.Repeat("To: <c@x.example>\n", 20000), text))
			return nil
		}, bad, ""},
		{"size", func(h *house) error { h.write(id, craft(goodLines, text+strings.Repeat("x\r\n", 22000))); return nil }, bad, ""},
		{"huge", func(h *house) error { h.write(id, nil); return os.Truncate(h.file(id), 1<<40) }, bad, ""},
		{"hops", func(h *house) error {
			h.write(id, craft(goodLines, strings.Repeat("Received: x\r\n", 4)+text))
			return nil
		}, bad, ""},
		{"sender", func(h *house) error {
			h.write(id, craft(strings.Replace(goodLines, "a@north.example", "a b@x", 1), text))
			return nil
		}, bad, ""},
		{"original recipient", func(h *house) error {
			h.write(id, craft(strings.Replace(goodLines, "south.example>", "south.example> ORCPT=rfc822;x+0AX:+20y", 1), text))
			return nil
		}, bad, ""},
	}
	if os.Getuid() == 0 {
		traps = append(traps, traps[0])
		trap := &traps[len(traps)-1]
		trap.name, trap.lay = "device", func(h *house) error { return unix.Mknod(h.file(id), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))) }
	}
	for _, trap := range traps {
		t.Run(trap.name, func(t *testing.T) {
			h := newHouse(t)
			file := trap.file
			if file == "" {
				file = id
			}
			if err := trap.lay(h); err != nil {
				t.Fatal(err)
			}
			before := h.names("drop")
			h.collect()
			if trap.want != bad && !slices.Equal(h.names("drop"), before) {
				t.Errorf("left %q of %q", h.names("drop"), before)
			}
			later(t)
			h.collect()
			if there := slices.Contains(h.names("drop"), file); there != (trap.want == stays) {
				t.Errorf("after an hour there: %v", there)
			}
			if kept := slices.Contains(h.names("corrupt"), file); kept != (trap.want == bad) {
				t.Errorf("in corrupt: %v", kept)
			}
			if len(h.ids()) > 0 {
				t.Errorf("queued %q", h.ids())
			}
			if event := map[string]string{junk: "event=discarded ", bad: "event=corrupt id=" + id}[trap.want]; !strings.Contains(h.logged(), event) {
				t.Errorf("log %q", h.logged())
			}
			if lines := strings.Count(h.logged(), "\n"); lines > 2 {
				t.Errorf("%d lines in the log: %s", lines, h.logged())
			}
		})
	}
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// TestCrash: what a crash left in both places is one message, and its id opens nothing to others.
func TestCrash(t *testing.T) {
	h := newHouse(t)
	id := h.leave()
	file, err := os.ReadFile(h.file(id))
	if err != nil {
		t.Fatal(err)
	}
	h.collect()
	h.write(id, file) // as if it had not been removed
	other := h.leave()
	again := &Collector{Spool: h.Spool, Log: h.Log, Rules: h.Rules}
	defer again.Close()
	for _, tt := range []struct {
		step          func(context.Context) error
		drop, inQueue []string
	}{{again.Settle, []string{other}, []string{id}}, {again.Collect, nil, []string{id, other}}} {
		if err := tt.step(context.Background()); err != nil {
			t.Fatal(err)
		}
		queued := h.ids()
		slices.Sort(queued)
		if drop := h.names("drop"); !slices.Equal(drop, tt.drop) || !slices.Equal(queued, tt.inQueue) {
			t.Errorf("got %q and %q in the queue, want %q and %q", drop, queued, tt.drop, tt.inQueue)
		}
	}
	if strings.Count(h.logged(), "event=accepted") != 2 || strings.Contains(h.logged(), "corrupt") {
		t.Errorf("log %q", h.logged())
	}

	w, err := h.Spool.Create(&envelope.Envelope{UID: os.Getuid() + 1, From: address.Path{Local: "x", Domain: "y"}, Rcpts: []envelope.Recipient{{To: address.Path{Local: "x", Domain: "y"}}}})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort()
	if err := w.Commit(); err != nil {
		t.Fatal(err)
	}
	h.write(w.ID(), craft(goodLines, text))
	h.collect()
	if e, _ := h.queued(w.ID()); e.UID != os.Getuid()+1 {
		t.Errorf("somebody else's message is replaced: %+v", e)
	}
	if !slices.Equal(h.names("corrupt"), []string{w.ID()}) {
		t.Errorf("corrupt has %q", h.names("corrupt"))
	}
}

// TestUnremovable: a message whose file cannot be removed is not taken either, so that it is not taken twice.
func TestUnremovable(t *testing.T) {
	h := newHouse(t)
	id := h.leave()
	h.Rules = func() submission.Submission {
		if err := os.Remove(h.file(id)); err != nil { // its owner changes his mind
			t.Error(err)
		}
		return submission.Submission{Hostname: "host.example", MaxSize: 64 << 10, MaxRecipients: 3, MaxHops: 3}
	}
	h.collect()
	if len(h.ids()) > 0 || h.logged() != "" {
		t.Errorf("queued %q, log %q", h.ids(), h.logged())
	}
}

// TestCap: of one user no more than so much is taken in an hour; it is said once, and the rest comes later.
func TestCap(t *testing.T) {
	for _, already := range []account{{messages: maxMessages - 1}, {octets: maxOctets - 1}} {
		h := newHouse(t)
		for range 3 {
			h.leave()
		}
		h.collect() // nothing is on the account yet
		for range 3 {
			h.leave()
		}
		if len(h.ids()) != 3 {
			t.Fatalf("queued %q", h.ids())
		}
		already.begun = clock.Now()
		h.accounts[uint32(os.Getuid())] = &already
		for range 3 {
			h.collect()
		}
		if len(h.ids()) != 4 || len(h.names("drop")) != 2 {
			t.Errorf("queued %q, left %q", h.ids(), h.names("drop"))
		}
		if strings.Count(h.logged(), "event=problem") != 1 || !strings.Contains(h.logged(), "waits for the next one") {
			t.Errorf("log %q", h.logged())
		}
		clock.Set(func() time.Time { return time.Now().Add(period) })
		h.collect()
		clock.Set(nil)
		if len(h.ids()) != 6 || len(h.names("drop")) != 0 {
			t.Errorf("an hour later: queued %q, left %q", h.ids(), h.names("drop"))
		}
	}
}

// TestJunkIsCharged: junk is on the account too, so that it costs no more than messages do.
func TestJunkIsCharged(t *testing.T) {
	h := newHouse(t)
	for n := range 10 {
		h.write(fmt.Sprint("junk", n), nil)
	}
	h.collect()
	if a := h.accounts[uint32(os.Getuid())]; a == nil || a.messages != 10 {
		t.Errorf("account %+v", a)
	}
}

// TestTurns: one with many files does not keep the others waiting.
func TestTurns(t *testing.T) {
	if os.Getuid() != 0 { // there is one user only; TestCap is all that can be seen
		return
	}
	h := newHouse(t)
	give := func(uid int) string {
		id := h.leave()
		if err := os.Chown(h.file(id), uid, uid); err != nil {
			t.Fatal(err)
		}
		return id
	}
	for range 20 {
		give(1001)
	}
	last := give(1002)
	h.collect()
	lines := strings.Split(h.logged(), "\n")
	if at := slices.IndexFunc(lines, func(l string) bool { return strings.Contains(l, "accepted id="+last) }); at != 1 {
		t.Errorf("its turn was number %d", at)
	}
	if len(h.ids()) != 21 {
		t.Errorf("%d are queued", len(h.ids()))
	}
}

// TestLinksAreNobodys: a file that somebody has linked to here is not on the account of its owner.
func TestLinksAreNobodys(t *testing.T) {
	h := newHouse(t)
	other := h.path + "/other"
	if err := firstError(os.WriteFile(other, nil, 0o600), os.Link(other, h.file("x"))); err != nil {
		t.Fatal(err)
	}
	h.collect()
	if a := h.accounts[uint32(os.Getuid())]; a != nil {
		t.Errorf("account %+v", a)
	}
}

// TestGoesOn: a folder with more names than are read at once is read to its end.
func TestGoesOn(t *testing.T) {
	h := newHouse(t)
	for n := range batch + 10 {
		h.write(fmt.Sprint("junk", n), nil)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.open(); err != nil {
		t.Fatal(err)
	}
	first, more, err := h.next()
	if len(first) != batch || !more || err != nil {
		t.Errorf("got %d names, more %v, %v", len(first), more, err)
	}
	second, more, err := h.next()
	if len(second) != 10 || more || err != nil || slices.Contains(first, second[0]) {
		t.Errorf("then %d names, more %v, %v", len(second), more, err)
	}
}

// TestFullDisk: when this host cannot take messages now they stay, at nobody's expense, and it is said once.
func TestFullDisk(t *testing.T) {
	h := newHouse(t)
	tries := 0
	rules := h.Rules
	h.Rules = func() submission.Submission { tries++; return rules() }
	for range 2 * maxFailures {
		h.leave()
	}
	h.Spool.SetMinFree(1 << 62)
	h.collect()
	if a := h.accounts[uint32(os.Getuid())]; a.messages != 0 || a.octets != 0 || tries != maxFailures {
		t.Errorf("account %+v, %d tries", a, tries)
	}
	if n := strings.Count(h.logged(), "\n"); n != 1 || !strings.Contains(h.logged(), "Insufficient system storage") {
		t.Errorf("log %q", h.logged())
	}
	h.Spool.SetMinFree(0)
	h.collect()
	if len(h.ids()) != 2*maxFailures {
		t.Errorf("then %d are queued", len(h.ids()))
	}
}

// TestNobodyBlocks: what one user leaves that cannot be taken now keeps nothing waiting.
func TestNobodyBlocks(t *testing.T) {
	h := newHouse(t)
	for range 30 {
		h.write(queue.NewID(clock.Now()), bytes.Replace(craft(goodLines, text), []byte("queue 1"), []byte("queue 2"), 1))
	}
	id := h.leave()
	h.collect()
	if !slices.Equal(h.ids(), []string{id}) || strings.Count(h.logged(), "event=problem") != 1 {
		t.Errorf("queued %q, log %q", h.ids(), h.logged())
	}
}

// TestPanic: a bug costs the file that brought it to light.
func TestPanic(t *testing.T) {
	h := newHouse(t)
	h.Rules = func() submission.Submission { panic("a bug") }
	id := h.leave()
	h.collect()
	if !slices.Equal(h.names("corrupt"), []string{id}) || !strings.Contains(h.logged(), "event=panic") {
		t.Errorf("corrupt has %q, log %q", h.names("corrupt"), h.logged())
	}
}

// TestChanged: the owner writes to the file all the time. What is taken is whole, as it was at one time or as it was at another.
func TestChanged(t *testing.T) {
	h := newHouse(t)
	one, two := craft(goodLines, text+strings.Repeat("one\r\n", 8000)), craft(goodLines, text+strings.Repeat("two\r\n", 8000))
	taken := 0
	for range 50 {
		id := queue.NewID(clock.Now())
		h.write(id, one)
		f, err := os.OpenFile(h.file(id), os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		stop, done := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(done)
			for {
				select {
				case <-stop:
					return
				default:
					_, _ = f.WriteAt(two, 0)
					_, _ = f.WriteAt(one, 0)
				}
			}
		}()
		h.collect()
		close(stop)
		<-done
		f.Close()
		if !slices.Contains(h.ids(), id) {
			continue
		}
		taken++
		if _, got := h.queued(id); strings.Count(got, "one") != 8000 && strings.Count(got, "two") != 8000 {
			t.Error("a mix was taken")
		}
	}
	t.Logf("%d of 50 were taken, the others are in corrupt/: %d", taken, len(h.names("corrupt")))
	if taken+len(h.names("corrupt")) != 50 {
		t.Errorf("left %q", h.names("drop"))
	}
}

// TestWatch: a message is taken as soon as it is left, also when it was left before the folder was watched.
func TestWatch(t *testing.T) {
	h := newHouse(t)
	trigger, err := h.Spool.OpenTrigger()
	if err != nil {
		t.Fatal(err)
	}
	defer trigger.Close()
	woken := make(chan string, 10)
	go func() { _ = h.Spool.Wakeups(trigger, func(id string) { woken <- id }) }()
	early := h.leave()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- h.Watch(ctx) }()
	if got := <-woken; got != early {
		t.Errorf("woken for %q, want %q", got, early)
	}
	for range 5 {
		h.write("junk", nil)
		id := h.leave()
		if got := <-woken; got != id {
			t.Errorf("woken for %q, want %q", got, id)
		}
	}
	id := queue.NewID(clock.Now()) // by rename
	other := filepath.Join(h.path, "other")
	if err := firstError(os.WriteFile(other, craft(goodLines, text), 0o600), os.Rename(other, h.file(id))); err != nil {
		t.Fatal(err)
	}
	if got := <-woken; got != id {
		t.Errorf("woken for %q, want %q", got, id)
	}
	for _, away := range []func() error{ // the folder itself
		func() error { return os.RemoveAll(h.file("")) },
		func() error { return os.Rename(h.file(""), h.path+"/away") },
	} {
		if err := away(); err != nil {
			t.Fatal(err)
		}
		other, err := queue.Open(h.path) // any program makes it again
		if err != nil {
			t.Fatal(err)
		}
		other.Close()
		id := h.leave()
		if got := <-woken; got != id {
			t.Errorf("woken for %q, want %q", got, id)
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestEvents(t *testing.T) {
	event := func(mask byte, name string) []byte {
		b := make([]byte, 16, 32)
		b[4], b[12] = mask, 16
		return append(b, name+strings.Repeat("\x00", 16-len(name))...)
	}
	overflow := make([]byte, 16)
	overflow[5] = 0x40 // IN_Q_OVERFLOW
	spool := func(isDir byte) []byte {
		b := event(0, "drop")
		b[0], b[5], b[7] = 7, 1, isDir // IN_CREATE, IN_ISDIR
		return b
	}
	for _, c := range []struct {
		in   []byte
		want string
	}{
		{nil, "[] false"},
		{slices.Concat(event(8, "a"), event(8, "b"), event(8, "a")), "[a b] false"},
		{slices.Concat(event(8, "a"), overflow), "[a] true"},
		{event(8, "a")[:20], "[a] false"},
		{event(8, "drop"), "[drop] false"},
		{spool(0), "[] false"},
		{slices.Concat(spool(0x40), event(8, "a")), "[a] true"},
	} {
		names, lost := events(c.in, 7)
		if got := fmt.Sprint(names, lost); got != c.want {
			t.Errorf("%q: got %s, want %s", c.in, got, c.want)
		}
	}
}

// FuzzTake: whatever lies in drop/ under the name of a message, it is queued, put away, or left for an hour.
func FuzzTake(f *testing.F) {
	f.Add(craft(goodLines, text))
	f.Add(craft("Id: x\nFrom: <>\n", ""))
	h := newHouse(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		h.t = t
		id := queue.NewID(clock.Now())
		h.write(id, data)
		h.collect()
		if n := len(h.ids()) + len(h.names("corrupt")) + len(h.names("drop")); n != 1 || len(h.names("tmp")) > 0 || strings.Contains(h.logged(), "event=panic") {
			t.Errorf("%q is there %d times: %s", data, n, h.logged())
		}
		for _, dir := range []string{"queue", "corrupt", "drop"} {
			_ = os.Remove(h.path + "/" + dir + "/" + id)
		}
		h.log.Reset()
		clear(h.accounts)
	})
}
