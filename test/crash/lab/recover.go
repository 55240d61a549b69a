package main

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/postel-mail/postel/test/sink"
)

// state is a power cut: before which op of a record, and what became of what was not flushed.
type state struct {
	name string
	cut  int
	fate fate
	seed uint64
}

func (s state) String() string { return fmt.Sprintf("cut.%s.%d.%s.%d", s.name, s.cut, s.fate, s.seed) }

// history is a record's marks.
type history struct {
	end, flushes, failed int // ops in all; of these, flushes; failures that there were besides
	marks                []mark
}

type mark struct {
	at   int
	word string
}

func (m *machine) history(name string) (*history, error) {
	text, err := os.ReadFile(m.path("fuse/log." + name))
	if err != nil {
		return nil, err
	}
	h := &history{}
	for line := range strings.Lines(string(text)) {
		var k mark
		number, word, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		if _, err := fmt.Sscan(number, &k.at); err != nil {
			return nil, fmt.Errorf("log.%s: %q", name, line)
		}
		k.word = word
		h.marks = append(h.marks, k)
	}
	last := h.marks[len(h.marks)-1]
	h.marks, h.end = h.marks[:len(h.marks)-1], last.at
	_, err = fmt.Sscanf(last.word, "end %d %d", &h.flushes, &h.failed)
	return h, err
}

// letters are those of the marks before the n-th op that begin with that word, with how often each was named.
func (h *history) letters(word string, n int) map[letter]int {
	all := map[letter]int{}
	for _, k := range h.marks {
		if id, ok := strings.CutPrefix(k.word, word); ok && k.at < n {
			all[letter(id)]++
		}
	}
	return all
}

// states are n power cuts: one behind each promise, in the order of chance, then anywhere.
func (h *history) states(name string, n int, seed uint64) []state {
	chance := rand.New(rand.NewPCG(seed, 1<<33))
	var cuts []int
	for _, k := range h.marks {
		if strings.HasPrefix(k.word, acked) {
			cuts = append(cuts, k.at+1)
		}
	}
	chance.Shuffle(len(cuts), func(i, j int) { cuts[i], cuts[j] = cuts[j], cuts[i] })
	for len(cuts) < n {
		cuts = append(cuts, 1+chance.IntN(h.end))
	}
	fates := []fate{dropped, mixed, kept, mixed}
	all := make([]state, n)
	for i := range all {
		all[i] = state{name, cuts[i], fates[i%len(fates)], seed + uint64(i)}
	}
	return all
}

// findings is what power cuts came to.
type findings struct {
	states, promises         int // tried; letters that had been answered for, over all states
	lost, half               int
	again, doubled           int // sent once more to the next hop; stored once more
	torn                     int // files that a runner cannot take, none of them answered for
	recovered                int // out of the journal of a server
	unmountable, left, other int // states that did not mount; messages left in the queue; failures of programs
	details                  []string
}

func (f *findings) note(s state, n *int, format string, args ...any) {
	*n++
	f.details = append(f.details, s.String()+": "+fmt.Sprintf(format, args...))
}

func (f *findings) add(g findings) {
	f.states += g.states
	f.promises += g.promises
	f.lost += g.lost
	f.half += g.half
	f.again += g.again
	f.doubled += g.doubled
	f.torn += g.torn
	f.recovered += g.recovered
	f.unmountable += g.unmountable
	f.left += g.left
	f.other += g.other
	f.details = append(f.details, g.details...)
}

// wrong counts what must not be. A faulty file system is allowed one letter in fifty.
func (f *findings) wrong(k kind) int {
	failures := f.lost + f.unmountable + f.left + f.other
	if k.faulty && failures <= f.promises/50 {
		failures = 0
	}
	return failures + f.half + f.doubled
}

// err says what must not be.
func (f *findings) err(k kind) error {
	if f.wrong(k) == 0 {
		return nil
	}
	return errors.New(strings.Join(f.details[:min(20, len(f.details))], "\n"))
}

func (f *findings) String() string {
	text := fmt.Sprintf("%d states, %d promises: %d lost, %d half, %d twice in a mailbox; %d sent twice, %d torn, %d made again", f.states, f.promises, f.lost, f.half, f.doubled, f.again, f.torn, f.recovered)
	for _, more := range []struct {
		n    int
		what string
	}{{f.unmountable, "not mountable"}, {f.left, "left in the queue"}, {f.other, "failures"}} {
		if more.n > 0 {
			text += fmt.Sprintf(", %d %s", more.n, more.what)
		}
	}
	return text
}

// afterwards mounts the disk of a power cut, lets the programs go on where they were, and looks for what had been promised.
func (m *machine) afterwards(h *history, s state) (f findings, err error) {
	f.states = 1
	if err := m.mount(s.String()); err != nil {
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) {
			return f, err // the lab's own fault
		}
		f.note(s, &f.unmountable, "%v", err)
		return f, nil
	}
	found, err := m.goOn(s, &f)
	if err == nil {
		err = m.lookInto(found, s, &f)
	}
	f.compare(h, s, found)
	return f, errors.Join(err, m.unmount())
}

// found is what was found of each letter.
type found struct {
	stored, reported map[letter]int
	sent             map[letter]int
	half             []string
	log              string // of the runner
}

// afterLetter is one that is sent after the power cut, to see that mail comes in again.
var afterLetter = newLetter(999, local, 500)

// goOn starts the host again: mail comes in, and all that is queued goes out.
func (m *machine) goOn(s state, f *findings) (*found, error) {
	got := &found{stored: map[letter]int{}, reported: map[letter]int{}, sent: map[letter]int{}}
	hop := sink.New()
	hop.Keep = true
	defer hop.Close()
	address, err := hop.Listen("127.0.0.1:0", "")
	if err != nil {
		return got, err
	}
	config, err := m.configure("again", m.disk("spool"), address, "0B")
	if err != nil {
		return got, err
	}
	if err := m.homes(); err != nil {
		f.note(s, &f.other, "%v", err)
		return got, nil
	}
	if err := m.must(program{config: config, stdin: afterLetter.text(), args: append([]string{"sendmail", "-i", "-f", sender}, afterLetter.rcpts()...)}); err != nil {
		f.note(s, &f.other, "%v", err)
	}
	status, log, err := m.run(program{config: config, args: []string{"qmgr", "--exit-when-empty"}, limit: limit / 2})
	if err != nil || status != 0 {
		f.note(s, &f.other, "qmgr exits %d (%v)", status, err)
	}
	got.log = log
	if _, rest, ok := strings.Cut(log, " event=recovered n="); ok {
		var n int
		if _, err := fmt.Sscan(rest, &n); err != nil {
			return got, err
		}
		f.recovered += n
	}
	for _, message := range hop.Messages() {
		l, whole := identify([]byte(message.Text))
		got.sent[l]++
		if !whole {
			got.half = append(got.half, "at the next hop: "+string(l))
		}
	}
	return got, nil
}

// lookInto reads the mailboxes and the queue.
func (m *machine) lookInto(got *found, s state, f *findings) error {
	for _, user := range users {
		for _, dir := range []string{"new", "cur"} {
			dir = "mail/" + user + "/Maildir/" + dir + "/"
			for _, name := range m.names(dir) {
				text, err := os.ReadFile(m.disk(dir + name))
				if err != nil {
					return err
				}
				l, whole := reported(text)
				if l != "" || bytes.Contains(text, []byte("multipart/report")) {
					got.reported[l]++
				} else {
					l, whole = identify(text)
					got.stored[l]++
				}
				if !whole {
					got.half = append(got.half, dir+name)
				}
			}
		}
	}
	for _, name := range m.names("spool/queue") {
		f.note(s, &f.left, "queue/%s; the runner says: %s", name, about(name, got.log))
	}
	f.torn += len(m.names("spool/corrupt")) + len(m.names("spool/drop")) // the runner removes the latter after an hour
	return nil
}

// about are the lines of a log that hold a word.
func about(word, log string) string {
	var lines []string
	for line := range strings.Lines(log) {
		if strings.Contains(line, word) {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return strings.Join(lines[:min(3, len(lines))], "; ")
}

// compare holds what was promised against what was found.
func (f *findings) compare(h *history, s state, got *found) {
	promised, before := h.letters(acked, s.cut), h.letters(took, s.cut)
	f.promises += len(promised)
	promised[afterLetter] = 1
	for l := range promised {
		stored, sent := got.stored[l], got.sent[l]+before[l]
		switch c := l.class(); {
		case (c == local || c == direct || c == both) && stored == 0, (c == relay || c == late || c == both) && sent == 0, c == nobody && got.reported[l] == 0:
			f.note(s, &f.lost, "%s was promised and is lost (stored %d, sent %d, reported %d)", l, stored, sent, got.reported[l])
		}
	}
	for _, half := range got.half {
		f.note(s, &f.half, "half a message: %s", half)
	}
	for l, n := range got.stored {
		if n > 1 && l != settledLetter && l != "" {
			f.note(s, &f.doubled, "%s is stored %d times", l, n)
		}
	}
	for l, n := range got.sent {
		f.again += max(0, n+before[l]-1)
	}
	slices.Sort(f.details)
}
