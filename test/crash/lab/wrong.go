package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
)

// writer puts a file into a spool: one that keeps the promise, or one that does not and has to be found out. A lab that finds nothing must be shown to
// be able to.
type writer struct {
	name  string
	bad   bool
	write func(tmp, final string, text []byte) error
}

func (w writer) String() string { return w.name }

var writers = []writer{
	{"fsync, rename", true, func(tmp, final string, text []byte) error {
		return steps(create(tmp, text, true), func() error { return os.Rename(tmp, final) })
	}},
	{"rename, fsync of the directory", true, func(tmp, final string, text []byte) error {
		return steps(create(tmp, text, false), func() error { return os.Rename(tmp, final) }, flush(filepath.Dir(final)))
	}},
	{"fsync, rename, fsync of the directory", false, func(tmp, final string, text []byte) error {
		return steps(create(tmp, text, true), func() error { return os.Rename(tmp, final) }, flush(filepath.Dir(final)))
	}},
}

func steps(all ...func() error) error {
	for _, step := range all {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func create(name string, text []byte, sync bool) func() error {
	return func() error {
		f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		defer f.Close()
		if _, err := f.Write(text); err != nil || !sync {
			return err
		}
		return f.Sync()
	}
}

func flush(name string) func() error {
	return func() error {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		return f.Sync()
	}
}

const (
	copies    = 12 // letters that a writer copies
	wrongCuts = 12 // power cuts that have to find it out
)

// selftest lets the writers copy queue files of the real programs into a spool on the recorded disk, cuts the power, and asks for the right verdict.
func (m *machine) selftest(p *plan) error {
	config, err := m.configure("scratch", m.path("scratch"), "127.0.0.1:9", "0B")
	if err != nil {
		return err
	}
	files := map[string]letter{} // names of queue files
	for i := range copies {
		l := newLetter(i, late, 3000+2000*i)
		if err := m.must(program{config: config, stdin: l.text(), args: append([]string{"sendmail", "-f", sender}, l.rcpts()...)}); err != nil {
			return err
		}
		entries, err := os.ReadDir(m.path("scratch/queue"))
		if err != nil {
			return err
		}
		files[entries[i].Name()] = l // ids sort by arrival
	}
	for i, w := range writers {
		name := fmt.Sprintf("writer%d", i)
		if err := m.copyBy(w, name, files, p.seed); err != nil {
			return fmt.Errorf("%v: %w", w, err)
		}
		f, _, err := m.cuts(name, wrongCuts, p.seed)
		if err != nil {
			return fmt.Errorf("%v: %w", w, err)
		}
		fmt.Printf("%-17s selftest: %v: %d of %d promises lost\n", m.kind.name, w, f.lost, f.promises)
		if w.bad && f.lost == 0 {
			return fmt.Errorf("the lab does not find out that %v loses mail", w)
		}
		if !w.bad {
			if err := f.err(m.kind); err != nil {
				return fmt.Errorf("%v: %w", w, err)
			}
		}
		if err := os.Remove(m.path("fuse/disk." + name)); err != nil {
			return err
		}
	}
	return nil
}

// copyBy copies the files as w does, each marked as answered for.
func (m *machine) copyBy(w writer, name string, files map[string]letter, seed uint64) (err error) {
	if err := m.mount("disk." + name); err != nil {
		return err
	}
	defer func() {
		if e := m.unmount(); err == nil {
			err = e
		}
	}()
	config, err := m.configure("working", m.disk("spool"), "127.0.0.1:9", "0B")
	if err != nil {
		return err
	}
	if err := m.homes(); err != nil {
		return err
	}
	if err := m.must(program{config: config, args: []string{"qmgr", "--once"}}); err != nil { // makes the folders
		return err
	}
	if err := m.homes(); err != nil {
		return err
	}
	chance := rand.New(rand.NewPCG(seed, 1<<34))
	for file, l := range files {
		text, err := os.ReadFile(m.path("scratch/queue/" + file))
		if err != nil {
			return err
		}
		if err := w.write(m.disk("spool/tmp/"+file), m.disk("spool/queue/"+file), text); err != nil {
			return err
		}
		if err := m.tell("mark."+name, acked+string(l)); err != nil {
			return err
		}
		pause(chance)
	}
	return nil
}
