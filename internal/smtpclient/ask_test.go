package smtpclient

import (
	"context"
	"testing"
)

// TestAsk: what a server says of a recipient who is only asked about, and what of it is about that recipient.
func TestAsk(t *testing.T) {
	const hello = "S: 220 mx.example\nC: EHLO me.example\nS: 250-mx.example\nS: 250 SMTPUTF8\n"
	const plain = "S: 220 mx.example\nC: EHLO me.example\nS: 250 mx.example\n"
	for _, tt := range []struct{ name, to, script, want string }{
		{"yes", "bob@x.example", plain + "C: MAIL FROM:<>\nS: 250 ok\nC: RCPT TO:<bob@x.example>\nS: 250 2.1.5 he is here\nC: RSET\nS: 250 ok\n", "250 2.1.5 he is here"},
		{"no", "bob@x.example", plain + "C: MAIL FROM:<>\nS: 250 ok\nC: RCPT TO:<bob@x.example>\nS: 550 5.1.1 who?\nC: RSET\nS: 250 ok\n", "550 5.1.1 who?"},
		{"later", "bob@x.example", plain + "C: MAIL FROM:<>\nS: 250 ok\nC: RCPT TO:<bob@x.example>\nS: 450 4.2.1 busy\nC: RSET\nS: 250 ok\n", "450 4.2.1 busy"},
		{"MAIL is refused for good", "bob@x.example", plain + "C: MAIL FROM:<>\nS: 550 5.7.1 no reports\n", "451 4.7.1 MAIL refused: 550 5.7.1 no reports (ours)"},
		{"it goes", "bob@x.example", plain + "C: MAIL FROM:<>\nS: 421 4.3.2 bye\n", "421 4.3.2 bye (ours) (unsent)"},
		{"nonsense", "bob@x.example", plain + "C: MAIL FROM:<>\nS: 250 ok\nC: RCPT TO:<bob@x.example>\nS: 354 go on\nC: RSET\nS: 250 ok\n", "451 4.5.0 The server broke the protocol at RCPT (ours)"},
		{"UTF-8", "bøb@x.example", hello + "C: MAIL FROM:<> SMTPUTF8\nS: 250 ok\nC: RCPT TO:<bøb@x.example>\nS: 250 ok\nC: RSET\nS: 250 ok\n", "250 ok"},
		{"no UTF-8", "bøb@x.example", plain, "553 5.6.7 The server does not offer SMTPUTF8, which the address needs (ours)"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := open(t, play(t, tt.script), Options{})
			if got := summary(c.Ask(context.Background(), path(t, tt.to))); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}
