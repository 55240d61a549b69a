package listing

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/postel-mail/postel/internal/address"
	"github.com/postel-mail/postel/internal/clock"
	"github.com/postel-mail/postel/internal/envelope"
	"github.com/postel-mail/postel/internal/queue"
	"github.com/postel-mail/postel/internal/status"
)

// open makes a spool whose messages arrive at *now.
func open(t *testing.T) (s *queue.Spool, now *time.Time) {
	t.Helper()
	s, err := queue.Open(t.TempDir() + "/spool")
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 11, 20, 0, 0, 0, 0, time.UTC)
	clock.Set(func() time.Time { return at })
	t.Cleanup(func() { clock.Set(nil); s.Close() })
	return s, &at
}

func put(t *testing.T, s *queue.Spool, from string, to ...string) string {
	t.Helper()
	e := &envelope.Envelope{UID: -1}
	var err error
	if from != "" {
		e.From, err = address.Parse(from)
	}
	for _, one := range to {
		var p address.Path
		if err == nil {
			p, err = address.Parse(one)
		}
		e.Rcpts = append(e.Rcpts, envelope.Recipient{To: p})
	}
	if err != nil {
		t.Fatal(err)
	}
	w, err := s.Create(e)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort()
	if _, err := w.Write([]byte("Subject: \x1b[2J\r\n\r\nh\u00e9\u2028\xff\r\n")); err != nil {
		t.Fatal(err)
	}
	if err := w.Commit(); err != nil {
		t.Fatal(err)
	}
	return w.ID()
}

func change(t *testing.T, s *queue.Spool, id string, f func(st *queue.State)) {
	t.Helper()
	m, err := s.ClaimUnread(id)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	f(&m.State)
	if err := m.Record(false); err != nil {
		t.Fatal(err)
	}
}

// safe fails when a text has what a terminal could take for a command.
func safe(t *testing.T, text string) {
	t.Helper()
	for _, r := range text {
		if r != '\n' && !unicode.IsPrint(r) {
			t.Errorf("%q in %q", r, text)
		}
	}
}

func TestList(t *testing.T) {
	s, _ := open(t)
	id := put(t, s, "", "b@y.example", "done@y.example", `"\`+"\u202e"+`"@z.example`, "c@x.example")
	change(t, s, id, func(st *queue.State) {
		st.Attempts, st.Hold, st.Expire = 1, true, true
		full := status.Temporary(452, "4.2.2", "full\u009b\x1b]0;", nil)
		st.Rcpts[0] = queue.Outcome{Last: full, Relay: "mx.y.example[192.0.2.7]:25", Said: true}
		st.Rcpts[1].Progress = queue.Relayed
		st.Rcpts[2] = queue.Outcome{Last: status.Temporary(451, "4.4.1", "no answer", nil)}
	})
	m, err := s.Peek(id)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	var b strings.Builder
	List(&b, m)
	at := m.Envelope.Arrival.Local().Format("Mon Jan _2 15:04:05")
	want := id + `!       26 ` + at + ` MAILER-DAEMON
                      (is given up at the next attempt)
                      (mx.y.example[192.0.2.7]:25: 452 4.2.2 full??]0;)
                                                   b@y.example
                      (451 4.4.1 no answer)
                                                   ?@z.example
                                                   c@x.example

`
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
	var js strings.Builder
	if err := JSON(&js, m); err != nil {
		t.Fatal(err)
	}
	safe(t, js.String())
	var back struct {
		From, To   string
		Recipients []struct{ To, Text string }
	}
	if err := json.Unmarshal([]byte(js.String()), &back); err != nil || back.From != "" || back.Recipients[2].To != m.Envelope.Rcpts[2].To.String() {
		t.Errorf("%v: %s gives %+v", err, js.String(), back)
	}
	var whole, shown strings.Builder
	if err := Show(&whole, m); err != nil || !strings.HasSuffix(whole.String(), "\n\nSubject: \x1b[2J\r\n\r\nh\u00e9\u2028\xff\r\n") || !strings.Contains(whole.String(), "Expire: yes") {
		t.Errorf("%v: %q", err, whole.String())
	}
	if err := Show(Terminal(&shown), m); err != nil || !strings.HasSuffix(shown.String(), "\n\nSubject: ?[2J\n\nh\u00e9??\n") {
		t.Errorf("%v: %q", err, shown.String())
	}
	safe(t, shown.String())
}

// TestTerminal: the same comes out wherever the text is cut.
func TestTerminal(t *testing.T) {
	const text = "a\tb\r\nc\rd\x1b[2J\x9b\u009b\u2028\u202e h\u00e9\u4e2d\U0001f600\xe4\xb8\n\x7f\ufffd."
	const want = "a\tb\nc?d?[2J???? h\u00e9\u4e2d\U0001f600??\n??."
	for i := range len(text) {
		for j := i; j < len(text); j++ {
			var b strings.Builder
			w := Terminal(&b)
			for _, part := range []string{text[:i], text[i:j], text[j:]} {
				if n, err := w.Write([]byte(part)); n != len(part) || err != nil {
					t.Fatal(n, err)
				}
			}
			if b.String() != want {
				t.Fatalf("cut at %d and %d: got %q, want %q", i, j, b.String(), want)
			}
		}
	}
}

// FuzzEscapeJSON: a string comes back as it was, and is fit for a terminal on the way.
func FuzzEscapeJSON(f *testing.F) {
	f.Add("a\u009b\u202e\U000e0001\\u\"\n\x7f")
	f.Fuzz(func(t *testing.T, s string) {
		s = strings.ToValidUTF8(s, "?")
		var b strings.Builder
		if err := Encode(&b, s); err != nil {
			t.Fatal(err)
		}
		safe(t, b.String())
		var back string
		if err := json.Unmarshal([]byte(b.String()), &back); err != nil || back != s {
			t.Fatalf("%q gives %s, then %q, %v", s, b.String(), back, err)
		}
	})
}

func TestClasses(t *testing.T) {
	for age, want := range map[time.Duration]string{
		-time.Hour: "5m", 0: "5m", 5*time.Minute - 1: "5m", 5 * time.Minute: "10m", 39 * time.Minute: "40m", 80 * time.Minute: "160m",
		1280*time.Minute - 1: "1280m", 1280 * time.Minute: "1280m+", 1000 * time.Hour: "1280m+",
	} {
		if got := className(classOf(age)); got != want {
			t.Errorf("%v: got %s, want %s", age, got, want)
		}
	}
}

func TestSummary(t *testing.T) {
	s, now := open(t)
	old := put(t, s, "a@x.example", "a@y.example", "b@y.example", "c@Y.example", "d@b\u00fccher.example")
	change(t, s, old, func(st *queue.State) { st.Rcpts[1].Progress = queue.Delivered })
	*now = now.Add(time.Hour)
	put(t, s, "", "a@y.example")
	put(t, s, "", "a@xn--bcher-kva.example")
	put(t, s, "", "a@a.example")
	*now = now.Add(6 * time.Minute)
	all, err := Choose(s, &Filter{})
	if err != nil {
		t.Fatal(err)
	}
	sum := Summarize(all, func(id string, err error) { t.Error(id, err) })
	var table, js strings.Builder
	if err := sum.Table(&table); err != nil {
		t.Fatal(err)
	}
	const want = `                      T 5m 10m 20m 40m 80m 160m 320m 640m 1280m 1280m+
                TOTAL 6  0   3   0   0   3    0    0    0     0      0
            y.example 3  0   1   0   0   2    0    0    0     0      0
xn--bcher-kva.example 2  0   1   0   0   1    0    0    0     0      0
            a.example 1  0   1   0   0   0    0    0    0     0      0
`
	if table.String() != want {
		t.Errorf("got\n%s\nwant\n%s", table.String(), want)
	}
	if err := sum.JSON(&js); err != nil {
		t.Fatal(err)
	}
	const wantJSON = `{"messages":4,"total":6,"5m":0,"10m":3,"20m":0,"40m":0,"80m":3,"160m":0,"320m":0,"640m":0,"1280m":0,"1280m+":0}
{"domain":"y.example","total":3,"5m":0,"10m":1,"20m":0,"40m":0,"80m":2,"160m":0,"320m":0,"640m":0,"1280m":0,"1280m+":0}
`
	if !strings.HasPrefix(js.String(), wantJSON) || strings.Count(js.String(), "\n") != 4 {
		t.Errorf("got\n%s\nwant\n%s", js.String(), wantJSON)
	}
	if some, err := Choose(s, &Filter{Older: time.Hour}); err != nil || len(some.found) != 1 {
		t.Errorf("older: %v, %d", err, len(some.found))
	}
}

// TestEach: all come in order, whoever works on them, in windows, and wherever they lie on the disk; what has gone is passed over, unless it was asked for.
func TestEach(t *testing.T) {
	dir := t.TempDir() + "/spool"
	s, err := queue.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var want []string
	for range firstWindow + 50 {
		want = append(want, put(t, s, "", "a@y.example"))
	}
	for i := range 20 { // the oldest get the youngest inodes
		path := dir + "/queue/" + want[20-i]
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(os.WriteFile(path+"~", b, 0o600), os.Rename(path+"~", path)); err != nil {
			t.Fatal(err)
		}
	}
	all, err := Choose(s, &Filter{})
	if err != nil {
		t.Fatal(err)
	}
	m, err := s.Claim(want[50])
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Remove(); err != nil {
		t.Fatal(err)
	}
	m.Close()
	ids := func(sel *Selection) (got []string, failed int) {
		Each(sel, func(m *queue.Message) (string, error) {
			defer m.Close()
			return m.ID(), nil
		}, func(id, v string, err error) {
			if err != nil {
				failed++
				return
			}
			got = append(got, id)
			if id != v {
				t.Errorf("%s came as %s", v, id)
			}
		})
		return got, failed
	}
	got, failed := ids(all)
	if left := append(append([]string(nil), want[:50]...), want[51:]...); fmt.Sprint(got) != fmt.Sprint(left) || failed != 0 {
		t.Errorf("got %v and %d failures, want %v", got, failed, left)
	}
	asked, err := Choose(s, &Filter{IDs: []string{want[60], want[50], want[3]}})
	if err != nil {
		t.Fatal(err)
	}
	if got, failed := ids(asked); fmt.Sprint(got) != fmt.Sprint([]string{want[60], want[3]}) || failed != 1 {
		t.Errorf("asked for: got %v and %d failures", got, failed)
	}
}

// leaves takes a message out of the queue when it is first written to.
type leaves struct {
	strings.Builder
	gone func()
}

func (l *leaves) Write(p []byte) (int, error) {
	l.gone()
	l.gone = func() {}
	return l.Builder.Write(p)
}

// TestShowAll: what leaves the queue while others are shown is passed over.
func TestShowAll(t *testing.T) {
	s, _ := open(t)
	put(t, s, "a@x.example", "a@y.example")
	second := put(t, s, "b@x.example", "a@y.example")
	put(t, s, "c@x.example", "a@y.example")
	all, err := Choose(s, &Filter{})
	if err != nil {
		t.Fatal(err)
	}
	w := &leaves{gone: func() {
		m, err := s.Claim(second)
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		if err := m.Remove(); err != nil {
			t.Fatal(err)
		}
	}}
	err = ShowAll(w, all, true, func(id string, err error) { t.Errorf("%s: %v", id, err) })
	if got := w.String(); err != nil || strings.Count(got, "\n") != 2 || !strings.Contains(got, "a@x.example") || !strings.Contains(got, "c@x.example") {
		t.Errorf("%v, %s", err, got)
	}
}

func TestHealth(t *testing.T) {
	s, now := open(t)
	held := put(t, s, "h@x.example", "a@y.example")
	change(t, s, held, func(st *queue.State) { st.Hold = true })
	*now = now.Add(48 * time.Hour)
	put(t, s, "a@x.example", "a@y.example")
	*now = now.Add(2*time.Hour + 5*time.Minute + 7*time.Second)
	put(t, s, "a@x.example", "a@y.example")
	*now = now.Add(1)
	none := Limits{WarnAge: -1, CritAge: -1, WarnCount: -1, CritCount: -1}
	for _, c := range []struct {
		filter  Filter
		limits  func(l *Limits)
		verdict int
		want    string
	}{
		{Filter{}, func(l *Limits) {}, Healthy, "MAILQ OK: 3 messages, the oldest waits for 2h5m | messages=3;;;0; oldest=7507s;;;0;"},
		{Filter{From: "@"}, func(l *Limits) { l.WarnCount = 3 }, Healthy, "MAILQ OK: 3 messages, the oldest waits for 2h5m | messages=3;3;;0; oldest=7507s;;;0;"},
		{Filter{}, func(l *Limits) { l.WarnCount, l.CritAge = 2, 3*time.Hour }, Warning,
			"MAILQ WARNING: 3 messages (more than 2), the oldest waits for 2h5m | messages=3;2;;0; oldest=7507s;;10800;0;"},
		{Filter{}, func(l *Limits) { l.WarnAge, l.CritAge = time.Hour, 3*time.Hour }, Warning,
			"MAILQ WARNING: 3 messages, the oldest waits for 2h5m (longer than 1h) | messages=3;;;0; oldest=7507s;3600;10800;0;"},
		{Filter{}, func(l *Limits) { l.CritCount, l.WarnAge = 0, 0 }, Critical,
			"MAILQ CRITICAL: 3 messages (more than 0), the oldest waits for 2h5m (longer than 0s) | messages=3;;0;0; oldest=7507s;0;;0;"},
		{Filter{}, func(l *Limits) { l.WarnCount, l.CritAge = 1, 2*time.Hour }, Critical,
			"MAILQ CRITICAL: 3 messages (more than 1), the oldest waits for 2h5m (longer than 2h) | messages=3;1;;0; oldest=7507s;;7200;0;"},
		{Filter{From: "h@"}, func(l *Limits) { l.CritAge = 0 }, Healthy, "MAILQ OK: 1 message, none waits | messages=1;;;0; oldest=0s;;0;0;"},
	} {
		limits := none
		c.limits(&limits)
		chosen, err := Choose(s, &c.filter)
		if err != nil {
			t.Fatal(err)
		}
		if verdict, got := Health(chosen, limits); got != c.want || verdict != c.verdict {
			t.Errorf("%+v: got  %d %s\nwant %d %s", limits, verdict, got, c.verdict, c.want)
		}
	}
	if verdict, got := Unhealthy(fmt.Errorf("a|b\x1b\nc")); verdict != Unknown || got != "MAILQ UNKNOWN: a/b?" {
		t.Errorf("got %d %s", verdict, got)
	}
}

func TestBrief(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", time.Millisecond: "0s", 59 * time.Second: "59s", time.Minute: "1m", 61 * time.Second: "1m1s", time.Hour + time.Second: "1h",
		50*time.Hour + 3*time.Minute: "2d2h", 48 * time.Hour: "2d",
	} {
		if got := brief(d); got != want {
			t.Errorf("%v: got %s, want %s", d, got, want)
		}
	}
}

func TestProgress(t *testing.T) {
	at := time.Date(2026, 11, 20, 0, 0, 0, 0, time.UTC)
	clock.Set(func() time.Time { return at })
	defer clock.Set(nil)
	var b strings.Builder
	p := NewProgress(&b)
	p.Step(0, 1000)
	p.Clear()
	at = at.Add(time.Second + 1)
	p.Step(64, 1000)
	p.Step(128, 1000)
	at = at.Add(time.Second)
	p.Step(192, 1000)
	p.Clear()
	p.Clear()
	if want := "\r64 of 1000 (6%)\x1b[K\r192 of 1000 (19%)\x1b[K\r\x1b[K"; b.String() != want {
		t.Errorf("got %q, want %q", b.String(), want)
	}
	var none *Progress
	none.Step(0, 1)
	none.Clear()
}
