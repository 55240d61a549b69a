package command

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/postel-mail/postel/internal/address"
)

func TestRunOutcome(t *testing.T) {
	for _, tt := range []struct{ script, want string }{
		{"exit 0", ""},
		{"echo 5.1.1 not used; exit 0", ""},
		{"exit 75", "451 4.3.0 Temporary failure"},
		{"exit 67", "550 5.1.1 User unknown"},
		{"exit 1", "451 4.3.0 Delivery program failed"},
		{"exit 2", "451 4.3.0 Delivery program failed"},
		{"exit 127", "451 4.3.0 Delivery program failed"},
		{"echo first; echo; echo 'no room' >&2; echo ' '; exit 69", "550 5.3.0 no room"},
		{"printf '5.2.2 full'; exit 69", "550 5.2.2 full"},
		{"printf 'sh: 5.2.2 full\\n'; exit 69", "550 5.2.2 full"},
		{"printf 'sh: full\\n'; exit 69", "550 5.3.0 full"},
		{"echo 5.1.1 gone; exit 1", "550 5.1.1 gone"},
		{"echo 4.2.2 full; exit 69", "451 4.2.2 full"},
		{"echo 5.2.2 full; exit 75", "451 4.2.2 full"},
		{"echo 2.0.0 fine; exit 69", "451 4.0.0 fine"},
		{"echo 5.7.1; exit 77", "550 5.7.1 Permission denied"},
		{"printf 'a\\033[2Jb\\r\\n'; exit 69", "550 5.3.0 a?[2Jb?"},
		{"kill -9 $$", "451 4.3.0 Delivery program failed"},
		{"echo 5.1.1 gone; kill -9 $$", "451 4.3.0 Delivery program failed"},
		{"head -c 100000 /dev/zero | tr '\\0' a; exit 69", "550 5.3.0 " + strings.Repeat("a", 900)},
	} {
		err := Run(t.Context(), Spec{Args: []string{"/bin/sh", "-c", tt.script}})
		got := ""
		if err != nil {
			got = err.Reply()
		}
		if got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.script, got, tt.want)
		}
	}
}

func TestRunCannotStart(t *testing.T) {
	plain := filepath.Join(t.TempDir(), "plain")
	if err := os.WriteFile(plain, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{nil, {""}, {"/nonexistent/program"}, {"bin/sh"}, {"no-such-program-here"}, {plain}, {"/bin/sh", "a\x00b"}} {
		if err := Run(t.Context(), Spec{Args: args}); err == nil || err.Code != 451 {
			t.Errorf("%q: got %v, want a temporary error", args, err)
		}
	}
}

func TestRunSeesOnlyItsWords(t *testing.T) {
	t.Setenv("SECRET", "1")
	dir := t.TempDir()
	in, err := os.Create(filepath.Join(dir, "in"))
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if _, err := in.WriteString("skipped\nmessage\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := in.Seek(8, 0); err != nil {
		t.Fatal(err)
	}
	w := Words{Sender: address.Path{Local: "a b", Domain: "c.example"}, Recipient: address.Path{Local: "() { :;}\r\n;x", Domain: "d.example"}, User: "d"}
	// The program looks at itself: sh would add variables of its own.
	serr := Run(t.Context(), Spec{Args: []string{"/bin/sh", "-c", `cat /proc/$$/environ | tr '\0' '\n' >env; cat >out; pwd >dir`}, Env: w.Environ(), Stdin: in, Dir: dir})
	if serr != nil {
		t.Fatal(serr)
	}
	for name, want := range map[string]string{
		"out": "message\n",
		"env": "PATH=/usr/local/bin:/usr/bin:/bin\nSENDER=\"a b\"@c.example\nRECIPIENT=\"() { :;}??;x\"@d.example\nORIGINAL_RECIPIENT=\"() { :;}??;x\"@d.example\n" +
			"LOCAL=_) { :;}??;x\nDOMAIN=d.example\nUSER=d\n",
		"dir": dir + "\n",
	} {
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(got) != want {
			t.Errorf("%s: got %q, %v; want %q", name, got, err, want)
		}
	}
	if err := Run(t.Context(), Spec{Args: []string{"/bin/sh", "-c", "test -z \"$SECRET\""}}); err != nil {
		t.Error("without Env the environment is inherited")
	}
}

// TestRunLimit: the whole group ends at the limit, also a child in the background: the last writer of the FIFO.
func TestRunLimit(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := Run(t.Context(), Spec{Args: []string{"mkfifo", fifo}}); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error)
	go func() {
		_, err := os.ReadFile(fifo)
		ended <- err
	}()
	err := Run(t.Context(), Spec{Args: []string{"/bin/sh", "-c", "exec >" + fifo + "; sleep 1000 & wait"}, Limit: 200 * time.Millisecond})
	if err == nil || err.Reply() != "451 4.3.0 Delivery program took too long" {
		t.Fatalf("got %v", err)
	}
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
}

func TestRunCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	fifo := filepath.Join(t.TempDir(), "started")
	if err := Run(t.Context(), Spec{Args: []string{"mkfifo", fifo}}); err != nil {
		t.Fatal(err)
	}
	go func() {
		f, err := os.Open(fifo) // returns when the program has started
		if err == nil {
			f.Close()
		}
		cancel()
	}()
	if err := Run(ctx, Spec{Args: []string{"/bin/sh", "-c", "echo >" + fifo + "; exec sleep 1000"}}); err == nil || err.Reply() != "451 4.3.0 Delivery program was stopped" {
		t.Fatalf("got %v", err)
	}
}

// TestRunLeftBehind: a program that leaves something in the background is not waited for longer than the output takes.
func TestRunLeftBehind(t *testing.T) {
	if err := Run(t.Context(), Spec{Args: []string{"/bin/sh", "-c", "sleep 5 & exit 0"}, Limit: 4 * time.Second}); err != nil {
		t.Fatalf("got %v", err)
	}
}
