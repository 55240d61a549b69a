package main

import (
	"os"
	"testing"
)

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
