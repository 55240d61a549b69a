package transport

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/postel-mail/postel/internal/address"
	"github.com/postel-mail/postel/internal/clock"
	"github.com/postel-mail/postel/internal/destination"
	"github.com/postel-mail/postel/internal/mx"
	"github.com/postel-mail/postel/internal/smtpclient"
	"github.com/postel-mail/postel/internal/status"
)

// Bounds of one attempt at one destination, as Postfix has them, so that a domain with many mail hosts cannot hold it for long.
const (
	maxNames     = 10 // that are looked up
	maxAddresses = 5  // that are connected to
	maxSessions  = 2  // that could be opened
	connectTime  = 30 * time.Second
)

// host is a mail host, and what its look-up brought.
type host struct {
	name  string
	addrs []netip.Addr
	err   error
}

// mailHosts tries the mail hosts of a domain in their order. Those of one preference are looked up before any of them is tried: if one of
// them is this host under a name that it does not know, RFC 5321 5.1 forbids the others too.
func (w *attempt) mailHosts(ctx context.Context) {
	if w.r.secure() {
		w.fail(unproven(cmp.Or(w.d.Host, w.r.Domain)), "")
		return
	}
	answer, err := w.t.MX(ctx, cmp.Or(w.d.Host, w.r.Domain))
	if err == nil {
		answer, err = answer.Without(w.t.Hostname)
	}
	if err != nil {
		w.fail(status.Of(err), "")
		if errors.Is(err, mx.ErrNullMX) {
			w.todo = nil // the domain's own word, which no other next hop can change
		}
		return
	}
	all := answer.Hosts[:min(len(answer.Hosts), maxNames)]
	for len(all) > 0 {
		var names []string
		for _, h := range all {
			if h.Preference == all[0].Preference {
				names = append(names, h.Name)
			}
		}
		all = all[len(names):]
		hosts := w.find(ctx, names)
		if own := w.own(hosts); own != "" {
			w.fail(w.loop(), own)
			return
		}
		for _, h := range hosts {
			if !w.host(ctx, h) {
				return
			}
		}
	}
	if len(answer.Hosts) > maxNames {
		w.unsure(ours("4.4.4", fmt.Sprintf("None of the first %d mail hosts has an address", maxNames), nil))
	}
}

// find looks up the addresses of hosts, all at the same time.
func (w *attempt) find(ctx context.Context, names []string) []host {
	hosts := make([]host, len(names))
	var wg sync.WaitGroup
	for i, name := range names {
		hosts[i].name = name
		look := func() { hosts[i].addrs, hosts[i].err = w.t.Addresses(ctx, name) }
		if i < len(names)-1 {
			wg.Go(look)
		} else {
			look()
		}
	}
	wg.Wait()
	return hosts
}

// own names the first of hosts that is this host by its address.
func (w *attempt) own(hosts []host) (relay string) {
	if !w.t.RefuseLoopback {
		return ""
	}
	for _, h := range hosts {
		for _, a := range h.addrs {
			if !a.IsLoopback() && mx.IsHostAddress(a) {
				return w.relay(h.name, a)
			}
		}
	}
	return ""
}

// relay is what Result.Relay says about an address of a host.
func (w *attempt) relay(name string, a netip.Addr) string {
	return fmt.Sprintf("%s[%s]:%s", serverName(name), a, w.port)
}

// serverName is how a server is known by its certificate: an address literal loses its brackets.
func serverName(host string) string {
	if a, ok := (address.Path{Domain: host}).Literal(); ok {
		return a.String()
	}
	return host
}

// host tries the addresses of one host. It reports whether another host may be tried.
func (w *attempt) host(ctx context.Context, h host) (more bool) {
	w.name = h.name
	if h.err != nil {
		w.fail(w.unknown(h.name, status.Of(h.err)), "")
		return ctx.Err() == nil
	}
	w.o.ServerName = serverName(h.name)
	for _, a := range h.addrs {
		if w.addresses == maxAddresses || w.sessions == maxSessions || ctx.Err() != nil {
			return false
		}
		a = a.Unmap()
		if w.d.Kind == destination.MX && w.t.RefuseLoopback && !a.IsGlobalUnicast() {
			w.fail(ours("4.4.4", fmt.Sprintf("Mail host %s has the address %s, to which no mail is sent", h.name, a), nil), "")
			continue
		}
		if !w.visit(ctx, "tcp", net.JoinHostPort(a.String(), w.port), w.relay(h.name, a)) {
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
	case w.d.Kind == destination.MX:
		return status.Permanent(550, "5.4.4", "Mail host "+name+" has no address", s)
	}
	return status.Temporary(451, "4.4.4", "Host "+name+" has no address", s)
}

// loop is the outcome where the next hop is this host itself: what it sends would come back. Where the DNS says so no mail can come to that
// domain; a route that says so is this host's mistake, which somebody will mend.
func (w *attempt) loop() *status.Error {
	text := "Mail for " + cmp.Or(w.r.Domain, w.d.String()) + " loops back to this host"
	if w.d.Kind == destination.MX {
		return status.Permanent(554, "5.4.6", text, nil)
	}
	return status.Temporary(451, "4.4.6", text, fmt.Errorf("transport: the route is %s", w.d))
}

// visit connects to one address and hands over what it can, over several sessions where the server takes only so much in one. It
// reports whether another address may be tried for what is left.
func (w *attempt) visit(ctx context.Context, network, addr, relay string) (more bool) {
	if slices.Contains(w.busy, relay) {
		return true
	}
	if why := w.t.silent.get(addr); why != nil && !w.r.Urgent {
		w.fail(ours("4.4.1", "No answer from "+relay+" a short while ago", why), relay)
		return true
	}
	w.addresses++
	for first := true; ; first = false {
		s, err := w.open(ctx, network, addr, relay)
		if err != nil {
			if isTimeout(err) && ctx.Err() == nil {
				w.t.silent.put(addr, err)
			}
			w.fail(err, relay)
			return ctx.Err() == nil
		}
		w.t.silent.forget(addr)
		if first {
			w.sessions++
		}
		w.reached = true
		if w.mayLoop() && s.Calls(w.t.Hostname) {
			w.t.idle.bye(s)
			w.fail(w.loop(), relay)
			return false
		}
		if no := w.keepsTLS(s); no != nil {
			w.t.idle.bye(s)
			w.fail(no, relay)
			return true
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
	d := w.d
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
			return &session{Client: c, key: w.key, dest: w.d, relay: relay, opened: clock.Now()}, nil
		}
		if o.TLS != smtpclient.Opportunistic || o.Login != nil || !errors.Is(err, smtpclient.ErrTLS) || ctx.Err() != nil {
			return nil, w.insecure(status.Of(err))
		}
		o.TLS = smtpclient.Off
	}
}

func (w *attempt) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	if w.t.dial != nil {
		return w.t.dial(ctx, network, addr)
	}
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
