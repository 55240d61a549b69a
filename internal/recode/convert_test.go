package recode

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"io"
	"mime"
	parts "mime/multipart"
	"mime/quotedprintable"
	"slices"
	"strings"
	"testing"

	"github.com/postel-mail/postel/internal/message"
)

// convert runs both passes over a whole message.
func convert(t testing.TB, msg string, plan func(io.Reader) (*Plan, error)) string {
	t.Helper()
	p, err := plan(strings.NewReader(msg))
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := p.Copy(&out, strings.NewReader(msg)); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestSevenBit(t *testing.T) {
	const qp = "Content-Transfer-Encoding: quoted-printable\n"
	multi := func(head, part string) string {
		return "MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=b\n\n--b\n" + head + "\n" + part + "\n--b--\n"
	}
	for _, c := range []struct{ name, in, want string }{ // want "": as it is
		{"seven bits", "Content-Type: text/plain\n\nx\n", ""},
		{"no MIME, utf-8", "Subject: x\n\nhellö -\n- ok \n", "Subject: x\nMIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\n" + qp + "\nhell=C3=B6 -\n=2D ok=20\n"},
		{"no MIME, latin-1", "Subject: x\n\nhell\xf6\n", "Subject: x\nMIME-Version: 1.0\nContent-Type: text/plain; charset=unknown-8bit\n" + qp + "\nhell=F6\n"},
		{"no header", "\n\xf6\n", "MIME-Version: 1.0\nContent-Type: text/plain; charset=unknown-8bit\n" + qp + "\n=F6\n"},
		{"no last line end", "A: b\n\n\xf6", "A: b\nMIME-Version: 1.0\nContent-Type: text/plain; charset=unknown-8bit\n" + qp + "\n=F6"},
		{"labelled", "MIME-Version: 1.0\nContent-Transfer-Encoding: 8bit\n (so it is)\nContent-Type: text/html; charset=iso-8859-1\n\n\xf6\n",
			"MIME-Version: 1.0\n" + qp + "Content-Type: text/html; charset=iso-8859-1\n\n=F6\n"},
		{"labelled 7bit", "MIME-Version: 1.0\nContent-Transfer-Encoding: 7BIT; x\nContent-Type: text/html\n\n\xf6\n",
			"MIME-Version: 1.0\n" + qp + "Content-Type: text/html\n\n=F6\n"},
		{"no version", "Content-Type: text/html\n\n\xf6\n", "Content-Type: text/html\nMIME-Version: 1.0\n" + qp + "\n=F6\n"},
		{"8bit without need", "Content-Transfer-Encoding: 8bit\n\nx\n", "Content-Transfer-Encoding: 7bit\n\nx\n"},
		{"one part", multi("Content-Type: text/plain\n", "\xf6"), multi("Content-Type: text/plain\n"+qp, "=F6")},
		{"one part, labels", "Content-Transfer-Encoding: 8bit\n" + multi("Content-Transfer-Encoding: binary\n", "x\n--b\nContent-Transfer-Encoding: 8bit\n\n\xf6"),
			"Content-Transfer-Encoding: 7bit\n" + multi("Content-Transfer-Encoding: 7bit\n", "x\n--b\n"+qp+"Content-Type: text/plain; charset=unknown-8bit\n\n=F6")},
		{"multipart without version", "Content-Type: multipart/mixed; boundary=b\n\n--b\n\n\xf6\n--b--\n",
			"Content-Type: multipart/mixed; boundary=b\nMIME-Version: 1.0\n\n--b\nContent-Type: text/plain; charset=unknown-8bit\n" + qp + "\n=F6\n--b--\n"},
		{"multipart in multipart", multi("Content-Type: multipart/alternative; boundary=c\nContent-Transfer-Encoding: 8bit\n", "--c\n\n\xf6\n--c--\n\xf6"),
			multi("Content-Type: multipart/alternative; boundary=c\nContent-Transfer-Encoding: 7bit\n", "--c\nContent-Type: text/plain; charset=unknown-8bit\n"+qp+"\n=F6\n--c--\n?")},
		{"preamble and epilogue", "MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=b\n\n\xc3\xb6\n\xff\n--b\n\nx\n--b--\nend\xfe",
			"MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=b\n\n??\n?\n--b\n\nx\n--b--\nend?"},
		{"message in message", multi("Content-Type: message/rfc822\nContent-Transfer-Encoding: 8bit\n", "Subject: y\n\n\xf6"),
			multi("Content-Type: message/rfc822\nContent-Transfer-Encoding: 7bit\n", "Subject: y\nMIME-Version: 1.0\nContent-Type: text/plain; charset=unknown-8bit\n"+qp+"\n=F6")},
		{"message/rfc822 alone", "Content-Type: message/rfc822\n\nSubject: y\nMIME-Version: 1.0\n\n\xf6",
			"Content-Type: message/rfc822\nMIME-Version: 1.0\n\nSubject: y\nMIME-Version: 1.0\nContent-Type: text/plain; charset=unknown-8bit\n" + qp + "\n=F6"},
		{"digest", strings.Replace(multi("", "Subject: y\n\n\xf6"), "mixed", "digest", 1),
			strings.Replace(multi("", "Subject: y\nMIME-Version: 1.0\nContent-Type: text/plain; charset=unknown-8bit\n"+qp+"\n=F6"), "mixed", "digest", 1)},
		{"message/global", multi("Content-Type: message/global\n", "Subject: ö\n\nx"), multi("Content-Type: message/global\n"+qp, "Subject: =C3=B6\n\nx")},
		{"global report", multi("Content-Type: message/global-delivery-status\n", "A: ö"), multi("Content-Type: message/global-delivery-status\n"+qp, "A: =C3=B6")},
		{"raw octets in quoted-printable", multi(qp, "a=\nb=3D\xf6"), multi(qp, "a=\nb=3D=F6")},
		{"raw octets in base64", multi("Content-Transfer-Encoding: base64\n", "aGVs\xf6\nbG8="), multi("Content-Transfer-Encoding: base64\n", "aGVsbG8=")},
		{"long line besides", multi("Content-Type: text/x\n", long+"\n--b\nContent-Type: text/y\n\n\xf6"),
			multi("Content-Type: text/x\n"+qp, quoted(long)+"\n--b\nContent-Type: text/y\n"+qp+"\n=F6")},
		{"a boundary in the text", multi("Content-Type: text/x\n", strings.Repeat("x", 75)+"--b\xf6"), multi("Content-Type: text/x\n"+qp, strings.Repeat("x", 75)+"=\n=2D-b=F6")},

		{"header", "Subject: \xf6\n\nx\n", "Subject: =?unknown-8bit?Q?=F6?=\n\nx\n"},
		{"header and body", "Subject: ö\nTo: a@b\nX-Y: ü\n\n\xf6\n",
			"Subject: =?utf-8?Q?=C3=B6?=\nTo: a@b\nX-Y: =?utf-8?Q?=C3=BC?=\nMIME-Version: 1.0\nContent-Type: text/plain; charset=unknown-8bit\n" + qp + "\n=F6\n"},
		{"description of a part", multi("Content-Description: ö\n", "x"), multi("Content-Description: =?utf-8?Q?=C3=B6?=\n", "x")},
		{"address", "To: ö@example\n\nx\n", ""},
		{"comment on the encoding", "Content-Transfer-Encoding: 8bit (ö)\n\nx\n", "Content-Transfer-Encoding: 7bit\n\nx\n"},
		{"header of a signed part", strings.Replace(multi("Subject: ö\n", "x"), "mixed", "signed", 1), ""},
		{"header of a part", multi("Content-Type: text/plain; x=\xf6\n", "x"), ""},
		{"header of a message in the message", multi("Content-Type: message/rfc822\n", "Subject: \xf6\n\nx"),
			multi("Content-Type: message/rfc822\n", "Subject: =?unknown-8bit?Q?=F6?=\n\nx")},
		{"no header of a part", multi("x\xf6\n", "x"), ""},
		{"signed", strings.Replace(multi("Content-Transfer-Encoding: 8bit\n", "\xf6"), "mixed", "signed", 1), ""},
		{"signed multipart", strings.Replace(multi("Content-Type: multipart/x; boundary=c\nContent-Transfer-Encoding: 8bit\n", "\xf6\n--c\n\n\xf6\n--c--\n\xf6"), "mixed", "signed", 1), ""},
		{"two encodings", "MIME-Version: 1.0\nContent-Transfer-Encoding: 8bit\nContent-Transfer-Encoding: 7bit\n\n\xf6\n", ""},
		{"unknown encoding", "MIME-Version: 1.0\nContent-Transfer-Encoding: x-uue\n\n\xf6\n", ""},
		{"encoded multipart", "Content-Transfer-Encoding: quoted-printable\n" + multi("", "\xf6"), ""},
		{"encoded message", multi("Content-Type: message/rfc822\nContent-Transfer-Encoding: base64\n", "\xf6"), ""},
		{"no boundary", "MIME-Version: 1.0\nContent-Type: multipart/mixed\n\n--b\n\n\xf6\n--b--\n", ""},
		{"delivery status", multi("Content-Type: message/delivery-status\n", "Diagnostic-Code: \xf6"), ""},
	} {
		in := strings.ReplaceAll(c.in, "\n", "\r\n")
		got := strings.ReplaceAll(convert(t, in, SevenBit), "\r\n", "\n")
		if c.want == "" {
			c.want = c.in
		}
		if got != c.want {
			t.Errorf("%s:\n%s\ngot\n%s\nwant\n%s", c.name, c.in, got, c.want)
		}
		if again := strings.ReplaceAll(convert(t, strings.ReplaceAll(got, "\n", "\r\n"), SevenBit), "\r\n", "\n"); again != got {
			t.Errorf("%s: a second time gives\n%s", c.name, again)
		}
	}
}

func TestEightBit(t *testing.T) {
	multi := func(part string) string {
		return "MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\nContent-Transfer-Encoding: binary\r\n\r\n--b\r\n" + part + "\r\n--b--\r\n"
	}
	const bin, eight, b64 = "Content-Transfer-Encoding: binary\r\n\r\n", "Content-Transfer-Encoding: 8bit\r\n\r\n", "Content-Transfer-Encoding: base64\r\n\r\n"
	for _, c := range []struct{ name, in, want string }{
		{"bare ends", bin + "a\nb\rc\r\n", b64 + "YQpiDWMNCg=="},
		{"CR at the end", bin + "\xff\r", b64 + "/w0="},
		{"CR CR LF at the end", bin + "\xff\r\r\n", b64 + "/w0NCg=="},
		{"a boundary behind a bare LF", bin + "x\n--b\r\ny\r", b64 + "eAotLWINCnkN"},
		{"a boundary before a bare LF", bin + "x\r\n--b\ny", b64 + "eA0KLS1iCnk="},
		{"lines of eight bits", bin + "\xff", eight + "\xff"},
		{"NUL", "Content-Type: x/y\r\n" + bin + "\xff\x00", "Content-Type: x/y\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n=FF=00"},
	} {
		want := strings.Replace(multi(strings.Replace(c.want, ": base64\r\n", ": base64\r\nContent-Type: text/plain; charset=us-ascii\r\n", 1)), ": binary", ": 8bit", 1)
		got := convert(t, multi(c.in), EightBit)
		got = strings.Replace(got, "charset=unknown-8bit", "charset=us-ascii", 1)
		if got != want {
			t.Errorf("%s: %q\ngot\n%q\nwant\n%q", c.name, c.in, got, want)
		}
	}
	long := strings.Repeat("x", 40<<10) + "\r" // CRLF across two pieces is none of both alone
	if got := convert(t, bin+long[9000:]+"\n", EightBit); strings.Contains(got, "base64") {
		t.Errorf("CRLF at the end of a long line: %.100q", got)
	}
	for n := range 3 {
		head := strings.Repeat("x", 32<<10-len(bin)-2+n)
		if got := convert(t, bin+head+"\r\ny\r\n", EightBit); strings.Contains(got, "base64") {
			t.Errorf("CRLF around octet 32768 + %d: %.100q", n, got)
		}
		if got := convert(t, bin+head+"\ry\r\n", EightBit); !strings.Contains(got, "base64") {
			t.Errorf("CR around octet 32768 + %d: %.100q", n, got)
		}
	}
}

// TestBounds: what is beyond a bound stays as it is, and the caller will see that it does not fit.
func TestBounds(t *testing.T) {
	nested := func(n int) string {
		return strings.Repeat("Content-Type: message/rfc822\r\n\r\n", n) + "MIME-Version: 1.0\r\nContent-Type: text/x\r\n\r\n\xf6"
	}
	many := func(n int) string {
		return "MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n" +
			strings.Repeat("--b\r\nContent-Transfer-Encoding: 8bit\r\nContent-Type: x/y\r\n\r\n\xf6\r\n", n)
	}
	boundary := func(n int) string {
		b := strings.Repeat("b", n)
		return "Content-Type: multipart/mixed; boundary=" + b + "\r\n\r\n--" + b + "\r\n\r\n\xf6\r\n"
	}
	field := func(n int) string {
		return "Content-Transfer-Encoding: x\r\nContent-Transfer-Encoding:\r\n" + strings.Repeat(" \r\n", n) + " 8bit\r\n\r\n\xf6"
	}
	for _, c := range []struct {
		name  string
		in    string
		seven bool
	}{
		{"32 messages in each other", nested(maxDepth), true},
		{"33 messages in each other", nested(maxDepth + 1), false},
		{"10,000 parts", many(maxEdits / 2), true},
		{"10,001 parts", many(maxEdits/2 + 1), false},
		{"a boundary of 200", boundary(maxBoundary), true},
		{"a boundary of 201", boundary(maxBoundary + 1), false},
		{"a field of 16 KiB", strings.Replace(field(5000), "Content-Transfer-Encoding: x\r\n", "", 1), true},
	} {
		if got := convert(t, c.in, SevenBit); message.HasEightBit([]byte(got)) == c.seven {
			t.Errorf("%s: seven bits is %v: %.200q", c.name, !c.seven, got)
		}
	}
	p, err := SevenBit(strings.NewReader(many(10 * maxEdits)))
	if err != nil || len(p.edits) > maxEdits+3 {
		t.Errorf("%d edits, %v", len(p.edits), err)
	}
	p, err = SevenBit(strings.NewReader("Content-Type: multipart/x; boundary=b\r\n\r\n" + strings.Repeat("\xff\r\nx\r\n", 2*maxEdits)))
	if err != nil || len(p.edits) > maxEdits+3 {
		t.Errorf("%d edits of a preamble, %v", len(p.edits), err)
	}
}

// leaves gives what the parts of a message decode to, in their order, with the media type of each.
func leaves(t testing.TB, msg string) (all []string) {
	t.Helper()
	s := &scanner{plan: &Plan{form: sevenBit}, leaf: func(e *entity) {
		content := msg[e.start:e.end]
		switch {
		case e.twice:
		case e.encoding == "base64":
			content = strings.Map(func(r rune) rune {
				if r == '\r' || r == '\n' || r == 0 || r >= 0x80 {
					return -1
				}
				return r
			}, strings.ToValidUTF8(content, ""))
			b, err := base64.StdEncoding.DecodeString(content)
			if err == nil {
				content = string(b)
			}
		case e.encoding == "quoted-printable":
			b, err := io.ReadAll(quotedprintable.NewReader(strings.NewReader(content)))
			if err != nil {
				b = []byte("malformed")
			}
			content = string(b)
		}
		all = append(all, cmp.Or(e.media, "text/plain")+" "+content)
	}}
	s.begin(entity{message: true})
	if err := s.scan(strings.NewReader(msg)); err != nil {
		t.Fatal(err)
	}
	return all
}

// FuzzConvert holds the promises about any message: its parts decode to what they were, a second pass finds nothing to do, and nothing else
// comes out than was asked for.
func FuzzConvert(f *testing.F) {
	for _, s := range []string{
		"Subject: x\n\nhell\xf6 \n", "\n\xc3\xb6=3D\n", "Content-Type: multipart/x; boundary=b\n\n\xff\n--b\n\n\xff\n--b--\n\xff\n",
		"Content-Type: message/rfc822\n\nContent-Transfer-Encoding: 8bit\n\n-\xff\n", "Content-Transfer-Encoding: quoted-printable\n\n\xff= \n=\n=3D",
		"Content-Transfer-Encoding: base64\n\nYQ\xff==\n", "Content-Type: multipart/x; boundary=b\n\n--b\n\n\xff\ra\r\n--b\n\nx\n--b--",
	} {
		f.Add([]byte(s), uint16(0))
		f.Add([]byte(s), uint16(1200))
	}
	f.Fuzz(func(t *testing.T, b []byte, n uint16) {
		if i := bytes.IndexByte(b, 0xff); i >= 0 {
			b = slices.Concat(b[:i], bytes.Repeat([]byte("-x"), int(n%1500)), b[i:])
		}
		crlf, err := io.ReadAll(message.CRLF(bytes.NewReader(b)))
		if err != nil {
			t.Fatal(err)
		}
		for _, tt := range []struct {
			in   string
			plan func(io.Reader) (*Plan, error)
			fits func(string) bool
		}{
			{string(crlf), SevenBit, func(s string) bool { return !message.HasEightBit([]byte(s)) }},
			{string(b), EightBit, func(s string) bool { return !strings.ContainsAny(strings.ReplaceAll(s, "\r\n", ""), "\r\n") }},
		} {
			got := convert(t, tt.in, tt.plan)
			if left := strings.ReplaceAll(got, "\r\n", ""); tt.in == string(crlf) && strings.ContainsAny(left, "\r\n") {
				t.Fatalf("%q became %q, with a bare CR or LF", tt.in, got)
			}
			if !tt.fits(got) {
				continue // its header is at fault, or another thing that is left alone
			}
			if was, is := leaves(t, tt.in), leaves(t, got); !slices.Equal(was, is) {
				t.Fatalf("%q became %q:\nparts were\n%q\nand are\n%q", tt.in, got, was, is)
			}
			if again := convert(t, got, tt.plan); again != got {
				t.Fatalf("%q became %q, and that %q", tt.in, got, again)
			}
		}
	})
}

// FuzzQuoted writes any octets in pieces and reads them by the standard library.
func FuzzQuoted(f *testing.F) {
	f.Add([]byte("a \r\n\t\r\n --\r\n-- =\r\r\n\n\xff "), uint8(1), uint8(80))
	f.Fuzz(func(t *testing.T, b []byte, cut, n uint8) {
		b = append(bytes.Repeat([]byte("-"), int(n)), b...)
		var out bytes.Buffer
		q := &quoter{w: &out}
		for piece := range slices.Chunk(b, int(cut)+1) {
			if _, err := q.Write(piece); err != nil {
				t.Fatal(err)
			}
		}
		if err := q.Close(); err != nil {
			t.Fatal(err)
		}
		for line := range bytes.Lines(out.Bytes()) {
			if text := bytes.TrimSuffix(line, []byte("\r\n")); len(text) > 76 || bytes.HasPrefix(text, []byte("-")) || bytes.ContainsAny(text, "\r\n") ||
				bytes.HasSuffix(text, []byte(" ")) || message.HasEightBit(text) {
				t.Fatalf("%q has the line %q", b, line)
			}
		}
		got, err := io.ReadAll(quotedprintable.NewReader(&out))
		if err != nil || !bytes.Equal(got, b) {
			t.Fatalf("%q is read as %q, %v", b, got, err)
		}
	})
}

// TestConvertedIsRead reads a converted message by the standard library.
func TestConvertedIsRead(t *testing.T) {
	text := "hellö\r\n\r\n--inner\r\n--outer--\r\n" + strings.Repeat("wörld - ", 200) + "\r\n.\r\nFrom x"
	msg := "MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=\"out er\"\r\n\r\npreamble\r\n" +
		"--out er\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n" + text +
		"\r\n--out er\r\nContent-Type: application/x\r\n\r\n" + text + "\r\n--out er--\r\n"
	got := convert(t, msg, SevenBit)
	header, body, _ := strings.Cut(got, "\r\n\r\n")
	_, params, err := mime.ParseMediaType(strings.TrimPrefix(header[strings.Index(header, "Content-Type: "):], "Content-Type: "))
	if err != nil {
		t.Fatal(err)
	}
	r := parts.NewReader(strings.NewReader(body), params["boundary"])
	for n := range 2 {
		part, err := r.NextPart() // it decodes quoted-printable by itself
		if err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(part); err != nil || string(b) != text {
			t.Errorf("part %d: %q, %v", n, b, err)
		}
	}
	if _, err := r.NextPart(); err != io.EOF {
		t.Errorf("a third part: %v", err)
	}
}
