package sink

import (
	"bytes"
	"hash/crc32"
	"strings"

	"github.com/postel-mail/postel/internal/clock"
)

// content looks at a message that passes by.
type content struct {
	keep    bool
	text    strings.Builder
	size    int64
	sum     uint32
	line    int    // octets of the current line
	cr      bool   // the last octet is a CR
	body    bool   // the header is behind us
	head    []byte // the current line of the header, as far as is needed
	id      string
	wantID  bool // the next line goes on with the Message-ID
	eight   bool
	bare    bool
	longest int
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// maxHead is what is kept of a line.
const maxHead = 1000

func (t *content) Write(p []byte) (int, error) {
	t.write(p)
	return len(p), nil
}

func (t *content) write(p []byte) {
	if t.keep {
		t.text.Write(p)
	}
	t.size += int64(len(p))
	var all byte
	for _, b := range p {
		all |= b
		t.bare = t.bare || t.cr != (b == '\n')
		t.cr = b == '\r'
	}
	t.eight = t.eight || all > 127
	for len(p) > 0 {
		i := bytes.IndexByte(p, '\n')
		part := p
		if i >= 0 {
			part = p[:i+1]
		}
		p = p[len(part):]
		t.line += len(part)
		t.longest = max(t.longest, t.line)
		if t.body {
			t.sum = crc32.Update(t.sum, castagnoli, part)
		} else {
			t.head = append(t.head, part[:min(len(part), maxHead-len(t.head))]...)
		}
		if i >= 0 {
			t.line = 0
			if !t.body {
				t.header()
			}
		}
	}
}

// header looks at a line of the header.
func (t *content) header() {
	text := strings.TrimRight(string(t.head), "\r\n")
	t.head = t.head[:0]
	const name = "message-id:"
	switch {
	case text == "":
		t.body = true
	case t.wantID && (text[0] == ' ' || text[0] == '\t'):
		t.id = strings.TrimSpace(text)
	case len(text) >= len(name) && strings.EqualFold(text[:len(name)], name):
		t.id = strings.TrimSpace(text[len(name):])
	}
	t.wantID = strings.EqualFold(strings.TrimSpace(text), name)
}

// end puts into the record what was seen.
func (t *content) end(m *Message) {
	m.At, m.ID, m.Size, m.Sum = clock.Now(), t.id, t.size, t.sum
	m.Eight, m.Bare, m.Longest, m.Text = t.eight, t.bare || t.cr, t.longest, t.text.String()
}
