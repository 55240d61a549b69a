// Package recode makes the body of a message fit through where it has to go: lines short enough for SMTP (RFC 5321 4.5.3.1.6) and without
// NUL for mail that a program submits; seven bits for a server without 8BITMIME (RFC 6152 3); lines for one without BINARYMIME (RFC 3030 3).
// It finds the parts that do not fit in the MIME structure (RFC 2045, 2046) and encodes these anew; every other octet stays.
//
// A first pass makes a Plan, a second one carries it out. Nothing but the plan is in memory, and that is bounded. It knows no more of MIME
// than this takes. For seven bits octets over 127 in headers become encoded words (RFC 2047); everything else leaves headers alone.
package recode

import (
	"cmp"
	"io"
	"slices"

	"github.com/postel-mail/postel/internal/message"
)

// maxEdits bounds the memory of a Plan.
const maxEdits = 20_000

// Plan says where a message, or its body, has to change.
type Plan struct {
	edits []edit
	form  form
	top   *message.Header // of the message, where it is kept apart from the body

	encoded int // octets of the fields in edits
}

// form is what a message has to fit into.
type form int

const (
	shortLines form = iota // lines of at most 998 octets, without NUL
	eightBit               // the same, and no label "binary"
	sevenBit               // the same, and no octet over 127, and no label but "7bit" where nothing is encoded
)

// edit replaces the octets from from to to.
type edit struct {
	from, to int64
	how      how
	text     string
}

// how says what takes the place of octets.
type how int

const (
	byText how = iota
	toQuoted
	toBase64
	rewrapQuoted
	rewrapBase64
	mask
)

// Lines looks in a body with CRLF line ends for lines over 998 octets (RFC 5322 2.1.1) or with a NUL, and changes h so that it is true of the
// body that Copy will write. A part whose content stands there as it is, whatever its type, becomes quoted-printable; the lines of
// a part that is base64 or quoted-printable already are broken anew. What the content decodes to stays the same.
//
// Left alone are the parts of a multipart/signed, since a signature covers their octets (RFC 1847 2.1); headers, preamble and epilogue of
// a multipart; what is deeper than 32 parts in parts; and parts whose header contradicts itself. The next host may refuse or
// break such a line.
func Lines(h *message.Header, body io.Reader) (*Plan, error) {
	p := &Plan{form: shortLines, top: h}
	s := &scanner{plan: p, leaf: p.leaf, part: entity{apart: true, message: true, mime: h.Has("MIME-Version"), twice: h.Count("Content-Transfer-Encoding") > 1}}
	s.part.setEncoding(h.Get("Content-Transfer-Encoding"))
	s.part.media, s.part.boundary = parseMedia(h.Get("Content-Type"))
	s.beginContent(0)
	return p, p.scan(s, body)
}

// EightBit plans how a whole message, its header in front, that may be BINARYMIME becomes one of lines: parts with a bare CR or LF
// become base64, those with long lines or NULs quoted-printable, and no label says "binary" any more. What Lines leaves alone stays as it
// is: the caller has to look whether the result fits.
func EightBit(msg io.Reader) (*Plan, error) { return whole(msg, eightBit) }

// SevenBit plans how a whole message, its header in front, becomes one without octets over 127. It does what EightBit does; besides, parts with
// such octets become quoted-printable, in preambles and epilogues they become "?", and multiparts and messages are labelled 7bit, since
// they cannot be encoded themselves (RFC 2045 6.4). In headers such octets become encoded words where these may stand: in text, in the names of people and groups, and
// in comments. Here too the caller has to look: addresses, parameters and signed parts stay as they are.
//
// A message without MIME becomes one with it. Its charset is utf-8 where the whole text is valid as that, which no other text is by accident,
// and else unknown-8bit (RFC 1428 3).
func SevenBit(msg io.Reader) (*Plan, error) { return whole(msg, sevenBit) }

func whole(msg io.Reader, form form) (*Plan, error) {
	p := &Plan{form: form}
	s := &scanner{plan: p, leaf: p.leaf}
	s.begin(entity{outermost: true, message: true})
	return p, p.scan(s, msg)
}

func (p *Plan) scan(s *scanner, r io.Reader) error {
	err := s.scan(r)
	slices.SortStableFunc(p.edits, func(a, b edit) int { return cmp.Compare(a.from, b.from) })
	return err
}

// leaf plans a part that holds no others.
func (p *Plan) leaf(e *entity) {
	if e.signed || e.twice || len(p.edits) >= maxEdits {
		return
	}
	content := edit{from: e.start, to: e.end}
	switch {
	case !e.long && !e.bare && (!e.eight || p.form != sevenBit):
		p.relabel(e)
		return
	case e.isIdentity() && e.bare: // as quoted-printable its CRLFs would be line ends, which a reader may write in its own way
		p.label(e, "base64")
		content.how = toBase64
	case e.isIdentity():
		p.label(e, "quoted-printable")
		content.how = toQuoted
	case e.encoding == "base64":
		content.how = rewrapBase64
	case e.encoding == "quoted-printable":
		content.how = rewrapQuoted
	default:
		return
	}
	p.edits = append(p.edits, content)
}

// composite plans the header of a multipart or a message whose parts are looked into.
func (p *Plan) composite(e *entity) {
	if p.form == shortLines || e.signed || e.twice || len(p.edits) >= maxEdits {
		return
	}
	if e.outermost {
		p.version(e)
	}
	p.relabel(e)
}

// between plans a piece of a preamble or epilogue, which nobody reads (RFC 2046 5.1.1).
func (p *Plan) between(from, to int64) {
	last := len(p.edits) - 1
	switch {
	case last >= 0 && p.edits[last].how == mask && p.edits[last].to == from:
		p.edits[last].to = to
	case len(p.edits) < maxEdits:
		p.edits = append(p.edits, edit{from: from, to: to, how: mask})
	}
}

// relabel corrects the label of a part whose content fits as it is.
func (p *Plan) relabel(e *entity) {
	switch {
	case p.form == sevenBit && (e.encoding == "8bit" || e.encoding == "binary"):
		p.setEncoding(e, "7bit")
	case p.form == eightBit && e.encoding == "binary":
		p.setEncoding(e, "8bit")
	}
}

// label makes the header of a part true of its new encoding.
func (p *Plan) label(e *entity, encoding string) {
	p.version(e)
	if e.media == "" {
		p.insert(e, message.NewField("Content-Type", "text/plain; charset="+e.charset.name()))
	}
	p.setEncoding(e, encoding)
}

// version adds what makes a message MIME, where that is missing; a message in a message needs its own (RFC 2045 4).
func (p *Plan) version(e *entity) {
	if e.message && !e.mime {
		p.insert(e, message.NewField("MIME-Version", "1.0"))
	}
}

func (p *Plan) insert(e *entity, f message.Field) {
	if e.apart {
		p.top.Set(f)
		return
	}
	p.edits = append(p.edits, edit{from: e.headerEnd, to: e.headerEnd, text: string(f)})
}

func (p *Plan) setEncoding(e *entity, encoding string) {
	f := message.NewField("Content-Transfer-Encoding", encoding)
	if e.apart || e.fieldTo == 0 {
		p.insert(e, f)
		return
	}
	p.edits = append(p.edits, edit{from: e.fieldFrom, to: e.fieldTo, text: string(f)})
}

// Copy writes what has been planned for, with its changes. r must give the octets that the plan was made from.
func (p *Plan) Copy(w io.Writer, r io.Reader) error {
	at := int64(0)
	for _, e := range p.edits {
		if _, err := io.CopyN(w, r, e.from-at); err != nil {
			return err
		}
		if err := e.apply(w, r, p.form == sevenBit); err != nil {
			return err
		}
		at = e.to
	}
	_, err := io.Copy(w, r)
	return err
}

func (e edit) apply(w io.Writer, r io.Reader, seven bool) error {
	var out io.WriteCloser
	switch e.how {
	case byText:
		if _, err := io.CopyN(io.Discard, r, e.to-e.from); err != nil {
			return err
		}
		_, err := io.WriteString(w, e.text)
		return err
	case toQuoted:
		out = &quoter{w: w}
	case toBase64:
		out = newBase64(w)
	case rewrapQuoted, rewrapBase64:
		out = &rewrapper{w: w, quoted: e.how == rewrapQuoted, seven: seven}
	case mask:
		out = masker{w}
	}
	if _, err := io.CopyN(out, r, e.to-e.from); err != nil {
		return err
	}
	return out.Close()
}
