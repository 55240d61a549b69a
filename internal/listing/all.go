package listing

import (
	"bufio"
	"bytes"
	"errors"
	"io"

	"github.com/postel-mail/postel/internal/queue"
)

// ListAll lists the messages of s, for people or as JSON. failed is called for those that cannot be read; where there is one, the sum at the end is
// left out.
func ListAll(out io.Writer, s *Selection, asJSON bool, failed func(id string, err error)) error {
	type printed struct {
		text []byte
		size int64
	}
	work := func(m *queue.Message) (printed, error) {
		defer m.Close()
		if err := m.ReadState(); err != nil {
			return printed{}, err
		}
		var b bytes.Buffer
		var err error
		if asJSON {
			err = JSON(&b, m)
		} else {
			List(&b, m)
		}
		return printed{b.Bytes(), m.Size()}, err
	}
	w := bufio.NewWriterSize(out, 64<<10) // an error sticks in it
	var count, octets int64
	whole := true
	Each(s, work, func(id string, p printed, err error) {
		if err != nil {
			failed(id, err)
			whole = false
			return
		}
		if count == 0 && !asJSON {
			Head(w)
		}
		count++
		octets += p.size
		_, _ = w.Write(p.text)
	})
	if !asJSON && whole {
		Foot(w, count, octets)
	}
	return w.Flush()
}

// ShowAll prints the messages of s whole, or as JSON without what is in them.
func ShowAll(w io.Writer, s *Selection, asJSON bool, failed func(id string, err error)) error {
	var broken error
	Each(s, func(m *queue.Message) (none struct{}, err error) {
		m.Close()
		return none, nil
	}, func(id string, _ struct{}, err error) {
		var m *queue.Message
		if err == nil {
			m, err = s.Spool.Peek(id)
		}
		if errors.Is(err, queue.ErrGone) && len(s.Filter.IDs) == 0 {
			return
		}
		if err != nil {
			failed(id, err)
			return
		}
		defer m.Close()
		if asJSON {
			err = JSON(w, m)
		} else {
			err = Show(w, m)
		}
		broken = errors.Join(broken, err)
	})
	return broken
}
