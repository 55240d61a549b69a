package mbox

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"strings"

	"github.com/postel-mail/postel/internal/mailbox"
)

// item is one message of an mbox. Offsets are in octets from the beginning of the file.
type item struct {
	from  int64  // of the From_ line
	start int64  // of the message
	end   int64  // behind the message, in front of the empty line
	next  int64  // of the next From_ line, or the end of the file
	sum   uint32 // of the first octets from the From_ line on, sumSpan or up to next
	size  int64  // as sent
	uid   string
}

const (
	uidSpan = 16 << 10 // octets of a message that go into its UID at most
	sumSpan = 1 << 10
)

// scanner reads an mbox from its beginning and finds the messages. A From_ line is one that begins with "From " and is the first of
// the file or has an empty line in front.
type scanner struct {
	pos    int64 // of what comes next
	blank  int64 // length of the line before when it was empty, else 0
	inLine bool  // what comes next is the rest of a line
	items  []item
	seen   map[string]int

	// Of the message that is being read:
	inFrom   bool // in its From_ line
	inHeader bool
	volatile bool // in a header field that mail programs change
	blanks   int  // empty lines that are not yet in uid
	uid      hash.Hash
	span     int // octets that may still go into uid
	unquote  quoting
	size     mailbox.Size
	buf      []byte
}

// scan finds the messages in r. An empty file has none.
func scan(ctx context.Context, r io.Reader) ([]item, error) {
	s := &scanner{seen: map[string]int{}, uid: sha256.New()}
	br := bufio.NewReaderSize(r, 64<<10)
	for {
		part, err := br.ReadSlice('\n')
		if len(part) > 0 {
			if err := cmp.Or(ctx.Err(), s.part(part)); err != nil {
				return nil, err
			}
		}
		if err == io.EOF {
			s.finish()
			return s.items, nil
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return nil, err
		}
	}
}

// part takes a line, or a part of one when it is long.
func (s *scanner) part(p []byte) error {
	begins, ends := !s.inLine, p[len(p)-1] == '\n'
	text := bytes.TrimRight(p, "\r\n")
	switch {
	case begins && (s.blank > 0 || s.pos == 0) && bytes.HasPrefix(p, []byte(fromWord)):
		s.finish()
		s.begin()
	case len(s.items) == 0:
		return errNotMbox
	}
	item := &s.items[len(s.items)-1]
	if n := sumSpan - (s.pos - item.from); n > 0 {
		item.sum = crc32.Update(item.sum, crc32.IEEETable, p[:min(int64(len(p)), n)])
	}
	s.pos += int64(len(p))
	s.inLine = !ends
	if s.inFrom {
		item.start = s.pos
		_, _ = s.uid.Write(text)
		s.inFrom, s.blank = !ends, 0
		return nil
	}
	s.blank = 0
	if begins && (string(p) == "\n" || string(p) == "\r\n") {
		s.blank = int64(len(p))
	}
	s.identify(begins, text)
	s.buf = s.unquote.append(s.buf[:0], p)
	_, _ = s.size.Write(s.buf)
	return nil
}

// begin begins a message at pos.
func (s *scanner) begin() {
	s.items = append(s.items, item{from: s.pos})
	s.uid.Reset()
	s.inFrom, s.inHeader, s.volatile, s.blanks, s.span = true, true, false, 0, uidSpan
	s.unquote, s.size = quoting{out: true}, mailbox.Size{}
}

// finish ends the message at pos. The empty line behind it is not part of it.
func (s *scanner) finish() {
	if len(s.items) == 0 {
		return
	}
	item := &s.items[len(s.items)-1]
	_, _ = s.size.Write(s.unquote.flush(nil))
	item.size, item.end, item.next = s.size.Octets(), s.pos-s.blank, s.pos
	if s.blank > 0 {
		item.size -= 2
	}
	item.uid = hex.EncodeToString(s.uid.Sum(nil)[:16])
	if s.seen[item.uid]++; s.seen[item.uid] > 1 {
		item.uid = fmt.Sprintf("%s.%d", item.uid, s.seen[item.uid])
	}
}

// identify puts a line, or a part of one, into the message's UID: the header but for the fields that mail programs change, and the
// beginning of the body; without line ends and the empty lines at the end, which a later delivery may complete.
func (s *scanner) identify(begins bool, text []byte) {
	if begins && s.inHeader {
		if len(text) == 0 {
			s.inHeader, s.volatile = false, false
		} else if text[0] != ' ' && text[0] != '\t' {
			name, _, _ := bytes.Cut(text, []byte(":"))
			s.volatile = isVolatile(name)
		}
	}
	if begins && len(text) == 0 {
		s.blanks++
		return
	}
	if s.volatile || s.span <= 0 {
		return
	}
	if begins {
		for range min(s.blanks, s.span) + 1 {
			_, _ = s.uid.Write([]byte("\n"))
		}
		s.span -= s.blanks
		s.blanks = 0
	}
	text = text[:min(len(text), max(s.span, 0))]
	_, _ = s.uid.Write(text)
	s.span -= len(text)
}

// isVolatile tells the fields in which mail programs note what became of a message.
func isVolatile(name []byte) bool {
	if len(name) > 32 {
		return false
	}
	switch strings.ToLower(string(name)) {
	case "status", "x-status", "x-keywords", "x-uid", "x-imap", "x-imapbase", "content-length", "lines",
		"x-mozilla-status", "x-mozilla-status2", "x-mozilla-keys":
		return true
	}
	return false
}
