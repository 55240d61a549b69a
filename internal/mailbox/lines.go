package mailbox

import (
	"bytes"
	"io"
)

var (
	lf   = []byte("\n")
	crlf = []byte("\r\n")
)

// Size counts the octets that a message written to it has when it is sent: every line ends in CRLF, also the last one.
// A CR that stands in front of a LF already is not doubled.
type Size struct {
	octets int64
	last   byte
}

// Write counts p; it never fails.
func (s *Size) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	bare := bytes.Count(p, lf) - bytes.Count(p, crlf)
	if p[0] == '\n' && s.last == '\r' {
		bare--
	}
	s.octets += int64(len(p) + bare)
	s.last = p[len(p)-1]
	return len(p), nil
}

// Octets is the count so far, as if the message ended here.
func (s *Size) Octets() int64 {
	if s.octets > 0 && s.last != '\n' {
		return s.octets + 2
	}
	return s.octets
}

// CopyLines copies a message from r to w as it is stored: the CR in front of each LF is dropped, and a last line that has no end
// gets one. All else passes as it is.
func CopyLines(w io.Writer, r io.Reader) error {
	buf := make([]byte, 64<<10)
	kept := 0 // 1: buf begins with a CR whose LF may come in the next block
	last := byte('\n')
	for {
		n, err := r.Read(buf[kept:])
		block := buf[:kept+n]
		if kept = 0; err == nil && n > 0 && block[len(block)-1] == '\r' {
			kept, block = 1, block[:len(block)-1]
		} else if n == 0 && err == nil {
			kept = len(block)
			continue
		}
		if block = dropCR(block); len(block) > 0 {
			last = block[len(block)-1]
			if _, err := w.Write(block); err != nil {
				return err
			}
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		buf[0] = '\r'
	}
	if last == '\n' {
		return nil
	}
	_, err := w.Write(lf)
	return err
}

// dropCR drops the CR of each CRLF, in place.
func dropCR(b []byte) []byte {
	i := bytes.Index(b, crlf)
	if i < 0 {
		return b
	}
	out, rest := b[:i], b[i+1:]
	for {
		i = bytes.Index(rest, crlf)
		if i < 0 {
			return append(out, rest...)
		}
		out, rest = append(out, rest[:i]...), rest[i+1:]
	}
}
