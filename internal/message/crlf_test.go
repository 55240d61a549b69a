package message

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

func TestCRLF(t *testing.T) {
	for _, c := range []struct {
		in, want string
		dot      bool
		longest  int
	}{
		{"", "", false, 0},
		{"a", "a\r\n", false, 1},
		{"a\nbcd\n\n", "a\r\nbcd\r\n\r\n", false, 3},
		{"a\r\nb\r\n", "a\r\nb\r\n", false, 1},
		{"a\r\r\r\nb", "a\r\nb\r\n", false, 1},
		{"a\rb\n", "a b\r\n", false, 3},
		{"a\r\rb\n\r", "a b\r\n\r\n", false, 3},
		{"a\n\rb", "a\r\n b\r\n", false, 2},
		{"a\r", "a\r\n", false, 1},
		{"\x00\n", "\x00\r\n", false, 1},
		{"a\n.\nb\n", "a\r\n.\r\nb\r\n", false, 1},
		{"a\n.\nb\n", "a\r\n", true, 1},
		{"a\n.\r\nb\n", "a\r\n", true, 1},
		{"a\n.", "a\r\n", true, 1},
		{".\n", "", true, 0},
		{"a\n..\n.b\n. \n", "a\r\n..\r\n.b\r\n. \r\n", true, 2},
		{"a\n.\rb\nc.\n", "a\r\n. b\r\nc.\r\n", true, 3},
		{"a\n\r.\nb", "a\r\n .\r\nb\r\n", true, 2},
	} {
		for _, wrap := range []func(io.Reader) io.Reader{iotest.DataErrReader, iotest.OneByteReader} {
			r := CRLF(wrap(strings.NewReader(c.in)))
			r.EndAtDot = c.dot
			got, err := io.ReadAll(iotest.OneByteReader(r))
			if err != nil || string(got) != c.want || r.Longest() != c.longest {
				t.Errorf("%q dot %v: got %q longest %d %v, want %q %d", c.in, c.dot, got, r.Longest(), err, c.want, c.longest)
			}
		}
	}
	r := CRLF(io.MultiReader(strings.NewReader("a\nb\xe9"), iotest.ErrReader(io.ErrClosedPipe)))
	if got, err := io.ReadAll(r); !errors.Is(err, io.ErrClosedPipe) || string(got) != "a\r\nb\xe9" || !r.EightBit() {
		t.Errorf("broken reader: %q %v", got, err)
	}
}

func FuzzCRLF(f *testing.F) {
	for _, s := range []string{"a\nb\r\nc\rd\r\r\n", "\r", ".\n", "\n.\r\n.", "\x00\xff"} {
		f.Add([]byte(s), true)
		f.Add([]byte(s), false)
	}
	f.Fuzz(func(t *testing.T, in []byte, dot bool) {
		read := func(r io.Reader) []byte {
			l := CRLF(r)
			l.EndAtDot = dot
			out, err := io.ReadAll(l)
			if err != nil {
				t.Fatal(err)
			}
			return out
		}
		out := read(bytes.NewReader(in))
		if slow := read(iotest.OneByteReader(bytes.NewReader(in))); !bytes.Equal(out, slow) {
			t.Fatalf("%q: %q, read octet by octet %q", in, out, slow)
		}
		if again := read(bytes.NewReader(out)); !bytes.Equal(out, again) {
			t.Fatalf("%q: %q, again %q", in, out, again)
		}
		bare := bytes.ReplaceAll(out, []byte("\r\n"), nil)
		if bytes.ContainsAny(bare, "\r\n") || (len(out) > 0 && !bytes.HasSuffix(out, []byte("\r\n"))) {
			t.Fatalf("%q: bare CR or LF, or no end, in %q", in, out)
		}
		if dot && bytes.Contains(append([]byte("\r\n"), out...), []byte("\r\n.\r\n")) {
			t.Fatalf("%q: line with a dot in %q", in, out)
		}
	})
}
