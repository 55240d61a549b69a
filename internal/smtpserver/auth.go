package smtpserver

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/postel-mail/postel/internal/channel"
	"github.com/postel-mail/postel/internal/guesses"
	"github.com/postel-mail/postel/internal/sasl"
	"github.com/postel-mail/postel/internal/status"
)

// protected reports whether a password may cross the connection.
func (s *session) protected() bool {
	return s.tls != nil || s.guard.Private() || contains(s.srv.PlaintextLogin, s.guard.IP())
}

// mechanisms are those that can be used now, as the line of EHLO names them.
func (s *session) mechanisms() []string {
	if !s.srv.Submission || s.srv.Logins == nil || !s.protected() {
		return nil
	}
	return s.srv.Logins.Offer(channel.Of(s.tls))
}

func (s *session) doAUTH(arg string) error {
	switch {
	case !s.srv.Submission || s.srv.Logins == nil:
		return status.Permanent(502, "5.5.1", "Command not implemented", nil)
	case !s.esmtp:
		return errNoGreet
	case s.env != nil || s.login != "":
		return errSequence // RFC 4954 4: once, and not in a transaction
	case !s.protected():
		return errNeedTLS
	}
	if arg == "" {
		return syntax("5.5.4", "Syntax: AUTH MECHANISM [RESPONSE]", nil)
	}
	name, first, hasFirst := strings.Cut(arg, " ")
	attempt := &attempt{session: s, Login: s.srv.Guesses.Attempt(netip.Addr{}, "")} // of nobody, until the client says who
	on := channel.Of(s.tls)
	on.Try = attempt.try
	attempt.Exchange = s.srv.Logins.New(strings.ToUpper(name), on)
	if attempt.Exchange == nil {
		return status.Permanent(504, "5.5.4", "Authentication mechanism not recognized", nil)
	}
	var response []byte
	var err error
	if hasFirst {
		response, err = sasl.Decode(first)
	}
	for err == nil {
		challenge, done, wrong := attempt.next(response)
		if wrong != nil || done {
			err = wrong
			break
		}
		s.reply(334, "", sasl.Encode(challenge))
		line, lost := s.readLine(maxAuth)
		if lost != nil {
			if attempt.Refused != nil {
				attempt.failed(attempt.Refused)
			}
			return lost
		}
		if response, err = sasl.Decode(line); attempt.Refused != nil {
			err = attempt.Refused // whatever the answer to that is
		}
	}
	return attempt.end(err)
}

// attempt is one AUTH.
type attempt struct {
	*session
	*sasl.Exchange
	*guesses.Login
}

// errBanned is the answer to a login that is not looked at. The connection ends with it.
var errBanned = status.Temporary(421, "4.7.0", "Too many failed logins from your network, try again later", nil)

// try stops a login from a network that is banned, before anything is looked up. A host that sends for many users, whose passwords it is given, is never banned.
func (a *attempt) try(user string) error {
	var ip netip.Addr
	if !a.guard.Private() && !contains(a.srv.RelayNetworks, a.guard.IP()) {
		ip = a.guard.IP()
	}
	a.Login = a.srv.Guesses.Attempt(ip, user)
	return a.notBanned()
}

func (a *attempt) notBanned() error {
	if left := a.Banned(); left > 0 {
		return fmt.Errorf("%w: banned for another %v", errBanned, left.Round(time.Second))
	}
	return nil
}

func (a *attempt) next(response []byte) (challenge []byte, done bool, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), verifyTime)
	defer cancel()
	challenge, done, err = a.Next(ctx, response)
	if late := a.notBanned(); late != nil { // others have failed meanwhile: this one is to learn nothing
		return nil, false, late
	}
	return challenge, done, err
}

// end answers the exchange, which err has ended, or nil. What failed takes longer each time, and ends the session the fifth time.
func (a *attempt) end(err error) error {
	s := a.session
	switch {
	case err == nil:
		time.Sleep(a.Delay())
		a.Succeeded()
		s.login = a.Exchange.Login
		s.srv.Log.Login(s.login, s.guard.Client(), "smtp")
		s.reply(235, "2.7.0", "Authentication successful")
		return nil
	case errors.Is(err, sasl.ErrCancelled):
		return syntax("5.7.0", "Authentication cancelled", nil)
	case errors.Is(err, sasl.ErrMalformed):
		return syntax("5.5.2", "Malformed response", nil)
	}
	wait := a.Delay()
	a.failed(err)
	if errors.Is(err, errBanned) {
		s.end("banned")
		s.reply(errBanned.Code, errBanned.Enhanced, errBanned.Text)
		return nil
	}
	s.errors++
	s.logins++
	delay := s.srv.LoginDelay
	if delay == 0 {
		delay = time.Second
	}
	time.Sleep(max(delay<<(s.logins-1), wait))
	if s.logins >= maxLogins {
		s.end(fmt.Sprintf("%d failed logins", s.logins))
	}
	if status.Of(err).Temporary() {
		s.reply(454, "4.7.0", "Temporary authentication failure")
	} else {
		s.reply(535, "5.7.8", "Authentication credentials invalid")
	}
	return nil
}

// failed logs a failure, and counts it where it may have been a guess.
func (a *attempt) failed(err error) {
	client := a.guard.Client()
	a.srv.Log.LoginFailed(a.User, client, "smtp", err)
	if status.Of(err).Temporary() {
		return
	}
	if ban := a.Failed(); ban > 0 {
		network, user := a.Network(), ""
		if a.Known() {
			user = a.User
		}
		a.srv.Log.Banned(user, network, ban, "smtp")
	}
}
