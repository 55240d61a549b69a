package smtpserver

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/postel-mail/postel/internal/status"
)

// verbs are the commands. A handler answers and returns nil, or returns the refusal.
var verbs = map[string]func(s *session, arg string) error{
	"HELO":     (*session).doHELO,
	"EHLO":     (*session).doEHLO,
	"MAIL":     (*session).doMAIL,
	"RCPT":     (*session).doRCPT,
	"DATA":     (*session).doDATA,
	"BDAT":     (*session).doBDAT,
	"RSET":     (*session).doRSET,
	"NOOP":     (*session).doNOOP,
	"QUIT":     (*session).doQUIT,
	"VRFY":     (*session).doVRFY,
	"HELP":     (*session).doHELP,
	"STARTTLS": (*session).doSTARTTLS,
	"AUTH":     (*session).doAUTH,
	"XCLIENT":  (*session).doXCLIENT,
}

// known are commands that are understood and not implemented.
var known = map[string]bool{"EXPN": true, "ETRN": true, "TURN": true, "ATRN": true, "SEND": true, "SOML": true, "SAML": true}

// foreign are the first words of HTTP, which a browser can be made to send here with SMTP in the body.
var foreign = map[string]bool{"GET": true, "POST": true, "HEAD": true, "PUT": true, "DELETE": true, "OPTIONS": true, "CONNECT": true, "PATCH": true, "TRACE": true}

// Refusals that many commands share.
var (
	errSequence  = status.Permanent(503, "5.5.1", "Bad sequence of commands", nil)
	errNoGreet   = status.Permanent(503, "5.5.1", "Say EHLO first", nil)
	errArguments = status.Permanent(501, "5.5.4", "No arguments allowed", nil)
)

// dispatch runs one command.
func (s *session) dispatch(line string) error {
	verb, arg, _ := strings.Cut(line, " ")
	verb = strings.ToUpper(strings.TrimRight(verb, " \t"))
	arg = strings.Trim(arg, " \t") // RFC 5321 4.1.1: trailing white space is tolerated
	for i := range len(line) {
		if line[i] < ' ' && line[i] != '\t' || line[i] == 0x7f {
			return status.Permanent(501, "5.5.2", "Control character in a command", nil)
		}
	}
	handler := verbs[verb]
	switch {
	case handler == nil && verb == "PROXY": // of a proxy that smtpd.proxy_networks leaves out: it would lend the client its own rights
		s.end("PROXY header of a client that is not in smtpd.proxy_networks")
		return status.Permanent(500, "5.5.1", "No PROXY header is expected from you", nil)
	case handler == nil && foreign[verb]:
		s.end("HTTP")
		return status.Permanent(500, "5.5.1", "This is SMTP", nil)
	case handler == nil && known[verb]:
		s.idle++
		return status.Permanent(502, "5.5.1", "Command not implemented", nil)
	case handler == nil:
		s.idle++
		return status.Permanent(500, "5.5.1", "Command not recognized", nil)
	}
	if verb != "RCPT" && verb != "DATA" && verb != "BDAT" {
		s.idle++
	}
	return handler(s, arg)
}

func (s *session) doHELO(arg string) error {
	if err := s.greet(arg); err != nil {
		return err
	}
	s.esmtp = false
	s.reply(250, "", s.srv.Hostname)
	return nil
}

func (s *session) doEHLO(arg string) error {
	if err := s.greet(arg); err != nil {
		return err
	}
	s.esmtp = true
	lines := []string{
		s.srv.Hostname,
		"PIPELINING",
		"SIZE " + strconv.FormatInt(s.srv.MaxSize, 10),
		"8BITMIME",
		"SMTPUTF8",
		"DSN",
		"CHUNKING",
		"BINARYMIME",
		"LIMITS RCPTMAX=" + strconv.Itoa(min(s.srv.MaxRecipients, 999_999)), // of six digits at most (RFC 9422 4)
	}
	if s.tls != nil {
		lines = append(lines, "REQUIRETLS") // RFC 8689 2: nowhere else
	}
	if s.srv.TLS != nil && s.tls == nil {
		lines = append(lines, "STARTTLS")
	}
	if names := s.mechanisms(); len(names) > 0 {
		lines = append(lines, "AUTH "+strings.Join(names, " "))
	}
	if s.mayWait() {
		lines = append(lines, "XWAIT")
	}
	if s.mayXclient {
		lines = append(lines, xclientLine)
	}
	s.reply(250, "", append(lines, "ENHANCEDSTATUSCODES")...)
	return nil
}

// greet notes the client's name. It is kept for the trace alone, so any word of printable ASCII will do (RFC 5321 4.1.4
// forbids to refuse mail for it).
func (s *session) greet(name string) error {
	if err := checkHelo(name); err != nil {
		return err
	}
	s.reset()
	s.helo = name
	return nil
}

func checkHelo(name string) error {
	for i := range len(name) {
		if name[i] <= ' ' || name[i] >= 0x7f {
			return status.Permanent(501, "5.5.2", "The name of the client is not a domain", nil)
		}
	}
	if name == "" || len(name) > maxHeloName {
		return status.Permanent(501, "5.5.4", "The name of the client is missing or too long", nil)
	}
	return nil
}

func (s *session) doRSET(arg string) error {
	if arg != "" {
		return errArguments
	}
	s.reset()
	s.reply(250, "2.0.0", "Ok")
	return nil
}

func (s *session) doNOOP(string) error {
	s.reply(250, "2.0.0", "Ok")
	return nil
}

func (s *session) doQUIT(arg string) error {
	if arg != "" {
		return errArguments
	}
	s.end("")
	s.reply(221, "2.0.0", s.srv.Hostname+" closing the connection")
	return nil
}

// doVRFY tells nothing about who exists (RFC 5321 7.3).
func (s *session) doVRFY(arg string) error {
	if arg == "" {
		return status.Permanent(501, "5.5.4", "An address is needed", nil)
	}
	s.reply(252, "2.5.0", "Cannot verify, but will accept the message and try to deliver it")
	return nil
}

func (s *session) doHELP(string) error {
	commands := "Commands: HELO EHLO MAIL RCPT DATA BDAT RSET NOOP QUIT VRFY HELP"
	if s.srv.TLS != nil && s.tls == nil {
		commands += " STARTTLS"
	}
	if len(s.mechanisms()) > 0 {
		commands += " AUTH"
	}
	s.reply(214, "2.0.0", "postel", commands, "See RFC 5321")
	return nil
}

// ok answers a command of the transaction.
func (s *session) ok(enhanced, format string, args ...any) {
	s.reply(250, enhanced, fmt.Sprintf(format, args...))
}
