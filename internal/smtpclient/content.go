package smtpclient

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/postel-mail/postel/internal/message"
)

// blockSize is how much of a message is in memory at a time.
const blockSize = 32 << 10

// content reads a message in blocks, once to learn what it needs and once to send it. A message of one block is read only once.
type content struct {
	body   *io.SectionReader
	block  []byte
	held   int  // octets in block, when it holds the whole message
	whole  bool // block holds the whole message
	eight  bool // has octets over 127
	header bool // has them in its header
}

// errLineEnd says that a message has a CR or LF that is not part of CRLF. On the wire it could end the message where a lax server
// sees the end of data, and what follows would be commands (SMTP smuggling).
var errLineEnd = errors.New("message has a bare CR or LF")

// each calls f with the message's blocks in order.
func (c *content) each(f func(block []byte) error) error {
	if c.whole {
		return f(c.block[:c.held])
	}
	for at, size := int64(0), c.body.Size(); at < size; {
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

// scan reads the message once: it must have CRLF line ends only.
func (c *content) scan() error {
	var lines lineChecker
	var end headerEnd
	err := c.each(func(block []byte) error {
		head := end.within(block)
		c.header = c.header || message.HasEightBit(block[:head])
		c.eight = c.eight || c.header || message.HasEightBit(block[head:])
		return lines.check(block)
	})
	if err == nil {
		err = lines.end()
	}
	c.whole = err == nil && c.body.Size() <= int64(len(c.block))
	c.held = int(min(c.body.Size(), int64(len(c.block))))
	return err
}

// headerEnd finds the empty line that ends a header, which may lie across blocks.
type headerEnd struct {
	matched int // octets of CRLFCRLF seen; 4 is the end
	begun   bool
}

// within gives how many octets of the next block belong to the header.
func (h *headerEnd) within(block []byte) int {
	const blank = "\r\n\r\n"
	if !h.begun { // a message that begins with an empty line has no header
		h.begun, h.matched = true, 2
	}
	for i, b := range block {
		if h.matched == len(blank) {
			return i
		}
		switch {
		case b == blank[h.matched]:
			h.matched++
		case b == '\r':
			h.matched = 1
		default:
			h.matched = 0
		}
	}
	return len(block)
}

// lineChecker proves that CR and LF come only as CRLF.
type lineChecker struct{ cr bool }

func (l *lineChecker) check(block []byte) error {
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
	lines lineChecker
	inner bool // not at the start of a line
}

// write sends the next block of the message.
func (s *stuffer) write(block []byte) error {
	if err := s.lines.check(block); err != nil {
		return err
	}
	for len(block) > 0 {
		if !s.inner && block[0] == '.' {
			if err := s.w.WriteByte('.'); err != nil {
				return err
			}
		}
		line := block
		lf := bytes.IndexByte(block, '\n')
		if lf >= 0 {
			line = block[:lf+1]
		}
		if _, err := s.w.Write(line); err != nil {
			return err
		}
		s.inner = lf < 0
		block = block[len(line):]
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
