package mx

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/postel-mail/postel/internal/clock"
	"github.com/postel-mail/postel/internal/status"
	"github.com/postel-mail/postel/test/dnszone"
)

// zone has every shape of domain that RFC 5321 5.1 and RFC 7505 know, and those that nobody should have published.
const zone = `
$ORIGIN x.example.
@          IN SOA ns hostmaster 1 3600 600 86400 120
two        IN MX 20 mx2
two        IN MX 10 mx1
tied       IN MX 10 mx1
tied       IN MX 10 mx2
tied       IN MX 10 mx3
tied       IN MX 5  mx4
implicit4  IN A 192.0.2.1
implicit6  IN AAAA 2001:db8::1
both       IN A 192.0.2.1
both       IN MX 10 nosuch
text       IN TXT "no mail here"
null       IN MX 0 .
null9      IN MX 9 .
nullnull   IN MX 0 .
nullnull   IN MX 1 .
nullplus   IN MX 0 .
nullplus   IN MX 10 mx1
nullafter  IN MX 10 mx1
nullafter  IN MX 0 .
self       IN MX 10 self
self       IN A 192.0.2.1
alias      IN CNAME two
aliasimp   IN CNAME implicit4
aliasgone  IN CNAME nosuch
aliasnull  IN CNAME null
aliastext  IN CNAME text
ring       IN CNAME ring2
ring2      IN CNAME ring
c1         IN CNAME c2
c2         IN CNAME c3
c3         IN CNAME c4
c4         IN CNAME c5
c5         IN CNAME c6
c6         IN CNAME c7
c7         IN CNAME c8
c8         IN CNAME two
c0         IN CNAME c1
literal    IN MX 10 192.0.2.1.
literals   IN MX 10 192.0.2.1.
literals   IN MX 20 [192.0.2.1].
literals   IN MX 30 mx1
localhost  IN MX 10 localhost.
local2     IN MX 10 mail.localhost.
odd        IN MX 1 a\032b
odd        IN MX 2 a\.b
odd        IN MX 3 -a
odd        IN MX 4 a\010b
odd        IN MX 5 \255
odd        IN MX 6 _ok
repeated   IN MX 30 mx1
repeated   IN MX 10 mx2
repeated   IN MX 20 MX2
repeated   IN MX 20 mx1
aliasedmx  IN MX 10 mxalias
mxalias    IN CNAME mx1
mx1        IN A 192.0.2.11
mx1        IN A 192.0.2.12
mx1        IN AAAA 2001:db8::11
mx2        IN A 192.0.2.21
bogus      IN A 0.0.0.0
bogus      IN A 224.0.0.1
bogus      IN A 255.255.255.255
bogus      IN AAAA ::
bogus      IN AAAA ::ffff:192.0.2.1
bogus      IN AAAA ff02::1
xn--bcher-kva IN MX 10 mx1
caf\195\169   IN MX 10 mx1
`

// server starts a DNS server for text and gives its address.
func server(t testing.TB, text string) string {
	t.Helper()
	z, err := dnszone.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	s, err := z.Serve("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s.Addr()
}

func resolver(t testing.TB, o Options) *Resolver {
	t.Helper()
	if o.Families == nil {
		o.Families = func() (bool, bool) { return true, true }
	}
	r, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// show writes what Lookup gave in one line: rule and hosts, or the reply code and the cause.
func show(a Answer, err error) string {
	if err != nil {
		s := status.Of(err)
		return fmt.Sprintf("%d %s %v [%s]", s.Code, s.Enhanced, s.Cause(), a.Rule)
	}
	words := []string{a.Rule}
	for _, h := range a.Hosts {
		words = append(words, fmt.Sprintf("%d %s", h.Preference, strings.TrimSuffix(h.Name, ".x.example")))
	}
	return strings.Join(words, ", ")
}

// reversed is a shuffle that can be foreseen.
func reversed(n int, swap func(i, j int)) {
	for i := range n / 2 {
		swap(i, n-1-i)
	}
}

func TestLookup(t *testing.T) {
	const (
		badName  = "553 5.1.3 not a domain name []"
		noDomain = "550 5.1.2 no such domain [nodomain]"
		noHost   = "550 5.1.2 neither mail host nor address [none]"
		nullMX   = "556 5.1.10 domain takes no mail (null MX) [null]"
		unusable = "550 5.4.4 MX records name no usable host [unusable]"
		two      = "mx, 10 mx1, 20 mx2"
	)
	r := resolver(t, Options{Servers: []string{server(t, zone+many("many", 60))}, Shuffle: reversed})
	tests := []struct{ domain, want string }{
		{"two.x.example", two},
		{"TWO.X.Example.", two},
		{"tied.x.example", "mx, 5 mx4, 10 mx3, 10 mx2, 10 mx1"},
		{"implicit4.x.example", "implicit, 0 implicit4"},
		{"implicit6.x.example", "implicit, 0 implicit6"},
		{"both.x.example", "mx, 10 nosuch"}, // MX records are there: the address does not count
		{"text.x.example", noHost},
		{"nosuch.x.example", noDomain},
		{"null.x.example", nullMX},
		{"null9.x.example", nullMX},
		{"nullnull.x.example", nullMX},
		{"nullplus.x.example", "mx, 10 mx1"},
		{"nullafter.x.example", "mx, 10 mx1"},
		{"self.x.example", "mx, 10 self"},
		{"alias.x.example", two},
		{"aliasimp.x.example", "implicit, 0 implicit4"},
		{"aliasgone.x.example", noDomain},
		{"aliasnull.x.example", nullMX},
		{"aliastext.x.example", noHost},
		{"c1.x.example", two},
		{"literal.x.example", unusable},
		{"literals.x.example", "mx, 30 mx1"},
		{"localhost.x.example", unusable},
		{"local2.x.example", unusable},
		{"odd.x.example", "mx, 6 _ok"},
		{"repeated.x.example", "mx, 10 mx2, 20 mx1"},
		{"aliasedmx.x.example", "mx, 10 mxalias"},
		{"bogus.x.example", noHost},
		{"bücher.x.example", "mx, 10 mx1"},
		{"[192.0.2.1]", "literal, 0 [192.0.2.1]"},
		{"[IPv6:2001:db8::1]", "literal, 0 [ipv6:2001:db8::1]"},
		{"", badName},
		{".", badName},
		{"example", badName},
		{"localhost", badName},
		{"192.0.2.1", badName},
		{"2001:db8::1", badName},
		{"a..example", badName},
		{"-a.example", badName},
		{"a b.example", badName},
		{"a\n.example", badName},
		{"user@example.org", badName},
		{"[192.0.2.1", badName},
		{strings.Repeat("a", 64) + ".example", badName},
		{strings.Repeat("a.", 127) + "example", badName},
		{strings.Repeat("ü", 60) + ".example", badName},
		{"caf\xe9.example", badName},
	}
	for _, tt := range tests {
		for range 2 { // the second answer comes from the cache
			if got := show(r.Lookup(t.Context(), tt.domain)); got != tt.want {
				t.Errorf("%q:\n got %s\nwant %s", tt.domain, got, tt.want)
			}
		}
	}
	for _, ring := range []string{"ring.x.example", "c0.x.example"} {
		if got := show(r.Lookup(t.Context(), ring)); !strings.HasPrefix(got, "451 4.4.3 MX of "+ring) || !strings.Contains(got, "more than 8 CNAMEs") {
			t.Errorf("%s: got %s", ring, got)
		}
	}
	a, err := r.Lookup(t.Context(), "many.x.example")
	if err != nil || len(a.Hosts) != 50 || a.Hosts[0].Preference != 0 || a.Hosts[49].Preference != 49 {
		t.Errorf("of 60 hosts: got %s", show(a, err))
	}
	if a, err = r.Lookup(t.Context(), "bücher.x.example"); err != nil || a.Name != "xn--bcher-kva.x.example" || a.TTL <= 0 || a.TTL > 300*time.Second {
		t.Errorf("got name %q, TTL %v, error %v", a.Name, a.TTL, err)
	}
}

// many gives a domain n hosts, the best last.
func many(name string, n int) string {
	var b strings.Builder
	for i := n - 1; i >= 0; i-- {
		fmt.Fprintf(&b, "%s.x.example. IN MX %d a-host-with-a-long-name-%d.x.example.\n", name, i, i)
	}
	return b.String()
}

func TestShuffle(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	r := resolver(t, Options{Servers: []string{server(t, zone)}, Shuffle: random.Shuffle})
	first := map[string]int{}
	for range 300 {
		a, err := r.Lookup(t.Context(), "tied.x.example")
		if err != nil || len(a.Hosts) != 4 || a.Hosts[0].Name != "mx4.x.example" {
			t.Fatal(show(a, err))
		}
		first[a.Hosts[1].Name]++
	}
	for name, n := range first {
		if len(first) != 3 || n < 50 {
			t.Errorf("of 300 answers %d begin with %s", n, name)
		}
	}
}

func TestWithout(t *testing.T) {
	a := Answer{Name: "d.example", Rule: RuleMX, Hosts: []Host{{10, "a.example"}, {20, "b.example"}, {20, "c.example"}, {30, "xn--bcher-kva.example"}}}
	const loop = "554 5.4.6 mail loops back to this host [self]"
	tests := []struct {
		own  []string
		want string
	}{
		{nil, "mx, 10 a.example, 20 b.example, 20 c.example, 30 xn--bcher-kva.example"},
		{[]string{"other.example"}, "mx, 10 a.example, 20 b.example, 20 c.example, 30 xn--bcher-kva.example"},
		{[]string{"Bücher.example."}, "mx, 10 a.example, 20 b.example, 20 c.example"},
		{[]string{"b.example"}, "mx, 10 a.example"},
		{[]string{"c.example"}, "mx, 10 a.example"},
		{[]string{"xn--bcher-kva.example", "C.EXAMPLE."}, "mx, 10 a.example"},
		{[]string{"a.example"}, loop},
		{[]string{"c.example", "a.example"}, loop},
	}
	for _, tt := range tests {
		if got := show(a.Without(tt.own...)); got != tt.want {
			t.Errorf("%q:\n got %s\nwant %s", tt.own, got, tt.want)
		}
	}
	if _, err := a.Without("a.example"); !errors.Is(err, ErrLoop) {
		t.Errorf("got %v, want ErrLoop", err)
	}
}

func TestAddresses(t *testing.T) {
	r := resolver(t, Options{Servers: []string{server(t, zone)}})
	tests := []struct{ host, want string }{
		{"mx1.x.example", "[2001:db8::11 192.0.2.11 192.0.2.12]"},
		{"MX2.x.example.", "[192.0.2.21]"},
		{"mxalias.x.example", "[2001:db8::11 192.0.2.11 192.0.2.12]"},
		{"implicit6.x.example", "[2001:db8::1]"},
		{"[192.0.2.1]", "[192.0.2.1]"},
		{"[IPv6:2001:db8::1]", "[2001:db8::1]"},
		{"192.0.2.1", "[192.0.2.1]"},
		{"localhost", "[::1 127.0.0.1]"},
		{"nosuch.x.example", "550 5.1.2 no such domain []"},
		{"text.x.example", "550 5.1.2 neither mail host nor address []"},
		{"bogus.x.example", "550 5.1.2 neither mail host nor address []"},
		{"a b.example", "553 5.1.3 not a domain name []"},
		{"", "553 5.1.3 not a domain name []"},
	}
	for _, tt := range tests {
		addrs, err := r.Addresses(t.Context(), tt.host)
		got := fmt.Sprint(addrs)
		if err != nil {
			got = show(Answer{}, err)
		}
		if got != tt.want {
			t.Errorf("%q: got %s, want %s", tt.host, got, tt.want)
		}
	}
}

// TestFamilies: a family that this host does not have comes last.
func TestFamilies(t *testing.T) {
	server := server(t, zone)
	for _, tt := range []struct {
		v4, v6 bool
		want   string
	}{
		{true, true, "[2001:db8::11 192.0.2.11 192.0.2.12]"},
		{true, false, "[192.0.2.11 192.0.2.12 2001:db8::11]"},
		{false, true, "[2001:db8::11 192.0.2.11 192.0.2.12]"},
	} {
		r := resolver(t, Options{Servers: []string{server}, Families: func() (bool, bool) { return tt.v4, tt.v6 }})
		if got, err := r.Addresses(t.Context(), "mx1.x.example"); fmt.Sprint(got) != tt.want {
			t.Errorf("%+v: got %v, %v", tt, got, err)
		}
	}
}

// TestOwn: this host knows its own addresses, is asked for them only now and then, and knows from them what it can reach.
func TestOwn(t *testing.T) {
	list, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range list {
		p := netip.MustParsePrefix(a.String()).Addr()
		if !IsHostAddress(p) || p.Is4() && !IsHostAddress(netip.AddrFrom16(p.As16())) {
			t.Errorf("%s is not known", p)
		}
	}
	if IsHostAddress(netip.MustParseAddr("198.51.100.1")) {
		t.Error("a stranger's address counts as own")
	}
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	clock.Set(func() time.Time { return now })
	t.Cleanup(func() { clock.Set(nil) })
	_ = own.get()
	for _, tt := range []struct {
		addrs string
		want  string
	}{
		{"127.0.0.1 ::1", "true true"}, // not told: a container, say, whose addresses come later
		{"192.0.2.1 fd00::1 fe80::1 127.0.0.1 ::1", "true false"},
		{"10.0.0.1 2001:db8::1", "true true"},
		{"127.0.0.1 2001:db8::1", "false true"},
	} {
		own.addrs = nil
		for _, a := range strings.Fields(tt.addrs) {
			own.addrs = append(own.addrs, netip.MustParseAddr(a))
		}
		if v4, v6 := families(); fmt.Sprint(v4, v6) != tt.want {
			t.Errorf("%s: %v %v, want %s", tt.addrs, v4, v6, tt.want)
		}
	}
	now = now.Add(ownTime + time.Second)
	if IsHostAddress(netip.MustParseAddr("2001:db8::1")) {
		t.Error("an old answer is believed for too long")
	}
}

func TestInTurn(t *testing.T) {
	list := func(s string) (all []netip.Addr) {
		for _, f := range strings.Fields(s) {
			all = append(all, netip.MustParseAddr(f))
		}
		return all
	}
	got := inTurn(list("2001:db8::1 2001:db8::2"), list("192.0.2.1 192.0.2.1 192.0.2.2 192.0.2.3"))
	if want := list("2001:db8::1 192.0.2.1 2001:db8::2 192.0.2.2 192.0.2.3"); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// TestCache: an answer is asked for once while it holds, a negative one too, and never more than maxCached are kept.
func TestCache(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	clock.Set(func() time.Time { return now })
	t.Cleanup(func() { clock.Set(nil) })
	s := newScript(t, func(q *dns.Msg, _ bool) [][]byte { return zoneReply(q) })
	r := resolver(t, Options{Servers: []string{s.addr}})
	for _, step := range []struct {
		domain string
		wait   time.Duration
		want   int32 // queries
		ttl    time.Duration
	}{
		{"two.x.example", 0, 1, 300 * time.Second},
		{"two.x.example", 100 * time.Second, 0, 200 * time.Second},
		{"two.x.example", 199 * time.Second, 0, time.Second},
		{"two.x.example", 2 * time.Second, 1, 300 * time.Second},
		{"nosuch.x.example", 0, 1, 120 * time.Second},
		{"nosuch.x.example", 119 * time.Second, 0, time.Second},
		{"nosuch.x.example", 2 * time.Second, 1, 120 * time.Second},
		{"text.x.example", 0, 3, 120 * time.Second},
		{"text.x.example", 0, 0, 120 * time.Second},
		{"nosoa.x.example", 0, 1, 0}, // without a SOA a negative answer is not kept
		{"nosoa.x.example", 0, 1, 0},
	} {
		now = now.Add(step.wait)
		before := s.asked.Load()
		a, _ := r.Lookup(t.Context(), step.domain)
		if n := s.asked.Load() - before; n != step.want || a.TTL != step.ttl {
			t.Errorf("%s after %v: %d queries, TTL %v; want %d, %v", step.domain, step.wait, n, a.TTL, step.want, step.ttl)
		}
	}
	for i := range maxCached + 100 {
		r.cache.put(question{fmt.Sprint(i, ".example"), dns.TypeMX}, reply{ttl: time.Hour})
	}
	if n := len(r.cache.entries); n != maxCached {
		t.Errorf("%d entries, want %d", n, maxCached)
	}
}

// TestOutcome: every error has a cause that errors.Is finds, and is a *status.Error.
func TestOutcome(t *testing.T) {
	for _, cause := range []error{ErrNoDomain, ErrNoHost, ErrNullMX, ErrUnusable, ErrLoop, context.DeadlineExceeded} {
		err := outcome("d.example", cause)
		var s *status.Error
		if !errors.Is(err, cause) || !errors.As(err, &s) || !strings.Contains(s.Text, "d.example") {
			t.Errorf("%v: got %v", cause, err)
		}
		if s.Temporary() != (cause == context.DeadlineExceeded) {
			t.Errorf("%v: got code %d", cause, s.Code)
		}
	}
}

func TestParseResolvConf(t *testing.T) {
	tests := []struct{ text, want string }{
		{"", "[127.0.0.1:53] 5s 2 false false"},
		{"search example.org\nnameserver 192.0.2.53\n", "[192.0.2.53:53] 5s 2 false false"},
		{"# nameserver 192.0.2.1\n; nameserver 192.0.2.2\nnameserver 192.0.2.3 # said so\n", "[192.0.2.3:53] 5s 2 false false"},
		{"nameserver 2001:db8::53\nnameserver\tfe80::1%eth0", "[[2001:db8::53]:53 [fe80::1%eth0]:53] 5s 2 false false"},
		{"nameserver 192.0.2.1\nnameserver nonsense\nnameserver 192.0.2.2\nnameserver 192.0.2.3\nnameserver 192.0.2.4",
			"[192.0.2.1:53 192.0.2.2:53 192.0.2.3:53] 5s 2 false false"},
		{"options timeout:1 attempts:4 rotate use-vc edns0 trust-ad ndots:5\n", "[127.0.0.1:53] 1s 4 true true"},
		{"options timeout:900 attempts:900\noptions timeout:x attempts:-1\n", "[127.0.0.1:53] 30s 5 false false"},
		{"nameserver 192.0.2.1\r\noptions rotate\r\n", "[192.0.2.1:53] 5s 2 true false"},
	}
	for _, tt := range tests {
		c := parseResolvConf(tt.text)
		if got := fmt.Sprint(c.servers, c.timeout, c.attempts, c.rotate, c.tcp); got != tt.want {
			t.Errorf("%q:\n got %s\nwant %s", tt.text, got, tt.want)
		}
	}
}

func TestNew(t *testing.T) {
	for _, tt := range []struct{ server, want string }{
		{"192.0.2.53", "192.0.2.53:53"},
		{"192.0.2.53:5353", "192.0.2.53:5353"},
		{"2001:db8::53", "[2001:db8::53]:53"},
		{"[2001:db8::53]", "[2001:db8::53]:53"},
		{"[2001:db8::53]:5353", "[2001:db8::53]:5353"},
		{"ns.example.org", ""},
		{"192.0.2.53:0", ""},
		{"[192.0.2.53", ""},
		{"", ""},
	} {
		got := ""
		if r, err := New(Options{Servers: []string{tt.server}}); err == nil {
			got = r.stub.servers[0]
		}
		if got != tt.want {
			t.Errorf("%q: got %q, want %q", tt.server, got, tt.want)
		}
	}
	if r := resolver(t, Options{File: t.TempDir() + "/missing"}); r.stub.servers[0] != "127.0.0.1:53" {
		t.Errorf("without resolv.conf: got %v", r.stub.servers)
	}
	if _, err := New(Options{File: t.TempDir()}); err == nil {
		t.Error("a resolv.conf that cannot be read: no error")
	}
}

func FuzzResolvConf(f *testing.F) {
	f.Add("nameserver 192.0.2.1\noptions timeout:1 attempts:2 rotate\n")
	f.Add("nameserver fe80::1%eth0\n")
	f.Fuzz(func(t *testing.T, text string) {
		c := parseResolvConf(text)
		if n := len(c.servers); n < 1 || n > 3 || c.attempts < 1 || c.attempts > 5 || c.timeout < time.Second || c.timeout > 30*time.Second {
			t.Fatalf("%q gives %+v", text, c)
		}
		for _, s := range c.servers {
			if _, port, err := net.SplitHostPort(s); err != nil || port == "" {
				t.Fatalf("%q gives server %q", text, s)
			}
		}
	})
}
