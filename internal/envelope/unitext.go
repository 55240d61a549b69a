package envelope

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// UTF8Type is the address type of ORCPT and of reports for an address that may be international (RFC 6533 3).
const UTF8Type = "utf-8"

// EncodeUnitext writes an address of that type as utf-8-addr-xtext (RFC 6533 3), which any server and any report takes: printable ASCII as it is, and everything else, with
// "+", "=" and backslash, as \x{HEX}.
func EncodeUnitext(s string) string {
	var b strings.Builder
	for _, r := range s {
		if r < 0x7f && isQchar(byte(r)) {
			b.WriteByte(byte(r))
		} else {
			fmt.Fprintf(&b, `\x{%02X}`, r)
		}
	}
	return b.String()
}

func isQchar(c byte) bool { return isXchar(c) && c != '\\' }

// DecodeUnitext reads utf-8-addr-xtext, and utf-8-addr-unitext, where UTF-8 may stand as it is.
func DecodeUnitext(s string) (string, error) {
	malformed := errors.New("malformed address of type utf-8")
	var b strings.Builder
	for s != "" {
		if rest, ok := strings.CutPrefix(s, `\x{`); ok {
			hex, behind, ok := strings.Cut(rest, "}")
			n, err := strconv.ParseUint(hex, 16, 32)
			if !ok || err != nil || len(hex) < 2 || len(hex) > 6 || strings.Trim(hex, "0123456789ABCDEF") != "" || !utf8.ValidRune(rune(n)) {
				return "", malformed
			}
			b.WriteRune(rune(n))
			s = behind
			continue
		}
		r, size := utf8.DecodeRuneInString(s)
		if r < utf8.RuneSelf && !isQchar(byte(r)) || r == utf8.RuneError && size == 1 {
			return "", malformed
		}
		b.WriteString(s[:size])
		s = s[size:]
	}
	return b.String(), nil
}
