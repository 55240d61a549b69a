package queue

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/postel-mail/postel/internal/clock"
	"github.com/postel-mail/postel/internal/durable"
	"github.com/postel-mail/postel/internal/envelope"
	"github.com/postel-mail/postel/internal/status"
)

// TestModes: strangers come as far as drop/ and wait/, and may do no more there than leave a file.
func TestModes(t *testing.T) {
	defer unix.Umask(unix.Umask(0o077))
	s := open(t)
	for name, want := range map[string]uint32{"": 0o711, "/tmp": 0o700, "/queue": 0o700, "/state": 0o700, "/corrupt": 0o700, "/drop": 0o1733, "/wait": 0o1733, "/trigger": 0o600} {
		var st unix.Stat_t
		if err := unix.Stat(s.dir.Path()+name, &st); err != nil {
			t.Fatal(err)
		}
		if st.Mode&0o7777 != want {
			t.Errorf("SPOOL%s has mode %o, want %o", name, st.Mode&0o7777, want)
		}
	}
}

func openDrop(t *testing.T, s *Spool) *Drop {
	t.Helper()
	d, err := OpenDrop(s.dir.Path(), 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	return d
}

// leave leaves a message in drop/ and gives its file name.
func leave(t *testing.T, d *Drop) string {
	t.Helper()
	w, err := d.Create(newEnvelope())
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort()
	if _, err := io.WriteString(w, body); err != nil {
		t.Fatal(err)
	}
	if err := w.Commit(); err != nil {
		t.Fatal(err)
	}
	return d.dir.Path() + "/" + w.ID()
}

func TestDrop(t *testing.T) {
	s := open(t)
	d := openDrop(t, s)
	for _, order := range []durable.Order{durable.FsyncRenameFsync, durable.RenameFsync} {
		d.order = order
		path := leave(t, d)
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		st, _ := f.Stat()
		if st.Mode() != 0o600 {
			t.Errorf("mode %v", st.Mode())
		}
		if err := durable.TryFlock(f); err != nil {
			t.Errorf("%v: %v", order, err)
		}
		e, m, err := ReadFile(f, st.Size(), 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(m)
		if err != nil || string(got) != body || !strings.HasSuffix(path, "/"+e.ID) || len(e.Rcpts) != 2 {
			t.Errorf("%v: got %+v %q %v", order, e, got, err)
		}
	}
	if ids, _ := s.IDs(); len(ids) != 0 {
		t.Errorf("in the queue: %q", ids)
	}
}

// TestDropIsLocked: what is being written is locked, and what is given up goes away.
func TestDropIsLocked(t *testing.T) {
	d := openDrop(t, open(t))
	w, err := d.Create(newEnvelope())
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(d.dir.Path() + "/" + w.ID())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := durable.TryFlock(f); !errors.Is(err, durable.ErrLocked) {
		t.Errorf("lock: %v", err)
	}
	w.Abort()
	if _, err := os.Stat(f.Name()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after Abort: %v", err)
	}
	if err := w.Commit(); err == nil {
		t.Error("commit after abort worked")
	}
}

// TestDropGroup: where the folder hands its group on, the group may read the files, whatever the caller's umask.
func TestDropGroup(t *testing.T) {
	defer unix.Umask(unix.Umask(0o077))
	s := open(t)
	if err := os.Chmod(s.dir.Path()+"/drop", os.ModeSetgid|os.ModeSticky|0o733); err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(leave(t, openDrop(t, s)))
	if err != nil || st.Mode() != 0o640 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
}

func TestDropMinFree(t *testing.T) {
	s := open(t)
	d, err := OpenDrop(s.dir.Path(), 1<<62)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if _, err := d.Create(newEnvelope()); status.Of(err).Code != 452 {
		t.Errorf("got %v", err)
	}
}

func TestNoDrop(t *testing.T) {
	if _, err := OpenDrop(t.TempDir(), 0); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

// TestTakeOver goes through what a crash can leave of an earlier try, and through what may be in the way.
func TestTakeOver(t *testing.T) {
	const text = "from drop"
	nothing := func() error { return nil }
	for _, c := range []struct {
		name   string
		before func(s *Spool, id string)
		last   func() error
		ok     bool
	}{
		{"first", func(*Spool, string) {}, nothing, true},
		{"left in tmp", func(s *Spool, id string) { write(t, s.tmp, id, "half") }, nothing, true},
		{"a state of an earlier message", func(s *Spool, id string) { write(t, s.state, id, "postel-state 1\nId: "+id+"\nHold: yes\nEnd\n") }, nothing, true},
		{"in the queue", func(s *Spool, id string) { write(t, s.queue, id, "another") }, nothing, false},
		{"the file is gone", func(*Spool, string) {}, func() error { return fs.ErrNotExist }, false},
	} {
		s := open(t)
		id := NewID(clock.Now())
		c.before(s, id)
		was, _ := s.IDs()
		w, err := s.TakeOver(id, newEnvelope(), func() error {
			if _, err := s.Claim(id); !errors.Is(err, ErrBusy) {
				t.Errorf("%s: the runner may have it: %v", c.name, err)
			}
			return c.last()
		})
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		_, _ = io.WriteString(w, text)
		err = w.Commit()
		if c.ok != (err == nil) {
			t.Errorf("%s: %v", c.name, err)
		}
		if !c.ok {
			if ids, _ := s.IDs(); len(ids) != len(was) {
				t.Errorf("%s: in the queue: %q", c.name, ids)
			}
			continue
		}
		m, err := s.Claim(id)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		got, _ := io.ReadAll(m.Body())
		if string(got) != text || m.State.Hold {
			t.Errorf("%s: got %q %+v", c.name, got, m.State)
		}
		m.Close()
	}
	s := open(t)
	w, err := s.Create(newEnvelope())
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort()
	if _, err := s.TakeOver(w.ID(), newEnvelope(), nothing); !errors.Is(err, durable.ErrLocked) {
		t.Errorf("what is being written: %v", err)
	}
}

func write(t *testing.T, d *durable.Dir, name, text string) {
	t.Helper()
	if err := os.WriteFile(d.Path()+"/"+name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestHas(t *testing.T) {
	s := open(t)
	id := put(t, s)
	for name, want := range map[string]bool{id: true, NewID(clock.Now()): false, "not an id": false} {
		if has, uid, err := s.Has(name); has != want || err != nil || has && uid != -1 {
			t.Errorf("%q: got %v %d %v", name, has, uid, err)
		}
	}
	m, err := s.Claim(id)
	if err != nil {
		t.Fatal(err)
	}
	if has, _, err := s.Has(id); !has || err != nil {
		t.Errorf("claimed: %v %v", has, err)
	}
	m.Close()
	write(t, s.queue, id, "torn")
	if has, _, err := s.Has(id); has || err != nil {
		t.Errorf("torn: %v %v", has, err)
	}
	if _, err := os.Stat(s.corrupt.Path() + "/" + id); err != nil {
		t.Error(err)
	}
}

// TestReadFile: what is at fault is told apart from what was not finished, and nothing that changed is believed.
func TestReadFile(t *testing.T) {
	d := openDrop(t, open(t))
	good, err := os.ReadFile(leave(t, d))
	if err != nil {
		t.Fatal(err)
	}
	replace := func(old, new string) []byte { return bytes.Replace(good, []byte(old), []byte(new), 1) }
	const ok, corrupt, unfinished, later = "", "corrupt", "unfinished", "later"
	for _, c := range []struct {
		name string
		file []byte
		size int // as fstat said; 0: as it is
		want string
	}{
		{"good", good, 0, ok},
		{"empty", nil, 0, unfinished},
		{"cut in the head", good[:20], 0, unfinished},
		{"head not filled in", append(fmt.Appendf(nil, headFormat, 0, 0), good[headLength:]...), 0, unfinished},
		{"not a queue file", []byte(strings.Repeat("x", 100)), 0, corrupt},
		{"later version", replace("queue 1", "queue 2"), 0, later},
		{"cut", good[:len(good)-1], 0, corrupt},
		{"longer", append(bytes.Clone(good), 'x'), 0, corrupt},
		{"became shorter", good[:len(good)-5], len(good), corrupt},
		{"became longer", append(bytes.Clone(good), 'x'), len(good), ok},
		{"other text", replace("hello", "hullo"), 0, corrupt},
		{"other recipient", replace("<b@", "<d@"), 0, corrupt},
		{"unknown line", replace("Arrival: ", "Brrival: "), 0, corrupt},
	} {
		size := int64(len(c.file))
		if c.size > 0 {
			size = int64(c.size)
		}
		_, m, err := ReadFile(bytes.NewReader(c.file), size, 1<<20)
		if err == nil {
			_, err = io.Copy(io.Discard, m)
		}
		got := fmt.Sprint(err)
		var bad *CorruptError
		switch {
		case err == nil:
			got = ok
		case errors.As(err, &bad):
			got = corrupt
		case errors.Is(err, ErrUnfinished):
			got = unfinished
		case errors.Is(err, ErrVersion):
			got = later
		}
		if got != c.want {
			t.Errorf("%s: got %v, want %q", c.name, err, c.want)
		}
	}
	if _, _, err := ReadFile(bytes.NewReader(good), int64(len(good)), 60); err == nil {
		t.Error("an envelope over the limit was read")
	}
}

func FuzzReadFile(f *testing.F) {
	good, err := os.ReadFile("testdata/version1/1jsk0m8b6ggqrrmcf4x2")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good, int64(len(good)))
	f.Add(good[:60], int64(len(good)))
	f.Fuzz(func(t *testing.T, data []byte, size int64) {
		e, m, err := ReadFile(bytes.NewReader(data), size, 10<<10)
		if err != nil {
			return
		}
		text, err := io.ReadAll(m)
		if err != nil {
			return
		}
		if want := data[headLength:size]; !bytes.HasSuffix(want, text) || e.From != mustRead(t, want).From {
			t.Fatalf("%q gives %q", want, text)
		}
	})
}

func mustRead(t *testing.T, b []byte) *envelope.Envelope {
	t.Helper()
	e, err := envelope.Read(bufio.NewReader(bytes.NewReader(b)))
	if err != nil {
		t.Fatal(err)
	}
	return e
}
