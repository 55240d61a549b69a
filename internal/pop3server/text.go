package pop3server

import (
	"bytes"
	"io"
	"sync"
)

// textBlock is what a message is read into. What comes out of it may be twice as long.
const textBlock = 16 << 10

type textBuffer struct {
	in  [textBlock]byte
	out [2*textBlock + 16]byte
}

var textBuffers = sync.Pool{New: func() any { return new(textBuffer) }}

// sendText sends a message and the "." behind it: lines end in CRLF, and one that begins with a dot gets another (RFC 1939 3). With limit
// it stops after what top lets through. The error is that of r, or of w as a *writeError.
func sendText(w io.Writer, r io.Reader, limit *top) error {
	b := textBuffers.Get().(*textBuffer)
	defer textBuffers.Put(b)
	lines := stuffing{atStart: true}
	for done := false; !done; {
		n, err := r.Read(b.in[:])
		if err != nil && err != io.EOF {
			return err
		}
		done = err == io.EOF
		text := b.in[:n]
		if limit != nil {
			n, done = limit.cut(text, done)
			text = text[:n]
		}
		out := lines.append(b.out[:0], text)
		if done {
			out = lines.end(out)
		}
		if _, err := w.Write(out); err != nil {
			return &writeError{err}
		}
	}
	return nil
}

// writeError tells that it is the client who failed.
type writeError struct{ err error }

func (e *writeError) Error() string { return e.err.Error() }
func (e *writeError) Unwrap() error { return e.err }

// stuffing makes the lines of a message those of a reply. The message may come in pieces of any length.
type stuffing struct {
	atStart bool // of a line
	cr      bool // the last octet was a CR
}

func (s *stuffing) append(dst, p []byte) []byte {
	for len(p) > 0 {
		if s.atStart && p[0] == '.' {
			dst = append(dst, '.')
		}
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			s.atStart, s.cr = false, p[len(p)-1] == '\r'
			return append(dst, p...)
		}
		dst = append(dst, p[:i]...)
		if i > 0 && p[i-1] != '\r' || i == 0 && !s.cr {
			dst = append(dst, '\r')
		}
		dst, p = append(dst, '\n'), p[i+1:]
		s.atStart, s.cr = true, false
	}
	return dst
}

// end ends the last line, where it has no end, and the message.
func (s *stuffing) end(dst []byte) []byte {
	if !s.atStart {
		dst = append(dst, crlf...)
	}
	return append(dst, ".\r\n"...)
}

// top lets the header of a message through, the empty line behind it, and some lines of the body. A message without an empty line is all
// header.
type top struct {
	lines  int // of the body, still to come
	inBody bool
	length int // of the line so far
	cr     bool
}

// cut gives how much of p is let through, and whether that was the last.
func (t *top) cut(p []byte, last bool) (n int, done bool) {
	for n < len(p) {
		i := bytes.IndexByte(p[n:], '\n')
		if i < 0 {
			t.length += len(p) - n
			t.cr = p[len(p)-1] == '\r'
			return len(p), last
		}
		if i > 0 {
			t.cr = p[n+i-1] == '\r'
		}
		length := t.length + i
		n += i + 1
		if t.inBody {
			t.lines--
		} else {
			t.inBody = length == 0 || length == 1 && t.cr
		}
		t.length, t.cr = 0, false
		if t.inBody && t.lines == 0 {
			return n, true
		}
	}
	return n, last
}
