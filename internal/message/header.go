// Package message is RFC 5322 as a mail transfer agent needs it: read a header and write it again with every octet that nobody
// asked to change, complete what a program submitted (RFC 6409 8), trace fields (RFC 5321 4.4), the address lists of header
// fields, line ends, and lines that are too long for SMTP.
//
// It leaves out what a mail reader needs: decoding of bodies, of charsets and of encoded words. Bodies are streams; only a header is
// held in memory, and it is bounded. All work is linear in the input.
package message

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"

	"github.com/postel-mail/postel/internal/status"
)

// MaxHeader is how many octets of header postel's programs read.
const MaxHeader = 1 << 20

// maxFields bounds the memory that tiny fields take.
const maxFields = 20_000

// Field is one header field as it stands in the message: name, colon, value, CRLF, with its folded lines.
type Field []byte

// NewField makes a field. Line ends and other control characters in value become spaces, so that it cannot begin another field; a long
// value is folded at its spaces.
func NewField(name, value string) Field {
	f := append(Field(name), ": "...)
	f = append(f, plainText(value)...)
	return append(f, "\r\n"...).fold(78)
}

// Name is the field's name, as written.
func (f Field) Name() string {
	name, _, _ := bytes.Cut(f, []byte(":"))
	return string(bytes.TrimRight(name, " \t"))
}

// Value is what stands behind the colon, unfolded (RFC 5322 2.2.3) and without white space at its ends.
func (f Field) Value() string {
	_, value, _ := bytes.Cut(f, []byte(":"))
	return string(bytes.TrimSpace(bytes.ReplaceAll(value, []byte("\r\n"), nil)))
}

// Is reports whether the field has that name, in any case.
func (f Field) Is(name string) bool {
	if len(f) <= len(name) || !strings.EqualFold(string(f[:len(name)]), name) {
		return false
	}
	rest := bytes.TrimLeft(f[len(name):], " \t")
	return len(rest) > 0 && rest[0] == ':'
}

// Header is the header of a message: its fields in their order.
type Header struct{ fields []Field }

// ReadHeader reads a header from r and leaves r at the first octet of the body. Lines may end in LF or CRLF and end in CRLF
// afterwards; a bare CR becomes a space, as the CRLF reader has it. The header ends at an empty line, or in front of the first line that cannot be
// part of one: body begins there, as sendmail has it. A "From " line of an mbox in front is dropped.
// More than max octets (after normalising) is a *status.Error 552 5.3.4; other errors are r's.
func ReadHeader(r *bufio.Reader, max int) (*Header, error) {
	h := &Header{}
	size := 0
	for first := true; ; first = false {
		kind, err := peekLine(r, len(h.fields) > 0)
		if err != nil {
			return nil, err
		}
		if kind == bodyLine && first && startsFrom(r) {
			kind = fromLine
		}
		if kind == bodyLine {
			return h, nil
		}
		limit := max - size
		if kind == emptyLine {
			limit = MaxName
		}
		line, err := readLine(r, limit)
		if err != nil {
			return nil, err
		}
		switch kind {
		case emptyLine:
			return h, nil
		case fieldLine:
			if len(h.fields) == maxFields {
				return nil, tooLarge()
			}
			h.fields = append(h.fields, line)
		case foldedLine:
			last := &h.fields[len(h.fields)-1]
			*last = append(*last, line...)
		case fromLine:
			continue
		}
		size += len(line)
	}
}

func tooLarge() error {
	return status.Permanent(552, "5.3.4", "Message header is too large", nil)
}

type lineKind int

const (
	bodyLine lineKind = iota
	emptyLine
	fieldLine
	foldedLine
	fromLine
)

// MaxName bounds a field's name in octets; what has no colon before that is no field.
const MaxName = 512

// peekLine says what the next line is, and asks r for no more than it needs to know that. The end of input is a body line.
func peekLine(r *bufio.Reader, mayFold bool) (lineKind, error) {
	for seen := 0; seen < MaxName; {
		b, err := r.Peek(max(seen+1, min(r.Buffered(), MaxName)))
		if len(b) == seen { // end of input or a full buffer
			if err == io.EOF || err == bufio.ErrBufferFull {
				err = nil
			}
			return bodyLine, err
		}
		if kind, known := lineKindOf(b); known {
			if kind == foldedLine && !mayFold {
				kind = bodyLine
			}
			return kind, nil
		}
		seen = len(b)
	}
	return bodyLine, nil
}

// IsField reports whether line begins a field of a header, with a name and a colon.
func IsField(line []byte) bool {
	kind, known := lineKindOf(line)
	return known && kind == fieldLine
}

// InHeader reports whether line, of which MaxName octets are enough, is one of a header: a field, or one that continues a field.
func InHeader(line []byte) bool {
	kind, known := lineKindOf(line)
	return known && (kind == fieldLine || kind == foldedLine)
}

// lineKindOf says what the line is that b begins, unless b is too short to tell.
func lineKindOf(b []byte) (kind lineKind, known bool) {
	switch b[0] {
	case ' ', '\t':
		return foldedLine, true
	case ':':
		return bodyLine, true
	case '\r', '\n':
		rest := bytes.TrimLeft(b, "\r") // CR CR LF is a line end too
		if len(rest) == 0 {
			return 0, false
		}
		if rest[0] == '\n' {
			return emptyLine, true
		}
		return bodyLine, true
	}
	end := bytes.IndexFunc(b, func(c rune) bool { return c <= ' ' || c >= 0x7f || c == ':' })
	if end < 0 {
		return 0, false
	}
	rest := bytes.TrimLeft(b[end:], " \t") // obsolete syntax has white space in front of the colon
	if len(rest) == 0 {
		return 0, false
	}
	if rest[0] == ':' {
		return fieldLine, true
	}
	return bodyLine, true
}

// startsFrom reports whether the next line is the "From " line of an mbox.
func startsFrom(r *bufio.Reader) bool {
	b, _ := r.Peek(len(">From "))
	return bytes.HasPrefix(bytes.TrimPrefix(b, []byte(">")), []byte("From "))
}

// readLine reads one line of at most max octets, whose end becomes CRLF.
func readLine(r *bufio.Reader, max int) ([]byte, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		line = append(line, part...)
		if len(line) > max+2 {
			return nil, tooLarge()
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if err != nil && err != io.EOF {
			return nil, err
		}
		line = bytes.TrimRight(bytes.TrimSuffix(line, []byte("\n")), "\r")
		for i, c := range line {
			if c == '\r' {
				line[i] = ' '
			}
		}
		if line = append(line, "\r\n"...); len(line) > max {
			return nil, tooLarge()
		}
		return line, nil
	}
}

// Fields gives the fields in order. They must not be changed.
func (h *Header) Fields() []Field { return h.fields }

// Get is the value of the first field of that name, "" where there is none.
func (h *Header) Get(name string) string {
	if i := h.index(name); i >= 0 {
		return h.fields[i].Value()
	}
	return ""
}

// Has reports whether there is a field of that name.
func (h *Header) Has(name string) bool { return h.index(name) >= 0 }

func (h *Header) index(name string) int {
	return slices.IndexFunc(h.fields, func(f Field) bool { return f.Is(name) })
}

// Count is the number of fields of that name. Count("Received") is the number of hops that a message has behind it.
func (h *Header) Count(name string) int {
	n := 0
	for _, f := range h.fields {
		if f.Is(name) {
			n++
		}
	}
	return n
}

// Add puts a field at the end.
func (h *Header) Add(f Field) { h.fields = append(h.fields, f) }

// Prepend puts a field at the top, where trace fields go.
func (h *Header) Prepend(f Field) { h.fields = slices.Insert(h.fields, 0, f) }

// Set puts f in the place of the first field of its name and removes the others; without one it goes to the end.
func (h *Header) Set(f Field) {
	i := h.index(f.Name())
	if i < 0 {
		h.Add(f)
		return
	}
	h.fields[i] = f
	rest := slices.DeleteFunc(h.fields[i+1:], func(g Field) bool { return g.Is(f.Name()) })
	h.fields = h.fields[:i+1+len(rest)]
}

// Del removes all fields of these names.
func (h *Header) Del(names ...string) {
	h.fields = slices.DeleteFunc(h.fields, func(f Field) bool {
		return slices.ContainsFunc(names, f.Is)
	})
}

// WriteTo writes the header and the empty line behind it, CRLF line ends.
func (h *Header) WriteTo(w io.Writer) (n int64, err error) {
	for _, f := range append(h.fields[:len(h.fields):len(h.fields)], Field("\r\n")) {
		m, err := w.Write(f)
		n += int64(m)
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// Size is the number of octets that WriteTo writes.
func (h *Header) Size() int64 {
	n := int64(2)
	for _, f := range h.fields {
		n += int64(len(f))
	}
	return n
}

// plainText replaces every control character by a space.
func plainText(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
}

// fold breaks lines longer than limit octets in front of white space (RFC 5322 2.2.3), never so that a line of nothing but white space
// arises. Where there is none a line stays long.
func (f Field) fold(limit int) Field {
	out := make(Field, 0, len(f)+16)
	start, at := 0, 0                        // of the line, and of the last place in it where it may be broken
	text := false                            // the line has text in front of here
	colon := max(bytes.IndexByte(f, ':'), 0) // the name alone is no line
	for i, c := range f {
		switch {
		case c == '\n':
			out = append(out, f[start:i+1]...)
			start, at, text = i+1, 0, false
		case isSpace(c) || c == '\r' || i <= colon:
			continue
		case text && isSpace(f[i-1]):
			at = i - 1
			for isSpace(f[at-1]) {
				at--
			}
			fallthrough
		default:
			if i-start >= limit && at > start {
				out = append(append(out, f[start:at]...), "\r\n"...)
				start, at = at, 0
			}
			text = true
		}
	}
	return append(out, f[start:]...)
}

func isSpace(c byte) bool { return c == ' ' || c == '\t' }
