// Package destination is the one grammar in which configuration, routes, aliases and
// `deliver --to` say where a message goes next. postel.toml(5) lists the forms.
package destination

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// Kind is the form of a destination.
type Kind int

// The forms, as they are written: maildir:PATH, mbox:PATH, smtp://[USER@]HOST[:PORT], smtps://...,
// mx:[DOMAIN], lmtp://HOST:PORT or lmtp:///PATH, pipe:PROGRAM ARG..., discard:.
const (
	None Kind = iota
	Maildir
	Mbox
	SMTP
	SMTPS
	MX
	LMTP
	Pipe
	Discard
)

var names = [...]string{"", "maildir", "mbox", "smtp", "smtps", "mx", "lmtp", "pipe", "discard"}

func (k Kind) String() string { return names[k] }

// Destination is one place that mail can go to. Only the fields of its kind are set.
type Destination struct {
	Kind Kind
	User string   // SMTP, SMTPS: log in as; "" for no login
	Host string   // SMTP, SMTPS, LMTP over TCP: name or address, without brackets; MX: domain or "" for the recipient's own
	Port string   // SMTP, SMTPS, LMTP over TCP: "" where not given
	Path string   // Maildir, Mbox: with ~ and %-words not yet expanded; LMTP: of the UNIX socket
	Args []string // Pipe: program and arguments
}

// Parse reads one destination. The error says what is wrong with it, without naming its source.
func Parse(s string) (Destination, error) {
	scheme, rest, ok := strings.Cut(s, ":")
	if !ok {
		return Destination{}, fmt.Errorf("destination %q has no scheme; write for example maildir:~/Maildir or smtp://host", s)
	}
	if strings.ContainsAny(s, "\x00\r\n") {
		return Destination{}, fmt.Errorf("destination %q has a control character", s)
	}
	switch scheme {
	case "maildir", "mbox":
		d := Destination{Kind: Maildir, Path: rest}
		if scheme == "mbox" {
			d.Kind = Mbox
		}
		_, err := d.Expand(Words{User: "user", Local: "user", Domain: "domain", Home: "/home"})
		return d, err
	case "smtp", "smtps", "lmtp":
		return parseHost(s, scheme, rest)
	case "mx":
		if strings.ContainsAny(rest, "/:@ ") {
			return Destination{}, fmt.Errorf("destination %q: mx: takes a domain or nothing", s)
		}
		return Destination{Kind: MX, Host: strings.ToLower(rest)}, nil
	case "pipe":
		args, err := SplitWords(rest)
		if err != nil {
			return Destination{}, fmt.Errorf("destination %q: %w", s, err)
		}
		if len(args) == 0 || !strings.HasPrefix(args[0], "/") {
			return Destination{}, fmt.Errorf("destination %q: the program must be an absolute path", s)
		}
		return Destination{Kind: Pipe, Args: args}, nil
	case "discard":
		if rest != "" {
			return Destination{}, fmt.Errorf("destination %q: discard: takes nothing", s)
		}
		return Destination{Kind: Discard}, nil
	}
	return Destination{}, fmt.Errorf("destination %q: unknown scheme %q", s, scheme)
}

func parseHost(s, scheme, rest string) (Destination, error) {
	d := Destination{Kind: map[string]Kind{"smtp": SMTP, "smtps": SMTPS, "lmtp": LMTP}[scheme]}
	rest, ok := strings.CutPrefix(rest, "//")
	if !ok {
		return d, fmt.Errorf("destination %q: write %s://HOST", s, scheme)
	}
	if scheme == "lmtp" && strings.HasPrefix(rest, "/") {
		d.Path = rest
		return d, nil
	}
	if i := strings.LastIndexByte(rest, '@'); i >= 0 {
		if scheme == "lmtp" || i == 0 {
			return d, fmt.Errorf("destination %q: no user can stand here", s)
		}
		d.User, rest = rest[:i], rest[i+1:]
	}
	host, port, err := splitHostPort(rest)
	if err != nil {
		return d, fmt.Errorf("destination %q: %w", s, err)
	}
	if scheme == "lmtp" && port == "" {
		return d, fmt.Errorf("destination %q: LMTP over TCP needs a port", s)
	}
	d.Host, d.Port = host, port
	return d, nil
}

func splitHostPort(s string) (host, port string, err error) {
	if strings.HasPrefix(s, "[") {
		end := strings.IndexByte(s, ']')
		if end < 0 {
			return "", "", errors.New("missing ]")
		}
		host, s = s[1:end], s[end+1:]
		if _, err := netip.ParseAddr(host); err != nil {
			return "", "", fmt.Errorf("%q is not an IP address", host)
		}
	} else {
		var tail string
		host, tail, _ = strings.Cut(s, ":")
		s = strings.TrimPrefix(s, host)
		if strings.Contains(tail, ":") {
			return "", "", errors.New("an IPv6 address is written in brackets")
		}
		if host == "" || strings.ContainsAny(host, "/ @\t") {
			return "", "", fmt.Errorf("%q is not a host", host)
		}
	}
	if s == "" {
		return strings.ToLower(host), "", nil
	}
	port, ok := strings.CutPrefix(s, ":")
	var n int
	if _, err := fmt.Sscanf(port, "%d", &n); !ok || err != nil || n < 1 || n > 65535 || fmt.Sprint(n) != port {
		return "", "", fmt.Errorf("%q is not a port", s)
	}
	return strings.ToLower(host), port, nil
}

// SplitWords splits at blanks; words may be quoted with " or ' so that they can hold blanks. No shell is
// ever involved.
func SplitWords(s string) ([]string, error) {
	var words []string
	var word strings.Builder
	in, quote := false, byte(0)
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case quote != 0 && c == quote:
			quote = 0
		case quote != 0:
			word.WriteByte(c)
		case c == '"' || c == '\'':
			quote, in = c, true
		case c == ' ' || c == '\t':
			if in {
				words = append(words, word.String())
				word.Reset()
				in = false
			}
		default:
			word.WriteByte(c)
			in = true
		}
	}
	if quote != 0 {
		return nil, errors.New("a quote is not closed")
	}
	if in {
		words = append(words, word.String())
	}
	return words, nil
}

// UnmarshalText reads a destination from configuration.
func (d *Destination) UnmarshalText(b []byte) (err error) {
	*d, err = Parse(string(b))
	return err
}

// MarshalText writes it as Parse reads it.
func (d Destination) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// String writes the destination as Parse reads it; the zero value is "".
func (d Destination) String() string {
	switch d.Kind {
	case None:
		return ""
	case Maildir, Mbox:
		return d.Kind.String() + ":" + d.Path
	case MX:
		return "mx:" + d.Host
	case Pipe:
		words := make([]string, len(d.Args))
		for i, w := range d.Args {
			if w == "" || strings.ContainsAny(w, " \t\"'") {
				w = `"` + strings.ReplaceAll(w, `"`, `"'"'"`) + `"`
			}
			words[i] = w
		}
		return "pipe:" + strings.Join(words, " ")
	case Discard:
		return "discard:"
	}
	if d.Path != "" {
		return d.Kind.String() + "://" + d.Path
	}
	s := d.Host
	if strings.Contains(s, ":") {
		s = "[" + s + "]"
	}
	if d.User != "" {
		s = d.User + "@" + s
	}
	if d.Port != "" {
		s += ":" + d.Port
	}
	return d.Kind.String() + "://" + s
}

// IsHost reports whether the destination is spoken with over a network or a socket, by SMTP or LMTP.
func (d Destination) IsHost() bool {
	return d.Kind == MX || d.Kind == SMTP || d.Kind == SMTPS || d.Kind == LMTP
}

// IsLocal reports whether the destination is storage on this host.
func (d Destination) IsLocal() bool { return d.Kind == Maildir || d.Kind == Mbox }
