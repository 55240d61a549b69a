// Package mailboxtest holds every kind of mailbox.Store against the same cases.
package mailboxtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/postel-mail/postel/internal/mailbox"
)

// Run runs all cases; open gives the store at a path that does not exist yet, or that it gave before.
func Run(t *testing.T, open func(path string) mailbox.Store) {
	for name, test := range map[string]func(*testing.T, func(string) mailbox.Store){
		"Empty": empty, "RoundTrip": roundTrip, "Order": order, "Remove": remove, "Twins": twins, "ArrivalDuringSession": arrival,
		"InUse": inUse, "BrokenBody": brokenBody, "Parents": parents,
	} {
		t.Run(name, func(t *testing.T) { test(t, open) })
	}
}

// bodies are messages as they come, and as they are stored when that differs.
var bodies = []struct{ name, in, stored string }{
	{"plain", "Subject: x\n\nhello\n", ""},
	{"CRLF", "Subject: x\r\n\r\nhello\r\n", "Subject: x\n\nhello\n"},
	{"no end of line", "Subject: x\n\nhello", "Subject: x\n\nhello\n"},
	{"empty", "", ""},
	{"header alone", "Subject: x\n", ""},
	{"no header", "\nhello\n", ""},
	{"blank lines at the end", "Subject: x\n\nhello\n\n\n", ""},
	{"blank lines alone", "\n\n\n", ""},
	{"NUL", "Subject: x\n\na\x00b\n\x00\n", ""},
	{"8-bit", "Subject: \xe4\n\n\xff\xfe\n", ""},
	{"CR alone", "Subject: x\n\na\rb\n", ""},
	{"dots", "Subject: x\n\n.\n..\n.x\n", ""},
	{"From lines", "From: a\n\nFrom here\n\nFrom there\n>From b\n>>From c\nFrom", "From: a\n\nFrom here\n\nFrom there\n>From b\n>>From c\nFrom\n"},
	{"From line first", "From x\nFrom y\n\nFrom z\n", ""},
	{"almost From", "F\nFr\nFro\nFrom\nFromage\n>Fro\n>>\n >From \n>From\n", ""},
	{"From in CRLF", "A: b\r\n\r\nFrom \r\n>From \r\n", "A: b\n\nFrom \n>From \n"},
	{"long line", "Subject: x\n\n" + strings.Repeat("y", 300_000) + "\n.\n", ""},
	{"long quotes", "A: b\n\n" + strings.Repeat(">", 200_000) + "From x\n" + strings.Repeat(">", 65535) + "Fro\n", ""},
	{"many lines", "Subject: x\n\n" + strings.Repeat("From me\n\n", 20_000), ""},
}

func deliver(t *testing.T, s mailbox.Store, id, header, body string) {
	t.Helper()
	d := mailbox.Delivery{ID: id, Arrival: time.Unix(1_700_000_000, 0), Sender: "a@example.org", Header: header, Body: strings.NewReader(body)}
	if err := s.Deliver(context.Background(), d); err != nil {
		t.Fatalf("Deliver %s: %v", id, err)
	}
}

func session(t *testing.T, s mailbox.Store) mailbox.Session {
	t.Helper()
	m, err := s.Open(context.Background())
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

func read(t *testing.T, m mailbox.Session, i int) string {
	t.Helper()
	r, err := m.Body(i)
	if err != nil {
		t.Fatalf("Body %d: %v", i, err)
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatalf("read body %d: %v", i, err)
	}
	return string(b)
}

// sent is the size of a stored message on the wire, counted the slow way.
func sent(stored string) int64 {
	var n int64
	for i := range len(stored) {
		if n++; stored[i] == '\n' && (i == 0 || stored[i-1] != '\r') {
			n++
		}
	}
	return n
}

func short(s string) string {
	if len(s) > 80 {
		return fmt.Sprintf("%q... (%d)", s[:80], len(s))
	}
	return fmt.Sprintf("%q", s)
}

func empty(t *testing.T, open func(string) mailbox.Store) {
	path := filepath.Join(t.TempDir(), "box")
	m := session(t, open(path))
	if n := len(m.Messages()); n != 0 {
		t.Errorf("a mailbox that does not exist has %d messages", n)
	}
	if err := errors.Join(m.Remove(nil), m.Close()); err != nil {
		t.Error(err)
	}
}

func roundTrip(t *testing.T, open func(string) mailbox.Store) {
	s := open(filepath.Join(t.TempDir(), "box"))
	for i, b := range bodies {
		deliver(t, s, fmt.Sprintf("ID-%03d", i), "Return-Path: <>\n", b.in)
	}
	m := session(t, s)
	if len(m.Messages()) != len(bodies) {
		t.Fatalf("got %d messages, want %d", len(m.Messages()), len(bodies))
	}
	for i, b := range bodies {
		want := "Return-Path: <>\n" + b.stored
		if b.stored == "" {
			want += b.in
		}
		if got := read(t, m, i); got != want {
			t.Errorf("%s: got %s, want %s", b.name, short(got), short(want))
		}
		if got := m.Messages()[i].Size; got != sent(want) {
			t.Errorf("%s: size is %d, want %d", b.name, got, sent(want))
		}
	}
	for i := len(bodies) - 1; i >= 0; i -= 5 { // any order, twice
		if got, again := read(t, m, i), read(t, m, i); got != again {
			t.Errorf("%s: second read differs", bodies[i].name)
		}
	}
}

func order(t *testing.T, open func(string) mailbox.Store) {
	s := open(filepath.Join(t.TempDir(), "box"))
	for i := range 20 {
		d := mailbox.Delivery{Arrival: time.Unix(1_600_000_000+int64(i), 0), Body: strings.NewReader(fmt.Sprintf("N: %d\n\n", i))}
		if err := s.Deliver(context.Background(), d); err != nil {
			t.Fatal(err)
		}
	}
	m := session(t, s)
	seen := map[string]bool{}
	for i, msg := range m.Messages() {
		if got, want := read(t, m, i), fmt.Sprintf("N: %d\n\n", i); got != want {
			t.Errorf("message %d: got %q, want %q", i, got, want)
		}
		if seen[msg.UID] || msg.UID == "" || len(msg.UID) > 70 || strings.ContainsFunc(msg.UID, func(r rune) bool { return r < 0x21 || r > 0x7e }) {
			t.Errorf("message %d: UID %q is not unique, or not as RFC 1939 wants it", i, msg.UID)
		}
		seen[msg.UID] = true
	}
}

func remove(t *testing.T, open func(string) mailbox.Store) {
	path := filepath.Join(t.TempDir(), "box")
	for i := range 10 {
		deliver(t, open(path), fmt.Sprintf("ID-%02d", i), "", fmt.Sprintf("N: %d\n\nFrom %d\n", i, i))
	}
	m := session(t, open(path))
	uids := map[string]string{}
	for i, msg := range m.Messages() {
		uids[read(t, m, i)] = msg.UID
	}
	if err := m.Remove([]int{9, 0, 4, 5}); err != nil {
		t.Fatal(err)
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	deliver(t, open(path), "ID-10", "", "N: 10\n\n")
	m = session(t, open(path))
	want := []int{1, 2, 3, 6, 7, 8, 10}
	if len(m.Messages()) != len(want) {
		t.Fatalf("got %d messages, want %d", len(m.Messages()), len(want))
	}
	for i, n := range want {
		body := read(t, m, i)
		if !strings.HasPrefix(body, fmt.Sprintf("N: %d\n\n", n)) {
			t.Errorf("message %d: got %q, want number %d", i, body, n)
		}
		if uid := m.Messages()[i].UID; n < 10 && uid != uids[body] {
			t.Errorf("message %d: UID was %q, is %q", n, uids[body], uid)
		}
	}
	all := make([]int, len(want))
	for i := range all {
		all[i] = i
	}
	if err := errors.Join(m.Remove(all), m.Close()); err != nil {
		t.Fatal(err)
	}
	if m = session(t, open(path)); len(m.Messages()) != 0 {
		t.Errorf("%d messages are left after removing all", len(m.Messages()))
	}
}

// twins are equal to the last octet; each still has its own UID.
func twins(t *testing.T, open func(string) mailbox.Store) {
	s := open(filepath.Join(t.TempDir(), "box"))
	for range 3 {
		deliver(t, s, "", "", "A: b\n\nsame\n")
	}
	m := session(t, s)
	seen := map[string]bool{}
	for _, msg := range m.Messages() {
		seen[msg.UID] = true
	}
	if len(seen) != 3 {
		t.Errorf("three equal messages have %d UIDs", len(seen))
	}
	if err := errors.Join(m.Remove([]int{1}), m.Close()); err != nil {
		t.Fatal(err)
	}
	if m = session(t, s); len(m.Messages()) != 2 {
		t.Errorf("%d of three are left after removing one", len(m.Messages()))
	}
}

func arrival(t *testing.T, open func(string) mailbox.Store) {
	path := filepath.Join(t.TempDir(), "box")
	deliver(t, open(path), "1", "", "N: 1\n\n")
	deliver(t, open(path), "2", "", "N: 2\n\n")
	m := session(t, open(path))
	deliver(t, open(path), "3", "", "N: 3\n\n")
	if n := len(m.Messages()); n != 2 {
		t.Errorf("the session sees %d messages, want 2", n)
	}
	if got := read(t, m, 1); got != "N: 2\n\n" {
		t.Errorf("message 2 is %q", got)
	}
	if err := errors.Join(m.Remove([]int{0, 1}), m.Close()); err != nil {
		t.Fatal(err)
	}
	m = session(t, open(path))
	if len(m.Messages()) != 1 || read(t, m, 0) != "N: 3\n\n" {
		t.Errorf("what arrived during the session is not all that is there: %v", m.Messages())
	}
}

func inUse(t *testing.T, open func(string) mailbox.Store) {
	path := filepath.Join(t.TempDir(), "box")
	deliver(t, open(path), "1", "", "N: 1\n\n")
	m := session(t, open(path))
	if _, err := open(path).Open(context.Background()); !errors.Is(err, mailbox.ErrInUse) {
		t.Errorf("second Open: got %v, want ErrInUse", err)
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	session(t, open(path))
}

// brokenBody breaks off in the middle: nothing of the message may be seen.
func brokenBody(t *testing.T, open func(string) mailbox.Store) {
	s := open(filepath.Join(t.TempDir(), "box"))
	deliver(t, s, "1", "", "N: 1\n\n")
	broken := io.MultiReader(bytes.NewReader(make([]byte, 200_000)), iotest.ErrReader(io.ErrUnexpectedEOF))
	if err := s.Deliver(context.Background(), mailbox.Delivery{ID: "2", Body: broken}); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("Deliver of a broken body: got %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := s.Deliver(ctx, mailbox.Delivery{ID: "3", Body: strings.NewReader("N: 3\n\n")}); !errors.Is(err, context.Canceled) {
		t.Errorf("Deliver after cancel: got %v", err)
	}
	deliver(t, s, "2", "", "N: 2\n\n")
	m := session(t, s)
	if len(m.Messages()) != 2 || read(t, m, 0) != "N: 1\n\n" || read(t, m, 1) != "N: 2\n\n" {
		t.Errorf("messages are %v", m.Messages())
	}
}

func parents(t *testing.T, open func(string) mailbox.Store) {
	path := filepath.Join(t.TempDir(), "example.org", "a", "box")
	deliver(t, open(path), "1", "", "N: 1\n\n")
	if m := session(t, open(path)); len(m.Messages()) != 1 {
		t.Errorf("got %d messages", len(m.Messages()))
	}
}
