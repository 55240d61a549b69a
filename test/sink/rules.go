package sink

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"math/big"
	"net"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Behaviour is how a listener answers. The zero value takes everything and offers nothing; Parse begins with PIPELINING, 8BITMIME and
// ENHANCEDSTATUSCODES.
type Behaviour struct {
	Name        string   // in the greeting and in the reply to EHLO
	Extensions  []string // as they are said in the reply to EHLO; STARTTLS goes away behind TLS
	LMTP        bool
	ImplicitTLS bool
	Users       map[string]string // passwords, for AUTH
	Octets      int64             // the connection is closed after so many from the client; 0 never
	Rules       []Rule            // the first that fits and has an action decides; delays add up
}

// Rule is what the server does at one step in the place of its usual answer.
type Rule struct {
	Step  string        // "connect", "ehlo" (and HELO, LHLO), "starttls", "auth", "mail", "rcpt", "data" (and the first BDAT), "dot" (the end of a message), "rset", "noop", "quit", or "*" for all
	To    string        // a pattern as path.Match has it, in lower case: of the recipient at "rcpt" and at "dot", where one recipient is enough (in LMTP each is asked for)
	From  string        // the same of the sender, from "mail" on
	After int           // it does not apply the first so many times: of the recipients of one transaction at "rcpt", in one connection elsewhere
	First int           // it applies only so many times in the life of the sink; at "rcpt", for each recipient
	Delay time.Duration // before it
	Do    Action
	Reply string // for Say, with its code; 421 and 221 end the connection
}

// Action is what a rule does.
type Action int

// The actions.
const (
	Go    Action = iota // the usual answer, after the delay
	Say                 // the reply
	Hang                // no answer until Release, or until the client goes
	Leave               // close the connection
)

var steps = []string{"connect", "ehlo", "starttls", "auth", "mail", "rcpt", "data", "dot", "rset", "noop", "quit", "*"}

// Parse reads a script: statements between semicolons or line ends.
//
//	name HOST               instead of "sink.test"
//	ext KEYWORD...          what EHLO offers, instead of PIPELINING, 8BITMIME and ENHANCEDSTATUSCODES; "_" is a blank: AUTH_PLAIN_LOGIN
//	lmtp                    LMTP
//	tls                     TLS from the first octet
//	user NAME PASSWORD      who may log in
//	octets N                close the connection after N octets
//	STEP [KEY=VALUE...] [ACTION]    a rule; the keys are to, from, after, first and delay, the action is "hang", "close" or a reply with its code
//
// As in "rcpt to=*@full.example 452 4.2.2 Mailbox full; rcpt first=1 451 4.7.1 Greylisted; dot delay=50ms; mail after=3 421 4.7.0 Enough".
func Parse(script string) (*Behaviour, error) {
	b := &Behaviour{Name: "sink.test", Extensions: []string{"PIPELINING", "8BITMIME", "ENHANCEDSTATUSCODES"}, Users: map[string]string{}}
	for statement := range strings.FieldsFuncSeq(script, func(r rune) bool { return r == ';' || r == '\n' }) {
		words := strings.Fields(statement)
		if len(words) == 0 {
			continue
		}
		if err := b.set(words); err != nil {
			return nil, fmt.Errorf("sink: %q: %w", strings.TrimSpace(statement), err)
		}
	}
	return b, nil
}

func (b *Behaviour) set(words []string) (err error) {
	args := words[1:]
	switch {
	case words[0] == "name" && len(args) == 1:
		b.Name = args[0]
	case words[0] == "ext":
		b.Extensions = nil
		for _, word := range args {
			b.Extensions = append(b.Extensions, strings.ReplaceAll(word, "_", " "))
		}
	case words[0] == "lmtp" && len(args) == 0:
		b.LMTP = true
	case words[0] == "tls" && len(args) == 0:
		b.ImplicitTLS = true
	case words[0] == "user" && len(args) == 2:
		b.Users[args[0]] = args[1]
	case words[0] == "octets" && len(args) == 1:
		b.Octets, err = strconv.ParseInt(args[0], 10, 64)
	case slices.Contains(steps, words[0]):
		var r Rule
		if r, err = parseRule(words[0], args); err == nil {
			b.Rules = append(b.Rules, r)
		}
	default:
		err = fmt.Errorf("not a statement")
	}
	return err
}

func parseRule(step string, args []string) (r Rule, err error) {
	r.Step = step
	for len(args) > 0 && err == nil {
		name, value, ok := strings.Cut(args[0], "=")
		if !ok {
			break
		}
		switch name {
		case "to":
			r.To = value
			_, err = path.Match(value, "")
		case "from":
			r.From = value
			_, err = path.Match(value, "")
		case "after":
			r.After, err = strconv.Atoi(value)
		case "first":
			r.First, err = strconv.Atoi(value)
		case "delay":
			r.Delay, err = time.ParseDuration(value)
		default:
			err = fmt.Errorf("unknown key %q", name)
		}
		args = args[1:]
	}
	if err != nil || len(args) == 0 {
		return r, err
	}
	switch code, err := strconv.Atoi(args[0]); {
	case args[0] == "hang" && len(args) == 1:
		r.Do = Hang
	case args[0] == "close" && len(args) == 1:
		r.Do = Leave
	case err == nil && code >= 200 && code <= 599:
		r.Do, r.Reply = Say, strings.Join(args, " ")
	default:
		return r, fmt.Errorf("not an action: %q", args)
	}
	return r, nil
}

// fits reports whether a rule is for this step, the nth time, with these addresses in lower case.
func (r *Rule) fits(step string, n int, from string, to []string) bool {
	if r.Step != step && r.Step != "*" || n <= r.After || r.From != "" && !matches(r.From, from) {
		return false
	}
	return r.To == "" || slices.ContainsFunc(to, func(addr string) bool { return matches(r.To, addr) })
}

func matches(pattern, addr string) bool {
	ok, _ := path.Match(pattern, addr) // Parse has tried it
	return ok
}

// certificate makes a certificate that nobody trusts.
func certificate() *tls.Config {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return &tls.Config{}
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"sink.test"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, NotAfter: time.Unix(1<<33, 0)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return &tls.Config{}
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
}
