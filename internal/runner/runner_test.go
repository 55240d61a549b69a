package runner

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/postel-mail/postel/internal/address"
	"github.com/postel-mail/postel/internal/clock"
	"github.com/postel-mail/postel/internal/destination"
	"github.com/postel-mail/postel/internal/envelope"
	"github.com/postel-mail/postel/internal/ledger"
	"github.com/postel-mail/postel/internal/maillog"
	"github.com/postel-mail/postel/internal/queue"
	"github.com/postel-mail/postel/internal/status"
	"github.com/postel-mail/postel/internal/transport"
)

// rig is a runner over a spool in a temporary directory, whose next hops are a function.
type rig struct {
	*Runner
	dir    string
	log    strings.Builder
	policy Policy
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

// newRig makes a runner; answer says what the next hop says for an address: nil for yes.
func newRig(t *testing.T, answer func(to string) *status.Error) *rig {
	t.Helper()
	g := &rig{dir: filepath.Join(t.TempDir(), "spool")}
	s, err := queue.Open(g.dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	var mu sync.Mutex
	g.policy = Policy{Hostname: "north.example", Lifetime: 5 * 24 * time.Hour, BounceLifetime: 24 * time.Hour, Warn: 4 * time.Hour,
		First: 5 * time.Minute, Longest: 4 * time.Hour, Concurrency: 2, Processes: 4}
	ledger, err := ledger.Open(filepath.Join(g.dir, "ledger"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ledger.Close() })
	g.Runner = &Runner{
		Ledger: ledger, Spool: s, Policy: func() *Policy { return &g.policy }, Wake: time.Hour,
		Log: maillog.ToWriter(&lockedWriter{w: &g.log}, "qmgr"),
		Attempt: func(_ context.Context, r transport.Request) []transport.Result {
			mu.Lock()
			defer mu.Unlock()
			results := make([]transport.Result, len(r.Rcpts))
			for i, n := range r.Rcpts {
				results[i] = transport.Result{Dest: r.Dests[0], Relay: "mx.test[192.0.2.1]:25", Code: 250, Text: "ok", Remote: true}
				if s := answer(r.Message.Envelope.Rcpts[n].To.String()); s != nil {
					results[i] = transport.Result{Dest: r.Dests[0], Relay: "mx.test[192.0.2.1]:25", Err: s, Code: s.Code, Remote: true}
				}
			}
			return results
		},
	}
	return g
}

type lockedWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *lockedWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

func (g *rig) put(t *testing.T, from string, rcpts ...envelope.Recipient) string {
	t.Helper()
	w, err := g.Spool.Create(&envelope.Envelope{From: path(from), UID: -1, Rcpts: rcpts})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort()
	_, _ = io.WriteString(w, "Subject: test\r\n\r\nbody\r\n")
	if err := w.Commit(); err != nil {
		t.Fatal(err)
	}
	return w.ID()
}

func to(s string) envelope.Recipient { return envelope.Recipient{To: path(s)} }

func (g *rig) once(t *testing.T) {
	t.Helper()
	if err := g.Run(t.Context(), Once); err != nil {
		t.Fatal(err)
	}
}

// reports gives the text of the messages from the null path that the queue holds.
func (g *rig) reports(t *testing.T) (texts []string) {
	t.Helper()
	ids, err := g.Spool.IDs()
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		m, err := g.Spool.Peek(id)
		if err != nil {
			t.Fatal(err)
		}
		if m.Envelope.From.IsNull() {
			b, _ := io.ReadAll(m.Body())
			texts = append(texts, string(b))
		}
		m.Close()
	}
	return texts
}

var (
	busy   = status.Temporary(450, "4.2.1", "busy", nil)
	noUser = status.Permanent(550, "5.1.1", "no such user", nil)
	noHost = status.Temporary(451, "4.4.1", "no host answers", nil)
)

func TestDelivered(t *testing.T) {
	g := newRig(t, func(string) *status.Error { return nil })
	id := g.put(t, "a@north.example", to("b@south.example"), to("c@west.example"))
	g.once(t)
	if ids, _ := g.Spool.IDs(); len(ids) != 0 {
		t.Errorf("left %v", ids)
	}
	for _, want := range []string{"event=delivered id=" + id + " to=<b@south.example> dest=mx: relay=", "to=<c@west.example>", "event=removed id=" + id} {
		if !strings.Contains(g.log.String(), want) {
			t.Errorf("log lacks %q:\n%s", want, g.log.String())
		}
	}
}

// TestOutcomesAreKept: what was delivered is not sent again, what failed is reported once, what waits is tried again when it is due, and no sooner.
func TestOutcomesAreKept(t *testing.T) {
	answers := map[string]*status.Error{"no@south.example": noUser, "later@south.example": busy}
	var asked []string
	g := newRig(t, func(to string) *status.Error { asked = append(asked, to); return answers[to] })
	now := clock.Now()
	clock.Set(func() time.Time { return now })
	defer clock.Set(nil)
	id := g.put(t, "a@north.example", to("yes@south.example"), to("no@south.example"), to("later@south.example"))
	g.once(t)
	if texts := g.reports(t); len(texts) != 0 { // the report itself was delivered by this pass
		t.Errorf("%d reports wait", len(texts))
	}
	if want := []string{"yes@south.example", "no@south.example", "later@south.example", "a@north.example"}; !slices.Equal(asked, want) {
		t.Errorf("asked %v, want %v", asked, want)
	}
	m, err := g.Spool.Peek(id)
	if err != nil {
		t.Fatal(err)
	}
	m.Close()
	st := m.State
	if st.Rcpts[0].Progress != queue.Relayed || st.Rcpts[1].Progress != queue.Failed || !st.Rcpts[1].Told || st.Rcpts[2].Progress != queue.Waiting || st.Attempts != 1 {
		t.Errorf("state %+v", st)
	}
	if wait := st.Next.Sub(now); wait < 5*time.Minute-time.Second || wait > 6*time.Minute {
		t.Errorf("next attempt in %v", wait)
	}
	asked = nil
	g.once(t)
	if len(asked) != 0 {
		t.Errorf("asked %v before it was due", asked)
	}
	now = now.Add(10 * time.Minute)
	delete(answers, "later@south.example")
	g.once(t)
	if want := []string{"later@south.example"}; !slices.Equal(asked, want) {
		t.Errorf("asked %v, want %v", asked, want)
	}
	if ids, _ := g.Spool.IDs(); len(ids) != 0 {
		t.Errorf("left %v", ids)
	}
}

func TestBounce(t *testing.T) {
	for _, tt := range []struct {
		name, from, notify string
		want               int
	}{
		{"sender is told", "a@north.example", "", 1},
		{"asked for", "a@north.example", "FAILURE", 1},
		{"not asked for", "a@north.example", "NEVER", 0},
		{"success only", "a@north.example", "SUCCESS", 0},
		{"null path: postmaster is", "", "NEVER", 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := newRig(t, func(to string) *status.Error {
				if to == "no@south.example" {
					return noUser
				}
				return busy // so that the report stays
			})
			g.put(t, tt.from, envelope.Recipient{To: path("no@south.example"), Notify: tt.notify})
			g.once(t)
			texts := g.reports(t)
			if len(texts) != tt.want {
				t.Fatalf("%d reports, want %d", len(texts), tt.want)
			}
			if tt.want > 0 && !strings.Contains(texts[0], "Status: 5.1.1") {
				t.Error(texts[0])
			}
			if ids, _ := g.Spool.IDs(); len(ids) != tt.want {
				t.Errorf("the message is still there: %v", ids)
			}
		})
	}
}

func TestSuccessReports(t *testing.T) {
	for _, tt := range []struct {
		dest   destination.Kind
		dsn    bool
		action string
	}{{destination.LMTP, false, "delivered"}, {destination.MX, false, "relayed"}, {destination.MX, true, ""}} {
		g := newRig(t, func(string) *status.Error { return nil })
		g.policy.Routes.Table = map[string][]destination.Destination{"south.example": {{Kind: tt.dest}}, "north.example": {{Kind: destination.SMTP}}}
		inner := g.Attempt
		g.Attempt = func(ctx context.Context, r transport.Request) []transport.Result {
			if r.Message.Envelope.From.IsNull() { // the report itself stays
				return []transport.Result{{Err: busy}}
			}
			results := inner(ctx, r)
			results[0].DSN = tt.dsn
			return results
		}
		g.put(t, "a@north.example", envelope.Recipient{To: path("b@south.example"), Notify: "SUCCESS"})
		g.once(t)
		texts := g.reports(t)
		if got := strings.Join(texts, ""); (tt.action == "") != (got == "") || !strings.Contains(got, "Action: "+tt.action) && tt.action != "" {
			t.Errorf("%v: %q", tt, got)
		}
	}
}

// TestAge: a delay is reported once, and at the end of its life a message comes back, after the attempts of the schedule.
func TestAge(t *testing.T) {
	asked := 0
	g := newRig(t, func(to string) *status.Error {
		if to == "b@south.example" {
			asked++
		}
		return busy
	})
	start := clock.Now()
	now := start
	clock.Set(func() time.Time { return now })
	defer clock.Set(nil)
	id := g.put(t, "a@north.example", to("b@south.example"))
	delayed, failed := time.Duration(0), time.Duration(0)
	for failed == 0 && now.Sub(start) < 10*24*time.Hour {
		g.once(t)
		reports := g.reports(t)
		texts := strings.Join(reports, "")
		if n := strings.Count(texts, "Action: delayed"); n > 1 {
			t.Fatalf("%d reports of the delay", n)
		} else if n == 1 && delayed == 0 {
			delayed = now.Sub(start)
		}
		if slices.ContainsFunc(reports, func(s string) bool {
			head, rest, _ := strings.Cut(s, "\r\n\r\n") // postmaster is told of the report that could not be delivered
			return strings.Contains(head, "To: <a@north.example>\r\n") && strings.Contains(rest, "Status: 5.4.7")
		}) {
			failed = now.Sub(start)
			break
		}
		m, err := g.Spool.Peek(id)
		if err != nil {
			t.Fatal(err)
		}
		now = m.State.Next
		m.Close()
	}
	if delayed < 4*time.Hour || delayed > 8*time.Hour || failed < 5*24*time.Hour || failed > 6*24*time.Hour || asked < 30 || asked > 40 {
		t.Errorf("delay told after %v, failed after %v and %d attempts", delayed, failed, asked)
	}
}

// TestClock: a clock that jumps a year ahead and back bounces nothing and delays nothing by more than the longest wait.
func TestClock(t *testing.T) {
	g := newRig(t, func(string) *status.Error { return busy })
	start := clock.Now()
	now := start
	clock.Set(func() time.Time { return now })
	defer clock.Set(nil)
	id := g.put(t, "a@north.example", to("b@south.example"))
	g.once(t)
	for range 3 {
		now = now.AddDate(1, 0, 0)
		g.once(t)
	}
	now = start.Add(time.Hour)
	g.once(t) // Next is three years ahead: not believed
	if ids, _ := g.Spool.IDs(); len(ids) != 1 || len(g.reports(t)) != 0 {
		t.Errorf("queue has %v", ids)
	}
	m, err := g.Spool.Peek(id)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if m.State.Attempts != 5 || m.State.Next.Sub(now) > 5*time.Hour || m.State.Waited > 24*time.Hour {
		t.Errorf("%+v", m.State)
	}
}

// TestUnrecordedState: when the state cannot be written, nobody is sent the message twice by this process.
func TestUnrecordedState(t *testing.T) {
	asked := map[string]int{}
	g := newRig(t, func(to string) *status.Error {
		asked[to]++
		if to == "later@south.example" {
			return busy
		}
		return nil
	})
	id := g.put(t, "", to("yes@south.example"), to("later@south.example"))
	// A folder where the state's temporary file would be.
	blocker := filepath.Join(g.dir, "state", fmt.Sprintf(".%s.%d", id, os.Getpid()), "x")
	if err := os.MkdirAll(blocker, 0o700); err != nil {
		t.Fatal(err)
	}
	g.policy.First, g.policy.Longest = time.Millisecond, time.Millisecond
	ctx, cancel := context.WithCancel(t.Context())
	inner := g.Attempt
	g.Attempt = func(ctx context.Context, r transport.Request) []transport.Result {
		results := inner(ctx, r)
		if asked["later@south.example"] == 5 {
			cancel()
		}
		return results
	}
	if err := g.Run(ctx, Stay); err != nil {
		t.Fatal(err)
	}
	if asked["yes@south.example"] != 1 || asked["later@south.example"] < 5 || !strings.Contains(g.log.String(), "the state is not recorded") {
		t.Errorf("asked %v\n%s", asked, g.log.String())
	}
}

// TestStopWhileClaiming: the runner ends whatever it was doing when it was told to.
func TestStopWhileClaiming(t *testing.T) {
	for range 20 {
		ctx, cancel := context.WithCancel(t.Context())
		g := newRig(t, func(string) *status.Error { cancel(); return nil })
		for i := range 30 {
			g.put(t, "", to(fmt.Sprintf("u%d@south.example", i)))
		}
		if err := g.Run(ctx, Stay); err != nil {
			t.Fatal(err)
		}
	}
}

// TestSlowLane: a destination that takes for ever does not keep others waiting, however much mail there is for it.
func TestSlowLane(t *testing.T) {
	release := make(chan struct{})
	done := make(chan string, 1)
	g := newRig(t, nil)
	g.Attempt = func(_ context.Context, r transport.Request) []transport.Result {
		if r.Domain == "slow.example" {
			<-release
		} else {
			done <- r.Domain
		}
		return []transport.Result{{Code: 250}}
	}
	for i := range maxOpen + 100 {
		g.put(t, "", to(fmt.Sprintf("u%d@slow.example", i)))
	}
	g.put(t, "", to("u@live.example"))
	ended := make(chan error)
	go func() { ended <- g.Run(t.Context(), Once) }()
	if got := <-done; got != "live.example" {
		t.Error(got)
	}
	close(release)
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if ids, _ := g.Spool.IDs(); len(ids) != 0 {
		t.Errorf("%d left", len(ids))
	}
}

// TestPanic: a bug in an attempt costs that attempt, not the runner.
func TestPanic(t *testing.T) {
	g := newRig(t, func(string) *status.Error { return nil })
	inner := g.Attempt
	g.Attempt = func(ctx context.Context, r transport.Request) []transport.Result {
		if r.Domain == "bug.example" {
			panic("a bug")
		}
		return inner(ctx, r)
	}
	bad, good := g.put(t, "", to("u@bug.example")), g.put(t, "", to("u@good.example"))
	g.once(t)
	if ids, _ := g.Spool.IDs(); !slices.Equal(ids, []string{bad}) {
		t.Errorf("left %v", ids)
	}
	for _, want := range []string{"event=panic", "event=deferred id=" + bad, "event=removed id=" + good} {
		if !strings.Contains(g.log.String(), want) {
			t.Errorf("log lacks %q:\n%s", want, g.log.String())
		}
	}
}

// TestServerSaysUnreachable: what a server says of one recipient does not close the way to it for the others.
func TestServerSaysUnreachable(t *testing.T) {
	asked := 0
	g := newRig(t, func(to string) *status.Error { asked++; return noHost })
	for i := range 10 {
		g.put(t, "", to(fmt.Sprintf("u%d@south.example", i)))
	}
	g.once(t)
	if asked != 10 {
		t.Errorf("asked %d times, want 10", asked)
	}
}

// TestReportsApart: one report that cannot be queued is tried again, without repeating the others.
func TestReportsApart(t *testing.T) {
	g := newRig(t, func(to string) *status.Error {
		switch to {
		case "no@south.example":
			return noUser
		case "yes@south.example":
			return nil
		}
		return busy
	})
	now := clock.Now()
	clock.Set(func() time.Time { return now })
	defer clock.Set(nil)
	g.put(t, "a@north.example", to("no@south.example"), envelope.Recipient{To: path("yes@south.example"), Notify: "SUCCESS"})
	g.Spool.SetMinFree(1 << 62)
	g.once(t)
	g.Spool.SetMinFree(0)
	for range 3 {
		now = now.Add(10 * time.Minute)
		g.once(t)
	}
	texts := strings.Join(g.reports(t), "")
	if strings.Count(texts, "Action: failed") != 1 || strings.Count(texts, "Action: relayed") != 1 {
		t.Errorf("%s", texts)
	}
}

// TestReportBeforeRemoval: when the report cannot be queued the message stays, and the report is tried again without asking the next hop again.
func TestReportBeforeRemoval(t *testing.T) {
	asked := 0
	g := newRig(t, func(to string) *status.Error {
		if to == "no@south.example" {
			asked++
			return noUser
		}
		return busy
	})
	now := clock.Now()
	clock.Set(func() time.Time { return now })
	defer clock.Set(nil)
	g.put(t, "a@north.example", to("no@south.example"))
	g.Spool.SetMinFree(1 << 62)
	g.once(t)
	if ids, _ := g.Spool.IDs(); len(ids) != 1 || len(g.reports(t)) != 0 {
		t.Fatalf("queue has %v", ids)
	}
	g.Spool.SetMinFree(0)
	now = now.Add(time.Hour)
	g.once(t)
	if ids, _ := g.Spool.IDs(); len(ids) != 1 || len(g.reports(t)) != 1 || asked != 1 {
		t.Errorf("queue has %v, asked %d times", ids, asked)
	}
}

// TestDeadLane: once no host answers, the other messages of that lane are deferred without waiting for it, and other lanes go on.
func TestDeadLane(t *testing.T) {
	tried := map[string]int{}
	g := newRig(t, func(to string) *status.Error {
		_, domain, _ := strings.Cut(to, "@")
		tried[domain]++
		return nil
	})
	inner := g.Attempt
	g.Attempt = func(ctx context.Context, r transport.Request) []transport.Result {
		results := inner(ctx, r)
		if r.Domain == "dead.example" {
			results[0] = transport.Result{Err: noHost}
		}
		return results
	}
	for i := range 20 {
		g.put(t, "", to(fmt.Sprintf("u%d@dead.example", i)))
		g.put(t, "", to(fmt.Sprintf("u%d@live.example", i)))
	}
	g.once(t)
	if tried["dead.example"] > 2 || tried["live.example"] != 20 {
		t.Errorf("tried %v", tried)
	}
	if ids, _ := g.Spool.IDs(); len(ids) != 20 {
		t.Errorf("%d left", len(ids))
	}
}

func TestHold(t *testing.T) {
	g := newRig(t, func(string) *status.Error { return nil })
	id := g.put(t, "", to("b@south.example"))
	m, err := g.Spool.Claim(id)
	if err != nil {
		t.Fatal(err)
	}
	m.State.Hold = true
	if err := m.Record(true); err != nil {
		t.Fatal(err)
	}
	m.Close()
	g.once(t)
	if ids, _ := g.Spool.IDs(); len(ids) != 1 {
		t.Error("a held message was sent")
	}
	if err := g.Run(t.Context(), UntilEmpty); err != nil { // returns: only held messages are left
		t.Error(err)
	}
}

func TestCorrupt(t *testing.T) {
	g := newRig(t, func(string) *status.Error { return nil })
	id := g.put(t, "", to("b@south.example"))
	other := g.put(t, "", to("c@south.example"))
	if err := os.Truncate(filepath.Join(g.dir, "queue", id), 50); err != nil {
		t.Fatal(err)
	}
	g.once(t)
	if _, err := os.Stat(filepath.Join(g.dir, "corrupt", id)); err != nil {
		t.Error(err)
	}
	for _, want := range []string{"event=corrupt id=" + id, "event=removed id=" + other} {
		if !strings.Contains(g.log.String(), want) {
			t.Errorf("log lacks %q:\n%s", want, g.log.String())
		}
	}
}

// TestDaemon: a staying runner takes new mail at once, knows of a second runner, and ends with its context.
func TestDaemon(t *testing.T) {
	delivered := make(chan string)
	g := newRig(t, func(to string) *status.Error { delivered <- to; return nil })
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- g.Run(ctx, Stay) }()
	for i := range 3 {
		addr := fmt.Sprintf("u%d@south.example", i)
		g.put(t, "", to(addr))
		if got := <-delivered; got != addr {
			t.Errorf("got %s, want %s", got, addr)
		}
	}
	if err := g.Run(t.Context(), Once); !errors.Is(err, ErrRunning) {
		t.Errorf("second runner: %v", err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestCollect: mail goes out while what others left is still being collected, and what is collected goes out in the same pass.
func TestCollect(t *testing.T) {
	for _, mode := range []Mode{Once, UntilEmpty} {
		sent := make(chan string, 3)
		g := newRig(t, func(to string) *status.Error { sent <- to; return nil })
		g.put(t, "", to("queued@south.example"))
		calls := 0
		g.Collect = func(context.Context) error {
			calls++
			if got := <-sent; got != "queued@south.example" { // hangs when that waits for the end of this
				t.Errorf("mode %d: %s went first", mode, got)
			}
			g.put(t, "", to("left@south.example"))
			return errors.New("more than that could not be read")
		}
		if err := g.Run(t.Context(), mode); err != nil {
			t.Fatal(err)
		}
		if got := <-sent; got != "left@south.example" || calls != 1 || len(g.left(t)) != 0 || g.logged("more than that could not be read") != 1 {
			t.Errorf("mode %d: sent %s, collected %d times, left %v\n%s", mode, got, calls, g.left(t), g.log.String())
		}
	}
}

// TestStopKeepsState: a failure that the stop brought does not count and delays nothing, and what was delivered before it is kept.
// TestBusy: who makes one pass waits for a message that another has for a moment, and goes by one that another keeps.
func TestBusy(t *testing.T) {
	g := newRig(t, func(string) *status.Error { return nil })
	id, kept := g.put(t, "alice@a.example", to("bob@b.example")), g.put(t, "alice@a.example", to("carol@b.example"))
	for _, id := range []string{id, kept} {
		m, err := g.Spool.Claim(id)
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		if id != kept {
			time.AfterFunc(50*time.Millisecond, func() { m.Close() })
		}
	}
	g.once(t)
	if there, _ := g.Spool.Exists(id); there {
		t.Error("it was not waited for")
	}
	if there, _ := g.Spool.Exists(kept); !there {
		t.Error("it was taken away from who had it")
	}
}

func TestStopKeepsState(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	g := newRig(t, nil)
	g.Attempt = func(ctx context.Context, r transport.Request) []transport.Result {
		cancel()
		return []transport.Result{{Code: 250}, {Err: noHost}}
	}
	id := g.put(t, "a@north.example", to("yes@south.example"), to("cut@south.example"))
	if err := g.Run(ctx, Stay); err != nil {
		t.Fatal(err)
	}
	m, err := g.Spool.Peek(id)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if m.State.Rcpts[0].Progress != queue.Delivered || m.State.Rcpts[1].Progress != queue.Waiting || m.State.Rcpts[1].Last != nil || m.State.Next.After(clock.Now()) {
		t.Errorf("%+v", m.State)
	}
}

// TestStopTellsOfDoubt: what a server may have taken when the runner stopped is logged and recorded, though it failed for now.
func TestStopTellsOfDoubt(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	g := newRig(t, nil)
	g.Attempt = func(_ context.Context, r transport.Request) []transport.Result {
		cancel()
		return []transport.Result{{Dest: r.Dests[0], Err: noHost, Reached: true, Twice: true}}
	}
	id := g.put(t, "a@north.example", to("b@south.example"))
	if err := g.Run(ctx, Stay); err != nil {
		t.Fatal(err)
	}
	m, err := g.Spool.Peek(id)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if m.State.Attempts != 1 || m.State.Rcpts[0].Last == nil || !strings.Contains(g.log.String(), "event=deferred id="+id) {
		t.Errorf("%+v\n%s", m.State, g.log.String())
	}
}

func TestRoutes(t *testing.T) {
	d := func(list ...string) (dests []destination.Destination) {
		for _, s := range list {
			d, err := destination.Parse(s)
			if err != nil {
				t.Fatal(err)
			}
			dests = append(dests, d)
		}
		return dests
	}
	r := &Routes{Domains: []string{"north.example"}, Local: d("lmtp:///l")[0], Literal: func(p address.Path) bool { return p.Domain == "[127.0.0.1]" },
		Table: map[string][]destination.Destination{"a.example": d("smtp://one"), ".a.example": d("smtp://two"), ".b.a.example": d("smtp://three"), "*": d("smtp://rest", "mx:")}}
	for _, tt := range []struct{ addr, want, rule string }{
		{"x@NORTH.example", "lmtp:///l", "local"},
		{"x@[127.0.0.1]", "lmtp:///l", "local"},
		{"x@[127.0.0.2]", "smtp://rest mx:[127.0.0.2]", "*"},
		{"x@a.example", "smtp://one", "a.example"},
		{"x@b.a.example", "smtp://two", ".a.example"},
		{"x@c.b.a.example", "smtp://three", ".b.a.example"},
		{"x@example", "smtp://rest mx:example", "*"},
		{"x@nota.example", "smtp://rest mx:nota.example", "*"},
	} {
		p := path(tt.addr)
		dests, rule := r.For(p)
		if got := laneOf(dests, p.Domain); got != tt.want || rule != tt.rule {
			t.Errorf("%s: %s by %s, want %s by %s", tt.addr, got, rule, tt.want, tt.rule)
		}
	}
	if _, rule := r.For(address.Path{Local: "postmaster"}); rule != "local" {
		t.Errorf("postmaster: %s", rule)
	}
	if got, _ := (&Routes{}).For(path("x@y.example")); len(got) != 1 || got[0].String() != "mx:" {
		t.Errorf("without a route: %s", got)
	}
}

func TestNextWait(t *testing.T) {
	const first, longest = 5 * time.Minute, 4 * time.Hour
	for _, tt := range []struct {
		attempts int
		chance   float64
		want     time.Duration
	}{{1, 0, first}, {2, 0, 2 * first}, {3, 0.5, 21 * time.Minute}, {7, 0, longest}, {1000000, 0, longest}, {0, 0, first}} {
		if got := NextWait(tt.attempts, first, longest, tt.chance); got != tt.want {
			t.Errorf("%d, %v: %v, want %v", tt.attempts, tt.chance, got, tt.want)
		}
	}
}

// TestPerTransaction: a hundred recipients go in one transaction, the next in another, and a program gets one.
func TestPerTransaction(t *testing.T) {
	for _, tt := range []struct {
		kind destination.Kind
		want []int
	}{{destination.MX, []int{1, 100}}, {destination.LMTP, []int{1, 100}}, {destination.Pipe, slices.Repeat([]int{1}, 101)}} {
		g := newRig(t, func(string) *status.Error { return nil })
		g.policy.Routes.Table = map[string][]destination.Destination{"*": {{Kind: tt.kind}}}
		var mu sync.Mutex
		var sizes []int
		inner := g.Attempt
		g.Attempt = func(ctx context.Context, r transport.Request) []transport.Result {
			mu.Lock()
			sizes = append(sizes, len(r.Rcpts))
			mu.Unlock()
			return inner(ctx, r)
		}
		var rcpts []envelope.Recipient
		for i := range 101 {
			rcpts = append(rcpts, to(fmt.Sprintf("u%d@south.example", i)))
		}
		g.put(t, "", rcpts...)
		g.once(t)
		slices.Sort(sizes)
		if !slices.Equal(sizes, tt.want) {
			t.Errorf("%v: %v", tt.kind, sizes)
		}
	}
}

// TestFirstAttempt: whatever time a new message has spent in a queue that nobody ran, its first failure is not its last.
func TestFirstAttempt(t *testing.T) {
	g := newRig(t, func(string) *status.Error { return busy })
	g.policy.Lifetime = time.Hour
	now := clock.Now()
	clock.Set(func() time.Time { return now })
	defer clock.Set(nil)
	g.put(t, "", to("b@south.example"))
	now = now.Add(48 * time.Hour)
	g.once(t)
	if ids, _ := g.Spool.IDs(); len(ids) != 1 || strings.Contains(g.log.String(), "event=bounced") {
		t.Errorf("queue has %v\n%s", ids, g.log.String())
	}
}

// TestHoldIsKept: what a person says on disk counts, also while the runner goes by what it remembers.
func TestHoldIsKept(t *testing.T) {
	g := newRig(t, func(string) *status.Error { return busy })
	id := g.put(t, "", to("b@south.example"))
	m, err := g.Spool.Claim(id)
	if err != nil {
		t.Fatal(err)
	}
	m.State.Hold = true
	if err := m.Record(true); err != nil {
		t.Fatal(err)
	}
	l := newLoop(g.Runner, t.Context(), Stay)
	l.schedule.put(keyOf(id), 0, working, false)
	l.claimed, l.kept[keyOf(id)] = 1, &queue.State{Attempts: 3, Rcpts: make([]queue.Outcome, 1)}
	l.opened(keyOf(id), m, nil)
	if at := l.schedule.slots[keyOf(id)].place; at != held || l.claimed != 0 {
		t.Errorf("the message is at %v, %d claimed", at, l.claimed)
	}
}

// TestBrokenSession: a host that breaks off one message lives, and the messages behind it are tried.
func TestBrokenSession(t *testing.T) {
	tried := 0
	g := newRig(t, nil)
	g.policy.Concurrency = 1
	g.Attempt = func(context.Context, transport.Request) []transport.Result {
		if tried++; tried == 1 {
			return []transport.Result{{Err: status.Temporary(451, "4.4.2", "Connection lost", nil), Reached: true}}
		}
		return []transport.Result{{Code: 250}}
	}
	for i := range 5 {
		g.put(t, "", to(fmt.Sprintf("u%d@south.example", i)))
	}
	g.once(t)
	if ids, _ := g.Spool.IDs(); len(ids) != 1 || tried != 5 {
		t.Errorf("%d left, %d tried", len(ids), tried)
	}
}

// TestSeveralLanes: a lane that has enough to do does not keep a message's other recipients waiting, nor are they tried more often for it.
func TestSeveralLanes(t *testing.T) {
	release := make(chan struct{})
	var mu sync.Mutex
	tried := map[string]int{}
	live := make(chan bool, 1)
	g := newRig(t, nil)
	g.policy.Concurrency = 1
	g.Attempt = func(_ context.Context, r transport.Request) []transport.Result {
		mu.Lock()
		tried[r.Domain]++
		mu.Unlock()
		if r.Domain == "slow.example" {
			<-release
		} else {
			live <- true
		}
		return []transport.Result{{Code: 250}}
	}
	for range 10 {
		g.put(t, "", to("u@slow.example"))
	}
	g.put(t, "", to("u@slow.example"), to("u@live.example"))
	ended := make(chan error)
	go func() { ended <- g.Run(t.Context(), Once) }()
	<-live
	close(release)
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if tried["live.example"] != 1 || tried["slow.example"] != 11 {
		t.Errorf("tried %v", tried)
	}
}
