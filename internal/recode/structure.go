package recode

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

// entity is a message or a part of one (RFC 2045 2.4). Offsets count from the first octet of what is scanned.
type entity struct {
	media    string // "text/plain", in lower case; "" where there is no Content-Type
	boundary string
	encoding string // Content-Transfer-Encoding in lower case; "" where there is none
	twice    bool   // it has that field more than once
	mime     bool   // it has a MIME-Version

	message    bool  // it is a message, no part of a multipart
	outermost  bool  // it is the one that all is in
	apart      bool  // its header is not in what is scanned
	depth      int   // in multiparts and messages
	digest     bool  // without Content-Type it is a message (RFC 2046 5.1.5)
	signed     bool  // part of a multipart/signed: no octet may change (RFC 1847 2.1)
	fieldFrom  int64 // where its Content-Transfer-Encoding stands,
	fieldTo    int64 // and ends
	headerEnd  int64 // offset of the empty line behind its header
	start, end int64 // its content, without the line end that belongs to a boundary behind
	long       bool  // its content has a line over 998 octets, or a NUL
	bare       bool  // it has a CR or LF that is not part of CRLF
	eight      bool  // it has an octet over 127
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
		e.setEncoding(f.Value())
	case f.Is("MIME-Version"):
		e.mime = true
	}
}

func (e *entity) setEncoding(value string) {
	if i := strings.IndexAny(value, " \t(;"); i >= 0 {
		value = value[:i]
	}
	e.encoding = strings.ToLower(value)
}

type scanState int

const (
	inNothing scanState = iota // a part that is not looked into
	inHeader
	inContent
	inBetween // preamble or epilogue of a multipart
)

// multipart is one that the scanner is in.
type multipart struct {
	delimiter string // "--" and the boundary
	entity
}

// scanner walks once over the lines of a message or its body.
type scanner struct {
	plan  *Plan
	leaf  func(*entity) // is told of each part that holds no others, at its end
	open  []multipart   // outermost first
	part  entity
	state scanState
	fixed bool          // where state is inBetween: a signature covers it
	at    int64         // offset of the line
	line  int64         // its length so far
	cr    bool          // the piece of it before ended in CR
	lax   bool          // the line before ended in a bare LF: here begins no boundary
	field message.Field // that is being read; nil for none
	begun int64         // its offset
}

func (s *scanner) scan(body io.Reader) error {
	r := bufio.NewReaderSize(body, 32<<10)
	for {
		b, err := r.ReadSlice('\n')
		if len(b) > 0 {
			s.take(b, err == nil || err == io.EOF)
		}
		if err == io.EOF {
			s.part.bare = s.part.bare || s.cr
			s.endPart(s.at)
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
	begins := first && last && !s.lax // it may be a boundary: those stand alone between CRLFs
	bare := s.lineEnd(b)
	switch {
	case begins && !bare && s.delimiter(b):
	case s.state == inHeader:
		s.header(b, first)
	case s.state == inContent:
		s.part.long = s.part.long || s.line > message.MaxLine+2 || bytes.IndexByte(b, 0) >= 0
		s.part.bare = s.part.bare || bare
		s.part.eight = s.part.eight || message.HasEightBit(b)
		if s.part.media == "" {
			s.part.charset.see(b)
		}
	case s.state == inBetween && !s.fixed && s.plan.form == sevenBit && message.HasEightBit(b):
		s.plan.between(s.at+s.line-int64(len(b)), s.at+s.line)
	}
	if last {
		s.at, s.line = s.at+s.line, 0
	}
}

// lineEnd looks at the end of a piece, and reports whether the piece has a CR or LF that is not part of CRLF.
func (s *scanner) lineEnd(b []byte) (bare bool) {
	text, lf := bytes.CutSuffix(b, []byte("\n"))
	text, cr := bytes.CutSuffix(text, []byte("\r"))
	split := s.cr && len(b) == 1 && lf // CRLF across two pieces
	bare = s.cr && !split || lf && !cr && !split || bytes.IndexByte(text, '\r') >= 0
	s.cr = cr && !lf
	s.lax = lf && !cr && !split
	return bare
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
		m := &s.open[i]
		if len(rest) > 0 {
			s.open, s.state, s.fixed = s.open[:i], inBetween, m.signed
			return true
		}
		s.open = s.open[:i+1]
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
	if s.plan.form == sevenBit && !s.part.signed && int64(len(s.field)) == s.at-s.begun {
		s.plan.field(s.field, s.begun)
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
			s.plan.composite(p)
			s.open = append(s.open, multipart{"--" + p.boundary, *p})
			s.state, s.fixed = inBetween, p.signed
		}
	case strings.HasPrefix(media, "message/global") && s.plan.form == sevenBit: // may be encoded as a whole (RFC 6532 3.7, RFC 6533)
		p.start, s.state = at, inContent
	case follow && (media == "message/rfc822" || media == "message/global"):
		s.plan.composite(p)
		s.begin(entity{message: true, depth: p.depth + 1, signed: p.signed})
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
