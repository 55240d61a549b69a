package recode

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"io"
	"mime/quotedprintable"
	"slices"
	"strings"
	"testing"

	"github.com/postel-mail/postel/internal/message"
)

var long = strings.Repeat("0123456789", 100) // 1,000 octets

// shorten runs both passes over a message with LF line ends and gives it the same way.
func shorten(t testing.TB, in string) string {
	t.Helper()
	in = strings.ReplaceAll(in, "\n", "\r\n")
	r := bufio.NewReader(strings.NewReader(in))
	h, err := message.ReadHeader(r, message.MaxHeader)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	p, err := Lines(h, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if _, err := h.WriteTo(&out); err != nil {
		t.Fatal(err)
	}
	if err := p.Copy(&out, bytes.NewReader(body)); err != nil {
		t.Fatal(err)
	}
	return strings.ReplaceAll(out.String(), "\r\n", "\n")
}

func quoted(s string) string {
	var b strings.Builder
	w := quotedprintable.NewWriter(&b)
	_, _ = io.WriteString(w, strings.ReplaceAll(s, "\n", "\r\n"))
	_ = w.Close()
	return strings.ReplaceAll(b.String(), "\r\n", "\n")
}

func TestLongLines(t *testing.T) {
	const qp = "Content-Transfer-Encoding: quoted-printable\n"
	b64 := base64.StdEncoding.EncodeToString([]byte(long))
	var b64lines []string
	for s := b64; s != ""; s = s[min(76, len(s)):] {
		b64lines = append(b64lines, s[:min(76, len(s))])
	}
	multi := func(head, part string) string {
		return "Content-Type: multipart/mixed; boundary=\"a b\"\n\npreamble\n--a b\n\nshort\n--a b  \n" + head + "\n" + part + "\n--a b--\nepilogue\n"
	}
	for _, c := range []struct{ name, in, want string }{
		{"short", "A: 1\n\n" + strings.Repeat("x", 998) + "\n", "A: 1\n\n" + strings.Repeat("x", 998) + "\n"},
		{"plain", "A: 1\n\n" + long + " \nb\n", "A: 1\nMIME-Version: 1.0\nContent-Type: text/plain; charset=us-ascii\n" + qp + "\n" + quoted(long+" \nb\n")},
		{"utf-8", "\n" + long + "\u00fc\n", "MIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\n" + qp + "\n" + quoted(long+"\u00fc\n")},
		{"latin-1", "\n" + long + "\xfc\n", "MIME-Version: 1.0\nContent-Type: text/plain; charset=unknown-8bit\n" + qp + "\n" + quoted(long+"\xfc\n")},
		{"NUL", "A: 1\n\na\x00b\n", "A: 1\nMIME-Version: 1.0\nContent-Type: text/plain; charset=us-ascii\n" + qp + "\na=00b\n"},
		{"NUL in one part", multi("Content-Type: text/plain\n", "a\x00b"), multi("Content-Type: text/plain\n"+qp, "a=00b")},
		{"labelled", "MIME-Version: 1.0\nContent-Transfer-Encoding: 8BIT\nContent-Type: text/html\n\n" + long + "\n",
			"MIME-Version: 1.0\n" + qp + "Content-Type: text/html\n\n" + quoted(long+"\n")},
		{"one part", multi("Content-Type: text/plain\n", long), multi("Content-Type: text/plain\n"+qp, quoted(long))},
		{"one part with encoding", multi("content-transfer-encoding: 7bit\nContent-Type: text/plain\n", long), multi(qp+"Content-Type: text/plain\n", quoted(long))},
		{"one part without header", multi("", long+"\n\u00fc"), multi("Content-Type: text/plain; charset=utf-8\n"+qp, quoted(long+"\n\u00fc"))},
		{"not closed", strings.TrimSuffix(multi("Content-Type: text/plain\n", long), "--a b--\nepilogue\n"),
			strings.TrimSuffix(multi("Content-Type: text/plain\n"+qp, quoted(long)), "--a b--\nepilogue\n")},
		{"message in message", multi("Content-Type: message/rfc822\n", "Subject: x\n\n"+long), multi("Content-Type: message/rfc822\n", "Subject: x\nMIME-Version: 1.0\nContent-Type: text/plain; charset=us-ascii\n"+qp+"\n"+quoted(long))},
		{"digest", strings.Replace(multi("", "Subject: x\nContent-Type: text/plain\n\n"+long), "mixed", "digest", 1),
			strings.Replace(multi("", "Subject: x\nContent-Type: text/plain\nMIME-Version: 1.0\n"+qp+"\n"+quoted(long)), "mixed", "digest", 1)},
		{"base64", multi("Content-Transfer-Encoding: base64\n", b64), multi("Content-Transfer-Encoding: base64\n", strings.Join(b64lines, "\n"))},
		{"base64 alone", "Content-Transfer-Encoding: base64\n\n" + b64 + "\n", "Content-Transfer-Encoding: base64\n\n" + strings.Join(b64lines, "\n") + "\n"},
		{"nested", multi("Content-Type: multipart/alternative; boundary=in\n", "--in\nContent-Type: text/x\n\n"+long+"\n--in--"),
			multi("Content-Type: multipart/alternative; boundary=in\n", "--in\nContent-Type: text/x\n"+qp+"\n"+quoted(long)+"\n--in--")},
		{"nested not closed", multi("Content-Type: multipart/alternative; boundary=in\n", "--in\nContent-Type: text/x\n\n"+long),
			multi("Content-Type: multipart/alternative; boundary=in\n", "--in\nContent-Type: text/x\n"+qp+"\n"+quoted(long))},

		{"signed", strings.Replace(multi("Content-Type: text/plain\n", long), "mixed", "signed", 1), ""},
		{"NUL in a signed part", strings.Replace(multi("Content-Type: text/plain\n", "a\x00b"), "mixed", "signed", 1), ""},
		{"NUL around parts", strings.Replace(multi("", "x"), "preamble", "\x00", 1), ""},
		{"signed inside", multi("Content-Type: multipart/signed; boundary=in\n", "--in\nContent-Type: text/x\n\n"+long+"\n--in--"), ""},
		{"preamble", strings.Replace(multi("", "x"), "preamble", long, 1), ""},
		{"part header", multi("Content-Type: text/plain; x="+long+"\n", "x"), ""},
		{"no part header", multi(long+"\n", "x"), ""},
		{"two encodings", multi("Content-Transfer-Encoding: 7bit\nContent-Transfer-Encoding: 8bit\n", long), ""},
		{"unknown encoding", multi("Content-Transfer-Encoding: x-uu\n", long), ""},
		{"encoded multipart", "Content-Transfer-Encoding: base64\n" + multi("", long), ""},
		{"no boundary", "Content-Type: multipart/mixed\n\n--x\n\n" + long + "\n--x--\n", ""},
		{"delivery status", multi("Content-Type: message/delivery-status\n", long), ""},
	} {
		if c.want == "" {
			c.want = c.in
		}
		if got := shorten(t, c.in); got != c.want {
			t.Errorf("%s:\n%s\ngot\n%s\nwant\n%s", c.name, c.in, got, c.want)
		} else if again := shorten(t, got); again != got {
			t.Errorf("%s: a second time gives\n%s", c.name, again)
		}
	}
}

func TestLongLineRewrapQuoted(t *testing.T) {
	in := "Content-Transfer-Encoding: quoted-printable\n\n" + strings.Repeat("=C3=BCx=3D", 300) + "=\nend\n"
	out := shorten(t, in)
	for line := range strings.Lines(out) {
		if len(line) > 77 {
			t.Errorf("line of %d octets", len(line))
		}
	}
	decode := func(s string) string {
		b, err := io.ReadAll(quotedprintable.NewReader(strings.NewReader(s)))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	if decode(in) != decode(out) {
		t.Errorf("decodes to\n%s\nwas\n%s", decode(out), decode(in))
	}
}

func TestParseMedia(t *testing.T) {
	for _, c := range []struct{ in, media, boundary string }{
		{"", "", ""},
		{"TEXT/Plain", "text/plain", ""},
		{"multipart/mixed; boundary=abc", "multipart/mixed", "abc"},
		{"multipart/mixed ; Boundary = \"a;b\\\"c \"; x=y", "multipart/mixed", "a;b\"c"},
		{"multipart/mixed; x=\"boundary=no; \"; boundary=yes (comment)", "multipart/mixed", "yes"},
		{"multipart/mixed; flag; boundary=a; boundary=b", "multipart/mixed", "a"},
		{"multipart/mixed (c); boundary=\"open", "multipart/mixed", "open"},
		{"multipart/mixed; boundary=" + strings.Repeat("x", 201), "multipart/mixed", ""},
	} {
		if m, b := parseMedia(c.in); m != c.media || b != c.boundary {
			t.Errorf("%q: got %q %q, want %q %q", c.in, m, b, c.media, c.boundary)
		}
	}
}

// What a part decodes to must not change; and what is not said to change must not.
func FuzzLongLines(f *testing.F) {
	f.Add([]byte("x"), uint16(1), []byte("\n--b\n.\n"), "Content-Type: text/plain")
	f.Add([]byte(" \x00=3D\t\n\xff"), uint16(999), []byte("\t"), "X: y")
	f.Add([]byte("--b\n\nx\n--b\n\n"), uint16(2000), []byte("\n--b--\n"), "Content-Type: multipart/mixed; boundary=b")
	f.Fuzz(func(t *testing.T, front []byte, n uint16, back []byte, field string) {
		content := slices.Concat(front, bytes.Repeat([]byte("="), int(n%2048)), back)
		content, err := io.ReadAll(message.CRLF(bytes.NewReader(content)))
		if err != nil {
			t.Fatal(err)
		}
		h, err := message.ReadHeader(bufio.NewReader(strings.NewReader(field+"\n\n")), 1<<16)
		if err != nil || h.Has("Content-Transfer-Encoding") {
			return
		}
		p, err := Lines(h, bytes.NewReader(content))
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		if err := p.Copy(&out, bytes.NewReader(content)); err != nil {
			t.Fatal(err)
		}
		got := out.Bytes()
		if h.Get("Content-Transfer-Encoding") == "quoted-printable" {
			for line := range bytes.Lines(got) {
				if len(line) > 78 {
					t.Fatalf("line of %d octets", len(line))
				}
			}
			if got, err = io.ReadAll(quotedprintable.NewReader(&out)); err != nil {
				t.Fatal(err)
			}
		}
		if len(p.edits) < 2 && !bytes.Equal(got, content) {
			t.Fatalf("%q: %q became %q", field, content, got)
		}
	})
}
