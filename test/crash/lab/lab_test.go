package main

import (
	"bytes"
	"errors"
	"testing"

	"golang.org/x/sys/unix"
)

// TestCut: what was flushed is there, what was not goes the way of its fate, and the same seed gives the same disk.
func TestCut(t *testing.T) {
	base := newImage(64 * page)
	base.write(bytes.Repeat([]byte("o"), 64*page), 0)
	d := newDisk(base, kind{whole: sector})
	put := func(b byte, at, n int64) {
		if err := d.write(bytes.Repeat([]byte{b}, int(n)), at); err != nil {
			t.Fatal(err)
		}
	}
	put('a', 2*page, page)
	if err := d.flush(); err != nil {
		t.Fatal(err)
	}
	for i := range int64(20) {
		put('b', (20+i)*page+sector, page)
	}
	put('c', 0, page) // a superblock
	end := len(d.ops)
	put('d', 3*page, page)
	content := func(m *image) string {
		b := make([]byte, m.size)
		m.read(b, 0)
		return string(b)
	}
	keep, drop, chance := content(d.cut(end, kept, 1)), content(d.cut(end, dropped, 1)), content(d.cut(end, mixed, 1))
	for _, tt := range []struct {
		name, disk string
		want       map[byte]int
	}{
		{"kept", keep, map[byte]int{'a': page, 'b': 19*page + page, 'c': page, 'd': 0}},
		{"dropped", drop, map[byte]int{'a': page, 'b': 0, 'c': 0, 'd': 0}},
		{"mixed", chance, map[byte]int{'a': page, 'd': 0}},
	} {
		for c, want := range tt.want {
			if got := bytes.Count([]byte(tt.disk), []byte{c}); got != want {
				t.Errorf("%s: %d octets of %q, want %d", tt.name, got, c, want)
			}
		}
	}
	if n := bytes.Count([]byte(chance), []byte("b")); n == 0 || n == 20*page || n%sector != 0 || n%page == 0 {
		t.Errorf("mixed: %d octets of those that were not flushed, some of them torn: none, all, or no tear", n)
	}
	torn := false
	for seed := range uint64(50) {
		n := bytes.Count([]byte(content(d.cut(end, mixed, seed))), []byte("c"))
		torn = torn || n != 0 && n != page
	}
	if torn {
		t.Error("a superblock was torn")
	}
	if chance != content(d.cut(end, mixed, 1)) || chance == content(d.cut(end, mixed, 2)) {
		t.Error("the seed does not decide")
	}
	if got := content(base); got != string(bytes.Repeat([]byte("o"), 64*page)) {
		t.Error("the base image has changed")
	}
}

// TestFail: writes and flushes fail when they have to, and leave no trace.
func TestFail(t *testing.T) {
	d := newDisk(newImage(page), kind{whole: sector})
	d.fail(1, 2)
	var got []bool
	for range 4 {
		got = append(got, d.write([]byte("x"), 0) == nil)
	}
	if got[0] != true || got[1] || got[2] || !got[3] || len(d.ops) != 2 || d.failed != 2 {
		t.Errorf("worked %v, %d ops, %d failed", got, len(d.ops), d.failed)
	}
	d.fail(0, 100)
	for range 10 {
		if err := d.flush(); !errors.Is(err, unix.EIO) {
			t.Fatal(err)
		}
	}
	d.fail(0, 0)
	if err := d.flush(); err != nil {
		t.Error(err)
	}
	if err := d.write([]byte("xy"), page-1); !errors.Is(err, unix.EFBIG) {
		t.Errorf("beyond the end: %v", err)
	}
}

// TestLetters: a letter is known again, whole or not, by its text alone.
func TestLetters(t *testing.T) {
	l := newLetter(7, both, 5000)
	text := "Return-Path: <a@b.example>\n" + l.text()
	for _, tt := range []struct {
		name, text string
		want       letter
		whole      bool
	}{
		{"as it was", text, l, true},
		{"CRLF", string(bytes.ReplaceAll([]byte(text), []byte("\n"), []byte("\r\n"))), l, true},
		{"short", text[:len(text)-1], l, false},
		{"zeros", text[:2000] + string(make([]byte, len(text)-2000)), l, false},
		{"another", "Message-ID: <x@y.example>\n\nx\n", "", false},
	} {
		if got, whole := identify([]byte(tt.text)); got != tt.want || whole != tt.whole {
			t.Errorf("%s: %q, %v", tt.name, got, whole)
		}
	}
}
