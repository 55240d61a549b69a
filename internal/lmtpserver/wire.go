package lmtpserver

import (
	"bytes"
	"errors"
	"io"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/postel-mail/postel/internal/activation"
	"github.com/postel-mail/postel/internal/address"
	"github.com/postel-mail/postel/internal/maillog"
)

const (
	maxLine   = 4096     // octets of a command with its CRLF
	blockSize = 32 << 10 // octets of a body read at once
	maxErrors = 20       // refused commands that are no RCPT
	maxIdle   = 100      // commands without a message
)

var (
	errLongLine = errors.New("command line too long")
	errBareLine = errors.New("command line does not end in CRLF")
)

// wire stands between the engine and the guard and does the framing, so that the engine never holds an octet that it has not been told what
// to take for: it is given one command line, or one chunk of BDAT, at a time. The body of DATA passes it by (see dotReader), and in its place it
// gets the end of an empty one. Commands are held against the grammar here, addresses are parsed here, and replies that say a wrong code or
// repeat the peer's words are put right.
//
// Between two calls of the engine it belongs to one goroutine: the engine's own, or that of a body while it runs.
type wire struct {
	*activation.Conn
	host   string
	log    *maillog.Log
	open   func() bool // a transaction has recipients
	buf    []byte
	r, w   int    // what was read and not yet taken is buf[r:w]
	hand   []byte // what the engine gets next
	chunk  int64  // octets of a BDAT chunk that it gets behind that
	verb   string // of the command that the engine has
	last   bool   // it is a BDAT LAST
	first  bool   // it has not been answered yet
	maxBad int    // refused recipients
	errors int    // since the last message: refused commands,
	bad    int    // refused recipients,
	idle   int    // commands that send nothing
	path   address.Path
	err    error  // every later Read of the engine
	why    string // why the session ended, where it was not the client's wish
	closed chan struct{}
	once   sync.Once
}

func newWire(c *activation.Conn, s *Server, open func() bool) *wire {
	return &wire{Conn: c, host: s.Hostname, log: s.Log, open: open, maxBad: max(maxErrors, s.MaxRecipients), buf: make([]byte, maxLine), closed: make(chan struct{})}
}

// Read gives the engine what it may see. A bug in here costs this connection; the engine would let it take the program down.
func (w *wire) Read(p []byte) (n int, err error) {
	defer func() {
		if v := recover(); v != nil {
			w.log.Panic(w.Client(), v, debug.Stack())
			w.why, w.err, w.hand, w.chunk = "bug", io.EOF, nil, 0
			n, err = 0, io.ErrUnexpectedEOF
		}
	}()
	for len(w.hand) == 0 && w.chunk == 0 {
		if w.err != nil {
			return 0, w.err
		}
		line, err := w.line()
		if err != nil {
			w.end(err)
			continue
		}
		if reply := w.command(line); reply != "" {
			if _, err := w.Write([]byte(reply + "\r\n")); err != nil {
				w.end(err)
			}
		}
	}
	if len(w.hand) > 0 {
		n := copy(p, w.hand)
		w.hand = w.hand[n:]
		return n, nil
	}
	return w.readChunk(p)
}

// readChunk gives octets of a BDAT chunk. One that is cut short must not look like one that ended: the engine would take it for whole.
func (w *wire) readChunk(p []byte) (int, error) {
	if w.r == w.w && w.err == nil {
		if err := w.fill(); err != nil {
			w.err, w.why = io.EOF, "in the middle of a message: "+err.Error()
		}
	}
	if w.r == w.w {
		w.chunk = 0
		return 0, reply(errCutShort)
	}
	n := copy(p[:min(int64(len(p)), w.chunk)], w.buf[w.r:w.w])
	w.r += n
	w.chunk -= int64(n)
	return n, nil
}

// fill reads what comes next behind what is there. The guard sends the replies before it waits.
func (w *wire) fill() error {
	if w.r > 0 {
		w.w = copy(w.buf, w.buf[w.r:w.w])
		w.r = 0
	}
	n, err := w.Conn.Read(w.buf[w.w:])
	w.w += n
	if n > 0 {
		return nil // the guard gives the error again
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	return err
}

// line takes one command line, without its CRLF.
func (w *wire) line() (string, error) {
	for seen := 0; ; {
		b := w.buf[w.r:w.w]
		if i := bytes.IndexByte(b[seen:], '\n'); i >= 0 {
			line, ok := bytes.CutSuffix(b[:seen+i], []byte("\r"))
			w.r += seen + i + 1
			switch {
			case !ok:
				return "", errBareLine
			case len(line)+2 > maxLine:
				return "", errLongLine
			}
			return string(line), nil
		}
		if seen = len(b); seen >= maxLine {
			return "", errLongLine
		}
		if err := w.fill(); err != nil {
			return "", err
		}
	}
}

// end is the end of what the engine can read. What it has to do with the client is said here.
func (w *wire) end(err error) {
	if w.err != nil {
		return
	}
	w.err = io.EOF
	reply := ""
	switch {
	case errors.Is(err, activation.ErrDraining):
		reply, w.why = "421 4.3.2 "+w.host+" is shutting down", err.Error()
	case errors.Is(err, os.ErrDeadlineExceeded):
		reply, w.why = "421 4.4.2 "+w.host+" timeout, closing connection", "timeout"
	case errors.Is(err, errLongLine):
		reply, w.why = "500 5.5.6 Line too long, closing connection", err.Error()
	case errors.Is(err, errBareLine):
		reply, w.why = "500 5.5.2 Lines must end in CRLF, closing connection", err.Error()
	case err != io.EOF:
		w.why = err.Error()
	}
	if reply != "" {
		_, _ = w.Conn.Write([]byte(reply + "\r\n")) // the session is over either way
	}
}

// command looks at one command line. It gives the reply where that can be said here; otherwise what the engine gets is in hand.
func (w *wire) command(line string) (reply string) {
	line = strings.TrimRight(line, " ")
	w.verb, w.first = "", true
	if !utf8.ValidString(line) || strings.ContainsFunc(line, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return "500 5.5.2 Command has a character that is not allowed"
	}
	verb, arg, _ := strings.Cut(line, " ")
	w.verb, w.first = strings.ToUpper(verb), true
	if w.verb != "RCPT" && w.verb != "DATA" && w.verb != "BDAT" {
		w.idle++
	}
	switch w.verb {
	case "GET", "POST", "HEAD", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH": // a browser sent here by a web page
		w.err, w.why = io.EOF, "HTTP"
		return "421 4.7.0 This is LMTP"
	case "AUTH", "STARTTLS":
		return "502 5.5.1 Command not implemented"
	case "MAIL", "RCPT":
		if reply = w.parsePath(&line); reply != "" {
			return reply
		}
	case "BDAT":
		return w.bdat(line, arg)
	}
	if strings.HasPrefix(w.verb, "STARTTLS") { // the engine would take it for STARTTLS
		return "500 5.5.2 Command unrecognized"
	}
	w.hand = []byte(line + "\r\n")
	return ""
}

// parsePath parses the path of MAIL and RCPT, and writes it into the line again in the one way that the engine reads right. The engine
// unquotes local parts and takes what is no address; so it is path that counts, not what the engine says.
func (w *wire) parsePath(line *string) (reply string) {
	keyword, parse, bad := "MAIL FROM:", address.ParseReverse, "501 5.1.7 Bad sender address: "
	if w.verb == "RCPT" {
		keyword, parse, bad = "RCPT TO:", address.ParseForward, "501 5.1.3 Bad recipient address: "
	}
	if len(*line) < len(keyword) || !strings.EqualFold((*line)[:len(keyword)], keyword) {
		return "501 5.5.4 Syntax: " + keyword + "<address>"
	}
	path, rest, err := parse(strings.TrimLeft((*line)[len(keyword):], " "))
	if err == nil && rest != "" && rest[0] != ' ' {
		err = errors.New("unexpected characters after the address")
	}
	if err != nil {
		return bad + err.Error()
	}
	w.path = path
	if path.Domain == "" && path.Local != "" {
		path.Domain = w.host // <postmaster>, which the engine does not know
	}
	*line = keyword + path.Angle() + rest
	return ""
}

// bdat looks at a BDAT command, which its chunk follows at once whether it is accepted or not (RFC 3030 2).
func (w *wire) bdat(line, arg string) (reply string) {
	f := strings.Fields(arg)
	n, err := uint64(0), errors.New("no size")
	if len(f) == 1 || len(f) == 2 && strings.EqualFold(f[1], "LAST") {
		n, err = strconv.ParseUint(f[0], 10, 31) // the engine reads no more than 32 bits
	}
	if err != nil {
		// Where the next command begins is not known.
		w.err, w.why = io.EOF, "malformed BDAT"
		return "501 5.5.4 Syntax: BDAT size [LAST]"
	}
	w.last = len(f) == 2
	if n == 0 && !w.last {
		w.idle++
	}
	if n == 0 && !w.last && w.open() {
		return "250 2.0.0 Ok" // would leave the engine's body reader without a chunk to wait for
	}
	if n > 0 && w.r == w.w {
		// The first octet is here before the engine begins, because it does not bear an end at that point.
		if err := w.fill(); err != nil {
			w.end(err)
			return ""
		}
	}
	w.hand, w.chunk = []byte(line+"\r\n"), int64(n)
	return ""
}

// Write sends a reply: the engine's, which it writes one line at a time, or one of wire's own.
func (w *wire) Write(p []byte) (int, error) {
	_, err := w.Conn.Write(w.reword(p))
	if w.first && len(p) > 3 && p[3] != '-' {
		w.first = false
		w.judge(p[0] == '4' || p[0] == '5')
	}
	return len(p), err
}

// judge ends the session when a command was refused, or not, that is one too many. A refused DATA ends it too when something
// stands behind it: a client that did not wait for 354, as RFC 2920 3.1 demands, has sent its message, and that must not run as commands.
func (w *wire) judge(refused bool) {
	switch {
	case !refused && (w.verb == "DATA" || w.verb == "BDAT" && w.last):
		w.errors, w.bad, w.idle = 0, 0, 0
	case refused && w.verb == "RCPT":
		w.bad++
	case refused:
		w.errors++
	}
	switch {
	case w.err != nil:
	case refused && w.verb == "DATA" && w.r < w.w:
		w.err, w.why = io.EOF, "message sent without waiting for 354"
	case w.errors >= maxErrors || w.bad >= w.maxBad:
		w.tooMany("too many errors", "Too many errors")
	case w.idle >= maxIdle:
		w.tooMany("too many commands without a message", "Too many commands without a message")
	}
}

func (w *wire) tooMany(why, text string) {
	w.err, w.why = io.EOF, why
	_, _ = w.Conn.Write([]byte("421 4.7.0 " + text + "\r\n")) // the session is over either way
}

// okReplies are the replies to commands that succeeded.
var okReplies = map[string]string{"MAIL": "250 2.1.0 Ok\r\n", "RCPT": "250 2.1.5 Ok\r\n", "RSET": "250 2.0.0 Ok\r\n", "NOOP": "250 2.0.0 Ok\r\n"}

// reword puts the engine's replies right: 503 for a bad sequence of commands (RFC 5321 4.3.2), enhanced codes that say
// something, our own name in the greeting, and none of the peer's words.
func (w *wire) reword(p []byte) []byte {
	switch {
	case okReplies[w.verb] != "" && bytes.HasPrefix(p, []byte("250 ")):
		return []byte(okReplies[w.verb])
	case w.verb == "LHLO" && bytes.HasPrefix(p, []byte("250-Hello ")):
		return []byte("250-" + w.host + "\r\n")
	case w.verb == "LHLO" && string(p[min(len(p), 4):]) == "DSN\r\n": // its reports would be ours to send
		return append(p[:4:4], "XDSN\r\n"...)
	case bytes.HasPrefix(p, []byte("502 5.5.1 ")) && (w.verb == "MAIL" || w.verb == "RCPT" || w.verb == "DATA" || w.verb == "BDAT"):
		return append([]byte("503 5.5.1 "), p[len("502 5.5.1 "):]...)
	case bytes.HasPrefix(p, []byte("500 5.5.2 Syntax errors")):
		return []byte("500 5.5.2 Command unrecognized\r\n")
	case bytes.HasPrefix(p, []byte("500 5.5.1 Too many errors.")): // of commands that it does not know
		return []byte("421 4.7.0 Too many errors\r\n")
	case w.verb == "" && bytes.HasPrefix(p, []byte("220 ")):
		return []byte("220 " + w.host + " LMTP postel\r\n")
	}
	return p
}

// Close ends what the engine can read. The connection itself is closed by who made it.
func (w *wire) Close() error {
	if w.err == nil {
		w.err = io.EOF
	}
	w.once.Do(func() { close(w.closed) })
	return w.Conn.Flush()
}
