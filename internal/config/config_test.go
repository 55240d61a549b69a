package config

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestConnectionsPerNetwork: it follows what one client may have, unless it is named.
func TestConnectionsPerNetwork(t *testing.T) {
	for in, want := range map[string]int{"connections_per_client = 7": 14, "connections_per_network = 0": 0, "connections_per_client = 7\nconnections_per_network = 3": 3} {
		c, err := Parse(strings.NewReader("hostname = \"mail.example.org\"\n[limits]\n"+in), "x")
		if err != nil || c.Limits.ConnectionsPerNetwork != want {
			t.Errorf("%q: %d, %v; want %d", in, c.Limits.ConnectionsPerNetwork, err, want)
		}
	}
}

func TestDefaults(t *testing.T) {
	c, err := Parse(strings.NewReader(`hostname = "mail.example.org"`), "x")
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Domains) != 1 || Strings(c.Domains)[0] != "mail.example.org" {
		t.Errorf("domains %v", c.Domains)
	}
	if got := time.Duration(c.Queue.Lifetime); got != 5*24*time.Hour {
		t.Errorf("lifetime %v", got)
	}
	if got := c.Limits.ConnectionsPerNetwork; got != 100 {
		t.Errorf("connections of a network %d", got)
	}
}

func TestErrors(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"hostnam = \"x\"", `f:1:1: unknown key "hostnam"`},
		{"\n[queue]\nlifetim = \"5d\"", `f:3:1: unknown key "queue.lifetim"`},
		{"spool = 3", "f:1:9: spool: this key takes no integer"},
		{"spool = \"queue\"", "f:1:9: spool: \"queue\" is not an absolute path"},
		{"\n[queue]\nlifetime = \"5 days\"", "f:3:12: queue.lifetime: "},
		{"[routes]\n\"*\" = \"smpt://x\"", "f:2:7: routes.*: "},
		{"[smtp]\ntls = \"maybe\"", "f:2:7: smtp.tls: "},
		{"[routes]\n\"*\" = [\"smtp://a\", \"smpt://x\"]", "f:2:20: routes.*: destination \"smpt://x\": unknown scheme"},
		{"[routes]\n\"*\" = [\n\"smtp://a\",\n[\"smtp://b\"]]", "f:2:7: routes.*: "},
		{"[routes]\n\"*\" = []", "f:2:7: routes.*: the list has no destination"},
		{"[routes]\n\"*\" = [" + strings.Repeat("\"mx:\",", 11) + "]", "f:2:7: routes.*: the list has more than 10 "},
		{"[routes]\n\"*\" = [\"smtp://a\", \"pipe:/x\"]", "f:2:7: routes.*: \"pipe:/x\" cannot stand in a list"},
		{"[routes]\n\"a b\" = \"mx:\"", "f:2:9: routes.a b: the key is neither"},
		{"[routes]\n\".\" = \"mx:\"", "f:2:7: routes..: the key is neither"},
		{"[routes]\n\"a.example\" = \"mx:\"\n\"A.example\" = \"mx:\"", "f:"},
		{"relay_networks = [\"10.0.0.0\"]", "f:1:19: relay_networks: \"10.0.0.0\" is not a network: write ADDRESS/BITS; "},
		{"[tls]\nplaintext_login = [\"10.0.0.1/8x\"]", "f:2:20: tls.plaintext_login: \"10.0.0.1/8x\" is not a network: write "},
		{"relay_networks = [\"::ffff:192.0.2.0/120\"]", "f:1:18: relay_networks: ::ffff:192.0.2.0/120 is IPv4"},
		{"[smtpd]\nproxy_networks = [\"::ffff:192.0.2.1/128\"]", "f:2:18: smtpd.proxy_networks: "},
		{"[screen]\ngreylist = -5", "f:2:12: screen.greylist: a duration has a unit"},
		{"domains = [\"a..b\"]", "f:1:12: "},
		{"[limits]\nmessage_size = \"50MB\"", "f:2:16: limits.message_size: "},
		{"[limits]\nrecipients = 5", "f:2:14: limits.recipients: "},
		{"[queue]\nlifetime = 5", "f:2:12: queue.lifetime: a duration has a unit"},
		{"[queue]\nretry = [300, \"4h\"]", "f:2:9: queue.retry: a duration has a unit"},
		{"users = \"nobody\"", "f:1:9: users: "},
		{"[tls]\ncertificate = []\nkey = []", "f:2:15: tls.certificate: 1 to "},
		{"[tls]\ncertificate = [\"/a\", \"/b\"]\nkey = \"/k\"", "f:3:7: tls.key: there are 1 keys and 2 certificates"},
		{"[tls]\nkey = [1]", "f:2:8: tls.key"},
		{"[tls]\nsession_tickets = \"no\"", "f:2:19: tls.session_tickets: "},
		{"[smtpd]\nbare_newline = \"ignore\"", "f:2:16: smtpd.bare_newline: "},
		{"[auth]\ntoken_check = \"check me\"", "f:2:15: auth.token_check: \"check\" is not an absolute path"},
		{"[auth]\ntoken_check = \"/check 'me\"", "f:2:15: auth.token_check: a quote is not closed"},
		{"[tls]\nclient_ca = \"ca.pem\"", "f:2:13: tls.client_ca: \"ca.pem\" is not"},
		{"[queue]\nretry = [\"5m\"]", "f:2:9: queue.retry: "},
		{"[queue]\nbounce_lifetime = \"0s\"", "f:2:19: queue.bounce_lifetime: "},
		{"[screen]\ngreet_delay = \"2m\"", "f:2:15: screen.greet_delay: "},
		{"[screen]\ngreylist = \"2d\"", "f:2:12: screen.greylist: "},
		{"[screen]\nrefuse_at = 0", "f:2:13: screen.refuse_at: "},
		{"[screen]\nno_name = -1", "f:2:11: screen.no_name: "},
		{"[screen]\ndns_lists = [\"bl\"]", "f:2:14: screen.dns_lists: \"bl\": the list has no domain"},
		{"[screen]\ndns_lists = [\"a.example\",\n\"bl.example=x\"]", "f:3:1: screen.dns_lists: \"bl.example=x\": the weight"},
		{"[screen]\ndns_lists = [" + strings.Repeat("\"a.example\",", 21) + "]", "f:2:13: screen.dns_lists: the list has more than 20 "},
		{"x = ", "f:1:"},
	} {
		_, err := Parse(strings.NewReader(tt.in), "f")
		if err == nil || !strings.HasPrefix(err.Error(), tt.want) {
			t.Errorf("%q: got %v, want %q", tt.in, err, tt.want)
		} else if strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: more than one line: %v", tt.in, err)
		}
	}
}

func TestRoutes(t *testing.T) {
	c, err := Parse(strings.NewReader(`hostname = "mail.example.org"
[routes]
"Example.NET" = "lmtp:///run/l"
".BÜCHER.example" = ["smtps://u@a.example:4650", "smtp://[::1]"]
"*" = [
  "smtp://a.example", # the first
  "mx:",
]`), "x")
	if err != nil {
		t.Fatal(err)
	}
	table := c.RouteTable()
	for domain, want := range map[string]string{"example.net": "[lmtp:///run/l]", ".xn--bcher-kva.example": "[smtps://u@a.example:4650 smtp://[::1]]", "*": "[smtp://a.example mx:]"} {
		if got := fmt.Sprint(table[domain]); got != want || len(table) != 3 {
			t.Errorf("%s: got %s, want %s", domain, got, want)
		}
	}
}

func TestParseDuration(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want time.Duration
	}{{"30s", 30 * time.Second}, {"1h30m", 90 * time.Minute}, {"5d", 120 * time.Hour}, {"0s", 0}, {"5", -1}, {"", -1}, {"-5s", -1}, {"99999999999999999999d", -1}, {"36501d", -1}} {
		got, err := ParseDuration(tt.in)
		if err != nil {
			got = -1
		}
		if got != tt.want {
			t.Errorf("%q: got %v, want %v", tt.in, got, tt.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("hostname = \"h.example\"\n[routes]\n\"*\" = \"smtp://[::1]:25\"\n[limits]\nmessage_size = \"1GiB\"")
	f.Fuzz(func(t *testing.T, s string) {
		if c, err := Parse(strings.NewReader(s), "f"); err == nil && c.Hostname == "" {
			t.Fatal("no hostname")
		}
	})
}

func TestFullName(t *testing.T) {
	for _, c := range []struct{ hosts, want string }{
		{"", "mail"},
		{"127.0.0.1 localhost\n192.0.2.1 mail mail.example.org # mail.comment\n192.0.2.2 mail.other", "mail.example.org"},
		{"# 192.0.2.1 mail.comment\n192.0.2.1\tmailer.example mail\n", "mail"},
	} {
		if got := fullName("mail", c.hosts); got != c.want {
			t.Errorf("%q: got %q, want %q", c.hosts, got, c.want)
		}
	}
}

func FuzzFullName(f *testing.F) {
	f.Add("mail", "127.0.0.1 localhost\n192.0.2.1 mail mail.example.org # mail.comment\n")
	f.Fuzz(func(t *testing.T, name, hosts string) {
		got := fullName(name, hosts)
		if got != name && (!strings.HasPrefix(got, name+".") || !strings.Contains(hosts, got) || strings.ContainsAny(got, " \t\r\n#")) {
			t.Errorf("%q in %q gives %q", name, hosts, got)
		}
	})
}
