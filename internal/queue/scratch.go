package queue

import (
	"errors"
	"os"

	"github.com/postel-mail/postel/internal/clock"
)

// Scratch makes a file without a name beside the queue, to hold a message in another form for a while. It goes with its last descriptor.
func (m *Message) Scratch() (*os.File, error) {
	name := NewID(clock.Now())
	f, err := m.spool.tmp.Create(name, 0o600)
	if err != nil {
		return nil, err
	}
	if err := m.spool.tmp.Remove(name); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}
