//go:build linux && amd64

package crash

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/postel-mail/postel/internal/durable"
)

// stranger makes the command one of a user who may not write the queue: another one where the test can become another, else by the mode of the spool.
// The function that it gives undoes the latter.
func (h *host) stranger(c command) (command, func()) {
	h.t.Helper()
	h.must("", "qmgr", "--once") // makes the spool
	change := func(mode os.FileMode, names ...string) {
		for _, name := range names {
			if err := os.Chmod(name, mode); err != nil {
				h.t.Fatal(err)
			}
		}
	}
	if os.Getuid() == 0 {
		change(0o711, h.dir)
		change(0o644, h.dir+"/postel.toml")
		change(0o755, bin)
		c.args = append([]string{"/usr/bin/setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"}, c.args...)
		return c, func() {}
	}
	change(0o311, h.spool())
	return c, func() { change(0o711, h.spool()) }
}

// leave has a stranger leave a letter in the drop directory.
func (h *host) leave(subject string) {
	h.t.Helper()
	c, undo := h.stranger(h.command(h.write("letter", letter(subject)), "sendmail", "-f", "alice@example.org", "bob@example.org"))
	defer undo()
	if o, err := c.run(0, fault{}); err != nil || o.exit != 0 {
		h.t.Fatalf("sendmail: %d, %v: %s", o.exit, err, o.stderr)
	}
	if names := h.names("spool/drop"); len(names) != 1 {
		h.t.Fatalf("in drop/: %q", names)
	}
}

// dropScenarios are the two sides of the drop directory.
var dropScenarios = []scenario{
	{
		name: "leave", faults: submissionFaults, answered: ended,
		command: func(h *host) command {
			c, _ := h.stranger(h.command(h.write("letter", letter("first")), "sendmail", "-f", "alice@example.org", "bob@example.org"))
			return c
		},
		check: func(h *host, o outcome, f fault) {
			if err := os.Chmod(h.spool(), 0o711); err != nil {
				h.t.Error(err)
			}
			left := h.names("spool/drop")
			if !f.kill && (o.exit == 0) != (len(left) == 1) {
				h.t.Errorf("exit status %d, in drop/: %q", o.exit, left)
			}
			submitted(h, o.exit == 0, f)
			// What was not finished goes away when it is an hour old.
			for _, name := range h.names("spool/drop") {
				head, err := os.ReadFile(filepath.Join(h.spool(), "drop", name))
				if err != nil || !f.kill || len(head) > 0 && !strings.Contains(string(head), "\nSize: 00000000000000000000\n") {
					h.t.Errorf("left in drop/: %s", name)
				}
			}
		},
	},
	{
		name: "collect", faults: []fault{killFamily, failEIO, failENOSPC, failEMFILE, shortWrite},
		answered: func(e event) bool { return e.name == "unlinkat" && strings.Contains(e.path, "/drop/") && !e.failed },
		command: func(h *host) command {
			h.leave("first")
			return h.command("", "qmgr", "--once")
		},
		check: func(h *host, o outcome, f fault) {
			accepted := strings.Count(o.stderr, "event=accepted")
			for range 2 { // a held lock or a bound of one pass is no more there in the next
				accepted += strings.Count(h.must("", "qmgr", "--once"), "event=accepted")
				h.must("", "mailq", "retry")
			}
			if n := h.received("bob", "first"); n != 1 {
				h.t.Errorf("bob has the message %d times", n)
			}
			if accepted > 1 {
				h.t.Errorf("accepted %d times", accepted)
			}
			if names := h.names("spool/drop"); len(names) > 0 {
				h.t.Errorf("left in drop/: %q", names)
			}
			h.settled(f.kill)
		},
	},
}

// TestDropEveryCall lets each fault befall each call on either side of the drop directory.
func TestDropEveryCall(t *testing.T) {
	for _, s := range dropScenarios {
		for _, f := range s.faults {
			t.Run(s.name+"/"+f.name, func(t *testing.T) {
				t.Parallel()
				statuses := map[int]int{}
				n := 1
				for ; at(t, s, f, n, statuses); n++ {
					if n > 1000 {
						t.Fatal("no end of calls")
					}
				}
				t.Logf("%d points, exit statuses %v", n-1, statuses)
				if n == 1 {
					t.Error("no call was found")
				}
			})
		}
	}
}

// TestDropTrace: what is left in drop/ has been flushed when sendmail ends, and what is taken out of it when the file there is removed.
func TestDropTrace(t *testing.T) {
	for _, s := range dropScenarios {
		t.Run(s.name, func(t *testing.T) {
			h := newHost(t)
			defer h.close()
			c := s.command(h)
			dir, err := durable.OpenDir(h.dir)
			if err != nil {
				t.Fatal(err)
			}
			defer dir.Close()
			order, _ := durable.OrderOf(dir)
			o, err := c.run(0, fault{})
			if err != nil || o.exit != 0 {
				t.Fatalf("exit status %d, %v: %s", o.exit, err, o.stderr)
			}
			trace := append(o.events, event{name: "exit"})
			at := slices.IndexFunc(trace, s.answered)
			if at < 0 {
				t.Fatalf("no answer in the trace:\n%v\n%s", trace, o.stderr)
			}
			for _, wrong := range unflushed(trace[:at+1], h.spool(), order, s.answered) {
				t.Errorf("%v: %s", order, wrong)
			}
			if t.Failed() {
				for _, e := range trace {
					t.Log(e)
				}
			}
		})
	}
}
