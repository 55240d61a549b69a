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
	if !c.DSN() {
		return b
	}
	if e.Ret == "FULL" || e.Ret == "HDRS" {
		b = append(append(b, " RET="...), e.Ret...)
	}
	if e.EnvID != "" {
		b = append(append(b, " ENVID="...), envelope.EncodeXtext(e.EnvID)...)
	}
	return b
}

func (t *transaction) appendRcpt(b []byte, i int) []byte {
	b = append(append(b, "RCPT TO:"...), t.to[i]...)
	if !t.c.DSN() {
		return b
	}
	r := t.rcpts[i]
	if notify, err := envelope.ParseNotify(r.Notify); err == nil {
		b = append(append(b, " NOTIFY="...), notify...)
	}
	if kind, addr, ok := strings.Cut(r.ORcpt, ";"); ok {
		b = append(append(b, " ORCPT="...), envelope.EncodeXtext(kind)...)
		encode := envelope.EncodeXtext
		if kind == envelope.UTF8Type {
			encode = envelope.EncodeUnitext
		}
		b = append(append(b, ';'), encode(addr)...)
	}
	return b
}

// appendBDAT writes the command whose chunk is the whole message.
func (t *transaction) appendBDAT(b []byte) []byte {
	return append(strconv.AppendInt(append(b, "BDAT "...), t.message.length(), 10), " LAST\r\n"...)
}
