package transport

import (
	"strconv"
	"strings"
	"testing"

	"github.com/postel-mail/postel/internal/destination"
)

// TestAsk: the next hops are asked in their order, each over a session that ends with the answer.
func TestAsk(t *testing.T) {
	const begin = "S: 220 mx.example\nC: EHLO me.example\nS: 250 mx.example\nC: MAIL FROM:<>\nS: 250 ok\nC: RCPT TO:<bob@x.example>\n"
	const end = "C: RSET\nS: 250 ok\nC: QUIT\nS: 221 bye\n"
	for _, tt := range []struct {
		name    string
		scripts map[string][]string
		dests   []string
		want    string
		reached bool
	}{
		{"yes", map[string][]string{"127.0.0.2": {begin + "S: 250 ok\n" + end}}, []string{"smtp://127.0.0.2"}, "250 ok (remote) at 127.0.0.2[127.0.0.2]:PORT", true},
		{"no, and nobody else is asked", map[string][]string{"127.0.0.2": {begin + "S: 550 5.1.1 who\n" + end}, "127.0.0.3": nil},
			[]string{"smtp://127.0.0.2", "smtp://127.0.0.3"}, "550 5.1.1 who (remote) at 127.0.0.2[127.0.0.2]:PORT", true},
		{"by MX, busy, the next one", map[string][]string{"127.0.0.2": {begin + "S: 452 4.3.1 full\n" + end}, "127.0.0.3": {begin + "S: 250 ok\n" + end}},
			[]string{"mx:"}, "250 ok (remote) at b.example[127.0.0.3]:PORT", true},
		{"out of reach", map[string][]string{"127.0.0.2": {}}, []string{"smtp://127.0.0.2"}, "451 4.4.2 Connection lost at greeting at 127.0.0.2[127.0.0.2]:PORT", false},
		{"a program", nil, []string{"pipe:/bin/false"}, "0 ", false},
		{"nowhere", nil, nil, `451 4.3.5 No way to this destination`, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := &hosts{t: t, mx: map[string]string{}}
			if tt.scripts != nil {
				h = network(t, tt.scripts)
			}
			h.mx["x.example"] = "a.example b.example"
			h.addrs = map[string][]string{"a.example": {"127.0.0.2"}, "b.example": {"127.0.0.3"}}
			tr := h.transport()
			var dests []destination.Destination
			for _, d := range tt.dests {
				dests = append(dests, dest(t, d))
			}
			r := tr.Ask(t.Context(), path(t, "bob@x.example"), dests)
			tr.Close() // waits for QUIT
			got := h.summary([]Result{r})
			if got = strings.ReplaceAll(got, ":"+strconv.Itoa(h.port), ":PORT"); got != tt.want || r.Reached != tt.reached {
				t.Errorf("got %q, reached %v, want %q, %v", got, r.Reached, tt.want, tt.reached)
			}
		})
	}
}
