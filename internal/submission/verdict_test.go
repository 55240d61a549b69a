package submission

import (
	"fmt"
	"testing"

	"github.com/postel-mail/postel/internal/address"
	"github.com/postel-mail/postel/internal/queue"
	"github.com/postel-mail/postel/internal/status"
	"github.com/postel-mail/postel/internal/sysexits"
)

func TestVerdict(t *testing.T) {
	outcome := func(p queue.Progress, s *status.Error) queue.News {
		return queue.News{To: address.Path{Local: "a", Domain: "b.example"}, Outcome: queue.Outcome{Progress: p, Last: s, Relay: "mx[192.0.2.1]:25", Said: true}}
	}
	var (
		untried   queue.News
		delivered = outcome(queue.Delivered, nil)
		relayed   = outcome(queue.Relayed, nil)
		deferred  = outcome(queue.Waiting, status.Temporary(450, "4.2.1", "busy", nil))
		noUser    = outcome(queue.Failed, status.Permanent(550, "5.1.1", "no such user", nil))
		noHost    = outcome(queue.Failed, status.Permanent(550, "5.1.2", "no such domain", nil))
		refused   = outcome(queue.Failed, status.Permanent(554, "5.7.1", "spam \x1b[2J", nil))
		garbled   = outcome(queue.Failed, status.Permanent(554, "5.6.0", "what", nil))
		given     = outcome(queue.Failed, status.Temporary(450, "4.2.1", "busy", nil))
		wordless  = queue.News{To: address.Path{Local: "a b", Domain: "c"}, Outcome: queue.Outcome{Progress: queue.Failed}}
	)
	noHost.Said, noHost.Relay = false, ""
	deferred.Said = false
	const (
		again  = "message ID stays in the queue and will be tried again"
		lost   = "a@b.example: failed: mx[192.0.2.1]:25 said 550 5.1.1 no such user"
		busy   = "a@b.example: deferred: mx[192.0.2.1]:25: 450 4.2.1 busy"
		nobody = "a@b.example: failed: 550 5.1.2 no such domain"
	)
	for _, c := range []struct {
		rcpts []queue.News
		exit  int
		text  string
	}{
		{nil, 75, "message ID stays in the queue: no runner took it within 5m"},
		{[]queue.News{delivered, relayed}, 0, "<nil>"},
		{[]queue.News{delivered, deferred}, 75, busy + "\n" + again},
		{[]queue.News{delivered, untried, untried}, 75, "message ID stays in the queue: nothing is known of 2 of 3 recipients within 5m"},
		{[]queue.News{deferred, untried}, 75, busy + "\nmessage ID stays in the queue: nothing is known of 1 of 2 recipients within 5m"},
		{[]queue.News{noUser, delivered}, 67, lost},
		{[]queue.News{noUser, noHost}, 68, lost + "\n" + nobody},
		{[]queue.News{noHost, noUser, deferred}, 68, nobody + "\n" + lost + "\n" + busy + "\n" + again},
		{[]queue.News{noUser, untried}, 67, lost + "\nmessage ID stays in the queue: nothing is known of 1 of 2 recipients within 5m"},
		{[]queue.News{refused}, 69, "a@b.example: failed: mx[192.0.2.1]:25 said 554 5.7.1 spam ?[2J"},
		{[]queue.News{garbled}, 65, "a@b.example: failed: mx[192.0.2.1]:25 said 554 5.6.0 what"},
		{[]queue.News{given}, 69, "a@b.example: failed: mx[192.0.2.1]:25 said 450 4.2.1 busy"},
		{[]queue.News{wordless}, 69, `"a b"@c: failed: no reason is known`},
	} {
		err := Verdict("ID", c.rcpts, "within 5m")
		if got := fmt.Sprint(err); got != c.text || sysexits.Of(err) != c.exit {
			t.Errorf("%+v: got %d\n%s\nwant %d\n%s", c.rcpts, sysexits.Of(err), got, c.exit, c.text)
		}
	}
	for _, r := range []struct {
		news queue.News
		want string
	}{{relayed, "a@b.example: relayed to mx[192.0.2.1]:25"}, {delivered, "a@b.example: delivered"}} {
		if got := Line(&r.news); got != r.want {
			t.Errorf("got %q, want %q", got, r.want)
		}
	}
}
