package smtpclient

import (
	"bufio"
	"errors"
	"fmt"
	"strings"

	"github.com/postel-mail/postel/internal/status"
)

// Bounds on what a server may answer. RFC 5321 4.5.3.1.5 allows 512 octets a line; real servers send more.
const (
	maxReplyLine = 4 << 10  // octets
	maxReply     = 64 << 10 // octets of all lines
)

// reply is one reply of the server.
type reply struct {
	code  int      // 200 to 599
	lines []string // the texts, without code and line end
}

// readReply reads one reply (RFC 5321 4.2). It takes every legal form, a code without text included, and lines that end in a bare LF. r must
// have a buffer of maxReplyLine octets.
func readReply(r *bufio.Reader) (reply, error) {
	var rep reply
	for total := 0; ; {
		line, err := r.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			return reply{}, malformed("a line of more than %d octets", maxReplyLine)
		}
		if err != nil {
			return reply{}, err
		}
		if total += len(line); total > maxReply {
			return reply{}, malformed("more than %d octets", maxReply)
		}
		text := strings.TrimSuffix(string(line[:len(line)-1]), "\r")
		code, ok := replyCode(text)
		if !ok {
			return reply{}, malformed("%q", status.Clean(text))
		}
		if rep.lines != nil && code != rep.code {
			return reply{}, malformed("one reply with the codes %d and %d", rep.code, code)
		}
		rep.code = code
		more := len(text) > 3 && text[3] == '-'
		rep.lines = append(rep.lines, text[min(len(text), 4):])
		if !more {
			return rep, nil
		}
	}
}

// replyCode reads the code at the start of a line; behind it is nothing, a space or a hyphen.
func replyCode(line string) (int, bool) {
	if len(line) < 3 || len(line) > 3 && line[3] != ' ' && line[3] != '-' {
		return 0, false
	}
	code := 0
	for i := range 3 {
		if line[i] < '0' || line[i] > '9' {
			return 0, false
		}
		code = code*10 + int(line[i]-'0')
	}
	return code, code >= 200 && code < 600
}

// errMalformed is what the server sent where a reply was due.
var errMalformed = errors.New("malformed reply")

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errMalformed, fmt.Sprintf(format, args...))
}

func (r reply) ok() bool { return r.code/100 == 2 }

// failed reports a refusal, of either kind.
func (r reply) failed() bool { return r.code >= 400 }

// status is the reply as an outcome; meant for a refusal.
func (r reply) status() *status.Error { return status.ParseReply(r.code, r.lines) }

// text is the reply without its code in one clean line, as the log keeps it.
func (r reply) text() string { return status.Clean(strings.Join(r.lines, " ")) }
