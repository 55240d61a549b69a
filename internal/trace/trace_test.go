package trace

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

var now = time.Date(2026, 11, 23, 20, 0, 0, 0, time.UTC)

// id makes an id for a test.
func id(n int) string { return fmt.Sprintf("1k0ymwmgnx6%09d", n) }

// pipe hides Seek.
func pipe(s string) Log { return Log{"pipe", struct{ io.Reader }{strings.NewReader(s)}} }

func file(s string) Log { return Log{"file", strings.NewReader(s)} }

func show(lines []Line) string {
	var b strings.Builder
	for _, l := range lines {
		fmt.Fprintf(&b, "%d %s %s %s\n", l.Depth, l.At.UTC().Format("15:04:05.000"), l.Get("event"), l.Get("id")[18:])
	}
	return b.String()
}

func TestFollow(t *testing.T) {
	a, b, c, other := id(1), id(2), id(3), id(4)
	smtpd := `time=2026-11-23T17:50:04.562Z level=info prog=smtpd event=accepted id=` + a + " from=<x@y.example>\n" +
		`time=2026-11-23T17:50:04.570Z level=info prog=smtpd event=accepted id=` + other + " from=<x@y.example>\n"
	qmgr := `Nov 23 17:50:05 mail postel/qmgr[12]: level=info prog=qmgr event=delivered id=` + a + ` to=<b@z.example> code=250 text="2.0.0 Ok: queued as ` + b + "\"\n" +
		`Nov 23 17:50:06 mail postel/qmgr[12]: level=warning prog=qmgr event=bounced id=` + a + " to=<c@z.example> code=550\n" +
		`Nov 23 17:50:06 mail postel/qmgr[12]: level=info prog=qmgr event=report id=` + a + ` report=` + c + " kind=failed\n" +
		`Nov 23 17:50:06 mail postel/qmgr[12]: level=info prog=qmgr event=accepted id=` + c + " from=<>\n" +
		`Nov 23 17:50:06 mail postel/qmgr[12]: level=info prog=qmgr event=removed id=` + a + "\n" +
		"Nov 23 17:50:06 mail kernel: " + a + "\n"
	next := `{"time":"2026-11-23T17:50:04.900Z","level":"info","prog":"smtpd","event":"accepted","id":"` + b + `","from":"<x@y.example>"}` + "\n" +
		`{"time":"2026-11-23T17:50:08.100Z","level":"info","prog":"qmgr","event":"removed","id":"` + b + `"}` // no end
	const want = "0 17:50:04.562 accepted 01\n" +
		"1 17:50:04.900 accepted 02\n" +
		"0 17:50:05.000 delivered 01\n" +
		"0 17:50:06.000 bounced 01\n" +
		"0 17:50:06.000 report 01\n" +
		"1 17:50:06.000 accepted 03\n" +
		"0 17:50:06.000 removed 01\n" +
		"1 17:50:08.100 removed 02\n"
	for name, logs := range map[string][]Log{
		"in order":           {file(smtpd), file(qmgr), file(next)},
		"out of order":       {file(next), file(qmgr), file(smtpd)},
		"pipes":              {pipe(smtpd), pipe(qmgr), pipe(next)},
		"one pipe":           {pipe(next + "\n" + smtpd + qmgr)},
		"a pipe, then files": {pipe(smtpd), file(next), file(qmgr)},
	} {
		if got, err := Follow(a, logs, now); err != nil || show(got) != want {
			t.Errorf("%s: %v, got\n%swant\n%s", name, err, show(got), want)
		}
	}
	// From the report, the line that tells of it; from the next hop's id too.
	if got, _ := Follow(c, []Log{file(qmgr)}, now); show(got) != "0 17:50:06.000 report 01\n0 17:50:06.000 accepted 03\n" {
		t.Errorf("the report: got\n%s", show(got))
	}
	if got, _ := Follow(b, []Log{file(qmgr)}, now); show(got) != "0 17:50:05.000 delivered 01\n" {
		t.Errorf("the next hop: got\n%s", show(got))
	}
	if got, err := Follow(id(99), []Log{file(qmgr)}, now); err != nil || len(got) != 0 {
		t.Errorf("nothing: got %v, %v", got, err)
	}
}

// TestText: lines are given as they stand in the log; one without a time stays behind the one before it.
func TestText(t *testing.T) {
	a := id(1)
	log := "time=2026-11-23T10:00:00Z level=info prog=x event=one id=" + a + "\r\n" +
		"level=info prog=x event=two id=" + a + "\n" +
		"time=2026-11-23T09:00:00Z level=info prog=x event=zero id=" + a
	got, err := Follow(a, []Log{file(log)}, now)
	if err != nil || len(got) != 3 || got[0].Get("event") != "zero" || got[1].Text != "time=2026-11-23T10:00:00Z level=info prog=x event=one id="+a || got[2].Get("event") != "two" {
		t.Errorf("got %v, %+v", err, got)
	}
}

func TestCompressed(t *testing.T) {
	if _, err := Follow(id(1), []Log{file("\x1f\x8b\x08")}, now); err == nil || !strings.Contains(err.Error(), "zcat") {
		t.Errorf("got %v", err)
	}
}

func TestReadError(t *testing.T) {
	broken := errors.New("broken")
	if _, err := Follow(id(1), []Log{{"x", io.MultiReader(strings.NewReader("a\n"), iotestErr{broken})}}, now); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
}

type iotestErr struct{ err error }

func (e iotestErr) Read([]byte) (int, error) { return 0, e.err }

// TestMany: a log that names too many messages costs no more than the bound.
func TestMany(t *testing.T) {
	var log bytes.Buffer
	for i := range maxFollow + 10 {
		fmt.Fprintf(&log, "level=info prog=qmgr event=report id=%s report=%s kind=failed\n", id(0), id(i+1))
	}
	got, err := Follow(id(0), []Log{file(log.String())}, now)
	if !errors.Is(err, ErrMany) || len(got) != maxFollow+10 {
		t.Errorf("got %d lines, %v", len(got), err)
	}
}

// TestWindow: logs that are far larger than the window, with ids that are told of before and behind where they stand, and lines that are too long.
func TestWindow(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for round := range 200 {
		// A tree of messages: each but the first came of one before it. Line n is about message n, line tells[n] says that it came of parent[n].
		n := 1 + rnd.IntN(12)
		var lines []string
		for i := range n {
			lines = append(lines, "level=info prog=x event=accepted id="+id(i)+"\n")
			if i > 0 {
				lines = append(lines, fmt.Sprintf("level=info prog=x event=delivered id=%s text=\"Ok: queued as %s\"\n", id(rnd.IntN(i)), id(i)))
			}
		}
		want := len(lines)
		for range rnd.IntN(100) {
			lines = append(lines, "level=info prog=x event=accepted id="+id(1000+rnd.IntN(1000))+"\n")
		}
		if round%4 == 0 {
			lines = append(lines, strings.Repeat("x", 3000)+"\n")
		}
		rnd.Shuffle(len(lines), func(i, j int) { lines[i], lines[j] = lines[j], lines[i] })
		cut := rnd.IntN(len(lines) + 1)
		tr := &tracer{window: 1000}
		got, err := tr.follow(id(0), []Log{file(strings.Join(lines[:cut], "")), file(strings.Join(lines[cut:], ""))}, now)
		if err != nil || len(got) != want {
			t.Fatalf("round %d: got %d lines, %v; want %d of\n%s", round, len(got), err, want, strings.Join(lines, ""))
		}
	}
}

// TestPipeWindow: what a pipe brought is still known as far as the window goes.
func TestPipeWindow(t *testing.T) {
	early := "level=info prog=x event=accepted id=" + id(2) + "\n"
	late := "level=info prog=x event=delivered id=" + id(1) + " text=\"Ok: queued as " + id(2) + "\"\n"
	other := "level=info prog=x event=accepted id=" + id(3) + "\n"
	for between, want := range map[string]int{"": 2, strings.Repeat(other, 5): 2, strings.Repeat(other, 100): 1} {
		tr := &tracer{window: 1000}
		got, err := tr.follow(id(1), []Log{pipe(early + between + late)}, now)
		if err != nil || len(got) != want {
			t.Errorf("%d octets between: got %d lines, %v; want %d", len(between), len(got), err, want)
		}
	}
}
