package smtpclient

import (
	"bufio"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

func TestReadReply(t *testing.T) {
	long := strings.Repeat("x", maxReplyLine)
	tests := []struct {
		in   string
		code int
		text string
		err  error
	}{
		{in: "250 ok\r\n", code: 250, text: "ok"},
		{in: "250 ok\n", code: 250, text: "ok"},
		{in: "250\r\n", code: 250},
		{in: "250 \r\n", code: 250},
		{in: "250-\r\n250-a\r\n250\r\n", code: 250, text: "a"},
		{in: "599 \x1b[2J\x00\xff\r\n", code: 599, text: "?[2J??"},
		{in: "250-one\r\n250 two\r\n", code: 250, text: "one two"},
		{in: "250 " + long[:maxReplyLine-6] + "\r\n", code: 250, text: long[:900]},
		{in: "250 " + long + "\r\n", err: errMalformed},
		{in: strings.Repeat("250-"+long[:1000]+"\r\n", 100) + "250 ok\r\n", err: errMalformed},
		{in: strings.Repeat("250-\n", 1<<20), err: errMalformed},
		{in: "250-one\r\n550 two\r\n", err: errMalformed},
		{in: "250_one\r\n", err: errMalformed},
		{in: "250ok\r\n", err: errMalformed},
		{in: "25\r\n", err: errMalformed},
		{in: "2500\r\n", err: errMalformed},
		{in: "\r\n", err: errMalformed},
		{in: "150 ok\r\n", err: errMalformed},
		{in: "600 ok\r\n", err: errMalformed},
		{in: " 250 ok\r\n", err: errMalformed},
		{in: "+25 ok\r\n", err: errMalformed},
		{in: "٢٥٠ ok\r\n", err: errMalformed},
		{in: "250 ok", err: io.EOF},
		{in: "250-ok\r\n", err: io.EOF},
		{in: "", err: io.EOF},
	}
	for _, tt := range tests {
		for _, r := range []io.Reader{strings.NewReader(tt.in), iotest.OneByteReader(strings.NewReader(tt.in))} {
			got, err := readReply(bufio.NewReaderSize(r, maxReplyLine))
			if !errors.Is(err, tt.err) || got.code != tt.code || err == nil && got.text() != tt.text {
				t.Errorf("%.60q: got %d %q, %v; want %d %q, %v", tt.in, got.code, got.lines, err, tt.code, tt.text, tt.err)
			}
		}
	}
}

func FuzzReadReply(f *testing.F) {
	for _, s := range []string{"250 ok\r\n", "250-a\r\n250 b\r\n", "250\n", "250-a\r\n251 b\r\n", "25", "4\xff1 x\r\n", "220-\r\n220\r\n221 x\r\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		rd := strings.NewReader(string(in))
		r := bufio.NewReaderSize(rd, maxReplyLine)
		rep, err := readReply(r)
		read := len(in) - rd.Len() - r.Buffered()
		if read > maxReply+maxReplyLine {
			t.Fatalf("%d octets read for one reply", read)
		}
		if err != nil {
			return
		}
		if rep.code < 200 || rep.code > 599 || len(rep.lines) == 0 {
			t.Fatalf("%q: %d with %d lines", in, rep.code, len(rep.lines))
		}
		if s := rep.status(); strings.ContainsAny(s.Text+rep.text(), "\r\n\x00\x1b") || len(rep.text()) > 1024 {
			t.Fatalf("%q: text %q is not clean", in, rep.text())
		}
		if got := strings.Count(string(in[:read]), "\n"); got != len(rep.lines) {
			t.Fatalf("%q: %d lines read for a reply of %d", in, got, len(rep.lines))
		}
	})
}
