package message

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/postel-mail/postel/internal/address"
	"github.com/postel-mail/postel/internal/status"
)

func TestReadHeader(t *testing.T) {
	long := strings.Repeat("x", 5000)
	for _, c := range []struct{ name, in, head, body string }{
		{"empty", "", "", ""},
		{"only body", "\r\nbody", "", "body"},
		{"lf", "A: 1\nB: 2\n\nbody\n", "A: 1\r\nB: 2\r\n", "body\n"},
		{"crlf", "A: 1\r\nB: 2\r\n\r\nbody\r\n", "A: 1\r\nB: 2\r\n", "body\r\n"},
		{"crcrlf", "A: 1\r\r\n\r\r\nbody", "A: 1\r\n", "body"},
		{"folded", "A: 1\n 2\n\t3\nB: 4\n\n", "A: 1\r\n 2\r\n\t3\r\nB: 4\r\n", ""},
		{"blank fold", "A: 1\n \nB: 2\n\nx", "A: 1\r\n \r\nB: 2\r\n", "x"},
		{"no end", "A: 1", "A: 1\r\n", ""},
		{"no colon", "A: 1\nhello there\nB: 2\n", "A: 1\r\n", "hello there\nB: 2\n"},
		{"prose", "Dear all: come\n", "", "Dear all: come\n"},
		{"old white space", "Subject : x\n\n", "Subject : x\r\n", ""},
		{"white space first", " A: 1\n\nx", "", " A: 1\n\nx"},
		{"mbox", "From root Thu Jan  1 00:00:00 1970\nA: 1\n\nx", "A: 1\r\n", "x"},
		{"quoted mbox", ">From root Thu Jan  1 00:00:00 1970\nA: 1\n\nx", "A: 1\r\n", "x"},
		{"mbox later", "A: 1\nFrom root Thu\nB: 2\n", "A: 1\r\n", "From root Thu\nB: 2\n"},
		{"From with space", "From : me@x\n\n", "From : me@x\r\n", ""},
		{"colon first", ": x\n\n", "", ": x\n\n"},
		{"bare cr", "A: 1\rB: 2\n\n", "A: 1 B: 2\r\n", ""},
		{"cr first", "A: 1\n\rB: 2\n\n", "A: 1\r\n", "\rB: 2\n\n"},
		{"utf-8", "Subject: gr\xc3\xbc\xc3\x9fe\n\n", "Subject: gr\xc3\xbc\xc3\x9fe\r\n", ""},
		{"8-bit name", "S\xfcb: x\n\n", "", "S\xfcb: x\n\n"},
		{"long", "A: " + long + "\nB: 2\n\nx", "A: " + long + "\r\nB: 2\r\n", "x"},
		{"long name", long + ": x\n", "", long + ": x\n"},
	} {
		for _, wrap := range []func(io.Reader) io.Reader{iotest.DataErrReader, iotest.OneByteReader} {
			r := bufio.NewReader(wrap(strings.NewReader(c.in)))
			h, err := ReadHeader(r, MaxHeader)
			if err != nil {
				t.Errorf("%s: %v", c.name, err)
				continue
			}
			var got strings.Builder
			n, _ := h.WriteTo(&got)
			if got.String() != c.head+"\r\n" || n != h.Size() {
				t.Errorf("%s: %q: header %q (%d, Size %d), want %q", c.name, c.in, got.String(), n, h.Size(), c.head)
			}
			if body, _ := io.ReadAll(r); string(body) != c.body {
				t.Errorf("%s: %q: body %q, want %q", c.name, c.in, body, c.body)
			}
		}
	}
}

func TestReadHeaderBounds(t *testing.T) {
	for _, c := range []struct {
		name, in string
		max      int
		ok       bool
	}{
		{"exact", "A: 1\nB: 2\n\n", 12, true},
		{"one more", "A: 1\nB: 2\n\n", 11, false},
		{"endless line", "A: " + strings.Repeat("x", 1<<20), 1 << 16, false},
		{"endless fold", "A: 1\n" + strings.Repeat(" x\n", 1<<18), 1 << 16, false},
		{"many fields", strings.Repeat("A:\n", maxFields+1), MaxHeader, false},
	} {
		_, err := ReadHeader(bufio.NewReader(strings.NewReader(c.in)), c.max)
		var s *status.Error
		if c.ok != (err == nil) || (!c.ok && (!errors.As(err, &s) || s.Code != 552 || s.Enhanced != "5.3.4")) {
			t.Errorf("%s: got %v, want ok %v", c.name, err, c.ok)
		}
	}
	broken := io.MultiReader(strings.NewReader("A: 1\nB:"), iotest.ErrReader(io.ErrClosedPipe))
	if _, err := ReadHeader(bufio.NewReader(broken), MaxHeader); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("broken reader: got %v", err)
	}
}

func header(t *testing.T, s string) *Header {
	t.Helper()
	h, err := ReadHeader(bufio.NewReader(strings.NewReader(s)), MaxHeader)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func text(h *Header) string {
	var b bytes.Buffer
	_, _ = h.WriteTo(&b)
	return b.String()
}

func TestHeader(t *testing.T) {
	h := header(t, "Received: a\nreceived : b\nTo: one\n two\nTo: three\nTox: no\n\n")
	if n := h.Count("RECEIVED"); n != 2 {
		t.Errorf("Count: %d", n)
	}
	if v := h.Get("to"); v != "one two" {
		t.Errorf("Get: %q", v)
	}
	h.Set(NewField("To", "four"))
	h.Add(NewField("X", "a\r\nBcc: b\x00"))
	h.Prepend(NewField("Top", "1"))
	h.Del("received")
	if got, want := text(h), "Top: 1\r\nTo: four\r\nTox: no\r\nX: a  Bcc: b \r\n\r\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if h.Has("Received") || !h.Has("tox") {
		t.Error("Has")
	}
}

func TestFold(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"A: bb cc dd", "A: bb cc\r\n dd"},
		{"A: bb cc dd ee ff", "A: bb cc\r\n dd ee\r\n ff"},
		{"A: bbbbbbbbbbbbb cc", "A: bbbbbbbbbbbbb\r\n cc"},
		{"A:    bbbbbbbb", "A:    bbbbbbbb"},
		{"A: bb          cc", "A: bb\r\n          cc"},
		{"A: bb\r\n cc dd ee", "A: bb\r\n cc dd\r\n ee"},
		{"A: bb          ", "A: bb          "},
		{"A b c d", "A b c d"},
	} {
		if got := string(Field(c.in + "\r\n").fold(8)); got != c.want+"\r\n" {
			t.Errorf("%q: got %q, want %q", c.in, got, c.want)
		}
	}
}

func TestReceived(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.FixedZone("", 3600))
	for _, c := range []struct {
		t    Trace
		want string
	}{
		{Trace{By: "mx.example", ID: "A1", UID: 1000, Client: "local", Now: now},
			"Received: by mx.example (postel, from userid 1000)\r\n\tid A1; Sun, 1 Mar 2026 12:00:00 +0100\r\n"},
		{Trace{Helo: "c.example", Client: "192.0.2.1", By: "mx.example", With: "ESMTPS", TLS: "TLSv1.3 TLS_AES_128_GCM_SHA256", ID: "A1",
			For: address.Path{Local: "a b", Domain: "d.example"}, UID: -1, Now: now},
			"Received: from c.example ([192.0.2.1])\r\n\tby mx.example with ESMTPS\r\n\t(TLSv1.3 TLS_AES_128_GCM_SHA256)\r\n\tid A1\r\n" +
				"\tfor <\"a b\"@d.example>; Sun, 1 Mar 2026 12:00:00 +0100\r\n"},
		{Trace{Helo: "x)\r\nBcc: (y", Client: "2001:db8::1", By: "mx", With: "LMTP", ID: "A", UID: -1, Now: now},
			"Received: from x???Bcc:??y ([IPv6:2001:db8::1])\r\n\tby mx with LMTP\r\n\tid A; Sun, 1 Mar 2026 12:00:00 +0100\r\n"},
		{Trace{Client: "unix", By: "mx", With: "LMTP", ID: "A", UID: -1, Now: now},
			"Received: from unknown (unix)\r\n\tby mx with LMTP\r\n\tid A; Sun, 1 Mar 2026 12:00:00 +0100\r\n"},
	} {
		if got := string(ReceivedField(c.t)); got != c.want {
			t.Errorf("%+v:\ngot  %q\nwant %q", c.t, got, c.want)
		}
	}
}

func FuzzReadHeader(f *testing.F) {
	for _, s := range []string{"A: 1\r\n b\r\nC : 2\n\nbody", "From x\nA:\n\r\r\nx", "\r", "\rA: 1", "A\r: 2\n", "A: \rB: 1\n \n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		r := bufio.NewReader(bytes.NewReader(in))
		h, err := ReadHeader(r, 1<<16)
		if err != nil {
			return
		}
		out := text(h)
		if bare := strings.NewReplacer("\r\n", "").Replace(out); strings.ContainsAny(bare, "\r\n") {
			t.Fatalf("%q: bare CR or LF in %q", in, out)
		}
		if again := text(header(t, out+"x")); again != out {
			t.Fatalf("%q: read %q, again %q", in, out, again)
		}
	})
}
