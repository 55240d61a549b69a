package callout

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/postel-mail/postel/internal/address"
	"github.com/postel-mail/postel/internal/clock"
	"github.com/postel-mail/postel/internal/ledger"
	"github.com/postel-mail/postel/internal/status"
	"github.com/postel-mail/postel/internal/transport"
)

// hop is a next hop that answers by the local part, and counts.
type hop struct {
	asked atomic.Int32
	down  atomic.Bool
}

func (h *hop) ask(ctx context.Context, to address.Path) transport.Result {
	h.asked.Add(1)
	if h.down.Load() {
		return transport.Result{Err: status.Temporary(451, "4.4.1", "Cannot connect", nil)}
	}
	r := transport.Result{Relay: "hop", Remote: true, Reached: true}
	switch to.Local {
	case "bob":
	case "busy":
		r.Err = status.Temporary(450, "4.2.1", "Busy", nil)
	case "ours": // a judgement of this side says nothing about the recipient
		r.Remote, r.Err = false, status.Permanent(554, "5.4.6", "Mail loops", nil)
	case "müller":
		r.Remote, r.Err = false, status.Permanent(553, "5.6.7", "No SMTPUTF8", nil)
	case "slow":
		<-ctx.Done()
		r = transport.Result{Err: status.Temporary(451, "4.4.2", "Attempt was stopped", ctx.Err())}
	case "policy": // Postfix refuses client and null sender at RCPT
		r.Err = status.Permanent(554, "5.7.1", "Client host rejected", nil)
	case "bug":
		panic("of a test")
	default:
		r.Err = status.Permanent(550, "5.1.6", "Who\x1b?"+strings.Repeat("x", 500), nil)
	}
	return r
}

func rig(t *testing.T) (*Callout, *hop) {
	t.Helper()
	l, err := ledger.Open(t.TempDir() + "/ledger")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	h := &hop{}
	return &Callout{Ask: h.ask, Ledger: l, Problem: func(err error) { t.Error(err) }, Time: 50 * time.Millisecond}, h
}

func reply(err error) string {
	if err == nil {
		return ""
	}
	return status.Of(err).Reply()[:9]
}

func to(local string) address.Path { return address.Path{Local: local, Domain: "back.example"} }

func TestVerify(t *testing.T) {
	c, h := rig(t)
	now := time.Now()
	var mu sync.Mutex
	clock.Set(func() time.Time { mu.Lock(); defer mu.Unlock(); return now })
	defer clock.Set(nil)
	later := func(d time.Duration) { mu.Lock(); defer mu.Unlock(); now = now.Add(d) }
	asked := int32(0)
	for i, tt := range []struct {
		after   time.Duration
		down    bool
		to      string
		want    string
		asks    int32
		because string
	}{
		{0, false, "bob", "", 1, "first"},
		{0, false, "bob", "", 0, "known"},
		{0, false, "Bob", "550 5.1.1", 1, "another local part"},
		{0, false, "no", "550 5.1.1", 1, "refused"},
		{time.Hour, true, "no", "550 5.1.1", 0, "known, also when the next hop is down"},
		{3 * time.Hour, false, "no", "550 5.1.1", 1, "a no is over after three hours"},
		{0, false, "busy", "450 4.1.1", 1, "not kept"},
		{0, false, "busy", "450 4.1.1", 1, "and asked for again"},
		{0, false, "ours", "450 4.1.1", 1, "not the next hop's word"},
		{0, false, "müller", "553 5.6.7", 1, "it cannot be asked for"},
		{0, false, "müller", "553 5.6.7", 1, "and that is not kept"},
		{0, false, "policy", "450 4.1.1", 1, "about this host"},
		{0, false, "policy", "450 4.1.1", 1, "and not kept"},
		{0, false, "slow", "450 4.1.1", 1, "out of time"},
		{0, false, "other", "450 4.1.1", 0, "who does not answer is left in peace"},
		{0, false, "bob", "", 0, "what is known is known"},
		{2 * time.Minute, true, "other", "450 4.1.1", 1, "down"},
		{0, false, "other", "450 4.1.1", 0, "for a minute"},
		{8 * 24 * time.Hour, false, "bob", "", 1, "a yes is over after a week"},
		{0, false, "no", "550 5.1.1", 1, "and so is a no"},
		{-60 * 24 * time.Hour, false, "no", "550 5.1.1", 1, "what is known from a time to come is not believed"},
	} {
		later(tt.after)
		h.down.Store(tt.down)
		err := c.Verify(t.Context(), to(tt.to))
		if got, n := reply(err), h.asked.Load()-asked; got != tt.want || n != tt.asks {
			t.Errorf("%d: %s (%s): got %q after %d questions, want %q after %d", i, tt.to, tt.because, got, n, tt.want, tt.asks)
		}
		asked = h.asked.Load()
	}
	if cause := status.Of(c.Verify(t.Context(), to("fresh"))).Cause(); !strings.HasPrefix(cause, "hop said: 550 5.1.6 Who?") || len(cause) > maxText {
		t.Errorf("the log would say %q", cause)
	}
}

// TestRefresh: a yes that is a day old is asked for again, and nobody waits for it.
func TestRefresh(t *testing.T) {
	c, h := rig(t)
	if err := c.Verify(t.Context(), to("bob")); err != nil {
		t.Fatal(err)
	}
	now := time.Now().Add(25 * time.Hour)
	clock.Set(func() time.Time { return now })
	defer clock.Set(nil)
	c.Time = time.Minute
	answer, gone := make(chan struct{}), make(chan struct{})
	c.Ask = func(context.Context, address.Path) transport.Result {
		h.asked.Add(1)
		<-answer
		defer close(gone)
		return transport.Result{Err: status.Permanent(550, "5.1.1", "Gone", nil), Remote: true, Reached: true, Relay: "hop"}
	}
	for range 3 {
		if err := c.Verify(t.Context(), to("bob")); err != nil {
			t.Errorf("while it is asked again: %v", err)
		}
	}
	c.mu.Lock()
	again := c.calls["rcpt bob@back.example"]
	c.mu.Unlock()
	close(answer)
	<-gone
	<-again.done
	if got := reply(c.Verify(t.Context(), to("bob"))); got != "550 5.1.1" || h.asked.Load() != 2 {
		t.Errorf("after it: got %q, %d questions, want 550 5.1.1 and 2", got, h.asked.Load())
	}
}

// TestNoLedger: without a ledger each recipient is asked for.
func TestNoLedger(t *testing.T) {
	c, h := rig(t)
	c.Ledger = nil
	for n, tt := range []struct{ to, want string }{{"bob", ""}, {"bob", ""}, {"no", "550 5.1.1"}, {"busy", "450 4.1.1"}} {
		if got := reply(c.Verify(t.Context(), to(tt.to))); got != tt.want || int(h.asked.Load()) != n+1 {
			t.Errorf("%s: got %q after %d questions, want %q after %d", tt.to, got, h.asked.Load(), tt.want, n+1)
		}
	}
}

// TestBug: a bug behind a question is told, and ends neither the program nor the questions after it.
func TestBug(t *testing.T) {
	c, _ := rig(t)
	var told []error
	c.Problem = func(err error) { told = append(told, err) }
	for local, want := range map[string]string{"bug": "450 4.1.1", "bob": ""} {
		if got := reply(c.Verify(t.Context(), to(local))); got != want {
			t.Errorf("%s: got %q, want %q", local, got, want)
		}
	}
	if len(told) != 1 {
		t.Errorf("told: %v", told)
	}
}

// TestBounds: many clients ask one question; many questions are only so many; a client who goes waits no longer.
func TestBounds(t *testing.T) {
	c, h := rig(t)
	c.Time = time.Minute
	release, asked := make(chan struct{}), make(chan struct{}, 2*maxCalls)
	c.Ask = func(context.Context, address.Path) transport.Result {
		h.asked.Add(1)
		asked <- struct{}{}
		<-release
		return transport.Result{Reached: true}
	}
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if err := c.Verify(t.Context(), to("bob")); err != nil {
				t.Error(err)
			}
		})
	}
	<-asked
	var others []*call
	for i := range maxCalls - 1 {
		local := strconv.Itoa(i)
		other, err := c.begin("rcpt "+local, to(local))
		if err != nil {
			t.Fatalf("question %d: %v", i, err)
		}
		others = append(others, other)
		<-asked
	}
	if got := reply(c.Verify(t.Context(), to("more"))); got != "450 4.1.1" {
		t.Errorf("one too many: got %q", got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.Verify(ctx, to("bob")); !errors.Is(err, context.Canceled) {
		t.Errorf("a client who has gone: got %v", err)
	}
	close(release)
	wg.Wait()
	for _, other := range others {
		<-other.done
	}
	if n := h.asked.Load(); n != maxCalls {
		t.Errorf("%d questions", n)
	}
}
