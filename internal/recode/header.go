package recode

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/postel-mail/postel/internal/message"
)

// maxEncoded bounds the octets of fields that a Plan has written anew.
const maxEncoded = 1 << 20

// maxWord is the longest encoded word (RFC 2047 2), and headerLine what a line of a header should keep to (RFC 5322 2.1.1).
const (
	maxWord    = 75
	headerLine = 78
)

// grammar says where in a field encoded words may stand (RFC 2047 5).
type grammar int

const (
	unstructured grammar = iota // anywhere
	mailboxes                   // in display names, names of groups, and comments
	phrases                     // between commas, and in comments
	structured                  // in comments
)

var grammars = []struct {
	grammar
	names []string
}{
	{mailboxes, []string{"From", "Sender", "Reply-To", "To", "Cc", "Bcc", "Resent-From", "Resent-Sender", "Resent-To", "Resent-Cc", "Resent-Bcc", "Resent-Reply-To",
		"Disposition-Notification-To", "Return-Receipt-To", "Errors-To"}},
	{phrases, []string{"Keywords"}},
	{structured, []string{"Received", "Return-Path", "Delivered-To", "Date", "Resent-Date", "Message-ID", "Resent-Message-ID", "In-Reply-To", "References", "MIME-Version",
		"Content-Type", "Content-Disposition", "Content-ID", "Content-Transfer-Encoding", "Content-Language", "Auto-Submitted", "Authentication-Results",
		"DKIM-Signature", "ARC-Seal", "ARC-Message-Signature", "ARC-Authentication-Results", "Received-SPF", "Autocrypt",
		"List-ID", "List-Archive", "List-Help", "List-Owner", "List-Post", "List-Subscribe", "List-Unsubscribe", "List-Unsubscribe-Post"}},
}

func grammarOf(f message.Field) grammar {
	for _, g := range grammars {
		if slices.ContainsFunc(g.names, f.Is) {
			return g.grammar
		}
	}
	return unstructured // as is every field that nobody has defined (RFC 5322 3.6.8)
}

// field plans a field of a header, which stands at from and has to be in seven bits.
func (p *Plan) field(f message.Field, from int64) {
	if !message.HasEightBit(f) || f.Is("Content-Transfer-Encoding") || len(p.edits) >= maxEdits { // that one may be written anew for another reason
		return
	}
	text, ok := encodeField(f)
	if p.encoded+len(text) > maxEncoded || !ok {
		return
	}
	p.encoded += len(text)
	p.edits = append(p.edits, edit{from: from, to: from + int64(len(f)), text: text})
}

// encodeField writes the octets over 127 of a field in encoded words (RFC 2047), whose charset is utf-8 where the field is valid as that and else unknown-8bit
// (RFC 1428 3). ok is false where one stands in an address or elsewhere that no encoded word may be.
func encodeField(f message.Field) (text string, ok bool) {
	name, value, colon := bytes.Cut(f, []byte(":"))
	value, end := bytes.CutSuffix(value, []byte("\r\n"))
	if !colon || !end || message.HasEightBit(name) || bytes.ContainsAny(unfold(value), "\r\n") { // with bare ones it cannot be sent anyhow
		return "", false
	}
	w := &fieldWriter{charset: "utf-8"}
	if !utf8.Valid(value) {
		w.charset = "unknown-8bit"
	}
	w.plain(f[:len(name)+1])
	switch g := grammarOf(f); g {
	case unstructured:
		w.words(value)
	default:
		if !w.tokens(scanTokens(value), g) {
			return "", false
		}
	}
	return string(w.out) + "\r\n", true
}

// fieldWriter writes a field, in lines that are not longer than they were or than headerLine.
type fieldWriter struct {
	out     []byte
	column  int
	charset string
	encoded bool // the last thing written was an encoded word
	grown   bool // there is one in the field
}

// plain writes text as it stands; in front of white space behind encoded words the line may be broken.
func (w *fieldWriter) plain(b []byte) {
	if len(b) == 0 {
		return
	}
	line, _, _ := bytes.Cut(b, []byte("\r\n"))
	if w.encoded && w.column+len(line) > headerLine && isBlank(b[0]) && len(bytes.TrimSpace(line)) > 0 {
		w.newLine()
	}
	w.encoded = false
	w.out = append(w.out, b...)
	if i := bytes.LastIndexByte(b, '\n'); i >= 0 {
		w.column = len(b) - i - 1
	} else {
		w.column += len(b)
	}
}

func (w *fieldWriter) newLine() { w.out, w.column = append(w.out, "\r\n"...), 0 }

// blank writes the white space in front of an encoded word: a line end, too, where the word is too long for the line. There is always one.
func (w *fieldWriter) blank(b []byte, next int) {
	switch {
	case bytes.IndexByte(b, '\n') >= 0:
		w.plain(b)
	case w.column+len(b)+next > headerLine && w.started():
		w.newLine()
		w.plain([]byte(" "))
	case len(b) == 0:
		w.plain([]byte(" "))
	default:
		w.plain(b)
	}
}

// started reports whether the line has more than white space, and the field more than its name: a line of nothing but that must not be.
func (w *fieldWriter) started() bool {
	line := w.out[bytes.LastIndexByte(w.out, '\n')+1:]
	line = bytes.TrimRight(line, " \t")
	return len(line) > 0 && !(bytes.IndexByte(w.out, '\n') < 0 && bytes.HasSuffix(line, []byte(":")))
}

// encode writes text as encoded words in Q, of which none has a part of a character. before is the white space in front; open has the first one follow on
// what was written at once, behind a parenthesis.
func (w *fieldWriter) encode(before []byte, open bool, text []byte) {
	head := "=?" + w.charset + "?Q?"
	room := maxWord - len(head) - len("?=")
	for first := true; len(text) > 0; first = false {
		var word []byte
		for len(text) > 0 {
			n := 1
			if w.charset == "utf-8" {
				_, n = utf8.DecodeRune(text)
			}
			q := appendQ(nil, text[:n])
			if len(word)+len(q) > room {
				break
			}
			word, text = append(word, q...), text[n:]
		}
		switch n := len(head) + len(word) + len("?="); {
		case first && open:
		case first:
			w.blank(before, n)
		default:
			w.newLine()
			w.plain([]byte(" "))
		}
		w.plain([]byte(head))
		w.plain(word)
		w.plain([]byte("?="))
	}
	w.encoded, w.grown = true, true
}

// appendQ writes octets as they stand in a phrase (RFC 2047 5 (3)), which is good everywhere.
func appendQ(b, octets []byte) []byte {
	for _, c := range octets {
		switch {
		case c == ' ':
			b = append(b, '_')
		case c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z':
			b = append(b, c)
		default:
			b = fmt.Appendf(b, "=%02X", c)
		}
	}
	return b
}

// words writes unstructured text. Words that need it are encoded, together where several stand in a row: a reader drops the white space between encoded words.
func (w *fieldWriter) words(b []byte) {
	for len(b) > 0 {
		n := bytes.IndexFunc(b, isHighByte)
		if n < 0 {
			if len(bytes.TrimSpace(b)) > 0 {
				w.plain(b)
			}
			return
		}
		start := lastBlank(b[:n]) + 1
		blank := bytes.TrimRight(b[:start], " \t\r\n")
		before, text := b[len(blank):start], b[start:]
		end := runEnd(text)
		run := unfold(text[:end])
		if last := blank[lastBlank(blank)+1:]; isEncodedWord(last) {
			run = append([]byte(" "), run...)
		}
		rest := text[end:]
		if next := bytes.TrimLeft(rest, " \t\r\n"); isEncodedWord(next[:wordEnd(next)]) {
			run = append(run, ' ')
		}
		w.plain(blank)
		w.encode(before, false, run)
		b = rest
	}
}

// runEnd is where the words end that begin text and need to be encoded.
func runEnd(text []byte) int {
	end := wordEnd(text)
	for {
		next := bytes.TrimLeft(text[end:], " \t\r\n")
		n := wordEnd(next)
		if !message.HasEightBit(next[:n]) {
			return end
		}
		end = len(text) - len(next) + n
	}
}

func wordEnd(b []byte) int {
	if i := bytes.IndexAny(b, " \t\r\n"); i >= 0 {
		return i
	}
	return len(b)
}

func lastBlank(b []byte) int { return bytes.LastIndexAny(b, " \t\r\n") }

func isHighByte(r rune) bool { return r >= 0x80 } // an octet that is no UTF-8 is a rune of that kind too

func isBlank(c byte) bool { return c == ' ' || c == '\t' }

func isEncodedWord(b []byte) bool {
	return bytes.HasPrefix(b, []byte("=?")) && bytes.HasSuffix(b, []byte("?="))
}

// unfold takes away the line ends (RFC 5322 2.2.3).
func unfold(b []byte) []byte { return bytes.ReplaceAll(b, []byte("\r\n"), nil) }

// token is a piece of a structured field: white space, "(comment)", "quoted string", "[literal]", a special, or an atom.
type token struct {
	kind byte // ' ', '(', '"', 'a', or the special itself
	text []byte
}

// scanTokens splits the value of a structured field. What is not closed goes to the end.
func scanTokens(b []byte) (list []token) {
	for len(b) > 0 {
		kind, n := b[0], 1
		switch {
		case bytes.IndexByte([]byte(" \t\r\n"), kind) >= 0:
			kind, n = ' ', len(b)-len(bytes.TrimLeft(b, " \t\r\n"))
		case kind == '(' || kind == '"':
			n = closing(b)
		case strings.IndexByte("<>,;:@.[])", kind) < 0:
			kind = 'a'
			if n = bytes.IndexAny(b, " \t\r\n()\"<>,;:@.[]"); n < 0 {
				n = len(b)
			}
		}
		list = append(list, token{kind, b[:n]})
		b = b[n:]
	}
	return list
}

// closing is the length of the comment or quoted string that b begins with.
func closing(b []byte) int {
	depth := 0
	for i := 0; i < len(b); i++ {
		switch c := b[i]; {
		case c == '\\':
			i++
		case b[0] == '"' && c == '"' && i > 0:
			return i + 1
		case b[0] == '(' && c == '(':
			depth++
		case b[0] == '(' && c == ')':
			if depth--; depth == 0 {
				return i + 1
			}
		}
	}
	return len(b)
}

// tokens writes a structured field. It reports whether all could be encoded.
func (w *fieldWriter) tokens(list []token, g grammar) bool {
	angle := false // in an address
	for len(list) > 0 {
		n := slices.IndexFunc(list, func(t token) bool { return strings.IndexByte("<,;:", t.kind) >= 0 })
		if n < 0 {
			n = len(list)
		}
		isPhrase := g == phrases || g == mailboxes && !angle && n < len(list) && (list[n].kind == '<' || list[n].kind == ':')
		if !w.part(list, n, isPhrase) {
			return false
		}
		angle = angle && !slices.ContainsFunc(list[:n], func(t token) bool { return t.kind == '>' })
		if list = list[n:]; len(list) > 0 {
			angle = angle || list[0].kind == '<'
			w.plain(list[0].text)
			list = list[1:]
		}
	}
	return true
}

// part writes the first n of list: what stands between commas or in front of an address. A phrase with octets over 127 is encoded as a whole; comments stand behind it then.
func (w *fieldWriter) part(list []token, n int, isPhrase bool) bool {
	high := slices.ContainsFunc(list[:n], func(t token) bool { return t.kind != '(' && message.HasEightBit(t.text) })
	if high && !isPhrase {
		return false
	}
	if high {
		w.encode(nil, false, phrase(list[:n]))
	}
	for i, t := range list[:n] {
		switch {
		case t.kind == '(':
			if high {
				w.space([]byte(" "), list[i:])
			}
			if !w.comment(t.text) {
				return false
			}
		case high: // it is in the phrase
		case t.kind == ' ':
			w.space(t.text, list[i+1:])
		default:
			w.plain(t.text)
		}
	}
	if high {
		w.space([]byte(" "), list[n:])
	}
	return true
}

// phrase is the text of a phrase without its comments.
func phrase(list []token) []byte {
	var text []byte
	for _, t := range list {
		switch t.kind {
		case '(':
		case '"':
			quoted, _ := bytes.CutSuffix(t.text[1:], []byte(`"`))
			text = append(text, unfold(unquote(quoted))...)
		case ' ':
			text = append(text, ' ')
		default:
			text = append(text, t.text...)
		}
	}
	return bytes.TrimSpace(text)
}

// space writes white space, and breaks the line there where what follows, up to the next white space, is too long for it.
func (w *fieldWriter) space(b []byte, list []token) {
	next := 0
	for _, t := range list {
		if t.kind == ' ' {
			break
		}
		next += len(t.text)
	}
	switch {
	case !w.grown:
	case next == 0 && bytes.IndexByte(b, '\n') < 0:
		return
	case w.column+len(b)+next > headerLine && bytes.IndexByte(b, '\n') < 0 && w.started():
		w.newLine()
	}
	w.plain(b)
}

// comment writes a comment, encoded as a whole, with the parentheses in it, where it needs that.
func (w *fieldWriter) comment(b []byte) bool {
	if !message.HasEightBit(b) {
		w.plain(b)
		return true
	}
	text, closed := bytes.CutSuffix(b[1:], []byte(")"))
	if !closed {
		return false
	}
	w.plain([]byte("("))
	w.encode(nil, true, unfold(unquote(text)))
	w.plain([]byte(")"))
	return true
}

// unquote takes away the backslashes of quoted pairs.
func unquote(b []byte) []byte {
	out := make([]byte, 0, len(b))
	for i := 0; i < len(b); i++ {
		if b[i] == '\\' && i+1 < len(b) {
			i++
		}
		out = append(out, b[i])
	}
	return out
}
