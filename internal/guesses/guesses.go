// Package guesses slows down and stops those who guess passwords. What it counts stands in a ledger, so that all servers of the host count together, also
// those that live for one connection.
//
// Two things are counted apart. Failures from one client network, an IPv4 address or an IPv6 network of 64 bits: ten in ten minutes, and for a while no login from
// there is looked at, for twice as long each time. And failures for one user from anywhere: many make each further login wait for its answer, whether it succeeds
// or not.
//
// Neither must lock out who is honest, because then anybody could. So a user has a network that is known, for thirty days, once they have logged in from it. From
// there they are not held up by what others do, be it from that network (an office behind one address) or under their name; and what fails there under
// their name, a telephone with last month's password, counts against nobody but that pair.
package guesses

import (
	"crypto/sha256"
	"encoding/base64"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/postel-mail/postel/internal/clock"
	"github.com/postel-mail/postel/internal/ledger"
)

const (
	window       = 10 * time.Minute // in which failures count together,
	most         = 10               // of a network; a client that tries PLAIN and then LOGIN counts twice
	mostKnown    = 20               // of a user from a network that is known
	firstBan     = 10 * time.Minute // doubles with each,
	longestBan   = 4 * time.Hour    // up to this
	banMemory    = 24 * time.Hour   // for how long they are counted
	knownFor     = 30 * 24 * time.Hour
	userWindow   = time.Hour        // in which failures for a user count,
	userFree     = 10               // of which so many cost no time,
	userStep     = time.Second      // and each further one this,
	longestDelay = 15 * time.Second // up to this
)

// Guesses counts. Its methods may be called by many goroutines; on nil they do nothing.
type Guesses struct {
	Ledger  *ledger.Ledger
	Problem func(error) // hears that the ledger fails, which holds nobody up; may be nil
}

// Login is one attempt of a client.
type Login struct {
	g        *Guesses
	net, who string // of keys; net is "" for a client that is never banned
	known    bool
}

// Attempt begins a login, when a client has said who it is, user, or "" where it does not say. ip is not valid for a client that is not to be banned: one on a
// UNIX socket, or a host that sends for many users.
func (g *Guesses) Attempt(ip netip.Addr, user string) *Login {
	l := &Login{g: g}
	if g == nil {
		return l
	}
	if user != "" {
		// Names are a stranger's words; all have one length here.
		sum := sha256.Sum256([]byte(strings.ToLower(user)))
		l.who = base64.RawURLEncoding.EncodeToString(sum[:15])
	}
	if ip.IsValid() {
		l.net = network(ip)
	}
	l.known = l.net != "" && l.who != "" && g.get(l.knownKey()) != ""
	return l
}

// Banned says for how much longer no login like this one is looked at; 0 is none. It is asked before the password is looked at, and again before the answer, so that of
// many attempts at the same time no more tell anything than of as many one after the other.
func (l *Login) Banned() time.Duration {
	if l.net == "" {
		return 0
	}
	until, err := strconv.ParseInt(l.g.get("loginban "+l.subject()), 10, 64)
	if err != nil {
		return 0
	}
	left := max(time.Unix(until, 0).Sub(clock.Now()), 0)
	if left > longestBan { // the clock has been put back, and the ban would last until it is there again
		return 0
	}
	return left
}

// Network is what a ban is on.
func (l *Login) Network() string { return l.net }

// Known says that the user has logged in from there before, so that a ban is on that user there and on nobody else.
func (l *Login) Known() bool { return l.known }

// subject is what the client's failures count against.
func (l *Login) subject() string {
	if l.known {
		return l.net + " " + l.who
	}
	return l.net
}

// knownKey is that of the fact that the user has logged in from the network.
func (l *Login) knownKey() string { return "loginknown " + l.net + " " + l.who }

// Delay is how long the answer has to wait, whatever it is.
func (l *Login) Delay() time.Duration {
	if l.g == nil || l.known || l.who == "" {
		return 0
	}
	return delay(l.g.count("loginuser "+l.who, 0, userWindow))
}

func delay(failures int) time.Duration {
	return time.Duration(min(max(failures-userFree, 0), int(longestDelay/userStep))) * userStep
}

// Failed counts a wrong password. It gives the length of the ban that this one brought, 0 for none.
func (l *Login) Failed() (ban time.Duration) {
	if l.g == nil {
		return 0
	}
	if l.who != "" && !l.known {
		l.g.count("loginuser "+l.who, 1, userWindow)
	}
	if l.net == "" {
		return 0
	}
	limit := most
	if l.known {
		limit = mostKnown
	}
	key := l.subject()
	if l.g.count("login "+key, 1, window) < limit {
		return 0
	}
	l.g.update("login "+key, func(string) (string, time.Duration) { return "", 0 }) // or one more would ban again
	times := l.g.count("loginbans "+key, 1, banMemory)
	ban = min(firstBan<<min(max(times-1, 0), 10), longestBan)
	l.g.update("loginban "+key, func(string) (string, time.Duration) {
		return strconv.FormatInt(clock.Now().Add(ban).Unix(), 10), ban
	})
	return ban
}

// Succeeded notes that the network is one of the user's.
func (l *Login) Succeeded() {
	if l.g == nil || l.net == "" || l.who == "" {
		return
	}
	today := strconv.FormatInt(clock.Now().Unix()/(24*60*60), 10)
	if l.known && l.g.get(l.knownKey()) == today {
		return // written once a day
	}
	l.g.update(l.knownKey(), func(string) (string, time.Duration) { return today, knownFor })
}

// network is the IPv4 address, or the IPv6 network of 64 bits.
func network(ip netip.Addr) string {
	ip = ip.Unmap().WithZone("")
	if ip.Is4() {
		return ip.String()
	}
	p, _ := ip.Prefix(64) // an IPv6 address has them
	return p.String()
}

func (g *Guesses) get(key string) string {
	v, err := g.Ledger.Get(key)
	g.problem(err)
	return v
}

func (g *Guesses) count(key string, n int, per time.Duration) int {
	sum, err := g.Ledger.Count(key, n, per)
	g.problem(err)
	return sum
}

func (g *Guesses) update(key string, change func(string) (string, time.Duration)) {
	g.problem(g.Ledger.Update(key, change))
}

func (g *Guesses) problem(err error) {
	if err != nil && g.Problem != nil {
		g.Problem(err)
	}
}
