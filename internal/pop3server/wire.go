package pop3server

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"

	"github.com/postel-mail/postel/internal/activation"
)

// Bounds in octets.
const (
	maxLine  = 255      // of a command with its line end: RFC 2449 4
	maxSkip  = 64 << 10 // of a line that is too long, what is read to find its end
	maxReply = 512      // of the first line of a reply: RFC 2449 4
	maxOut   = 4096     // of replies held back
)

// Errors of lines; the client hears their text.
var (
	errLong    = errors.New("command is longer than 255 octets")         // and behind us
	errFlood   = errors.New("command is longer than 255 octets, no end") // somewhere in it
	errControl = errors.New("a control character stands in the command") // behind us
)

const crlf = "\r\n"

// Response codes: RFC 2449 8.1, RFC 3206.
const (
	inUse   = "IN-USE"
	auth    = "AUTH"
	sysTemp = "SYS/TEMP"
	sysPerm = "SYS/PERM"
)

// wire is the connection: lines in, replies out.
type wire struct {
	guard *activation.Conn
	conn  net.Conn  // guard, or TLS on it
	tls   *tls.Conn // conn, when it is TLS

	in   [1024]byte // what was read and not yet taken is in[r:w]
	r, w int
	out  []byte
}

// pending is what was read and not yet taken.
func (w *wire) pending() []byte { return w.in[w.r:w.w] }

// line takes one line, and gives it without its end, CRLF or LF.
func (w *wire) line() (string, error) {
	for skipped := 0; ; {
		b := w.pending()
		i := bytes.IndexByte(b, '\n')
		switch {
		case i >= 0 && (skipped > 0 || i >= maxLine):
			w.r += i + 1
			return "", errLong
		case i >= 0:
			line := string(bytes.TrimSuffix(b[:i], []byte("\r")))
			w.r += i + 1
			for j := range len(line) {
				if line[j] < ' ' || line[j] == 0x7f {
					return "", errControl
				}
			}
			return line, nil
		case skipped > maxSkip:
			return "", errFlood
		case skipped > 0 || len(b) >= maxLine:
			skipped += len(b)
			w.r = w.w
		}
		if err := w.fill(); err != nil {
			return "", err
		}
	}
}

// fill sends the replies and reads what comes next.
func (w *wire) fill() error {
	if err := w.flush(); err != nil {
		return err
	}
	w.w = copy(w.in[:], w.pending())
	w.r = 0
	n, err := w.conn.Read(w.in[w.w:])
	w.w += n
	if n > 0 {
		return nil // an error comes back with the next Read
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	return err
}

// ok makes a positive reply of one line, or the first line of several.
func (w *wire) ok(text string) { w.reply("+OK ", text) }

// fail makes a negative reply; code is a response code or "".
func (w *wire) fail(code, text string) {
	if code == "" {
		w.reply("-ERR ", text)
		return
	}
	w.reply("-ERR ["+code+"] ", text)
}

func (w *wire) reply(indicator, text string) {
	w.put(indicator + text[:min(len(text), maxReply-len(indicator)-len(crlf))] + crlf)
}

// put appends to the replies.
func (w *wire) put(s string) {
	w.out = append(w.out, s...)
	if len(w.out) >= maxOut {
		_ = w.flush() // the error comes back with the next Read
	}
}

// flush writes the replies to the guard, which sends them before it waits.
func (w *wire) flush() error {
	if len(w.out) == 0 {
		return nil
	}
	_, err := w.conn.Write(w.out)
	w.out = w.out[:0]
	return err
}

// sync sends everything.
func (w *wire) sync() error {
	if err := w.flush(); err != nil {
		return err
	}
	return w.guard.Flush()
}
