package runner

import (
	"strings"

	"github.com/postel-mail/postel/internal/address"
	"github.com/postel-mail/postel/internal/destination"
)

// Routes says where mail for an address goes next.
type Routes struct {
	Domains []string                           // final delivery here
	Local   destination.Destination            // how, for these
	Table   map[string]destination.Destination // by recipient domain, ".parent" for subdomains, "*" for the rest
	Literal func(address.Path) bool            // an address literal that is this host's; nil: none is
}

// For is the next hop of an address, and the rule that said so: "local", the key of the table, or "mx". The most special key wins: the domain itself, then its
// nearest parent with a leading dot, then "*".
func (r *Routes) For(p address.Path) (destination.Destination, string) {
	domain := p.ASCII().Domain
	if domain == "" { // <postmaster>
		return r.Local, "local"
	}
	for _, own := range r.Domains {
		if strings.EqualFold(own, domain) {
			return r.Local, "local"
		}
	}
	if strings.HasPrefix(domain, "[") && r.Literal != nil && r.Literal(p) {
		return r.Local, "local"
	}
	if d, ok := r.Table[domain]; ok {
		return d, domain
	}
	for rest := domain; ; {
		i := strings.IndexByte(rest, '.')
		if i < 0 {
			break
		}
		if d, ok := r.Table[rest[i:]]; ok {
			return d, rest[i:]
		}
		rest = rest[i+1:]
	}
	if d, ok := r.Table["*"]; ok {
		return d, "*"
	}
	return destination.Destination{Kind: destination.MX}, "mx"
}

// laneOf names what shares connections and limits: a destination, and the domain where that decides the hosts.
func laneOf(d destination.Destination, domain string) string {
	if d.Kind == destination.MX && d.Host == "" {
		return "mx:" + domain
	}
	return d.String()
}
