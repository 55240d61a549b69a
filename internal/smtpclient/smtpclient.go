// Package smtpclient is the client side of SMTP (RFC 5321) and LMTP (RFC 2033) over a connection that the caller has made: it
// opens the session and hands over messages, each to some recipients, with one outcome for every recipient.
//
// It has PIPELINING (RFC 2920), CHUNKING and BINARYMIME (RFC 3030), STARTTLS (RFC 3207) and implicit TLS (RFC 8314), client certificates,
// AUTH (RFC 4954) by the mechanisms of package saslclient, SIZE (RFC 1870), 8BITMIME (RFC 6152), SMTPUTF8 (RFC 6531), DSN (RFC 3461),
// REQUIRETLS (RFC 8689), LIMITS (RFC 9422) and enhanced codes (RFC 2034). A message of eight bits or of binary parts is converted by package recode for a server that cannot
// take it, and fails, with a clear text, where that is not possible. Lines longer than 998 octets go out as they are. Names are not
// looked up here and no connection is made; package transport does both.
//
// What a server says is never trusted further than it must be: replies are bounded, a reply that is not one ends the session, and
// whatever is not understood is temporary. A message that could not be sent to its end never gets its final dot.
package smtpclient

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postel-mail/postel/internal/clock"
	"github.com/postel-mail/postel/internal/status"
)

// TLS is how much TLS a session needs.
type TLS int

// The levels.
const (
	Opportunistic TLS = iota // STARTTLS when the server offers it
	Off
	Require  // STARTTLS, or no session
	Implicit // TLS from the first octet
)

// Options say how a session is opened.
type Options struct {
	Hostname string // own name for EHLO
	LMTP     bool
	TLS      TLS
	// ServerName is the name or address that the server is known by, for its certificate and for SNI.
	ServerName string
	// Verify asks for a certificate that is valid for ServerName. Without it TLS keeps out those who only listen.
	Verify bool
	Roots  *x509.CertPool // nil: the system's
	// Certificate is shown to a server that asks for one; nil for none.
	Certificate *tls.Certificate
	// Login logs in; nil for no login. That makes TLS and Verify a must, whatever they say, save on a Private connection.
	Login   *Login
	Private bool // the connection cannot be listened to: a UNIX socket

	times *timeouts // nil: rfc5321
}

// Login is who logs in, by a token, a password, or where there is neither by the certificate.
type Login struct {
	User     string
	Password string
	// Token gives a token that is not the one that a server refused, "" for any; nil where there is a password. It may take a while.
	Token func(ctx context.Context, refused string) (string, error)
}

// timeouts are how long one step may take. They bound a reply as a whole, and each block of a message.
type timeouts struct{ command, data, block, final, grace, bye time.Duration }

// rfc5321 is section 4.5.3.2 of it. grace is how long the answer to a whole message is awaited when the caller wants to stop, bye how long
// the answer to QUIT.
var rfc5321 = timeouts{command: 5 * time.Minute, data: 2 * time.Minute, block: 3 * time.Minute, final: 10 * time.Minute,
	grace: 30 * time.Second, bye: 5 * time.Second}

// ErrTLS is in the chain of an error of New when no TLS could be agreed on although the server offered it. Where TLS is not required,
// another connection without it may do better.
var ErrTLS = errors.New("TLS handshake failed")

// ErrNoTLS is in the chain of an error of New when TLS is required and the server does not offer it.
var ErrNoTLS = errors.New("no STARTTLS in its answer to EHLO")

// Client is an open session. It is used by one goroutine at a time.
type Client struct {
	o    Options
	t    timeouts
	raw  net.Conn // below TLS
	conn net.Conn
	tls  bool
	r    *bufio.Reader
	w    *bufio.Writer
	ext  map[string]string // what EHLO offered: keyword in upper case, parameters

	names  []string // what the server calls itself, in greeting and EHLO
	sent   int      // transactions begun
	begun  bool     // a transaction is open: RSET before the next
	broken bool     // closed, or out of step

	unwritten error // what the last write met

	due time.Duration // how long the reply that is read next may take; 0 once its time runs

	mu        sync.Mutex
	final     bool // the end of a message is on its way: its answer is worth waiting for
	cancelled bool
	until     time.Time // how long, once cancelled
}

// New opens a session over conn, which it owns from then on: greeting, EHLO, TLS, login. When ctx ends the connection is closed. The
// error is a *status.Error, temporary whatever the server said: a refusal at this stage is about this host or that server, not about a
// message.
func New(ctx context.Context, conn net.Conn, o Options) (*Client, error) {
	if o.Login != nil && !o.Private {
		o.Verify = true
		if o.TLS != Implicit {
			o.TLS = Require
		}
	}
	c := &Client{o: o, t: rfc5321, raw: conn, conn: conn}
	if o.times != nil {
		c.t = *o.times
	}
	defer c.watch(ctx)()
	if s := c.start(ctx); s != nil {
		c.Close()
		return nil, s
	}
	return c, nil
}

// start returns a *status.Error and not an error so that no nil of one type becomes a non-nil of the other.
func (c *Client) start(ctx context.Context) *status.Error {
	if c.o.TLS == Implicit {
		if s := c.handshake(); s != nil {
			return s
		}
	}
	c.attach()
	rep, s := c.await("greeting", c.t.command)
	if s != nil {
		return s
	}
	if rep.code != 220 {
		return refused("Greeting", rep)
	}
	c.names = append(c.names, firstWord(rep))
	if s := c.hello(); s != nil {
		return s
	}
	if c.o.TLS == Opportunistic || c.o.TLS == Require {
		if s := c.startTLS(); s != nil {
			return s
		}
	}
	if c.o.Login != nil {
		return c.login(ctx)
	}
	return nil
}

// hello says EHLO, and HELO to a server that does not know it.
func (c *Client) hello() *status.Error {
	verb := "EHLO"
	if c.o.LMTP {
		verb = "LHLO"
	}
	c.ext = map[string]string{}
	rep, s := c.command(verb, verb+" "+c.o.Hostname)
	if s == nil && rep.code >= 500 && !c.o.LMTP {
		rep, s = c.command("HELO", "HELO "+c.o.Hostname)
		rep.lines = rep.lines[:min(1, len(rep.lines))]
	}
	if s != nil {
		return s
	}
	if !rep.ok() {
		return refused(verb, rep)
	}
	c.names = append(c.names, firstWord(rep))
	for _, line := range rep.lines[1:] {
		keyword, params, _ := strings.Cut(strings.TrimSpace(line), " ")
		keyword = strings.ToUpper(keyword)
		if v, ok := strings.CutPrefix(keyword, "AUTH="); ok { // servers from before RFC 2554
			keyword, params = "AUTH", v+" "+params
		}
		if had := c.ext[keyword]; had != "" {
			params = had + " " + params
		}
		c.ext[keyword] = params
	}
	return nil
}

// startTLS turns the session into a protected one, where both sides can.
func (c *Client) startTLS() *status.Error {
	if !c.offers("STARTTLS") {
		if c.o.TLS == Opportunistic {
			return nil
		}
		return status.Temporary(451, "4.7.4", "TLS is required, but the server does not offer it", fmt.Errorf("smtpclient: %w", ErrNoTLS))
	}
	rep, s := c.command("STARTTLS", "STARTTLS")
	if s != nil && s.Code != 421 { // a server that offers it and cannot: as a handshake that fails
		s.Err = fmt.Errorf("%w: %w", ErrTLS, s.Err)
	}
	if s != nil {
		return s
	}
	if !rep.ok() {
		if c.o.TLS == Opportunistic {
			return nil // RFC 3207 4.1: the client decides, and nothing was lost
		}
		return refused("STARTTLS", rep)
	}
	if c.r.Buffered() > 0 { // sent before the handshake, so anybody may have sent it
		return ours("4.7.5", "The server sent unprotected data behind its answer to STARTTLS")
	}
	if s := c.handshake(); s != nil {
		return s
	}
	c.attach()
	return c.hello() // RFC 3207 4.2: what was said before does not count
}

func (c *Client) handshake() *status.Error {
	cfg := &tls.Config{ServerName: c.o.ServerName, RootCAs: c.o.Roots, InsecureSkipVerify: !c.o.Verify}
	if c.o.TLS == Opportunistic {
		cfg.MinVersion = tls.VersionTLS10 // the other choice would be no TLS at all
	}
	if c.o.Certificate != nil { // whatever authorities the server names: it may know the certificate itself
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return c.o.Certificate, nil }
	}
	conn := tls.Client(c.raw, cfg)
	c.arm(c.t.command)
	if err := conn.Handshake(); err != nil {
		text := "TLS handshake failed"
		var bad *tls.CertificateVerificationError
		if errors.As(err, &bad) {
			text = "The server's certificate does not verify"
		}
		return status.Temporary(454, "4.7.5", text, fmt.Errorf("smtpclient: %w: %w", ErrTLS, err))
	}
	c.conn, c.tls = conn, true
	return nil
}

// attach puts new buffers on the connection: nothing read before may be taken for something read after.
func (c *Client) attach() {
	c.r = bufio.NewReaderSize(timed{c}, maxReplyLine)
	c.w = bufio.NewWriterSize(armed{c}, 16<<10)
}

// timed begins the time of a reply when the connection is read for it: one that came with another is there already.
type timed struct{ c *Client }

func (t timed) Read(p []byte) (int, error) {
	if t.c.due > 0 {
		t.c.arm(t.c.due)
		t.c.due = 0
	}
	return t.c.conn.Read(p)
}

// armed gives every write to the connection its own time.
type armed struct{ c *Client }

func (a armed) Write(p []byte) (int, error) {
	a.c.arm(a.c.t.block)
	n, err := a.c.conn.Write(p)
	a.c.unwritten = err
	return n, err
}

// command sends one line and waits for the reply.
func (c *Client) command(doing, line string) (reply, *status.Error) {
	_, _ = c.w.WriteString(line + "\r\n") // an error stays in the writer until Flush
	if err := c.w.Flush(); err != nil {
		return reply{}, c.lost(doing, err)
	}
	return c.await(doing, c.t.command)
}

// await reads the reply to what was sent. A 421 is no reply to it but the end of the session, so it comes as an outcome.
func (c *Client) await(doing string, limit time.Duration) (reply, *status.Error) {
	c.due = limit
	rep, err := readReply(c.r)
	if err != nil {
		return reply{}, c.lost(doing, err)
	}
	if rep.code == 421 {
		c.Close()
		return rep, rep.status()
	}
	return rep, nil
}

// lost closes the session because of err.
func (c *Client) lost(doing string, err error) *status.Error {
	c.mu.Lock()
	cancelled := c.cancelled
	c.mu.Unlock()
	c.Close()
	s := status.Temporary(451, "4.4.2", "Connection lost at "+doing, fmt.Errorf("smtpclient: %s: %w", doing, err))
	var timeout net.Error
	switch {
	case cancelled:
		s.Text = "Attempt was stopped at " + doing
	case errors.Is(err, errMalformed):
		s.Enhanced, s.Text = "4.5.0", "The server broke the protocol at "+doing
	case errors.As(err, &timeout) && timeout.Timeout():
		s.Text = "Timeout at " + doing
	}
	return s
}

// ours is a failure that this side finds; the session cannot go on.
func ours(enhanced, text string) *status.Error {
	return status.Temporary(451, enhanced, text, nil)
}

// refused is a refusal of the session. However permanent the server means it, nothing was said about the mail: it may go another way, or
// another day.
func refused(what string, rep reply) *status.Error {
	s := rep.status()
	said := fmt.Sprintf("%s refused: %d %s", what, rep.code, rep.text())
	enhanced := "4.5.0"
	if rep.failed() {
		enhanced = "4" + s.Enhanced[1:]
	}
	return status.Temporary(451, enhanced, status.Clean(said), nil)
}

func firstWord(rep reply) string {
	word, _, _ := strings.Cut(rep.lines[0], " ")
	return word
}

// arm gives the next reads and writes their time. Once the caller wants to stop that is none, or in the final phase what is left of the
// grace.
func (c *Client) arm(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	end := clock.Now().Add(d)
	switch {
	case c.cancelled && c.final:
		end = c.until
	case c.cancelled:
		end = clock.Now().Add(-time.Second)
	}
	_ = c.raw.SetDeadline(end) // fails only on a closed connection, as the next read or write does
}

// setFinal begins and ends the final phase; it does not begin once the caller wants to stop.
func (c *Client) setFinal(final bool) (cancelled bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.final = final && !c.cancelled
	return c.cancelled
}

// watch ends reads and writes when ctx ends, until the function it gives is called.
func (c *Client) watch(ctx context.Context) (stop func()) {
	done := make(chan struct{})
	cancel := context.AfterFunc(ctx, func() {
		defer close(done)
		c.mu.Lock()
		c.cancelled, c.until = true, clock.Now().Add(c.t.grace)
		c.mu.Unlock()
		c.arm(0)
	})
	return func() {
		if !cancel() {
			<-done
		}
	}
}

// offers reports whether the server named an extension.
func (c *Client) offers(keyword string) bool {
	_, ok := c.ext[keyword]
	return ok
}

// Calls reports whether the server goes by that host name, by its greeting or its answer to EHLO. If it is one's own, mail would come back.
func (c *Client) Calls(hostname string) bool {
	for _, name := range c.names {
		if strings.EqualFold(strings.TrimSuffix(name, "."), hostname) {
			return true
		}
	}
	return false
}

// DSN reports whether the server takes requests for reports (RFC 3461). When not, reports about success end here: the sender is told
// "relayed".
func (c *Client) DSN() bool { return c.offers("DSN") }

// XDSN reports whether an LMTP server takes such requests for what it sends on, and reports nothing itself: an agreement of this suite's programs (RFC 5321 2.2.2).
func (c *Client) XDSN() bool { return c.o.LMTP && c.offers("XDSN") && !c.DSN() }

// RequireTLS reports whether the server keeps to REQUIRETLS (RFC 8689), which only counts behind TLS.
func (c *Client) RequireTLS() bool { return c.tls && c.offers("REQUIRETLS") }

// limit gives a parameter of LIMITS (RFC 9422), 0 where there is none.
func (c *Client) limit(name string) int {
	for param := range strings.FieldsSeq(c.ext["LIMITS"]) {
		key, value, _ := strings.Cut(param, "=")
		if n, err := strconv.Atoi(value); err == nil && n > 0 && strings.EqualFold(key, name) {
			return n
		}
	}
	return 0
}

// quiet reports whether the server has neither said anything nor ended the connection since its last reply. It is for a session that has waited: what
// is written to one that the server has left is lost, and who did not look cannot tell.
func (c *Client) quiet() bool {
	conn, ok := c.raw.(syscall.Conn)
	if !ok {
		return true
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return false
	}
	var peeked error
	err = raw.Control(func(fd uintptr) {
		_, _, peeked = unix.Recvfrom(int(fd), make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT)
	})
	return err == nil && errors.Is(peeked, unix.EAGAIN)
}

// Usable reports whether the session can take another message.
func (c *Client) Usable() bool {
	c.mu.Lock()
	cancelled := c.cancelled
	c.mu.Unlock()
	most := c.limit("MAILMAX")
	return !c.broken && !cancelled && c.r.Buffered() == 0 && (most == 0 || c.sent < most)
}

// reset ends an open transaction, which a server cannot well refuse.
func (c *Client) reset() *status.Error {
	rep, s := c.command("RSET", "RSET")
	switch {
	case s != nil:
		return s
	case !rep.ok():
		c.Close()
		return refused("RSET", rep)
	}
	c.begun = false
	return nil
}

// Quit ends the session politely, waiting a few seconds at most, and closes it.
func (c *Client) Quit() {
	if !c.broken && c.r.Buffered() == 0 {
		c.t.block, c.t.command = c.t.bye, c.t.bye
		_, _ = c.command("QUIT", "QUIT") // whatever the answer, this is the end
		_ = c.conn.Close()               // with TLS's own farewell
	}
	c.Close()
}

// Close ends the session at once. A message that is on its way is not delivered.
func (c *Client) Close() {
	c.broken = true
	_ = c.raw.Close() // not the TLS connection's Close: that may wait for the peer
}
