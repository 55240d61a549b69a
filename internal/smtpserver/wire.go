package smtpserver

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strconv"
	"sync"

	"github.com/postel-mail/postel/internal/activation"
)

// Bounds of lines in octets, with their CRLF. RFC 5321 4.5.3.1.4 has 512 for commands, and the extensions add to it: ENVID, ORCPT and UTF-8
// addresses. RFC 4954 4 has 12,288 for AUTH.
const (
	maxCommand = 4096
	maxAuth    = 12288
	maxSkip    = 64 << 10 // of a line that is too long, what is read to find its end
	maxOut     = 4096     // of replies held back
)

// Errors of lines.
var (
	errLong  = errors.New("line too long")                // and behind us
	errFlood = errors.New("line too long, without end")   // somewhere in it
	errBare  = errors.New("bare CR, bare LF or NUL seen") // behind us
)

// wire is the connection: lines and blocks in, replies out.
type wire struct {
	guard *activation.Conn
	conn  net.Conn  // guard, or TLS on it
	tls   *tls.Conn // conn, when it is TLS

	buf   []byte // small, or one of blocks
	r, w  int    // what was read and not yet taken is buf[r:w]
	small [maxCommand]byte
	out   []byte // replies
}

// blocks are what bodies and long lines are read into.
var blocks = sync.Pool{New: func() any { return new([32 << 10]byte) }}

// pending is what was read and not yet taken.
func (w *wire) pending() []byte { return w.buf[w.r:w.w] }

// take takes n octets of pending.
func (w *wire) take(n int) {
	w.r += n
	if w.r == w.w {
		w.r, w.w = 0, 0
	}
}

// fill sends the replies and reads what comes next behind pending, which must be less than a block.
func (w *wire) fill() error {
	if err := w.flush(); err != nil {
		return err
	}
	if w.r > 0 {
		w.w = copy(w.buf, w.pending())
		w.r = 0
	}
	if w.w == len(w.buf) {
		w.grow()
	}
	for range 100 { // io.Reader may give nothing, now and then
		n, err := w.conn.Read(w.buf[w.w:])
		if w.w += n; n > 0 {
			return nil // an error comes back with the next Read
		}
		if err != nil {
			return err
		}
	}
	return io.ErrNoProgress
}

// grow takes a block in the place of the small buffer.
func (w *wire) grow() {
	if len(w.buf) > len(w.small) {
		return
	}
	block := blocks.Get().(*[32 << 10]byte)
	w.w = copy(block[:], w.pending())
	w.r, w.buf = 0, block[:]
}

// release gives the block back when no more is in it than the small buffer holds, so that an idle session has none.
func (w *wire) release() {
	if len(w.buf) > len(w.small) && len(w.pending()) < len(w.small) {
		block := (*[32 << 10]byte)(w.buf)
		w.w = copy(w.small[:], w.pending())
		w.r, w.buf = 0, w.small[:]
		blocks.Put(block)
	}
}

// line takes one line of at most max octets with its CRLF, and gives it without. AUTH may be longer.
func (w *wire) line(max int) (string, error) {
	w.release()
	for seen := 0; ; {
		b := w.pending()
		i := bytes.IndexByte(b[seen:], '\n')
		if n := seen + i + 1; i >= 0 && (n <= max || n <= maxAuth && isAuth(b)) {
			line := b[:n-1]
			bare := !bytes.HasSuffix(line, []byte("\r")) || bytes.IndexByte(line, '\r') < len(line)-1 || bytes.IndexByte(line, 0) >= 0
			s := ""
			if !bare {
				s = string(line[:len(line)-1])
			}
			w.take(n)
			if bare {
				return "", errBare
			}
			return s, nil
		}
		if i >= 0 || len(b) >= max && !(len(b) < maxAuth && isAuth(b)) {
			return "", w.skipLine()
		}
		seen = len(b)
		if err := w.fill(); err != nil {
			return "", err
		}
	}
}

func isAuth(b []byte) bool { return len(b) > 5 && bytes.EqualFold(b[:5], []byte("AUTH ")) }

// skipLine takes the rest of a line.
func (w *wire) skipLine() error {
	cr := false // the octet before b was one
	for skipped := 0; skipped < maxSkip; {
		b := w.pending()
		if i := bytes.IndexByte(b, '\n'); i >= 0 {
			if i > 0 {
				cr = b[i-1] == '\r'
			}
			if w.take(i + 1); !cr {
				return errBare
			}
			return errLong
		}
		if len(b) > 0 {
			cr = b[len(b)-1] == '\r'
		}
		skipped += len(b)
		w.take(len(b))
		if err := w.fill(); err != nil {
			return err
		}
	}
	return errFlood
}

// reply makes a reply of one or more lines; all carry the enhanced code unless it is "" (RFC 2034 4).
func (w *wire) reply(code int, enhanced string, lines ...string) {
	for i, line := range lines {
		w.out = strconv.AppendInt(w.out, int64(code), 10)
		if i < len(lines)-1 {
			w.out = append(w.out, '-')
		} else {
			w.out = append(w.out, ' ')
		}
		if enhanced != "" {
			w.out = append(append(w.out, enhanced...), ' ')
		}
		w.out = append(append(w.out, line...), "\r\n"...)
	}
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
