package smtpclient

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/postel-mail/postel/internal/envelope"
)

// TestConversion: what a server without 8BITMIME or BINARYMIME gets, and what it cannot get.
func TestConversion(t *testing.T) {
	const head = "MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n"
	const mixed = head + "--b\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\nhellö\r\n--b--\r\n"
	const binary = head + "--b\r\nContent-Type: x/y\r\nContent-Transfer-Encoding: binary\r\n\r\na\nb\x00\xff\r\n--b--\r\n"
	no := func(lacking string) string {
		return "554 5.6.3 The server does not offer " + lacking + ", and the message, which needs it, cannot be converted (ours)"
	}
	tests := []struct {
		name, ext, mail, wire string // the extensions, MAIL's parameters, and what is written for the message
		body                  string
		edit                  func(e *envelope.Envelope)
		want                  string // of a failure
	}{
		{name: "8BITMIME", ext: "8BITMIME", body: mixed, mail: " BODY=8BITMIME", wire: mixed + ".\r\n"},
		{name: "seven bits", ext: "SIZE", body: letter, mail: " SIZE=21", wire: letter + ".\r\n"},
		{name: "an open line", ext: "SIZE", body: "a\r\n\r\nb", mail: " SIZE=8", wire: "a\r\n\r\nb\r\n.\r\n"},
		{name: "plain text", ext: "SIZE 1000", body: "Subject: x\r\n\r\n.hellö\r\n", mail: " SIZE=132",
			wire: "Subject: x\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n..hell=C3=B6\r\n.\r\n"},
		{name: "a part", ext: "SMTPUTF8", body: mixed, wire: strings.NewReplacer("8bit", "quoted-printable", "ö", "=C3=B6").Replace(mixed) + ".\r\n"},
		{name: "over SIZE once converted", ext: "SIZE 70", body: "Subject: x\r\n\r\n.hellö\r\n",
			want: "552 5.3.4 Message is larger than the 70 octets that the server takes (ours)"},
		{name: "an open line over SIZE", ext: "SIZE 7", body: "a\r\n\r\nb", want: "552 5.3.4 Message is larger than the 7 octets that the server takes (ours)"},
		{name: "header", ext: "SIZE", body: "Subject: ö\r\n\r\nx\r\n", mail: " SIZE=34", wire: "Subject: =?utf-8?Q?=C3=B6?=\r\n\r\nx\r\n.\r\n"},
		{name: "address in the header", ext: "SIZE", body: "To: ö@b.example\r\n\r\nx\r\n",
			want: "554 5.6.3 The server does not offer 8BITMIME, and the message has octets over 127 in its header, which cannot be converted (ours)"},
		{name: "header of a part", ext: "SIZE", body: strings.Replace(mixed, "utf-8", "utf-8; x=ö", 1), want: no("8BITMIME")},
		{name: "signed", ext: "SIZE", body: strings.Replace(mixed, "mixed", "signed", 1), want: no("8BITMIME")},
		{name: "header that needs SMTPUTF8", ext: "8BITMIME", body: "Subject: ö\r\n\r\nx\r\n", edit: func(e *envelope.Envelope) { e.SMTPUTF8 = true },
			want: "554 5.6.9 The server does not offer SMTPUTF8, which the message's header needs (ours)"},
		{name: "header with SMTPUTF8 but without 8BITMIME", ext: "SMTPUTF8", body: "Subject: ö\r\n\r\nx\r\n", edit: func(e *envelope.Envelope) { e.SMTPUTF8 = true },
			mail: " SMTPUTF8", wire: "Subject: =?utf-8?Q?=C3=B6?=\r\n\r\nx\r\n.\r\n"},

		{name: "BINARYMIME", ext: "BINARYMIME\r\n250-CHUNKING\r\n250-8BITMIME", body: binary, edit: isBinary, mail: " BODY=BINARYMIME",
			wire: fmt.Sprintf("BDAT %d LAST\r\n", len(binary)) + binary},
		{name: "BINARYMIME, an open line", ext: "BINARYMIME\r\n250-CHUNKING", body: "\r\na\r", edit: isBinary, mail: " BODY=BINARYMIME",
			wire: "BDAT 4 LAST\r\n\r\na\r"},
		{name: "BINARYMIME of lines", ext: "8BITMIME", body: mixed, edit: isBinary, mail: " BODY=8BITMIME", wire: mixed + ".\r\n"},
		{name: "BINARYMIME for a server of lines", ext: "8BITMIME\r\n250-BINARYMIME", body: binary, edit: isBinary,
			wire: strings.NewReplacer("binary", "base64", "a\nb\x00\xff", "YQpiAP8=").Replace(binary) + ".\r\n"},
		{name: "BINARYMIME for a server of seven bits", ext: "CHUNKING", body: binary, edit: isBinary,
			wire: "BDAT 142 LAST\r\n" + strings.NewReplacer("binary", "base64", "a\nb\x00\xff", "YQpiAP8=").Replace(binary)},
		{name: "BINARYMIME with a bare LF in a header", ext: "8BITMIME", body: "Subject: x\n y\r\n\r\nx\r\n", edit: isBinary, want: no("BINARYMIME")},
		{name: "BINARYMIME with a NUL in a signed part", ext: "8BITMIME", body: "Content-Type: multipart/signed; boundary=b\r\n\r\n--b\r\n\r\n\x00\r\n--b--\r\n",
			edit: isBinary, want: no("BINARYMIME")},
		{name: "not BINARYMIME, though it needs it", ext: "BINARYMIME\r\n250-CHUNKING", body: binary, want: "451 4.3.0 Queued message cannot be read (ours)"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			script := hello + `S| "250-mx.example\r\n250-` + strings.ReplaceAll(tt.ext, "\r\n", `\r\n`) + `\r\n250 HELP\r\n"` + "\n"
			if tt.want == "" {
				script += "C. MAIL FROM:<a@a.example>" + tt.mail + "\nS: 250 ok\nC. RCPT TO:<b@b.example>\nS: 250 ok\n"
				if !strings.HasPrefix(tt.wire, "BDAT") {
					script += "C. DATA\nS: 354 go\n"
				}
				script += fmt.Sprintf("C| %q\nS: 250 ok", tt.wire)
				tt.want = "250 ok"
			}
			e := mail(t, "a@a.example", "b@b.example")
			if tt.edit != nil {
				tt.edit(e)
			}
			c := open(t, play(t, script), Options{})
			defer c.Close()
			if got := summaries(c.Send(context.Background(), Mail{Envelope: e, Rcpts: e.Rcpts, Body: text(tt.body)})); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

func isBinary(e *envelope.Envelope) { e.Body = "BINARYMIME" }

// TestLargeBinary streams a chunk, whose last octet may not go out before its answer is worth waiting for, whatever block it is in.
func TestLargeBinary(t *testing.T) {
	for _, size := range []int{blockSize + 1, 3*blockSize - 1, 3 * blockSize} {
		body := bytes.Repeat([]byte("\r\n.\r\n\n\r\x00\xff"), size/9+1)[:size]
		script := hello + `S| "250-mx.example\r\n250-CHUNKING\r\n250-PIPELINING\r\n250 BINARYMIME\r\n"` + fmt.Sprintf(`
			C: MAIL FROM:<a@a.example> BODY=BINARYMIME
			C. RCPT TO:<b@b.example>
			S| "250 ok\r\n250 ok\r\n"
			C: BDAT %d LAST
			C| %q
			STOP
			S: 250 ok`, size, body)
		ctx, cancel := context.WithCancel(context.Background())
		c := open(t, play(t, script, cancel), Options{})
		e := mail(t, "a@a.example", "b@b.example")
		e.Body = "BINARYMIME"
		if got := summaries(c.Send(ctx, Mail{Envelope: e, Rcpts: e.Rcpts, Body: text(string(body))})); got != "250 ok" {
			t.Errorf("%d octets: got %s", size, got)
		}
		c.Close()
	}
}

// TestChangingMessage has a file that changes between the passes over it: it must not be sent as if it were whole.
func TestChangingMessage(t *testing.T) {
	line := strings.Repeat("ö", 31) + "\r\n"
	whole := strings.NewReader("Subject: x\r\n\r\n" + strings.Repeat(line, 4*blockSize/len(line)))
	size := whole.Size()
	const nodot = "C. MAIL FROM:<a@a.example>%s\nS: 250 ok\nC. RCPT TO:<b@b.example>\nS: 250 ok\nC. DATA\nS: 354 go\nNODOT"
	for _, tt := range []struct {
		name, ext, params string
		passes            int // over the file before it changes
		script            string
		change            func(p []byte, n int, err error) (int, error)
	}{
		{"ends early, sent as it is", "8BITMIME", " BODY=8BITMIME", 1, nodot, cut},
		{"ends early, converted", "X", "", 3, nodot, cut},
		{"a bare CR, sent as it is", "8BITMIME", " BODY=8BITMIME", 1, nodot, bare},
		{"a bare CR, in a chunk", "8BITMIME\r\n250-CHUNKING", " BODY=8BITMIME", 1,
			"C. MAIL FROM:<a@a.example>%s\nS: 250 ok\nC. RCPT TO:<b@b.example>\nS: 250 ok\nC: BDAT 262158 LAST\nNODOT", bare},
		{"cannot be read, planned", "X", "", 1, "", func([]byte, int, error) (int, error) { return 0, io.ErrClosedPipe }},
		{"cannot be read, scanned again", "X", "", 2, "", func([]byte, int, error) (int, error) { return 0, io.ErrClosedPipe }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			passes := 0
			body := io.NewSectionReader(readerAt(func(p []byte, at int64) (int, error) {
				if at == 0 {
					passes++
				}
				n, err := whole.ReadAt(p, at)
				if passes > tt.passes && at >= 2*blockSize {
					return tt.change(p, n, err)
				}
				return n, err
			}), 0, size)
			script := hello + `S| "250-mx.example\r\n250-` + strings.ReplaceAll(tt.ext, "\r\n", `\r\n`) + `\r\n250 HELP\r\n"` + "\n"
			if tt.script != "" {
				script += fmt.Sprintf(tt.script, tt.params)
			}
			c := open(t, play(t, script), Options{})
			e := mail(t, "a@a.example", "b@b.example")
			if got, want := summaries(c.Send(context.Background(), Mail{Envelope: e, Rcpts: e.Rcpts, Body: body})), "451 4.3.0 Queued message cannot be read (ours)"; got != want {
				t.Errorf("got %s, want %s", got, want)
			}
			c.Close()
		})
	}
}

func cut([]byte, int, error) (int, error) { return 0, io.EOF }

func bare(p []byte, n int, err error) (int, error) {
	p[0] = '\r'
	return n, err
}
