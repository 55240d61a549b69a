package smtpserver

import (
	"fmt"
	"strings"
	"testing"
)

// TestRefusedSaysForWhom: the log of a refusal names what was refused, and whom a refused message was from and for.
func TestRefusedSaysForWhom(t *testing.T) {
	h := newHost(t)
	h.MaxSize = 10000
	c := h.dial()
	begin := func() {
		c.do("MAIL FROM:<a@far.example>", "250")
		c.do("RCPT TO:<bob@own.example>", "250")
		for i := range maxTold {
			c.do(fmt.Sprintf("RCPT TO:<u%d@back.example>", i), "250")
		}
	}
	c.do("EHLO client.example", "250")
	c.do("MAIL FROM:<a@b..example>", "501 5.1.7 Bad sender address")
	c.do("MAIL FROM:<a@b.example> X=1", "555")
	c.do("MAIL FROM:<a@b.example> SIZE=20000", "552 5.3.4 Message is larger than the 10000 octets that this server takes")
	begin()
	c.do("MAIL FROM:<other@far.example>", "503")
	c.do("RCPT TO:<alice>", "501 5.1.3 Bad recipient address")
	c.send("BDAT 20000 LAST\r\n" + strings.Repeat("x", 20000))
	c.expect("552")
	c.do("MAIL FROM:<lonely@far.example>", "250")
	c.do("DATA", "554 5.5.1")
	c.do("RSET", "250")
	begin()
	c.do("DATA", "354")
	c.send("x\r\n\ny\r\n.\r\n")
	c.expect("550 5.6.0")
	c.closed()
	log := h.log.String()
	for want, times := range map[string]int{
		` code=501 enhanced=5.1.7 text="Bad sender address" cause="domain has an empty label: \"<a@b..example>\""`:                             1,
		` code=555 enhanced=5.5.4 text="Parameter not recognized or not implemented" cause=X`:                                                  1,
		` from=<a@b.example> code=552 enhanced=5.3.4 text="Message is larger than the 10000 octets that this server takes" cause="SIZE=20000"`: 1,
		` client=127.0.0.1 code=503`: 1,
		` client=127.0.0.1 from=<a@far.example> code=501 enhanced=5.1.3 text="Bad recipient address" cause="address has no domain: \"<alice>\""`: 1,
		" from=<lonely@far.example> code=554 enhanced=5.5.1":  1,
		" from=<a@far.example> to=<bob@own.example> code=552": 1,
		" from=<a@far.example> to=<bob@own.example> code=550": 1,
		" from=<a@far.example> to=<u8@back.example> code=":    2,
		" from=<a@far.example> to=<u9@back.example> code=":    0, // the eleventh recipient
	} {
		if n := strings.Count(log, want); n != times {
			t.Errorf("%d times in the log, want %d: %s", n, times, want)
		}
	}
	if t.Failed() {
		t.Log(log)
	}
}

// TestHelp names what the server does and no more.
func TestHelp(t *testing.T) {
	for submission, want := range map[bool]string{false: "", true: " AUTH"} {
		h := newHost(t)
		h.Submission = submission
		c := h.dial()
		help := func(want string) {
			t.Helper()
			c.send("HELP\r\n")
			for {
				line, err := c.r.ReadString('\n')
				if err != nil {
					t.Fatal(err)
				}
				if rest, ok := strings.CutPrefix(line, "214-2.0.0 Commands: "); ok && !strings.HasSuffix(rest, " VRFY HELP"+want+"\r\n") {
					t.Errorf("submission %v: %q, want %q at its end", submission, rest, want)
				}
				if strings.HasPrefix(line, "214 ") {
					return
				}
			}
		}
		help(" STARTTLS") // passwords only under TLS
		c.startTLS()
		help(want)
	}
}
