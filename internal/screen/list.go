package screen

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/postel-mail/postel/internal/address"
)

// List is a DNS list of addresses (RFC 5782) and what it counts, written DOMAIN[ANSWERS]=WEIGHT: "zen.example", "bl.example=2", "allow.example=-4",
// "bl.example[127.0.0.2..11,127.0.1.4]=2".
type List struct {
	Domain string
	Weight int // above 0 for a block list, below for an allow list
	codes  []code
}

// code is a set of answers: for each octet the least and the greatest.
type code [4][2]byte

const (
	maxDomain = 189 // octets: the nibbles of an IPv6 address go in front of it
	maxCodes  = 16  // sets of answers
	maxWeight = 100
)

// UnmarshalText reads a list.
func (l *List) UnmarshalText(b []byte) error {
	got, err := parseList(string(b))
	if err != nil {
		return fmt.Errorf("%q: %w", b, err)
	}
	*l = got
	return nil
}

func parseList(s string) (List, error) {
	l := List{Weight: 1}
	s, weight, weighted := strings.Cut(s, "=")
	if weighted {
		n, err := strconv.Atoi(weight)
		if err != nil || n == 0 || n < -maxWeight || n > maxWeight || weight[0] == '+' {
			return l, errors.New("the weight is a whole number from -100 to 100, and not 0")
		}
		l.Weight = n
	}
	domain, answers, some := strings.Cut(s, "[")
	if some {
		inner, closed := strings.CutSuffix(answers, "]")
		if !closed {
			return l, errors.New("a list is written DOMAIN, DOMAIN=WEIGHT or DOMAIN[ANSWERS]=WEIGHT")
		}
		for text := range strings.SplitSeq(inner, ",") {
			c, ok := parseCode(text)
			if !ok || len(l.codes) == maxCodes {
				return l, errors.New("between the brackets are up to 16 answers, as 127.0.0.2 or 127.0.0.2..11")
			}
			l.codes = append(l.codes, c)
		}
	}
	var err error
	if l.Domain, err = address.ASCIIDomain(domain); err != nil || address.CheckDomain(domain) != nil || len(l.Domain) > maxDomain || !strings.Contains(l.Domain, ".") {
		return l, errors.New("the list has no domain name, or one too long for it")
	}
	return l, nil
}

// parseCode reads an answer whose octets may each be two with ".." between: "127.0.0..255.1..3".
func parseCode(s string) (c code, ok bool) {
	for i := range c {
		if i > 0 {
			if s, ok = strings.CutPrefix(s, "."); !ok {
				return c, false
			}
		}
		if c[i][0], s, ok = octet(s); !ok {
			return c, false
		}
		c[i][1] = c[i][0]
		if rest, more := strings.CutPrefix(s, ".."); more {
			if c[i][1], s, ok = octet(rest); !ok || c[i][1] < c[i][0] {
				return c, false
			}
		}
	}
	return c, s == "" && c[0] == [2]byte{127, 127}
}

// octet reads a decimal number below 256 from the front of s.
func octet(s string) (o byte, rest string, ok bool) {
	rest = strings.TrimLeft(s, "0123456789")
	digits := s[:len(s)-len(rest)]
	n, err := strconv.ParseUint(digits, 10, 8)
	return byte(n), rest, err == nil && strconv.FormatUint(n, 10) == digits
}

// String writes the list as it is read.
func (l List) String() string {
	var b strings.Builder
	b.WriteString(l.Domain)
	for i, c := range l.codes {
		if i == 0 {
			b.WriteByte('[')
		} else {
			b.WriteByte(',')
		}
		for k, o := range c {
			if k > 0 {
				b.WriteByte('.')
			}
			b.WriteString(strconv.Itoa(int(o[0])))
			if o[1] != o[0] {
				b.WriteString(".." + strconv.Itoa(int(o[1])))
			}
		}
	}
	if len(l.codes) > 0 {
		b.WriteByte(']')
	}
	return b.String() + "=" + strconv.Itoa(l.Weight)
}

var (
	answers  = netip.MustParsePrefix("127.0.0.0/8")      // RFC 5782 2.1: other addresses are of somebody who answers for every name
	troubles = netip.MustParsePrefix("127.255.255.0/24") // what lists agree on to say that they do not answer the one who asks
)

// has reports whether one of the addresses says that the client is on the list.
func (l List) has(addrs []netip.Addr) bool {
	return slices.ContainsFunc(addrs, func(a netip.Addr) bool {
		if !answers.Contains(a) || troubles.Contains(a) {
			return false
		}
		o := a.As4()
		return len(l.codes) == 0 || slices.ContainsFunc(l.codes, func(c code) bool {
			for i := range c {
				if o[i] < c[i][0] || o[i] > c[i][1] {
					return false
				}
			}
			return true
		})
	})
}
