package runner

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postel-mail/postel/internal/clock"
	"github.com/postel-mail/postel/internal/destination"
	"github.com/postel-mail/postel/internal/envelope"
	"github.com/postel-mail/postel/internal/ledger"
	"github.com/postel-mail/postel/internal/queue"
	"github.com/postel-mail/postel/internal/status"
	"github.com/postel-mail/postel/internal/transport"
)

// turn gives a clock that stands until it is moved.
func turn(t *testing.T) (now *time.Time) {
	t.Helper()
	at := clock.Now()
	clock.Set(func() time.Time { return at })
	t.Cleanup(func() { clock.Set(nil) })
	return &at
}

// field gives a field of a report's header.
func field(report, name string) string {
	head, _, _ := strings.Cut(report, "\r\n\r\n")
	for line := range strings.SplitSeq(head, "\r\n") {
		if value, ok := strings.CutPrefix(line, name+": "); ok {
			return value
		}
	}
	return ""
}

// logged counts the lines of the log with that text.
func (g *rig) logged(text string) int { return strings.Count(g.log.String(), text) }

// left gives the ids of all messages.
func (g *rig) left(t *testing.T) []string {
	t.Helper()
	ids, err := g.Spool.IDs()
	if err != nil {
		t.Fatal(err)
	}
	return ids
}

// TestDoubleBounce: a message without a sender that fails is reported to postmaster, once, and when that fails it is dropped.
func TestDoubleBounce(t *testing.T) {
	g := newRig(t, func(to string) *status.Error {
		if to == "a@north.example" {
			return noUser
		}
		if to == "postmaster@north.example" {
			return busy
		}
		return nil
	})
	now := turn(t)
	g.put(t, "", envelope.Recipient{To: path("a@north.example"), Notify: "NEVER"}, to("b@south.example"))
	g.once(t)
	texts := g.reports(t)
	if len(texts) != 1 || field(texts[0], "To") != "<postmaster@north.example>" || !strings.Contains(texts[0], "Final-Recipient: rfc822; a@north.example") ||
		strings.Contains(texts[0], "b@south.example") || !strings.Contains(texts[0], "\r\nSubject: test\r\n") {
		t.Fatalf("reports %q", texts)
	}
	if g.logged("kind=double-bounce") != 1 || g.logged("event=dropped") != 0 {
		t.Errorf("log\n%s", g.log.String())
	}
	for range 20 {
		*now = now.Add(4 * time.Hour)
		g.once(t)
	}
	if left := g.left(t); len(left) != 0 || g.logged("event=report ") != 1 || g.logged("event=dropped") != 1 {
		t.Errorf("left %v\n%s", left, g.log.String())
	}
}

// TestDoubleBounceSentOn: postmaster's alias makes a new message of the report, which cannot be delivered either: the end.
func TestDoubleBounceSentOn(t *testing.T) {
	var g *rig
	rounds := 0
	g = newRig(t, func(to string) *status.Error { return noUser })
	g.Attempt = func(_ context.Context, r transport.Request) []transport.Result {
		if r.Message.Envelope.Rcpts[0].To != path("postmaster@north.example") {
			return []transport.Result{{Err: noUser}}
		}
		if rounds++; rounds > 10 {
			return []transport.Result{{Err: busy}}
		}
		w, err := g.Spool.Create(&envelope.Envelope{Client: "local", UID: 0, Rcpts: []envelope.Recipient{to("admin@elsewhere.example")}})
		if err != nil {
			t.Error(err)
			return []transport.Result{{Err: busy}}
		}
		defer w.Abort()
		_, err = io.WriteString(w, "Received: by north.example\r\nDelivered-To: postmaster@north.example\r\n")
		if err == nil {
			_, err = io.Copy(w, r.Message.Body())
		}
		if err := errors.Join(err, w.Commit()); err != nil {
			t.Error(err)
		}
		return []transport.Result{{Code: 250}}
	}
	g.put(t, "", to("a@north.example"))
	for range 20 {
		g.once(t)
	}
	if left := g.left(t); rounds != 1 || len(left) != 0 || g.logged("event=dropped") != 1 {
		t.Errorf("%d reports to postmaster, left %v\n%s", rounds, left, g.log.String())
	}
}

// TestReportHonours: what RFC 3461 has the sender ask for is in the report, whose recipients are those of one kind of news.
func TestReportHonours(t *testing.T) {
	g := newRig(t, func(to string) *status.Error {
		switch {
		case strings.HasPrefix(to, "no"):
			return noUser
		case strings.HasPrefix(to, "yes"):
			return nil
		}
		return busy
	})
	g.policy.Routes.Table = map[string][]destination.Destination{"south.example": {{Kind: destination.LMTP}}}
	w, err := g.Spool.Create(&envelope.Envelope{From: path("a@north.example"), UID: -1, Ret: "HDRS", EnvID: "my id+1", Rcpts: []envelope.Recipient{
		{To: path("no1@south.example"), ORcpt: "rfc822;first@south.example"},
		{To: path("no2@south.example"), Notify: "FAILURE,DELAY"},
		{To: path("no3@south.example"), Notify: "NEVER"},
		{To: path("no4@south.example"), Notify: "SUCCESS"},
		{To: path("yes1@south.example"), Notify: "SUCCESS,FAILURE"},
		{To: path("yes2@south.example")},
	}})
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(w, "Subject: test\r\n\r\nbody\r\n")
	if err := w.Commit(); err != nil {
		t.Fatal(err)
	}
	g.once(t)
	texts := g.reports(t)
	if len(texts) != 2 || len(g.left(t)) != 2 {
		t.Fatalf("%d reports: %q", len(texts), texts)
	}
	for i, want := range []struct {
		action string
		about  []string
	}{{"failed", []string{"no1@south.example", "no2@south.example"}}, {"delivered", []string{"yes1@south.example"}}} {
		text := texts[i]
		var about []string
		for _, m := range regexp.MustCompile(`(?m)^Final-Recipient: rfc822; (.*)\r$`).FindAllStringSubmatch(text, -1) {
			about = append(about, m[1])
		}
		if !slices.Equal(about, want.about) || strings.Count(text, "\r\nAction: "+want.action+"\r\n") != len(about) ||
			!strings.Contains(text, "\r\nOriginal-Envelope-Id: my id+1\r\n") || strings.Contains(text, "\r\nbody\r\n") {
			t.Errorf("about %v:\n%s", about, text)
		}
	}
	if !strings.Contains(texts[0], "\r\nOriginal-Recipient: rfc822; first@south.example\r\nFinal-Recipient: rfc822; no1@south.example\r\n") {
		t.Error(texts[0])
	}
}

// TestManyRecipientsOneReport: a thousand refusals of one message are one report.
func TestManyRecipientsOneReport(t *testing.T) {
	g := newRig(t, func(to string) *status.Error {
		if to == "a@north.example" {
			return busy
		}
		return noUser
	})
	var rcpts []envelope.Recipient
	for i := range 1000 {
		rcpts = append(rcpts, to(fmt.Sprintf("u%d@south.example", i)))
	}
	g.put(t, "a@north.example", rcpts...)
	g.once(t)
	if texts := g.reports(t); len(texts) != 1 || strings.Count(texts[0], "\r\nFinal-Recipient: ") != 1000 {
		t.Errorf("%d reports", len(texts))
	}
}

// TestTooManyReports: what is one report too many for its recipient waits, tells when there is room again, and delays nobody else's.
func TestTooManyReports(t *testing.T) {
	g := newRig(t, func(to string) *status.Error {
		if strings.HasSuffix(strings.ToLower(to), "@north.example") {
			return busy
		}
		return noUser
	})
	now := turn(t)
	g.spend("a@north.example", *now)
	id := g.put(t, "A@North.example", to("x@south.example"))
	g.put(t, "b@north.example", to("x@south.example"))
	g.once(t)
	if texts := g.reports(t); len(texts) != 1 || field(texts[0], "To") != "<b@north.example>" {
		t.Fatalf("reports %q", texts)
	}
	m, err := g.Spool.Peek(id)
	if err != nil {
		t.Fatal(err)
	}
	m.Close()
	if o := m.State.Rcpts[0]; o.Progress != queue.Failed || o.Told || !m.State.Next.After(*now) || m.State.Attempts != 1 {
		t.Errorf("state\n%s", m.State.Text(m.ID()))
	}
	*now = m.State.Next
	g.once(t)
	if texts := g.reports(t); len(texts) != 2 || g.logged("event=removed id="+id) != 1 || g.logged("event=bounced") != 2 {
		t.Errorf("reports %q\n%s", texts, g.log.String())
	}
}

// TestTooManyForTooLong: a report that never has room is given up when its lifetime is over, and the log tells; its message's life before does not count.
func TestTooManyForTooLong(t *testing.T) {
	g := newRig(t, func(string) *status.Error { return busy })
	now := turn(t)
	id := g.put(t, "a@north.example", to("x@south.example"))
	failed, dropped := time.Time{}, time.Time{}
	for end := now.Add(20 * 24 * time.Hour); now.Before(end) && dropped.IsZero(); {
		g.spend("a@north.example", *now)
		g.once(t)
		m, err := g.Spool.Peek(id)
		if errors.Is(err, queue.ErrGone) {
			dropped = *now
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		m.Close()
		if failed.IsZero() && m.State.Rcpts[0].Progress == queue.Failed {
			failed = *now
		}
		*now = m.State.Next
	}
	if waited := dropped.Sub(failed); waited < 24*time.Hour || waited > 30*time.Hour {
		t.Errorf("failed %v, dropped %v", failed, dropped)
	}
	if texts := g.reports(t); len(texts) != 0 || g.logged("event=dropped id="+id) != 1 || g.logged("event=report ") != 0 {
		t.Errorf("reports %q\n%s", texts, g.log.String())
	}
}

// TestReportAgain: a crash between queueing a report and recording it has it sent a second time, with the same Message-ID.
func TestReportAgain(t *testing.T) {
	g := newRig(t, func(to string) *status.Error {
		if to == "no@south.example" {
			return noUser
		}
		return busy
	})
	id := g.put(t, "a@north.example", to("no@south.example"), to("later@south.example"))
	g.once(t)
	state := filepath.Join(g.dir, "state", id)
	if err := os.Remove(state); err != nil {
		t.Fatal(err)
	}
	g.once(t)
	texts := g.reports(t)
	if len(texts) != 2 || field(texts[0], "Message-ID") != field(texts[1], "Message-ID") || field(texts[0], "Message-ID") == "" {
		t.Errorf("reports %q", texts)
	}
	if _, err := os.Stat(state); errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

// TestReportLimit: in no hour are there more than reportsPerHour, whichever process sends them, and no room is lost for long.
func TestReportLimit(t *testing.T) {
	g := newRig(t, nil)
	other, err := ledger.Open(filepath.Join(g.dir, "ledger"))
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	runners := []*Runner{g.Runner, {Ledger: other, Log: g.Log}}
	now := turn(t)
	start := *now
	var sent []time.Time
	for i := range 5000 {
		*now = now.Add(rand.N(time.Minute))
		if runners[i%2].mayReport("x", *now) {
			sent = append(sent, *now)
		}
	}
	for i := reportsPerHour; i < len(sent); i++ {
		if sent[i].Sub(sent[i-reportsPerHour]) < time.Hour {
			t.Fatalf("report %d came %v after report %d", i, sent[i].Sub(sent[i-reportsPerHour]), i-reportsPerHour)
		}
	}
	if most := int(now.Sub(start)/reportInterval) + reportsPerHour/2; len(sent) < most*9/10 || len(sent) > most {
		t.Errorf("%d sent in %v, want about %d", len(sent), now.Sub(start), most)
	}
	if *now = now.Add(-365 * 24 * time.Hour); !g.mayReport("x", *now) {
		t.Error("a clock that was set back stops reports")
	}
	if n := g.spend("y", *now); n != reportsPerHour/2 {
		t.Errorf("%d at once", n)
	}
	g.unreported("y", *now)
	if !runners[1].mayReport("y", *now) || g.mayReport("y", *now) {
		t.Error("what was given back cannot be taken once")
	}
}

// spend takes all reports that an address may get now.
func (g *rig) spend(to string, now time.Time) (n int) {
	for g.mayReport(to, now) {
		n++
	}
	return n
}

// TestReportLimitFails: a ledger that cannot be used holds no report back, and is spoken of once.
func TestReportLimitFails(t *testing.T) {
	g := newRig(t, nil)
	if err := os.RemoveAll(filepath.Join(g.dir, "ledger")); err != nil {
		t.Fatal(err)
	}
	for range reportsPerHour {
		if !g.mayReport("x", clock.Now()) {
			t.Fatal("held back")
		}
		g.unreported("x", clock.Now())
	}
	if n := g.logged("reports are not counted"); n != 1 {
		t.Errorf("logged %d times:\n%s", n, g.log.String())
	}
	g.Ledger = nil
	if !g.mayReport("x", clock.Now()) {
		t.Error("held back without a ledger")
	}
}
