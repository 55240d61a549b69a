package main

import (
	"os"
	"testing"

	"github.com/postel-mail/postel/internal/config"
)

// TestBoundsForTokens: a program that gives a token for the next hop could not be run by a server that is confined.
func TestBoundsForTokens(t *testing.T) {
	for _, tt := range []struct {
		verify, line string
		want         bool
	}{{"true", "hop user secret", false}, {"true", "hop user {TOKEN}/bin/token", true}, {"false", "hop user {TOKEN}/bin/token", false}} {
		h := newHost(t)
		h.write("credentials", tt.line+"\n")
		h.configure("smtpd.verify_relay = " + tt.verify + "\nsmtp.credentials = \"" + h.dir + "/credentials\"")
		c, err := config.Load(h.config())
		if err != nil {
			t.Fatal(err)
		}
		if got := (&smtpd{}).bounds(c).Programs; got != tt.want {
			t.Errorf("verify_relay %s, %q: got %v", tt.verify, tt.line, got)
		}
	}
}

// TestVerifyWithoutLedger: where the ledger cannot be used, the next hop is still asked, and recipients whom nobody knows are not taken.
func TestVerifyWithoutLedger(t *testing.T) {
	h := newHost(t)
	h.configure("relay_domains = [\"back.example\"]\nsmtpd.verify_relay = true\nroutes.\"back.example\" = \"smtp://127.0.0.1:1\"")
	if err := os.Mkdir(h.dir+"/spool", 0o700); err != nil {
		t.Fatal(err)
	}
	h.write("spool/ledger", "not a directory")
	c := h.start().dial()
	c.do("EHLO x", "250")
	c.do("MAIL FROM:<>", "250")
	c.do("RCPT TO:<who@back.example>", "450")
}
