package message

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/postel-mail/postel/internal/address"
)

// ParseList reads an address list as people and programs write it: RFC 5322 3.4 with the obsolete syntax of 4.4 (groups, comments, quoted
// strings, source routes, white space anywhere), ";" as another comma, encoded words with characters that have no place in them,
// and a comma forgotten between two addresses. A bare name gives a path with a local part alone, for the caller to complete; "<>" and an
// empty group give nothing. The error is about the first address that makes no sense; the others are given all the same.
func ParseList(s string) ([]address.Path, error) {
	l := parseList([]byte(s))
	paths := make([]address.Path, len(l.found))
	for i, m := range l.found {
		paths[i] = m.path
	}
	return paths, l.err
}

// mailbox is an address in a list.
type mailbox struct {
	path address.Path
	end  int // offset behind the local part: where a missing domain goes
}

// list is the state of the parser. It passes over the text once, one token ahead, and nothing in it recurses.
type list struct {
	s                  []byte
	token              token
	prev               int  // offset behind the token before
	noQuote, noBracket bool // no closing one is left in the text

	found  []mailbox
	commas []int // offsets behind the separators
	err    error

	// Of the element since the last separator:
	start, first int     // its offset, and its first in found
	bare         mailbox // the last run of words without "@"
	words        int     // how many such runs
	angled, bad  bool    // an address in angle brackets was seen; something senseless was
}

// token is a word ('w', its text without quotes), a domain literal ('['), one of the characters "<>,;:@." or the end (0).
type token struct {
	kind       byte
	text       []byte
	start, end int
}

func parseList(s []byte) *list {
	l := &list{s: s}
	for l.next(); ; {
		switch l.token.kind {
		case 0:
			l.finish()
			return l
		case ',', ';':
			l.commas = append(l.commas, l.token.end)
			l.finish()
			l.next()
		case ':': // what stood before was the name of a group
			l.next()
			l.reset()
		case '<':
			l.angle()
		case 'w', '.', '@':
			l.run()
		default: // a literal, or a ">" that nobody opened
			l.bad = l.bad || !l.angled
			l.next()
		}
	}
}

// reset forgets what the element has given so far.
func (l *list) reset() {
	l.found = l.found[:l.first]
	l.words, l.angled, l.bad = 0, false, false
}

// finish ends the element.
func (l *list) finish() {
	nothing := len(l.found) == l.first
	if !l.angled && !l.bad && nothing && l.words == 1 {
		l.found = append(l.found, l.bare)
	} else if l.err == nil && (l.bad || !l.angled && nothing && l.words > 1) {
		text := bytes.TrimSpace(l.s[l.start:l.token.start])
		l.err = fmt.Errorf("malformed address %q", text[:min(len(text), 100)])
	}
	l.start, l.first = l.token.end, len(l.found)
	l.reset()
}

// run reads words outside angle brackets: an address, a bare name, or part of a display name, as what follows will show.
func (l *list) run() {
	m, ok := l.addrSpec()
	switch {
	case !ok:
		l.bad = l.bad || !l.angled
	case m.path.Domain != "":
		l.found = append(l.found, m)
	default:
		l.words++
		l.bare = m
	}
}

// angle reads an address in angle brackets, with or without a source route. What stood before was its display name.
func (l *list) angle() {
	if l.angled { // a comma was forgotten
		l.finish()
	}
	l.reset()
	l.angled = true
	for l.token.kind == '<' {
		l.next()
	}
	if l.token.kind == '@' {
		for k := l.token.kind; k == '@' || k == '.' || k == ',' || k == 'w' || k == '['; k = l.token.kind {
			l.next()
		}
		if l.token.kind == ':' {
			l.next()
		}
	}
	if l.token.kind == '>' {
		l.next()
		return
	}
	m, ok := l.addrSpec()
	switch l.token.kind {
	case '>':
		l.next()
	case 0, ',', ';': // not closed, but clear
	default:
		ok = false
	}
	if ok {
		l.found = append(l.found, m)
	}
	l.bad = !ok
}

// addrSpec reads words joined by dots, and the domain if "@" follows. ok says that they make an address, or would with a domain.
func (l *list) addrSpec() (m mailbox, ok bool) {
	p := address.Path{Local: l.dotted(false), Domain: "x"}
	m.end = l.prev
	bare := l.token.kind != '@'
	if !bare {
		l.next()
		p.Domain = l.dotted(true)
	}
	for l.token.kind == '@' { // a@b@c
		l.next()
		l.dotted(true)
		p.Domain = ""
	}
	if strings.Trim(p.Local, ".") == "" || p.Domain == "" {
		return m, false
	}
	p, err := address.Parse(p.String())
	if bare {
		p.Domain = ""
	}
	m.path = p
	return m, err == nil
}

// dotted reads words with dots between them; a domain may be a literal, and its words are taken as they stand.
func (l *list) dotted(domain bool) string {
	var b []byte
	for word := false; ; l.next() {
		switch k := l.token.kind; {
		case k == '.':
			b, word = append(b, '.'), false
		case k == 'w' && !word && !domain:
			b, word = append(b, l.token.text...), true
		case (k == 'w' || k == '[') && !word && domain:
			b, word = append(b, l.s[l.token.start:l.token.end]...), true
		default:
			return string(b)
		}
	}
}

// next reads the token behind white space and comments. Each octet is passed once.
func (l *list) next() {
	l.prev = l.token.end
	i := l.skip(l.token.end)
	l.token = token{start: i, end: i}
	if i == len(l.s) {
		return
	}
	switch c := l.s[i]; {
	case c == '"' && !l.noQuote && l.quoted(i):
	case c == '[' && !l.noBracket && l.literal(i):
	case isSpecial(c) && c != '"':
		l.token.kind, l.token.end = c, i+1
	default:
		l.word(i)
	}
}

func isSpecial(c byte) bool { return strings.IndexByte(`()<>,;:@."`, c) >= 0 }

func isFolding(c byte) bool { return c == ' ' || c == '\t' || c == '\r' || c == '\n' }

// skip passes white space and comments. A comment that does not end reaches to the end of the text.
func (l *list) skip(i int) int {
	for depth := 0; i < len(l.s); i++ {
		switch c := l.s[i]; {
		case c == '(':
			depth++
		case c == ')' && depth > 0:
			depth--
		case c == '\\' && depth > 0:
			i++
		case depth == 0 && !isFolding(c):
			return i
		}
	}
	return len(l.s)
}

// quoted reads a quoted string; white space that folds it is dropped (RFC 5322 3.2.4).
func (l *list) quoted(start int) bool {
	var text []byte
	for i := start + 1; i < len(l.s); i++ {
		c := l.s[i]
		switch {
		case c == '"':
			l.token = token{'w', text, start, i + 1}
			return true
		case c == '\r' || c == '\n':
			continue
		case c == '\\' && i+1 < len(l.s):
			i++
			c = l.s[i]
		}
		text = append(text, c)
	}
	l.noQuote = true
	return false
}

func (l *list) literal(start int) bool {
	n := bytes.IndexByte(l.s[start:], ']')
	if n < 0 {
		l.noBracket = true
		return false
	}
	l.token = token{'[', nil, start, start + n + 1}
	return true
}

// word reads an atom. Its first octet belongs to it whatever it is; a backslash takes away the meaning of the next.
func (l *list) word(start int) {
	if end := encodedWord(l.s[start:]); end > 0 {
		l.token = token{'w', l.s[start : start+end], start, start + end}
		return
	}
	var text []byte
	i := start
	for ; i < len(l.s) && (i == start || !isSpecial(l.s[i])) && !isFolding(l.s[i]); i++ {
		if l.s[i] == '\\' && i+1 < len(l.s) {
			i++
		}
		text = append(text, l.s[i])
	}
	l.token = token{'w', text, start, i}
}

// encodedWord is the length of the encoded word (RFC 2047) that b begins with, or 0. Many programs write commas, parentheses and angle
// brackets into it, so it has to be known as a whole.
func encodedWord(b []byte) int {
	const longest = 256
	if !bytes.HasPrefix(b, []byte("=?")) {
		return 0
	}
	marks := 0
	for i := 2; i < min(len(b), longest) && b[i] > ' ' && b[i] < 0x7f; i++ {
		if b[i] != '?' {
			continue
		}
		if marks++; marks == 3 {
			if i+1 < len(b) && b[i+1] == '=' {
				return i + 2
			}
			return 0
		}
	}
	return 0
}
