// Package transport makes one attempt to bring one queued message to its next hop, or the first of several that takes it: by SMTP to the mail hosts of a domain or to a
// fixed host, by LMTP, to a program, or to a mailbox by the delivery agent. It says what became of each recipient; when to try again,
// and what to tell the sender, is decided above it.
//
// Hosts are tried in the order of package mx (RFC 5321 5.1). A connection that fails, or breaks before the message is sent, leads to
// the next host, as does a server that refuses because of its own state; what it says about a sender, a recipient or a message is taken as the
// answer. Addresses that do not answer are passed over for a while. Sessions are kept for some seconds, for the next message to the
// same next hops. Package transport does not log: its results say all.
package transport

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/postel-mail/postel/internal/address"
	"github.com/postel-mail/postel/internal/command"
	"github.com/postel-mail/postel/internal/destination"
	"github.com/postel-mail/postel/internal/envelope"
	"github.com/postel-mail/postel/internal/mx"
	"github.com/postel-mail/postel/internal/queue"
	"github.com/postel-mail/postel/internal/smtpclient"
	"github.com/postel-mail/postel/internal/status"
)

// Transport makes attempts. Its fields are set before the first; it may then be used by many goroutines.
type Transport struct {
	Hostname string         // own name: for EHLO, and to know itself among mail hosts
	Port     int            // of mail hosts, and of smtp:// without a port
	Bind     []netip.Addr   // source addresses, the first of each family; a family without one gets the kernel's choice
	TLS      smtpclient.TLS // Opportunistic, Off or Require; LMTP never requires it
	Roots    *x509.CertPool // what certificates are verified against where there is a login; nil: the system's

	// MX and Addresses are those of an *mx.Resolver.
	MX        func(ctx context.Context, domain string) (mx.Answer, error)
	Addresses func(ctx context.Context, host string) ([]netip.Addr, error)
	// RefuseLoopback keeps from connecting to this host because the DNS says so. It is for port 25; on another port
	// the hosts of a test may share one address.
	RefuseLoopback bool
	// Credentials says how a user logs in at a host.
	Credentials func(host, user string) (smtpclient.Login, error)
	Certificate *tls.Certificate // shown to servers that ask for one; nil for none

	Delimiter string // between user and detail of a local part; "" for no details
	// Deliver is the delivery agent: program and first arguments. A pipe: destination that is equal to it gets "-f SENDER -- RECIPIENT"
	// behind them, and maildir: and mbox: destinations are given to it with "--to DESTINATION" besides. Other programs get the
	// arguments that their destination has, and the environment of package command.
	Deliver     []string
	ProgramTime time.Duration // how long a program may take; 0 is command.Limit
	// Programs other than Deliver run as ProgramUser; nil: as this process. It is for a runner that is root.
	ProgramUser *syscall.Credential

	idle   pool
	silent silence
	// dial makes connections in a test that needs no network.
	dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// Request is what an attempt is about.
type Request struct {
	Message *queue.Message
	Rcpts   []int // indexes of recipients in the message's envelope
	// Dests are the next hops in the order in which they are tried, at least one. Only the first counts where it is no host: a program,
	// a mailbox, discard:.
	Dests  []destination.Destination
	Domain string // of these recipients, for "mx:" without a domain
	Urgent bool   // a person wants it tried: addresses that were silent a while ago are not passed over
}

// Result is what became of one recipient.
type Result struct {
	Dest    destination.Destination // the one of Request.Dests that this is about
	Err     *status.Error           // nil: the destination has taken the message
	Code    int                     // of the reply that decided, 250 for a program's yes; 0 where no server has spoken
	Text    string                  // of that reply when it was a yes
	Relay   string                  // who decided: "host[address]:port", "unix:/path", "pipe", or "" where nobody was reached
	Remote  bool                    // Code and text are a server's own words
	Reached bool                    // a session was open: whatever became of it, the destination lives
	DSN     bool                    // the server keeps the requests of RFC 3461 from here on; without it a SUCCESS report says "relayed"
	// Expanded says that it stands for several addresses, some of which are elsewhere: a SUCCESS report says that (RFC 3461 5.2.7.3 (c)).
	Expanded bool
	Twice    bool // the server may have taken the message although Err is not nil: its answer did not come
}

// sentOn takes into account what a delivery agent of this suite says of a message that it has: "delivered", "forwarded" or "expanded" (see package delivery's Outcome).
func (r *Result) sentOn(word string) { r.DSN, r.Expanded = word == "forwarded", word == "expanded" }

// Attempt tries to bring the message to the destination. It gives a result for each of r.Rcpts, in their order. When ctx ends the
// attempt stops, as smtpclient.Client.Send and command.Run have it; what was decided by then counts.
func (t *Transport) Attempt(ctx context.Context, r Request) []Result {
	if len(r.Rcpts) == 0 {
		return nil
	}
	if len(r.Dests) == 0 {
		r.Dests = []destination.Destination{{}}
	}
	switch d := r.Dests[0]; d.Kind {
	case destination.MX, destination.SMTP, destination.SMTPS, destination.LMTP:
		return t.relay(ctx, r)
	case destination.Pipe, destination.Maildir, destination.Mbox:
		return t.programs(ctx, r, d)
	case destination.Discard:
		return slices.Repeat([]Result{{Dest: d, Code: 250, Text: "2.0.0 Discarded"}}, len(r.Rcpts))
	default:
		return slices.Repeat([]Result{{Dest: d, Err: noWay(d)}}, len(r.Rcpts))
	}
}

func noWay(d destination.Destination) *status.Error {
	return status.Temporary(451, "4.3.5", "No way to this destination", fmt.Errorf("transport: destination %q", d))
}

// Close ends the sessions that are kept. Attempts that still run keep none from then on.
func (t *Transport) Close() { t.idle.close() }

// programs runs a program for each recipient, since an exit status says only one thing.
func (t *Transport) programs(ctx context.Context, r Request, d destination.Destination) []Result {
	results := make([]Result, len(r.Rcpts))
	for i, n := range r.Rcpts {
		results[i] = Result{Dest: d, Relay: "pipe", Code: 250, Text: "2.0.0 Taken by the program"}
		word, s := t.program(ctx, r.Message, n, d)
		if s != nil {
			results[i] = Result{Dest: d, Relay: "pipe", Err: s}
			continue
		}
		results[i].sentOn(word)
	}
	return results
}

// program gives the message to one program for the n-th recipient of the envelope. Its standard input is the queue file itself: were
// it a pipe and this process to die, the program would take the part it has for the whole. The delivery agent is told what the sender wants to hear, and says in a word who is to tell of success.
func (t *Transport) program(ctx context.Context, m *queue.Message, n int, d destination.Destination) (word string, s *status.Error) {
	e := m.Envelope
	rcpt := e.Rcpts[n]
	args := t.args(d, e, rcpt)
	if args == nil {
		return "", status.Temporary(451, "4.3.5", "No delivery agent is configured", fmt.Errorf("transport: destination %q", d))
	}
	body, bad := stdin(m)
	if bad != nil {
		return "", bad
	}
	defer body.Close()
	user, detail := address.Split(rcpt.To.Local, t.Delimiter)
	words := command.Words{Sender: e.From, Recipient: rcpt.To, Original: original(rcpt), User: user, Extension: detail,
		ID: e.ID + "." + strconv.Itoa(n)}
	spec := command.Spec{Args: args, Env: words.Environ(), Stdin: body, Limit: t.ProgramTime}
	if !t.isAgent(d) {
		spec.Credential = t.ProgramUser
		return "", command.Run(ctx, spec)
	}
	var said command.Word
	if rcpt.Notify != "" {
		spec.Stdout = &said
	}
	s = command.Run(ctx, spec)
	return said.String(), s
}

// isAgent reports whether the delivery agent serves the destination.
func (t *Transport) isAgent(d destination.Destination) bool {
	return d.IsLocal() || d.Kind == destination.Pipe && slices.Equal(d.Args, t.Deliver)
}

// args is the command line for a destination, nil where there is none.
func (t *Transport) args(d destination.Destination, e *envelope.Envelope, rcpt envelope.Recipient) []string {
	if !t.isAgent(d) {
		return d.Args
	}
	if len(t.Deliver) == 0 {
		return nil
	}
	args := append(slices.Clone(t.Deliver), "-f", e.From.String())
	if d.IsLocal() {
		args = append(args, "--to", d.String())
	}
	args = append(args, e.DSN(rcpt).Flags()...)
	return append(args, "--", rcpt.To.String())
}

// original is the address that the sender wrote, where ORCPT tells it (RFC 3461 4.2).
func original(r envelope.Recipient) address.Path {
	kind, value, _ := strings.Cut(r.ORcpt, ";")
	if p, err := address.Parse(value); err == nil && (strings.EqualFold(kind, "rfc822") || kind == envelope.UTF8Type) {
		return p
	}
	return address.Path{}
}

// ours is a failure found on this side, temporary. cause says for the log what text does not.
func ours(enhanced, text string, cause error) *status.Error {
	if cause != nil {
		cause = fmt.Errorf("transport: %w", cause)
	}
	return status.Temporary(451, enhanced, text, cause)
}
