// Package status is the outcome of one step for one recipient, in the words of SMTP: a reply code
// (RFC 5321 4.2), an enhanced code (RFC 3463), a text for the peer, and apart from that the cause,
// which goes to the log alone.
//
// Success is a nil *Error. What nobody has judged is temporary: mail is never lost or bounced
// because a program did not understand what happened to it.
package status

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Error is a failed outcome. It is an error, and the only one that crosses from the services to
// the rooms with a meaning beyond "it went wrong".
type Error struct {
	Code     int    // SMTP reply code, 400 to 599
	Enhanced string // RFC 3463 code, as "5.1.1"; its class is that of Code
	Text     string // what the peer hears: one line of printable ASCII, no inner detail
	Err      error  // what the log says besides; nil when Text says it all
}

// Temporary makes an outcome that asks the sender to try again.
func Temporary(code int, enhanced, text string, cause error) *Error {
	return &Error{Code: code, Enhanced: enhanced, Text: text, Err: cause}
}

// Permanent makes an outcome that is final.
func Permanent(code int, enhanced, text string, cause error) *Error {
	return &Error{Code: code, Enhanced: enhanced, Text: text, Err: cause}
}

// Of finds the outcome in an error chain. An error without one becomes 451 4.3.0, a local problem
// that may pass; nil stays nil.
func Of(err error) *Error {
	if err == nil {
		return nil
	}
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return &Error{Code: 451, Enhanced: "4.3.0", Text: "Local error in processing, try again later", Err: err}
}

// Temporary reports whether the sender may try again.
func (e *Error) Temporary() bool { return e.Code < 500 }

// Reply is the outcome as the peer reads it, without line end: "550 5.1.1 No such user".
func (e *Error) Reply() string {
	return strconv.Itoa(e.Code) + " " + e.Enhanced + " " + e.Text
}

// Cause is the outcome as the log says it: the cause where there is one, else the text.
func (e *Error) Cause() string {
	if e.Err != nil {
		return e.Err.Error()
	}
	return e.Text
}

// Error gives code, text and cause in one line.
func (e *Error) Error() string {
	if e.Err != nil {
		return e.Reply() + ": " + e.Err.Error()
	}
	return e.Reply()
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// ParseReply reads an outcome from the lines of a peer's reply, each without its code: the enhanced code is
// taken from the start of the text when its class fits, and made up from code (x.0.0) otherwise.
// A code below 400 gives an Error all the same; the caller judges. The text is cleaned for one line.
func ParseReply(code int, lines []string) *Error {
	class := code / 100
	enhanced := fmt.Sprintf("%d.0.0", class)
	var texts []string
	for i, line := range lines {
		if e, rest, ok := CutEnhanced(line); ok && int(e[0]-'0') == class {
			if i == 0 {
				enhanced = e
			}
			line = rest
		}
		if line = Clean(line); line != "" {
			texts = append(texts, line)
		}
	}
	return &Error{Code: code, Enhanced: enhanced, Text: strings.Join(texts, " ")}
}

// CutEnhanced splits "5.1.1 text" into "5.1.1" and "text" (RFC 2034 4); ok is false when s does not begin so.
func CutEnhanced(s string) (enhanced, rest string, ok bool) {
	enhanced, rest, _ = strings.Cut(s, " ")
	parts := strings.Split(enhanced, ".")
	if len(parts) != 3 || (parts[0] != "2" && parts[0] != "4" && parts[0] != "5") {
		return "", s, false
	}
	for _, p := range parts[1:] {
		if n, err := strconv.ParseUint(p, 10, 16); err != nil || n > 999 {
			return "", s, false
		}
	}
	return enhanced, rest, true
}

// maxText bounds what is kept of a peer's text.
const maxText = 900

// Clean makes a peer's text fit for one line of a reply, a log or a report: control bytes and what is
// not valid UTF-8 become "?", and it is cut at 900 octets.
func Clean(s string) string {
	if len(s) > maxText {
		s = s[:maxText]
	}
	s = strings.ToValidUTF8(s, "?")
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || (r >= 0x80 && r < 0xa0) || r == '\u2028' || r == '\u2029' {
			return '?'
		}
		return r
	}, s)
	return strings.TrimSpace(s)
}
