package smtpserver

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/postel-mail/postel/internal/address"
	"github.com/postel-mail/postel/internal/mx"
	"github.com/postel-mail/postel/internal/status"
)

// trusted reports whether the client may send to anywhere: it logged in, sits in a relay network, or is on this host by a
// UNIX socket or a pipe.
func (s *session) trusted() bool {
	return s.login != "" || s.guard.Private() || contains(s.srv.RelayNetworks, s.guard.IP())
}

// mayWait reports whether the client may name a FIFO of its own in the spool, where it hears what became of its message: a user of this host, for whom it is
// told by that user's number.
func (s *session) mayWait() bool { return s.srv.Submission && s.guard.UID() >= 0 }

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

// maySend says whether the client may send as that address. Who has logged in is bound to their own; the null sender is free, for reports. The users of this host
// are not bound at a UNIX socket, as they are not in drop/: the queue and the log have their number.
func (s *session) maySend(from address.Path) error {
	s.user, s.sent = "", -1
	if s.srv.Submission {
		s.user = s.login
	}
	if s.user == "" || from.IsNull() || s.srv.MaySend == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), verifyTime)
	defer cancel()
	return s.srv.MaySend(ctx, s.user, from)
}

// mayAdd says whether the user may send to n more recipients than the transaction has. Those of a message count when it is accepted.
func (s *session) mayAdd(n int) error {
	if !s.counted() {
		return nil
	}
	if s.sent < 0 {
		s.sent = s.srv.Sent(s.user, 0)
	}
	return s.within(s.sent, len(s.env.Rcpts)+n)
}

// counted reports whether the recipients of the transaction count for a user.
func (s *session) counted() bool { return s.srv.SentPerHour > 0 && s.user != "" }

// within says whether a user who has sent to that many recipients may send to n more.
func (s *session) within(sent, n int) error {
	if sent+n <= s.srv.SentPerHour {
		return nil
	}
	return status.Temporary(450, "4.7.1", "Too many recipients within an hour, try again later",
		fmt.Errorf("%s has sent to %d recipients within the hour, and %d may be", s.user, sent, s.srv.SentPerHour))
}

// count counts the recipients of a message that is about to be accepted, unless they are too many. To count first, and not when all is done, keeps sessions at the same
// time from passing the limit together.
func (s *session) count() error {
	if !s.counted() {
		return nil
	}
	n := len(s.env.Rcpts)
	err := s.within(s.srv.Sent(s.user, n)-n, n)
	if err != nil {
		s.uncount()
	}
	return err
}

// uncount takes back what count has counted.
func (s *session) uncount() {
	if s.counted() {
		s.srv.Sent(s.user, -len(s.env.Rcpts))
	}
}

// recipient judges one recipient and gives it as it is queued. Addresses here are checked now: what is refused later becomes a bounce to
// a sender who may be forged.
func (s *session) recipient(p address.Path) (address.Path, error) {
	if s.isHere(p) {
		p.Domain = s.srv.Home
		if strings.EqualFold(p.Local, "postmaster") { // RFC 5321 4.5.1, also of a host that only relays
			return p, nil
		}
	}
	domain, err := address.ASCIIDomain(p.Domain)
	if err != nil {
		return p, syntax("5.1.3", "Bad recipient address", err)
	}
	onward := strings.ContainsAny(p.Local, "@%!") && !s.trusted() // a way on from there, which the next hop may open to us alone
	switch {
	case s.srv.Domains[domain] && s.srv.Verify == nil && onward:
	case s.srv.Domains[domain]:
		if s.srv.Verify == nil || strings.EqualFold(p.Local, "postmaster") { // RFC 5321 4.5.1
			return p, nil
		}
		ctx, cancel := context.WithTimeout(context.Background(), verifyTime)
		defer cancel()
		return p, s.srv.Verify(ctx, p)
	case s.trusted():
		return p, nil
	case s.srv.RelayDomains[domain] && !onward:
		if s.srv.VerifyRelay == nil {
			return p, nil
		}
		return p, s.srv.VerifyRelay(context.Background(), p) // it keeps its own time
	}
	return p, status.Permanent(550, "5.7.1", "Relay access denied", nil)
}

// isHere reports whether p is <postmaster>, or stands at the address that the client connected to or another of this host (RFC 5321 4.1.3).
func (s *session) isHere(p address.Path) bool {
	ip, literal := p.Literal()
	return p.Domain == "" || literal && (ip.Unmap() == s.guard.LocalIP() || mx.IsHostAddress(ip))
}
