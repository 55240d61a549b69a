package mailbox

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

var lineCases = []struct {
	in, stored string
	size       int64
}{
	{"", "", 0},
	{"\n", "\n", 2},
	{"\r\n", "\n", 2},
	{"a", "a\n", 3},
	{"a\n", "a\n", 3},
	{"a\r\nb\r\n", "a\nb\n", 6},
	{"a\rb\r\n", "a\rb\n", 5},
	{"a\r", "a\r\n", 3},
	{"a\r\r\n", "a\r\n", 3},
	{"\r\r", "\r\r\n", 3},
	{"a\x00b\n\xff\n", "a\x00b\n\xff\n", 8},
	{strings.Repeat("x", 200000), strings.Repeat("x", 200000) + "\n", 200002},
	{strings.Repeat("\r\n", 70000), strings.Repeat("\n", 70000), 140000},
}

func TestCopyLinesAndSize(t *testing.T) {
	for _, c := range lineCases {
		for name, r := range map[string]io.Reader{
			"whole": strings.NewReader(c.in), "bytes": iotest.OneByteReader(strings.NewReader(c.in)), "data with EOF": iotest.DataErrReader(strings.NewReader(c.in)),
		} {
			var b bytes.Buffer
			if err := CopyLines(&b, r); err != nil || b.String() != c.stored {
				t.Errorf("CopyLines %.40q (%s): got %.40q, %v; want %.40q", c.in, name, b.String(), err, c.stored)
			}
			var s Size
			_, _ = io.Copy(&s, strings.NewReader(c.stored))
			if s.Octets() != c.size {
				t.Errorf("Size of %.40q: got %d, want %d", c.stored, s.Octets(), c.size)
			}
		}
	}
}

func TestCopyLinesErrors(t *testing.T) {
	if err := CopyLines(io.Discard, iotest.ErrReader(io.ErrUnexpectedEOF)); err != io.ErrUnexpectedEOF {
		t.Errorf("broken reader: got %v", err)
	}
	_, w := io.Pipe()
	w.Close()
	if err := CopyLines(w, strings.NewReader("x\n")); err == nil {
		t.Error("broken writer: got no error")
	}
}

func FuzzCopyLines(f *testing.F) {
	for _, c := range lineCases[:11] {
		f.Add([]byte(c.in), 3)
	}
	f.Fuzz(func(t *testing.T, in []byte, cut int) {
		var b bytes.Buffer
		if err := CopyLines(&b, iotest.HalfReader(bytes.NewReader(in))); err != nil {
			t.Fatal(err)
		}
		want := bytes.ReplaceAll(in, crlf, lf)
		if len(want) > 0 && want[len(want)-1] != '\n' {
			want = append(want, '\n')
		}
		if !bytes.Equal(b.Bytes(), want) {
			t.Errorf("CopyLines %q: got %q, want %q", in, b.Bytes(), want)
		}
		sent := int64(bytes.Count(in, lf) - bytes.Count(in, crlf) + len(in))
		if len(in) > 0 && in[len(in)-1] != '\n' {
			sent += 2
		}
		var s Size
		cut = max(0, min(cut, len(in)))
		_, _ = s.Write(in[:cut])
		_, _ = s.Write(in[cut:])
		if s.Octets() != sent {
			t.Errorf("Size of %q: got %d, want %d", in, s.Octets(), sent)
		}
	})
}
