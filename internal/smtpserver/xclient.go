package smtpserver

import (
	"errors"
	"net/netip"
	"strconv"
	"strings"

	"github.com/postel-mail/postel/internal/envelope"
	"github.com/postel-mail/postel/internal/status"
)

// The command XCLIENT, as Postfix's XCLIENT_README describes it: a front end or a test says for whom it speaks. It is for those
// in XclientNetworks alone, whose word counts for everything, a login too. What the command leaves out stays as it was. The name that the front end found for the
// client, and the ports, are read and dropped: nothing here depends on them.

const xclientLine = "XCLIENT NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT"

// xclient is what one command says. A nil pointer: nothing.
type xclient struct {
	addr, local *netip.Addr // not valid: not known
	proto, helo *string     // "": not known
	login       *string     // "": none
}

// parseXclient reads the attributes.
func parseXclient(arg string) (x xclient, err error) {
	words := strings.Fields(arg)
	if len(words) == 0 {
		return x, errors.New("no attribute")
	}
	seen := map[string]bool{}
	for _, word := range words {
		name, value, ok := strings.Cut(word, "=")
		name = strings.ToUpper(name)
		if value, err = envelope.DecodeXtext(value); err == nil && !printable(value, maxHeloName) {
			err = errors.New("not printable ASCII, or too long")
		}
		if up := strings.ToUpper(value); up == "[UNAVAILABLE]" || up == "[TEMPUNAVAIL]" {
			value = ""
		}
		if err == nil && (!ok || seen[name]) {
			err = errors.New("malformed or repeated")
		}
		if err == nil {
			err = x.set(name, value)
		}
		if err != nil {
			return x, errors.New(name + ": " + err.Error())
		}
		seen[name] = true
	}
	return x, nil
}

func (x *xclient) set(name, value string) (err error) {
	switch name {
	case "ADDR":
		x.addr, err = xclientAddr(value)
	case "DESTADDR":
		x.local, err = xclientAddr(value)
	case "PORT", "DESTPORT":
		if value != "" {
			_, err = strconv.ParseUint(value, 10, 16)
		}
	case "PROTO":
		if x.proto = &value; value != "" && value != "SMTP" && value != "ESMTP" {
			return errors.New("neither SMTP nor ESMTP")
		}
	case "HELO":
		if x.helo = &value; value != "" {
			err = checkHelo(value)
		}
	case "LOGIN":
		x.login = &value
	case "NAME":
	default:
		return errors.New("not known")
	}
	return err
}

// xclientAddr reads 192.0.2.1 or IPV6:2001:db8::1.
func xclientAddr(s string) (*netip.Addr, error) {
	if s == "" {
		return &netip.Addr{}, nil
	}
	v6, isV6 := cutFold(s, "IPV6:")
	if isV6 {
		s = v6
	}
	ip, err := netip.ParseAddr(s)
	if err != nil || ip.Is6() != isV6 || ip.Zone() != "" {
		return nil, errors.New("not of the form 192.0.2.1 or IPV6:2001:db8::1")
	}
	ip = ip.Unmap()
	return &ip, nil
}

// doXCLIENT begins the session anew, as another client's.
func (s *session) doXCLIENT(arg string) error {
	switch {
	case !s.mayXclient:
		return status.Permanent(550, "5.7.0", "Not for you", nil)
	case s.env != nil:
		return errSequence
	}
	x, err := parseXclient(arg)
	if err != nil {
		return status.Permanent(501, "5.5.4", "Malformed XCLIENT", err)
	}
	front := s.guard.Client()
	s.reset()
	s.assume(x)
	s.errors, s.logins, s.rcpts, s.idle = 0, 0, 0, 0
	s.client.End()
	s.client, s.judged = nil, false
	s.srv.Log.Disconnect(front, "goes on as "+s.guard.Client()+" by XCLIENT")
	s.srv.Log.Connect(s.guard.Client())
	s.welcome()
	return nil
}

// assume makes the session that of the client. Who spoke for itself before is logged out.
func (s *session) assume(x xclient) {
	s.helo = ""
	if x.addr != nil || x.local != nil {
		ip, local, client := s.guard.IP(), s.guard.LocalIP(), s.guard.Client()
		if x.addr != nil {
			ip, client = *x.addr, ""
		}
		if x.local != nil {
			local = *x.local
		}
		s.guard.Assume(client, ip, local)
	}
	if x.login != nil {
		s.said.login = *x.login
	}
	if x.proto != nil {
		s.said.esmtp = *x.proto == "ESMTP"
	}
	if x.helo != nil {
		s.said.helo = *x.helo
	}
	s.helo, s.esmtp, s.login = s.said.helo, s.said.esmtp, s.said.login
}
