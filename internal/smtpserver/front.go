package smtpserver

import (
	"errors"

	"github.com/postel-mail/postel/internal/activation"
	"github.com/postel-mail/postel/internal/address"
)

// front takes up a client that nobody vouches for, before the greeting. It reports whether the session goes on.
func (s *session) front() bool {
	if s.srv.Screen == nil || s.srv.Submission || s.trusted() {
		return true
	}
	s.client = s.srv.Screen.Begin(s.guard.IP())
	delay := s.client.Delay()
	if delay == 0 || s.tls != nil { // where the client's handshake comes first
		return true
	}
	// The first line of a greeting of several is enough for those who do not read on to speak up.
	s.out = append(append(append(s.out, "220-"...), s.srv.Hostname...), "\r\n"...)
	err := s.flush()
	var said []byte
	if err == nil {
		said, err = s.guard.Quiet(delay)
	}
	switch {
	case len(said) > 0:
		s.end("spoke before the greeting")
		s.refuse(s.client.Spoke(said), nil, nil)
	case errors.Is(err, activation.ErrDraining):
		s.end("shutting down")
		s.reply(421, "4.3.2", s.srv.Hostname+" is shutting down")
	case err != nil:
		s.end("left before the greeting")
	default:
		s.client.Waited()
	}
	return !s.ended
}

// screened says whether the client may send to a recipient at all.
func (s *session) screened(to address.Path) error {
	if s.client == nil || s.trusted() {
		return nil
	}
	if v := s.client.Verdict(); !s.judged && (v.Name != "" || v.Text != "") {
		s.srv.Log.Screened(s.guard.Client(), v.Name, v.Score, v.Text)
	}
	s.judged = true
	return s.client.Refuse(s.helo, s.guard.LocalIP(), to)
}

// greylist says whether the client has to come again with a recipient. That is no error of the client's, but it does not get it further either.
func (s *session) greylist(to address.Path) error {
	if s.trusted() || s.env.From.IsNull() {
		return nil
	}
	err := s.client.Greylist(s.env.From, to)
	if err != nil {
		s.errors--
		s.idle++
	}
	return err
}

// greylistNull is greylist for all recipients of the null sender, at the time of the message.
func (s *session) greylistNull() (err error) {
	if s.trusted() || !s.env.From.IsNull() {
		return nil
	}
	for _, r := range s.env.Rcpts {
		if e := s.client.Greylist(s.env.From, r.To); e != nil {
			err = e
		}
	}
	return err
}
