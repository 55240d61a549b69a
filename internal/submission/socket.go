package submission

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postel-mail/postel/internal/clock"
	"github.com/postel-mail/postel/internal/envelope"
	"github.com/postel-mail/postel/internal/queue"
	"github.com/postel-mail/postel/internal/status"
)

// Socket is a submission server of this host (RFC 6409) at a UNIX socket, which knows its clients by their user number.
type Socket struct {
	Path     string
	Hostname string // for EHLO

	patience time.Duration // with a reply; 0: that of RFC 5321
}

// ErrNotTaken says that the server is not there, or said that it does not take the message now: another may be asked.
var ErrNotTaken = errors.New("the submission server does not take the message now")

func notTaken(err error) error {
	if errors.Is(err, ErrNotTaken) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrNotTaken, err)
}

// Bounds of a session; the times are those of RFC 5321 4.5.3.2.
const (
	commandTime = 5 * time.Minute
	endTime     = 10 * time.Minute
	maxReply    = 2 << 10  // octets of one line
	maxReplies  = 100      // lines of one reply
	maxAhead    = 100      // commands sent before their replies are read, so that these fit into the socket
	block       = 64 << 10 // octets written at once
)

// Session is a message on its way through a Socket. It speaks plain system calls: package net would double what the smallest program of the suite, the
// one that is started for every message, has to load.
type Session struct {
	fd       int           // -1 when closed
	patience time.Duration // see Socket
	in       []byte
	out      []byte
	inLine   bool  // the last octet of the message was not the end of a line
	size     int64 // of the message
	id       string
	mayWrite bool // no write has failed
}

// Create asks the server to take a message with that envelope, of which it sets the ID, and begins to send it. When all of the recipients are not taken none
// is. Errors are ErrNotTaken, or a *status.Error with what the server said.
func (k *Socket) Create(e *envelope.Envelope) (*Session, error) {
	e.ID = queue.NewID(clock.Now())
	s := &Session{fd: -1, patience: k.patience, mayWrite: true, out: make([]byte, 0, block)}
	err := s.connect(k.Path)
	if err == nil {
		err = s.begin(k.Hostname, e)
	}
	if err != nil {
		s.Abort()
		return nil, err
	}
	return s, nil
}

func (s *Session) connect(path string) (err error) {
	fail := func(op string, err error) error { return notTaken(&os.PathError{Op: op, Path: path, Err: err}) }
	if s.fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
		s.fd = -1
		return fail("socket", err)
	}
	patience := unix.NsecToTimeval(int64(cmp.Or(s.patience, commandTime)))
	err = errors.Join(unix.SetsockoptTimeval(s.fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &patience),
		unix.SetsockoptTimeval(s.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &patience))
	if err != nil {
		return fail("setsockopt", err)
	}
	if err := retry(func() error { return unix.Connect(s.fd, &unix.SockaddrUnix{Name: path}) }); err != nil {
		return fail("connect", err)
	}
	return nil
}

// begin leads the dialog up to the message.
func (s *Session) begin(hostname string, e *envelope.Envelope) error {
	if _, err := s.expect("the greeting", 220); err != nil {
		return notTaken(err)
	}
	s.send("EHLO " + hostname)
	offer, err := s.expect("EHLO", 250)
	if err != nil {
		return notTaken(err)
	}
	for _, extension := range needed(e) {
		if !slices.ContainsFunc(offer, func(line string) bool { return strings.EqualFold(strings.TrimRight(line, " "), extension) }) {
			return notTaken(fmt.Errorf("it does not offer %s", extension))
		}
	}
	commands := []string{"MAIL FROM:" + e.From.Angle() + mailParams(e)}
	for _, r := range e.Rcpts {
		commands = append(commands, "RCPT TO:"+r.To.Angle()+rcptParams(r))
	}
	for some := range slices.Chunk(commands, maxAhead) {
		for _, c := range some {
			s.send(c)
		}
		for _, c := range some {
			if _, err := s.expect(c, 250, 251); err != nil {
				return err
			}
		}
	}
	s.send("DATA") // not with the others: who is refused in part would have to be told nothing but a dot, which is a message
	_, err = s.expect("DATA", 354)
	return err
}

// needed are the extensions without which the server would not take the message as it is.
func needed(e *envelope.Envelope) []string {
	list := []string{"PIPELINING"}
	if e.Body != "" {
		list = append(list, "8BITMIME")
	}
	if e.SMTPUTF8 {
		list = append(list, "SMTPUTF8")
	}
	if e.Ret != "" || e.EnvID != "" || slices.ContainsFunc(e.Rcpts, func(r envelope.Recipient) bool { return r.Notify != "" || r.ORcpt != "" }) {
		list = append(list, "DSN")
	}
	if e.Wait != "" { // an agreement of this suite's programs (RFC 5321 2.2.2)
		list = append(list, "XWAIT")
	}
	return list
}

func mailParams(e *envelope.Envelope) (params string) {
	if e.Body != "" {
		params += " BODY=" + e.Body
	}
	if e.SMTPUTF8 {
		params += " SMTPUTF8"
	}
	if e.Ret != "" {
		params += " RET=" + e.Ret
	}
	if e.EnvID != "" {
		params += " ENVID=" + envelope.EncodeXtext(e.EnvID)
	}
	if e.Wait != "" {
		params += " XWAIT=" + e.Wait
	}
	return params
}

func rcptParams(r envelope.Recipient) (params string) {
	if r.Notify != "" {
		params += " NOTIFY=" + r.Notify
	}
	if orcpt := envelope.EncodeORcpt(r.ORcpt); orcpt != "" {
		params += " ORCPT=" + orcpt
	}
	return params
}

// ID is the server's queue id, once Commit was successful; "" where it does not tell.
func (s *Session) ID() string { return s.id }

// Size is the number of octets of the message written so far.
func (s *Session) Size() int64 { return s.size }

// Write adds octets of the message, whose lines end in CRLF.
func (s *Session) Write(p []byte) (int, error) {
	n := len(p)
	s.size += int64(n)
	for len(p) > 0 {
		if !s.inLine && p[0] == '.' { // RFC 5321 4.5.2
			s.out = append(s.out, '.')
		}
		line := p
		s.inLine = true
		if i := bytes.IndexByte(p, '\n'); i >= 0 {
			line, s.inLine = p[:i+1], false
		}
		s.out = append(s.out, line...)
		p = p[len(line):]
		if len(s.out) >= block {
			if err := s.flush(); err != nil {
				return 0, notTaken(err)
			}
		}
	}
	return n, nil
}

// Commit ends the message. After an error that is neither ErrNotTaken nor a *status.Error the server may have taken it.
func (s *Session) Commit() error {
	defer s.Abort()
	if s.inLine {
		s.out = append(s.out, "\r\n"...)
	}
	if err := s.flush(); err != nil {
		return notTaken(err)
	}
	s.send(".")
	code, lines, err := s.reply(cmp.Or(s.patience, endTime))
	if err != nil {
		return fmt.Errorf("%w: %w", errMaybe, err)
	}
	switch code / 100 {
	case 2:
		_, s.id, _ = strings.Cut(lines[0], "queued as ")
		s.send("QUIT")
		_ = s.flush() // a courtesy
		return nil
	case 4, 5:
		return refusal(code, lines, "the message")
	}
	return fmt.Errorf("%w: it says %d %s", errMaybe, code, status.Clean(lines[0]))
}

// errMaybe says that nobody can say.
var errMaybe = errors.New("the submission server was given the message and may have taken it, sending it again may double it")

// Abort ends the session. A message without its end is none.
func (s *Session) Abort() {
	if s.fd >= 0 {
		_ = unix.Close(s.fd)
		s.fd = -1
	}
}

// send adds a command to what goes out before the next reply is read.
func (s *Session) send(line string) { s.out = append(append(s.out, line...), "\r\n"...) }

// flush writes what is to go out. Nothing is written behind a write that failed.
func (s *Session) flush() error {
	for len(s.out) > 0 {
		if !s.mayWrite {
			return unix.EPIPE
		}
		var n int
		err := retry(func() (err error) { n, err = unix.Write(s.fd, s.out); return err })
		if err != nil {
			s.mayWrite = false
			return fmt.Errorf("write: %w", err)
		}
		s.out = s.out[:copy(s.out, s.out[n:])]
	}
	return nil
}

// expect reads the reply to a command. One with another code than those wanted is an error, as is one that does not come: ErrNotTaken, or when it is final, or a rule
// for the sender, a *status.Error.
func (s *Session) expect(command string, want ...int) (lines []string, err error) {
	code, lines, err := s.reply(cmp.Or(s.patience, commandTime))
	if err != nil {
		return nil, notTaken(err)
	}
	if !slices.Contains(want, code) {
		return nil, refusal(code, lines, command)
	}
	return lines, nil
}

// refusal is what a reply other than the one hoped for means for the message.
func refusal(code int, lines []string, command string) error {
	e := status.ParseReply(code, lines)
	e.Err = fmt.Errorf("said of %s", command)
	if code < 500 && !strings.HasPrefix(e.Enhanced, "4.7.") { // a rule for the sender (RFC 3463 3.8), such as how much is sent in an hour, holds for every way
		return notTaken(e)
	}
	return e
}

// reply reads a reply (RFC 5321 4.2.1).
func (s *Session) reply(patience time.Duration) (code int, lines []string, err error) {
	if err := s.flush(); err != nil {
		return 0, nil, err
	}
	begun := clock.Now()
	for len(lines) < maxReplies {
		line, err := s.readLine()
		for errors.Is(err, unix.EAGAIN) && clock.Since(begun) < patience {
			line, err = s.readLine()
		}
		if err != nil {
			return 0, nil, err
		}
		n, err := strconv.ParseUint(line[:min(3, len(line))], 10, 16)
		rest := line[min(3, len(line)):]
		if err != nil || n < 200 || n > 599 || code != 0 && int(n) != code || rest != "" && rest[0] != ' ' && rest[0] != '-' {
			return 0, nil, fmt.Errorf("not a reply: %q", status.Clean(line))
		}
		code = int(n)
		lines = append(lines, rest[min(1, len(rest)):])
		if rest == "" || rest[0] == ' ' {
			return code, lines, nil
		}
		if clock.Since(begun) > patience {
			return 0, nil, errors.New("a reply takes too long")
		}
	}
	return 0, nil, errors.New("a reply has too many lines")
}

// readLine reads a line without its end.
func (s *Session) readLine() (string, error) {
	for {
		if i := bytes.IndexByte(s.in, '\n'); i >= 0 {
			line := strings.TrimSuffix(string(s.in[:i]), "\r")
			s.in = s.in[i+1:]
			return line, nil
		}
		if len(s.in) > maxReply {
			return "", errors.New("a line of a reply is too long")
		}
		var buf [maxReply]byte
		var n int
		err := retry(func() (err error) { n, err = unix.Read(s.fd, buf[:]); return err })
		if err == nil && n == 0 {
			err = errors.New("connection closed")
		}
		if err != nil {
			return "", fmt.Errorf("read: %w", err)
		}
		s.in = append(s.in, buf[:n]...)
	}
}

// retry repeats a call that a signal interrupted.
func retry(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
