package lmtpserver

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/postel-mail/postel/internal/durable"
	"github.com/postel-mail/postel/internal/status"
)

// dotReader reads the body of DATA from the wire (RFC 5321 4.5.2): it ends at CRLF.CRLF and at nothing else, and the dots that the
// client put in front of lines are taken away. CR and LF that do not stand together are passed on, and begin no line.
type dotReader struct {
	w     *wire
	small []byte // the wire's own buffer, while it has a larger one
	state int
}

const (
	lineStart = iota
	midLine
	afterCR
	afterDot   // of a line that began with one
	afterDotCR // "." CR at the beginning of a line
	atEnd
)

// blocks are what bodies are read into.
var blocks = sync.Pool{New: func() any { return new([blockSize]byte) }}

// newDotReader gives the wire a larger buffer, which close takes back.
func newDotReader(w *wire) *dotReader {
	d := &dotReader{w: w, small: w.buf}
	w.buf = blocks.Get().(*[blockSize]byte)[:]
	w.w = copy(w.buf, d.small[w.r:w.w])
	w.r = 0
	return d
}

// close leaves the wire with what came behind the body. The engine, which takes the body for empty, is given the end that it waits for; where
// the body did not end, it is told of a broken connection.
func (d *dotReader) close() {
	w := d.w
	if d.state != atEnd {
		w.end(errNoEnd)
		w.r = w.w
	}
	if rest := w.buf[w.r:w.w]; len(rest) <= len(d.small) {
		block := (*[blockSize]byte)(w.buf)
		w.r, w.w, w.buf = 0, copy(d.small, rest), d.small
		blocks.Put(block)
	}
	w.hand = []byte(".\r\n")
}

// Read gives io.EOF at the end of the body, io.ErrUnexpectedEOF where the connection ended first.
func (d *dotReader) Read(p []byte) (n int, err error) {
	for n == 0 {
		if d.state == atEnd {
			return 0, io.EOF
		}
		if d.w.err != nil {
			return 0, io.ErrUnexpectedEOF
		}
		if d.w.r == d.w.w {
			if err := d.w.fill(); err != nil {
				d.w.err, d.w.why = io.EOF, "in the middle of a message: "+err.Error()
				return 0, fmt.Errorf("%w: %w", io.ErrUnexpectedEOF, err)
			}
		}
		n = d.decode(p)
	}
	return n, nil
}

// decode takes octets from the wire's buffer and puts content into p. Every state keeps what it holds back in its name, so that the
// buffer may end anywhere.
func (d *dotReader) decode(p []byte) (n int) {
	w := d.w
	for w.r < w.w && n < len(p) && d.state != atEnd {
		c := w.buf[w.r]
		switch d.state {
		case lineStart:
			d.state = midLine
			if c == '.' {
				d.state = afterDot
				w.r++
			}
		case afterDot: // the dot was the client's, unless this line is the end
			d.state = midLine
			if c == '\r' {
				d.state = afterDotCR
				w.r++
			}
		case afterDotCR:
			if c == '\n' {
				d.state = atEnd
				w.r++
				break
			}
			p[n] = '\r'
			n++
			d.state = afterCR
		case afterCR:
			d.state = midLine
			if c == '\n' {
				d.state = lineStart
				p[n] = c
				n++
				w.r++
			}
		case midLine:
			// Up to and with the next CR nothing can begin or end.
			run := w.buf[w.r:w.w]
			if i := bytes.IndexByte(run, '\r'); i >= 0 {
				run = run[:i+1]
			}
			m := copy(p[n:], run)
			if p[n+m-1] == '\r' {
				d.state = afterCR
			}
			n += m
			w.r += m
		}
	}
	return n
}

const (
	memoryLimit = 256 << 10 // octets of a body that are kept in memory
	firstBlock  = 8 << 10
)

var (
	errTooLarge = status.Permanent(552, "5.3.4", "Message is larger than this server takes", nil)
	errNoEnd    = errors.New("a message was not read to its end")
	errBareLF   = status.Permanent(550, "5.6.0", "Message has a line that does not end in CRLF", nil)
)

// Body is a message that was taken in, this host's Received field in front (RFC 5321 4.4), lines ending in CRLF, the last one too: in memory when it is small, else in a file without a
// name. It may be read by many at once.
type Body struct {
	memory []byte
	file   *os.File
	size   int64
}

// Size is the length in octets.
func (b *Body) Size() int64 { return b.size }

// ReadAt reads as io.ReaderAt has it.
func (b *Body) ReadAt(p []byte, off int64) (int, error) {
	if b.file != nil {
		return b.file.ReadAt(p, off)
	}
	return bytes.NewReader(b.memory).ReadAt(p, off)
}

// Open gives the message as an open file of its own, placed at the first octet: the standard input of a program.
func (b *Body) Open() (*os.File, error) {
	if b.file != nil {
		f, err := os.Open("/proc/self/fd/" + strconv.Itoa(int(b.file.Fd())))
		if err != nil {
			return nil, fmt.Errorf("lmtpserver: %w", err)
		}
		return f, nil
	}
	fd, err := unix.MemfdCreate("message", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("lmtpserver: memfd_create: %w", err)
	}
	f := os.NewFile(uintptr(fd), "message")
	_, err = f.Write(b.memory)
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lmtpserver: %w", err)
	}
	return f, nil
}

func (b *Body) close() {
	if b.file != nil {
		_ = b.file.Close() // nobody will read it again
	}
}

// takeIn reads a body to its end, and puts trace in front. What is larger than max octets is read on, and thrown away, up to twice that, so
// that the client hears why. The errors of r come back as they are; all others have a status. The body must be closed.
func takeIn(trace string, r io.Reader, max int64) (*Body, error) {
	b := &Body{memory: append(make([]byte, 0, firstBlock), trace...), size: int64(len(trace))}
	max += b.size
	block := blocks.Get().(*[blockSize]byte)
	defer blocks.Put(block)
	var last byte
	var seen int64
	var failed error
	for {
		n, err := r.Read(block[:])
		p := block[:n]
		if seen += int64(n); failed == nil && n > 0 {
			failed = b.append(p, last, max)
			last = p[n-1]
		}
		if failed == errBareLF || failed != nil && seen > 2*max+memoryLimit {
			b.close()
			return nil, failed
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			b.close()
			return nil, err
		}
	}
	if end := []byte("\r\n"); failed == nil && seen > 0 && last != '\n' { // only BDAT can end so
		if last == '\r' {
			end = end[1:]
		}
		failed = b.append(end, last, max+2)
	}
	if failed != nil {
		b.close()
		return nil, failed
	}
	return b, nil
}

// append adds p, which comes behind the octet last.
func (b *Body) append(p []byte, last byte, max int64) error {
	if bareLF(p, last) {
		return errBareLF
	}
	if b.size += int64(len(p)); b.size > max {
		return errTooLarge
	}
	if b.file == nil && b.size <= memoryLimit {
		b.memory = append(b.memory, p...)
		return nil
	}
	err := b.spill()
	if err == nil {
		_, err = b.file.Write(p)
	}
	if durable.IsFull(err) {
		return status.Temporary(452, "4.3.1", "Insufficient system storage", err)
	}
	if err != nil {
		return status.Temporary(451, "4.3.0", "Cannot take the message now", err)
	}
	return nil
}

// spill moves a body from memory to a file without a name.
func (b *Body) spill() error {
	if b.file != nil {
		return nil
	}
	f, err := os.CreateTemp("", "postel-lmtp-*")
	if err != nil {
		return fmt.Errorf("lmtpserver: %w", err)
	}
	b.file = f
	if err := os.Remove(f.Name()); err != nil {
		return fmt.Errorf("lmtpserver: %w", err)
	}
	_, err = f.Write(b.memory)
	b.memory = nil
	return err
}

// bareLF reports whether p, behind the octet last, has an LF without a CR in front.
func bareLF(p []byte, last byte) bool {
	for i := 0; ; i++ {
		j := bytes.IndexByte(p[i:], '\n')
		if j < 0 {
			return false
		}
		if i += j; i > 0 {
			last = p[i-1]
		}
		if last != '\r' {
			return true
		}
	}
}
