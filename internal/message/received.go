package message

import (
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/postel-mail/postel/internal/address"
)

// DateLayout is the date-time of RFC 5322 3.3.
const DateLayout = "Mon, 2 Jan 2006 15:04:05 -0700"

// Trace is what a Received field says of one hop (RFC 5321 4.4). What is empty is left out.
type Trace struct {
	Helo   string       // what the client called itself in EHLO, HELO or LHLO
	Client string       // where it came from: an address, "unix", "pipe" or "local"
	Name   string       // of the address, as the DNS has it
	By     string       // this host
	With   string       // RFC 3848 keyword: "ESMTPSA", "LMTP"; "" for local submission
	TLS    string       // protocol and cipher suite: "TLSv1.3 TLS_AES_128_GCM_SHA256"
	ID     string       // queue id
	For    address.Path // the recipient, where there is just one; the null path for none
	UID    int          // local submitter, or -1
	Now    time.Time
}

// ReceivedField makes the Received field of one hop, folded, CRLF at its end. Nothing in t can add a line, a comment or a clause: what a
// peer said is written with "?" for every character that has no place there.
func ReceivedField(t Trace) Field {
	var b strings.Builder
	b.WriteString("Received: ")
	if t.Helo != "" || (t.Client != "" && t.UID < 0) {
		helo := word(t.Helo)
		if helo == "" {
			helo = "unknown"
		}
		b.WriteString("from " + helo + " (" + clientInfo(t.Name, t.Client) + ")\r\n\t")
	}
	b.WriteString("by " + word(t.By))
	if t.UID >= 0 {
		b.WriteString(" (postel, from userid " + strconv.Itoa(t.UID) + ")")
	}
	if t.With != "" {
		b.WriteString(" with " + word(t.With))
	}
	if t.TLS != "" {
		b.WriteString("\r\n\t(" + comment(t.TLS) + ")")
	}
	b.WriteString("\r\n\tid " + word(t.ID))
	if !t.For.IsNull() {
		b.WriteString("\r\n\tfor " + t.For.Angle())
	}
	b.WriteString("; " + t.Now.Format(DateLayout) + "\r\n")
	return Field(b.String())
}

// clientInfo writes the TCP-info of RFC 5321 4.4: an address as a literal, behind its name where that is known, anything else as a word.
func clientInfo(name, client string) string {
	if name != "" {
		return word(name) + " " + clientInfo("", client)
	}
	a, err := netip.ParseAddr(client)
	switch {
	case err != nil:
		if client == "" {
			return "unknown"
		}
		return word(client)
	case a.Unmap().Is4():
		return "[" + a.Unmap().String() + "]"
	}
	return "[IPv6:" + a.WithZone("").String() + "]"
}

// word keeps what may stand in a domain, an address literal or an atom, at most 255 octets of it.
func word(s string) string {
	return clean(s, func(c byte) bool {
		return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-._:[]+/=", c) >= 0
	})
}

// comment keeps printable ASCII but parentheses and backslash.
func comment(s string) string {
	return clean(s, func(c byte) bool { return c >= ' ' && c < 0x7f && c != '(' && c != ')' && c != '\\' })
}

func clean(s string, ok func(byte) bool) string {
	b := []byte(s[:min(len(s), address.MaxDomain)])
	for i, c := range b {
		if !ok(c) {
			b[i] = '?'
		}
	}
	return string(b)
}
