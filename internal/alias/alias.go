// Package alias reads aliases(5) and the lists that it and .forward files are made of.
//
//	name: address, |command, /file, /dir/, :include:/file
//	name@domain: address        for one virtual domain
//	@domain: address            for whoever has no other name there
//	owner-name: address         envelope sender of what goes through name
//
// Names are compared without regard to case. A line that begins with white space continues the one before; lines whose first
// word begins with "#" are comments. The items may be destinations too, as postel.toml(5) has them, where these are places on this host.
//
// The package finds lists. Following them, with its limits, is package delivery's.
package alias

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/postel-mail/postel/internal/address"
	"github.com/postel-mail/postel/internal/clock"
)

// Table is one aliases file. It may be used by many goroutines. A nil Table has no aliases.
type Table struct {
	// Problem, when set before the first use, hears once of each changed file that cannot be used. The old content stays in force.
	Problem func(error)

	path    string
	mu      sync.Mutex
	checked time.Time
	seen    version // of the file that was read last, with success or without
	content content
}

// content is one state of the file.
type content struct {
	entries map[address.Path]entry
	twice   []mistake // names that stand in it more than once
	owner   int
}

// entry is one alias, its items not yet parsed: a mistake in them is the trouble of that name alone.
type entry struct {
	line int
	from int    // offset of text in the file
	text string // all behind the colon, with the lines that continue it and the comments between them
}

// version tells one state of a file from another.
type version struct {
	exists       bool
	mtime, ctime syscall.Timespec
	size         int64
	inode, dev   uint64
}

// maxFile bounds an aliases file in octets.
const maxFile = 64 << 20

// Load reads an aliases file. A file that does not exist is an empty table; an empty path too. A line that names nothing is an error, "path:line: ...", and with it all other mistakes of the file are told.
// Changes are seen at the next Lookup a second or more after the last; a file that then cannot be used, or has gone,
// leaves the old content in force.
func Load(path string) (*Table, error) {
	t := &Table{path: path}
	if path == "" {
		return t, nil
	}
	v, err := t.stat()
	if err != nil {
		return nil, err
	}
	t.checked = clock.Now()
	return t, t.read(v)
}

// Reload reads the file again now. On an error the old content stays in force.
func (t *Table) Reload() error {
	if t == nil || t.path == "" {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	v, err := t.stat()
	if err != nil {
		return err
	}
	t.checked = clock.Now()
	return t.read(v)
}

// List is what an alias stands for.
type List struct {
	Items []Item
	Owner int // user id of the file's owner
}

// Lookup finds an alias: a name (no Domain), name@domain, or all of a domain (no Local). Without one the list has no items. The error,
// "path:line: ...", is a mistake in that alias.
func (t *Table) Lookup(name address.Path) (List, error) {
	if t == nil || t.path == "" {
		return List{}, nil
	}
	c := t.current()
	e, ok := c.entries[key(name)]
	if !ok {
		return List{}, nil
	}
	items, err := e.items()
	if err != nil {
		return List{}, join(t.path, mistakes(e.line, err))
	}
	return List{Items: items, Owner: c.owner}, nil
}

func (e entry) items() ([]Item, error) {
	var list strings.Builder
	first := true
	for line := range strings.Lines(e.text) {
		if word := strings.TrimSpace(line); word != "" && (first || word[0] != '#') {
			list.WriteString(word)
			list.WriteByte(' ')
		}
		first = false
	}
	items, err := parseItems(list.String())
	if err == nil && len(items) == 0 {
		err = errors.New("the alias stands for nothing")
	}
	return items, err
}

func key(p address.Path) address.Path {
	p = p.ASCII()
	return address.Path{Local: strings.ToLower(p.Local), Domain: p.Domain}
}

func (t *Table) current() content {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := clock.Now()
	if now.Sub(t.checked) < time.Second && !now.Before(t.checked) {
		return t.content
	}
	t.checked = now
	v, err := t.stat()
	if err == nil && v == t.seen {
		return t.content
	}
	if err == nil && !v.exists {
		err = fmt.Errorf("%s: %w; the aliases it had stay in force", t.path, fs.ErrNotExist)
		t.seen = v
	} else if err == nil {
		err = t.read(v)
	}
	if err != nil && t.Problem != nil {
		t.Problem(err)
	}
	return t.content
}

// stat tells the file's version. Only what is neither there nor known to be missing is an error.
func (t *Table) stat() (version, error) {
	fi, err := os.Stat(t.path)
	if errors.Is(err, fs.ErrNotExist) {
		return version{}, nil
	}
	if err != nil {
		return version{}, fmt.Errorf("alias: %w", err)
	}
	return versionOf(fi), nil
}

func versionOf(fi fs.FileInfo) version {
	v := version{exists: true, size: fi.Size()}
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		v.mtime, v.ctime, v.inode, v.dev = st.Mtim, st.Ctim, st.Ino, st.Dev
	}
	return v
}

// read reads the file of version v, which is remembered also when that fails.
func (t *Table) read(v version) error {
	t.seen = v
	if !v.exists {
		t.content = content{}
		return nil
	}
	text, owner, err := readFile(t.path, maxFile, 0, 0o002)
	if err != nil {
		return err
	}
	c, wrong := parse(text)
	if len(wrong) > 0 {
		return join(t.path, append(wrong, c.check()...))
	}
	c.owner = owner
	t.content = c
	return nil
}

// parse finds the names in the text of an aliases file, and the lines that name nothing, which make it unfit for use.
func parse(text string) (content, []mistake) {
	c := content{entries: map[address.Path]entry{}}
	var wrong []mistake
	var last entry // grows by the lines that continue it
	var name address.Path
	end := func() {
		if last.line > 0 {
			c.entries[name] = last
		}
		last = entry{}
	}
	n, at, begun := 0, 0, false
	for line := range strings.Lines(text) {
		if len(wrong) > maxTold { // this is no aliases file
			break
		}
		n++
		from := at
		at += len(line)
		word := strings.TrimLeft(line, " \t\r\n")
		switch {
		case word == "" || word[0] == '#':
			continue
		case line[0] == ' ' || line[0] == '\t':
			if !begun {
				wrong = append(wrong, mistake{n, errors.New("the first line cannot begin with white space")})
			} else if last.line > 0 {
				last.text = text[last.from:at]
			}
			continue
		}
		end()
		begun = true
		p, colon, err := cutName(line)
		if err != nil {
			wrong = append(wrong, mistake{n, err})
			continue
		}
		name = key(p)
		if was, ok := c.entries[name]; ok { // the first counts, as Postfix has it
			c.twice = append(c.twice, mistake{n, fmt.Errorf("%s stands in line %d already", strings.TrimSpace(line[:colon]), was.line)})
			continue
		}
		last = entry{line: n, from: from + colon + 1, text: text[from+colon+1 : at]}
	}
	end()
	return c, wrong
}

// cutName reads the name of a line "name: items" and finds its colon.
func cutName(line string) (name address.Path, colon int, err error) {
	quoted := false
	for i := 0; i < len(line); i++ {
		switch c := line[i]; {
		case c == '"':
			quoted = !quoted
		case c == '\\' && quoted:
			i++
		case c == ':' && !quoted:
			name, err = parseKey(strings.TrimSpace(line[:i]))
			if err != nil {
				return name, i, fmt.Errorf("%q: %w", line[:i], err)
			}
			return name, i, nil
		}
	}
	return name, 0, errors.New("no colon; write name: address")
}

func parseKey(s string) (address.Path, error) {
	if domain, ok := strings.CutPrefix(s, "@"); ok {
		return address.Path{Domain: domain}, address.CheckDomain(domain)
	}
	return parseName(s)
}
