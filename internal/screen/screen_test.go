package screen

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/postel-mail/postel/internal/address"
	"github.com/postel-mail/postel/internal/clock"
	"github.com/postel-mail/postel/internal/ledger"
	"github.com/postel-mail/postel/internal/mx"
	"github.com/postel-mail/postel/internal/status"
	"github.com/postel-mail/postel/test/dnszone"
)

// zone has a list of each kind, and names of clients.
const zone = `
$ORIGIN bl.example.
@          IN SOA ns hostmaster 1 3600 600 86400 120
7.2.0.192  IN A 127.0.0.2
7.2.0.192  IN TXT "see https://bl.example/\r\n250 ok"
6.2.0.192  IN A 127.0.0.9
5.2.0.192  IN A 10.0.0.1
8.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2 IN A 127.0.0.2
$ORIGIN second.example.
@          IN SOA ns hostmaster 1 3600 600 86400 120
7.2.0.192  IN A 127.0.0.4
4.2.0.192  IN A 127.0.0.4
$ORIGIN allow.example.
@          IN SOA ns hostmaster 1 3600 600 86400 120
6.2.0.192  IN A 127.0.10.3
3.2.0.192  IN A 127.0.10.3
$ORIGIN dead.example.
@          IN SOA ns hostmaster 1 3600 600 86400 120
*          IN A 127.0.0.2
$ORIGIN refusing.example.
@          IN SOA ns hostmaster 1 3600 600 86400 120
7.2.0.192  IN A 127.255.255.254
$ORIGIN in-addr.arpa.
@          IN SOA ns hostmaster 1 3600 600 86400 120
3.2.0.192  IN PTR mail.far.example.
4.2.0.192  IN PTR liar.far.example.
6.2.0.192  IN PTR out.lame.example.
$ORIGIN far.example.
@          IN SOA ns hostmaster 1 3600 600 86400 120
mail       IN A 192.0.2.3
liar       IN A 192.0.2.99
`

// hand is a clock that stands still until it is set.
type hand struct{ ns atomic.Int64 }

func stop(t *testing.T) *hand {
	h := &hand{}
	h.set(began)
	clock.Set(func() time.Time { return time.Unix(0, h.ns.Load()).UTC() })
	t.Cleanup(func() { clock.Set(nil) })
	return h
}

var began = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func (h *hand) set(at time.Time) { h.ns.Store(at.UnixNano()) }

type world struct {
	*Screen
	dir      string // of the ledger
	mu       sync.Mutex
	problems []string
}

func (w *world) told() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Join(w.problems, "\n")
}

// newWorld makes a screen with the lists, a ledger of its own and a DNS server.
func newWorld(t *testing.T, r Rules, lists ...string) *world {
	t.Helper()
	z, err := dnszone.Parse(zone)
	if err != nil {
		t.Fatal(err)
	}
	server, err := z.Serve("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	dns, err := mx.New(mx.Options{Servers: []string{server.Addr()}, Timeout: LookupTime})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{dir: t.TempDir() + "/ledger"}
	l, err := ledger.Open(w.dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	for _, s := range lists {
		list, err := parseList(s)
		if err != nil {
			t.Fatal(err)
		}
		r.Lists = append(r.Lists, list)
	}
	r.Hostname, r.Ledger = "mail.own.example", l
	r.Listed, r.ListText, r.ClientName = dns.Listed, dns.ListText, dns.ClientName
	r.Problem = func(err error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.problems = append(w.problems, err.Error())
	}
	w.Screen = New(r)
	return w
}

func (w *world) begin(t *testing.T, ip string) *Client {
	t.Helper()
	var a netip.Addr
	if ip != "" {
		a = netip.MustParseAddr(ip)
	}
	c := w.Begin(a)
	t.Cleanup(c.End)
	return c
}

func path(s string) address.Path {
	if s == "" {
		return address.Path{}
	}
	p, err := address.Parse(s)
	if err != nil {
		panic(err)
	}
	return p
}

// said gives a refusal as the peer and the log have it; "" for none.
func said(err error) string {
	if err == nil {
		return ""
	}
	var s *status.Error
	if !errors.As(err, &s) {
		return "no status: " + err.Error()
	}
	return s.Error()
}

func TestVerdict(t *testing.T) {
	for _, tt := range []struct {
		name, ip string
		rules    Rules
		lists    string
		score    int
		text     string
		client   string
		refusal  string
	}{
		{"on no list", "192.0.2.9", Rules{RefuseAt: 1}, "bl.example=3", 0, "", "", ""},
		{"on one", "192.0.2.7", Rules{RefuseAt: 3}, "bl.example=3", 3, "bl.example=3", "",
			`550 5.7.1 Your address 192.0.2.7 is listed by bl.example: see https://bl.example/rn250 ok: score 3: bl.example=3`},
		{"below the limit", "192.0.2.7", Rules{RefuseAt: 4}, "bl.example=3", 3, "bl.example=3", "", ""},
		{"two lists together", "192.0.2.7", Rules{RefuseAt: 4}, "second.example=1 bl.example=3", 4, "second.example=1 bl.example=3", "",
			`550 5.7.1 Your address 192.0.2.7 is listed by bl.example: see https://bl.example/rn250 ok: score 4: second.example=1 bl.example=3`},
		{"the answer counts", "192.0.2.7", Rules{RefuseAt: 1}, "bl.example[127.0.0.3..9]=3", 0, "", "", ""},
		{"one list twice", "192.0.2.6", Rules{RefuseAt: 9}, "bl.example[127.0.0.3..9]=3 bl.example[127.0.0.9]=4", 7, "bl.example=3 bl.example=4", "", ""},
		{"an allow list makes good", "192.0.2.6", Rules{RefuseAt: 3}, "bl.example=3 allow.example=-4", -1, "bl.example=3 allow.example=-4", "", ""},
		{"an answer that is no answer", "192.0.2.5", Rules{RefuseAt: 1}, "bl.example=3", 0, "", "", ""},
		{"IPv6", "2001:db8::8", Rules{RefuseAt: 3}, "bl.example=3", 3, "bl.example=3", "",
			`550 5.7.1 Your address 2001:db8::8 is listed by bl.example: score 3: bl.example=3`},
		{"IPv4 in IPv6", "::ffff:192.0.2.7", Rules{RefuseAt: 4}, "bl.example=3", 3, "bl.example=3", "", ""},
		{"a list that is unreachable", "192.0.2.7", Rules{RefuseAt: 1}, "nowhere.test=3", 0, "", "", ""},
		{"a list that has all", "192.0.2.7", Rules{RefuseAt: 1}, "dead.example=3", 0, "", "", ""},
		{"a list that does not want us", "192.0.2.7", Rules{RefuseAt: 1}, "refusing.example=3", 0, "", "", ""},
		{"a name", "192.0.2.3", Rules{RefuseAt: 1, NoName: 1}, "", 0, "", "mail.far.example", ""},
		{"a name and a list", "192.0.2.3", Rules{RefuseAt: 1}, "allow.example=-1", -1, "allow.example=-1", "mail.far.example", ""},
		{"no name", "192.0.2.9", Rules{RefuseAt: 2, NoName: 2}, "", 2, "no_name=2", "",
			"550 5.7.25 Your address 192.0.2.9 has no name that leads back to it: score 2: no_name=2"},
		{"a name that is not true", "192.0.2.4", Rules{RefuseAt: 2, NoName: 2}, "", 2, "no_name=2", "",
			"550 5.7.25 Your address 192.0.2.4 has no name that leads back to it: score 2: no_name=2"},
		{"no name, and no matter", "192.0.2.9", Rules{RefuseAt: 1}, "bl.example=3", 0, "", "", ""},
		{"a name that cannot be checked", "192.0.2.6", Rules{RefuseAt: 1, NoName: 2}, "", 0, "", "", ""},
		{"the missing name tips it", "192.0.2.4", Rules{RefuseAt: 3, NoName: 1}, "second.example=2", 3, "second.example=2 no_name=1", "",
			"550 5.7.25 Your address 192.0.2.4 has no name that leads back to it: score 3: second.example=2 no_name=1"},
		{"the list is enough", "192.0.2.4", Rules{RefuseAt: 2, NoName: 1}, "second.example=2", 3, "second.example=2 no_name=1", "",
			"550 5.7.1 Your address 192.0.2.4 is listed by second.example: score 3: second.example=2 no_name=1"},
		{"an address that is not known", "", Rules{RefuseAt: 1, NoName: 2}, "dead.example=3", 0, "", "", ""},
		{"nothing to look up", "192.0.2.7", Rules{RefuseAt: 1}, "", 0, "", "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newWorld(t, tt.rules, strings.Fields(tt.lists)...).begin(t, tt.ip)
			v := c.Verdict()
			if v.Score != tt.score || v.Text != tt.text || v.Name != tt.client || said(v.Refusal) != tt.refusal {
				t.Errorf("got  %d %q %q %q\nwant %d %q %q %q", v.Score, v.Text, v.Name, said(v.Refusal), tt.score, tt.text, tt.client, tt.refusal)
			}
			for _, role := range []string{"postmaster@own.example", "ABUSE@own.example", "Postmaster@back.example"} {
				if err := c.Refuse("x.example", netip.Addr{}, path(role)); err != nil {
					t.Errorf("%s: %v", role, err)
				}
			}
			if got := said(c.Refuse("x.example", netip.Addr{}, path("bob@own.example"))); got != tt.refusal {
				t.Errorf("at RCPT: got %q, want %q", got, tt.refusal)
			}
		})
	}
}

// TestProblems: a list that is of no use is told once, and again when it lasts.
func TestProblems(t *testing.T) {
	now := stop(t)
	w := newWorld(t, Rules{RefuseAt: 1}, "dead.example=3", "refusing.example=3")
	for range 3 {
		w.begin(t, "192.0.2.7").Verdict()
	}
	if got := w.told(); strings.Count(got, "\n") != 1 || !strings.Contains(got, "dead.example has every address") ||
		!strings.Contains(got, "refusing.example does not answer our questions, it says 127.255.255.254") {
		t.Errorf("told %q", got)
	}
	now.set(began.Add(time.Hour))
	w.begin(t, "192.0.2.7").Verdict()
	if got := w.told(); strings.Count(got, "\n") != 3 {
		t.Errorf("after an hour: told %q", got)
	}
}

// TestBounds: look-ups run at once, not more than so many of all clients, and end when their client leaves.
func TestBounds(t *testing.T) {
	var mu sync.Mutex
	running, most := 0, 0
	full := make(chan struct{})
	fill := sync.OnceFunc(func() { close(full) })
	r := Rules{RefuseAt: 1}
	for i := range 20 {
		r.Lists = append(r.Lists, List{Domain: fmt.Sprintf("l%d.example", i), Weight: 1})
	}
	wait := func(ctx context.Context) {
		mu.Lock()
		running++
		if most = max(most, running); running == maxLookups {
			fill()
		}
		mu.Unlock()
		<-ctx.Done()
		mu.Lock()
		running--
		mu.Unlock()
	}
	r.Listed = func(ctx context.Context, _ netip.Addr, _ string) ([]netip.Addr, error) {
		wait(ctx)
		return nil, ctx.Err()
	}
	r.ClientName = func(ctx context.Context, _ netip.Addr) (string, error) { wait(ctx); return "", ctx.Err() }
	s := New(r)
	var clients []*Client
	for range 10 { // 21 look-ups each
		clients = append(clients, s.Begin(netip.MustParseAddr("192.0.2.7")))
	}
	<-full
	for _, c := range clients {
		c.End()
	}
	for _, c := range clients {
		if v := c.Verdict(); v.Score != 0 || v.Refusal != nil {
			t.Errorf("got %+v", v)
		}
	}
	if most != maxLookups || running != 0 || len(s.slots) != 0 {
		t.Errorf("%d at once, %d left, %d slots taken", most, running, len(s.slots))
	}
}

// TestBug: a bug in a look-up costs that look-up.
func TestBug(t *testing.T) {
	var told []error
	s := New(Rules{RefuseAt: 1, NoName: 1, Problem: func(err error) { told = append(told, err) },
		ClientName: func(context.Context, netip.Addr) (string, error) { panic("oh") }})
	if v := s.Begin(netip.MustParseAddr("192.0.2.7")).Verdict(); v.Score != 0 || len(told) != 1 || !strings.Contains(told[0].Error(), "bug") {
		t.Errorf("got %+v, told %v", v, told)
	}
}

func TestOwnName(t *testing.T) {
	local := netip.MustParseAddr("192.0.2.25")
	for _, tt := range []struct {
		helo  string
		local netip.Addr
		want  bool
	}{
		{"mail.own.example", local, true},
		{"MAIL.own.example.", local, true},
		{"own.example", local, false},
		{"x.mail.own.example", local, false},
		{"[192.0.2.25]", local, true},
		{"192.0.2.25", local, true},
		{"[IPv6:::ffff:192.0.2.25]", local, true},
		{"[192.0.2.26]", local, false},
		{"[192.0.2.25]", netip.Addr{}, false},
		{"[IPv6:2001:db8::25]", netip.MustParseAddr("2001:db8::25"), true},
		{"localhost", local, false},
		{"[]", local, false},
		{"?", local, false},
	} {
		for _, on := range []bool{true, false} {
			c := newWorld(t, Rules{OwnName: on}).begin(t, "192.0.2.7")
			want := ""
			if tt.want && on {
				want = "550 5.7.1 You call yourself " + tt.helo + ", which is this host"
			}
			if got := said(c.Refuse(tt.helo, tt.local, path("bob@own.example"))); got != want {
				t.Errorf("%s at %s, %v: got %q, want %q", tt.helo, tt.local, on, got, want)
			}
			if err := c.Refuse(tt.helo, tt.local, path("postmaster@own.example")); err != nil {
				t.Errorf("%s to postmaster: %v", tt.helo, err)
			}
		}
	}
}

func TestDelay(t *testing.T) {
	now := stop(t)
	w := newWorld(t, Rules{GreetDelay: 6 * time.Second})
	check := func(ip string, want time.Duration) {
		t.Helper()
		if got := w.begin(t, ip).Delay(); got != want {
			t.Errorf("%q: got %v, want %v", ip, got, want)
		}
	}
	check("192.0.2.7", 6*time.Second)
	w.begin(t, "192.0.2.7").Waited()
	w.begin(t, "2001:db8::8").Waited()
	w.begin(t, "").Waited()
	check("192.0.2.7", 0)
	check("::ffff:192.0.2.7", 0)
	check("192.0.2.8", 6*time.Second)
	check("2001:db8::9", 0)
	check("2001:db8:0:1::9", 6*time.Second)
	check("", 0)
	now.set(began.Add(quietFor + 2*time.Second))
	check("192.0.2.7", 6*time.Second)
	if got := newWorld(t, Rules{}).begin(t, "192.0.2.7").Delay(); got != 0 {
		t.Errorf("switched off: got %v", got)
	}
	if got := said(w.begin(t, "192.0.2.7").Spoke([]byte("EHLO \xff\r\n"))); got != `521 5.5.1 Protocol error, you spoke before the greeting: spoke before the greeting: "EHLO \xff\r\n"` {
		t.Errorf("got %s", got)
	}
}

// TestNobody: a client that is not judged passes everywhere.
func TestNobody(t *testing.T) {
	var c *Client
	c.End()
	c.Waited()
	c.Accepted()
	p := path("bob@own.example")
	if c.Delay() != 0 || c.Refuse("x", netip.Addr{}, p) != nil || c.Greylist(p, p) != nil || c.Verdict() != (Verdict{}) {
		t.Error("nobody is judged")
	}
}
