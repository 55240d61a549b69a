package smtpserver

import (
	"bufio"
	"context"
	"net"
	"strings"
	"testing"

	"github.com/postel-mail/postel/internal/address"
)

// TestRFC5321 holds the server against section 4 of RFC 5321, clause by clause, in the clear and under TLS. A row says commands, separated by "|", and the
// beginnings of their replies; ">" in front of a command begins the session with EHLO, and a reply "" is the end of the connection.
func TestRFC5321(t *testing.T) {
	const (
		mail = ">MAIL FROM:<a@far.example>"
		rcpt = mail + "|RCPT TO:<bob@own.example>"
	)
	word := func(n int) string { return strings.Repeat("a", n) }
	long := strings.Repeat(strings.Repeat("d", 61)+".", 4) // 248 octets
	for _, tt := range []struct{ clause, commands, replies string }{
		// 4.1.1.1 and 4.1.4: the greeting
		{"4.1.1.1 EHLO needs a name", "EHLO|EHLO x", "501 5.5.4|250"},
		{"4.1.1.1 HELO needs a name", "HELO|HELO x", "501 5.5.4|250 mail.own.example"},
		{"4.1.1.1 one name only", "EHLO x y", "501"},
		{"4.1.1.1 the name is a domain, an address or at least printable", "EHLO [192.0.2.1]|EHLO [IPv6:2001:db8::1]|EHLO x_y|EHLO h\xc3\xb6st", "250|250|250|501 5.5.2"},
		{"4.1.1.1 EHLO resets as RSET does", rcpt + "|EHLO x|RCPT TO:<bob@own.example>|DATA", "250|250|250|503|503"},
		{"4.1.1.1 a refused EHLO resets nothing", mail + "|EHLO|RCPT TO:<bob@own.example>", "250|501|250"},
		{"4.1.4 mail needs a greeting", "MAIL FROM:<>|RCPT TO:<bob@own.example>|DATA|BDAT 0 LAST", "503 5.5.1|503 5.5.1|503 5.5.1|503 5.5.1"},
		{"4.1.4 NOOP, HELP, VRFY, RSET and QUIT need none", "NOOP|HELP|VRFY bob|RSET|QUIT|", "250 2.0.0|214|252|250|221 2.0.0|"},
		{"4.1.4 HELO is enough for mail", "HELO x|MAIL FROM:<>|RCPT TO:<postmaster>", "250|250|250"},

		// 4.1.1.2: MAIL
		{"4.1.1.2 syntax", ">MAIL|MAIL FROM|MAIL FROM:|MAIL FROM:a@b.example|MAIL TO:<a@b.example>|MAIL FROM:<a@b.example", "501|501|501|501|501|501"},
		{"4.1.1.2 the null path", ">MAIL FROM:<>", "250 2.1.0"},
		{"4.1.1.2 a blank behind the colon is tolerated", ">MAIL FROM: <a@far.example>", "250"},
		{"4.1.1.2 no second MAIL", mail + "|" + mail[1:] + "|RSET|" + mail[1:], "250|503 5.5.1|250|250"},
		{"4.1.1.2 no second MAIL behind a recipient", rcpt + "|" + mail[1:], "250|250|503 5.5.1"},
		{"4.1.1.2 a refused MAIL begins nothing", ">MAIL FROM:<a@b@c>|RCPT TO:<bob@own.example>", "501 5.1.7|503"},

		// 4.1.1.3: RCPT
		{"4.1.1.3 syntax", mail + "|RCPT|RCPT TO|RCPT TO:|RCPT TO:<>|RCPT FROM:<bob@own.example>|RCPT TO:<bob>|RCPT TO:<bob@own.example", "250|501|501|501|501|501|501|501"},
		{"4.1.1.3 MAIL comes first", ">RCPT TO:<bob@own.example>", "503 5.5.1"},
		{"4.1.1.3 a source route is passed over", mail + "|RCPT TO:<@x.example,@y.example:bob@own.example>|RCPT TO:<@own.example:x@else.example>", "250|250|550 5.7.1"},
		{"4.1.1.3 an unknown user", mail + "|RCPT TO:<nobody@own.example>|DATA", "250|550 5.1.1|554 5.5.1"},
		{"4.1.1.3 postmaster without a domain, in any case", mail + "|RCPT TO:<Postmaster>|RCPT TO:<POSTMASTER>", "250|250|250"},

		// 4.1.1.4 and 4.5.2: DATA
		{"4.1.1.4 no arguments", rcpt + "|DATA x|DATA", "250|250|501|354"},
		{"4.1.1.4 MAIL comes first", ">DATA", "503 5.5.1"},
		{"4.1.1.4 a recipient comes first", mail + "|DATA", "250|554 5.5.1"},
		{"4.1.1.4 afterwards all is forgotten", rcpt + "|DATA|\r\n.|DATA|RCPT TO:<bob@own.example>", "250|250|354|250 2.0.0|503|503"},
		{"4.5.2 a dot alone ends it, two are one", rcpt + "|DATA|..\r\n...\r\n.x\r\n.|NOOP", "250|250|354|250 2.0.0|250"},

		// 4.1.1.5 to 4.1.1.10
		{"4.1.1.5 RSET takes no argument", mail + "|RSET x|RCPT TO:<bob@own.example>|RSET|RCPT TO:<bob@own.example>", "250|501|250|250 2.0.0|503"},
		{"4.1.1.6 VRFY needs one, and says nothing (7.3)", "VRFY|VRFY bob|VRFY nobody", "501|252 2.5.0|252 2.5.0"},
		{"4.1.1.7 EXPN need not be there (4.2.4)", "EXPN list", "502 5.5.1"},
		{"4.1.1.8 HELP, with and without an argument", "HELP|HELP MAIL", "214|214"},
		{"4.1.1.9 NOOP takes any argument", mail + "|NOOP|NOOP any thing|RCPT TO:<bob@own.example>", "250|250|250|250"},
		{"4.1.1.10 QUIT takes none, at any time", mail + "|QUIT x|QUIT|", "250|501|221 2.0.0|"},
		{"4.1.1.10 a message that is under way ends with it", rcpt + "|BDAT 0|QUIT|", "250|250|250|221|"},

		// 4.1.1.11: parameters
		{"4.1.1.11 unknown ones", ">MAIL FROM:<> X=1|MAIL FROM:<> X|MAIL FROM:<>|RCPT TO:<bob@own.example> X=1|RCPT TO:<bob@own.example> SIZE=1", "555 5.5.4|555|250|555|555"},
		{"4.1.1.11 malformed ones", ">MAIL FROM:<>SIZE=1|MAIL FROM:<> SIZE=|MAIL FROM:<> =1|MAIL FROM:<> SI ZE=1|MAIL FROM:<> SIZE=1=2|MAIL FROM:<> -X=1|MAIL FROM:<> SIZE=1 SIZE=1",
			"501 5.5.4|501|501|555|501|501|501"},
		{"4.1.1.11 in any case and order", ">MAIL FROM:<> body=8bitmime Size=10 ret=hdrs", "250"},

		// 4.1.2 and 4.1.3: words and addresses
		{"4.1.2 dot-string", mail + "|RCPT TO:<.bob@own.example>|RCPT TO:<bob.@own.example>|RCPT TO:<b..ob@own.example>|RCPT TO:<b ob@own.example>|RCPT TO:<b(x)ob@own.example>",
			"250|501 5.1.3|501|501|501|501"},
		{"4.1.2 quoted-string", mail + `|RCPT TO:<"bob"@own.example>|RCPT TO:<"b\ob"@own.example>|RCPT TO:<"b@ob"@own.example>|RCPT TO:<"bob@own.example>|RCPT TO:<"b"ob@own.example>|RCPT TO:<"b">`,
			"250|250|250|550 5.1.1|501|501|501"},
		{"4.1.2 domain", mail + "|RCPT TO:<bob@-own.example>|RCPT TO:<bob@own-.example>|RCPT TO:<bob@own..example>|RCPT TO:<bob@.own.example>|RCPT TO:<bob@OWN.Example>",
			"250|501|501|501|501|250"},
		{"4.1.3 address literals", mail + "|RCPT TO:<bob@[127.0.0.1]>|RCPT TO:<bob@[192.0.2.1]>|RCPT TO:<bob@[192.0.2]>|RCPT TO:<bob@[IPv6:2001:db8::1]>|RCPT TO:<bob@[::1]>|RCPT TO:<bob@[127.0.0.1>",
			"250|250|550 5.7.1|501|550 5.7.1|501|501"},

		// 4.2: replies and unknown commands
		{"4.2.4 unknown commands", "FOO|FOO BAR|MAILX FROM:<>|NO OP", "500 5.5.1|500|500|500"},
		{"4.2.4 known and not implemented", "TURN|SEND FROM:<>|SOML FROM:<>|SAML FROM:<>|ETRN x", "502 5.5.1|502|502|502|502"},
		{"4.1.1 verbs in any case", "ehlo x|mAiL from:<>|rcpt to:<bob@own.example>|qUIT|", "250|250|250|221|"},
		{"4.1.1 an empty line", "", "500"},
		{"4.1.1 white space in front of a verb", " NOOP", "500"},
		{"4.1.1 white space behind a command", ">NOOP  |RSET\t|MAIL FROM:<> ", "250|250|250"},
		{"4.1.1.1 no 8-bit octet in a verb", "N\xd6OP", "500"},
		{"4.1.2 no control characters in an argument", ">MAIL FROM:<a\x01@far.example>|NOOP \x1b[2J|VRFY \x7f", "501|501|501"},
		{"2.3.8 a bare LF ends no command", "NOOP\nNOOP|", "500 5.5.2|"},
		{"2.3.8 nor does a bare CR", "NOOP\rNOOP|", "500 5.5.2|"},
		{"4.5.2 NUL", "NOOP \x00|", "500 5.5.2|"},

		// 4.5.3.1: sizes
		{"4.5.3.1.1 a local part of 64", ">MAIL FROM:<" + word(64) + "@far.example>|RSET|MAIL FROM:<" + word(65) + "@far.example>", "250|250|501"},
		{"4.5.3.1.2 a domain as long as a path can have it", ">MAIL FROM:<a@" + long + word(4) + ">|RSET|MAIL FROM:<a@" + long + word(8) + ">", "250|250|501"},
		{"4.5.3.1.3 a path of 256", ">MAIL FROM:<" + word(64) + "@" + strings.Repeat(word(46)+".", 3) + word(48) + ">", "250"},
		{"4.5.3.1.4 a command of 512", "NOOP " + word(512-7), "250"},
		{"4.5.3.1.6 a line of 1000, and more", rcpt + "|DATA|" + word(998) + "\r\n" + word(10_000) + "\r\n.", "250|250|354|250"},

		// 4.5.1
		{"4.5.1 postmaster of each domain", mail + "|RCPT TO:<postmaster@own.example>|RCPT TO:<postmaster@back.example>|RCPT TO:<postmaster@else.example>", "250|250|250|550 5.7.1"},
		{"4.5.5 a null path is a sender like any other", ">MAIL FROM:<>|RCPT TO:<bob@own.example>|DATA|\r\n.", "250|250|354|250"},

		// Extensions, where they bear on the order
		{"RFC 3030 2: no DATA behind BDAT", rcpt + "|BDAT 0|DATA|RCPT TO:<bob@own.example>|MAIL FROM:<>|BDAT 0 LAST", "250|250|250|503|503|503|250"},
		{"RFC 3030 2: a transaction is over with its last chunk", rcpt + "|BDAT 0 LAST|BDAT 0 LAST", "250|250|250 2.0.0|503"},
		{"RFC 1870 6.1: too large by its own word", ">MAIL FROM:<> SIZE=1048577|MAIL FROM:<> SIZE=1048576", "552 5.3.4|250"},
		{"RFC 6152 2: the values of BODY", ">MAIL FROM:<> BODY=7BIT|RSET|MAIL FROM:<> BODY=8BITMIME|RSET|MAIL FROM:<> BODY=X|MAIL FROM:<> BODY", "250|250|250|250|501|501"},
		{"RFC 3461 4.1: NOTIFY", mail + "|RCPT TO:<bob@own.example> NOTIFY=NEVER,DELAY|RCPT TO:<bob@own.example> NOTIFY=|RCPT TO:<bob@own.example> NOTIFY=SUCCESS,DELAY", "250|501|501|250"},
		{"RFC 3461 4.3, 4.4: RET and ENVID", ">MAIL FROM:<> RET=X|MAIL FROM:<> ENVID=+0A|MAIL FROM:<> ENVID=a+2b|MAIL FROM:<> RET=FULL ENVID=a+2B", "501|501|501|250"},
		{"RFC 4954 5: AUTH= where AUTH is not offered", ">MAIL FROM:<> AUTH=<>", "555"},
		{"RFC 6531 3.4: an address that needs SMTPUTF8", ">MAIL FROM:<\xc3\xb8@far.example>|MAIL FROM:<\xc3\xb8@far.example> SMTPUTF8|RCPT TO:<b\xc3\xb8b@own.example>|RCPT TO:<b\xf8b@own.example>", "553 5.6.7|250|250|501"},
	} {
		for _, secure := range []bool{false, true} {
			h := newHost(t)
			h.Verify = unquoted(h.Verify)
			c := h.dial()
			if secure {
				c.do("STARTTLS", "220")
				c.handshake()
			}
			commands := tt.commands
			if rest, ok := strings.CutPrefix(commands, ">"); ok {
				commands = rest
				c.do("EHLO client.example", "250")
			}
			replies := strings.Split(tt.replies, "|")
			for i, command := range strings.Split(commands, "|") {
				if replies[i] != "" {
					c.send(command + "\r\n")
				}
				if got := c.reply(); !strings.HasPrefix(got, replies[i]) || replies[i] == "" && got != "" {
					t.Errorf("%s, TLS %v: %.80q: got %q, want %q", tt.clause, secure, command, got, replies[i])
					break
				}
			}
		}
	}
}

// unquoted takes every spelling of bob for bob.
func unquoted(verify func(context.Context, address.Path) error) func(context.Context, address.Path) error {
	return func(ctx context.Context, p address.Path) error {
		p.Local = strings.ReplaceAll(p.Local, `"`, "")
		return verify(ctx, p)
	}
}

// TestReplies: a reply has an enhanced code of its class in each of its lines, but for the greeting, EHLO, HELO and what is said before data (RFC 2034 4), and no line
// is longer than 512 octets (RFC 5321 4.5.3.1.5).
func TestReplies(t *testing.T) {
	h := newHost(t)
	h.Hostname = strings.Repeat(strings.Repeat("d", 61)+".", 4) + "tld"
	h.Submission = true
	raw, err := net.Dial("tcp", h.serve())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { raw.Close() })
	conn := &client{t: t, conn: raw, r: bufio.NewReader(raw)}
	for _, command := range []string{"", "EHLO x", "HELO x", "NOOP", "RSET", "VRFY x", "HELP", "FOO", "EXPN", "MAIL", "STARTTLS x", "AUTH PLAIN", "DATA", "BDAT 0", "RCPT TO:<x>", "EHLO " + strings.Repeat("x", 300),
		"EHLO " + strings.Repeat("x", 5000), "MAIL FROM:<" + strings.Repeat("x", 300) + ">", "STARTTLS", "TLS", "EHLO x", "AUTH PLAIN", "*", "AUTH PLAIN AGJvYgBzZWNyZXQ=", "MAIL FROM:<bob@own.example>", "RCPT TO:<bob@own.example>", "DATA",
		"\r\n.", "QUIT"} {
		if command == "TLS" {
			conn.handshake()
			continue
		}
		if command != "" {
			conn.send(command + "\r\n")
		}
		verb, _, _ := strings.Cut(command, " ")
		for line := range strings.SplitSeq(conn.reply(), "\n") {
			bare := command == "" || (verb == "EHLO" || verb == "HELO") && strings.HasPrefix(line, "250") || strings.HasPrefix(line, "3")
			enhanced := len(line) > 9 && line[4] == line[0] && line[5] == '.' && line[7] == '.'
			if len(line) < 4 || len(line) > 510 || enhanced == bare {
				t.Errorf("%.40q: line %q", command, line)
			}
		}
	}
}
