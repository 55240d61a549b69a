package mbox

import "bytes"

// quoting is mboxrd's way to hide lines that look like the From_ line of a message: on the way in every line of ">"s, or none, and
// "From " gets one ">" more; on the way out it loses one. The text may come in pieces of any length.
type quoting struct {
	out     bool // take a ">" away rather than put one in front
	inLine  bool // past what can be part of a quote
	held    bool // out: a ">" is held back
	matched int  // octets of "From " that were seen and held back
}

const fromWord = "From "

// append appends the text p to dst, quoted or unquoted.
func (q *quoting) append(dst, p []byte) []byte {
	for len(p) > 0 {
		switch c := p[0]; {
		case q.inLine:
			i := bytes.IndexByte(p, '\n') + 1
			if i == 0 {
				return append(dst, p...)
			}
			dst, p, q.inLine = append(dst, p[:i]...), p[i:], false
		case c == '>' && q.matched == 0:
			if !q.out || q.held {
				dst = append(dst, '>')
			}
			q.held, p = q.out, p[1:]
		case c == fromWord[q.matched]:
			p = p[1:]
			if q.matched++; q.matched == len(fromWord) {
				if !q.out {
					dst = append(dst, '>')
				}
				q.held = false
				dst = q.flush(dst)
			}
		default:
			dst = q.flush(dst)
		}
	}
	return dst
}

// flush appends what is held back; the rest of the line passes as it is.
func (q *quoting) flush(dst []byte) []byte {
	if q.held {
		dst = append(dst, '>')
	}
	dst = append(dst, fromWord[:q.matched]...)
	q.held, q.matched, q.inLine = false, 0, true
	return dst
}
