package saslclient

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	xdg "github.com/xdg-go/scram"
)

// maxIterations bounds the work that a server can ask for: some tenths of a second. RFC 7677 asks for 4096 at least, which the library sees to.
const maxIterations = 1_000_000

// scram is xdg-go's conversation, bounded and ended by the first error: behind one it would take an empty proof for the server's.
type scram struct {
	name string
	*xdg.ClientConversation
	begun bool // the server has sent its first message
	err   error
}

// newScram begins SCRAM: bound to the TLS session where both sides can; else it tells the server, where this side could, that the offer of it was not seen
// (RFC 5802 6), so that one who took it out of the list is found out.
func newScram(l Login, plus bool) (Mechanism, error) {
	client, err := xdg.SHA256.NewClient(l.User, l.Password, "")
	if err != nil {
		return nil, fmt.Errorf("saslclient: user or password cannot be prepared (RFC 4013): %w", err)
	}
	switch {
	case plus && l.Binding != nil:
		return &scram{name: ScramPlus, ClientConversation: client.NewConversationWithChannelBinding(xdg.ChannelBinding{Type: xdg.ChannelBindingTLSExporter, Data: l.Binding})}, nil
	case l.Binding != nil:
		return &scram{name: Scram, ClientConversation: client.NewConversationAdvertisingChannelBinding()}, nil
	}
	return &scram{name: Scram, ClientConversation: client.NewConversation()}, nil
}

func (s *scram) Name() string { return s.name }

func (s *scram) Start() []byte {
	first, _ := s.Step("") // cannot fail
	return []byte(first)
}

func (s *scram) Next(challenge []byte) ([]byte, error) {
	if s.err != nil {
		return nil, s.err
	}
	if s.Done() {
		return nil, errTooMany
	}
	var response string
	if s.err = s.bounded(string(challenge)); s.err == nil {
		response, s.err = s.Step(string(challenge))
	}
	s.begun = true
	if s.err != nil {
		s.err = fmt.Errorf("saslclient: %s: %w", s.name, s.err)
		return nil, s.err
	}
	return []byte(response), nil
}

// bounded looks at the number of iterations in the server's first message.
func (s *scram) bounded(challenge string) error {
	fields := strings.Split(challenge, ",")
	if s.begun || len(fields) < 3 {
		return nil // the library knows what is wrong with it
	}
	count, ok := strings.CutPrefix(fields[2], "i=")
	if n, err := strconv.Atoi(count); !ok || err != nil || n > maxIterations {
		return fmt.Errorf("%q is no number of iterations up to %d", fields[2], maxIterations)
	}
	return nil
}

// Proved says whether the server has shown that it knows the password.
func (s *scram) Proved() error {
	if s.err != nil || !s.Valid() {
		return errors.New("saslclient: the server did not prove that it knows the password")
	}
	return nil
}
