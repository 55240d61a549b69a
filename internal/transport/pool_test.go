package transport

import (
	"bufio"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postel-mail/postel/internal/clock"
	"github.com/postel-mail/postel/internal/smtpclient"
)

// TestIdleSessionsEnd: a session that nobody takes is ended, with QUIT, when its time is over; in the bubble time passes at once.
func TestIdleSessionsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		said := make(chan string, 10)
		go func() {
			defer theirs.Close()
			r := bufio.NewReader(theirs)
			reply := "220 hi\r\n"
			for {
				if _, err := theirs.Write([]byte(reply)); err != nil {
					return
				}
				line, err := r.ReadString('\n')
				if err != nil {
					close(said)
					return
				}
				said <- line[:4]
				reply = "250 ok\r\n"
			}
		}()
		c, err := smtpclient.New(t.Context(), ours, smtpclient.Options{Hostname: "test.example", TLS: smtpclient.Off})
		if err != nil {
			t.Fatal(err)
		}
		var p pool
		p.put(&session{Client: c, key: "k", opened: clock.Now()})
		if got := <-said; got != "EHLO" {
			t.Errorf("first %q", got)
		}
		time.Sleep(idleTime - time.Millisecond)
		synctest.Wait()
		p.mu.Lock()
		idle := len(p.idle)
		p.mu.Unlock()
		if idle != 1 || len(said) != 0 {
			t.Errorf("%d idle, %d commands before the time is over", idle, len(said))
		}
		if got := <-said; got != "QUIT" {
			t.Errorf("then %q", got)
		}
		if s := p.take("k"); s != nil {
			t.Error("an ended session was given out")
		}
		p.close()
	})
}

// TestConcurrent: twenty attempts at once to one host open twenty sessions, and twenty later ones none.
func TestConcurrent(t *testing.T) {
	const many = 20
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &peer{}
	p.serve(t, false, l)
	tr := &Transport{Hostname: "me.example", Port: 25, TLS: smtpclient.Off, Addresses: (&hosts{}).addresses}
	d := dest(t, "smtp://"+l.Addr().String())
	m := enqueue(t, letter, "a@a.example", "b@b.example")
	for range 3 {
		p.gate.Add(many) // the peer answers when all are there
		p.gated = many
		var wg sync.WaitGroup
		for range many {
			wg.Go(func() {
				if r := tr.Attempt(t.Context(), all(m, d)); r[0].Err != nil {
					t.Error(r[0].Err)
				}
			})
		}
		wg.Wait()
	}
	tr.Close()
	if p.mails != 3*many || p.sessions != many {
		t.Errorf("%d mails in %d sessions", p.mails, p.sessions)
	}
}

// TestMailMax: a session is not kept beyond the messages that its server takes (RFC 9422).
func TestMailMax(t *testing.T) {
	hi := strings.Replace(hello, "250 PIPE", "250-LIMITS MAILMAX=2\\r\\n250 PIPE", 1)
	h := network(t, map[string][]string{"127.0.0.1": {hi + mail2 + taken + mail2 + taken + bye, hi + mail2 + taken + bye}})
	tr := h.transport()
	for range 3 {
		for _, r := range tr.Attempt(t.Context(), all(enqueue(t, letter, "a@a.example", "b@b.example", "c@b.example"), dest(t, "smtp://127.0.0.1"))) {
			if r.Err != nil {
				t.Error(r.Err)
			}
		}
	}
	tr.Close()
	if len(h.connected) != 2 {
		t.Errorf("%d connections", len(h.connected))
	}
}

// TestPeerRestarted: all kept sessions are dead. No attempt fails for that.
func TestPeerRestarted(t *testing.T) {
	const many = 4
	one := hello + `
		C: MAIL FROM:<a@a.example>
		C: RCPT TO:<b@b.example>
		C: DATA
		S| "250 ok\r\n250 ok\r\n354 go\r\n"
		BODY
		S: 250 2.0.0 queued
		CLOSE`
	h := network(t, map[string][]string{"127.0.0.1": slices.Repeat([]string{one}, 2*many)})
	tr := h.transport()
	d := dest(t, "smtp://127.0.0.1")
	send := func() {
		t.Helper()
		if r := tr.Attempt(t.Context(), all(enqueue(t, letter, "a@a.example", "b@b.example"), d)); r[0].Err != nil {
			t.Error(r[0].Err)
		}
	}
	var kept []*session
	for range many {
		send()
		kept = append(kept, tr.idle.take(d.String())) // so that the next opens one of its own
	}
	for _, s := range kept {
		tr.idle.put(s)
	}
	for range many {
		send()
	}
	tr.Close()
	if len(h.connected) != 2*many {
		t.Errorf("%d connections", len(h.connected))
	}
}
