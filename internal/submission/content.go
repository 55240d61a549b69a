package submission

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/postel-mail/postel/internal/message"
	"github.com/postel-mail/postel/internal/status"
	"github.com/postel-mail/postel/internal/sysexits"
)

// inMemory is how much of a message is held in memory, in octets.
const inMemory = 1 << 20

// content is a whole message with CRLF line ends, in memory or in a file without a name.
type content struct {
	io.ReaderAt
	size int64
	file *os.File // nil when in memory
}

// Close gives up the file.
func (c *content) Close() {
	if c.file != nil {
		_ = c.file.Close() // nothing in it is needed any more
	}
}

// read takes r to its end, at most limit octets.
func read(r io.Reader, limit int64) (*content, error) {
	in := &input{r: r}
	c := &content{}
	var head bytes.Buffer
	n, err := io.CopyN(&head, in, min(inMemory, limit)+1)
	if err == io.EOF {
		c.ReaderAt, c.size = bytes.NewReader(head.Bytes()), n
		return c, nil
	}
	if err == nil && n <= limit {
		if c.file, err = tempFile(); err != nil {
			return nil, err
		}
		c.ReaderAt = c.file
		c.size, err = io.Copy(c.file, io.MultiReader(&head, io.LimitReader(in, limit+1-n)))
	}
	switch {
	case in.err != nil:
		err = sysexits.With(sysexits.IOErr, fmt.Errorf("cannot read the message: %w", in.err))
	case err == nil && max(n, c.size) > limit:
		err = status.Permanent(552, "5.3.4", fmt.Sprintf("Message is larger than %d octets, limits.message_size", limit), nil)
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// input remembers an error of its reader, so that it is told apart from one of the writer.
type input struct {
	r   io.Reader
	err error
}

func (i *input) Read(p []byte) (int, error) {
	n, err := i.r.Read(p)
	if err != nil && err != io.EOF {
		i.err = err
	}
	return n, err
}

// tempFile makes a file in $TMPDIR that goes away with the process.
func tempFile() (*os.File, error) {
	f, err := os.CreateTemp("", "sendmail")
	if err != nil {
		return nil, fmt.Errorf("cannot keep the message: %w", err)
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// split reads the header, and gives the body behind it.
func (c *content) split() (*message.Header, *io.SectionReader, error) {
	all := io.NewSectionReader(c, 0, c.size)
	r := bufio.NewReader(all)
	h, err := message.ReadHeader(r, message.MaxHeader)
	if err != nil {
		return nil, nil, err
	}
	at, err := all.Seek(0, io.SeekCurrent)
	if err != nil {
		return nil, nil, err
	}
	at -= int64(r.Buffered())
	return h, io.NewSectionReader(c, at, c.size-at), nil
}
