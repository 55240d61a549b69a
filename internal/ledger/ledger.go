// Package ledger keeps small facts that several processes share for a while, and that may be lost: how often a client came, who has to wait, what was seen
// before. A server that is started anew for each connection knows by it what the one before has learned.
//
// A fact has a key and a value, text of any octets, and ends by itself. The key's first word, up to a blank, is its book: lower-case letters. A book is 64 files
// of a bounded size in one folder, with a line for each fact:
//
//	1795478400 "login 192.0.2.7" "5"
//
// that is the time of its end (seconds of Unix time), the key and the value as Go quotes them. A file is locked with flock(2), read, and written in place; nothing is
// flushed. A line that cannot be read counts as none, so that a crash costs some facts of one file. Where a file is full the facts that would
// end soonest go first; the books have files of their own so that a flood of facts of one kind, whose keys strangers may choose, displaces no other.
package ledger

import (
	"cmp"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postel-mail/postel/internal/clock"
	"github.com/postel-mail/postel/internal/durable"
)

const (
	files   = 64        // of a book
	maxFile = 128 << 10 // octets
	maxFact = 1 << 10   // octets of key and value
)

// ErrKey says that a key has no book, or that it is too long with its value.
var ErrKey = errors.New("ledger: a key that cannot be kept")

// Ledger is the folder.
type Ledger struct {
	dir *durable.Dir
	mu  sync.Mutex // one at a time in this process; flock would cost a thread for each that waits
}

// Open opens the folder, and makes it with mode 0700 when it is missing; path is absolute.
func Open(path string) (*Ledger, error) {
	dir, err := durable.MakeDir(path)
	if err != nil {
		return nil, err
	}
	return &Ledger{dir: dir}, nil
}

// Close closes the folder.
func (l *Ledger) Close() error { return l.dir.Close() }

// fact is one line.
type fact struct {
	ends       int64 // seconds of Unix time
	key, value string
}

// Update replaces the value of key by what change makes of it, for the time ttl from now. change gets "" where there is none, and gives "" to remove it. No other
// process changes the key meanwhile, so change must not wait for anything.
func (l *Ledger) Update(key string, change func(old string) (value string, ttl time.Duration)) error {
	return l.with(key, unix.O_RDWR|unix.O_CREAT, func(f *os.File, facts []fact) error {
		old := find(facts, key)
		value, ttl := change(old)
		if len(key)+len(value) > maxFact {
			return fmt.Errorf("%w: %d octets, %d may be", ErrKey, len(key)+len(value), maxFact)
		}
		facts = slices.DeleteFunc(facts, func(f fact) bool { return f.key == key })
		if value != "" && ttl > 0 {
			facts = append(facts, fact{clock.Now().Add(ttl).Unix() + 1, key, value}) // it lasts ttl at least
		} else if old == "" {
			return nil
		}
		return write(f, facts)
	})
}

// Get gives the value of key, "" where there is none.
func (l *Ledger) Get(key string) (value string, err error) {
	err = l.with(key, unix.O_RDONLY, func(_ *os.File, facts []fact) error {
		value = find(facts, key)
		return nil
	})
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	return value, err
}

// Count adds n to a count of what happens and gives how much that was within about the last per: all of this stretch of that length, and of the one before the
// part that is not yet over. n may be 0, to ask, or less, to take back what was just added. per is a second at least.
func (l *Ledger) Count(key string, n int, per time.Duration) (sum int, err error) {
	err = l.Update(key, func(old string) (string, time.Duration) {
		now := clock.Now().UnixNano()
		stretch := now / int64(per)
		was, this, before := parseCount(old)
		switch was {
		case stretch:
		case stretch - 1:
			this, before = 0, this
		default:
			this, before = 0, 0
		}
		this = max(this+n, 0)
		gone := float64(now%int64(per)) / float64(per)
		sum = this + int(float64(before)*(1-gone)+0.5)
		if this == 0 && before == 0 {
			return "", 0
		}
		return fmt.Sprintf("%d %d %d", stretch, this, before), 2 * per
	})
	return sum, err
}

func parseCount(s string) (stretch int64, this, before int) {
	if _, err := fmt.Sscanf(s, "%d %d %d", &stretch, &this, &before); err != nil || this < 0 || before < 0 {
		return 0, 0, 0
	}
	return stretch, this, before
}

// with opens the file of key, locks it and gives its facts that are not over.
func (l *Ledger) with(key string, flags int, do func(*os.File, []fact) error) error {
	name, err := file(key)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	f, err := l.dir.Open(name, flags|unix.O_NONBLOCK, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if flags&unix.O_CREAT != 0 {
		if err := l.dir.Give(f); err != nil {
			return err
		}
	}
	if err := durable.Flock(f); err != nil {
		return fmt.Errorf("ledger: locking %s: %w", f.Name(), err)
	}
	text, err := io.ReadAll(io.LimitReader(f, 2*maxFile))
	if err != nil {
		return err
	}
	return do(f, parse(string(text), clock.Now().Unix()))
}

// find gives the value of key. It is the first: behind it an older one may stand when a write was cut short.
func find(facts []fact, key string) string {
	if i := slices.IndexFunc(facts, func(f fact) bool { return f.key == key }); i >= 0 {
		return facts[i].value
	}
	return ""
}

// file is where a key is.
func file(key string) (string, error) {
	book, _, ok := strings.Cut(key, " ")
	if !ok || book == "" || len(book) > 20 || strings.Trim(book, "abcdefghijklmnopqrstuvwxyz") != "" || len(key) > maxFact {
		return "", fmt.Errorf("%w: %.40q", ErrKey, key)
	}
	return fmt.Sprintf("%s.%02x", book, crc32.ChecksumIEEE([]byte(key))%files), nil
}

// parse reads the lines of a file, without those that are over at the time now and those that it cannot read.
func parse(text string, now int64) []fact {
	var facts []fact
	for line := range strings.Lines(text) {
		end, rest, ok := strings.Cut(line, " ")
		ends, err := strconv.ParseInt(end, 10, 64)
		if !ok || err != nil || ends <= now {
			continue
		}
		key, rest, ok := unquote(rest)
		if !ok || !strings.HasPrefix(rest, " ") {
			continue
		}
		if value, rest, ok := unquote(rest[1:]); ok && rest == "\n" && value != "" {
			facts = append(facts, fact{ends, key, value})
		}
	}
	return facts
}

func unquote(s string) (text, rest string, ok bool) {
	quoted, err := strconv.QuotedPrefix(s)
	if err != nil || quoted[0] != '"' {
		return "", "", false
	}
	text, err = strconv.Unquote(quoted)
	return text, s[len(quoted):], err == nil
}

// write puts the facts into the file, as many as fit.
func write(f *os.File, facts []fact) error {
	lines := make([]string, len(facts))
	size := 0
	for i, f := range facts {
		lines[i] = fmt.Sprintf("%d %q %q\n", f.ends, f.key, f.value)
		size += len(lines[i])
	}
	if size > maxFile {
		// Those that end soonest go, a quarter, so that it is not at once full again.
		order := make([]int, len(facts))
		for i := range order {
			order[i] = i
		}
		slices.SortFunc(order, func(a, b int) int { return cmp.Compare(facts[a].ends, facts[b].ends) })
		for _, i := range order {
			if size <= maxFile*3/4 {
				break
			}
			size -= len(lines[i])
			lines[i] = ""
		}
	}
	text := strings.Join(lines, "")
	if _, err := f.WriteAt([]byte(text), 0); err != nil {
		return err
	}
	return f.Truncate(int64(len(text)))
}
