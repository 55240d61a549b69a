// Package trace finds what the mail log says about one message, in logs of any size: its own lines, and those of the messages that came of it: the reports
// about it, and the message as the next hop queued it, where that is postel too and its log is among those given.
//
// It reads the lines of postel-log(5), logfmt and JSON, also behind what syslog or the journal writes in front of them. Of a log it keeps a
// window of some MiB and the lines that it is looking for. A file is read again when a later one tells of another id to look for; a
// pipe cannot be, and there a line is found that stands behind the one that tells of its id, or in the window before it.
package trace

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/postel-mail/postel/internal/queue"
)

// Log is one log to be read.
type Log struct {
	Name string // for errors
	io.Reader
}

// Line is a line that was found.
type Line struct {
	Event
	Text  string    // as it stands in the log
	Depth int       // 0 the message itself, 1 a message that came of it, and so on
	At    time.Time // the zero time where nothing says it

	log    int
	offset int64
}

const (
	window     = 16 << 20
	maxFollow  = 10000 // messages
	queuedAs   = "queued as "
	compressed = "\x1f\x8b" // gzip
)

// ErrMany says that more messages came of the one than are followed.
var ErrMany = fmt.Errorf("more than %d messages came of it; the others are left out", maxFollow)

// Follow gives the lines about message id in order of time, those without a time behind the one before them. now is for times without a year. With
// ErrMany the lines are given all the same.
func Follow(id string, logs []Log, now time.Time) ([]Line, error) {
	t := &tracer{window: window}
	return t.follow(id, logs, now)
}

type tracer struct {
	window int
	ids    []string // to look for, in the order in which they were learned
	depth  map[string]int
	seen   map[place]bool
	lines  []Line
	many   bool
}

// place is where a line stands.
type place struct {
	log    int
	offset int64
}

func (t *tracer) follow(id string, logs []Log, now time.Time) ([]Line, error) {
	t.ids, t.depth, t.seen = []string{id}, map[string]int{id: 0}, map[place]bool{}
	sought := make([]int, len(logs))  // so many of ids were looked for in all of that log
	start := make([]int64, len(logs)) // where it begins; -1 for a pipe
	for n, log := range logs {
		start[n] = -1
		if s, ok := log.Reader.(io.Seeker); ok {
			if at, err := s.Seek(0, io.SeekCurrent); err == nil {
				start[n] = at
			}
		}
	}
	for first, more := true, true; more; first = false {
		more = false
		for n, log := range logs {
			if sought[n] == len(t.ids) || !first && start[n] < 0 {
				continue
			}
			more = true
			var err error
			if !first {
				_, err = log.Reader.(io.Seeker).Seek(start[n], io.SeekStart)
			}
			if err == nil {
				sought[n], err = t.read(n, log, sought[n])
			}
			if err != nil {
				return nil, fmt.Errorf("%s: %w", log.Name, err)
			}
		}
	}
	t.sort(now)
	if t.many {
		return t.lines, ErrMany
	}
	return t.lines, nil
}

// read goes through a log and looks for all ids from number first on. It gives how many ids have been looked for in all of it then: not those that were
// learned when its beginning had gone out of the window.
func (t *tracer) read(log int, r io.Reader, first int) (sought int, err error) {
	buf := make([]byte, t.window)
	var base int64 // offset of buf[0] in the log
	end, done := 0, 0
	sought = -1
	for {
		if end == len(buf) {
			if sought < 0 {
				sought = len(t.ids)
			}
			drop := len(buf) / 2
			if i := bytes.IndexByte(buf[drop:], '\n'); i >= 0 && drop+i+1 <= done {
				drop += i + 1
			} else { // a line that fills half the window is no line of a log
				drop = end
			}
			end = copy(buf, buf[drop:end])
			done = max(done-drop, 0)
			base += int64(drop)
		}
		n, err := r.Read(buf[end:])
		if base == 0 && end == 0 && bytes.HasPrefix(buf[:n], []byte(compressed)) {
			return 0, errors.New("is compressed; give its text, as in: zcat FILE | mailq trace ID")
		}
		end += n
		upto := done + bytes.LastIndexByte(buf[done:end], '\n') + 1
		if errors.Is(err, io.EOF) {
			upto = end
		}
		t.look(log, base, buf[:upto], done, first)
		done = upto
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return 0, err
		}
	}
	if sought < 0 {
		sought = len(t.ids)
	}
	return sought, nil
}

// look finds lines in text, which has been looked at up to done, and for what is learned there in all of text.
func (t *tracer) look(log int, base int64, text []byte, done, first int) {
	known := len(t.ids)
	t.scan(log, base, text, done, t.ids[first:])
	for known < len(t.ids) {
		fresh := t.ids[known:]
		known = len(t.ids)
		t.scan(log, base, text, 0, fresh)
	}
}

// scan finds the lines of text from octet i on that hold one of ids, by what all these begin with: ids of one day have the first 5 characters in common.
func (t *tracer) scan(log int, base int64, text []byte, i int, ids []string) {
	if len(ids) == 0 {
		return
	}
	prefix := []byte(common(ids))
	wanted := make(map[string]bool, len(ids))
	for _, id := range ids {
		wanted[id] = true
	}
	for {
		at := bytes.Index(text[i:], prefix)
		if at < 0 || i+at+queue.IDLength > len(text) {
			return
		}
		if i += at; !wanted[string(text[i:i+queue.IDLength])] {
			i++
			continue
		}
		begin := bytes.LastIndexByte(text[:i], '\n') + 1
		if end := bytes.IndexByte(text[i:], '\n'); end >= 0 {
			i += end
		} else {
			i = len(text)
		}
		t.line(place{log, base + int64(begin)}, strings.TrimSuffix(string(text[begin:i]), "\r"))
	}
}

// common is what all ids begin with.
func common(ids []string) string {
	low, high := slices.Min(ids), slices.Max(ids)
	n := 0
	for n < len(low) && low[n] == high[n] {
		n++
	}
	return low[:n]
}

// line keeps a line when it is about a message that is looked for, and learns the ids of those that came of it.
func (t *tracer) line(at place, text string) {
	if t.seen[at] {
		return
	}
	e, ok := Parse(text)
	if !ok {
		return
	}
	later := e.Get("report")
	if _, id, found := strings.Cut(e.Get("text"), queuedAs); later == "" && found && len(id) >= queue.IDLength {
		later = id[:queue.IDLength]
	}
	depth, about := t.depth[e.Get("id")]
	if !about {
		if depth, about = t.depth[later]; !about {
			return // the id is somewhere else in it
		}
	} else if _, known := t.depth[later]; !known && queue.ValidID(later) {
		if t.many = t.many || len(t.ids) == maxFollow; !t.many {
			t.depth[later] = depth + 1
			t.ids = append(t.ids, later)
		}
	}
	t.seen[at] = true
	t.lines = append(t.lines, Line{Event: e, Text: text, Depth: depth, log: at.log, offset: at.offset})
}

// sort puts the lines into the order of time.
func (t *tracer) sort(now time.Time) {
	slices.SortFunc(t.lines, func(a, b Line) int {
		return cmp.Or(cmp.Compare(a.log, b.log), cmp.Compare(a.offset, b.offset))
	})
	for i := range t.lines {
		l := &t.lines[i]
		var ok bool
		if l.At, ok = l.Time(now); !ok && i > 0 && t.lines[i-1].log == l.log {
			l.At = t.lines[i-1].At
		}
	}
	slices.SortStableFunc(t.lines, func(a, b Line) int { return a.At.Compare(b.At) })
}
