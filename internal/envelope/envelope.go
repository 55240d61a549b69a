// Package envelope is what SMTP says about a message besides its content (RFC 5321 2.3.1): who sent it, who is to get it,
// and the parameters that travel along; and the text form in which the queue keeps it, postel-queue(5).
//
// The text form is a block of "Name: value" lines and an empty line. A person can read it; a program refuses what it does not
// know, since an unknown line may be a promise it cannot keep.
package envelope

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/postel-mail/postel/internal/address"
)

// Envelope is the envelope of one message.
type Envelope struct {
	ID       string    // queue id; set by the queue
	Arrival  time.Time // UTC; set by the queue
	From     address.Path
	Ret      string // RFC 3461 RET: "", "FULL", "HDRS"
	EnvID    string // RFC 3461 ENVID, decoded; printable ASCII, 100 octets at most
	Body     string // RFC 6152, 3030: "" (7BIT), "8BITMIME", "BINARYMIME"
	SMTPUTF8 bool   // RFC 6531
	// RequireTLS is RFC 8689's REQUIRETLS: it goes on over TLS with a proven server that keeps to this too, or not at all.
	RequireTLS bool
	Client     string // who handed it over: an address, "unix" or "local"; for the log and the report
	Auth       string // login name, or ""
	UID        int    // of the local submitter, or -1
	Wait       string // the name under which the submitter waits for the outcome, see queue.Waiter; or ""
	Rcpts      []Recipient
}

// Recipient is one RCPT command.
type Recipient struct {
	To     address.Path
	Notify string // RFC 3461 NOTIFY as "NEVER" or a comma list of SUCCESS, FAILURE, DELAY; "" where not given
	ORcpt  string // RFC 3461 ORCPT, decoded: "rfc822;name@domain", or "utf-8;" and UTF-8 (RFC 6533 3); "" where not given
}

// TimeLayout is the form of times in the queue's files: RFC 3339, UTC, microseconds.
const TimeLayout = "2006-01-02T15:04:05.000000Z"

const maxLine = 2048 // octets of one line of the block; the longest has an address and a decoded ORCPT

// AppendText appends the lines of the envelope without the empty line at the end.
func (e *Envelope) AppendText(b []byte) []byte {
	line := func(name, value string) {
		b = append(b, name...)
		b = append(b, ": "...)
		b = append(b, value...)
		b = append(b, '\n')
	}
	line("Id", e.ID)
	line("Arrival", e.Arrival.UTC().Format(TimeLayout))
	line("From", e.From.Angle())
	if e.Ret != "" {
		line("Ret", e.Ret)
	}
	if e.EnvID != "" {
		line("Envid", EncodeXtext(e.EnvID))
	}
	if e.Body != "" {
		line("Body", e.Body)
	}
	if e.SMTPUTF8 {
		line("Smtputf8", "yes")
	}
	if e.RequireTLS {
		line("Requiretls", "yes")
	}
	if e.Client != "" {
		line("Client", EncodeXtext(e.Client))
	}
	if e.Auth != "" {
		line("Auth", EncodeXtext(e.Auth))
	}
	if e.UID >= 0 {
		line("Uid", strconv.Itoa(e.UID))
	}
	if e.Wait != "" {
		line("Wait", e.Wait)
	}
	for _, r := range e.Rcpts {
		v := r.To.Angle()
		if r.Notify != "" {
			v += " NOTIFY=" + r.Notify
		}
		if r.ORcpt != "" {
			v += " ORCPT=" + EncodeXtext(r.ORcpt)
		}
		line("To", v)
	}
	return b
}

// Read reads the lines that AppendText wrote, and the empty line behind them.
func Read(r *bufio.Reader) (*Envelope, error) {
	e := &Envelope{UID: -1}
	seen := map[string]bool{}
	for {
		s, err := readLine(r)
		if err != nil {
			return nil, err
		}
		if s == "" {
			break
		}
		name, value, ok := strings.Cut(s, ": ")
		if !ok || seen[name] && name != "To" {
			return nil, fmt.Errorf("envelope: bad line %q", s)
		}
		seen[name] = true
		if err := e.set(name, value); err != nil {
			return nil, fmt.Errorf("envelope: line %q: %w", s, err)
		}
	}
	for _, name := range []string{"Id", "Arrival", "From", "To"} {
		if !seen[name] {
			return nil, fmt.Errorf("envelope: no line %q", name)
		}
	}
	return e, nil
}

func readLine(r *bufio.Reader) (string, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		line = append(line, part...)
		if len(line) > maxLine {
			return "", errors.New("envelope: line too long")
		}
		if err == nil {
			return string(line[:len(line)-1]), nil
		}
		if err != bufio.ErrBufferFull {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return "", fmt.Errorf("envelope: %w", err)
		}
	}
}

func (e *Envelope) set(name, value string) (err error) {
	switch name {
	case "Id":
		e.ID = value
	case "Arrival":
		e.Arrival, err = time.Parse(TimeLayout, value)
	case "From":
		var rest string
		if e.From, rest, err = address.ParseReverse(value); err == nil && rest != "" {
			err = errors.New("text behind the address")
		}
	case "Ret":
		if e.Ret = value; value != "FULL" && value != "HDRS" {
			err = errors.New("neither FULL nor HDRS")
		}
	case "Envid":
		e.EnvID, err = DecodeXtext(value)
	case "Body":
		if e.Body = value; value != "8BITMIME" && value != "BINARYMIME" {
			err = errors.New("unknown body type")
		}
	case "Smtputf8":
		if e.SMTPUTF8 = value == "yes"; !e.SMTPUTF8 {
			err = errors.New("not yes")
		}
	case "Requiretls":
		if e.RequireTLS = value == "yes"; !e.RequireTLS {
			err = errors.New("not yes")
		}
	case "Client":
		e.Client, err = DecodeXtext(value)
	case "Auth":
		e.Auth, err = DecodeXtext(value)
	case "Uid":
		if e.UID, err = strconv.Atoi(value); err == nil && e.UID < 0 {
			err = errors.New("negative")
		}
	case "Wait":
		if e.Wait = value; !ValidWait(value) {
			err = errors.New("not a name")
		}
	case "To":
		var r Recipient
		if r, err = parseRecipient(value); err == nil {
			e.Rcpts = append(e.Rcpts, r)
		}
	default:
		err = errors.New("unknown name")
	}
	return err
}

// ValidWait reports whether s has the form of an Envelope's Wait: a file name, and nothing else.
func ValidWait(s string) bool {
	return len(s) >= 16 && len(s) <= 64 && strings.Trim(s, "0123456789abcdefghijklmnopqrstuvwxyz") == ""
}

func parseRecipient(value string) (r Recipient, err error) {
	var rest string
	if r.To, rest, err = address.ParseForward(value); err != nil {
		return r, err
	}
	for _, param := range strings.Fields(rest) {
		name, v, _ := strings.Cut(param, "=")
		switch name {
		case "NOTIFY":
			r.Notify, err = ParseNotify(v)
		case "ORCPT":
			r.ORcpt, err = DecodeXtext(v)
		default:
			err = errors.New("unknown parameter")
		}
		if err != nil {
			return r, err
		}
	}
	return r, nil
}

// ParseNotify checks a value of NOTIFY (RFC 3461 4.1) and gives it in upper case.
func ParseNotify(s string) (string, error) {
	s = strings.ToUpper(s)
	if s == "NEVER" {
		return s, nil
	}
	seen := ""
	for word := range strings.SplitSeq(s, ",") {
		if (word != "SUCCESS" && word != "FAILURE" && word != "DELAY") || strings.Contains(seen, word) {
			return "", errors.New("NOTIFY is NEVER, or SUCCESS, FAILURE and DELAY, each once")
		}
		seen += word
	}
	return s, nil
}

// Wants reports whether the recipient asked for a report about event, one of "SUCCESS", "FAILURE", "DELAY". Without NOTIFY,
// failures and delays are reported (RFC 3461 4.1).
func (r Recipient) Wants(event string) bool {
	if r.Notify == "" {
		return event != "SUCCESS"
	}
	return strings.Contains(r.Notify, event)
}

// EncodeXtext writes s as xtext (RFC 3461 4): printable ASCII but "+" and "=" as it is, everything else as +XX.
func EncodeXtext(s string) string {
	plain := true
	for i := range len(s) {
		if !isXchar(s[i]) {
			plain = false
			break
		}
	}
	if plain {
		return s
	}
	var b strings.Builder
	for i := range len(s) {
		if isXchar(s[i]) {
			b.WriteByte(s[i])
		} else {
			fmt.Fprintf(&b, "+%02X", s[i])
		}
	}
	return b.String()
}

func isXchar(c byte) bool { return c > ' ' && c < 0x7f && c != '+' && c != '=' }

// DecodeXtext reads xtext (RFC 3461 4).
func DecodeXtext(s string) (string, error) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c == '+' {
			if i+2 >= len(s) || !isUpperHex(s[i+1]) || !isUpperHex(s[i+2]) {
				return "", errors.New("malformed xtext")
			}
			n, _ := strconv.ParseUint(s[i+1:i+3], 16, 8)
			c = byte(n)
			i += 2
		} else if !isXchar(c) {
			return "", errors.New("malformed xtext")
		}
		b.WriteByte(c)
	}
	return b.String(), nil
}

func isUpperHex(c byte) bool { return c >= '0' && c <= '9' || c >= 'A' && c <= 'F' }
