package maillog

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/postel-mail/postel/internal/address"
	"github.com/postel-mail/postel/internal/clock"
	"github.com/postel-mail/postel/internal/status"
)

func TestLine(t *testing.T) {
	clock.Set(func() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 6e6, time.UTC) })
	defer clock.Set(nil)
	var b strings.Builder
	l := ToWriter(&b, "qmgr")
	to := address.Path{Local: "bob", Domain: "south.example"}
	l.Deferred(Delivery{ID: "0x", To: to, Dest: "mx:", Relay: "mx.south.example[192.0.2.1]:25", Delay: 1500 * time.Millisecond},
		time.Date(2026, 1, 2, 4, 0, 0, 0, time.UTC), status.Temporary(450, "4.2.1", "busy\r\nlevel=info \x1b[2J", errors.New(`a "b"`)))
	want := `time=2026-01-02T03:04:05.006Z level=warning prog=qmgr event=deferred id=0x to=<bob@south.example> dest=mx: ` +
		`relay=mx.south.example[192.0.2.1]:25 delay=1.500s next=2026-01-02T04:00:00Z code=450 enhanced=4.2.1 ` +
		`text="busy??level=info ?[2J" cause="a \"b\""` + "\n"
	if b.String() != want {
		t.Errorf("got  %s\nwant %s", b.String(), want)
	}
}

// FuzzLine: whatever a peer sends, an event is one line, and its JSON form parses.
func FuzzLine(f *testing.F) {
	f.Add("a b\n\"c\"\u2028")
	f.Fuzz(func(t *testing.T, s string) {
		var text, js strings.Builder
		ToWriter(&text, "x").Disconnect(s, s)
		l := ToWriter(&js, "x")
		l.json = true
		l.Disconnect(s, s)
		for _, out := range []string{text.String(), js.String()} {
			if strings.Count(out, "\n") != 1 || strings.ContainsAny(out, "\r\x1b\x00\u2028") {
				t.Errorf("not one clean line: %q", out)
			}
		}
		var m map[string]string
		if err := json.Unmarshal([]byte(js.String()), &m); err != nil {
			t.Errorf("%v: %q", err, js.String())
		}
	})
}
