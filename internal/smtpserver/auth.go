package smtpserver

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/postel-mail/postel/internal/sasl"
	"github.com/postel-mail/postel/internal/status"
)

// authLine is the line of EHLO.
var authLine = "AUTH " + strings.Join(sasl.Names, " ")

// protected reports whether a password may cross the connection.
func (s *session) protected() bool {
	return s.tls != nil || s.guard.Private() || contains(s.srv.PlaintextLogin, s.guard.IP())
}

// offersAuth reports whether AUTH is of use now.
func (s *session) offersAuth() bool {
	return s.srv.Submission && s.srv.Authenticate != nil && s.protected()
}

func (s *session) doAUTH(arg string) error {
	switch {
	case !s.srv.Submission || s.srv.Authenticate == nil:
		return status.Permanent(502, "5.5.1", "Command not implemented", nil)
	case !s.esmtp:
		return errNoGreet
	case s.env != nil || s.login != "":
		return errSequence // RFC 4954 4: once, and not in a transaction
	case !s.protected():
		return errNeedTLS
	}
	name, first, hasFirst := strings.Cut(arg, " ")
	var user, login string
	exchange := sasl.New(strings.ToUpper(name), func(u, password string) (err error) {
		user = u
		ctx, cancel := context.WithTimeout(context.Background(), verifyTime)
		defer cancel()
		login, err = s.srv.Authenticate(ctx, u, password)
		return err
	})
	if exchange == nil {
		return status.Permanent(504, "5.5.4", "Authentication mechanism not recognized", nil)
	}
	var response []byte
	var err error
	if hasFirst {
		response, err = sasl.Decode(first)
	}
	for err == nil {
		var challenge []byte
		var done bool
		if challenge, done, err = exchange.Next(response); err != nil {
			break
		}
		if done {
			s.login = login
			s.srv.Log.Login(login, s.guard.Client(), "smtp")
			s.reply(235, "2.7.0", "Authentication successful")
			return nil
		}
		s.reply(334, "", sasl.Encode(challenge))
		line, lost := s.readLine(maxAuth)
		if lost != nil {
			return lost
		}
		response, err = sasl.Decode(line)
	}
	return s.loginFailed(user, err)
}

// loginFailed answers a failed exchange. It takes longer each time, and ends the session the fifth time.
func (s *session) loginFailed(user string, err error) error {
	switch {
	case errors.Is(err, sasl.ErrCancelled):
		return syntax("5.7.0", "Authentication cancelled", nil)
	case errors.Is(err, sasl.ErrMalformed):
		return syntax("5.5.2", "Malformed response", nil)
	}
	s.srv.Log.LoginFailed(user, s.guard.Client(), "smtp", err)
	s.errors++
	s.logins++
	delay := s.srv.LoginDelay
	if delay == 0 {
		delay = time.Second
	}
	time.Sleep(delay << (s.logins - 1))
	if s.logins >= maxLogins {
		s.end(fmt.Sprintf("%d failed logins", s.logins))
	}
	if st := status.Of(err); st.Temporary() && !errors.Is(err, sasl.ErrIdentity) {
		s.reply(454, "4.7.0", "Temporary authentication failure")
	} else {
		s.reply(535, "5.7.8", "Authentication credentials invalid")
	}
	return nil
}
