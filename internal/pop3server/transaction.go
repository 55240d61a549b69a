package pop3server

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/postel-mail/postel/internal/mailbox"
)

// stat counts the messages that are not marked, and their octets.
func (s *session) stat() (n int, octets int64) {
	for i, m := range s.box.Messages() {
		if !s.deleted[i] {
			n++
			octets += m.Size
		}
	}
	return n, octets
}

// message finds the message that arg numbers, and answers when there is none.
func (s *session) message(arg string) (index int, ok bool) {
	n, ok := number(arg)
	switch {
	case !ok || n == 0:
		s.fail("", "a message number is needed")
	case n > len(s.box.Messages()):
		s.fail("", "no such message")
	case s.deleted[n-1]:
		s.fail("", "that message is deleted")
	default:
		return n - 1, true
	}
	return 0, false
}

// number reads a decimal number of at most nine digits.
func number(s string) (int, bool) {
	if s == "" || len(s) > 9 || strings.Trim(s, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.Atoi(s)
	return n, err == nil
}

func (s *session) doSTAT(string) {
	n, octets := s.stat()
	s.ok(fmt.Sprintf("%d %d", n, octets))
}

func (s *session) doLIST(arg string) {
	s.listing(arg, func(b []byte, m mailbox.Message) []byte { return strconv.AppendInt(b, m.Size, 10) })
}

func (s *session) doUIDL(arg string) {
	s.listing(arg, func(b []byte, m mailbox.Message) []byte { return append(b, m.UID...) })
}

// listing answers LIST and UIDL: one message, or all that are not marked.
func (s *session) listing(arg string, value func(b []byte, m mailbox.Message) []byte) {
	messages := s.box.Messages()
	if arg != "" {
		if i, ok := s.message(arg); ok {
			s.ok(fmt.Sprintf("%d %s", i+1, value(nil, messages[i])))
		}
		return
	}
	n, octets := s.stat()
	s.ok(fmt.Sprintf("%d messages (%d octets)", n, octets))
	for i, m := range messages {
		if s.deleted[i] {
			continue
		}
		s.out = append(strconv.AppendInt(s.out, int64(i+1), 10), ' ')
		s.out = append(value(s.out, m), crlf...)
		if len(s.out) >= maxOut && s.flush() != nil {
			s.end("connection lost")
			return
		}
	}
	s.put(".\r\n")
}

func (s *session) doRETR(arg string) {
	i, ok := s.message(arg)
	if !ok {
		return
	}
	size := s.box.Messages()[i].Size
	if s.text(i, fmt.Sprintf("%d octets", size), nil) {
		s.fetched++
		s.octets += size
	}
}

func (s *session) doTOP(arg string) {
	which, count, _ := strings.Cut(arg, " ")
	lines, ok := number(strings.TrimLeft(count, " "))
	if !ok {
		s.fail("", "TOP takes a message number and a number of lines")
		return
	}
	if i, ok := s.message(which); ok {
		s.text(i, "top follows", &top{lines: lines})
	}
}

// text sends a message, or its top, and reports whether all of it was sent. Once it has begun there is no word for an error but the
// end of the connection: a message cut short must not look whole.
func (s *session) text(i int, first string, limit *top) bool {
	body, err := s.box.Body(i)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			s.fail("", "another program has removed that message")
			return false
		}
		s.srv.Log.Problem("", err)
		s.fail(sysTemp, "that message cannot be read now")
		return false
	}
	defer body.Close()
	s.ok(first)
	if err = s.flush(); err != nil {
		s.end("connection lost")
		return false
	}
	err = sendText(s.conn, body, limit)
	var broken *writeError
	switch {
	case errors.As(err, &broken):
		s.end("connection lost")
	case err != nil:
		s.srv.Log.Problem("", err)
		s.end("a message could not be read to its end")
	}
	return err == nil
}

func (s *session) doDELE(arg string) {
	if i, ok := s.message(arg); ok {
		s.deleted[i] = true
		s.ok("marked")
	}
}

func (s *session) doRSET(string) {
	clear(s.deleted)
	n, octets := s.stat()
	s.ok(fmt.Sprintf("%d messages (%d octets)", n, octets))
}

func (s *session) doNOOP(string) { s.ok("done") }

// doQUIT is the UPDATE state. Before anything is removed all that the client asked for must have been sent; and the
// mailbox is given back before the client hears that it was.
func (s *session) doQUIT(string) {
	s.end("")
	if s.state == authorization {
		s.ok("bye")
		return
	}
	if s.sync() != nil {
		s.end("connection lost")
		return
	}
	marked := slices.Sorted(maps.Keys(s.deleted))
	var err error
	if len(marked) > 0 {
		err = s.box.Remove(marked)
	}
	s.close()
	switch {
	case err == nil:
		s.removed = len(marked)
		s.ok("bye")
	case errors.Is(err, fs.ErrPermission):
		s.srv.Log.Problem("", err)
		s.fail(sysPerm, "some deleted messages not removed")
	default:
		s.srv.Log.Problem("", err)
		s.fail(sysTemp, "some deleted messages not removed")
	}
}
