package recode

import (
	"bufio"
	"bytes"
	"strings"
	"testing"

	"github.com/postel-mail/postel/internal/message"
	"github.com/postel-mail/postel/test/bombs"
)

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
		bombs.Linear(t, "body", c.unit, func(in string) {
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
