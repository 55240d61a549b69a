package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/postel-mail/postel/internal/address"
	"github.com/postel-mail/postel/internal/envelope"
	"github.com/postel-mail/postel/internal/queue"
)

// binary is the program under test, built once, where every user can run it.
var binary string

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	dir, err := os.MkdirTemp("", "mailq-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 70
	}
	defer os.RemoveAll(dir)
	binary = filepath.Join(dir, "mailq")
	out, err := exec.Command("go", "build", "-o", binary, ".").CombinedOutput()
	if err = errors.Join(err, os.Chmod(dir, 0o755)); err != nil {
		fmt.Fprintf(os.Stderr, "%v\n%s", err, out)
		return 70
	}
	return m.Run()
}

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
	dir, err := os.MkdirTemp(filepath.Dir(binary), "host-") // t.TempDir is closed to other users
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
func (h *host) enqueue(from string) string {
	h.t.Helper()
	spool, err := queue.Open(h.spool)
	if err != nil {
		h.t.Fatal(err)
	}
	defer spool.Close()
	w, err := spool.Create(&envelope.Envelope{From: address.Path{Local: from, Domain: "x.example"}, UID: -1,
		Rcpts: []envelope.Recipient{{To: address.Path{Local: "b", Domain: "y.example"}}}})
	if err != nil {
		h.t.Fatal(err)
	}
	defer w.Abort()
	if err := w.Commit(); err != nil {
		h.t.Fatal(err)
	}
	return w.ID()
}

// expect runs mailq and compares exit status and all that it prints.
func (h *host) expect(exit int, stdout, stderr string, args ...string) {
	h.t.Helper()
	var out, errs bytes.Buffer
	c := exec.Command(binary, args...)
	c.Stdout, c.Stderr, c.Env, c.SysProcAttr = &out, &errs, []string{"POSTEL_CONFIG=" + h.config}, &syscall.SysProcAttr{Credential: h.as}
	if err := c.Run(); err != nil && c.ProcessState == nil {
		h.t.Fatal(err)
	}
	if got := c.ProcessState.ExitCode(); got != exit || out.String() != stdout || errs.String() != stderr {
		h.t.Errorf("mailq %s: got exit %d, %q, %q; want %d, %q, %q", strings.Join(args, " "), got, out.String(), errs.String(), exit, stdout, stderr)
	}
}

func TestNoSpool(t *testing.T) {
	h := newHost(t)
	const id = "1jsk0m8b6ggqrrmcf4x2"
	h.expect(0, "Mail queue is empty\n", "")
	h.expect(0, "Mail queue is empty\n", "", "list", "--from", "x")
	h.expect(0, "", "", "--json")
	h.expect(0, "", "", "retry")
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
	h.expect(77, "", "mailq: cannot use the spool: stat "+h.spool+"/queue: permission denied; run mailq as root or as the user who owns "+h.spool+"\n")
}

func TestBrokenSpool(t *testing.T) {
	h := newHost(t)
	if err := os.WriteFile(h.spool, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	h.expect(74, "", "mailq: cannot use the spool: stat "+h.spool+"/queue: not a directory\n")
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
