package transport

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/postel-mail/postel/internal/address"
	"github.com/postel-mail/postel/internal/clock"
	"github.com/postel-mail/postel/internal/destination"
	"github.com/postel-mail/postel/internal/envelope"
	"github.com/postel-mail/postel/internal/mx"
	"github.com/postel-mail/postel/internal/smtpclient"
	"github.com/postel-mail/postel/internal/status"
)

// Bounds of one attempt, as Postfix has them, so that a domain with many mail hosts cannot hold it for long.
const (
	maxNames     = 10 // that are looked up
	maxAddresses = 5  // that are connected to
	maxSessions  = 2  // that could be opened
	connectTime  = 30 * time.Second
	attemptTime  = time.Hour
)

// attempt is one attempt to hand over a message by SMTP or LMTP.
type attempt struct {
	t       *Transport
	r       Request
	o       smtpclient.Options
	key     string // of the destination, for the pool
	port    string
	results []Result // for r.Rcpts
	todo    []int    // indexes into it of those that have no answer yet

	untried *status.Error // what results begin with: success is only what a server has said

	names, addresses, sessions int // tried so far

	name  string   // of the host that is being tried
	tried []string // hosts that came to nothing, and why
}

// relay brings a message to its next hop over a session that is open already, or else over new ones.
func (t *Transport) relay(ctx context.Context, r Request) []Result {
	ctx, cancel := context.WithTimeout(ctx, attemptTime)
	defer cancel()
	w := newAttempt(t, r)
	defer w.tell()
	if s := w.prepare(); s != nil {
		w.fail(s, "")
		return w.results
	}
	if s := t.idle.take(w.key); s != nil {
		w.send(ctx, s) // the peer may have closed it meanwhile: then nothing was sent, and all are left
	}
	switch {
	case len(w.todo) == 0 || ctx.Err() != nil:
	case r.Dest.Kind == destination.MX:
		w.mailHosts(ctx)
	case r.Dest.Path != "":
		w.visit(ctx, "unix", r.Dest.Path, "unix:"+r.Dest.Path)
	default:
		w.host(ctx, r.Dest.Host)
	}
	if ctx.Err() != nil { // what one host refused for good another, not asked any more, might have taken
		for _, i := range w.todo {
			if !w.results[i].Err.Temporary() {
				w.results[i] = Result{Err: ours("4.4.2", "Attempt was stopped", ctx.Err())}
			}
		}
	}
	return w.results
}

func newAttempt(t *Transport, r Request) *attempt {
	w := &attempt{t: t, r: r, key: r.Dest.String(), untried: ours("4.4.1", "No host could be tried", nil)}
	if r.Dest.Kind == destination.MX && r.Dest.Host == "" {
		w.key += strings.ToLower(r.Domain)
	}
	w.results = slices.Repeat([]Result{{Err: w.untried}}, len(r.Rcpts))
	for i := range r.Rcpts {
		w.todo = append(w.todo, i)
	}
	return w
}

// prepare finds port and options for the destination.
func (w *attempt) prepare() *status.Error {
	t, d := w.t, w.r.Dest
	w.o = smtpclient.Options{Hostname: t.Hostname, TLS: t.TLS, Roots: t.Roots, Certificate: t.Certificate}
	w.port = d.Port
	switch d.Kind {
	case destination.LMTP:
		w.o.LMTP = true
		w.o.Private = d.Path != ""
		if w.o.TLS == smtpclient.Require {
			w.o.TLS = smtpclient.Opportunistic
		}
		if w.o.Private {
			w.o.TLS = smtpclient.Off
		}
	case destination.SMTPS:
		w.o.TLS = smtpclient.Implicit
		if w.port == "" {
			w.port = "465"
		}
	}
	if w.port == "" {
		w.port = strconv.Itoa(t.Port)
	}
	if d.User == "" {
		return nil
	}
	if t.Credentials == nil {
		return ours("4.3.5", "No credentials are configured for the relay", nil)
	}
	login, err := t.Credentials(d.Host, d.User)
	if err != nil {
		return ours("4.3.5", "No password is known for the relay", fmt.Errorf("%s at %s: %w", d.User, d.Host, err))
	}
	w.o.Login = &login
	return nil
}

// fail is the outcome for all recipients without an answer. A failure that may pass on one host outweighs one that stays on another.
func (w *attempt) fail(s *status.Error, relay string) {
	w.note(s, relay)
	for _, i := range w.todo {
		if had := w.results[i].Err; had == w.untried || s.Temporary() || !had.Temporary() {
			w.results[i] = Result{Err: s, Relay: relay}
		}
	}
}

// note keeps in short why a host came to nothing.
func (w *attempt) note(s *status.Error, relay string) {
	why := s.Reply()
	var op *net.OpError
	if errors.As(s.Err, &op) {
		why = op.Err.Error() // "connect: connection refused"
	}
	if host := cmp.Or(relay, w.name); host != "" {
		why = host + ": " + why
	}
	w.tried = append(w.tried, why)
}

// maxTried bounds the list of hosts in an outcome in octets.
const maxTried = 500

// tell puts all hosts that were tried into the cause of what is still without an answer: its text names only one of them.
func (w *attempt) tell() {
	if len(w.tried) < 2 {
		return
	}
	list := strings.Join(w.tried, "; ")
	if len(list) > maxTried {
		list = list[:maxTried-3] + "..."
	}
	for _, i := range w.todo {
		s := *w.results[i].Err
		if s.Err == nil {
			s.Err = errors.New("tried: " + list)
		} else {
			s.Err = fmt.Errorf("%w; tried: %s", s.Err, list)
		}
		w.results[i].Err = &s
	}
}

// mailHosts tries the mail hosts of a domain in their order.
func (w *attempt) mailHosts(ctx context.Context) {
	domain := w.r.Dest.Host
	if domain == "" {
		domain = w.r.Domain
	}
	answer, err := w.t.MX(ctx, domain)
	if err == nil {
		answer, err = answer.Without(w.t.Hostname)
	}
	if err != nil {
		w.fail(status.Of(err), "")
		return
	}
	for _, h := range answer.Hosts {
		if !w.host(ctx, h.Name) {
			return
		}
	}
}

// host tries the addresses of one host. It reports whether another host may be tried.
func (w *attempt) host(ctx context.Context, name string) (more bool) {
	if w.names++; w.names > maxNames {
		return false
	}
	w.name = name
	addrs, err := w.t.Addresses(ctx, name)
	if err != nil {
		w.fail(w.unknown(name, status.Of(err)), "")
		return ctx.Err() == nil
	}
	w.o.ServerName = name
	if a, ok := (address.Path{Domain: name}).Literal(); ok {
		w.o.ServerName = a.String()
	}
	for _, a := range addrs {
		if w.addresses == maxAddresses || w.sessions == maxSessions || ctx.Err() != nil {
			return false
		}
		a = a.Unmap()
		relay := fmt.Sprintf("%s[%s]:%s", w.o.ServerName, a, w.port)
		if w.r.Dest.Kind == destination.MX && w.t.RefuseLoopback {
			if isOwn(a) {
				w.fail(loop(w.r), relay)
				return false
			}
			if !a.IsGlobalUnicast() {
				w.fail(ours("4.4.4", fmt.Sprintf("Mail host %s has the address %s, to which no mail is sent", name, a), nil), "")
				continue
			}
		}
		w.addresses++
		if !w.visit(ctx, "tcp", net.JoinHostPort(a.String(), w.port), relay) {
			return false
		}
	}
	return true
}

// unknown is the outcome for a host that has no address. For a host that the configuration names that is never the message's fault.
func (w *attempt) unknown(name string, s *status.Error) *status.Error {
	switch {
	case s.Temporary():
		return s
	case w.r.Dest.Kind == destination.MX:
		return status.Permanent(550, "5.4.4", "Mail host "+name+" has no address", s)
	}
	return status.Temporary(451, "4.4.4", "Host "+name+" has no address", s)
}

// loop is the outcome where the next hop is this host itself: what it sends would come back. Where the DNS says so no mail can come to that
// domain; a route that says so is this host's mistake, which somebody will mend.
func loop(r Request) *status.Error {
	text := "Mail for " + cmp.Or(r.Domain, r.Dest.String()) + " loops back to this host"
	cause := errors.New("transport: " + text)
	if r.Dest.Kind == destination.MX {
		return status.Permanent(554, "5.4.6", text, cause)
	}
	return status.Temporary(451, "4.4.6", text, fmt.Errorf("%w; the route is %s", cause, r.Dest))
}

// isOwn reports whether an address other than loopback is one of this host's.
func isOwn(a netip.Addr) bool { return !a.IsLoopback() && mx.IsHostAddress(a) }

// visit connects to one address and hands over what it can, over several sessions where the server takes only so much in one. It
// reports whether another address may be tried for what is left.
func (w *attempt) visit(ctx context.Context, network, addr, relay string) (more bool) {
	for first := true; ; first = false {
		s, err := w.open(ctx, network, addr, relay)
		if err != nil {
			w.fail(err, relay)
			return ctx.Err() == nil
		}
		if first {
			w.sessions++
		}
		if w.mayLoop() && s.Calls(w.t.Hostname) {
			w.t.idle.bye(s)
			w.fail(loop(w.r), relay)
			return false
		}
		left := len(w.todo)
		if !w.send(ctx, s) || len(w.todo) == left {
			return len(w.todo) > 0 && ctx.Err() == nil
		}
	}
}

// mayLoop says where a server of this host's own name means a loop: on the usual port. A port that is written in a route may well be a
// filter on this host, and LMTP is often spoken with oneself.
func (w *attempt) mayLoop() bool {
	d := w.r.Dest
	return d.Kind == destination.MX || d.Kind == destination.SMTP && d.Port == ""
}

// open opens a session. Where TLS fails that need not be, it is done without.
func (w *attempt) open(ctx context.Context, network, addr, relay string) (*session, *status.Error) {
	o := w.o
	for {
		conn, err := w.dial(ctx, network, addr)
		if err != nil {
			return nil, ours("4.4.1", "Cannot connect to "+relay, err)
		}
		c, err := smtpclient.New(ctx, conn, o)
		if err == nil {
			return &session{Client: c, key: w.key, relay: relay, opened: clock.Now()}, nil
		}
		if o.TLS != smtpclient.Opportunistic || o.Login != nil || !errors.Is(err, smtpclient.ErrTLS) || ctx.Err() != nil {
			return nil, status.Of(err)
		}
		o.TLS = smtpclient.Off
	}
}

func (w *attempt) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	d := net.Dialer{Timeout: connectTime}
	if to, err := netip.ParseAddrPort(addr); err == nil {
		for _, from := range w.t.Bind {
			if from.Unmap().Is4() == to.Addr().Is4() {
				d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(from.Unmap(), 0))
				break
			}
		}
	}
	return d.DialContext(ctx, network, addr)
}

// send hands the message over for as many recipients as the session takes, in one transaction or several. It reports whether
// another session to the same host would take more.
func (w *attempt) send(ctx context.Context, s *session) (again bool) {
	m := w.r.Message
	switch {
	case ctx.Err() != nil:
		s.Close()
		w.fail(ours("4.4.2", "Attempt was stopped", ctx.Err()), s.relay)
		return false
	case !s.Usable():
		w.fail(ours("4.5.0", "The server speaks without being asked", nil), s.relay)
	}
	welcome := false // a recipient was taken: servers count refusals, and slow down or drop who collects them
	for len(w.todo) > 0 && s.Usable() {
		rcpts := make([]envelope.Recipient, len(w.todo))
		for i, n := range w.todo {
			rcpts[i] = m.Envelope.Rcpts[w.r.Rcpts[n]]
		}
		size := s.Fit(rcpts)
		out := s.Send(ctx, smtpclient.Mail{Envelope: m.Envelope, Rcpts: rcpts[:size], Body: m.Body(), Again: m.State.Attempts > 0})
		var left []int
		var unsent *status.Error
		taken := false
		for i, o := range out {
			n := w.todo[i]
			w.results[n] = Result{Err: o.Err, Code: o.Code, Text: o.Text, Relay: s.relay, Remote: o.Code != 0, Reached: true, DSN: s.DSN()}
			if o.Unsent {
				unsent = o.Err
			}
			taken = taken || o.Err == nil
			welcome = welcome || taken
			if o.Unsent || taken && tooMany(o) {
				left = append(left, n)
			}
		}
		w.todo = append(left, w.todo[size:]...)
		if unsent != nil {
			w.note(unsent, s.relay)
			s.Close()
			return false
		}
	}
	if welcome {
		w.t.idle.put(s)
	} else {
		w.t.idle.bye(s)
	}
	return len(w.todo) > 0 && ctx.Err() == nil
}

// tooMany reports whether a recipient was refused only because it was one more than the server takes at once (RFC 5321 4.5.3.1.10).
func tooMany(o smtpclient.Outcome) bool {
	return o.Err != nil && o.Code != 0 && o.Err.Code == 452 && (o.Err.Enhanced == "4.5.3" || o.Err.Enhanced == "4.0.0")
}
