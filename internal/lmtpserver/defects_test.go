package lmtpserver

import (
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"
)

// Each test here holds one defect of go-smtp v0.25.1 that the server contains. The letters are those of the list that they were
// found under.

// a: behind a timeout the rest of a body was run as commands.
func TestDefectA(t *testing.T) {
	smuggled := "\r\n.\r\n" + mail + rcpt + "DATA\r\nsmuggled\r\n.\r\n"
	for _, c := range []struct {
		name   string
		pieces []any
		want   string
	}{
		{"DATA", []any{head + "DATA\r\nbegun\r\n", timeout, smuggled}, headOK + ", 354, 451 4.4.2"},
		{"oversize DATA", []any{head + "DATA\r\n" + strings.Repeat("x", 2<<20), timeout, smuggled}, headOK + ", 354, 451 4.4.2"},
		{"BDAT", []any{head + "BDAT 1000 LAST\r\nbegun\r\n", timeout, smuggled}, headOK + ", 451 4.4.2"},
		{"BDAT before its chunk", []any{head + "BDAT 1000 LAST\r\n", timeout, smuggled}, headOK + ", 421 4.4.2"},
		{"second chunk", []any{head + "BDAT 3\r\nabcBDAT 1000 LAST\r\n", timeout, smuggled}, headOK + ", 250 2.0.0, 421 4.4.2"},
		{"oversize BDAT", []any{head + "BDAT 2000000 LAST\r\nbegun\r\n", timeout, smuggled}, headOK + ", 552 5.3.4"},
		{"command", []any{head, timeout, "DATA\r\nsmuggled\r\n.\r\n"}, headOK + ", 421 4.4.2"},
	} {
		h := newHost()
		check(t, c.name+": replies", codes(h.run(c.pieces...)), c.want)
		check(t, c.name+": delivered", h.got(), "")
	}
}

// b: behind CR CR LF the line start was lost, so that the end of the body was not seen and a stuffed dot stayed.
func TestDefectB(t *testing.T) {
	h := newHost()
	out := h.run(head + "DATA\r\none\r\r\n..two\r\r\n.\r\nNOOP\r\n")
	check(t, "replies", codes(out), headOK+", 354, 250 2.1.5, 250 2.0.0")
	check(t, "delivered", h.got(), `<from@a.example> <to@own.example> "one\r\r\n.two\r\r\n"`+"\n")
}

// c: of "." CR x at the start of a line the CR was dropped.
func TestDefectC(t *testing.T) {
	h := newHost()
	h.run(head + "DATA\r\n.\rx\r\n..\r\r\n.\r\n")
	check(t, "delivered", h.got(), `<from@a.example> <to@own.example> "\rx\r\n.\r\r\n"`+"\n")
}

// d: a chunk without LF in the same packet as its command was taken for a long line.
func TestDefectD(t *testing.T) {
	for _, n := range []int{3000, 30_000, 300_000} {
		h := newHost()
		body := strings.Repeat("x", n)
		out := h.run(head + fmt.Sprintf("BDAT %d LAST\r\n", n) + body + "NOOP\r\n")
		check(t, "replies", codes(out), headOK+", 250 2.1.5, 250 2.0.0")
		check(t, "delivered", h.got(), fmt.Sprintf("<from@a.example> <to@own.example> %q\n", body+"\r\n"))
	}
}

// e: a long line in DATA was refused for good.
func TestDefectE(t *testing.T) {
	h := newHost()
	body := strings.Repeat("x", 500_000) + "\r\n"
	out := h.run(head + "DATA\r\n" + body + ".\r\nNOOP\r\n")
	check(t, "replies", codes(out), headOK+", 354, 250 2.1.5, 250 2.0.0")
	check(t, "delivered", h.got(), fmt.Sprintf("<from@a.example> <to@own.example> %q\n", body))
}

// f: a slow body was cut by one deadline and answered for good. The deadline is the guard's, and rolls; the answer to one that passed is
// temporary (see A).
func TestDefectF(t *testing.T) {
	h := newHost()
	pieces := []any{head + "DATA\r\n"}
	for range 1000 {
		pieces = append(pieces, "x")
	}
	out := h.run(append(pieces, "\r\n.\r\n")...)
	check(t, "replies", codes(out), headOK+", 354, 250 2.1.5")
}

// g: <postmaster> without a domain was refused.
func TestDefectG(t *testing.T) {
	h := newHost()
	out := h.run(hello + mail + "RCPT TO:<postmaster>\r\nRCPT TO:<PostMaster>\r\nDATA\r\nx\r\n.\r\n")
	check(t, "replies", codes(out), "220, 250, 250 2.1.0, 250 2.1.5, 250 2.1.5, 354, 250 2.1.5, 250 2.1.5")
	if got := h.got(); !strings.Contains(got, "<from@a.example> <postmaster> ") || strings.Count(got, "\n") != 2 {
		t.Errorf("delivered: got %s", got)
	}
}

// h: a nested MAIL was accepted, and old recipients stayed.
func TestDefectH(t *testing.T) {
	h := newHost()
	out := h.run(head + "MAIL FROM:<other@a.example>\r\nRCPT TO:<two@own.example>\r\nDATA\r\nx\r\n.\r\nDATA\r\n")
	check(t, "replies", codes(out), headOK+", 503 5.5.1, 250 2.1.5, 354, 250 2.1.5, 250 2.1.5, 503 5.5.1")
	if strings.Contains(h.got(), "other@") {
		t.Errorf("delivered: got %s", h.got())
	}
}

// i: local parts lost their quotes, and addresses with two "@" were taken.
func TestDefectI(t *testing.T) {
	h := newHost()
	out := h.run(hello + mail + `RCPT TO:<"a@b"@own.example>` + "\r\n" + `RCPT TO:<a@b@own.example>` + "\r\n" + `RCPT TO:<"x> NOTIFY=NEVER"@own.example>` +
		"\r\n" + `RCPT TO:<"\"\\"@own.example>` + "\r\nDATA\r\nx\r\n.\r\n")
	check(t, "replies", codes(out), "220, 250, 250 2.1.0, 250 2.1.5, 501 5.1.3, 250 2.1.5, 250 2.1.5, 354, 250 2.1.5, 250 2.1.5, 250 2.1.5")
	for _, want := range []string{`<"a@b"@own.example>`, `<"x> NOTIFY=NEVER"@own.example>`, `<"\"\\"@own.example>`} {
		if got := h.got(); !strings.Contains(got, want) {
			t.Errorf("delivered: got %s, want %s in it", got, want)
		}
	}
}

// j: control characters and bare 8-bit were taken in paths and LHLO, and repeated in replies.
func TestDefectJ(t *testing.T) {
	for _, c := range []struct{ line, want string }{
		{"LHLO a\x00b", "500 5.5.2"}, {"LHLO a\x1b[2J", "500 5.5.2"}, {"LHLO \xff", "500 5.5.2"}, {"LHLO a\tb", "500 5.5.2"}, {"\x7f", "500 5.5.2"},
		{"MAIL FROM:<a\x00@b.example>", "500 5.5.2"}, {"MAIL FROM:<\xff@b.example>", "500 5.5.2"}, {"MAIL FROM:<a\rb@c.example>", "500 5.5.2"},
		{"MAIL FROM:<\"a\x08\"@b.example>", "500 5.5.2"}, {"MAIL FROM:<ü@b.example>", "553 5.6.7"}, {"MAIL FROM:<a@ü.example>", "553 5.6.7"},
	} {
		h := newHost()
		out := h.run(hello + c.line + "\r\nNOOP\r\n")
		check(t, fmt.Sprintf("%q", c.line), codes(out), "220, 250, "+c.want+", 250 2.0.0")
		if !utf8.ValidString(out) || strings.ContainsAny(out, "\x00\x1b\x08\x7f") || strings.Contains(out, "client.example") {
			t.Errorf("%q: the reply repeats it: %q", c.line, out)
		}
	}
	h := newHost()
	out := h.run(hello + "MAIL FROM:<ü@b.example> SMTPUTF8\r\nRCPT TO:<ö@own.example>\r\nDATA\r\nx\r\n.\r\n" + mail + "RCPT TO:<ö@own.example>\r\n")
	check(t, "SMTPUTF8", codes(out), headOK+", 354, 250 2.1.5, 250 2.1.0, 553 5.6.7")
	check(t, "delivered", h.got(), `<ü@b.example> <ö@own.example> "x\r\n"`+"\n")
}

// k: a message of exactly the announced size was refused.
func TestDefectK(t *testing.T) {
	for _, c := range []struct {
		n    int
		want string
	}{{1 << 20, "250 2.1.5"}, {1<<20 + 1, "552 5.3.4"}} {
		body := strings.Repeat("x", c.n-2) + "\r\n"
		h := newHost()
		check(t, fmt.Sprintf("DATA of %d", c.n), codes(h.run(head+"DATA\r\n"+body+".\r\nNOOP\r\n")), headOK+", 354, "+c.want+", 250 2.0.0")
		h = newHost()
		check(t, fmt.Sprintf("BDAT of %d", c.n), codes(h.run(head+fmt.Sprintf("BDAT %d LAST\r\n", c.n)+body+"NOOP\r\n")), headOK+", "+c.want+", 250 2.0.0")
		h = newHost()
		out := h.run(hello + fmt.Sprintf("MAIL FROM:<a@b.example> SIZE=%d\r\n", c.n))
		check(t, fmt.Sprintf("SIZE=%d", c.n), codes(out), "220, 250, "+strings.Replace(c.want, "2.1.5", "2.1.0", 1))
	}
	h := newHost()
	out := h.run(hello + "MAIL FROM:<a@b.example> SIZE=4294967296\r\n" + mail)
	check(t, "SIZE=2^32", codes(out), "220, 250, 501 5.5.4, 250 2.1.0")
	if !strings.Contains(out, "250-SIZE 1048576\r\n") {
		t.Errorf("LHLO: %s", out)
	}
}

// l: BY= and MT-PRIORITY= were taken where they do not belong. They are not offered, and refused.
func TestDefectL(t *testing.T) {
	h := newHost()
	out := h.run(hello + "MAIL FROM:<a@b.example> BY=100;R\r\nMAIL FROM:<a@b.example> MT-PRIORITY=3\r\n" + mail +
		"RCPT TO:<a@own.example> BY=100;R\r\nRCPT TO:<a@own.example> MT-PRIORITY=3\r\n")
	check(t, "replies", codes(out), "220, 250, 500 5.5.4, 500 5.5.4, 250 2.1.0, 504 5.5.4, 504 5.5.4")
	if strings.Contains(out, "250-DELIVERBY") || strings.Contains(out, "250-MT-PRIORITY") {
		t.Errorf("LHLO: %s", out)
	}
}

// m: "STARTTLSxyz" was taken for STARTTLS.
func TestDefectM(t *testing.T) {
	h := newHost()
	out := h.run(hello + "STARTTLSxyz\r\nSTARTTLS\r\nstarttls \r\nAUTH PLAIN AGEAYg==\r\nNOOP\r\n")
	check(t, "replies", codes(out), "220, 250, 500 5.5.2, 502 5.5.1, 502 5.5.1, 502 5.5.1, 250 2.0.0")
	if strings.Contains(out, "250-STARTTLS") || strings.Contains(out, "250-AUTH") {
		t.Errorf("LHLO: %s", out)
	}
}

// n: a wrapped error lost its code, and an unknown one was permanent and showed its text.
func TestDefectN(t *testing.T) {
	h := newHost()
	out := h.run(hello + mail + "RCPT TO:<later@own.example>\r\nRCPT TO:<unjudged@own.example>\r\nRCPT TO:<unknown@own.example>\r\nRCPT TO:<full@own.example>\r\n" +
		"RCPT TO:<unjudged-delivery@own.example>\r\nRCPT TO:<success@own.example>\r\nDATA\r\nx\r\n.\r\n")
	check(t, "replies", codes(out), "220, 250, 250 2.1.0, 451 4.3.5, 451 4.3.0, 550 5.1.1, 250 2.1.5, 250 2.1.5, 250 2.1.5, 354, 552 5.2.2, 451 4.3.0, 451 4.3.0")
	if strings.Contains(out, "secret") {
		t.Errorf("replies show a cause: %s", out)
	}
}

// o: a bad sequence was 502, NOOP with a blank 501.
func TestDefectO(t *testing.T) {
	h := newHost()
	out := h.run(mail+hello+rcpt+"DATA\r\n", mail+"DATA\r\n", "NOOP \r\nNOOP x\r\nBDAT 3\r\nabcBDAT 0\r\n"+rcpt+"BDAT 3\r\nabc"+rcpt+mail+"DATA\r\n", "RSET\r\n"+rcpt)
	check(t, "replies", codes(out), "220, 503 5.5.1, 250, 503 5.5.1, 503 5.5.1, 250 2.1.0, 503 5.5.1, 250 2.0.0, 250 2.0.0, 503 5.5.1, 503 5.5.1, "+
		"250 2.1.5, 250 2.0.0, 503 5.5.1, 503 5.5.1, 503 5.5.1, 250 2.0.0, 503 5.5.1")
}
