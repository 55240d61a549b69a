package main

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/postel-mail/postel/internal/queue"
	"github.com/postel-mail/postel/internal/status"
)

// waits reports how many FIFOs there are in the spool.
func (h *host) waits() int {
	h.t.Helper()
	if err := os.Chmod(h.spool+"/wait", 0o733); err != nil {
		h.t.Fatal(err)
	}
	names, err := filepath.Glob(h.spool + "/wait/*")
	if err != nil {
		h.t.Fatal(err)
	}
	return len(names)
}

func TestWaitUsage(t *testing.T) {
	h := newHost(t)
	for _, c := range []struct{ args, stderr string }{
		{"--wait|-bp", "sendmail: --wait is for submitting a message, not with -b, -q or --check\n"},
		{"--wait|-bv|a", "sendmail: --wait is for"},
		{"--wait=1s|-q", "sendmail: --wait is for"},
		{"-q5m|--wait=1s", "sendmail: --wait is for"},
		{"--wait|--check", "sendmail: --wait is for"},
		{"--wait=|a", "sendmail: --wait=: "},
		{"--wait=5|a", "sendmail: --wait=5: "},
		{"--wait=0s|a", "sendmail: --wait=0s: must be more than nothing\n"},
		{"--wait", "sendmail: no recipients\n"},
	} {
		status, stdout, stderr := h.run(bin+"/sendmail", "\n", strings.Split(c.args, "|")...)
		if status != 64 || stdout != "" || !strings.HasPrefix(stderr, c.stderr) || strings.Count(stderr, "\n") != 1 {
			t.Errorf("%q: exit %d %q %q, want 64 %q", c.args, status, stdout, stderr, c.stderr)
		}
	}
	if env, _ := h.queued(); env != "0 messages <nil>" {
		t.Errorf("after refusals: %s", env)
	}
	if n := h.waits(); n != 0 {
		t.Errorf("%d wait", n)
	}
}

// TestWaitWithoutRunner: the message stays queued, and it is said that nobody has looked at it. A stranger's lies in drop/ and says where he waits.
func TestWaitWithoutRunner(t *testing.T) {
	h := newHost(t)
	check := func(status int, stdout, stderr string) {
		t.Helper()
		id := strings.TrimSpace(strings.TrimPrefix(stdout, "queued as "))
		if want := "sendmail: message " + id + " stays in the queue: no runner took it within 1s\n"; status != 75 || !queue.ValidID(id) || stderr != want {
			t.Errorf("exit %d %q %q, want %q", status, stdout, stderr, want)
		}
		if n := h.waits(); n != 0 {
			t.Errorf("%d wait", n)
		}
	}
	check(h.run(bin+"/sendmail", "\n", "--wait=1s", "-v", "-f", "x@y", "bob"))
	if env, _ := h.queued(); env != "<x@y> <bob@host.example>" {
		t.Errorf("queued: %s", env)
	}
	check(h.stranger("/nonexistent")("\n", "--wait=1s", "-v", "bob"))
	if text := h.dropped(); !strings.Contains(text, "\nWait: ") {
		t.Errorf("dropped: %q", text)
	}
}

// TestWaitRefused: where the user cannot wait, nothing is sent.
func TestWaitRefused(t *testing.T) {
	h := newHost(t)
	run := h.stranger("/nonexistent")
	if err := os.Remove(h.spool + "/wait"); err != nil {
		t.Fatal(err)
	}
	status, stdout, stderr := run("\n", "--wait", "bob")
	if want := "sendmail: cannot wait, so nothing was sent: open " + h.spool + "/wait: no such file or directory\n"; status != 73 || stdout != "" || stderr != want {
		t.Errorf("exit %d %q %q, want 73 %q", status, stdout, stderr, want)
	}
	if text := h.dropped(); text != "" {
		t.Errorf("dropped: %q", text)
	}
}

// started is a sendmail that waits for the one message in the queue.
type started struct {
	*exec.Cmd
	out    *bufio.Reader
	stderr bytes.Buffer
	id     string
}

func (h *host) start(args ...string) *started {
	h.t.Helper()
	s := &started{Cmd: exec.Command(bin+"/sendmail", append([]string{"-v", "-C", h.config}, args...)...)}
	s.Stdin, s.Stderr = strings.NewReader("Subject: x\n\nhi\n"), &s.stderr
	out, err := s.StdoutPipe()
	if err == nil {
		err = s.Start()
	}
	if err != nil {
		h.t.Fatal(err)
	}
	s.out = bufio.NewReader(out)
	line, err := s.out.ReadString('\n')
	if err != nil {
		h.t.Fatal(err)
	}
	s.id = strings.TrimSpace(strings.TrimPrefix(line, "queued as "))
	return s
}

// end gives what else was said, and the exit status.
func (s *started) end() string {
	rest, _ := s.out.ReadString(0)
	_ = s.Wait()
	return fmt.Sprintf("%d %s%s", s.ProcessState.ExitCode(), rest, &s.stderr)
}

func TestWaitInterrupted(t *testing.T) {
	for _, sig := range []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
		h := newHost(t)
		s := h.start("--wait", "-f", "x@y", "bob")
		if err := s.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
		if got, want := s.end(), "75 sendmail: message "+s.id+" stays in the queue: no runner took it until a signal came\n"; got != want {
			t.Errorf("%v: got %q, want %q", sig, got, want)
		}
		if env, _ := h.queued(); env != "<x@y> <bob@host.example>" {
			t.Errorf("queued: %s", env)
		}
		if n := h.waits(); n != 0 {
			t.Errorf("%d wait", n)
		}
	}
}

// TestVerdict: what is said, and with which exit status it ends.
func TestVerdict(t *testing.T) {
	for _, c := range []struct {
		outcome queue.Outcome
		want    string
	}{
		{queue.Outcome{Progress: queue.Delivered}, "0 bob@host.example: delivered\n"},
		{queue.Outcome{Progress: queue.Failed, Last: status.Permanent(550, "5.1.1", "no such user", nil), Relay: "mx[192.0.2.1]:25", Said: true},
			"67 sendmail: bob@host.example: failed: mx[192.0.2.1]:25 said 550 5.1.1 no such user\n"},
		{queue.Outcome{Last: status.Temporary(450, "4.2.1", "busy", nil)},
			"75 sendmail: bob@host.example: deferred: 450 4.2.1 busy\nsendmail: message ID stays in the queue and will be tried again\n"},
	} {
		h := newHost(t)
		s := h.start("--wait=1h", "bob")
		spool, err := queue.Open(h.spool)
		if err != nil {
			t.Fatal(err)
		}
		m, err := spool.Claim(s.id)
		if err != nil {
			t.Fatal(err)
		}
		m.State.Rcpts[0] = c.outcome
		m.Announce()
		m.Close()
		spool.Close()
		if got, want := s.end(), strings.Replace(c.want, "ID", s.id, 1); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
