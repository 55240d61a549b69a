package transport

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"testing"

	"github.com/postel-mail/postel/internal/address"
	"github.com/postel-mail/postel/internal/destination"
	"github.com/postel-mail/postel/internal/envelope"
	"github.com/postel-mail/postel/internal/mx"
	"github.com/postel-mail/postel/internal/smtpclient"
	"github.com/postel-mail/postel/internal/status"
)

// Parts of scripts.
const (
	hello = `
		S: 220 mx.example ready
		C: EHLO me.example
		S| "250-mx.example\r\n250 PIPELINING\r\n"
		`
	hello2 = `
		C: EHLO me.example
		S| "250-mx.example\r\n250 PIPELINING\r\n"
		`
	mail2 = `
		C: MAIL FROM:<a@a.example>
		C: RCPT TO:<b@b.example>
		C: RCPT TO:<c@b.example>
		C: DATA
		`
	taken = `
		S| "250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n"
		BODY
		S: 250 2.0.0 queued
		`
	bye = `
		C: QUIT
		S: 221 bye`
	startTLS = `
		S: 220 hub.example ready
		C: EHLO me.example
		S| "250-hub.example\r\n250 STARTTLS\r\n"
		C: STARTTLS
		S: 220 go
		`
	take = hello + mail2 + taken + bye
)

func TestMailHosts(t *testing.T) {
	atOne := strings.Repeat("\n250 2.0.0 queued (remote) at one[127.0.0.1]:PORT", 2)[1:]
	atTwo := strings.Repeat("\n250 2.0.0 queued (remote) at two[127.0.0.2]:PORT", 2)[1:]
	tests := []struct {
		name    string
		scripts map[string][]string
		mx      string
		addrs   map[string][]string
		edit    func(*Transport)
		rcpts   []int
		want    string
		visited string
	}{
		{name: "the best host", mx: "one two", scripts: map[string][]string{"127.0.0.1": {take}, "127.0.0.2": nil},
			want: atOne, visited: "127.0.0.1"},
		{name: "EHLO refused for now", mx: "one two", scripts: map[string][]string{"127.0.0.1": {"S: 220 mx.example\nC: EHLO me.example\nS: 451 4.3.2 busy"}, "127.0.0.2": {take}},
			want: atTwo, visited: "127.0.0.1 127.0.0.2"},
		{name: "EHLO refused, session ended", mx: "one two", scripts: map[string][]string{"127.0.0.1": {"S: 220 mx.example\nC: EHLO me.example\nS: 421 4.7.0 too many"}, "127.0.0.2": {take}},
			want: atTwo, visited: "127.0.0.1 127.0.0.2"},
		{name: "EHLO and HELO refused for good", mx: "one two", scripts: map[string][]string{"127.0.0.1": {"S: 220 mx.example\nC: EHLO me.example\nS: 550 no\nC: HELO me.example\nS: 550 no"}, "127.0.0.2": {take}},
			want: atTwo, visited: "127.0.0.1 127.0.0.2"},
		{name: "greeting refused for now", mx: "one two", scripts: map[string][]string{"127.0.0.1": {"S: 450 later"}, "127.0.0.2": {take}},
			want: atTwo, visited: "127.0.0.1 127.0.0.2"},
		{name: "no SMTP", mx: "one two", scripts: map[string][]string{"127.0.0.1": {"S: SSH-2.0-x"}, "127.0.0.2": {take}},
			want: atTwo, visited: "127.0.0.1 127.0.0.2"},
		{name: "STARTTLS broken, then the clear text too", mx: "one two", scripts: map[string][]string{"127.0.0.1": {startTLS + "CLOSE", "CLOSE"}, "127.0.0.2": {take}},
			want: atTwo, visited: "127.0.0.1 127.0.0.1 127.0.0.2"},
		{name: "disk full", mx: "one two", scripts: map[string][]string{"127.0.0.1": {hello + mail2 + `
			S| "452 4.3.1 disk full\r\n503 no\r\n503 no\r\n503 no\r\n"` + bye}, "127.0.0.2": {take}},
			want: atTwo, visited: "127.0.0.1 127.0.0.2"},
		{name: "disk full, said without an enhanced code", mx: "one two", scripts: map[string][]string{"127.0.0.1": {hello + mail2 + `
			S| "452 disk full\r\n503 no\r\n503 no\r\n503 no\r\n"` + bye}, "127.0.0.2": {take}},
			want: atTwo, visited: "127.0.0.1 127.0.0.2"},
		{name: "disk full at the end of the message", mx: "one two", scripts: map[string][]string{"127.0.0.1": {hello + mail2 + `
			S| "250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n"
			BODY
			S: 451 4.3.0 filter is down` + bye}, "127.0.0.2": {take}},
			want: atTwo, visited: "127.0.0.1 127.0.0.2"},
		{name: "disk full for one recipient", mx: "one two", scripts: map[string][]string{"127.0.0.1": {hello + mail2 + `
			S| "250 ok\r\n250 ok\r\n450 4.3.2 not now\r\n354 go\r\n"
			BODY
			S: 250 2.0.0 queued` + bye}, "127.0.0.2": {hello + `
			C: MAIL FROM:<a@a.example>
			C: RCPT TO:<c@b.example>
			C: DATA
			S| "250 ok\r\n250 ok\r\n354 go\r\n"
			BODY
			S: 250 2.0.0 queued` + bye}},
			want: "250 2.0.0 queued (remote) at one[127.0.0.1]:PORT\n250 2.0.0 queued (remote) at two[127.0.0.2]:PORT", visited: "127.0.0.1 127.0.0.2"},
		{name: "disk full, and the next host is down", mx: "one three", rcpts: []int{0}, scripts: map[string][]string{"127.0.0.1": {hello + `
			C: MAIL FROM:<a@a.example>
			C: RCPT TO:<b@b.example>
			C: DATA
			S| "452 4.3.1 disk full\r\n503 no\r\n503 no\r\n"` + bye}},
			want: "452 4.3.1 disk full (remote) at one[127.0.0.1]:PORT", visited: "127.0.0.1"},
		{name: "a sender's refusal is the answer", mx: "one two", rcpts: []int{0}, scripts: map[string][]string{"127.0.0.1": {hello + `
			C: MAIL FROM:<a@a.example>
			C: RCPT TO:<b@b.example>
			C: DATA
			S| "450 4.1.8 who?\r\n503 no\r\n503 no\r\n"` + bye}, "127.0.0.2": nil},
			want: "450 4.1.8 who? (remote) at one[127.0.0.1]:PORT", visited: "127.0.0.1"},
		{name: "equal hosts", mx: "three,one two", scripts: map[string][]string{"127.0.0.1": {take}, "127.0.0.2": nil},
			want: atOne, visited: "127.0.0.1"},
		{name: "null MX", mx: ".", rcpts: []int{0}, want: "556 5.1.10 Domain b.example takes no mail"},
		{name: "the second address of a host", mx: "many", scripts: map[string][]string{"127.0.0.1": {take}},
			addrs: map[string][]string{"many": {"127.0.0.3", "127.0.0.1"}},
			want:  strings.ReplaceAll(atOne, "one", "many"), visited: "127.0.0.1"},
		{name: "connection refused", mx: "three one", scripts: map[string][]string{"127.0.0.1": {take}},
			want: atOne, visited: "127.0.0.1"},
		{name: "greeting refused", mx: "one two", scripts: map[string][]string{"127.0.0.1": {"S: 554 5.7.1 no"}, "127.0.0.2": {take}},
			want: atTwo, visited: "127.0.0.1 127.0.0.2"},
		{name: "greeting refused everywhere", mx: "one two", scripts: map[string][]string{"127.0.0.1": {"S: 554 5.7.1 no"}, "127.0.0.2": {"S: 421 4.3.2 busy"}},
			want: "421 4.3.2 busy at two[127.0.0.2]:PORT\n421 4.3.2 busy at two[127.0.0.2]:PORT", visited: "127.0.0.1 127.0.0.2"},
		{name: "a recipient's refusal is the answer", mx: "one two", scripts: map[string][]string{"127.0.0.1": {hello + mail2 + `
			S| "250 ok\r\n550 5.1.1 who?\r\n450 4.2.1 later\r\n503 no\r\n"` + bye}, "127.0.0.2": nil},
			want: "550 5.1.1 who? (remote) at one[127.0.0.1]:PORT\n450 4.2.1 later (remote) at one[127.0.0.1]:PORT", visited: "127.0.0.1"},
		{name: "closed in the envelope", mx: "one two", scripts: map[string][]string{"127.0.0.1": {hello + mail2 + `
			S| "250 ok\r\n550 5.1.1 who?\r\n421 4.3.2 closing\r\n"
			CLOSE`}, "127.0.0.2": {hello + `
			C: MAIL FROM:<a@a.example>
			C: RCPT TO:<c@b.example>
			C: DATA
			S| "250 ok\r\n250 ok\r\n354 go\r\n"
			BODY
			S: 250 2.0.0 queued` + bye}},
			want: "550 5.1.1 who? (remote) at one[127.0.0.1]:PORT\n250 2.0.0 queued (remote) at two[127.0.0.2]:PORT", visited: "127.0.0.1 127.0.0.2"},
		{name: "closed after the message", mx: "one two", scripts: map[string][]string{"127.0.0.1": {hello + mail2 + `
			S| "250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n"
			BODY
			CLOSE`}, "127.0.0.2": nil},
			want: strings.Repeat("\n451 4.4.2 Connection lost at end of data; it may arrive twice at one[127.0.0.1]:PORT", 2)[1:], visited: "127.0.0.1"},
		{name: "only two sessions", mx: "one two four", scripts: map[string][]string{"127.0.0.1": {hello + mail2 + "CLOSE"}, "127.0.0.2": {hello + mail2 + "CLOSE"}, "127.0.0.4": nil},
			want: strings.Repeat("\n451 4.4.2 Connection lost at MAIL at two[127.0.0.2]:PORT", 2)[1:], visited: "127.0.0.1 127.0.0.2"},
		{name: "only five addresses", mx: "many one", scripts: map[string][]string{"127.0.0.1": nil}, rcpts: []int{1},
			addrs: map[string][]string{"many": {"127.0.1.1", "127.0.1.2", "127.0.1.3", "127.0.1.4", "127.0.1.5"}},
			want:  "451 4.4.1 Cannot connect to many[127.0.1.5]:PORT at many[127.0.1.5]:PORT"},
		{name: "only ten names", mx: strings.Repeat("none ", 10) + "one", scripts: map[string][]string{"127.0.0.1": nil}, rcpts: []int{1},
			want: "451 4.4.4 None of the first 10 mail hosts has an address"},
		{name: "all names", mx: strings.Repeat("none ", 10), rcpts: []int{1}, want: "550 5.4.4 Mail host none has no address"},
		{name: "no such domain", mx: "", scripts: nil, rcpts: []int{1}, want: "550 5.1.2 Domain b.example does not exist"},
		{name: "DNS fails", mx: "!", scripts: nil, rcpts: []int{1}, want: "451 4.4.3 DNS look-up failed"},
		{name: "a host that may come back outweighs one that does not exist", mx: "broken none", rcpts: []int{1},
			addrs: map[string][]string{"broken": {"!"}}, want: "451 4.4.3 DNS look-up failed"},
		{name: "a host that does not exist", mx: "none one", scripts: map[string][]string{"127.0.0.1": {take}},
			want: atOne, visited: "127.0.0.1"},
		{name: "own name is the best", mx: "me.example one", scripts: map[string][]string{"127.0.0.1": nil}, rcpts: []int{1},
			want: "554 5.4.6 Mail for b.example loops back to this host"},
		{name: "own name in the greeting", mx: "one two", rcpts: []int{1}, scripts: map[string][]string{"127.0.0.1": {strings.Replace(hello, "mx", "ME", 1) + bye}, "127.0.0.2": nil},
			want: "554 5.4.6 Mail for b.example loops back to this host at one[127.0.0.1]:PORT", visited: "127.0.0.1"},
		{name: "own name in the greeting of a worse host", mx: "three one", rcpts: []int{1}, scripts: map[string][]string{"127.0.0.1": {strings.Replace(hello, "mx", "ME", 1) + bye}},
			want: "451 4.4.1 Cannot connect to three[127.0.0.3]:PORT at three[127.0.0.3]:PORT", visited: "127.0.0.1"},
		{name: "loopback refused", mx: "one zero", rcpts: []int{1}, scripts: map[string][]string{"127.0.0.1": nil}, edit: func(t *Transport) { t.RefuseLoopback = true },
			addrs: map[string][]string{"one": {"127.0.0.1", "::1", "::ffff:127.0.0.1", "0.0.0.0", "::"}, "zero": {"224.0.0.1"}},
			want:  "451 4.4.4 Mail host zero has the address 224.0.0.1, to which no mail is sent"},
		{name: "speaks without being asked", mx: "one", rcpts: []int{1}, scripts: map[string][]string{"127.0.0.1": {`
			S: 220 mx.example ready
			C: EHLO me.example
			S| "250 mx.example\r\n250 ok\r\n250 ok\r\n250 ok\r\n"`}},
			want: "451 4.5.0 The server speaks without being asked at one[127.0.0.1]:PORT", visited: "127.0.0.1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := network(t, tt.scripts)
			if tt.mx != "" {
				h.mx["b.example"] = tt.mx
			}
			h.addrs = map[string][]string{"one": {"127.0.0.1"}, "two": {"127.0.0.2"}, "three": {"127.0.0.3"}, "four": {"127.0.0.4"}}
			for name, list := range tt.addrs {
				h.addrs[name] = list
			}
			tr := h.transport()
			if tt.edit != nil {
				tt.edit(tr)
			}
			r := all(enqueue(t, letter, "a@a.example", "b@b.example", "c@b.example"), dest(t, "mx:"))
			if tt.rcpts != nil {
				r.Rcpts = tt.rcpts
			}
			got := h.summary(tr.Attempt(context.Background(), r))
			tr.Close()
			if got != tt.want {
				t.Errorf("got\n%s\nwant\n%s", got, tt.want)
			}
			if v := strings.Join(h.connected, " "); v != tt.visited {
				t.Errorf("connected to %q, want %q", v, tt.visited)
			}
		})
	}
}

// TestTried: when no host takes the message, the cause names them all.
func TestTried(t *testing.T) {
	h := network(t, map[string][]string{"127.0.0.1": {"S: 554 5.7.1 no"}, "127.0.0.2": {hello + mail2 + "CLOSE"}})
	h.mx["b.example"] = "three broken one two none four"
	h.addrs = map[string][]string{"one": {"127.0.0.1"}, "two": {"127.0.0.2"}, "three": {"127.0.0.3"}, "broken": {"!"}, "four": {"127.0.0.4"}}
	cause := func(to string) string {
		t.Helper()
		tr := h.transport()
		got := tr.Attempt(context.Background(), all(enqueue(t, letter, "a@a.example", "b@b.example", "c@b.example"), dest(t, to)))
		tr.Close()
		if got[0].Err == nil || got[1].Err == nil || got[0].Err.Error() != got[1].Err.Error() {
			t.Fatalf("got %+v", got)
		}
		return strings.ReplaceAll(got[0].Err.Cause(), ":"+strconv.Itoa(h.port), ":PORT")
	}
	want := "transport: dial tcp 127.0.0.4:PORT: connect: connection refused; tried: three[127.0.0.3]:PORT: connect: connection refused; broken: 451 4.4.3 DNS look-up failed; " +
		"one[127.0.0.1]:PORT: 451 4.7.1 Greeting refused: 554 5.7.1 no; two[127.0.0.2]:PORT: 451 4.4.2 Connection lost at MAIL; " +
		"none: 550 5.4.4 Mail host none has no address; four[127.0.0.4]:PORT: connect: connection refused"
	if got := cause("mx:"); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	h.mx["b.example"] = strings.Repeat("is-not-there.example ", 10)
	if got := cause("mx:"); len(got) > maxTried+100 || !strings.HasSuffix(got, "...") {
		t.Errorf("got %d octets: %s", len(got), got)
	}
	if got := cause("smtp://three"); strings.Contains(got, "tried") {
		t.Errorf("one host: got %s", got)
	}
}

// TestOwnAddress has a domain whose mail host is this host under a name that it does not know.
func TestOwnAddress(t *testing.T) {
	list, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range list {
		p := netip.MustParsePrefix(a.String()).Addr()
		if p.IsLoopback() {
			continue
		}
		for _, hosts := range []string{"alias", "alias one", "one,alias", "one,two,alias"} { // the others are not better, and not to be asked
			h := network(t, map[string][]string{"127.0.0.1": nil, "127.0.0.2": nil})
			h.mx["b.example"] = hosts
			h.addrs = map[string][]string{"alias": {p.String()}, "one": {"127.0.0.1"}, "two": {"127.0.0.2"}}
			tr := h.transport()
			tr.RefuseLoopback = true
			got := tr.Attempt(context.Background(), all(enqueue(t, letter, "", "b@b.example"), dest(t, "mx:")))
			tr.Close()
			if got[0].Err == nil || got[0].Err.Enhanced != "5.4.6" || len(h.connected) != 0 || !strings.HasPrefix(got[0].Relay, "alias[") {
				t.Errorf("%s, %s: got %+v, connected to %v", p, hosts, got[0], h.connected)
			}
		}
	}
}

func TestFixedHosts(t *testing.T) {
	const port = ":PORT"
	login := func(_, user string) (smtpclient.Login, error) {
		return smtpclient.Login{User: user, Password: "secret"}, nil
	}
	inside := `
		C: EHLO me.example
		S| "250-hub.example\r\n250-AUTH PLAIN\r\n250 PIPELINING\r\n"
		`
	auth := `
		C: AUTH PLAIN AHUAc2VjcmV0
		S: 235 welcome
		`
	tests := []struct {
		name    string
		dest    string // with PORT
		scripts []string
		edit    func(*Transport)
		rcpts   []int
		want    string
	}{
		{name: "by address", dest: "smtp://127.0.0.1:PORT", scripts: []string{take},
			want: strings.Repeat("\n250 2.0.0 queued (remote) at 127.0.0.1[127.0.0.1]:PORT", 2)[1:]},
		{name: "without a port", dest: "smtp://hub.example", scripts: []string{take},
			want: strings.Repeat("\n250 2.0.0 queued (remote) at hub.example[127.0.0.1]:PORT", 2)[1:]},
		{name: "another host of our name on a port of its own", dest: "smtp://hub.example:PORT", scripts: []string{strings.ReplaceAll(take, "mx.", "me.")},
			want: strings.Repeat("\n250 2.0.0 queued (remote) at hub.example[127.0.0.1]:PORT", 2)[1:]},
		{name: "our name on the usual port", dest: "smtp://hub.example", scripts: []string{strings.ReplaceAll(hello, "mx.", "me.") + bye}, rcpts: []int{0},
			want: "451 4.4.6 Mail for b.example loops back to this host at hub.example[127.0.0.1]:PORT"},
		{name: "a name that does not exist is not the message's fault", dest: "smtp://hbu.example", rcpts: []int{0},
			want: "451 4.4.4 Host hbu.example has no address"},
		{name: "opportunistic TLS", dest: "smtp://hub.example", scripts: []string{startTLS + "TLS" + inside + mail2 + taken + bye},
			want: strings.Repeat("\n250 2.0.0 queued (remote) at hub.example[127.0.0.1]:PORT", 2)[1:]},
		{name: "opportunistic TLS fails", dest: "smtp://hub.example", scripts: []string{startTLS + "CLOSE", take},
			want: strings.Repeat("\n250 2.0.0 queued (remote) at hub.example[127.0.0.1]:PORT", 2)[1:]},
		{name: "TLS fails and is required", dest: "smtp://hub.example", scripts: []string{startTLS + "CLOSE"}, rcpts: []int{0},
			edit: func(t *Transport) { t.TLS = smtpclient.Require }, want: "454 4.7.5 TLS handshake failed at hub.example[127.0.0.1]:PORT"},
		{name: "login", dest: "smtp://u@hub.example:PORT", scripts: []string{startTLS + "TLS" + inside + auth + mail2 + taken + bye},
			edit: func(t *Transport) { t.TLS, t.Credentials = smtpclient.Off, login },
			want: strings.Repeat("\n250 2.0.0 queued (remote) at hub.example[127.0.0.1]:PORT", 2)[1:]},
		{name: "login, implicit TLS", dest: "smtps://u@hub.example:PORT", scripts: []string{"TLS\nS: 220 hub.example\n" + inside + auth + mail2 + taken + bye},
			edit: func(t *Transport) { t.Credentials = login },
			want: strings.Repeat("\n250 2.0.0 queued (remote) at hub.example[127.0.0.1]:PORT", 2)[1:]},
		{name: "login, certificate of another", dest: "smtps://u@127.0.0.1:PORT", scripts: []string{"NOTLS"}, rcpts: []int{0},
			edit: func(t *Transport) { t.Credentials = login }, want: "454 4.7.5 The server's certificate does not verify at 127.0.0.1[127.0.0.1]:PORT"},
		{name: "login, unknown root", dest: "smtp://u@hub.example:PORT", scripts: []string{startTLS + "NOTLS"}, rcpts: []int{0},
			edit: func(t *Transport) { t.Credentials, t.Roots = login, nil }, want: "454 4.7.5 The server's certificate does not verify at hub.example[127.0.0.1]:PORT"},
		{name: "login, no TLS", dest: "smtp://u@hub.example:PORT", rcpts: []int{0}, edit: func(t *Transport) { t.Credentials = login },
			scripts: []string{strings.Replace(hello, "PIPELINING", "AUTH PLAIN", 1)},
			want:    "451 4.7.4 TLS is required, but the server does not offer it at hub.example[127.0.0.1]:PORT"},
		{name: "login, no password", dest: "smtp://u@hub.example:PORT", rcpts: []int{0},
			edit: func(t *Transport) {
				t.Credentials = func(string, string) (smtpclient.Login, error) {
					return smtpclient.Login{}, errors.New("no line for it")
				}
			},
			want: "451 4.3.5 No password is known for the relay"},
		{name: "LMTP", dest: "lmtp://127.0.0.1:PORT", edit: func(t *Transport) { t.TLS = smtpclient.Require },
			scripts: []string{strings.ReplaceAll(hello, "EHLO", "LHLO") + mail2 + `
				S| "250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n"
				BODY
				S: 250 2.0.0 one
				S: 550 5.2.2 full` + bye},
			want: "250 2.0.0 one (remote) at 127.0.0.1[127.0.0.1]:PORT\n550 5.2.2 full (remote) at 127.0.0.1[127.0.0.1]:PORT"},
		{name: "too many recipients, not announced", dest: "smtp://127.0.0.1:PORT", rcpts: []int{0, 1, 0}, scripts: []string{hello + `
			C: MAIL FROM:<a@a.example>
			C: RCPT TO:<b@b.example>
			C: RCPT TO:<c@b.example>
			C: RCPT TO:<b@b.example>
			C: DATA
			S| "250 ok\r\n250 ok\r\n250 ok\r\n452 4.5.3 too many\r\n354 go\r\n"
			BODY
			S: 250 2.0.0 queued
			C: MAIL FROM:<a@a.example>
			C: RCPT TO:<b@b.example>
			C: DATA
			S| "250 ok\r\n452 4.5.3 too many today\r\n503 no\r\n"` + bye},
			want: strings.Repeat("250 2.0.0 queued (remote) at 127.0.0.1[127.0.0.1]:PORT\n", 2) + "452 4.5.3 too many today (remote) at 127.0.0.1[127.0.0.1]:PORT"},
		{name: "limits of transactions and recipients", dest: "smtp://127.0.0.1:PORT", scripts: []string{
			strings.Replace(hello, "250 PIPE", "250-LIMITS RCPTMAX=1 MAILMAX=1\\r\\n250 PIPE", 1) + `
			C: MAIL FROM:<a@a.example>
			C: RCPT TO:<b@b.example>
			C: DATA
			S| "250 ok\r\n250 ok\r\n354 go\r\n"
			BODY
			S: 250 2.0.0 first` + bye, hello + `
			C: MAIL FROM:<a@a.example>
			C: RCPT TO:<c@b.example>
			C: DATA
			S| "250 ok\r\n250 ok\r\n354 go\r\n"
			BODY
			S: 250 2.0.0 second` + bye},
			want: "250 2.0.0 first (remote) at 127.0.0.1[127.0.0.1]:PORT\n250 2.0.0 second (remote) at 127.0.0.1[127.0.0.1]:PORT"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := network(t, map[string][]string{"127.0.0.1": tt.scripts})
			h.addrs["hub.example"] = []string{"127.0.0.1"}
			tr := h.transport()
			if tt.edit != nil {
				tt.edit(tr)
			}
			p := strconv.Itoa(h.port)
			r := all(enqueue(t, letter, "a@a.example", "b@b.example", "c@b.example"), dest(t, strings.ReplaceAll(tt.dest, port, ":"+p)))
			if tt.rcpts != nil {
				r.Rcpts = tt.rcpts
			}
			got := h.summary(tr.Attempt(context.Background(), r))
			tr.Close()
			if got != tt.want {
				t.Errorf("got\n%s\nwant\n%s", got, tt.want)
			}
			if len(h.connected) != len(tt.scripts) {
				t.Errorf("%d connections, want %d", len(h.connected), len(tt.scripts))
			}
		})
	}
}

// TestReuse sends three messages over one session, then finds it closed and opens another.
func TestReuse(t *testing.T) {
	again := mail2 + taken
	h := network(t, map[string][]string{"127.0.0.1": {hello + again + again + mail2 + `
		S: 421 4.4.2 idle too long
		CLOSE`, take}})
	h.mx["b.example"], h.addrs["one"] = "one", []string{"127.0.0.1"}
	tr := h.transport()
	for i, want := range []string{"250", "250", "250"} {
		m := enqueue(t, letter, "a@a.example", "b@b.example", "c@b.example")
		for _, line := range strings.Split(h.summary(tr.Attempt(context.Background(), all(m, dest(t, "mx:")))), "\n") {
			if !strings.HasPrefix(line, want) {
				t.Errorf("message %d: got %s, want %s", i, line, want)
			}
		}
	}
	tr.Close()
	if len(h.connected) != 2 {
		t.Errorf("%d connections", len(h.connected))
	}
	tr.Close() // a second time is no harm
}

// TestRefusedSessionEnds: a session in which nobody was taken is not kept, since servers count refusals.
func TestRefusedSessionEnds(t *testing.T) {
	h := network(t, map[string][]string{"127.0.0.1": {hello + mail2 + `
		S| "250 ok\r\n550 5.1.1 no\r\n550 5.1.1 no\r\n503 no\r\n"
		C: QUIT
		S: 221 bye`}})
	h.mx["b.example"], h.addrs["one"] = "one", []string{"127.0.0.1"}
	tr := h.transport()
	defer tr.Close()
	m := enqueue(t, letter, "a@a.example", "b@b.example", "c@b.example")
	for _, line := range strings.Split(h.summary(tr.Attempt(context.Background(), all(m, dest(t, "mx:")))), "\n") {
		if !strings.HasPrefix(line, "550") {
			t.Errorf("got %s", line)
		}
	}
}

// TestPool fills the pool beyond its bound, lets a session expire, and puts one back after Close.
func TestPool(t *testing.T) {
	hi := strings.Replace(hello, "mx", "hub", 1) + bye
	var scripts []string
	for range idleMost + 2 {
		scripts = append(scripts, hi)
	}
	h := network(t, map[string][]string{"127.0.0.1": scripts})
	tr := h.transport()
	var sessions []*session
	for i := range idleMost + 2 {
		w := newAttempt(tr, Request{Dests: []destination.Destination{dest(t, "smtp://127.0.0.1")}})
		w.o.Hostname, w.key = "me.example", strconv.Itoa(i)
		s, err := w.open(context.Background(), "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(h.port)), "x")
		if err != nil {
			t.Fatal(err)
		}
		sessions = append(sessions, s)
	}
	for _, s := range sessions[:idleMost+1] {
		tr.idle.put(s)
	}
	if s := tr.idle.take("0"); s != nil {
		t.Error("the oldest was kept beyond the bound")
	}
	if s := tr.idle.take("1"); s != sessions[1] {
		t.Error("a session was lost")
	}
	tr.idle.put(sessions[1])
	tr.idle.expire(sessions[2])
	tr.idle.expire(sessions[2])
	if s := tr.idle.take("2"); s != nil {
		t.Error("an expired session was given out")
	}
	tr.Close()
	if tr.idle.take("1") != nil {
		t.Error("a session outlived Close")
	}
	tr.idle.put(sessions[idleMost+1])
	if sessions[idleMost+1].Usable() {
		t.Error("a session that came back after Close is open")
	}
}

// TestStopped ends the context while a host makes us wait: the next one is not tried.
func TestStopped(t *testing.T) {
	h := network(t, map[string][]string{"127.0.0.1": {"S| \"220-wait\\r\\n\""}, "127.0.0.2": nil})
	h.mx["b.example"], h.addrs["one"], h.addrs["two"] = "one two", []string{"127.0.0.1"}, []string{"127.0.0.2"}
	ctx, cancel := context.WithCancel(context.Background())
	tr := h.transport()
	lookup := tr.Addresses
	tr.Addresses = func(c context.Context, host string) ([]netip.Addr, error) {
		defer cancel()
		return lookup(c, host)
	}
	got := h.summary(tr.Attempt(ctx, all(enqueue(t, letter, "", "b@b.example"), dest(t, "mx:"))))
	if !strings.HasPrefix(got, "451 4.4.1 ") {
		t.Errorf("got %s", got)
	}
	if len(h.connected) > 1 {
		t.Errorf("connected to %v", h.connected)
	}
}

func TestBind(t *testing.T) {
	h := network(t, map[string][]string{"127.0.0.1": nil})
	tr := h.transport()
	tr.Bind = []netip.Addr{netip.MustParseAddr("::1"), netip.MustParseAddr("127.0.0.77"), netip.MustParseAddr("127.0.0.78")}
	w := newAttempt(tr, Request{Dests: []destination.Destination{{}}})
	conn, err := w.dial(context.Background(), "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(h.port)))
	if err != nil {
		t.Fatal(err)
	}
	if got := conn.LocalAddr().(*net.TCPAddr).IP.String(); got != "127.0.0.77" {
		t.Errorf("source address %s", got)
	}
	conn.Close()
}

// TestLiteral sends to an address literal, which needs no DNS.
func TestLiteral(t *testing.T) {
	h := network(t, map[string][]string{"127.0.0.1": {strings.ReplaceAll(strings.ReplaceAll(take, "b@b.example", "b@[127.0.0.1]"), "c@b.example", "c@[127.0.0.1]")}})
	h.mx["[127.0.0.1]"] = "[127.0.0.1]"
	tr := h.transport()
	addrs := tr.Addresses
	tr.Addresses = func(ctx context.Context, host string) ([]netip.Addr, error) {
		return addrs(ctx, strings.Trim(host, "[]"))
	}
	e := &envelope.Envelope{From: path(t, "a@a.example"), UID: -1}
	for _, local := range []string{"b", "c"} {
		e.Rcpts = append(e.Rcpts, envelope.Recipient{To: address.Path{Local: local, Domain: "[127.0.0.1]"}})
	}
	got := h.summary(tr.Attempt(context.Background(), all(enqueueAs(t, e, letter), dest(t, "mx:"))))
	tr.Close()
	if want := strings.Repeat("\n250 2.0.0 queued (remote) at 127.0.0.1[127.0.0.1]:PORT", 2)[1:]; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// TestStopIsNoVerdict: what one host refused for good is not the last word when the attempt was stopped before the next was asked.
func TestStopIsNoVerdict(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	tr := &Transport{Hostname: "north.example", Port: 25,
		MX: func(context.Context, string) (mx.Answer, error) {
			return mx.Answer{Hosts: []mx.Host{{Name: "gone.example"}, {Name: "good.example"}}}, nil
		},
		Addresses: func(_ context.Context, host string) ([]netip.Addr, error) {
			if host == "gone.example" {
				return nil, status.Permanent(550, "5.4.4", "no address", nil)
			}
			cancel() // while the answer comes from a cache
			return []netip.Addr{netip.MustParseAddr("192.0.2.1")}, nil
		}}
	m := enqueue(t, letter, "a@north.example", "b@south.example")
	for _, r := range tr.Attempt(ctx, Request{Message: m, Rcpts: []int{0}, Dests: []destination.Destination{{Kind: destination.MX}}, Domain: "south.example"}) {
		if r.Err == nil || !r.Err.Temporary() {
			t.Errorf("got %v", r.Err)
		}
	}
}
