package smtpserver

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/postel-mail/postel/internal/address"
	"github.com/postel-mail/postel/internal/envelope"
	"github.com/postel-mail/postel/internal/status"
)

// syntax makes a 501.
func syntax(enhanced, text string, cause error) error {
	return status.Permanent(501, enhanced, text, cause)
}

func (s *session) doMAIL(arg string) error {
	switch {
	case s.helo == "":
		return errNoGreet
	case s.env != nil:
		s.refuse(errSequence, nil, nil) // the sender that is known is another
		return nil
	}
	path, ok := cutFold(arg, "FROM:")
	if !ok {
		return syntax("5.5.4", "Syntax: MAIL FROM:<address>", nil)
	}
	from, rest, err := address.ParseReverse(path)
	if err != nil {
		return syntax("5.1.7", "Bad sender address", fmt.Errorf("%w: %.300q", err, path))
	}
	e := &envelope.Envelope{From: from, Client: s.guard.Client(), Auth: s.login, UID: s.guard.UID()}
	err = params(rest, false, func(name, value string) error { return s.mailParam(e, name, value) })
	if err == nil {
		err = checkUTF8(e, from)
	}
	if err == nil {
		err = s.mayBegin()
	}
	if err == nil {
		err = s.maySend(from)
	}
	if err == nil {
		err = s.rated(450, "messages", s.srv.Rates.Messages)
	}
	if err != nil {
		s.refuse(err, &from, nil)
		return nil
	}
	s.env = e
	s.ok("2.1.0", "Ok")
	return nil
}

func (s *session) doRCPT(arg string) error {
	if s.env == nil || s.xfer != nil {
		return errSequence
	}
	path, ok := cutFold(arg, "TO:")
	if !ok {
		return syntax("5.5.4", "Syntax: RCPT TO:<address>", nil)
	}
	to, rest, err := address.ParseForward(path)
	if err != nil {
		return syntax("5.1.3", "Bad recipient address", fmt.Errorf("%w: %.300q", err, path))
	}
	r := envelope.Recipient{To: to}
	err = params(rest, s.env.SMTPUTF8, func(name, value string) error { return rcptParam(&r, name, value) })
	if err == nil {
		err = checkUTF8(s.env, to)
	}
	if err == nil && len(s.env.Rcpts) >= s.srv.MaxRecipients {
		err = status.Temporary(452, "4.5.3", "Too many recipients", nil)
		if s.over++; s.over <= maxOver {
			s.errors--
		}
	}
	if err == nil {
		err = s.rated(450, "recipients", s.srv.Rates.Recipients)
	}
	if err == nil {
		err = s.screened(to)
	}
	if err == nil {
		err = s.mayAdd(1)
	}
	if err == nil {
		r.To, err = s.recipient(to)
	}
	if err == nil {
		err = s.greylist(r.To)
	}
	if err != nil {
		s.refuse(err, &s.env.From, &to)
		return nil
	}
	if slices.Contains(s.env.Rcpts, r) { // said twice is meant once
		s.idle++
	} else {
		s.env.Rcpts = append(s.env.Rcpts, r)
		s.rcpts++
	}
	s.ok("2.1.5", "Ok")
	return nil
}

// cutFold cuts a keyword from the front of an argument. Blanks behind the colon are not in the grammar, and old clients send them.
func cutFold(arg, keyword string) (rest string, ok bool) {
	if len(arg) < len(keyword) || !strings.EqualFold(arg[:len(keyword)], keyword) {
		return "", false
	}
	return strings.TrimLeft(arg[len(keyword):], " \t"), true
}

// checkUTF8 holds an address against what MAIL asked for (RFC 6531 3.4).
func checkUTF8(e *envelope.Envelope, p address.Path) error {
	if !e.SMTPUTF8 && !p.IsASCII() {
		return status.Permanent(553, "5.6.7", "The address needs SMTPUTF8", nil)
	}
	return nil
}

// params gives do each ESMTP parameter behind a path, its name in upper case, value "" where there is none. raw says that values may be
// UTF-8 (RFC 6533 3).
func params(s string, raw bool, do func(name, value string) error) error {
	if s == "" {
		return nil
	}
	if s[0] != ' ' && s[0] != '\t' {
		return syntax("5.5.4", "Unexpected characters behind the address", nil)
	}
	var seen []string
	for _, word := range strings.FieldsFunc(s, func(r rune) bool { return r == ' ' || r == '\t' }) {
		name, value, has := strings.Cut(word, "=")
		name = strings.ToUpper(name)
		if !validParam(name, value, raw) || has && value == "" || slices.Contains(seen, name) {
			return syntax("5.5.4", "Malformed or repeated parameter", nil)
		}
		seen = append(seen, name)
		if err := do(name, value); err != nil {
			return err
		}
	}
	return nil
}

// validParam checks the grammar of esmtp-param (RFC 5321 4.1.2).
func validParam(name, value string, raw bool) bool {
	if name == "" {
		return false
	}
	for i := range len(name) {
		if c := name[i]; !(c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' && i > 0) {
			return false
		}
	}
	for i := range len(value) {
		if c := value[i]; c <= ' ' || c == 0x7f || c == '=' || c > 0x7f && !raw {
			return false
		}
	}
	return utf8.ValidString(value)
}

// unknownParam is the answer to a parameter or value that was not offered (RFC 5321 4.1.1.11).
func unknownParam(name string) error {
	return status.Permanent(555, "5.5.4", "Parameter not recognized or not implemented", fmt.Errorf("%.100s", name))
}

func (s *session) mailParam(e *envelope.Envelope, name, value string) (err error) {
	bad := syntax("5.5.4", "Bad value of "+name, nil)
	switch name {
	case "SIZE": // RFC 1870
		if len(value) > 20 || strings.Trim(value, "0123456789") != "" || value == "" {
			return bad
		}
		if n, err := strconv.ParseInt(value, 10, 64); err != nil || n > s.srv.MaxSize {
			return tooLarge(s.srv.MaxSize, fmt.Errorf("SIZE=%s", value))
		}
	case "BODY": // RFC 6152, RFC 3030
		switch e.Body = strings.ToUpper(value); e.Body {
		case "8BITMIME", "BINARYMIME":
		case "7BIT":
			e.Body = ""
		default:
			return bad
		}
	case "SMTPUTF8":
		if e.SMTPUTF8 = true; value != "" {
			return bad
		}
	case "REQUIRETLS": // RFC 8689
		if s.tls == nil {
			return unknownParam(name)
		}
		if e.RequireTLS = true; value != "" {
			return bad
		}
	case "RET": // RFC 3461
		if e.Ret = strings.ToUpper(value); e.Ret != "FULL" && e.Ret != "HDRS" {
			return bad
		}
	case "ENVID":
		if e.EnvID, err = envelope.DecodeXtext(value); err != nil || !printable(e.EnvID, 100) {
			return bad
		}
	case "XWAIT": // sendmail --wait
		if !s.mayWait() {
			return unknownParam(name)
		}
		if e.Wait = value; !envelope.ValidWait(value) {
			return bad
		}
	case "AUTH": // RFC 4954 5: nobody here is trusted to say it for another, so it is read and dropped
		if len(s.mechanisms()) == 0 {
			return unknownParam(name)
		}
		if _, err := envelope.DecodeXtext(value); err != nil || value == "" {
			return bad
		}
	default:
		return unknownParam(name)
	}
	return nil
}

func rcptParam(r *envelope.Recipient, name, value string) (err error) {
	bad := syntax("5.5.4", "Bad value of "+name, nil)
	switch name {
	case "NOTIFY":
		if r.Notify, err = envelope.ParseNotify(value); err != nil {
			return bad
		}
	case "ORCPT":
		if r.ORcpt, err = decodeORcpt(value); err != nil {
			return bad
		}
	default:
		return unknownParam(name)
	}
	return nil
}

// decodeORcpt reads "type;xtext" (RFC 3461 4.2). An address of type utf-8 has an encoding of its own, and may stand there raw (RFC 6533 3).
func decodeORcpt(value string) (string, error) {
	kind, addr, ok := strings.Cut(value, ";")
	if !ok || kind == "" || addr == "" {
		return "", errors.New("not of the form type;address")
	}
	kind = strings.ToLower(kind)
	decode, fit := envelope.DecodeXtext, printable
	if kind == envelope.UTF8Type {
		decode, fit = envelope.DecodeUnitext, printableUTF8
	}
	addr, err := decode(addr)
	if err == nil && !(printable(kind, 50) && fit(addr, 450)) {
		err = errors.New("not printable, or too long")
	}
	return kind + ";" + addr, err
}

// printableUTF8 reports whether s is 1 to max octets of UTF-8 without control characters.
func printableUTF8(s string, max int) bool {
	return s != "" && len(s) <= max && utf8.ValidString(s) && !strings.ContainsFunc(s, unicode.IsControl)
}

// printable reports whether s is 1 to max octets of printable ASCII.
func printable(s string, max int) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] >= 0x7f {
			return false
		}
	}
	return s != "" && len(s) <= max
}
