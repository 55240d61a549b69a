package message

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/postel-mail/postel/internal/address"
)

// Completion is what Complete puts into a header.
type Completion struct {
	Hostname    string       // of bare addresses and of the Message-ID
	From        address.Path // the author, where the header names none
	Name        string       // the author's name, or ""
	Now         time.Time    // with the zone that the Date is to have
	ID          string       // queue id, the left side of the Message-ID
	QualifyBare bool         // complete addresses without a domain
}

// MaxLine is the longest line that SMTP carries, in octets without its end (RFC 5322 2.1.1).
const MaxLine = 998

// Complete makes a submitted header complete (RFC 6409 8): Date, Message-ID and From are added where they are missing or empty, or the
// Resent- ones when there is any Resent- field (RFC 5322 3.6.6); Bcc, Resent-Bcc and Return-Path are removed; addresses without
// a domain in From, Sender, Reply-To, To, Cc and their Resent- forms get Hostname. A line over 998 octets is
// folded where it has white space, an address list also behind its commas. Everything else stays as it is, octet by octet. A
// message without any recipient field stays without one, as RFC 5322 allows.
func (h *Header) Complete(c Completion) {
	resent := slices.ContainsFunc(h.fields, isResent)
	h.Del("Bcc", "Resent-Bcc", "Return-Path")
	prefix, at := "", len(h.fields)
	if resent {
		prefix, at = "Resent-", max(slices.IndexFunc(h.fields, isResent), 0)
	}
	for _, f := range []struct{ name, value string }{
		{"From", formatMailbox(c.Name, c.From)},
		{"Date", c.Now.Format(DateLayout)},
		{"Message-ID", "<" + c.ID + "@" + c.Hostname + ">"},
	} {
		if name := prefix + f.name; h.Get(name) == "" {
			h.Del(name)
			at = min(at, len(h.fields))
			h.fields = slices.Insert(h.fields, at, NewField(name, f.value))
			at++
		}
	}
	for i, f := range h.fields {
		if isAddressField(f) {
			if c.QualifyBare {
				f = f.insert(f.bareAt(), "@"+c.Hostname)
			}
			if f.tooLong() {
				f = f.insert(f.commasAt(), " ")
			}
		}
		if f.tooLong() {
			f = f.fold(MaxLine)
		}
		h.fields[i] = f
	}
}

func isResent(f Field) bool {
	const p = "Resent-"
	return len(f) > len(p) && strings.EqualFold(string(f[:len(p)]), p)
}

var addressFields = []string{"From", "Sender", "Reply-To", "To", "Cc", "Resent-From", "Resent-Sender", "Resent-Reply-To", "Resent-To", "Resent-Cc"}

func isAddressField(f Field) bool { return slices.ContainsFunc(addressFields, f.Is) }

func (f Field) tooLong() bool {
	n := 0
	for _, c := range f {
		if n++; c == '\n' {
			n = 0
		} else if n > MaxLine+1 { // the CR
			return true
		}
	}
	return false
}

// insert puts s into the field at each of the offsets, which ascend.
func (f Field) insert(offsets []int, s string) Field {
	if len(offsets) == 0 {
		return f
	}
	out := make(Field, 0, len(f)+len(offsets)*len(s))
	from := 0
	for _, at := range offsets {
		out = append(append(out, f[from:at]...), s...)
		from = at
	}
	return append(out, f[from:]...)
}

// bareAt gives where the address list of the field lacks a domain.
func (f Field) bareAt() (offsets []int) {
	value := bytes.IndexByte(f, ':') + 1
	for _, m := range parseList(f[value:]).found {
		if m.path.Domain == "" {
			offsets = append(offsets, value+m.end)
		}
	}
	return offsets
}

// commasAt gives the places behind the commas of the address list where white space may be put and is not yet.
func (f Field) commasAt() (offsets []int) {
	value := bytes.IndexByte(f, ':') + 1
	for _, at := range parseList(f[value:]).commas {
		if c := f[value+at]; c > ' ' {
			offsets = append(offsets, value+at)
		}
	}
	return offsets
}

// Recipients gives the addresses that a header names as recipients, in their order: those of To, Cc and Bcc, or, when the message is being
// sent again, those of Resent-To, Resent-Cc and Resent-Bcc alone. ParseList says what they look like. The error names the first field
// with an address that makes no sense.
func (h *Header) Recipients() ([]address.Path, error) {
	names := []string{"Resent-To", "Resent-Cc", "Resent-Bcc"}
	if !slices.ContainsFunc(names, h.Has) {
		names = []string{"To", "Cc", "Bcc"}
	}
	var all []address.Path
	var first error
	for _, f := range h.fields {
		if !slices.ContainsFunc(names, f.Is) {
			continue
		}
		paths, err := ParseList(f.Value())
		all = append(all, paths...)
		if err != nil && first == nil {
			first = fmt.Errorf("%s: %w", f.Name(), err)
		}
	}
	return all, first
}

// ErrNotOne says that a list has no address, or more than one.
var ErrNotOne = errors.New("one address is needed")

// ParseOne reads a list with just one address. "" and "<>" are the null path.
func ParseOne(s string) (address.Path, error) {
	paths, err := ParseList(s)
	switch {
	case err != nil:
		return address.Path{}, err
	case len(paths) == 1:
		return paths[0], nil
	case len(paths) == 0 && strings.Trim(s, "<> \t") == "":
		return address.Path{}, nil
	}
	return address.Path{}, ErrNotOne
}

// formatMailbox writes a mailbox of RFC 5322 3.4, the name quoted or encoded as it needs.
func formatMailbox(name string, p address.Path) string {
	name = strings.TrimSpace(plainText(strings.ToValidUTF8(name, "?")))
	switch {
	case name == "":
		return p.String()
	case strings.ContainsFunc(name, func(r rune) bool { return r >= utf8.RuneSelf }):
		name = encodeWords(name)
	case strings.ContainsAny(name, "()<>[]:;@\\,.\"=?"):
		name = `"` + strings.NewReplacer(`"`, `\"`, `\`, `\\`).Replace(name) + `"`
	}
	return name + " " + p.Angle()
}

// encodeWords writes s as encoded words in UTF-8 and Q (RFC 2047), none longer than 75 octets and none with part of a character.
func encodeWords(s string) string {
	const head, tail = "=?UTF-8?Q?", "?="
	var b strings.Builder
	n := 0
	b.WriteString(head)
	for _, r := range s {
		var enc string
		switch {
		case r == ' ':
			enc = "_"
		case r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9':
			enc = string(r)
		default:
			for _, c := range []byte(string(r)) {
				enc += fmt.Sprintf("=%02X", c)
			}
		}
		if n += len(enc); n > 75-len(head)-len(tail) {
			b.WriteString(tail + " " + head)
			n = len(enc)
		}
		b.WriteString(enc)
	}
	return b.String() + tail
}
