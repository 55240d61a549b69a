package smtpclient

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
)

// stuff sends body in blocks of n octets and gives the wire.
func stuff(body []byte, n int) ([]byte, error) {
	var wire bytes.Buffer
	s := stuffer{w: bufio.NewWriterSize(&wire, 16)}
	m := content{body: io.NewSectionReader(bytes.NewReader(body), 0, int64(len(body))), block: make([]byte, n)}
	err := m.each(s.write)
	if err == nil {
		err = s.end()
	}
	if e := s.w.Flush(); err == nil {
		err = e
	}
	return wire.Bytes(), err
}

// unstuff reads the wire as RFC 5321 4.5.2 tells a server to. ok is false when the end of data is missing or not at the end.
func unstuff(wire []byte) (body []byte, ok bool) {
	rest, ok := bytes.CutSuffix(append([]byte("\r\n"), wire...), []byte("\r\n.\r\n"))
	if !ok || bytes.Contains(append(rest, "\r\n"...), []byte("\r\n.\r\n")) {
		return nil, false
	}
	for i, line := range bytes.Split(rest, []byte("\r\n")) {
		if i > 0 {
			body = append(append(body, bytes.TrimPrefix(line, []byte("."))...), "\r\n"...)
		}
	}
	return body, true
}

// check holds the promise about the wire for one body.
func check(t *testing.T, body []byte, n int) {
	t.Helper()
	bare := bytes.ReplaceAll(body, []byte("\r\n"), nil)
	wire, err := stuff(body, n)
	if bytes.ContainsAny(bare, "\r\n") {
		if !errors.Is(err, errLineEnd) {
			t.Fatalf("%q in blocks of %d: got %v, want %v", body, n, err, errLineEnd)
		}
		if _, ended := unstuff(wire); ended {
			t.Fatalf("%q in blocks of %d: refused, but the wire has an end: %q", body, n, wire)
		}
	} else if err != nil {
		t.Fatalf("%q in blocks of %d: %v", body, n, err)
	} else {
		want := body
		if len(want) > 0 && !bytes.HasSuffix(want, []byte("\r\n")) {
			want = append(bytes.Clone(want), "\r\n"...)
		}
		got, ok := unstuff(wire)
		if !ok || !bytes.Equal(got, want) {
			t.Fatalf("%q in blocks of %d: wire %q is read as %q, %v", body, n, wire, got, ok)
		}
	}
	if left := bytes.ReplaceAll(wire, []byte("\r\n"), nil); err == nil && bytes.ContainsAny(left, "\r\n") {
		t.Fatalf("%q in blocks of %d: bare CR or LF on the wire %q", body, n, wire)
	}
}

// TestStuffing tries every text of up to 7 octets from the four kinds that matter, in every block size.
func TestStuffing(t *testing.T) {
	kinds := []byte("\r\n.x")
	for length := range 8 {
		for n := range 1 << (2 * length) {
			body := make([]byte, length)
			for i := range body {
				body[i] = kinds[n>>(2*i)&3]
			}
			for size := 1; size <= max(length, 1); size++ {
				check(t, body, size)
			}
		}
	}
}

func FuzzStuffing(f *testing.F) {
	for _, s := range []string{"", ".", ".\r\n", "..\r\n.", "a\r\n.\r\nb\r\n", "a\n.\r\n", "a\r.\r\n", "a\r\r\n.\r\n", "\x00\r\n.\r\n\x00"} {
		f.Add([]byte(s), uint8(1))
		f.Add([]byte(s), uint8(3))
	}
	f.Fuzz(func(t *testing.T, body []byte, n uint8) { check(t, body, int(n)+1) })
}

func TestScan(t *testing.T) {
	big := strings.Repeat("a\r\n", blockSize)
	tests := []struct {
		in            string
		eight, header bool
		err           error
	}{
		{in: ""},
		{in: "Subject: x\r\n\r\nx\r\n"},
		{in: "Subject: \xc3\xbc\r\n\r\nx\r\n", eight: true, header: true},
		{in: "Subject: x\r\n\r\n\xc3\xbc\r\n", eight: true},
		{in: "\r\n\xc3\xbc\r\n", eight: true},
		{in: "Subject: x\r\n \r\nX: \xfc\r\n", eight: true, header: true},
		{in: big + "X: \xfc\r\n", eight: true, header: true},
		{in: big + "\r\nX: \xfc\r\n", eight: true},
		{in: "X: \xfc", eight: true, header: true},
		{in: "a\nb", err: errLineEnd},
		{in: big + "\r", err: errLineEnd},
		{in: "a\r\r\n", err: errLineEnd},
	}
	for _, tt := range tests {
		for _, size := range []int{1, 2, 3, blockSize} {
			m := content{body: text(tt.in), block: make([]byte, size)}
			err := m.scan()
			if !errors.Is(err, tt.err) || err == nil && (m.eight != tt.eight || m.header != tt.header) {
				t.Errorf("%.40q in blocks of %d: got 8-bit %v, in the header %v, %v; want %v, %v, %v", tt.in, size, m.eight, m.header, err, tt.eight, tt.header, tt.err)
			}
		}
	}
	short := content{body: io.NewSectionReader(strings.NewReader("abc"), 0, 10), block: make([]byte, 4)}
	if err := short.scan(); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a file that is shorter than its size: got %v", err)
	}
}

func BenchmarkContent(b *testing.B) {
	body := text(strings.Repeat(strings.Repeat("a", 70)+"\r\n", 1<<14))
	block := make([]byte, blockSize)
	b.SetBytes(body.Size())
	for range b.N {
		m := content{body: body, block: block}
		if err := m.scan(); err != nil {
			b.Fatal(err)
		}
		s := stuffer{w: bufio.NewWriterSize(io.Discard, 16<<10)}
		if err := m.each(s.write); err != nil {
			b.Fatal(err)
		}
	}
}
