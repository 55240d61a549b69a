package runner

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/postel-mail/postel/internal/envelope"
	"github.com/postel-mail/postel/internal/queue"
	"github.com/postel-mail/postel/internal/status"
)

// await puts a message for which somebody waits, and starts to wait. told gives what was heard when all is known.
func (g *rig) await(t *testing.T, rcpts ...envelope.Recipient) (told func() string) {
	t.Helper()
	w, err := queue.NewWaiter(g.dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	m, err := g.Spool.Create(&envelope.Envelope{From: path("a@north.example"), UID: os.Getuid(), Wait: w.Name(), Rcpts: rcpts})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Abort()
	_, _ = io.WriteString(m, "Subject: test\r\n\r\nbody\r\n")
	if err := m.Commit(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- w.Wait(t.Context()) }()
	return func() string {
		if err := <-ended; err != nil {
			t.Error(err)
		}
		var all []string
		for _, r := range w.Rcpts {
			s := fmt.Sprint(r.To, " ", r.Progress)
			if r.Last != nil {
				s += " " + r.Last.Reply()
			}
			all = append(all, s)
		}
		return strings.Join(all, "; ")
	}
}

// TestWait: who waits hears of each recipient when what is said is on disk: the report is queued, and a message of which nothing is left is gone.
func TestWait(t *testing.T) {
	answers := map[string]*status.Error{"no@south.example": noUser, "later@south.example": busy}
	g := newRig(t, func(to string) *status.Error { return answers[to] })
	told := g.await(t, to("yes@south.example"), to("no@south.example"), to("later@west.example"), to("later@south.example"))
	g.once(t)
	if got, want := told(), "yes@south.example relayed; no@south.example failed 550 5.1.1 no such user; later@west.example relayed; later@south.example waiting 450 4.2.1 busy"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	g = newRig(t, func(to string) *status.Error { return answers[to] })
	told = g.await(t, to("no@south.example"))
	ended := make(chan error, 1)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	go func() { ended <- g.Run(ctx, Stay) }()
	if got, want := told(), "no@south.example failed 550 5.1.1 no such user"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if ids, err := g.Spool.IDs(); len(ids) > 1 || len(ids) == 1 && len(g.reports(t)) != 1 || err != nil { // the report, if it is not delivered by now
		t.Errorf("left %v, %v", ids, err)
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if n := strings.Count(g.log.String(), "event=bounced"); n != 1 {
		t.Errorf("%d bounces:\n%s", n, g.log.String())
	}
}

// TestWaitForGivenUp: a person ends the life of a message, and its sender hears that too.
func TestWaitForGivenUp(t *testing.T) {
	g := newRig(t, func(string) *status.Error { return nil })
	told := g.await(t, to("a@south.example"))
	ids, err := g.Spool.IDs()
	if err != nil || len(ids) != 1 {
		t.Fatal(ids, err)
	}
	m, err := g.Spool.Claim(ids[0])
	if err != nil {
		t.Fatal(err)
	}
	m.State.Expire = true
	if err := m.Record(true); err != nil {
		t.Fatal(err)
	}
	m.Close()
	g.once(t)
	if got, want := told(), "a@south.example failed 554 5.4.7 Given up by the administrator"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// TestNobodyWaits: a name under which nobody waits any more, or never did, does not keep the message from its way.
func TestNobodyWaits(t *testing.T) {
	g := newRig(t, func(string) *status.Error { return nil })
	w, err := g.Spool.Create(&envelope.Envelope{From: path("a@north.example"), UID: os.Getuid(), Wait: "0123456789abcdef", Rcpts: []envelope.Recipient{to("b@south.example")}})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort()
	if err := w.Commit(); err != nil {
		t.Fatal(err)
	}
	g.once(t)
	if ids, err := g.Spool.IDs(); len(ids) != 0 || err != nil {
		t.Errorf("left %v, %v", ids, err)
	}
	if log := g.log.String(); !strings.Contains(log, "event=delivered") || strings.Contains(log, "event=problem") {
		t.Errorf("log:\n%s", log)
	}
}
