package trace

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/postel-mail/postel/internal/address"
	"github.com/postel-mail/postel/internal/maillog"
	"github.com/postel-mail/postel/internal/status"
)

func TestParse(t *testing.T) {
	const rest = "level=info prog=qmgr event=removed id=x"
	for line, want := range map[string]string{
		"time=2026-11-23T17:50:04.562Z " + rest: `"" [{time 2026-11-23T17:50:04.562Z} {level info} {prog qmgr} {event removed} {id x}]`,
		rest:                                    `"" [{level info} {prog qmgr} {event removed} {id x}]`,
		"Nov 23 17:50:04 mail postel/qmgr[1]: " + rest:               `"Nov 23 17:50:04 mail postel/qmgr[1]:" [{level info} {prog qmgr} {event removed} {id x}]`,
		"x " + rest + ` text="a \"b\" \\ c" n=1`:                     `"x" [{level info} {prog qmgr} {event removed} {id x} {text a "b" \ c} {n 1}]`,
		"x " + rest + ` text="cut off her`:                           `"x" [{level info} {prog qmgr} {event removed} {id x}]`,
		`{"level":"info","prog":"p","event":"e","text":"<a>\u2028"}`: `"" [{level info} {prog p} {event e} {text <a>` + "\u2028" + `}]`,
		`h p[1]: {"time":"t","level":"i","prog":"p","event":"e","te`: `"h p[1]:" [{time t} {level i} {prog p} {event e}]`,
		`level=info prog=x`:                                          `no`,
		`level=info event=x prog="a`:                                 `no`,
		`xlevel=info prog=x event=y`:                                 `no`,
		`{"level":1,"prog":"p","event":"e"}`:                         `no`,
		`{"level":{},"prog":"p","event":"e"}`:                        `no`,
		`panic: oops`:                                                `no`,
		``:                                                           `no`,
		rest + " " + strings.Repeat("a", maxLine):                    `no`,
	} {
		got := "no"
		if e, ok := Parse(line); ok {
			got = fmt.Sprintf("%q %v", e.Prefix, e.Fields)
		}
		if got != want {
			t.Errorf("%s\ngot  %s\nwant %s", line, got, want)
		}
	}
}

func TestTime(t *testing.T) {
	east := time.FixedZone("", 3600)
	now := time.Date(2027, 1, 2, 12, 0, 0, 0, east)
	for line, want := range map[string]string{
		"time=2026-11-23T17:50:04.562Z":                     "2026-11-23T17:50:04.562Z",
		"Nov 23 17:50:04 host x: time=2026-11-20T00:00:00Z": "2026-11-20T00:00:00Z",
		"2026-11-23T17:50:04.562133+02:00 host x:":          "2026-11-23T15:50:04.562133Z",
		"2026-11-23T17:50:04+0200 host x:":                  "2026-11-23T15:50:04Z",
		"<22>1 2026-11-23T17:50:04.5Z host x - - -":         "2026-11-23T17:50:04.5Z",
		"<22>Nov 23 17:50:04 x[1]:":                         "2026-11-23T16:50:04Z",
		"Nov 23 17:50:04 host x[1]:":                        "2026-11-23T16:50:04Z",
		"Nov 23 17:50:04.562133 host x[1]:":                 "2026-11-23T16:50:04.562133Z",
		"Jan  1 17:50:04 host x[1]:":                        "2027-01-01T16:50:04Z",
		"Jan  3 01:00:00 host x[1]:":                        "2027-01-03T00:00:00Z",
		"Jan  9 17:50:04 host x[1]:":                        "2026-01-09T16:50:04Z",
		"Feb 29 17:50:04 host x[1]:":                        "no",
		"host x[1]:":                                        "no",
		"Nov 23":                                            "no",
	} {
		got := "no"
		e, _ := Parse(line + " level=info prog=x event=y")
		if at, ok := e.Time(now); ok {
			got = at.UTC().Format(time.RFC3339Nano)
		}
		if got != want {
			t.Errorf("%s: got %s, want %s", line, got, want)
		}
	}
}

// FuzzParse: no line makes it fail, and what it gives is JSON that says the same.
func FuzzParse(f *testing.F) {
	f.Add(`Nov 23 17:50:04 mail postel/qmgr[1]: level=info prog=qmgr event=removed id=x text="a \"b\""`)
	f.Add(`<22>1 2026-11-23T17:50:04Z h {"time":"2026-11-23T17:50:04.562Z","level":"info","prog":"p","event":"e","a":"\ud800"}`)
	f.Fuzz(func(t *testing.T, line string) {
		e, ok := Parse(line)
		if !ok {
			return
		}
		e.Time(now)
		js := e.AppendJSON(nil)
		if !json.Valid(js) {
			t.Fatalf("%q gives %s", line, js)
		}
		again, ok := Parse(string(js))
		if !ok && (strings.HasPrefix(string(js), `{"level"`) || strings.HasPrefix(string(js), `{"time"`)) && len(js) < maxLine {
			t.Fatalf("%q gives %s, which is not understood", line, js)
		}
		if ok && len(again.Fields) != len(e.Fields) {
			t.Fatalf("%q gives %v, then %v", line, e.Fields, again.Fields)
		}
	})
}

// FuzzLog: what the log writes is read back.
func FuzzLog(f *testing.F) {
	f.Add("a", "b\n\"c\"\u2028 d=e \\")
	f.Fuzz(func(t *testing.T, local, text string) {
		var b strings.Builder
		to := address.Path{Local: local, Domain: "x.example"}
		maillog.ToWriter(&b, "qmgr").Bounced(maillog.Delivery{ID: "x", To: to}, status.Permanent(550, "5.0.0", text, nil))
		e, ok := Parse(strings.TrimSuffix("Nov 23 17:50:04 h p[1]: "+b.String(), "\n"))
		if !ok || e.Get("to") != status.Clean(to.Angle()) || e.Get("text") != status.Clean(text) {
			t.Fatalf("%s gives %v", b.String(), e.Fields)
		}
	})
}
