package smtpclient

import (
	"strconv"
	"strings"

	"github.com/postel-mail/postel/internal/envelope"
)

// appendCommand writes the n-th command of the envelope: MAIL, RCPT for those who are asked, DATA.
func (t *transaction) appendCommand(b []byte, n int) []byte {
	switch {
	case n == 0:
		b = t.appendMail(b)
	case n <= len(t.asked):
		b = t.appendRcpt(b, t.asked[n-1])
	default:
		b = append(b, "DATA"...)
	}
	return append(b, "\r\n"...)
}

func (t *transaction) appendMail(b []byte) []byte {
	c, e := t.c, t.e
	b = append(append(b, "MAIL FROM:"...), t.from...)
	if c.offers("SIZE") {
		b = strconv.AppendInt(append(b, " SIZE="...), t.message.length(), 10)
	}
	switch {
	case t.message.binary:
		b = append(b, " BODY=BINARYMIME"...)
	case t.message.eight:
		b = append(b, " BODY=8BITMIME"...)
	}
	if t.utf8 {
		b = append(b, " SMTPUTF8"...)
	}
	if e.RequireTLS && c.RequireTLS() {
		b = append(b, " REQUIRETLS"...)
	}
	if !c.DSN() && !c.XDSN() {
		return b
	}
	if e.Ret == "FULL" || e.Ret == "HDRS" {
		b = append(append(b, " RET="...), e.Ret...)
	}
	envID := e.EnvID
	if c.XDSN() {
		envID = e.DSN(envelope.Recipient{}).Valid().EnvID
	}
	if envID != "" {
		b = append(append(b, " ENVID="...), envelope.EncodeXtext(envID)...)
	}
	return b
}

func (t *transaction) appendRcpt(b []byte, i int) []byte {
	b = append(append(b, "RCPT TO:"...), t.to[i]...)
	if !t.c.DSN() && !t.c.XDSN() {
		return b
	}
	r := t.rcpts[i]
	if t.c.XDSN() && !plainORcpt(t.e.DSN(r)) {
		r.ORcpt = ""
	}
	if notify, err := envelope.ParseNotify(r.Notify); err == nil {
		b = append(append(b, " NOTIFY="...), notify...)
	}
	if orcpt := envelope.EncodeORcpt(r.ORcpt); orcpt != "" {
		b = append(append(b, " ORCPT="...), orcpt...)
	}
	return b
}

// plainORcpt reports whether a server with XDSN takes the ORCPT: it knows two types of addresses, and would refuse the recipient for another one.
func plainORcpt(d envelope.DSN) bool {
	kind, _, _ := strings.Cut(d.Valid().ORcpt, ";")
	return strings.EqualFold(kind, "rfc822") || kind == envelope.UTF8Type
}

// appendBDAT writes the command whose chunk is the whole message.
func (t *transaction) appendBDAT(b []byte) []byte {
	return append(strconv.AppendInt(append(b, "BDAT "...), t.message.length(), 10), " LAST\r\n"...)
}
