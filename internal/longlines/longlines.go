// Package longlines makes the lines of a message's body fit into SMTP (RFC 5321 4.5.3.1.6), also those with NULs, for mail that a program submits: it finds the parts whose lines are too
// long in the MIME structure (RFC 2045, 2046), and encodes these anew. It knows no more of MIME than that takes.
package longlines

import (
	"cmp"
	"io"
	"mime/quotedprintable"
	"slices"

	"github.com/postel-mail/postel/internal/message"
)

// maxEdits bounds the memory of a Plan.
const maxEdits = 20_000

// Plan says where a body has to change so that its lines fit into SMTP.
type Plan struct{ edits []edit }

// edit replaces the octets from from to to: by text, or by what recode makes of them.
type edit struct {
	from, to int64
	text     string
	recode   func(io.Writer) io.WriteCloser
}

// New looks in a body with CRLF line ends for lines over 998 octets (RFC 5322 2.1.1) or with a NUL, and changes h so that it is true of the
// body that Copy will write. A part whose content stands there as it is, whatever its type, becomes quoted-printable; the lines of
// a part that is base64 or quoted-printable already are broken anew. What the content decodes to stays the same.
//
// Left alone are the parts of a multipart/signed, since a signature covers their octets; headers, preamble and epilogue of
// a multipart; what is deeper than 32 parts in parts; and parts whose header contradicts itself. The next host may refuse or
// break such a line.
func New(h *message.Header, body io.Reader) (*Plan, error) {
	p := &Plan{}
	err := scan(h, body, func(e *entity) {
		if e.long && !e.signed && !e.twice && len(p.edits) < maxEdits {
			p.plan(h, e)
		}
	})
	slices.SortStableFunc(p.edits, func(a, b edit) int { return cmp.Compare(a.from, b.from) })
	return p, err
}

func (p *Plan) plan(h *message.Header, e *entity) {
	recode := func(w io.Writer) io.WriteCloser { return quotedprintable.NewWriter(w) }
	switch {
	case e.isIdentity():
		p.label(h, e)
	case e.encoding == "base64":
		recode = func(w io.Writer) io.WriteCloser { return &rewrapper{w: w} }
	case e.encoding == "quoted-printable":
		recode = func(w io.Writer) io.WriteCloser { return &rewrapper{w: w, quoted: true} }
	default:
		return
	}
	p.edits = append(p.edits, edit{from: e.start, to: e.end, recode: recode})
}

// label changes the header of a part, or h for the message itself, to quoted-printable.
func (p *Plan) label(h *message.Header, e *entity) {
	cte := message.NewField("Content-Transfer-Encoding", "quoted-printable")
	ct := message.NewField("Content-Type", "text/plain; charset="+e.charset.name())
	if e.top {
		if !h.Has("MIME-Version") {
			h.Add(message.NewField("MIME-Version", "1.0"))
		}
		if e.media == "" {
			h.Set(ct)
		}
		h.Set(cte)
		return
	}
	if e.fieldTo == 0 {
		e.fieldFrom, e.fieldTo = e.headerEnd, e.headerEnd
	}
	p.edits = append(p.edits, edit{from: e.fieldFrom, to: e.fieldTo, text: string(cte)})
	if e.media == "" {
		p.edits = append(p.edits, edit{from: e.headerEnd, to: e.headerEnd, text: string(ct)})
	}
}

// Copy writes the body with its changes. body must give the octets that New has seen.
func (p *Plan) Copy(w io.Writer, body io.Reader) error {
	at := int64(0)
	for _, e := range p.edits {
		if _, err := io.CopyN(w, body, e.from-at); err != nil {
			return err
		}
		if err := e.apply(w, body); err != nil {
			return err
		}
		at = e.to
	}
	_, err := io.Copy(w, body)
	return err
}

func (e edit) apply(w io.Writer, body io.Reader) error {
	if e.recode == nil {
		if _, err := io.CopyN(io.Discard, body, e.to-e.from); err != nil {
			return err
		}
		_, err := io.WriteString(w, e.text)
		return err
	}
	out := e.recode(w)
	if _, err := io.CopyN(out, body, e.to-e.from); err != nil {
		return err
	}
	return out.Close()
}

// rewrapper breaks the lines of an encoded part anew so that none is longer than 76 octets (RFC 2045 6.7, 6.8).
type rewrapper struct {
	w      io.Writer
	quoted bool // quoted-printable: with soft line breaks; else base64, whose line ends mean nothing
	column int
	escape int  // octets left of "=XX"
	ended  bool // the input's last octet was a line end
	out    []byte
}

func (r *rewrapper) Write(b []byte) (int, error) {
	r.out = r.out[:0]
	for _, c := range b {
		if r.ended = c == '\n'; c == '\r' || c == '\n' {
			if r.quoted {
				r.out = append(r.out, c)
				r.column, r.escape = 0, 0
			}
			continue
		}
		if r.escape > 0 {
			r.escape--
		} else if r.quoted {
			if c == '=' {
				r.escape = 2
			}
			if r.column+1+r.escape > 75 {
				r.out = append(r.out, "=\r\n"...)
				r.column = 0
			}
		} else if r.column == 76 {
			r.out = append(r.out, "\r\n"...)
			r.column = 0
		}
		r.out = append(r.out, c)
		r.column++
	}
	if _, err := r.w.Write(r.out); err != nil {
		return 0, err
	}
	return len(b), nil
}

func (r *rewrapper) Close() error {
	if r.quoted || !r.ended || r.column == 0 {
		return nil
	}
	_, err := io.WriteString(r.w, "\r\n")
	return err
}
