// Package hostlist prints the mail hosts of domains, one or an endless stream of them, for people and for scripts: the work of
// mxlookup. What the DNS says is package mx's.
package hostlist

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/postel-mail/postel/internal/address"
	"github.com/postel-mail/postel/internal/mx"
	"github.com/postel-mail/postel/internal/status"
	"github.com/postel-mail/postel/internal/sysexits"
)

// List is what is wanted of each name.
type List struct {
	Resolver  *mx.Resolver
	Timeout   time.Duration // for one name
	Jobs      int           // names at a time
	Own       []string      // leave out these hosts and those not better
	Addresses bool          // add the addresses of the hosts
	First     bool          // only the first line
	JSON      bool          // one object a name
	Explain   bool          // say which rule applied
	Named     bool          // put the name in front of each line
	Say       func(line string)
}

// answer is everything to be printed about one name.
type answer struct {
	Name  string   `json:"name"`
	Rule  string   `json:"rule"`
	TTL   int64    `json:"ttl"`
	Hosts []host   `json:"hosts"`
	Exit  int      `json:"exit"`
	Text  string   `json:"text,omitempty"`
	said  []string // for stderr, one line each
}

type host struct {
	Preference uint16       `json:"preference"`
	Host       string       `json:"host"`
	Addresses  []netip.Addr `json:"addresses,omitzero"` // nil without --addresses
}

// look finds the answer for a domain or an address, as it was given.
func (l *List) look(given string) (a answer) {
	a = answer{Name: printable(given), Hosts: []host{}}
	defer func() {
		if v := recover(); v != nil { // not caught here, in a goroutine, it would end the program with status 2
			a.fail(sysexits.TempFail, fmt.Sprintf("bug, please report it: %v", v))
		}
	}()
	domain := given
	if strings.Contains(given, "@") {
		p, err := address.Parse(given)
		if err != nil {
			a.fail(sysexits.DataErr, err.Error())
			return a
		}
		domain = p.Domain
	}
	ctx, cancel := context.WithTimeout(context.Background(), l.Timeout)
	defer cancel()
	found, err := l.Resolver.Lookup(ctx, domain)
	if !errors.Is(err, mx.ErrBadName) {
		a.Name = found.Name
	}
	all := len(found.Hosts)
	if err == nil {
		found, err = found.Without(l.Own...)
	}
	a.Rule, a.TTL = found.Rule, int64(found.TTL/time.Second)
	if l.Explain && a.Rule != "" {
		a.say(fmt.Sprintf("rule %s: %s", a.Rule, mx.Explain(a.Rule)))
		if cut := all - len(found.Hosts); cut > 0 {
			a.say(fmt.Sprintf("%d of %d hosts cut: the own one and those not better", cut, all))
		}
	}
	if err != nil {
		a.fail(exitStatus(err), status.Of(err).Cause())
		return a
	}
	l.fill(ctx, &a, found.Hosts)
	return a
}

// fill takes over the hosts, with addresses where they are asked for. A host without any is said; one whose addresses cannot be known
// now makes the answer temporary.
func (l *List) fill(ctx context.Context, a *answer, hosts []mx.Host) {
	known := !l.Addresses
	for _, h := range hosts {
		line := host{Preference: h.Preference, Host: h.Name}
		if l.Addresses {
			addrs, err := l.Resolver.Addresses(ctx, h.Name)
			if exit := exitStatus(err); exit == sysexits.TempFail {
				a.fail(exit, fmt.Sprintf("host %s: %s", h.Name, status.Of(err).Cause()))
			} else if err != nil {
				a.say(fmt.Sprintf("host %s: %s", h.Name, status.Of(err).Cause()))
			}
			if l.First && len(addrs) == 0 {
				continue // the first line has an address
			} else if l.First {
				addrs = addrs[:1]
			}
			line.Addresses, known = append([]netip.Addr{}, addrs...), known || len(addrs) > 0
		}
		if a.Hosts = append(a.Hosts, line); l.First {
			break
		}
	}
	if !known && a.Exit == sysexits.OK {
		a.fail(sysexits.NoHost, "no mail host has an address")
	}
}

// exitStatus is the one that a script can rely on: 68 no such domain or host, 69 no mail here, 65 not a domain, else 75.
func exitStatus(err error) int {
	switch {
	case err == nil:
		return sysexits.OK
	case errors.Is(err, mx.ErrNoDomain), errors.Is(err, mx.ErrNoHost), errors.Is(err, mx.ErrUnusable):
		return sysexits.NoHost
	case errors.Is(err, mx.ErrNullMX), errors.Is(err, mx.ErrLoop):
		return sysexits.Unavailable
	case errors.Is(err, mx.ErrBadName):
		return sysexits.DataErr
	}
	return sysexits.TempFail
}

func (a *answer) say(text string) { a.said = append(a.said, a.Name+": "+status.Clean(text)) }

func (a *answer) fail(exit int, text string) {
	a.Exit, a.Text = exit, status.Clean(text)
	a.say(text)
}

// printable makes a name that may be anything fit for one word of a line.
func printable(s string) string {
	if len(s) > address.MaxPath {
		s = s[:address.MaxPath] + "..."
	}
	if c := status.Clean(s); c != s || s == "" || strings.ContainsAny(s, " \"\\") {
		return strconv.Quote(c)
	}
	return s
}

// print appends the answer as it goes to stdout.
func (l *List) print(b []byte, a answer) []byte {
	if l.JSON {
		line, _ := json.Marshal(a) // strings, numbers and addresses always marshal
		return append(append(b, line...), '\n')
	}
	for _, h := range a.Hosts {
		line := strconv.Itoa(int(h.Preference)) + " " + h.Host
		if l.Named {
			line = a.Name + " " + line
		}
		if h.Addresses == nil {
			b = append(append(b, line...), '\n')
		}
		for _, addr := range h.Addresses {
			b = append(addr.AppendTo(append(append(b, line...), ' ')), '\n')
		}
	}
	return b
}
