package guesses

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/postel-mail/postel/internal/clock"
	"github.com/postel-mail/postel/internal/ledger"
)

// host is a host with a ledger of its own, whose time the test tells.
type host struct {
	*Guesses
	t   *testing.T
	now time.Time
	dir string
}

func newHost(t *testing.T) *host {
	h := &host{t: t, now: time.Unix(1_800_000_000, 0), dir: t.TempDir() + "/ledger"}
	clock.Set(func() time.Time { return h.now })
	t.Cleanup(func() { clock.Set(nil) })
	h.restart()
	return h
}

// restart is another process.
func (h *host) restart() {
	l, err := ledger.Open(h.dir)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { _ = l.Close() })
	h.Guesses = &Guesses{Ledger: l, Problem: func(err error) { h.t.Error(err) }}
}

// login is an attempt from ip as user with the right password or a wrong one, and what came of it: "banned" for one that was not looked at.
func (h *host) login(ip, user string, right bool) string {
	var a netip.Addr
	if ip != "" {
		a = netip.MustParseAddr(ip)
	}
	l := h.Attempt(a, user)
	if l.Banned() > 0 {
		return "banned"
	}
	if right {
		l.Succeeded()
		return "in"
	}
	if ban := l.Failed(); ban > 0 {
		return "failed, banned for " + ban.String()
	}
	return "failed"
}

func (h *host) expect(ip, user string, right bool, want string) {
	h.t.Helper()
	if got := h.login(ip, user, right); got != want {
		h.t.Errorf("%s as %s, right password %v: %s, want %s", ip, user, right, got, want)
	}
}

// TestBan: ten failures from a network, whoever they are for, and nobody from there gets in for a time that doubles; counted over processes.
func TestBan(t *testing.T) {
	h := newHost(t)
	const ip = "192.0.2.7"
	for _, ban := range []time.Duration{10, 20, 40, 80, 160, 240, 240} {
		ban *= time.Minute
		for n := range most - 1 {
			h.expect(ip, fmt.Sprint("user", n), false, "failed")
			h.restart()
		}
		h.expect(ip, "bob", false, "failed, banned for "+ban.String())
		h.restart()
		h.expect(ip, "bob", true, "banned")
		h.expect("192.0.2.8", "alice", true, "in")
		h.now = h.now.Add(ban - time.Second)
		h.expect(ip, "bob", true, "banned")
		h.now = h.now.Add(2 * time.Second)
	}
	h.expect(ip, "bob", true, "in")
	h.now = h.now.Add(3 * 24 * time.Hour)
	for range most - 1 {
		h.expect(ip, "carol", false, "failed")
	}
	h.expect(ip, "carol", false, "failed, banned for 10m0s") // what was long ago is forgotten
}

// TestSlowFailures: somebody who errs now and then is never banned.
func TestSlowFailures(t *testing.T) {
	h := newHost(t)
	for range 50 {
		h.expect("192.0.2.7", "bob", false, "failed")
		h.now = h.now.Add(2 * time.Minute)
	}
}

// TestNetworks: an IPv6 network of 64 bits counts as one, an IPv4 address alone, and an IPv4 address in IPv6 as itself.
func TestNetworks(t *testing.T) {
	for ip, want := range map[string]string{
		"192.0.2.7": "192.0.2.7", "::ffff:192.0.2.7": "192.0.2.7", "2001:db8:0:1:2:3:4:5": "2001:db8:0:1::/64", "fe80::1%eth0": "fe80::/64", "::1": "::/64",
	} {
		if got := network(netip.MustParseAddr(ip)); got != want {
			t.Errorf("%s: network %s, want %s", ip, got, want)
		}
	}
	h := newHost(t)
	for n := range most - 1 {
		h.expect(fmt.Sprintf("2001:db8::%d:1", n), "bob", false, "failed")
	}
	h.expect("2001:db8::9", "bob", false, "failed, banned for 10m0s")
	h.expect("2001:db8::abcd", "bob", true, "banned")
	h.expect("2001:db8:0:1::1", "bob", true, "in")
}

// TestKnown: who has logged in from a network before is not held up by the others there, nor by those who try that name elsewhere.
func TestKnown(t *testing.T) {
	h := newHost(t)
	const office, elsewhere = "192.0.2.7", "198.51.100.1"
	h.expect(office, "Bob", true, "in")
	for range most - 1 {
		h.expect(office, "mallory", false, "failed")
	}
	h.expect(office, "mallory", false, "failed, banned for 10m0s")
	h.expect(office, "bob", true, "in")
	h.expect(office, "alice", true, "banned")

	// A telephone with an old password bans itself, late, and not the office.
	h.now = h.now.Add(time.Hour)
	for range mostKnown - 1 {
		h.expect(office, "bob", false, "failed")
	}
	h.expect(office, "bob", false, "failed, banned for 10m0s")
	h.expect(office, "bob", true, "banned")
	h.expect(office, "alice", true, "in")
	h.expect(elsewhere, "bob", true, "in")

	// Many try bob's name from many places.
	for n := range 100 {
		h.login(fmt.Sprintf("203.0.113.%d", n), "bob", false)
	}
	if d := h.Attempt(netip.MustParseAddr("203.0.113.200"), "bob").Delay(); d != longestDelay {
		t.Errorf("from a strange network an answer waits %v, want %v", d, longestDelay)
	}
	if d := h.Attempt(netip.MustParseAddr(elsewhere), "BOB").Delay(); d != 0 {
		t.Errorf("from a known network an answer waits %v", d)
	}
	if d := h.Attempt(netip.MustParseAddr("203.0.113.200"), "dora").Delay(); d != 0 {
		t.Errorf("another user waits %v", d)
	}
	h.expect("203.0.113.200", "bob", true, "in")

	// After thirty days it is a strange network again.
	h.now = h.now.Add(knownFor + 24*time.Hour)
	if h.Attempt(netip.MustParseAddr(elsewhere), "bob").known {
		t.Error("a network is known for ever")
	}
}

func TestDelay(t *testing.T) {
	for n, want := range map[int]time.Duration{0: 0, userFree: 0, userFree + 1: time.Second, userFree + 5: 5 * time.Second, 1000: longestDelay, 1 << 40: longestDelay} {
		if got := delay(n); got != want {
			t.Errorf("after %d failures: %v, want %v", n, got, want)
		}
	}
}

// TestParallel: of attempts that were under way when the ban came, each is told of it before its answer.
func TestParallel(t *testing.T) {
	h := newHost(t)
	var under []*Login
	for range 50 {
		l := h.Attempt(netip.MustParseAddr("192.0.2.7"), "bob")
		if l.Banned() > 0 {
			t.Fatal("banned at once")
		}
		under = append(under, l)
	}
	learned := 0
	for _, l := range under {
		if l.Banned() == 0 {
			learned++
			l.Failed()
		}
	}
	if learned != most {
		t.Errorf("%d of 50 guesses at the same time were answered, want %d", learned, most)
	}
}

// TestNobody: who has no address is not banned, who says no name counts for the network, and a name can be anything.
func TestNobody(t *testing.T) {
	h := newHost(t)
	for range 30 {
		h.expect("", "bob", false, "failed")
	}
	for _, user := range []string{"", "a b", "\x00\n", strings.Repeat("x", 10_000), "", "", "", "", ""} {
		h.expect("192.0.2.9", user, false, "failed")
	}
	h.expect("192.0.2.9", "", false, "failed, banned for 10m0s")
	var none *Guesses
	l := none.Attempt(netip.MustParseAddr("192.0.2.7"), "bob")
	l.Succeeded()
	if l.Failed() != 0 || l.Banned() != 0 || l.Delay() != 0 {
		t.Error("nobody counts, and yet somebody is held up")
	}
}

// TestBroken: a ledger that fails holds nobody up.
func TestBroken(t *testing.T) {
	h := newHost(t)
	var problems []error
	h.Problem = func(err error) { problems = append(problems, err) }
	if err := errors.Join(os.RemoveAll(h.dir), os.WriteFile(h.dir, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	for range 20 {
		h.expect("192.0.2.7", "bob", false, "failed")
	}
	h.expect("192.0.2.7", "bob", true, "in")
	if len(problems) == 0 {
		t.Error("nobody is told that the ledger fails")
	}
}

// TestClockBack: a clock that is put back does not make a ban of a year.
func TestClockBack(t *testing.T) {
	h := newHost(t)
	for range most {
		h.login("192.0.2.7", "bob", false)
	}
	h.now = h.now.Add(-365 * 24 * time.Hour)
	if got := h.login("192.0.2.7", "bob", true); got == "banned" {
		t.Error("banned by a time to come")
	}
}
