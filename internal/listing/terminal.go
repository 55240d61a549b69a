package listing

import (
	"io"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/postel-mail/postel/internal/status"
)

// Safe makes a text fit for one line of a terminal: what does not print, and what is not UTF-8, becomes "?". It is cut at 900 octets.
func Safe(s string) string { return Plain(status.Clean(s)) }

// Plain is Safe for a line of any length.
func Plain(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) && r != utf8.RuneError || r == '\t' {
			return r
		}
		return '?'
	}, s)
}

// Terminal gives a writer that makes what is written fit for a terminal: as Plain does, but lines stay, and CR LF becomes LF.
func Terminal(w io.Writer) io.Writer { return &terminal{w: w} }

type terminal struct {
	w    io.Writer
	rest []byte // of a character that is not whole, or CR
}

func (t *terminal) Write(p []byte) (int, error) {
	text := append(t.rest, p...)
	out := make([]byte, 0, len(text))
	for len(text) > 0 {
		if !utf8.FullRune(text) || len(text) == 1 && text[0] == '\r' {
			break
		}
		r, n := utf8.DecodeRune(text)
		switch {
		case r == '\r' && text[1] == '\n':
		case r == '\n':
			out = append(out, '\n')
		default:
			out = append(out, Plain(string(text[:n]))...)
		}
		text = text[n:]
	}
	t.rest = append([]byte(nil), text...)
	if _, err := t.w.Write(out); err != nil {
		return 0, err
	}
	return len(p), nil
}
