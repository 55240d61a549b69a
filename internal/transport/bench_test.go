package transport

import (
	"bytes"
	"net"
	"strings"
	"testing"

	"github.com/postel-mail/postel/internal/smtpclient"
)

// sink takes messages of one recipient over one connection, as fast as it can.
func sink(c net.Conn) {
	defer c.Close()
	say := func(s string) { _, _ = c.Write([]byte(s)) } // an error comes up at the next read
	buf := make([]byte, 64<<10)
	n := 0
	until := func(end string) bool {
		for n = 0; !bytes.HasSuffix(buf[:n], []byte(end)); {
			m, err := c.Read(buf[n:])
			if err != nil {
				return false
			}
			n += m
		}
		return true
	}
	say("220 mx.example\r\n")
	if !until("\r\n") {
		return
	}
	say("250-mx.example\r\n250-PIPELINING\r\n250-SIZE\r\n250-8BITMIME\r\n250 ENHANCEDSTATUSCODES\r\n")
	for until("DATA\r\n") {
		if say("250 2.1.0 ok\r\n250 2.1.5 ok\r\n354 go\r\n"); !until("\r\n.\r\n") {
			return
		}
		say("250 2.0.0 Ok: queued as 12345678901234567890\r\n")
	}
}

// BenchmarkKept is an attempt with a message of 2 KiB over a session that is open.
func BenchmarkKept(b *testing.B) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go sink(c)
		}
	}()
	tr := &Transport{Hostname: "me.example", Port: 25, TLS: smtpclient.Off, Addresses: (&hosts{}).addresses}
	defer tr.Close()
	m := enqueue(b, "Subject: x\r\n\r\n"+strings.Repeat(strings.Repeat("x", 62)+"\r\n", 32), "a@a.example", "b@b.example")
	r := all(m, dest(b, "smtp://"+l.Addr().String()))
	b.ReportAllocs()
	for b.Loop() {
		if o := tr.Attempt(b.Context(), r); o[0].Err != nil {
			b.Fatal(o[0].Err)
		}
	}
}
