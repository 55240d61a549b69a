package smtpserver

import (
	"context"
	"net/netip"
	"slices"
	"strings"

	"github.com/postel-mail/postel/internal/address"
	"github.com/postel-mail/postel/internal/status"
)

// trusted reports whether the client may send to anywhere: it logged in, sits in a relay network, or is on this host by a
// UNIX socket or a pipe.
func (s *session) trusted() bool {
	return s.login != "" || s.guard.Private() || contains(s.srv.RelayNetworks, s.guard.IP())
}

func contains(networks []netip.Prefix, ip netip.Addr) bool {
	return slices.ContainsFunc(networks, func(n netip.Prefix) bool { return n.Contains(ip) })
}

// mayBegin says whether the client may begin a transaction.
func (s *session) mayBegin() error {
	if !s.srv.Submission || s.trusted() {
		return nil
	}
	if s.srv.TLS != nil && !s.protected() {
		return errNeedTLS
	}
	return status.Permanent(530, "5.7.0", "Authentication required", nil)
}

// recipient judges one recipient and gives it as it is queued. Addresses here are checked now: what is refused later becomes a bounce to
// a sender who may be forged.
func (s *session) recipient(p address.Path) (address.Path, error) {
	if s.isHere(p) {
		p.Domain = s.srv.Home
	}
	domain, err := address.ASCIIDomain(p.Domain)
	if err != nil {
		return p, syntax("5.1.3", "Bad recipient address", err)
	}
	switch {
	case s.srv.Domains[domain]:
		if s.srv.Verify == nil || strings.EqualFold(p.Local, "postmaster") { // RFC 5321 4.5.1
			return p, nil
		}
		ctx, cancel := context.WithTimeout(context.Background(), verifyTime)
		defer cancel()
		return p, s.srv.Verify(ctx, p)
	case s.srv.RelayDomains[domain], s.trusted():
		return p, nil
	}
	return p, status.Permanent(550, "5.7.1", "Relay access denied", nil)
}

// isHere reports whether p is <postmaster>, or stands at the address that the client connected to (RFC 5321 4.1.3).
func (s *session) isHere(p address.Path) bool {
	ip, literal := p.Literal()
	return p.Domain == "" || literal && ip.Unmap() == s.guard.LocalIP()
}
