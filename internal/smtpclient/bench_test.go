package smtpclient

import (
	"bytes"
	"context"
	"io"
	"net"
	"strconv"
	"strings"
	"testing"
)

// serveFast is a server that looks at no more than it must, so that a benchmark shows the client.
func serveFast(conn net.Conn, extensions string) {
	defer conn.Close()
	_, _ = io.WriteString(conn, "220 mx.example\r\n")
	const envelope, taken = "250 2.1.0 Ok\r\n250 2.1.5 Ok\r\n", "250 2.0.0 Ok: queued as 4ABCDEF123\r\n"
	in := make([]byte, 0, 1<<20)
	body := 0 // octets of a chunk; -1 for a message up to its dot
	for {
		n, err := conn.Read(in[len(in):cap(in)])
		if err != nil {
			return
		}
		in = in[:len(in)+n]
		answer := ""
		switch {
		case body == -1:
			if bytes.HasSuffix(in, []byte("\r\n.\r\n")) {
				answer, body = taken, 0
			}
		case bytes.HasPrefix(in, []byte("EHLO")):
			answer = "250-mx.example\r\n" + extensions + "250 8BITMIME\r\n"
		case bytes.HasSuffix(in, []byte("\r\nDATA\r\n")):
			answer, body = envelope+"354 go\r\n", -1
		default:
			at := bytes.Index(in, []byte("BDAT "))
			line, rest, ok := bytes.Cut(in[max(at, 0):], []byte(" LAST\r\n"))
			if size, _ := strconv.Atoi(string(bytes.TrimPrefix(line, []byte("BDAT ")))); ok && len(rest) == size {
				answer = envelope + taken
			}
		}
		if answer != "" {
			in = in[:0]
			_, _ = io.WriteString(conn, answer)
		}
	}
}

// BenchmarkSend sends a message of 2 KiB to one recipient over a session that is kept.
func BenchmarkSend(b *testing.B) {
	body := text("Received: from a.example by b.example\r\n\tid 1234567890; Mon, 23 Nov 2026 12:00:00 +0000\r\nSubject: x\r\n\r\n" +
		strings.Repeat(strings.Repeat("x", 70)+"\r\n", 27))
	for name, extensions := range map[string]string{"DATA": "250-PIPELINING\r\n", "BDAT": "250-PIPELINING\r\n250-CHUNKING\r\n250-SIZE 52428800\r\n"} {
		b.Run(name, func(b *testing.B) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				b.Fatal(err)
			}
			defer l.Close()
			go func() {
				if conn, err := l.Accept(); err == nil {
					serveFast(conn, extensions)
				}
			}()
			conn, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				b.Fatal(err)
			}
			c, err := New(context.Background(), conn, Options{Hostname: "me.example"})
			if err != nil {
				b.Fatal(err)
			}
			defer c.Close()
			e := mail(b, "alice@north.example", "bob@south.example")
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			b.ReportAllocs()
			for b.Loop() {
				if out := c.Send(ctx, Mail{Envelope: e, Rcpts: e.Rcpts, Body: body}); out[0].Err != nil {
					b.Fatal(out[0].Err)
				}
			}
		})
	}
}
