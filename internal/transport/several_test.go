package transport

import (
	"context"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/postel-mail/postel/internal/destination"
	"github.com/postel-mail/postel/internal/smtpclient"
	"github.com/postel-mail/postel/test/dialog"
)

// TestSeveral has lists of next hops.
func TestSeveral(t *testing.T) {
	const (
		one, two = "smtp://127.0.0.1:PORT", "smtp://127.0.0.2:PORT"
		atOne    = "250 2.0.0 queued (remote) at 127.0.0.1[127.0.0.1]:PORT"
		atTwo    = "250 2.0.0 queued (remote) at 127.0.0.2[127.0.0.2]:PORT"
	)
	twice := func(s string) string { return s + "\n" + s }
	tests := []struct {
		name    string
		dests   string
		scripts map[string][]string
		edit    func(*hosts, *Transport)
		want    string
		by      string // Result.Dest of the first
		visited string
	}{
		{name: "the first is good", dests: one + " " + two, scripts: map[string][]string{"127.0.0.1": {take}, "127.0.0.2": nil},
			want: twice(atOne), by: one, visited: "127.0.0.1"},
		{name: "the first is down", dests: "smtp://127.0.0.3:PORT " + two, scripts: map[string][]string{"127.0.0.2": {take}},
			want: twice(atTwo), by: two, visited: "127.0.0.2"},
		{name: "the first does not exist", dests: "smtp://hbu.example " + two, scripts: map[string][]string{"127.0.0.2": {take}},
			want: twice(atTwo), by: two, visited: "127.0.0.2"},
		{name: "the first has no password", dests: "smtp://u@127.0.0.1:PORT " + two, scripts: map[string][]string{"127.0.0.1": nil, "127.0.0.2": {take}},
			want: twice(atTwo), by: two, visited: "127.0.0.2"},
		{name: "the first refuses the session", dests: one + " " + two, scripts: map[string][]string{"127.0.0.1": {"S: 421 4.3.2 busy"}, "127.0.0.2": {take}},
			want: twice(atTwo), by: two, visited: "127.0.0.1 127.0.0.2"},
		{name: "the first refuses the session at MAIL", dests: one + " " + two, scripts: map[string][]string{"127.0.0.1": {hello + mail2 + "S: 421 4.7.0 too many"}, "127.0.0.2": {take}},
			want: twice(atTwo), by: two, visited: "127.0.0.1 127.0.0.2"},
		{name: "the first has a full disk", dests: one + " " + two, scripts: map[string][]string{"127.0.0.1": {hello + mail2 + `
			S| "452 4.3.1 full\r\n503 no\r\n503 no\r\n503 no\r\n"` + bye}, "127.0.0.2": {take}},
			want: twice(atTwo), by: two, visited: "127.0.0.1 127.0.0.2"},
		{name: "the first lacks the TLS that is required", dests: one + " " + two, scripts: map[string][]string{"127.0.0.1": {hello},
			"127.0.0.2": {startTLS + "TLS" + hello2 + mail2 + taken + bye}}, edit: func(_ *hosts, t *Transport) { t.TLS = smtpclient.Require },
			want: twice(atTwo), by: two, visited: "127.0.0.1 127.0.0.2"},
		{name: "each has its own way of TLS", dests: "smtps://127.0.0.1:PORT " + two, scripts: map[string][]string{"127.0.0.1": {"TLS\nCLOSE"}, "127.0.0.2": {take}},
			edit: func(_ *hosts, t *Transport) { t.TLS = smtpclient.Off }, want: twice(atTwo), by: two, visited: "127.0.0.1 127.0.0.2"},
		{name: "a recipient's refusal is the answer", dests: one + " " + two, scripts: map[string][]string{"127.0.0.1": {hello + mail2 + `
			S| "250 ok\r\n550 5.1.1 who?\r\n450 4.2.1 later\r\n503 no\r\n"` + bye}, "127.0.0.2": nil},
			want: "550 5.1.1 who? (remote) at 127.0.0.1[127.0.0.1]:PORT\n450 4.2.1 later (remote) at 127.0.0.1[127.0.0.1]:PORT", by: one, visited: "127.0.0.1"},
		{name: "only what is left goes to the next", dests: one + " " + two, scripts: map[string][]string{"127.0.0.1": {hello + mail2 + `
			S| "250 ok\r\n550 5.1.1 who?\r\n"
			CLOSE`}, "127.0.0.2": {hello + `
			C: MAIL FROM:<a@a.example>
			C: RCPT TO:<c@b.example>
			C: DATA
			S| "250 ok\r\n250 ok\r\n354 go\r\n"
			BODY
			S: 250 2.0.0 queued` + bye}},
			want: "550 5.1.1 who? (remote) at 127.0.0.1[127.0.0.1]:PORT\n" + atTwo, by: one, visited: "127.0.0.1 127.0.0.2"},
		{name: "sent to its end, not answered: no second copy", dests: one + " " + two, scripts: map[string][]string{"127.0.0.1": {hello + mail2 + `
			S| "250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n"
			BODY
			CLOSE`}, "127.0.0.2": nil},
			want: twice("451 4.4.2 Connection lost at end of data*at 127.0.0.1[127.0.0.1]:PORT"), by: one, visited: "127.0.0.1"},
		{name: "all are down", dests: "smtp://127.0.0.3:PORT smtp://127.0.0.4:PORT", want: twice("451 4.4.1 Cannot connect to 127.0.0.4[127.0.0.4]:PORT at 127.0.0.4[127.0.0.4]:PORT"),
			by: "smtp://127.0.0.4:PORT"},
		{name: "the bounds are for each", dests: "smtp://many smtp://127.0.0.1:PORT", scripts: map[string][]string{"127.0.0.1": {take}},
			edit: func(h *hosts, _ *Transport) {
				h.addrs["many"] = []string{"127.0.1.1", "127.0.1.2", "127.0.1.3", "127.0.1.4", "127.0.1.5", "127.0.1.6"}
			},
			want: twice(atOne), by: one, visited: "127.0.0.1"},
		{name: "mail hosts, then a smart host", dests: "mx: " + two, scripts: map[string][]string{"127.0.0.2": {take}},
			edit: func(h *hosts, _ *Transport) { h.mx["b.example"] = "!" }, want: twice(atTwo), by: two, visited: "127.0.0.2"},
		{name: "no smart host helps a domain that takes no mail", dests: "mx: " + two, scripts: map[string][]string{"127.0.0.2": nil},
			edit: func(h *hosts, _ *Transport) { h.mx["b.example"] = "." }, want: twice("556 5.1.10 Domain b.example takes no mail"), by: "mx:"},
		{name: "LMTP, then SMTP", dests: "lmtp://127.0.0.3:PORT " + two, scripts: map[string][]string{"127.0.0.2": {take}},
			want: twice(atTwo), by: two, visited: "127.0.0.2"},
		{name: "a program in a list is no way", dests: "smtp://127.0.0.3:PORT pipe:/bin/true", want: twice("451 4.3.5 No way to this destination"), by: "pipe:/bin/true"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.scripts == nil {
				tt.scripts = map[string][]string{"127.0.0.1": nil}
			}
			h := network(t, tt.scripts)
			tr := h.transport()
			if tt.edit != nil {
				tt.edit(h, tr)
			}
			var dests []destination.Destination
			for s := range strings.FieldsSeq(strings.ReplaceAll(tt.dests, ":PORT", ":"+strconv.Itoa(h.port))) {
				dests = append(dests, dest(t, s))
			}
			results := tr.Attempt(t.Context(), all(enqueue(t, letter, "a@a.example", "b@b.example", "c@b.example"), dests...))
			tr.Close()
			if got := h.summary(results); !like(got, tt.want) {
				t.Errorf("got\n%s\nwant\n%s", got, tt.want)
			}
			if by := strings.ReplaceAll(results[0].Dest.String(), strconv.Itoa(h.port), "PORT"); by != tt.by {
				t.Errorf("by %s, want %s", by, tt.by)
			}
			if v := strings.Join(h.connected, " "); v != tt.visited {
				t.Errorf("connected to %q, want %q", v, tt.visited)
			}
		})
	}
}

// like reports whether each line of s is that of pattern, in which * stands for anything.
func like(s, pattern string) bool {
	lines, patterns := strings.Split(s, "\n"), strings.Split(pattern, "\n")
	for i := range min(len(lines), len(patterns)) {
		head, tail, any := strings.Cut(patterns[i], "*")
		if !strings.HasPrefix(lines[i], head) || !strings.HasSuffix(lines[i], tail) || !any && lines[i] != head {
			return false
		}
	}
	return len(lines) == len(patterns)
}

// TestSeveralKeep: a session with the second smart host is kept, and the next message begins there.
func TestSeveralKeep(t *testing.T) {
	h := network(t, map[string][]string{"127.0.0.1": {"S: 421 4.3.2 busy"}, "127.0.0.2": {hello + mail2 + taken + mail2 + taken + bye}})
	tr := h.transport()
	port := strconv.Itoa(h.port)
	dests := []destination.Destination{dest(t, "smtp://127.0.0.1:"+port), dest(t, "smtp://127.0.0.2:"+port)}
	for i := range 2 {
		for _, r := range tr.Attempt(t.Context(), all(enqueue(t, letter, "a@a.example", "b@b.example", "c@b.example"), dests...)) {
			if r.Err != nil || r.Dest.Host != "127.0.0.2" {
				t.Errorf("message %d: got %+v", i, r)
			}
		}
	}
	tr.Close()
	if got := strings.Join(h.connected, " "); got != "127.0.0.1 127.0.0.2" {
		t.Errorf("connected to %s", got)
	}
}

// TestBusyKept: the host of a kept session has become busy: the message goes to the next, and not to the same again.
func TestBusyKept(t *testing.T) {
	h := network(t, map[string][]string{"127.0.0.1": {hello + mail2 + taken + mail2 + `
		S| "452 4.3.1 full\r\n503 no\r\n503 no\r\n503 no\r\n"` + bye}, "127.0.0.2": {take}})
	h.mx["b.example"], h.addrs["one"], h.addrs["two"] = "one two", []string{"127.0.0.1"}, []string{"127.0.0.2"}
	tr := h.transport()
	for _, want := range []string{"one", "two"} {
		for _, r := range tr.Attempt(t.Context(), all(enqueue(t, letter, "a@a.example", "b@b.example", "c@b.example"), dest(t, "mx:"))) {
			if r.Err != nil || !strings.HasPrefix(r.Relay, want) {
				t.Errorf("got %+v, want host %s", r, want)
			}
		}
	}
	tr.Close()
	if got := strings.Join(h.connected, " "); got != "127.0.0.1 127.0.0.2" {
		t.Errorf("connected to %s", got)
	}
}

// TestDomainLimit: recipients of three domains, of which the server takes two at once (RFC 9422), in one session.
func TestDomainLimit(t *testing.T) {
	h := network(t, map[string][]string{"127.0.0.1": {strings.Replace(hello, "250 PIPE", "250-LIMITS RCPTDOMAINMAX=2\\r\\n250 PIPE", 1) + `
		C: MAIL FROM:<a@a.example>
		C: RCPT TO:<b@b.example>
		C: RCPT TO:<c@c.example>
		C: RCPT TO:<d@b.example>
		C: DATA
		S| "250 ok\r\n250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n"
		BODY
		S: 250 2.0.0 first
		C: MAIL FROM:<a@a.example>
		C: RCPT TO:<e@d.example>
		C: RCPT TO:<f@b.example>
		C: DATA
		S| "250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n"
		BODY
		S: 250 2.0.0 second` + bye}})
	tr := h.transport()
	m := enqueue(t, letter, "a@a.example", "b@b.example", "c@c.example", "d@b.example", "e@d.example", "f@b.example")
	got := h.summary(tr.Attempt(context.Background(), all(m, dest(t, "smtp://127.0.0.1"))))
	tr.Close()
	if want := strings.Repeat("\n250 2.0.0 first*", 3)[1:] + strings.Repeat("\n250 2.0.0 second*", 2); !like(got, want) {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// TestUnixLMTP: LMTP over a UNIX socket has an outcome for each recipient, equal ones too, and is not asked for TLS.
func TestUnixLMTP(t *testing.T) {
	name := filepath.Join(t.TempDir(), "lmtp")
	l, err := net.Listen("unix", name)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	done := make(chan error, 1)
	go func() {
		conn, err := l.Accept()
		if err == nil {
			err = dialog.Server{}.Play(conn, `
				S: 220 lmtpd
				C: LHLO me.example
				S| "250-lmtpd\r\n250-STARTTLS\r\n250 PIPELINING\r\n"
				C: MAIL FROM:<a@a.example>
				C: RCPT TO:<b@b.example>
				C: RCPT TO:<c@b.example>
				C: RCPT TO:<d@b.example>
				C: RCPT TO:<b@b.example>
				C: DATA
				S| "250 ok\r\n250 ok\r\n550 5.1.1 who?\r\n250 ok\r\n250 ok\r\n354 go\r\n"
				BODY
				S: 250 2.0.0 one
				S: 452 4.2.2 full
				S: 552 5.2.2 full for good`+bye)
		}
		done <- err
	}()
	tr := &Transport{Hostname: "me.example", Port: 25, TLS: smtpclient.Require}
	m := enqueue(t, letter, "a@a.example", "b@b.example", "c@b.example", "d@b.example", "b@b.example")
	got := (&hosts{}).summary(tr.Attempt(t.Context(), all(m, dest(t, "lmtp://"+name))))
	tr.Close()
	at := " (remote) at unix:" + name
	if want := "250 2.0.0 one" + at + "\n550 5.1.1 who?" + at + "\n452 4.2.2 full" + at + "\n552 5.2.2 full for good" + at; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	l.Close()
	got = (&hosts{}).summary(tr.Attempt(t.Context(), Request{Message: m, Rcpts: []int{2}, Dests: []destination.Destination{dest(t, "lmtp://"+name)}}))
	if want := "451 4.4.1 Cannot connect to unix:" + name + " at unix:" + name; got != want {
		t.Errorf("nobody listens: got\n%s\nwant\n%s", got, want)
	}
}
