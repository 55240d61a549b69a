package runner

import (
	"strings"

	"github.com/postel-mail/postel/internal/address"
	"github.com/postel-mail/postel/internal/destination"
)

// Routes says where mail for an address goes next.
type Routes struct {
	Domains []string                             // final delivery here
	Local   destination.Destination              // how, for these
	Table   map[string][]destination.Destination // next hops in order, by recipient domain, ".parent" for subdomains, "*" for the rest
	Literal func(address.Path) bool              // an address literal that is this host's; nil: none is
}

// For is the next hops of an address, the best first, and the rule that said so: "local", the key of the table, or "mx". The most special key wins: the domain itself, then its
// nearest parent with a leading dot, then "*".
func (r *Routes) For(p address.Path) ([]destination.Destination, string) {
	local := []destination.Destination{r.Local}
	domain := p.ASCII().Domain
	if domain == "" { // <postmaster>
		return local, "local"
	}
	for _, own := range r.Domains {
		if strings.EqualFold(own, domain) {
			return local, "local"
		}
	}
	if strings.HasPrefix(domain, "[") && r.Literal != nil && r.Literal(p) {
		return local, "local"
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
	return []destination.Destination{{Kind: destination.MX}}, "mx"
}

// laneOf names what shares connections and limits: the next hops in their order, and the domain where that decides the hosts.
func laneOf(dests []destination.Destination, domain string) string {
	names := make([]string, len(dests))
	for i, d := range dests {
		if names[i] = d.String(); d.Kind == destination.MX && d.Host == "" {
			names[i] += domain
		}
	}
	return strings.Join(names, " ")
}
