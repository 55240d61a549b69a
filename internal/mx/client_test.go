package mx

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// clients is what the DNS says of clients: lists, and names forth and back.
const clients = `
$ORIGIN bl.example.
@           IN SOA ns hostmaster 1 3600 600 86400 120
7.2.0.192   IN A 127.0.0.2
7.2.0.192   IN A 127.0.0.10
7.2.0.192   IN TXT "see " "https://bl.example/?a=\"192.0.2.7\"\010\255"
7.2.0.192   IN TXT "another"
9.2.0.192   IN TXT "a text is no listing"
11.2.0.192  IN CNAME 7.2.0.192
8.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2 IN A 127.0.0.3
$ORIGIN in-addr.arpa.
@           IN SOA ns hostmaster 1 3600 600 86400 120
7.2.0.192   IN PTR mail.far.example.
8.2.0.192   IN PTR liar.far.example.
10.2.0.192  IN PTR liar.far.example.
10.2.0.192  IN PTR Mail2.Far.example.
12.2.0.192  IN PTR localhost.
13.2.0.192  IN PTR 192.0.2.13.
14.2.0.192  IN PTR a\010b.far.example.
15.2.0.192  IN CNAME 15.sub.15.2.0.192
15.sub.15.2.0.192 IN PTR mail15.far.example.
16.2.0.192  IN PTR out.elsewhere.example.
17.2.0.192  IN PTR v6.far.example.
20.2.0.192  IN PTR n1.far.example.
20.2.0.192  IN PTR n2.far.example.
20.2.0.192  IN PTR n3.far.example.
20.2.0.192  IN PTR n4.far.example.
20.2.0.192  IN PTR n5.far.example.
20.2.0.192  IN PTR mail20.far.example.
$ORIGIN ip6.arpa.
@           IN SOA ns hostmaster 1 3600 600 86400 120
8.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2 IN PTR v6.far.example.
20.2.0.192  IN PTR n1.far.example.
20.2.0.192  IN PTR n2.far.example.
20.2.0.192  IN PTR n3.far.example.
20.2.0.192  IN PTR n4.far.example.
20.2.0.192  IN PTR n5.far.example.
20.2.0.192  IN PTR mail20.far.example.
$ORIGIN ip6.arpa.
@           IN SOA ns hostmaster 1 3600 600 86400 120
8.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2 IN PTR v6.far.example.
$ORIGIN far.example.
@           IN SOA ns hostmaster 1 3600 600 86400 120
mail        IN A 192.0.2.99
mail        IN A 192.0.2.7
mail2       IN A 192.0.2.10
mail15      IN CNAME real15
real15      IN A 192.0.2.15
mail20      IN A 192.0.2.20
liar        IN A 192.0.2.99
v6          IN AAAA 2001:db8::8
v6          IN A 192.0.2.18
localhost   IN A 192.0.2.12
`

func TestListed(t *testing.T) {
	r := resolver(t, Options{Servers: []string{server(t, clients)}})
	long := strings.Repeat("x.", 120) + "example"
	for _, tt := range []struct{ ip, list, want, text string }{
		{"192.0.2.7", "bl.example", "127.0.0.2 127.0.0.10", `see https://bl.example/?a=\"192.0.2.7\"\010\255`},
		{"::ffff:192.0.2.7", "BL.example.", "127.0.0.2 127.0.0.10", `see https://bl.example/?a=\"192.0.2.7\"\010\255`},
		{"192.0.2.8", "bl.example", "", ""},
		{"192.0.2.9", "bl.example", "", "a text is no listing"},
		{"192.0.2.11", "bl.example", "127.0.0.2 127.0.0.10", `see https://bl.example/?a=\"192.0.2.7\"\010\255`},
		{"2001:db8::8", "bl.example", "127.0.0.3", ""},
		{"2001:db8::9", "bl.example", "", ""},
		{"192.0.2.7", "elsewhere.example", "error", "error"},
		{"192.0.2.7", long, "error", "error"},
	} {
		ip := netip.MustParseAddr(tt.ip)
		addrs, err := r.Listed(context.Background(), ip, tt.list)
		var words []string
		for _, a := range addrs {
			words = append(words, a.String())
		}
		got := strings.Join(words, " ")
		if err != nil {
			got = "error"
		}
		if got != tt.want {
			t.Errorf("%s in %.20s: got %s (%v), want %s", tt.ip, tt.list, got, err, tt.want)
		}
		text, err := r.ListText(context.Background(), ip, tt.list)
		if err != nil {
			text = "error"
		}
		if text != tt.text {
			t.Errorf("text of %s in %.20s: got %s (%v), want %s", tt.ip, tt.list, text, err, tt.text)
		}
	}
	if _, err := r.Listed(context.Background(), netip.Addr{}, "bl.example"); !errors.Is(err, ErrBadName) {
		t.Errorf("no address: got %v", err)
	}
}

func TestClientName(t *testing.T) {
	r := resolver(t, Options{Servers: []string{server(t, clients)}})
	for _, tt := range []struct{ ip, want string }{
		{"192.0.2.7", "mail.far.example"},
		{"::ffff:192.0.2.7", "mail.far.example"},
		{"192.0.2.8", ""},                   // the name has another address
		{"192.0.2.9", ""},                   // there is none
		{"192.0.2.10", "mail2.far.example"}, // of two the one that is true
		{"192.0.2.12", ""},
		{"192.0.2.13", ""},
		{"192.0.2.14", ""},
		{"192.0.2.15", "mail15.far.example"}, // RFC 2317
		{"192.0.2.16", "error"},              // the name cannot be looked up: perhaps it is true
		{"192.0.2.17", ""},                   // of the other family
		{"192.0.2.20", ""},                   // one name in a crowd
		{"2001:db8::8", "v6.far.example"},
		{"2001:db8::9", ""},
	} {
		got, err := r.ClientName(context.Background(), netip.MustParseAddr(tt.ip))
		if err != nil {
			got = "error"
		}
		if got != tt.want {
			t.Errorf("%s: got %q (%v), want %q", tt.ip, got, err, tt.want)
		}
	}
	if _, err := r.ClientName(context.Background(), netip.Addr{}); err == nil {
		t.Error("no address: no error")
	}
}

// TestClientGone: a look-up ends with the client that it is for, not with its time.
func TestClientGone(t *testing.T) {
	asked := make(chan bool, 10)
	silent := newScript(t, func(*dns.Msg, bool) [][]byte { asked <- true; return nil })
	r := resolver(t, Options{Servers: []string{silent.addr}, Timeout: time.Hour})
	ctx, cancel := context.WithCancel(context.Background())
	go func() { <-asked; cancel() }()
	if _, err := r.Listed(ctx, netip.MustParseAddr("192.0.2.7"), "bl.example"); err == nil {
		t.Error("no error")
	}
}
