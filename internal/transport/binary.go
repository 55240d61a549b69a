package transport

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/postel-mail/postel/internal/queue"
	"github.com/postel-mail/postel/internal/recode"
	"github.com/postel-mail/postel/internal/status"
)

// stdin is what a program gets: the message in its queue file, or a conversion of a binary one (RFC 3030), since programs and mailboxes take lines.
func stdin(m *queue.Message) (*os.File, *status.Error) {
	var f *os.File
	var err error
	if m.Envelope.Body == "BINARYMIME" {
		f, err = convert(m)
	} else {
		f, err = m.OpenBody()
	}
	if err == nil {
		return f, nil
	}
	if errors.Is(err, errBinary) {
		return nil, status.Permanent(554, "5.6.3", "The message is binary, and cannot be converted for this mailbox", err)
	}
	return nil, status.Temporary(451, "4.3.0", "Queued message cannot be read", fmt.Errorf("transport: %w", err))
}

// errBinary says that a part of a message that recode must leave alone, a signed one as a rule, is no text.
var errBinary = errors.New("transport: bare CR, bare LF or NUL in a part that cannot be encoded")

// convert writes the message as lines into a file, placed at its first octet.
func convert(m *queue.Message) (*os.File, error) {
	plan, err := recode.EightBit(m.Body())
	if err != nil {
		return nil, err
	}
	f, err := m.Scratch()
	if err != nil {
		return nil, err
	}
	w := bufio.NewWriterSize(f, 64<<10)
	if err = errors.Join(plan.Copy(w, m.Body()), w.Flush()); err == nil {
		err = isText(f)
	}
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// isText looks at a whole file: CR and LF must come as CRLF alone, of which there are as many then as of each.
func isText(f *os.File) error {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	var ends, crs, lfs int
	var cr bool // the block before ended in one
	for block := make([]byte, 64<<10); ; {
		n, err := f.Read(block)
		b := block[:n]
		if bytes.IndexByte(b, 0) >= 0 {
			return errBinary
		}
		ends += bytes.Count(b, []byte("\r\n"))
		crs, lfs = crs+bytes.Count(b, []byte("\r")), lfs+bytes.Count(b, []byte("\n"))
		if cr && n > 0 && b[0] == '\n' {
			ends++
		}
		if n > 0 {
			cr = b[n-1] == '\r'
		}
		switch {
		case err == io.EOF && (crs != ends || lfs != ends):
			return errBinary
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		}
	}
}
