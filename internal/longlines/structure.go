package longlines

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/postel-mail/postel/internal/message"
)

// Bounds of what is followed in a MIME structure. What is deeper or longer is one opaque part.
const (
	maxDepth    = 32       // multiparts and messages in each other
	maxField    = 16 << 10 // octets of a field in a part's header
	maxBoundary = 200      // RFC 2046 5.1.1 has 70
)

// entity is a message or a part of one (RFC 2045 2.4). Offsets count from the first octet of the message's body.
type entity struct {
	media    string // "text/plain", in lower case; "" where there is no Content-Type
	boundary string
	encoding string // Content-Transfer-Encoding in lower case; "" where there is none
	twice    bool   // it has that field more than once

	top        bool  // it is the message itself; its header stands elsewhere
	depth      int   // in multiparts and messages
	digest     bool  // without Content-Type it is a message (RFC 2046 5.1.5)
	signed     bool  // part of a multipart/signed: no octet may change (RFC 1847 2.1)
	fieldFrom  int64 // where its Content-Transfer-Encoding stands,
	fieldTo    int64 // and ends
	headerEnd  int64 // offset of the empty line behind its header
	start, end int64 // its content, without the line end that belongs to a boundary behind
	long       bool  // its content has a line over 998 octets, or a NUL
	charset    charset
}

// isIdentity reports whether the content stands there as it is (RFC 2045 6.2).
func (e *entity) isIdentity() bool {
	return e.encoding == "" || e.encoding == "7bit" || e.encoding == "8bit" || e.encoding == "binary"
}

// set takes what a field says about the entity.
func (e *entity) set(f message.Field) {
	switch {
	case f.Is("Content-Type") && e.media == "":
		e.media, e.boundary = parseMedia(f.Value())
	case f.Is("Content-Transfer-Encoding"):
		e.twice = e.fieldTo > 0
		e.encoding = strings.ToLower(f.Value())
	}
}

type scanState int

const (
	inNothing scanState = iota // preamble, epilogue, or a part that is not looked into
	inHeader
	inContent
)

// multipart is one that the scanner is in.
type multipart struct {
	delimiter string // "--" and the boundary
	entity
}

// scanner walks once over the lines of a body and calls leaf at the end of each part that is neither multipart nor message.
type scanner struct {
	leaf  func(*entity)
	open  []multipart // outermost first
	part  entity
	state scanState
	at    int64         // offset of the line
	line  int64         // its length so far
	field message.Field // that is being read; nil for none
	begun int64         // its offset
}

// scan reads a body with CRLF line ends whose message has header h.
func scan(h *message.Header, body io.Reader, leaf func(*entity)) error {
	s := &scanner{leaf: leaf, part: entity{top: true, twice: h.Count("Content-Transfer-Encoding") > 1}}
	s.part.encoding = strings.ToLower(h.Get("Content-Transfer-Encoding"))
	s.part.media, s.part.boundary = parseMedia(h.Get("Content-Type"))
	s.beginContent(0)
	r := bufio.NewReaderSize(body, 32<<10)
	for {
		b, err := r.ReadSlice('\n')
		if len(b) > 0 {
			s.take(b, err == nil)
		}
		if err == io.EOF {
			s.endPart(s.at + s.line)
			return nil
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return err
		}
	}
}

// take takes a line, or a piece of one that is longer than the buffer.
func (s *scanner) take(b []byte, last bool) {
	first := s.line == 0
	s.line += int64(len(b))
	switch {
	case first && last && s.delimiter(b):
	case s.state == inHeader:
		s.header(b, first)
	case s.state == inContent:
		s.part.long = s.part.long || s.line > message.MaxLine+2 || bytes.IndexByte(b, 0) >= 0
		if s.part.media == "" {
			s.part.charset.see(b)
		}
	}
	if last {
		s.at, s.line = s.at+s.line, 0
	}
}

// delimiter takes a line if it is a boundary of an open multipart (RFC 2046 5.1.1); one of an outer multipart ends the inner ones.
func (s *scanner) delimiter(b []byte) bool {
	if !bytes.HasPrefix(b, []byte("--")) {
		return false
	}
	b = bytes.TrimRight(b, " \t\r\n")
	for i := len(s.open) - 1; i >= 0; i-- {
		rest, ok := bytes.CutPrefix(b, []byte(s.open[i].delimiter))
		if !ok || len(rest) > 0 && string(rest) != "--" {
			continue
		}
		s.endPart(s.at - 2)
		if len(rest) > 0 {
			s.open, s.state = s.open[:i], inNothing
			return true
		}
		s.open = s.open[:i+1]
		m := &s.open[i]
		s.begin(entity{depth: m.depth + 1, signed: m.signed || m.media == "multipart/signed", digest: m.media == "multipart/digest"})
		return true
	}
	return false
}

func (s *scanner) begin(e entity) { s.part, s.state, s.field = e, inHeader, nil }

// header takes a line of a part's header.
func (s *scanner) header(b []byte, first bool) {
	if first && b[0] != ' ' && b[0] != '\t' {
		s.endField()
		if bytes.Equal(b, []byte("\r\n")) {
			s.part.headerEnd = s.at
			s.beginContent(s.at + 2)
			return
		}
		if !message.IsField(b) { // no header as we know it: better not touched
			s.state = inNothing
			return
		}
		s.field, s.begun = message.Field{}, s.at
	}
	if s.field != nil && len(s.field)+len(b) <= maxField {
		s.field = append(s.field, b...)
	}
}

func (s *scanner) endField() {
	if s.field == nil {
		return
	}
	s.part.set(s.field)
	if s.field.Is("Content-Transfer-Encoding") {
		s.part.fieldFrom, s.part.fieldTo = s.begun, s.at
	}
	s.field = nil
}

// beginContent decides what the part is, now that its header is known.
func (s *scanner) beginContent(at int64) {
	p := &s.part
	media := p.media
	if media == "" && p.digest {
		media = "message/rfc822"
	}
	follow := p.isIdentity() && p.depth < maxDepth
	switch {
	case strings.HasPrefix(media, "multipart/"):
		s.state = inNothing
		if follow && p.boundary != "" {
			s.open = append(s.open, multipart{"--" + p.boundary, *p})
		}
	case follow && (media == "message/rfc822" || media == "message/global"):
		s.begin(entity{depth: p.depth + 1, signed: p.signed})
	case strings.HasPrefix(media, "message/"):
		s.state = inNothing
	default:
		p.start, s.state = at, inContent
	}
}

// endPart ends the part in front of offset at.
func (s *scanner) endPart(at int64) {
	if s.state == inContent {
		s.part.end = max(at, s.part.start)
		s.leaf(&s.part)
	}
	s.state = inNothing
}

// parseMedia reads a Content-Type: the media type in lower case, and the boundary where there is one that can be used.
func parseMedia(value string) (media, boundary string) {
	media, params, _ := strings.Cut(value, ";")
	if i := strings.IndexAny(media, " \t("); i >= 0 {
		media = media[:i]
	}
	for params != "" && boundary == "" {
		name, rest, ok := strings.Cut(params, "=")
		if !ok {
			break
		}
		if i := strings.LastIndexByte(name, ';'); i >= 0 { // a parameter without a value
			name = name[i+1:]
		}
		var v string
		v, params = parameter(strings.TrimLeft(rest, " \t"))
		if strings.EqualFold(strings.TrimSpace(name), "boundary") {
			boundary = strings.TrimRight(v, " \t")
		}
	}
	if len(boundary) > maxBoundary {
		boundary = ""
	}
	return strings.ToLower(media), boundary
}

// parameter cuts the value of a parameter, quoted or not, from what stands behind it.
func parameter(s string) (value, rest string) {
	if !strings.HasPrefix(s, `"`) {
		value, rest, _ = strings.Cut(s, ";")
		if i := strings.IndexAny(value, " \t("); i >= 0 {
			value = value[:i]
		}
		return value, rest
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"':
			_, rest, _ = strings.Cut(s[i:], ";")
			return b.String(), rest
		case c == '\\' && i+1 < len(s):
			i++
			b.WriteByte(s[i])
		default:
			b.WriteByte(c)
		}
	}
	return b.String(), ""
}

// charset is what can be told about the charset of a text that does not name it.
type charset struct {
	eightBit, notUTF8 bool
	tail              []byte // the first octets of a character
}

func (c *charset) see(b []byte) {
	if c.notUTF8 || len(c.tail) == 0 && !message.HasEightBit(b) {
		return
	}
	c.eightBit = true
	for b = append(c.tail, b...); len(b) > 0 && utf8.FullRune(b); {
		r, n := utf8.DecodeRune(b)
		if r == utf8.RuneError && n == 1 {
			c.notUTF8 = true
			return
		}
		b = b[n:]
	}
	c.tail = bytes.Clone(b)
}

func (c *charset) name() string {
	switch {
	case !c.eightBit:
		return "us-ascii"
	case c.notUTF8 || len(c.tail) > 0:
		return "unknown-8bit" // RFC 1428 3
	}
	return "utf-8"
}
