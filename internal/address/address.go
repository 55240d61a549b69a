// Package address is the one parser for the addresses of the envelope: the paths and mailboxes of
// RFC 5321 4.1.2, with the UTF-8 of RFC 6531 where it is allowed.
//
// An address is parsed once, kept as local part and domain, and quoted again when it is written, so
// that no raw copy of a peer's bytes reaches a command line, a reply or a file. Source routes are read and
// dropped (RFC 5321 C). Header addresses (RFC 5322) are package message's.
package address

import (
	"errors"
	"net/netip"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/idna"
)

// Limits of RFC 5321 4.5.3.1, in octets.
const (
	MaxLocal  = 64
	MaxDomain = 255
	MaxPath   = 254 // without the angle brackets
)

// Path is an address of the envelope. The zero value is the null reverse-path "<>".
type Path struct {
	Local  string // without quotes and backslashes; may be anything but control characters
	Domain string // as given, or an address literal with its brackets; "" only for the null path and <postmaster>
}

// ErrUTF8 says that an address needs SMTPUTF8 (RFC 6531), which the command did not ask for.
var ErrUTF8 = errors.New("address needs SMTPUTF8")

// Parse reads a mailbox "local@domain" without angle brackets. Anything behind it is an error.
func Parse(s string) (Path, error) {
	p, rest, err := parseMailbox(s)
	if err == nil && rest != "" {
		err = errors.New("unexpected characters after the address")
	}
	if err != nil {
		return Path{}, err
	}
	return p, nil
}

// ParseReverse reads the path of MAIL FROM at the start of s, with its angle brackets, and gives what is left of
// s behind it. "<>" is the null path.
func ParseReverse(s string) (p Path, rest string, err error) {
	if rest, ok := strings.CutPrefix(s, "<>"); ok {
		return Path{}, rest, nil
	}
	return parsePath(s)
}

// ParseForward reads the path of RCPT TO at the start of s, with its angle brackets, and gives what is left of s
// behind it. "<postmaster>" without a domain is accepted, in any case (RFC 5321 4.1.1.3).
func ParseForward(s string) (p Path, rest string, err error) {
	const pm = "<postmaster>"
	if len(s) >= len(pm) && strings.EqualFold(s[:len(pm)], pm) {
		return Path{Local: s[1 : len(pm)-1]}, s[len(pm):], nil
	}
	return parsePath(s)
}

func parsePath(s string) (p Path, rest string, err error) {
	s, ok := strings.CutPrefix(s, "<")
	if !ok {
		return Path{}, "", errors.New("address must stand in <angle brackets>")
	}
	if strings.HasPrefix(s, "@") { // RFC 5321 4.1.2 A-d-l: accepted and ignored
		for {
			if s, ok = strings.CutPrefix(s, "@"); !ok {
				return Path{}, "", errors.New("malformed source route")
			}
			if _, s, err = parseDomain(s); err != nil {
				return Path{}, "", err
			}
			if s, ok = strings.CutPrefix(s, ","); !ok {
				break
			}
		}
		if s, ok = strings.CutPrefix(s, ":"); !ok {
			return Path{}, "", errors.New("malformed source route")
		}
	}
	p, s, err = parseMailbox(s)
	if err != nil {
		return Path{}, "", err
	}
	rest, ok = strings.CutPrefix(s, ">")
	if !ok {
		return Path{}, "", errors.New("missing > after the address")
	}
	return p, rest, nil
}

func parseMailbox(s string) (p Path, rest string, err error) {
	p.Local, rest, err = parseLocal(s)
	if err != nil {
		return Path{}, "", err
	}
	rest, ok := strings.CutPrefix(rest, "@")
	if !ok {
		return Path{}, "", errors.New("address has no domain")
	}
	p.Domain, rest, err = parseDomain(rest)
	if err != nil {
		return Path{}, "", err
	}
	if len(p.String()) > MaxPath {
		return Path{}, "", errors.New("address is too long")
	}
	return p, rest, nil
}

func parseLocal(s string) (local, rest string, err error) {
	if !utf8.ValidString(s) {
		return "", "", errors.New("address is not valid UTF-8")
	}
	if strings.HasPrefix(s, `"`) {
		local, rest, err = parseQuoted(s)
	} else {
		i := 0
		for i < len(s) && (isAtext(s[i]) || s[i] == '.') {
			i++
		}
		local, rest = s[:i], s[i:]
		if local == "" {
			return "", "", errors.New("local part is empty or has a character that needs quotes")
		}
		if local[0] == '.' || local[i-1] == '.' || strings.Contains(local, "..") {
			return "", "", errors.New("local part has a misplaced dot")
		}
	}
	if err == nil && len(local) > MaxLocal {
		err = errors.New("local part is longer than 64 octets")
	}
	return local, rest, err
}

func parseQuoted(s string) (local, rest string, err error) {
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		c := s[i]
		if c == '"' {
			return b.String(), s[i+1:], nil
		}
		if c == '\\' {
			if i++; i == len(s) {
				break
			}
			c = s[i]
		}
		if c < ' ' || c == 0x7f {
			return "", "", errors.New("local part has a control character")
		}
		b.WriteByte(c)
	}
	return "", "", errors.New("quoted local part is not closed")
}

func isAtext(c byte) bool {
	return c >= 0x80 || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' ||
		strings.IndexByte("!#$%&'*+-/=?^_`{|}~", c) >= 0
}

func parseDomain(s string) (domain, rest string, err error) {
	if strings.HasPrefix(s, "[") {
		end := strings.IndexByte(s, ']')
		if end < 0 {
			return "", "", errors.New("address literal is not closed")
		}
		domain, rest = s[:end+1], s[end+1:]
		if _, ok := (Path{Domain: domain}).Literal(); !ok {
			return "", "", errors.New("malformed address literal")
		}
		return domain, rest, nil
	}
	i := 0
	for i < len(s) && (isLetDig(s[i]) || s[i] == '-' || s[i] == '.' || s[i] == '_') {
		i++
	}
	domain, rest = s[:i], s[i:]
	domain = strings.TrimSuffix(domain, ".") // a root dot is outside the grammar but unambiguous
	return domain, rest, CheckDomain(domain)
}

func isLetDig(c byte) bool {
	return c >= 0x80 || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

// CheckDomain says what is wrong with a domain name as it stands in an address: lengths (RFC 1035 2.3.4), empty labels, a
// hyphen at the edge of a label, characters outside letters, digits, "-", "_" and valid UTF-8.
func CheckDomain(domain string) error {
	if domain == "" {
		return errors.New("domain is empty")
	}
	if len(domain) > MaxDomain {
		return errors.New("domain is longer than 255 octets")
	}
	if !utf8.ValidString(domain) {
		return errors.New("domain is not valid UTF-8")
	}
	for label := range strings.SplitSeq(domain, ".") {
		if label == "" {
			return errors.New("domain has an empty label")
		}
		if len(label) > 63 && isASCII(label) {
			return errors.New("domain has a label longer than 63 octets")
		}
		if label[0] == '-' || label[len(label)-1] == '-' {
			return errors.New("domain has a label with a hyphen at its edge")
		}
		for i := range len(label) {
			if !isLetDig(label[i]) && label[i] != '-' && label[i] != '_' {
				return errors.New("domain has a character that is not allowed")
			}
		}
	}
	if _, err := ASCIIDomain(domain); err != nil {
		return err
	}
	return nil
}

// ASCIIDomain gives a domain as the DNS knows it: lower case, with A-labels for what is not ASCII (RFC 5891), no root
// dot. An address literal is given back in lower case.
func ASCIIDomain(domain string) (string, error) {
	domain = strings.TrimSuffix(domain, ".")
	if isASCII(domain) {
		return strings.ToLower(domain), nil
	}
	a, err := idna.Lookup.ToASCII(domain)
	if err != nil {
		return "", errors.New("domain is not a valid internationalized name")
	}
	return a, nil
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}

// IsNull reports whether p is the null reverse-path.
func (p Path) IsNull() bool { return p == Path{} }

// NeedsUTF8 reports whether p can be sent only to a peer that has SMTPUTF8: its local part is not ASCII. A domain that is
// not ASCII can be written with A-labels instead.
func (p Path) NeedsUTF8() bool { return !isASCII(p.Local) }

// IsASCII reports whether p, as String writes it, is plain ASCII.
func (p Path) IsASCII() bool { return isASCII(p.Local) && isASCII(p.Domain) }

// ASCII gives p with an ASCII domain; the local part stays as it is.
func (p Path) ASCII() Path {
	if a, err := ASCIIDomain(p.Domain); err == nil {
		p.Domain = a
	}
	return p
}

// Literal gives the address of a domain that is an address literal, "[192.0.2.1]" or "[IPv6:2001:db8::1]".
func (p Path) Literal() (netip.Addr, bool) {
	s, ok := strings.CutPrefix(p.Domain, "[")
	if !ok || !strings.HasSuffix(s, "]") {
		return netip.Addr{}, false
	}
	s = s[:len(s)-1]
	const tag = "IPv6:"
	if len(s) > len(tag) && strings.EqualFold(s[:len(tag)], tag) {
		a, err := netip.ParseAddr(s[len(tag):])
		return a, err == nil && a.Is6() && a.Zone() == ""
	}
	a, err := netip.ParseAddr(s)
	return a, err == nil && a.Is4()
}

// String writes the address without angle brackets, the local part quoted where it must be. The null path is "".
func (p Path) String() string {
	if p.IsNull() {
		return ""
	}
	local := quoteLocal(p.Local)
	if p.Domain == "" {
		return local
	}
	return local + "@" + p.Domain
}

// Angle writes the address in its angle brackets; the null path is "<>".
func (p Path) Angle() string { return "<" + p.String() + ">" }

func quoteLocal(local string) string {
	plain := local != "" && local[0] != '.' && local[len(local)-1] != '.' && !strings.Contains(local, "..")
	for i := 0; plain && i < len(local); i++ {
		plain = isAtext(local[i]) || local[i] == '.'
	}
	if plain {
		return local
	}
	var b strings.Builder
	b.WriteByte('"')
	for i := range len(local) {
		if local[i] == '"' || local[i] == '\\' {
			b.WriteByte('\\')
		}
		b.WriteByte(local[i])
	}
	b.WriteByte('"')
	return b.String()
}

// Key is the form under which equal addresses meet in a table: domain in lower case and ASCII, local part as it is.
func (p Path) Key() string {
	p = p.ASCII()
	return p.String()
}

// Split cuts the detail from a local part at the first delimiter: "user+box" gives "user" and "box". A local part that begins with
// the delimiter, or an empty delimiter, gives no detail.
func Split(local, delimiter string) (user, detail string) {
	if delimiter == "" {
		return local, ""
	}
	if i := strings.Index(local, delimiter); i > 0 {
		return local[:i], local[i+len(delimiter):]
	}
	return local, ""
}
