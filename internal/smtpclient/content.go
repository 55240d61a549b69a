package smtpclient

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/postel-mail/postel/internal/message"
	"github.com/postel-mail/postel/internal/recode"
)

// blockSize is how much of a message is in memory at a time.
const blockSize = 64 << 10

// content reads a message in blocks, once to learn what it needs and once to send it. A message of one block is read only once.
type content struct {
	body   *io.SectionReader
	block  []byte
	plan   *recode.Plan // what is sent is a conversion of body; nil for body itself
	binary bool         // CR and LF are octets as all others

	whole  bool  // block holds the whole message
	size   int64 // octets as they are sent, without what the protocol adds
	open   bool  // its last line has no end
	eight  bool  // it has octets over 127
	header bool  // it has them in its header
}

// errLineEnd says that a message has a CR or LF that is not part of CRLF. On the wire it could end the message where a lax server
// sees the end of data, and what follows would be commands (SMTP smuggling).
var errLineEnd = errors.New("message has a bare CR or LF")

// errNUL says that a conversion has left one in a part that cannot be encoded.
var errNUL = errors.New("message has a NUL")

// each calls f with the message's blocks in order.
func (c *content) each(f func(block []byte) error) error {
	if c.whole {
		return f(c.block[:c.size])
	}
	size := c.body.Size()
	if c.plan != nil {
		counted := &counter{r: io.NewSectionReader(c.body, 0, size)}
		err := c.plan.Copy(blocks(f), counted)
		if err == io.EOF || err == nil && counted.n < size {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	for at := int64(0); at < size; {
		n, err := c.body.ReadAt(c.block[:min(int64(len(c.block)), size-at)], at)
		if n == 0 && err == nil || err == io.EOF && at+int64(n) < size {
			err = io.ErrUnexpectedEOF
		}
		if err != nil && err != io.EOF {
			return err
		}
		at += int64(n)
		if err := f(c.block[:n]); err != nil {
			return err
		}
	}
	return nil
}

// blocks is a function of blocks as a writer.
type blocks func([]byte) error

func (f blocks) Write(b []byte) (int, error) { return len(b), f(b) }

// counter counts what is read.
type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// scan reads the message once. Unless it is binary it must have CRLF line ends only.
func (c *content) scan() error {
	c.size, c.open, c.eight, c.header = 0, false, false, false
	lines := lineChecker{any: c.binary}
	var end message.HeaderEnd
	err := c.each(func(block []byte) error {
		if len(block) == 0 {
			return nil
		}
		if c.plan != nil && bytes.IndexByte(block, 0) >= 0 {
			return errNUL
		}
		c.size += int64(len(block))
		c.open = block[len(block)-1] != '\n'
		head := end.Within(block)
		c.header = c.header || message.HasEightBit(block[:head])
		c.eight = c.eight || c.header || message.HasEightBit(block[head:])
		return lines.check(block)
	})
	if err == nil {
		err = lines.end()
	}
	c.whole = err == nil && c.plan == nil && c.size <= int64(len(c.block))
	return err
}

// convert makes what is sent a conversion of the message, and scans that.
func (c *content) convert(plan func(io.Reader) (*recode.Plan, error)) (err error) {
	c.binary, c.whole = false, false
	if c.plan, err = plan(io.NewSectionReader(c.body, 0, c.body.Size())); err != nil {
		return err
	}
	return c.scan()
}

// length is how many octets the server gets, without stuffing and the final dot: an open last line is ended.
func (c *content) length() int64 {
	if c.open && !c.binary {
		return c.size + 2
	}
	return c.size
}

// lineChecker proves that CR and LF come only as CRLF.
type lineChecker struct {
	any bool // they may come in any way
	cr  bool
}

func (l *lineChecker) check(block []byte) error {
	if l.any {
		return nil
	}
	for len(block) > 0 {
		if l.cr {
			if block[0] != '\n' {
				return errLineEnd
			}
			l.cr, block = false, block[1:]
			continue
		}
		lf := bytes.IndexByte(block, '\n')
		line := block
		if lf >= 0 {
			line = block[:lf]
		}
		switch cr := bytes.IndexByte(line, '\r'); {
		case cr < 0 && lf >= 0, cr >= 0 && cr != len(line)-1:
			return errLineEnd
		case cr >= 0:
			l.cr = true
		}
		block = block[len(line):]
	}
	return nil
}

func (l *lineChecker) end() error {
	if l.cr {
		return errLineEnd
	}
	return nil
}

// stuffer writes a message as it goes over the wire after DATA (RFC 5321 4.5.2): a dot before each line that begins with one. It writes
// no CR and no LF that is not part of CRLF.
type stuffer struct {
	w     *bufio.Writer
	known bool // the line ends of what is written have been checked
	lines lineChecker
	inner bool // not at the start of a line
}

// write sends the next block of the message.
func (s *stuffer) write(block []byte) error {
	if !s.known {
		if err := s.lines.check(block); err != nil {
			return err
		}
	}
	for len(block) > 0 {
		if !s.inner && block[0] == '.' {
			if err := s.w.WriteByte('.'); err != nil {
				return err
			}
		}
		lines := block
		dot := bytes.Index(block, []byte("\n."))
		if dot >= 0 {
			lines = block[:dot+1]
		}
		if _, err := s.w.Write(lines); err != nil {
			return err
		}
		s.inner = lines[len(lines)-1] != '\n'
		block = block[len(lines):]
	}
	return nil
}

// end completes the last line and puts the final dot into the buffer; nothing of it needs to be on the wire before Flush.
func (s *stuffer) end() error {
	if err := s.lines.end(); err != nil {
		return err
	}
	end := ".\r\n"
	if s.inner { // the end of data is CRLF.CRLF, so an open last line cannot be sent as it is
		end = "\r\n.\r\n"
	}
	if _, err := s.w.WriteString(end); err != nil {
		return fmt.Errorf("end of data: %w", err)
	}
	return nil
}

// chunk writes a message as the one chunk of a BDAT (RFC 3030 2), whose length has been said: no octet less or more.
type chunk struct {
	w     *bufio.Writer
	left  int64
	last  func() error // is called before the last octet may go out
	lines lineChecker
}

// errLength says that a message is not as long as it was when it was scanned.
var errLength = errors.New("message has changed its length")

func (c *chunk) write(block []byte) error {
	if err := c.lines.check(block); err != nil {
		return err
	}
	if c.left -= int64(len(block)); c.left < 0 {
		return errLength
	}
	if c.left == 0 {
		if err := c.last(); err != nil {
			return err
		}
	}
	_, err := c.w.Write(block)
	return err
}

// end ends an open last line, which missing is the octets of.
func (c *chunk) end(missing int64) error {
	switch {
	case c.left != missing:
		return errLength
	case missing > 0:
		return c.write([]byte("\r\n"))
	}
	return c.lines.end()
}
