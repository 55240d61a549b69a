package dsn

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"mime/quotedprintable"

	"github.com/postel-mail/postel/internal/message"
)

// Sizes in octets.
const (
	// maxUnasked is up to which a message goes back whole when the sender did not choose (RFC 3461 4.3 leaves it to us).
	maxUnasked = 64 << 10
	// maxReturned is the same for one who asked for all of it: the sender has it, and a report that is too large to be taken tells nothing.
	maxReturned = 1 << 20
	// maxReturnedHeader is where a header that goes back is cut.
	maxReturnedHeader = 256 << 10
)

// The encodings of parts, besides none, which is 7bit.
const (
	eightBit        = "8bit"
	quotedPrintable = "quoted-printable"
)

// form is how a report is written.
type form struct {
	utf8     bool   // by RFC 6533: the sender's own address needs SMTPUTF8
	eight    bool   // the report needs 8BITMIME
	whole    bool   // the message goes back, not its header alone
	size     int64  // octets of it that go back
	kind     string // of what goes back
	encoding string // of that
}

// form reads the message, to see how it can be returned. Success and delay bring back the header alone (RFC 3461 6.2), and so do a message that no transport
// could carry, one that is no text and one with RequireTLS (RFC 8689 5).
func (r *Report) form() (f form, err error) {
	f.utf8 = r.Message.From.NeedsUTF8()
	if f.size, err = r.headerSize(); err != nil {
		return f, err
	}
	head, err := r.copyOriginal(io.Discard, f.size)
	if err != nil {
		return f, err
	}
	content := head
	most := int64(maxUnasked)
	if r.Message.Ret == "FULL" {
		most = maxReturned
	}
	if r.Action == Failed && r.Message.Ret != "HDRS" && !r.Message.RequireTLS && r.Message.Body != "BINARYMIME" && r.Size <= most {
		all, err := r.copyOriginal(io.Discard, r.Size)
		if err != nil {
			return f, err
		}
		if f.whole = !isOdd(all); f.whole {
			content, f.size = all, r.Size
		}
	}
	f.label(r.Message.SMTPUTF8 && head.EightBit(), content)
	return f, nil
}

// label finds type and encoding of what goes back; global says that its header is international.
func (f *form) label(global bool, content *message.LineReader) {
	switch {
	case f.whole && global:
		f.kind = "message/global"
	case f.whole:
		f.kind = "message/rfc822"
	case global:
		f.kind = "message/global-headers"
	default:
		f.kind = "text/rfc822-headers"
	}
	switch {
	case isOdd(content):
		f.encoding = quotedPrintable
	case content.EightBit() && (f.whole || f.utf8):
		f.encoding = eightBit
	case content.EightBit():
		f.encoding = quotedPrintable // RFC 6522 4 and RFC 6533 6 allow it for headers
	}
	f.eight = f.utf8 || f.encoding == eightBit
}

// isOdd reports whether what was read has something that cannot be sent (RFC 5321 4.5.3.1.6, RFC 5322 2.3).
func isOdd(lines *message.LineReader) bool {
	return lines.Longest() > message.MaxLine || lines.HasNUL()
}

// headerSize is the length of the message's header in octets, without the empty line behind it, and maxReturnedHeader at most.
func (r *Report) headerSize() (size int64, err error) {
	if _, err := r.Original.Seek(0, io.SeekStart); err != nil {
		return 0, err
	}
	in := bufio.NewReader(io.LimitReader(r.Original, maxReturnedHeader))
	for start := true; ; start = err == nil { // of a line
		var part []byte
		part, err = in.ReadSlice('\n')
		if start && err == nil && len(bytes.TrimRight(part, "\r\n")) == 0 {
			return size, nil
		}
		size += int64(len(part))
		if err == io.EOF {
			return size, nil
		}
		if err != nil && err != bufio.ErrBufferFull {
			return 0, err
		}
	}
}

// copyOriginal copies so many octets of the message. Its line ends become CRLF, whatever they were.
func (r *Report) copyOriginal(w io.Writer, size int64) (*message.LineReader, error) {
	if _, err := r.Original.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	lines := message.CRLF(io.LimitReader(r.Original, size))
	_, err := io.Copy(w, lines)
	return lines, err
}

// writeReturned writes the part with the message or its header.
func (r *Report) writeReturned(w *writer, f form) error {
	out := w.part(f.kind, f.encoding)
	_, err := r.copyOriginal(out, f.size)
	_ = out.Close() // an error stays in w
	return err
}

// writer writes lines; the first error sticks in w and shows at the end.
type writer struct {
	w        *bufio.Writer
	counter  *counter
	boundary string
}

type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

func newWriter(out io.Writer) *writer {
	c := &counter{w: out}
	return &writer{w: bufio.NewWriterSize(c, 32<<10), counter: c, boundary: "=_postel_" + rand.Text()}
}

func (w *writer) line(format string, args ...any) { _, _ = fmt.Fprintf(w.w, format+"\r\n", args...) }

func (w *writer) field(name, value string) { _, _ = w.w.Write(message.NewField(name, value)) }

// part begins a part of the multipart. Its content is written to what it gives, which is closed after that.
func (w *writer) part(kind, encoding string) io.WriteCloser {
	w.line("--%s", w.boundary)
	w.line("Content-Type: %s", kind)
	if encoding != "" {
		w.line("Content-Transfer-Encoding: %s", encoding)
	}
	w.line("")
	if encoding == quotedPrintable {
		return &encoder{quotedprintable.NewWriter(w.w), w}
	}
	return plain{w}
}

// plain is a part that is written as it is. The line end behind a part belongs to the boundary (RFC 2046 5.1.1).
type plain struct{ w *writer }

func (p plain) Write(b []byte) (int, error) { return p.w.w.Write(b) }
func (p plain) Close() error                { p.w.line(""); return nil }

// encoder is a part in quoted-printable.
type encoder struct {
	*quotedprintable.Writer
	w *writer
}

func (e *encoder) Close() error {
	err := e.Writer.Close()
	e.w.line("")
	return err
}

// end flushes the report. err is an error from before.
func (w *writer) end(err error) (int64, error) {
	if flushed := w.w.Flush(); err == nil {
		err = flushed
	}
	return w.counter.n, err
}
