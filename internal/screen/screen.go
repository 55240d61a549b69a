// Package screen judges who knocks at a mail exchanger, by what is known before there is a message: whether the client waits for its turn, what DNS block and allow
// lists have on its address (RFC 5782), whether the address has a name, whether the client calls itself by our name, and whether it comes again when it is asked to
// (greylisting, RFC 6647).
//
// It takes plain values and gives a *status.Error for what is to be refused. It knows neither protocol nor network: the DNS is three functions, and what
// outlives a connection is in a ledger. What cannot be found out counts for the client. Lists of content, SPF and
// reputation are not here.
//
// Everything that is refused is refused at RCPT, and never for postmaster and abuse: whoever is refused by mistake can tell somebody (RFC 5321 4.5.1), and
// the log says whose mail it was. Only who speaks before the greeting is sent away at once, because no human is there to be told.
package screen

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/postel-mail/postel/internal/address"
	"github.com/postel-mail/postel/internal/clock"
	"github.com/postel-mail/postel/internal/ledger"
	"github.com/postel-mail/postel/internal/status"
)

const (
	// LookupTime bounds all look-ups about one client together.
	LookupTime = 5 * time.Second
	maxLookups = 200            // at once, of all clients
	quietFor   = 24 * time.Hour // so long a client need not show again that it waits
	tellEvery  = time.Hour      // a problem that lasts
	maxText    = 200            // octets of a list's own text in a reply
)

// Rules are what a Screen goes by. The zero value lets everybody pass.
type Rules struct {
	GreetDelay time.Duration // the wait before the greeting; 0: none
	Lists      []List
	RefuseAt   int           // the score from which on a client is refused
	NoName     int           // what a client scores whose address has no name that leads back to it
	OwnName    bool          // refuse who calls itself Hostname, or by the address that it connected to
	Greylist   time.Duration // how long somebody unknown has to wait before the second attempt; 0: no greylisting

	Hostname string
	Ledger   *ledger.Ledger // nil: nothing is remembered, and nobody greylisted

	// The DNS. Errors are temporary. They must end when their context does.
	Listed     func(ctx context.Context, ip netip.Addr, list string) ([]netip.Addr, error)
	ListText   func(ctx context.Context, ip netip.Addr, list string) (string, error)
	ClientName func(ctx context.Context, ip netip.Addr) (string, error) // checked in both directions; "" for none

	// Problem is told what is wrong on this side, each thing once an hour at most.
	Problem func(error)
}

// Screen applies rules. It may be used by many goroutines.
type Screen struct {
	Rules
	slots chan struct{} // look-ups
	mu    sync.Mutex
	told  map[string]time.Time // problems
}

// New makes a Screen.
func New(r Rules) *Screen {
	return &Screen{Rules: r, slots: make(chan struct{}, maxLookups), told: map[string]time.Time{}}
}

// tell tells a problem, unless one about the same thing was told lately.
func (s *Screen) tell(about string, err error) {
	s.mu.Lock()
	last, ok := s.told[about]
	if now := clock.Now(); !ok || now.Sub(last) >= tellEvery || now.Before(last) {
		s.told[about], ok = now, false
	}
	s.mu.Unlock()
	if !ok && s.Problem != nil {
		s.Problem(err)
	}
}

// noteLedger tells of a ledger that fails: then everybody counts as known.
func (s *Screen) noteLedger(err error) {
	if err != nil {
		s.tell("ledger", fmt.Errorf("screen: what is known of clients cannot be used: %w", err))
	}
}

// Client is one connection. Its methods are for one goroutine; all may be called on nil, a client that is not judged.
type Client struct {
	s       *Screen
	ip      netip.Addr
	network string // as greylisting knows it
	cancel  context.CancelFunc
	done    chan struct{} // closed when there is a verdict
	verdict Verdict
	known   bool // by its network: not greylisted
	proven  bool // it came again, and may become known
}

// Verdict is what the DNS says of a client.
type Verdict struct {
	Name    string // checked in both directions; "" for none
	Score   int
	Text    string // what the score is made of: "zen.example=3 no_name=1"
	Refusal error  // a *status.Error, or nil
}

// Begin takes up a new client, of whom an address may not be known. The look-ups begin at once, and go on until End.
func (s *Screen) Begin(ip netip.Addr) *Client {
	ip = ip.Unmap().WithZone("")
	ctx, cancel := context.WithTimeout(context.Background(), LookupTime)
	c := &Client{s: s, ip: ip, network: network(ip, 24), cancel: cancel, done: make(chan struct{})}
	if !ip.IsValid() || len(s.Lists) == 0 && s.NoName == 0 {
		close(c.done)
		return c
	}
	go func() {
		defer close(c.done)
		c.look(ctx)
	}()
	return c
}

// network names what counts as one client: an IPv6 /64, or an IPv4 network of that many bits; "" for an address that is not known.
func network(ip netip.Addr, bits int) string {
	if !ip.IsValid() {
		return ""
	}
	if ip.Is6() {
		bits = 64
	}
	p, _ := ip.Prefix(bits)
	return p.String()
}

// End ends what is under way for a client that has left.
func (c *Client) End() {
	if c != nil {
		c.cancel()
	}
}

// Delay is how long the greeting is to be held back; 0 for a client that has lately waited, and for one without an address: that is a proxy that looks whether we are well,
// which does not wait, or whom a proxy does not know, and who would have to wait each time.
func (c *Client) Delay() time.Duration {
	if c == nil || c.s.GreetDelay == 0 || !c.ip.IsValid() {
		return 0
	}
	if c.s.Ledger != nil {
		waited, err := c.s.Ledger.Get(c.quietKey())
		if c.s.noteLedger(err); waited != "" {
			return 0
		}
	}
	return c.s.GreetDelay
}

func (c *Client) quietKey() string { return "quiet " + network(c.ip, 32) }

// Waited notes that the client has waited for its turn.
func (c *Client) Waited() {
	if c != nil && c.ip.IsValid() && c.s.Ledger != nil {
		c.s.noteLedger(c.s.Ledger.Update(c.quietKey(), func(string) (string, time.Duration) { return "1", quietFor }))
	}
}

// Spoke is the refusal of a client that said something before the greeting; the connection ends with it.
func (c *Client) Spoke(said []byte) error {
	return status.Permanent(521, "5.5.1", "Protocol error, you spoke before the greeting", fmt.Errorf("spoke before the greeting: %q", said))
}

// Verdict waits for the look-ups to be over, which is LookupTime after Begin at the latest.
func (c *Client) Verdict() Verdict {
	if c == nil {
		return Verdict{}
	}
	<-c.done
	return c.verdict
}

// Refuse says whether mail of the client for to is refused, whoever sends it: nil, or a *status.Error. helo is what the client calls itself, local the address that it
// connected to, which need not be valid.
func (c *Client) Refuse(helo string, local netip.Addr, to address.Path) error {
	switch {
	case c == nil || isRole(to):
		return nil
	case c.s.OwnName && c.s.isOwn(helo, local):
		return status.Permanent(550, "5.7.1", "You call yourself "+printable(helo, 100)+", which is this host", nil)
	}
	return c.Verdict().Refusal
}

// isRole reports whether an address must be open to those who are refused (RFC 5321 4.5.1, RFC 2142).
func isRole(p address.Path) bool {
	return strings.EqualFold(p.Local, "postmaster") || strings.EqualFold(p.Local, "abuse")
}

// isOwn reports whether a client, which is not this host, calls itself by our name. That another name is not the client's is no reason to refuse mail (RFC 5321 4.1.4).
func (s *Screen) isOwn(helo string, local netip.Addr) bool {
	if strings.EqualFold(strings.TrimSuffix(helo, "."), s.Hostname) {
		return true
	}
	ip, ok := (address.Path{Domain: helo}).Literal()
	if !ok {
		var err error
		if ip, err = netip.ParseAddr(helo); err != nil {
			return false
		}
	}
	return local.IsValid() && ip.Unmap() == local.Unmap()
}

// look makes all look-ups about the client, at once, and the verdict.
func (c *Client) look(ctx context.Context) {
	hits := make([]bool, len(c.s.Lists))
	name, named := "", errors.New("not looked up") // with an error nobody knows whether there is a name
	var all sync.WaitGroup
	do := func(f func()) {
		all.Go(func() {
			defer func() {
				if v := recover(); v != nil { // in a goroutine of its own it would end the program
					c.s.tell("bug", fmt.Errorf("screen: bug, please report it: %v", v))
				}
			}()
			select {
			case c.s.slots <- struct{}{}:
				defer func() { <-c.s.slots }()
				f()
			case <-ctx.Done():
			}
		})
	}
	for i, l := range c.s.Lists {
		do(func() { hits[i] = c.s.has(ctx, l, c.ip) })
	}
	do(func() { name, named = c.s.ClientName(ctx, c.ip) })
	all.Wait()
	noName := named == nil && name == ""
	v := Verdict{Name: name}
	var text []string
	worst := -1 // the block list that counts most
	for i, l := range c.s.Lists {
		if hits[i] {
			v.Score += l.Weight
			text = append(text, fmt.Sprintf("%s=%d", l.Domain, l.Weight))
			if l.Weight > 0 && (worst < 0 || l.Weight > c.s.Lists[worst].Weight) {
				worst = i
			}
		}
	}
	listed := v.Score
	if noName && c.s.NoName != 0 {
		v.Score += c.s.NoName
		text = append(text, fmt.Sprintf("no_name=%d", c.s.NoName))
	}
	v.Text = strings.Join(text, " ")
	if v.Score >= c.s.RefuseAt && v.Score > 0 {
		cause := fmt.Errorf("score %d: %s", v.Score, v.Text)
		if worst < 0 || listed < c.s.RefuseAt && noName && c.s.NoName > 0 {
			v.Refusal = status.Permanent(550, "5.7.25", "Your address "+c.ip.String()+" has no name that leads back to it", cause) // RFC 7372 3.3
		} else {
			list, why := c.s.Lists[worst].Domain, ""
			do(func() { why, _ = c.s.ListText(ctx, c.ip, list) }) // without it the list's name must do
			all.Wait()
			if why = printable(why, maxText); why != "" {
				why = ": " + why
			}
			v.Refusal = status.Permanent(550, "5.7.1", "Your address "+c.ip.String()+" is listed by "+list+why, cause)
		}
	}
	c.verdict = v
}

// has asks a list for an address. What is not understood counts as no: a failure, a list that does not answer us, and one that has every address, as
// lists do that are given up. RFC 5782 5 has 127.0.0.1 for that, which no list may have.
func (s *Screen) has(ctx context.Context, l List, ip netip.Addr) bool {
	addrs, err := s.Listed(ctx, ip, l.Domain)
	if err != nil {
		return false
	}
	for _, a := range addrs {
		if troubles.Contains(a) {
			s.tell(l.Domain, fmt.Errorf("screen: the list %s does not answer our questions, it says %s: this host may need another DNS server, or a key", l.Domain, a))
		}
	}
	if !l.has(addrs) {
		return false
	}
	addrs, err = s.Listed(ctx, netip.AddrFrom4([4]byte{127, 0, 0, 1}), l.Domain)
	if l.has(addrs) {
		s.tell(l.Domain, fmt.Errorf("screen: the list %s has every address, and is not used", l.Domain))
		return false
	}
	return err == nil
}

// printable makes what a stranger wrote fit for a reply: printable ASCII, at most max octets.
func printable(s string, max int) string {
	b := []byte(s[:min(len(s), max)])
	for i, c := range b {
		if c < ' ' || c >= 0x7f {
			b[i] = '?'
		}
	}
	return strings.TrimSpace(string(b))
}
