package smtpclient

import (
	"context"
	"strings"
	"testing"

	"github.com/postel-mail/postel/internal/envelope"
)

// TestXDSN: a server of LMTP that keeps requests for what it sends on gets them, but for what it would refuse; one of SMTP does not.
func TestXDSN(t *testing.T) {
	const requests = " NOTIFY=SUCCESS ORCPT="
	for _, tt := range []struct {
		name, offer    string
		lmtp           bool
		envID, orcpt   string
		mail, rcpt     string
		dsn, takesXDSN bool
	}{
		{"XDSN", "XDSN", true, "x+", "rfc822;o=@b.example", " RET=HDRS ENVID=x+2B", requests + "rfc822;o+3D@b.example", false, true},
		{"utf-8", "XDSN", true, "", "utf-8;ø@b.example", " RET=HDRS", requests + `utf-8;\x{F8}@b.example`, false, true},
		{"another type", "XDSN", true, "", "x400;/c=us", " RET=HDRS", " NOTIFY=SUCCESS", false, true},
		{"malformed", "XDSN", true, strings.Repeat("x", 101), "rfc822;o\n", " RET=HDRS", " NOTIFY=SUCCESS", false, true},
		{"SMTP", "XDSN", false, "x", "rfc822;o@b.example", "", "", false, false},
		{"DSN as well", "XDSN\\r\\n250-DSN", true, "x", "x400;/c=us", " RET=HDRS ENVID=x", requests + "x400;/c+3Dus", true, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			script := "S: 220 mx.example ready\nC. LHLO me.example\n"
			if !tt.lmtp {
				script = hello
			}
			script += `S| "250-mx.example\r\n250-` + tt.offer + `\r\n250 HELP\r\n"` + "\nC. MAIL FROM:<a@a.example>" + tt.mail +
				"\nS: 250 ok\nC. RCPT TO:<b@b.example>" + tt.rcpt + "\nS: 250 ok\nC. DATA\nS: 354 go\nC: Subject: x\nC:\nC. .\nS: 250 ok"
			e := mail(t, "a@a.example", "b@b.example")
			e.Ret, e.EnvID = "HDRS", tt.envID
			e.Rcpts[0].Notify, e.Rcpts[0].ORcpt = "SUCCESS", tt.orcpt
			c := open(t, play(t, script), Options{LMTP: tt.lmtp})
			defer c.Close()
			if c.DSN() != tt.dsn || c.XDSN() != tt.takesXDSN {
				t.Errorf("DSN %v, XDSN %v", c.DSN(), c.XDSN())
			}
			if got := summaries(c.Send(context.Background(), Mail{Envelope: e, Rcpts: []envelope.Recipient{e.Rcpts[0]}, Body: text("Subject: x\r\n\r\n")})); got != "250 ok" {
				t.Errorf("got %s", got)
			}
		})
	}
}
