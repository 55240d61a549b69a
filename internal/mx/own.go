package mx

import (
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/postel-mail/postel/internal/clock"
)

// ownTime is how long this host's addresses are believed: they hardly ever change, and the kernel takes its time to list them.
const ownTime = 5 * time.Second

// ownList is what the kernel last said.
type ownList struct {
	mu    sync.Mutex
	addrs []netip.Addr
	until time.Time
}

var own ownList

// get gives this host's addresses; none when it does not tell.
func (o *ownList) get() []netip.Addr {
	o.mu.Lock()
	defer o.mu.Unlock()
	if now := clock.Now(); now.After(o.until) || o.until.Sub(now) > ownTime {
		list, _ := net.InterfaceAddrs() // a sandbox may forbid it
		o.addrs, o.until = nil, now.Add(ownTime)
		for _, a := range list {
			if p, err := netip.ParsePrefix(a.String()); err == nil {
				o.addrs = append(o.addrs, p.Addr().Unmap())
			}
		}
	}
	return o.addrs
}

// IsHostAddress reports whether an address is one of this host's, loopback too. It is not when the host does not tell its addresses. The
// answer may be some seconds old.
func IsHostAddress(a netip.Addr) bool { return slices.Contains(own.get(), a.Unmap().WithZone("")) }

// families tells with which addresses this host can reach others: IPv4 at all, and IPv6 of the global kind. A unique local address
// (RFC 4193) or a link-local one leads nowhere. A host that does not tell has both.
func families() (v4, v6 bool) {
	list := own.get()
	for _, a := range list {
		switch {
		case a.IsLoopback() || !a.IsGlobalUnicast():
		case a.Is4():
			v4 = true
		case !a.IsPrivate():
			v6 = true
		}
	}
	return v4 || !v6, v6 || !v4
}
