package recode

import (
	"bytes"
	"mime"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/postel-mail/postel/internal/message"
)

func TestEncodeField(t *testing.T) {
	ascii := strings.Repeat("abcdefg ", 110)
	for _, tt := range []struct{ in, want string }{ // without the last line end; want "": it cannot be encoded
		{"Subject: ö", "Subject: =?utf-8?Q?=C3=B6?="},
		{"Subject:ö", "Subject: =?utf-8?Q?=C3=B6?="},
		{"Subject: \xf6", "Subject: =?unknown-8bit?Q?=F6?="},
		{"Subject: Re: grüße an öl und mehr ", "Subject: Re: =?utf-8?Q?gr=C3=BC=C3=9Fe?= an =?utf-8?Q?=C3=B6l?= und mehr "},
		{"Subject: grüße  öl mehr", "Subject: =?utf-8?Q?gr=C3=BC=C3=9Fe__=C3=B6l?= mehr"},
		{"Subject: grüße\r\n\töl\r\n mehr", "Subject: =?utf-8?Q?gr=C3=BC=C3=9Fe=09=C3=B6l?=\r\n mehr"},
		{"Subject:\r\n ö", "Subject:\r\n =?utf-8?Q?=C3=B6?="},
		{"Subject: ö \r\n ", "Subject: =?utf-8?Q?=C3=B6?="},
		{"Subject: =?utf-8?Q?a?= ö =?utf-8?Q?b?=", "Subject: =?utf-8?Q?a?= =?utf-8?Q?_=C3=B6_?= =?utf-8?Q?b?="},
		{"Subject: " + strings.Repeat("ö", 20), "Subject: =?utf-8?Q?=C3=B6=C3=B6=C3=B6=C3=B6=C3=B6=C3=B6=C3=B6=C3=B6=C3=B6=C3=B6?=\r\n" +
			" =?utf-8?Q?=C3=B6=C3=B6=C3=B6=C3=B6=C3=B6=C3=B6=C3=B6=C3=B6=C3=B6=C3=B6?="},
		{"X-Y: " + ascii + "ö " + ascii[:len(ascii)-1], "X-Y: " + ascii[:len(ascii)-1] + "\r\n =?utf-8?Q?=C3=B6?=\r\n " + ascii[:len(ascii)-1]},
		{"Unheard-Of: a (ö)", "Unheard-Of: a =?utf-8?Q?=28=C3=B6=29?="},

		{"From: Jörg Müller <a@b.example>", "From: =?utf-8?Q?J=C3=B6rg_M=C3=BCller?= <a@b.example>"},
		{`From: "Müller, \"J.\" (x)" <a@b.example>`, "From: =?utf-8?Q?M=C3=BCller=2C_=22J=2E=22_=28x=29?= <a@b.example>"},
		{"From: J. Müller <a@b.example>", "From: =?utf-8?Q?J=2E_M=C3=BCller?= <a@b.example>"},
		{"To: x@y, Jörg <a@b>,ü<c@d>, \"z\" <e@f>", "To: x@y, =?utf-8?Q?J=C3=B6rg?= <a@b>, =?utf-8?Q?=C3=BC?= <c@d>, \"z\" <e@f>"},
		{"To: a@b (Jörg (ö) \\)), c@d", "To: a@b (=?utf-8?Q?J=C3=B6rg_=28=C3=B6=29_=29?=), c@d"},
		{"To: ö (ä) <a@b>", "To: =?utf-8?Q?=C3=B6?= (=?utf-8?Q?=C3=A4?=) <a@b>"},
		{"Cc: Göbel: a@b, ö <c@d>;", "Cc: =?utf-8?Q?G=C3=B6bel?= : a@b, =?utf-8?Q?=C3=B6?= <c@d>;"},
		{"To: ö@home <a@b>", "To: =?utf-8?Q?=C3=B6=40home?= <a@b>"},
		{"Keywords: öl, gas", "Keywords: =?utf-8?Q?=C3=B6l?= , gas"},
		{"Received: from x (müller [192.0.2.1]) by y; z", "Received: from x (=?utf-8?Q?m=C3=BCller_=5B192=2E0=2E2=2E1=5D?=) by y; z"},

		{"To: ö@b.example", ""},
		{"To: <ö@b.example>", ""},
		{"To: <@ö:a@b>", ""},
		{"To: <a@ö.example>, b@c", ""},
		{`To: "ö"@b.example`, ""},
		{"To: Jörg", ""},
		{"To: a@b (ö", ""},
		{"Message-ID: <ö@b>", ""},
		{"Content-Type: text/plain; name=ö", ""},
		{"Received: from ö by y", ""},
		{"Sübject: x", ""},
		{"Subject: ö\n x", ""},
		{"Subject: ö\rx", ""},
	} {
		got, ok := encodeField(message.Field(tt.in + "\r\n"))
		if want := tt.want + "\r\n"; ok != (tt.want != "") || ok && got != want {
			t.Errorf("%q:\ngot  %q, %v\nwant %q", tt.in, got, ok, want)
		}
	}
	if got, ok := encodeField(message.Field("Subject: ö")); ok {
		t.Errorf("without a line end: got %q", got)
	}
}

// TestEncodedBound: what a plan has in memory is bounded, whatever a header is.
func TestEncodedBound(t *testing.T) {
	line := "X: " + strings.Repeat("ö", 400) + "\r\n"
	in := strings.Repeat(line, 2000) + "\r\nx\r\n"
	p, err := SevenBit(strings.NewReader(in))
	if err != nil || p.encoded > maxEncoded || p.encoded < maxEncoded/2 {
		t.Errorf("%d octets, %v", p.encoded, err)
	}
	huge := "X: " + strings.Repeat("ö ", maxField) + "\r\n\r\n"
	if got := convert(t, huge, SevenBit); got != huge {
		t.Errorf("a field of %d octets was changed", len(huge))
	}
}

// FuzzEncodeField: what comes out is one field of seven bits, whose lines are proper and not too long, and which says the same.
func FuzzEncodeField(f *testing.F) {
	for _, s := range []string{"Subject: ö ü x", "From: Jörg \"Mü\" <a@b> (ö)", "To: g\xf6: a@b, ö <c@d>;", "X:\r\n \xff\r\n\t=?a?q?b?= ö =?", "Keywords: ö,ü", "Received: (ö\\))", "Subject: a\rö\x00\n b",
		"To:0!0\xac00!!!!!00!\xf6:0\r\vTo:0!!!!!0!\x96<00000"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		field := message.Field(in + "\r\n")
		if !message.HasEightBit(field) || !isOneField(in) || len(in) > maxField {
			return
		}
		out, ok := encodeField(field)
		if !ok {
			return
		}
		if message.HasEightBit([]byte(out)) {
			t.Errorf("%q: octets over 127 in %q", in, out)
		}
		if len(out) > 6*len(in)+100 {
			t.Errorf("%q became %d octets from %d", in, len(out), len(in))
		}
		if !isOneField(strings.TrimSuffix(out, "\r\n")) {
			t.Errorf("%q: malformed: %q", in, out)
		}
		if longest(out) > max(longest(in)+2*maxWord, 2*headerLine) {
			t.Errorf("%q: a line of %d octets, there was one of %d", in, longest(out), longest(in))
		}
		if longest(in) < 800 && longest(out) > message.MaxLine {
			t.Errorf("%q: a line of %d octets", in, longest(out))
		}
		if again, ok := encodeField(message.Field(out)); ok && again != out && grammarOf(field) == unstructured {
			t.Errorf("%q: a second time gives %q", out, again)
		}
		if grammarOf(field) == unstructured && utf8.ValidString(in) && !strings.Contains(in, "=?") {
			got, err := new(mime.WordDecoder).DecodeHeader(words(out))
			if want := words(in); err != nil || words(got) != want {
				t.Errorf("%q: reads as %q, %v", in, got, err)
			}
		}
	})
}

// isOneField reports whether each line but the first begins with white space and has more than that.
func isOneField(s string) bool {
	for i, line := range strings.Split(s, "\r\n") {
		if i == 0 && (!message.IsField([]byte(line+"\r\n")) || strings.HasPrefix(line, " ")) || i > 0 && (line == "" || !isBlank(line[0]) || strings.Trim(line, " \t\r\n") == "") {
			return false
		}
	}
	return true
}

// words is text with single blanks, as far as white space counts.
func words(s string) string {
	b := bytes.TrimRight([]byte(s), " \t\r\n")
	name, value, _ := bytes.Cut(b, []byte(":"))
	value = bytes.ReplaceAll(value, []byte("\r\n"), nil)
	return string(name) + ":" + strings.Join(strings.FieldsFunc(string(value), func(r rune) bool { return r == ' ' || r == '\t' || r == '\r' || r == '\n' }), " ")
}

func longest(s string) (n int) {
	for line := range strings.SplitSeq(s, "\r\n") {
		n = max(n, len(line))
	}
	return n
}
