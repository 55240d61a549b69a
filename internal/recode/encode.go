package recode

import (
	"encoding/base64"
	"errors"
	"io"
)

// Lengths of lines that are written, without their ends (RFC 2045 6.7, 6.8).
const (
	quotedLine = 75 // the octet behind it is the "=" of a soft line break
	base64Line = 76
)

// lineWriter collects octets in lines of quoted-printable.
type lineWriter struct {
	out    []byte
	column int
}

// literal writes an octet as it is. A hyphen at the start of a line is not: with what follows it could be the boundary of a multipart that
// holds the part.
func (l *lineWriter) literal(c byte) {
	if l.column == quotedLine {
		l.softBreak()
	}
	if c == '-' && l.column == 0 {
		l.escaped(c)
		return
	}
	l.out = append(l.out, c)
	l.column++
}

func (l *lineWriter) escaped(c byte) {
	const hex = "0123456789ABCDEF"
	if l.column+3 > quotedLine {
		l.softBreak()
	}
	l.out = append(l.out, '=', hex[c>>4], hex[c&15])
	l.column += 3
}

func (l *lineWriter) softBreak() {
	l.out = append(l.out, "=\r\n"...)
	l.column = 0
}

func (l *lineWriter) hardBreak() {
	l.out = append(l.out, "\r\n"...)
	l.column = 0
}

// quoter writes quoted-printable (RFC 2045 6.7). The standard library's takes a bare CR or LF for a line end, and does not care for boundaries.
type quoter struct {
	w     io.Writer
	lines lineWriter
	space byte // white space that was not written yet: it must not stand at the end of a line; 0 is none
	cr    bool // a CR was not written yet
}

func (q *quoter) Write(b []byte) (int, error) {
	for _, c := range b {
		if q.cr {
			q.cr = false
			if c == '\n' {
				q.endSpace(true)
				q.lines.hardBreak()
				continue
			}
			q.endSpace(false)
			q.lines.escaped('\r')
		}
		if c == '\r' {
			q.cr = true
			continue
		}
		q.endSpace(false)
		switch {
		case c == ' ' || c == '\t':
			q.space = c
		case c > ' ' && c < 0x7f && c != '=':
			q.lines.literal(c)
		default:
			q.lines.escaped(c)
		}
	}
	return len(b), q.flush()
}

// endSpace writes the white space that was held back. At the end of a line it could get lost on the way.
func (q *quoter) endSpace(last bool) {
	switch {
	case q.space == 0:
	case last:
		q.lines.escaped(q.space)
	default:
		q.lines.literal(q.space)
	}
	q.space = 0
}

func (q *quoter) flush() error {
	_, err := q.w.Write(q.lines.out)
	q.lines.out = q.lines.out[:0]
	return err
}

func (q *quoter) Close() error {
	q.endSpace(true)
	if q.cr {
		q.lines.escaped('\r')
	}
	return q.flush()
}

// newBase64 gives a writer of base64 in lines (RFC 2045 6.8).
func newBase64(w io.Writer) io.WriteCloser {
	lines := &rewrapper{w: w}
	return closers{base64.NewEncoder(base64.StdEncoding, lines), lines}
}

// closers closes a writer and then the one below it.
type closers struct {
	io.WriteCloser
	below io.Closer
}

func (c closers) Close() error { return errors.Join(c.WriteCloser.Close(), c.below.Close()) }

// rewrapper breaks the lines of an encoded part anew. What it decodes to stays the same: a reader of base64 has to pass over octets that are
// not of its alphabet (RFC 2045 6.8), and one of quoted-printable takes an octet over 127, which must not be there, as it stands.
type rewrapper struct {
	w      io.Writer
	quoted bool // quoted-printable; else base64, whose line ends mean nothing
	seven  bool // no octet over 127 may come out
	lines  lineWriter
	equal  bool // "=" was not written yet: of "=XX", or of a soft line break
	escape int  // octets left of "=XX"
	ended  bool // the input's last octet was a line end
}

func (r *rewrapper) Write(b []byte) (int, error) {
	for _, c := range b {
		r.ended = c == '\n'
		if r.quoted {
			r.quotedOctet(c)
		} else {
			r.base64Octet(c)
		}
	}
	_, err := r.w.Write(r.lines.out)
	r.lines.out = r.lines.out[:0]
	return len(b), err
}

func (r *rewrapper) quotedOctet(c byte) {
	l := &r.lines
	if r.equal {
		r.equal = false
		if c > ' ' {
			r.escape = 2
			if l.column+3 > quotedLine {
				l.softBreak()
			}
		}
		l.out = append(l.out, '=')
		l.column++
	}
	switch {
	case c == '\r' || c == '\n':
		l.out = append(l.out, c)
		l.column, r.escape = 0, 0
	case c >= 0x80 && r.seven || c == 0:
		l.escaped(c)
	case r.escape > 0:
		l.out = append(l.out, c)
		l.column++
		r.escape--
	case c == '=':
		r.equal = true
	case l.column < quotedLine: // a line that was short enough stays as it is
		l.out = append(l.out, c)
		l.column++
	default:
		l.literal(c)
	}
}

func (r *rewrapper) base64Octet(c byte) {
	l := &r.lines
	if c == '\r' || c == '\n' || c == 0 || c >= 0x80 && r.seven {
		return
	}
	if l.column >= base64Line && c != '-' { // which is not of the alphabet, and could begin a boundary
		l.hardBreak()
	}
	l.out = append(l.out, c)
	l.column++
}

func (r *rewrapper) Close() error {
	end := ""
	switch {
	case r.equal:
		end = "="
	case !r.quoted && r.ended && r.lines.column > 0:
		end = "\r\n"
	}
	_, err := io.WriteString(r.w, end)
	return err
}

// masker writes "?" for octets over 127.
type masker struct{ w io.Writer }

func (m masker) Write(b []byte) (int, error) {
	out := make([]byte, len(b))
	for i, c := range b {
		if out[i] = c; c >= 0x80 {
			out[i] = '?'
		}
	}
	return m.w.Write(out)
}

func (masker) Close() error { return nil }
