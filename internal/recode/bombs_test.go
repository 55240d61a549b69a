package recode

import (
	"bufio"
	"bytes"
	"runtime"
	"strings"
	"testing"

	"github.com/postel-mail/postel/internal/message"
)

// allocated is the number of octets that f allocates.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// Every input is also long enough for a quadratic step to be missed by nobody.
func testLinear(t *testing.T, name string, unit string, f func(in string)) {
	t.Helper()
	f(unit) // what is allocated once
	const n = 20_000
	small := allocated(func() { f(strings.Repeat(unit, n/len(unit))) })
	large := allocated(func() { f(strings.Repeat(unit, 10*n/len(unit))) })
	if large > 20*small+1<<20 { // a quadratic step would make it 100 times as much
		t.Errorf("%s %q: %d octets allocated for %d of input, %d for ten times as much", name, unit, small, n, large)
	}
}

func TestLinearBody(t *testing.T) {
	for _, c := range []struct{ head, unit string }{
		{"Content-Type: multipart/mixed; boundary=b", "--b\r\n"},
		{"Content-Type: multipart/mixed; boundary=b", "--b\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n"},
		{"Content-Type: multipart/mixed; boundary=b", "--b\r\nContent-Type: message/rfc822\r\n\r\n"},
		{"Content-Type: multipart/mixed; boundary=b", "--b\r\n\r\n" + long + "\r\n"},
		{"Content-Type: message/rfc822", "Content-Type: message/rfc822\r\n\r\n"},
		{"Content-Type: multipart/mixed; boundary=-", "-"},
		{"Content-Type: multipart/mixed; boundary=b", "--b\r\nA: \r\n "},
		{"Content-Type: multipart/mixed; boundary=b; " + strings.Repeat("a=b;", 1<<16), "--b--\r\n"},
		{"A: b", "\xc3"},
		{"A: b", "\xf0\x9f"},
		{"Content-Transfer-Encoding: base64", "A"},
		{"Content-Transfer-Encoding: quoted-printable", "="},
	} {
		testLinear(t, "body", c.unit, func(in string) {
			h, err := message.ReadHeader(bufio.NewReader(strings.NewReader(c.head+"\n\n")), message.MaxHeader)
			if err != nil {
				t.Fatal(err)
			}
			p, err := Lines(h, strings.NewReader(in))
			if err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			if err := p.Copy(&out, strings.NewReader(in)); err != nil {
				t.Fatal(err)
			}
			convert(t, c.head+"\n\n"+in, SevenBit)
		})
	}
}
