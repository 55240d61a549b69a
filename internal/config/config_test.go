package config

import (
	"strings"
	"testing"
	"time"
)

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
}

func TestErrors(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"hostnam = \"x\"", `f:1:1: unknown key "hostnam"`},
		{"\n[queue]\nlifetim = \"5d\"", `f:3:1: unknown key "queue.lifetim"`},
		{"spool = 3", "f:1:9: spool: "},
		{"spool = \"queue\"", "f:1:9: spool: \"queue\" is not an absolute path"},
		{"\n[queue]\nlifetime = \"5 days\"", "f:3:12: queue.lifetime: "},
		{"[routes]\n\"*\" = \"smpt://x\"", "f:2:7: routes.*: "},
		{"[smtp]\ntls = \"maybe\"", "f:2:7: smtp.tls: "},
		{"relay_networks = [\"10.0.0.0\"]", "f:1:19: "},
		{"domains = [\"a..b\"]", "f:1:12: "},
		{"[limits]\nmessage_size = \"50MB\"", "f:2:16: limits.message_size: "},
		{"[limits]\nrecipients = 5", "f:2:14: limits.recipients: "},
		{"users = \"nobody\"", "f:1:9: users: "},
		{"[queue]\nretry = [\"5m\"]", "f:2:9: queue.retry: "},
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
