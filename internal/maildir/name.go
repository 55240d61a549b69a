package maildir

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// A name is SECONDS.UNIQUE.HOST,S=SIZE,W=SIZE:2,FLAGS; what stands before the colon, the base, names the message for ever, in new
// and in cur. Of other programs' names only that is relied on.

// uniqueName makes a name that was never used before on any host: maildir(5)'s M (microseconds), P (process), Q (count of this
// process) and R (random).
func uniqueName(t time.Time) string {
	return fmt.Sprintf("%d.M%06dP%dQ%dR%08x.%s", t.Unix(), t.Nanosecond()/1000, os.Getpid(), deliveries.Add(1), random(), hostName())
}

// deliveryName makes the name of a delivery that may be tried again. The id alone, in its middle part, tells deliveries apart.
func deliveryName(arrival time.Time, id string) string {
	return fmt.Sprintf("%d.M%06d%s.%s", arrival.Unix(), arrival.Nanosecond()/1000, idKey(id), hostName())
}

// idKey writes an id so that it can stand in a name: what is not a letter, a digit, "-" or "_" becomes =XX.
func idKey(id string) string {
	var b strings.Builder
	b.WriteByte('Q')
	for i := range len(id) {
		c := id[i]
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_' {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "=%02X", c)
		}
	}
	if b.Len() > 100 {
		return "Q" + hash(id)
	}
	return b.String()
}

// hasKey reports whether name was made by deliveryName from the id behind key.
func hasKey(name, key string) bool {
	_, rest, ok := strings.Cut(name, ".M")
	if !ok {
		return false
	}
	rest = strings.TrimLeft(rest, "0123456789")
	rest, ok = strings.CutPrefix(rest, key)
	return ok && strings.HasPrefix(rest, ".")
}

func hash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:16])
}

// baseLen is the length of a name's base.
func baseLen(name string) int {
	if i := strings.IndexByte(name, ':'); i >= 0 {
		return i
	}
	return len(name)
}

// arrived is when the message arrived as its name says it: the seconds it begins with, and the microseconds behind ".M". What
// says nothing counts as 0.
func arrived(name string) (seconds int64, micros int32) {
	digits, rest := cutDigits(name)
	seconds, _ = strconv.ParseInt(digits, 10, 64)
	if rest, ok := strings.CutPrefix(rest, ".M"); ok {
		digits, _ = cutDigits(rest)
		if n, err := strconv.ParseInt(digits, 10, 32); err == nil {
			micros = int32(n)
		}
	}
	return seconds, micros
}

func cutDigits(s string) (digits, rest string) {
	i := 0
	for i < len(s) && s[i] >= '0' && s[i] <= '9' {
		i++
	}
	return s[:i], s[i:]
}

// maxSent bounds what is believed of ",W=".
const maxSent = 1 << 40

// sentSize is the size that a base states by ",W=": octets with CRLF line ends.
func sentSize(base string) (int64, bool) {
	_, fields, _ := strings.Cut(base, ",")
	for field := range strings.SplitSeq(fields, ",") {
		if digits, ok := strings.CutPrefix(field, "W="); ok {
			n, err := strconv.ParseInt(digits, 10, 64)
			return n, err == nil && n >= 0 && n < maxSent
		}
	}
	return 0, false
}

// uid is the message's UIDL: its base without sizes, or a hash of that where it is longer or other than RFC 1939 7 allows. It is a
// part of base where it can be, so that a large mailbox costs little.
func uid(base string) string {
	u := base
	if i := strings.IndexByte(base, ','); i >= 0 {
		u = base[:i]
		for field := range strings.SplitSeq(base[i+1:], ",") {
			if !strings.HasPrefix(field, "S=") && !strings.HasPrefix(field, "W=") {
				u += "," + field
			}
		}
	}
	if u == "" || len(u) > 70 {
		return hash(u)
	}
	for i := range len(u) {
		if u[i] < 0x21 || u[i] > 0x7e {
			return hash(u)
		}
	}
	return u
}
