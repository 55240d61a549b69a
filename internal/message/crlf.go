package message

import (
	"bytes"
	"encoding/binary"
	"io"
)

// LineReader reads a message and gives every line CRLF as its end: LF and CRLF become CRLF, also behind more than one CR, and a last line
// without an end gets one. A CR that ends no line becomes a space, as in a terminal's or a Macintosh's text it would otherwise
// change what the next reader takes for a line. So neither a bare CR nor a bare LF comes out. All other octets, NUL too, stay: HasNUL tells of it.
type LineReader struct {
	// EndAtDot makes a line with nothing but "." the end of the message, as sendmail(1) has it without -i.
	EndAtDot bool

	r        io.Reader
	raw, out []byte // buffers; out[given:] is to be handed out
	given    int
	err      error
	line     int  // octets of the current line so far, CR and LF not counted
	cr       bool // the last octet was a CR, not yet decided
	dot      bool // the line is "." so far, not yet decided
	longest  int
	eightBit bool
	nul      bool
}

// CRLF makes a LineReader of r.
func CRLF(r io.Reader) *LineReader {
	const block = 32 << 10
	return &LineReader{r: r, raw: make([]byte, block), out: make([]byte, 0, block+block/8)}
}

// Longest is the length of the longest line read so far, without its end.
func (l *LineReader) Longest() int { return l.longest }

// EightBit reports whether an octet over 127 was read.
func (l *LineReader) EightBit() bool { return l.eightBit }

// HasNUL reports whether a NUL was read, which SMTP cannot carry (RFC 5321 4.5.2, RFC 5322 4).
func (l *LineReader) HasNUL() bool { return l.nul }

// Read reads normalised octets. An error of the reader below comes behind the octets that were read before it.
func (l *LineReader) Read(p []byte) (int, error) {
	for l.given == len(l.out) {
		if l.err != nil {
			return 0, l.err
		}
		l.out, l.given = l.out[:0], 0
		n, err := l.r.Read(l.raw)
		if l.err = err; l.take(l.raw[:n]) {
			l.err = io.EOF
		} else if err == io.EOF && (l.line > 0 || l.cr) {
			l.endLine()
		}
	}
	n := copy(p, l.out[l.given:])
	l.given += n
	return n, nil
}

// take moves octets to out, and reports whether they hold the end of the message.
func (l *LineReader) take(b []byte) (done bool) {
	for len(b) > 0 {
		line, rest, ended := bytes.Cut(b, []byte("\n"))
		for len(line) > 0 {
			text, behind, cr := bytes.Cut(line, []byte("\r"))
			if len(text) > 0 {
				l.text(text)
			}
			l.cr = l.cr || cr
			line = behind
		}
		if ended && l.endLine() {
			return true
		}
		b = rest
	}
	return false
}

// text takes octets without CR and LF.
func (l *LineReader) text(b []byte) {
	if l.EndAtDot && l.line == 0 && !l.cr && len(b) == 1 && b[0] == '.' {
		l.dot, l.line = true, 1
		return
	}
	l.undecided()
	l.eightBit = l.eightBit || HasEightBit(b)
	l.nul = l.nul || bytes.IndexByte(b, 0) >= 0
	l.out = append(l.out, b...)
	l.line += len(b)
}

// undecided gives out what was held back and turned out to be text.
func (l *LineReader) undecided() {
	if l.dot {
		l.out = append(l.out, '.')
		l.dot = false
	}
	if l.cr {
		l.out = append(l.out, ' ')
		l.line++
		l.cr = false
	}
}

// endLine ends the line, and reports whether it is the one that ends the message.
func (l *LineReader) endLine() (done bool) {
	if l.dot {
		return true
	}
	l.out = append(l.out, '\r', '\n')
	l.longest = max(l.longest, l.line)
	l.line, l.cr = 0, false
	return false
}

// HasEightBit reports whether b has an octet over 127.
func HasEightBit(b []byte) bool {
	for ; len(b) >= 8; b = b[8:] {
		if binary.NativeEndian.Uint64(b)&0x8080808080808080 != 0 {
			return true
		}
	}
	for _, c := range b {
		if c >= 0x80 {
			return true
		}
	}
	return false
}
