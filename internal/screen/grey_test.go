package screen

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// step is one RCPT at a time since the beginning, and the message that it is for when it passes.
type step struct {
	at       time.Duration
	ip       string
	from, to string
	wait     int // seconds; 0: it passes
	accepted bool
}

const (
	bob  = "bob@own.example"
	far  = "alice@far.example"
	wait = 5 * time.Minute
	week = 7 * 24 * time.Hour
)

func TestGreylist(t *testing.T) {
	known := func(then ...step) (s []step) {
		for i := range enough {
			from := fmt.Sprintf("%c@far.example", 'a'+i)
			s = append(s, step{0, "192.0.2.7", from, bob, 300, false}, step{wait, "192.0.2.7", from, bob, 0, true})
		}
		return append(s, then...)
	}
	for _, tt := range []struct {
		name  string
		steps []step
	}{
		{"comes again", []step{{0, "192.0.2.7", far, bob, 300, false}, {wait, "192.0.2.7", far, bob, 0, true}, {wait, "192.0.2.7", far, bob, 0, true}}},
		{"comes too soon", []step{{0, "192.0.2.7", far, bob, 300, false}, {time.Second, "192.0.2.7", far, bob, 299, false}, {wait - time.Millisecond, "192.0.2.7", far, bob, 1, false},
			{wait, "192.0.2.7", far, bob, 0, true}}},
		{"comes at the end of the window", []step{{0, "192.0.2.7", far, bob, 300, false}, {wait + window - time.Second, "192.0.2.7", far, bob, 0, true}}},
		{"comes too late", []step{{0, "192.0.2.7", far, bob, 300, false}, {wait + window + 2*time.Second, "192.0.2.7", far, bob, 300, false}}},
		{"from another host of the network", []step{{0, "192.0.2.7", far, bob, 300, false}, {wait, "192.0.2.200", far, bob, 0, true}}},
		{"from another network", []step{{0, "192.0.2.7", far, bob, 300, false}, {wait, "192.0.3.7", far, bob, 300, false}}},
		{"IPv6", []step{{0, "2001:db8::1", far, bob, 300, false}, {wait, "2001:db8::2", far, bob, 0, true}, {wait, "2001:db8:0:1::2", far, bob, 300, false}}},
		{"to another recipient", []step{{0, "192.0.2.7", far, bob, 300, false}, {wait, "192.0.2.7", far, "eve@own.example", 300, false}}},
		{"from another sender", []step{{0, "192.0.2.7", far, bob, 300, false}, {wait, "192.0.2.7", "carol@far.example", bob, 300, false}}},
		{"written otherwise", []step{{0, "192.0.2.7", far, bob, 300, false}, {wait, "192.0.2.7", "ALICE+x17@FAR.example", "Bob@OWN.example", 0, true}}},
		{"a sender with a number", []step{{0, "192.0.2.7", "bounce-17-3@far.example", bob, 300, false}, {wait, "192.0.2.7", "bounce-4-1984@far.example", bob, 0, true}}},
		{"the null sender", []step{{0, "192.0.2.7", "", bob, 300, false}, {wait, "192.0.2.7", "", bob, 0, true}}},
		{"postmaster and abuse", []step{{0, "192.0.2.7", far, "postmaster@own.example", 0, true}, {0, "192.0.2.7", far, "Abuse@own.example", 0, true}}},
		{"an address that is not known", []step{{0, "", far, bob, 0, true}}},
		{"is remembered while it comes", []step{{0, "192.0.2.7", far, bob, 300, false}, {wait, "192.0.2.7", far, bob, 0, true}, {5 * week, "192.0.2.7", far, bob, 0, true},
			{10 * week, "192.0.2.7", far, bob, 0, true}}},
		{"is forgotten", []step{{0, "192.0.2.7", far, bob, 300, false}, {wait, "192.0.2.7", far, bob, 0, true}, {6 * week, "192.0.2.7", far, bob, 300, false}}},
		{"a network becomes known", known(step{wait, "192.0.2.9", "new@other.example", bob, 0, true}, step{5 * week, "192.0.2.9", "newer@other.example", bob, 0, true},
			step{10 * week, "192.0.2.9", "newest@other.example", bob, 0, true}, step{16 * week, "192.0.2.9", "newest@other.example", bob, 300, false})},
		{"but not another", known(step{wait, "192.0.3.9", "new@other.example", bob, 300, false})},
		{"and not by recipients alone", []step{{0, "192.0.2.7", "a@far.example", bob, 300, false}, {0, "192.0.2.7", "b@far.example", bob, 300, false},
			{0, "192.0.2.7", "c@far.example", bob, 300, false}, {0, "192.0.2.7", "d@far.example", bob, 300, false}, {0, "192.0.2.7", "e@far.example", bob, 300, false},
			{wait, "192.0.2.7", "a@far.example", bob, 0, false}, {wait, "192.0.2.7", "b@far.example", bob, 0, false}, {wait, "192.0.2.7", "c@far.example", bob, 0, false},
			{wait, "192.0.2.7", "d@far.example", bob, 0, false}, {wait, "192.0.2.7", "e@far.example", bob, 0, false}, {wait, "192.0.2.7", "f@far.example", bob, 300, false}}},
		{"the clock goes back", []step{{week, "192.0.2.7", far, bob, 300, false}, {0, "192.0.2.7", far, bob, 300, false}, {wait, "192.0.2.7", far, bob, 0, true}}},
		{"on an allow list", []step{{0, "192.0.2.3", far, bob, 0, true}}},
		{"on a block list, a little", []step{{0, "192.0.2.4", far, bob, 300, false}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			now := stop(t)
			w := newWorld(t, Rules{Greylist: wait, RefuseAt: 5}, "allow.example=-1", "second.example=1")
			for i, s := range tt.steps {
				now.set(began.Add(s.at))
				c := w.begin(t, s.ip)
				want := ""
				if s.wait > 0 {
					want = fmt.Sprintf("451 4.7.1 Greylisted, try again in %d seconds", s.wait)
				}
				if got := said(c.Greylist(path(s.from), path(s.to))); got != want {
					t.Fatalf("step %d, %+v: got %q", i, s, got)
				}
				if s.accepted {
					c.Accepted()
				}
			}
			if got := w.told(); got != "" {
				t.Error(got)
			}
		})
	}
}

// TestGreylistFlood: a network makes only so many entries, so that the book is not its own; a known client among them is not hurt.
func TestGreylistFlood(t *testing.T) {
	now := stop(t)
	w := newWorld(t, Rules{Greylist: wait})
	early := func(i int) string { return fmt.Sprintf("%s@far.example", strings.Repeat("x", i+1)) }
	for i := range maxFresh + 50 {
		if got := said(w.begin(t, "192.0.2.7").Greylist(path(early(i%60)), path(fmt.Sprintf("%d@own.example", i)))); got == "" {
			t.Fatalf("%d passes", i)
		}
	}
	now.set(began.Add(wait))
	passed := 0
	for i := range maxFresh + 50 {
		if w.begin(t, "192.0.2.7").Greylist(path(early(i%60)), path(fmt.Sprintf("%d@own.example", i))) == nil {
			passed++
		}
	}
	if passed != maxFresh {
		t.Errorf("%d entries were kept, want %d", passed, maxFresh)
	}
}

// TestGreylistWithoutLedger: what cannot be remembered is not asked for, and said once.
func TestGreylistWithoutLedger(t *testing.T) {
	w := newWorld(t, Rules{Greylist: wait, GreetDelay: time.Second})
	if err := os.RemoveAll(w.dir); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		c := w.begin(t, "192.0.2.7")
		c.Waited()
		if err := c.Greylist(path(far), path(bob)); err != nil || c.Delay() != time.Second {
			t.Errorf("got %v, %v", err, c.Delay())
		}
		c.Accepted()
	}
	if got := w.told(); !strings.Contains(got, "what is known of clients cannot be used") || strings.Contains(got, "\n") {
		t.Errorf("told %q", got)
	}
	w.Ledger = nil
	c := w.begin(t, "192.0.2.7")
	c.Waited()
	if err := c.Greylist(path(far), path(bob)); err != nil || c.Delay() != time.Second {
		t.Errorf("none: got %v, %v", err, c.Delay())
	}
}

// FuzzHash: a key is short and of harmless characters whatever the sender is.
func FuzzHash(f *testing.F) {
	f.Add("bounce-17+x", "far.example")
	f.Fuzz(func(t *testing.T, local, domain string) {
		from := path(far)
		from.Local, from.Domain = local, domain
		h := hash(from, path(bob))
		if len(h) != 22 || strings.Trim(h, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") != "" || h != hash(from, path(bob)) {
			t.Errorf("%q@%q: %q", local, domain, h)
		}
	})
}
