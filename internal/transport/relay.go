package transport

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/postel-mail/postel/internal/address"
	"github.com/postel-mail/postel/internal/destination"
	"github.com/postel-mail/postel/internal/envelope"
	"github.com/postel-mail/postel/internal/smtpclient"
	"github.com/postel-mail/postel/internal/status"
)

// attemptTime bounds one attempt, whatever a server does with the time that it has for each step.
const attemptTime = time.Hour

// untried is what results begin with: success is only what a server has said.
var untried = ours("4.4.1", "No host could be tried", nil)

// attempt is one attempt to hand over a message by SMTP or LMTP.
type attempt struct {
	t       *Transport
	r       Request
	d       destination.Destination // that is being tried
	o       smtpclient.Options      // for it
	port    string
	key     string   // of all destinations, for the pool
	results []Result // for r.Rcpts
	todo    []int    // indexes into it of those that have no answer yet

	ask     *address.Path // only ask about that recipient; nil: hand the message over
	reached bool          // a session was open

	addresses, sessions int // tried for d

	name  string   // of the host that is being tried
	tried []string // hosts that came to nothing, and why
	busy  []string // relays that said themselves that another should be asked
}

// relay brings a message to its next hop over a session that is open already, or else over new ones.
func (t *Transport) relay(ctx context.Context, r Request) []Result {
	ctx, cancel := context.WithTimeout(ctx, attemptTime)
	defer cancel()
	w := newAttempt(t, r)
	defer w.tell()
	if s := t.idle.take(w.key); s != nil {
		w.d = s.dest
		w.send(ctx, s) // the peer may have closed it meanwhile: then nothing was sent, and all are left
	}
	for _, d := range r.Dests {
		if len(w.todo) == 0 || ctx.Err() != nil {
			break
		}
		w.destination(ctx, d)
	}
	if ctx.Err() != nil {
		w.unsure(ours("4.4.2", "Attempt was stopped", ctx.Err()))
	}
	return w.results
}

// unsure puts s in the place of what hosts refused for good: another, which was not asked, might have taken it.
func (w *attempt) unsure(s *status.Error) {
	for _, i := range w.todo {
		if !w.results[i].Err.Temporary() {
			w.results[i] = Result{Dest: w.results[i].Dest, Err: s, Reached: w.reached}
		}
	}
}

func newAttempt(t *Transport, r Request) *attempt {
	w := &attempt{t: t, r: r}
	if r.secure() {
		w.key = "REQUIRETLS\n"
	}
	for i, d := range r.Dests {
		if i > 0 {
			w.key += "\n"
		}
		w.key += d.String()
		if d.Kind == destination.MX && d.Host == "" {
			w.key += strings.ToLower(r.Domain)
		}
	}
	w.results = slices.Repeat([]Result{{Dest: r.Dests[0], Err: untried}}, len(r.Rcpts))
	for i := range r.Rcpts {
		w.todo = append(w.todo, i)
	}
	return w
}

// destination tries one of the next hops, for all recipients without an answer.
func (w *attempt) destination(ctx context.Context, d destination.Destination) {
	w.d, w.addresses, w.sessions, w.name = d, 0, 0, ""
	if s := w.prepare(); s != nil {
		w.fail(s, "")
		return
	}
	switch {
	case d.Kind == destination.MX:
		w.mailHosts(ctx)
	case d.Kind == destination.LMTP && d.Path != "":
		w.visit(ctx, "unix", d.Path, "unix:"+d.Path)
	case d.Kind == destination.SMTP, d.Kind == destination.SMTPS, d.Kind == destination.LMTP:
		w.host(ctx, w.find(ctx, []string{d.Host})[0])
	default:
		w.fail(noWay(d), "")
	}
}

// prepare finds port and options for the destination.
func (w *attempt) prepare() *status.Error {
	t, d := w.t, w.d
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
	w.raise()
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

// fail is the outcome for all recipients without an answer. A failure that may pass on one host outweighs one that stays on another, and
// what a host has said itself outweighs what was found here.
func (w *attempt) fail(s *status.Error, relay string) {
	w.note(s, relay)
	for _, i := range w.todo {
		had := &w.results[i]
		said := had.Remote && slices.Contains(w.busy, had.Relay)
		if had.Err == untried || !said && (s.Temporary() || !had.Err.Temporary()) {
			*had = Result{Dest: w.d, Err: s, Relay: relay, Reached: w.reached}
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

// send hands the message over for as many recipients as the session takes, in one transaction or several. It reports whether
// another session to the same host would take more.
func (w *attempt) send(ctx context.Context, s *session) (again bool) {
	switch {
	case ctx.Err() != nil:
		s.Close()
		w.fail(ours("4.4.2", "Attempt was stopped", ctx.Err()), s.relay)
		return false
	case !s.Usable():
		w.fail(ours("4.5.0", "The server speaks without being asked", nil), s.relay)
	}
	welcome := false // a recipient was taken: servers count refusals, and slow down or drop who collects them
	var elsewhere *status.Error
	for len(w.todo) > 0 && s.Usable() && elsewhere == nil {
		var taken bool
		taken, elsewhere = w.transaction(ctx, s)
		welcome = welcome || taken
	}
	if elsewhere != nil {
		w.note(elsewhere, s.relay)
	}
	if welcome {
		w.t.idle.put(s)
	} else {
		w.t.idle.bye(s)
	}
	return elsewhere == nil && len(w.todo) > 0 && ctx.Err() == nil
}

// transaction hands the message over once, for as many recipients as the server takes at once. taken says that it took it for one of them,
// elsewhere, when it is not nil, why what is left is for another session or host.
func (w *attempt) transaction(ctx context.Context, s *session) (taken bool, elsewhere *status.Error) {
	if w.ask != nil {
		return w.question(ctx, s)
	}
	m := w.r.Message
	rcpts := make([]envelope.Recipient, len(w.todo))
	for i, n := range w.todo {
		rcpts[i] = m.Envelope.Rcpts[w.r.Rcpts[n]]
	}
	size := s.Fit(rcpts)
	var left []int
	for i, o := range s.Send(ctx, smtpclient.Mail{Envelope: m.Envelope, Rcpts: rcpts[:size], Body: m.Body(), Again: m.State.Attempts > 0}) {
		n := w.todo[i]
		w.results[n] = Result{Dest: w.d, Err: o.Err, Code: o.Code, Text: o.Text, Relay: s.relay, Remote: o.Code != 0, Reached: true, DSN: s.DSN(), Twice: o.Twice}
		if s.XDSN() && o.Err == nil {
			w.results[n].sentOn(said(o.Text))
		}
		taken = taken || o.Err == nil
		w.reached = w.reached || o.Code != 0
		switch {
		case o.Unsent:
			elsewhere = o.Err
		case taken && tooMany(o):
		case isBusy(o):
			elsewhere = o.Err
			w.busy = append(w.busy, s.relay)
		default:
			continue
		}
		left = append(left, n)
	}
	w.todo = append(left, w.todo[size:]...)
	return taken, elsewhere
}

// said is the word in the reply of a server with XDSN: the last but one, behind "Ok:".
func said(reply string) string {
	if f := strings.Fields(reply); len(f) >= 3 && f[len(f)-3] == "Ok:" {
		return f[len(f)-2]
	}
	return ""
}

// tooMany reports whether a recipient was refused only because it was one more than the server takes at once (RFC 5321 4.5.3.1.10).
func tooMany(o smtpclient.Outcome) bool {
	return o.Err != nil && o.Code != 0 && o.Err.Code == 452 && (o.Err.Enhanced == "4.5.3" || o.Err.Enhanced == "4.0.0")
}

// isBusy reports whether the server has refused because of itself, for now: its disk is full, it is being shut down (4.3.x of RFC 3463; 451 and 452 of
// RFC 5321 4.2.3 without such a code). That is nothing about sender, recipient or message, so that another host may well take them.
func isBusy(o smtpclient.Outcome) bool {
	if o.Err == nil || o.Code == 0 || !o.Err.Temporary() {
		return false
	}
	bare := o.Err.Enhanced == "4.0.0" && (o.Err.Code == 451 || o.Err.Code == 452)
	return bare || strings.HasPrefix(o.Err.Enhanced, "4.3.")
}
