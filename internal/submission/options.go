package submission

import (
	"fmt"
	"strings"

	"github.com/postel-mail/postel/internal/address"
	"github.com/postel-mail/postel/internal/envelope"
	"github.com/postel-mail/postel/internal/message"
)

// SetCaller makes the user with that number the submitter, the sender and the author.
func (s *Submission) SetCaller(uid int) (err error) {
	login, name := Account(uid)
	s.UID, s.Name = uid, name
	if s.Sender, err = s.complete(address.Path{Local: login}); err != nil {
		return fmt.Errorf("user name: %w", err)
	}
	return nil
}

// SetSender reads the value of -f; "" and "<>" are the null path. The caller's name is not that of another sender.
func (s *Submission) SetSender(text string) error {
	p, err := message.ParseOne(text)
	if err == nil {
		p, err = s.complete(p)
	}
	if err != nil {
		return fmt.Errorf("-f %q: %w", text, err)
	}
	if p != s.Sender {
		s.Name = ""
	}
	s.Sender = p
	return nil
}

// AddRecipients reads an argument: an address, or a list of them.
func (s *Submission) AddRecipients(list string) error {
	paths, err := message.ParseList(list)
	if err != nil {
		return fmt.Errorf("recipient: %w", err)
	}
	for _, p := range paths {
		s.Recipients = append(s.Recipients, envelope.Recipient{To: p})
	}
	return nil
}

// SetDSN reads the values of sendmail's -N, --orcpt, -R and -V (RFC 3461).
func (s *Submission) SetDSN(notify, orcpt, ret, envID string) (err error) {
	s.DSN, err = envelope.ParseDSN(notify, orcpt, ret, envID)
	return err
}

// SetBody reads the value of -B, RFC 6152's BODY; "" says nothing.
func (s *Submission) SetBody(text string) error {
	switch strings.ToUpper(text) {
	case "", "7BIT":
	case "8BITMIME":
		s.EightBit = true
	default:
		return fmt.Errorf("-B %q: must be 7bit or 8bitmime", text)
	}
	return nil
}

// complete gives an address without a domain the one of this host. The null path stays.
func (s *Submission) complete(p address.Path) (address.Path, error) {
	if p.Domain != "" || p.IsNull() {
		return p, nil
	}
	p.Domain = s.Hostname
	if _, err := address.Parse(p.String()); err != nil {
		return p, fmt.Errorf("%q: %w", p.Local, err)
	}
	return p, nil
}

// SetEnvelope takes over who sends to whom, and what the sender is to hear of it, from an envelope that this user wrote; nothing else in it is believed.
func (s *Submission) SetEnvelope(e *envelope.Envelope) (err error) {
	if s.Sender, err = s.complete(e.From); err != nil {
		return err
	}
	for _, r := range e.Rcpts {
		if err := envelope.CheckORcpt(r.ORcpt); err != nil {
			return fmt.Errorf("ORCPT %q: %w", r.ORcpt, err)
		}
	}
	s.Recipients, s.EightBit, s.Wait = e.Rcpts, e.Body != "", e.Wait
	return s.SetDSN("", "", e.Ret, envelope.EncodeXtext(e.EnvID))
}
