package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func openTemp(t *testing.T) *Dir {
	t.Helper()
	d, err := OpenDir(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func write(t *testing.T, d *Dir, name, text string) {
	t.Helper()
	f, err := d.Create(name, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
}

func TestNamesAreComponents(t *testing.T) {
	d := openTemp(t)
	for _, name := range []string{"", ".", "..", "a/b", "/etc/passwd", "../x", "a\x00"} {
		if _, err := d.Create(name, 0o600); !errors.Is(err, unix.EINVAL) {
			t.Errorf("create %q: %v", name, err)
		}
		if err := d.Remove(name); !errors.Is(err, unix.EINVAL) {
			t.Errorf("remove %q: %v", name, err)
		}
		if err := d.Rename("a", d, name); !errors.Is(err, unix.EINVAL) {
			t.Errorf("rename to %q: %v", name, err)
		}
		if _, err := d.Sub(name, 0o700); !errors.Is(err, unix.EINVAL) {
			t.Errorf("sub %q: %v", name, err)
		}
	}
}

func TestLinksAreNotFollowed(t *testing.T) {
	d := openTemp(t)
	if err := os.Symlink("/etc", d.Path()+"/dir"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/passwd", d.Path()+"/file"); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Open("file", unix.O_RDONLY, 0); !errors.Is(err, unix.ELOOP) {
		t.Errorf("open: %v", err)
	}
	if _, err := d.Sub("dir", 0o700); !errors.Is(err, unix.ENOTDIR) {
		t.Errorf("sub: %v", err)
	}
	if _, err := OpenDir(d.Path() + "/dir"); !errors.Is(err, unix.ENOTDIR) {
		t.Errorf("opendir: %v", err)
	}
}

func TestRenameDoesNotReplace(t *testing.T) {
	d := openTemp(t)
	write(t, d, "a", "a")
	write(t, d, "b", "b")
	if err := d.Rename("a", d, "b"); !errors.Is(err, fs.ErrExist) {
		t.Errorf("rename: %v", err)
	}
	if err := d.Replace("a", d, "b"); err != nil {
		t.Error(err)
	}
	if b, _ := os.ReadFile(d.Path() + "/b"); string(b) != "a" {
		t.Errorf("b is %q", b)
	}
}

func TestWriteFile(t *testing.T) {
	d := openTemp(t)
	for _, text := range []string{"one", "two"} {
		if err := d.WriteFile("f", []byte(text), 0o600, true); err != nil {
			t.Fatal(err)
		}
		if b, _ := os.ReadFile(d.Path() + "/f"); string(b) != text {
			t.Errorf("got %q", b)
		}
	}
	var names []string
	if err := d.Names(func(n string) bool { names = append(names, n); return true }); err != nil || !slices.Equal(names, []string{"f"}) {
		t.Errorf("%v, %v", names, err)
	}
}

// TestEntries: a directory of many blocks is given whole, each name once and with its inode, and no further than it is wanted.
func TestEntries(t *testing.T) {
	d := openTemp(t)
	want := map[string]uint64{}
	for i := range 2000 {
		name := fmt.Sprintf("%d-%s", i, strings.Repeat("x", i%200))
		write(t, d, name, "")
		var st unix.Stat_t
		if err := unix.Lstat(d.Path()+"/"+name, &st); err != nil {
			t.Fatal(err)
		}
		want[name] = st.Ino
	}
	for _, round := range []string{"first", "again"} { // with a position of its own
		got, n := map[string]uint64{}, 0
		err := d.Entries(func(name string, inode uint64) bool {
			got[name] = inode
			n++
			return true
		})
		if err != nil || n != len(want) || !maps.Equal(got, want) {
			t.Errorf("%s: %d of %d, %v", round, n, len(want), err)
		}
	}
	n := 0
	if err := d.Entries(func(string, uint64) bool { n++; return n < 3 }); err != nil || n != 3 {
		t.Errorf("%d, %v", n, err)
	}
}

func TestTryLock(t *testing.T) {
	d := openTemp(t)
	write(t, d, "f", "")
	a, _ := d.Open("f", unix.O_RDWR, 0)
	b, _ := d.Open("f", unix.O_RDWR, 0)
	defer b.Close()
	if err := TryLock(a); err != nil {
		t.Fatal(err)
	}
	if err := TryLock(b); !errors.Is(err, ErrLocked) {
		t.Errorf("second: %v", err)
	}
	// Closing another descriptor does not lose the lock, as it would a POSIX one.
	c, _ := d.Open("f", unix.O_RDWR, 0)
	c.Close()
	if err := TryLock(b); !errors.Is(err, ErrLocked) {
		t.Errorf("after a close: %v", err)
	}
	a.Close()
	if err := TryLock(b); err != nil {
		t.Errorf("after the holder's close: %v", err)
	}
}

func TestDotLock(t *testing.T) {
	d := openTemp(t)
	unlock, err := d.DotLock("m")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.DotLock("m"); !errors.Is(err, ErrLocked) {
		t.Errorf("second: %v", err)
	}
	if err := unlock(); err != nil {
		t.Fatal(err)
	}

	dead := exec.Command("true")
	if err := dead.Run(); err != nil {
		t.Fatal(err)
	}
	host, _ := os.Hostname()
	for _, tt := range []struct {
		name, text string
		age        time.Duration
		stolen     bool
	}{
		{"holder lives", fmt.Sprintf("%d:%s", os.Getpid(), host), 0, false},
		{"holder lives, old", fmt.Sprintf("%d", os.Getpid()), 5 * time.Hour, false},
		{"holder is dead", fmt.Sprintf("%d:%s", dead.Process.Pid, host), 0, true},
		{"another host", fmt.Sprintf("%d:elsewhere", dead.Process.Pid), 0, false},
		{"nobody named, new", "", 0, false},
		{"nobody named, old", "0", time.Hour, true},
	} {
		write(t, d, "m.lock", tt.text)
		then := time.Now().Add(-tt.age)
		if err := os.Chtimes(d.Path()+"/m.lock", then, then); err != nil {
			t.Fatal(err)
		}
		unlock, err := d.DotLock("m")
		if (err == nil) != tt.stolen {
			t.Errorf("%s: %v", tt.name, err)
		}
		if err == nil {
			unlock()
		} else if err := d.Remove("m.lock"); err != nil {
			t.Fatal(err)
		}
	}
}

// TestDotLockSteal: of many who find the same lock left behind, one gets it.
func TestDotLockSteal(t *testing.T) {
	dead := exec.Command("true")
	if err := dead.Run(); err != nil {
		t.Fatal(err)
	}
	host, _ := os.Hostname()
	d := openTemp(t)
	holders := make(chan func() error, 4)
	for round := range 1000 {
		write(t, d, "m.lock", fmt.Sprintf("%d:%s", dead.Process.Pid, host))
		var wg sync.WaitGroup
		for range cap(holders) {
			wg.Go(func() {
				if unlock, err := d.DotLock("m"); err == nil {
					holders <- unlock
				} else if !errors.Is(err, ErrLocked) {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if n := len(holders); n != 1 {
			t.Fatalf("round %d: %d holders", round, n)
		}
		if err := (<-holders)(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestOrder holds what can be told on any machine: the answer has a reason, and what is not a known file system is not trusted.
func TestOrder(t *testing.T) {
	d := openTemp(t)
	order, why := OrderOf(d)
	if why == "" {
		t.Errorf("%v without a reason", order)
	}
	proc, err := OpenDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	defer proc.Close()
	if order, why := OrderOf(proc); order != FsyncRenameFsync {
		t.Errorf("/proc: %v, %s", order, why)
	}
}
