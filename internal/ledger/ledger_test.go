package ledger

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/postel-mail/postel/internal/clock"
)

var now = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// at sets the clock of a test, and gives what moves it on.
func at(t *testing.T) (pass func(time.Duration)) {
	var passed atomic.Int64
	clock.Set(func() time.Time { return now.Add(time.Duration(passed.Load())) })
	t.Cleanup(func() { clock.Set(nil) })
	return func(d time.Duration) { passed.Add(int64(d)) }
}

func open(t *testing.T) *Ledger {
	t.Helper()
	l, err := Open(t.TempDir() + "/a/ledger")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func put(t *testing.T, l *Ledger, key, value string, ttl time.Duration) {
	t.Helper()
	if err := l.Update(key, func(string) (string, time.Duration) { return value, ttl }); err != nil {
		t.Fatal(err)
	}
}

func get(t *testing.T, l *Ledger, key, want string) {
	t.Helper()
	if got, err := l.Get(key); err != nil || got != want {
		t.Errorf("%q: got %q, %v, want %q", key, got, err, want)
	}
}

func TestUpdate(t *testing.T) {
	pass := at(t)
	l := open(t)
	key := "grey 192.0.2.0/24 \x00\"\n\xff a@b"
	get(t, l, key, "")
	put(t, l, key, "one \n", time.Minute)
	put(t, l, "grey other", "two", time.Hour)
	get(t, l, key, "one \n")
	err := l.Update(key, func(old string) (string, time.Duration) { return old + "more", time.Minute })
	if err != nil {
		t.Error(err)
	}
	get(t, l, key, "one \nmore")
	pass(time.Minute)
	get(t, l, key, "one \nmore")
	pass(time.Second)
	get(t, l, key, "")
	get(t, l, "grey other", "two")
	put(t, l, "grey other", "", time.Hour)
	get(t, l, "grey other", "")
	put(t, l, "grey other", "three", 0)
	get(t, l, "grey other", "")
	for _, key := range []string{"", "grey", " x", "Grey x", "../x y", "grey " + strings.Repeat("x", maxFact)} {
		if err := l.Update(key, func(string) (string, time.Duration) { return "x", time.Hour }); !errors.Is(err, ErrKey) {
			t.Errorf("%q: %v", key, err)
		}
	}
	if err := l.Update("grey x", func(string) (string, time.Duration) { return strings.Repeat("x", maxFact), time.Hour }); !errors.Is(err, ErrKey) {
		t.Errorf("a long value: %v", err)
	}
}

func TestCount(t *testing.T) {
	pass := at(t)
	l := open(t)
	for _, step := range []struct {
		pass      time.Duration
		add, want int
	}{
		{0, 1, 1}, {time.Second, 2, 3}, {29 * time.Second, 0, 3}, {30 * time.Second, 0, 3}, {30 * time.Second, 0, 2}, {0, 4, 6}, {45 * time.Second, 0, 3}, {2 * time.Minute, 0, 0},
	} {
		pass(step.pass)
		if got, err := l.Count("rate 192.0.2.1", step.add, time.Minute); err != nil || got != step.want {
			t.Errorf("after %v, and %d: got %d, %v, want %d", step.pass, step.add, got, err, step.want)
		}
	}
	for _, value := range []string{"x", "1 -5 0", "9 9", strings.Repeat("9", 40)} {
		put(t, l, "rate y", value, time.Hour)
		if got, err := l.Count("rate y", 1, time.Minute); err != nil || got != 1 {
			t.Errorf("%q: %d, %v", value, got, err)
		}
	}
}

// TestShared: two ledgers of one folder, as two processes have them, lose no count.
func TestShared(t *testing.T) {
	path := t.TempDir() + "/ledger"
	var wg sync.WaitGroup
	for range 4 {
		l, err := Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		for range 2 {
			wg.Go(func() {
				for range 50 {
					if _, err := l.Count("rate x", 1, 100*time.Hour); err != nil {
						t.Error(err)
					}
				}
			})
		}
	}
	wg.Wait()
	l, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if n, err := l.Count("rate x", 0, 100*time.Hour); err != nil || n != 400 {
		t.Errorf("%d, %v", n, err)
	}
}

// TestFull: a file keeps its bound, what ends last stays, and another book loses nothing.
func TestFull(t *testing.T) {
	at(t)
	l := open(t)
	put(t, l, "login 192.0.2.1", "5", time.Second)
	var key string // all in one file
	var keys []string
	want, _ := file("grey 0")
	for i := 0; len(keys) < 2*maxFile/maxFact; i++ {
		key = fmt.Sprintf("grey %d", i)
		if name, _ := file(key); name == want {
			keys = append(keys, key)
		}
	}
	for i, key := range keys {
		put(t, l, key, strings.Repeat("x", maxFact-len(key)), time.Hour+time.Duration(i)*time.Second)
	}
	if st, err := os.Stat(l.dir.Path() + "/" + want); err != nil || st.Size() > maxFile {
		t.Errorf("%v, %v", st.Size(), err)
	}
	get(t, l, keys[0], "")
	last := keys[len(keys)-1]
	get(t, l, last, strings.Repeat("x", maxFact-len(last)))
	get(t, l, "login 192.0.2.1", "5")
}

// TestTorn: what a crash leaves of a file costs what cannot be read.
func TestTorn(t *testing.T) {
	at(t)
	l := open(t)
	put(t, l, "grey a", "one", time.Hour)
	name, _ := file("grey a")
	path := l.dir.Path() + "/" + name
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("x\n99 \"\n"+string(text)+"\x00\x00\n"+strings.Replace(string(text), "one", "old", 1)+string(text[:len(text)-2])), 0o600); err != nil {
		t.Fatal(err)
	}
	get(t, l, "grey a", "one")
	put(t, l, "grey a", "two", time.Hour)
	get(t, l, "grey a", "two")
	put(t, l, "grey a", "", time.Hour)
	get(t, l, "grey a", "")
}

func TestNotThere(t *testing.T) {
	path := t.TempDir() + "/file"
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path); err == nil {
		t.Error("a file is no folder")
	}
	l := open(t)
	name, _ := file("grey a")
	if err := os.Symlink("/etc/passwd", l.dir.Path()+"/"+name); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Get("grey a"); err == nil {
		t.Error("a symbolic link was followed")
	}
}

func FuzzParse(f *testing.F) {
	f.Add("1795478400 \"login 192.0.2.7\" \"5\"\n99 x\n1795478400 \"a \\x00\" `b`\n")
	f.Fuzz(func(t *testing.T, text string) {
		facts := parse(text, 1000)
		var b strings.Builder
		for _, f := range facts {
			fmt.Fprintf(&b, "%d %q %q\n", f.ends, f.key, f.value)
		}
		if again := parse(b.String(), 1000); !slices.Equal(again, facts) {
			t.Fatalf("%q gives %+v, then %+v", text, facts, again)
		}
	})
}
