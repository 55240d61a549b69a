package main

import (
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"

	"golang.org/x/sys/unix"
)

const (
	page   = 4096
	sector = 512
)

// image is a disk in memory. Pages that were never written are nil and read as zeros; those that own does not name are shared with the image that
// this one is a copy of, and not changed.
type image struct {
	pages []*[page]byte
	own   []bool
	size  int64
}

func newImage(size int64) *image {
	n := (size + page - 1) / page
	return &image{pages: make([]*[page]byte, n), own: make([]bool, n), size: size}
}

// readImage takes in a sparse file.
func readImage(name string) (*image, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	m := newImage(st.Size())
	for at := int64(0); ; {
		at, err = unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
		if err == unix.ENXIO {
			return m, nil
		} else if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		at -= at % page
		var p [page]byte
		if _, err := f.ReadAt(p[:], at); err != nil && err != io.EOF {
			return nil, err
		}
		if p != [page]byte{} {
			m.write(p[:], at)
		}
		at += page
	}
}

// copy is an image that changes by itself from now on, while m does not change.
func (m *image) copy() *image {
	c := newImage(m.size)
	copy(c.pages, m.pages)
	return c
}

func (m *image) read(b []byte, at int64) {
	for len(b) > 0 {
		n := int(min(page-at%page, int64(len(b))))
		if p := m.pages[at/page]; p != nil {
			copy(b[:n], p[at%page:])
		} else {
			clear(b[:n])
		}
		b, at = b[n:], at+int64(n)
	}
}

func (m *image) write(b []byte, at int64) {
	for len(b) > 0 {
		i := at / page
		if p := m.pages[i]; p == nil || !m.own[i] {
			m.pages[i], m.own[i] = new([page]byte), true
			if p != nil {
				*m.pages[i] = *p
			}
		}
		n := copy(m.pages[i][at%page:], b)
		b, at = b[n:], at+int64(n)
	}
}

// op is a thing that happened to a disk: a write, a flush, or a word of the programs that use it, in mark.
type op struct {
	Data  []byte
	At    int64
	Flush bool
	Mark  string
}

// disk records what is done to it, and fails when it is told to. One goroutine, the server's, uses it.
type disk struct {
	kind    kind
	base    *image // before the first op
	now     *image
	ops     []op
	healthy int // writes and flushes that still work
	failing int // the number that fail then
	failed  int // how many have failed
}

func newDisk(base *image, k kind) *disk { return &disk{kind: k, base: base, now: base.copy()} }

// fails reports whether the operation that comes now has to fail.
func (d *disk) fails() bool {
	if d.failing == 0 {
		return false
	}
	if d.healthy > 0 {
		d.healthy--
		return false
	}
	d.failing--
	d.failed++
	return true
}

// fail lets the next healthy writes and flushes work, and the failing ones after them not.
func (d *disk) fail(healthy, failing int) {
	d.healthy, d.failing = healthy, failing
}

func (d *disk) write(b []byte, at int64) error {
	if at < 0 || at+int64(len(b)) > d.now.size {
		return unix.EFBIG
	}
	if d.fails() {
		return unix.EIO
	}
	d.ops = append(d.ops, op{Data: append([]byte(nil), b...), At: at})
	d.now.write(b, at)
	return nil
}

func (d *disk) flush() error {
	if d.fails() {
		return unix.EIO
	}
	d.ops = append(d.ops, op{Flush: true})
	return nil
}

func (d *disk) mark(word string) {
	d.ops = append(d.ops, op{Mark: word})
}

// fate says what becomes of the writes that were not flushed when the power went.
type fate string

const (
	kept    fate = "kept"
	dropped fate = "dropped"
	mixed   fate = "mixed" // each one kept, dropped or torn, by chance
)

// cut is the disk after the power went before its n-th op. The same seed gives the same disk.
func (d *disk) cut(n int, f fate, seed uint64) *image {
	n = min(n, len(d.ops))
	flushed := 0
	for i, o := range d.ops[:n] {
		if o.Flush {
			flushed = i
		}
	}
	m := d.base.copy()
	chance := rand.New(rand.NewPCG(seed, uint64(n)))
	for i, o := range d.ops[:n] {
		switch {
		case i < flushed || f == kept:
			m.write(o.Data, o.At)
		case f == dropped:
		case isSuper(o):
			if chance.IntN(2) == 0 {
				m.write(o.Data, o.At)
			}
		default:
			m.tear(o, d.kind.whole, chance)
		}
	}
	return m
}

// tear lets chance decide what comes of a write, and of its parts.
func (m *image) tear(o op, whole int, chance *rand.Rand) {
	switch chance.IntN(3) {
	case 0:
		m.write(o.Data, o.At)
	case 1:
		for b, at := o.Data, o.At; len(b) > 0; {
			n := min(whole-int(at)%whole, len(b))
			if chance.IntN(2) == 0 {
				m.write(b[:n], at)
			}
			b, at = b[n:], at+int64(n)
		}
	}
}

// isSuper reports whether a write goes to a superblock, which file systems trust disks to write whole.
func isSuper(o op) bool {
	for _, at := range []int64{0, 64 << 10, 64 << 20} { // ext4 and xfs; btrfs and its copy
		if o.At < at+page && at < o.At+int64(len(o.Data)) {
			return true
		}
	}
	return false
}

// record is a disk in a file.
type record struct {
	Kind  string
	Size  int64
	Pages map[int][]byte // of the disk as it was at first
	Ops   []op
}

// keep writes the record to a file.
func (d *disk) keep(name string) error {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	r := record{Kind: d.kind.name, Size: d.base.size, Pages: map[int][]byte{}, Ops: d.ops}
	for i, p := range d.base.pages {
		if p != nil {
			r.Pages[i] = p[:]
		}
	}
	return errors.Join(gob.NewEncoder(f).Encode(r), f.Close())
}

// readRecord reads what keep has written.
func readRecord(name string, k kind) (*disk, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var r record
	if err := gob.NewDecoder(f).Decode(&r); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if r.Kind != k.name {
		return nil, fmt.Errorf("%s is of %s: add -only %s", name, r.Kind, r.Kind)
	}
	m := newImage(r.Size)
	for i, p := range r.Pages {
		m.write(p, int64(i)*page)
	}
	d := newDisk(m, k)
	d.ops = r.Ops
	return d, nil
}
