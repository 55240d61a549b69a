package alias

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/postel-mail/postel/internal/address"
)

// mistake is what is wrong in a line.
type mistake struct {
	line int
	err  error
}

// mistakes takes an error apart that may be several, joined.
func mistakes(line int, err error) []mistake {
	if err == nil {
		return nil
	}
	var all []mistake
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, err := range joined.Unwrap() {
			all = append(all, mistakes(line, err)...)
		}
		return all
	}
	return []mistake{{line, err}}
}

// maxTold bounds the mistakes that are told of one file.
const maxTold = 100

// join tells mistakes in the order of their lines, each as "path:line: ...".
func join(path string, wrong []mistake) error {
	slices.SortStableFunc(wrong, func(a, b mistake) int { return cmp.Compare(a.line, b.line) })
	var all []error
	for i, m := range wrong {
		if i == maxTold {
			all = append(all, errors.New(path+": and more mistakes"))
			break
		}
		all = append(all, fmt.Errorf("%s:%d: %w", path, m.line, m.err))
	}
	return errors.Join(all...)
}

// Check says everything that is wrong with the table as far as the file itself tells: mistakes in items, names that stand in it twice,
// aliases that stand for nothing but each other, included files that cannot be read, commands that are not there.
func (t *Table) Check() error {
	if t == nil || t.path == "" {
		return nil
	}
	c := t.current()
	return join(t.path, c.check())
}

func (c content) check() []mistake {
	wrong := slices.Clone(c.twice)
	next := map[address.Path][]address.Path{} // the aliases among each alias's items
	for name, e := range c.entries {
		items, err := e.items()
		wrong = append(wrong, mistakes(e.line, err)...)
		for _, item := range items {
			wrong = append(wrong, mistakes(e.line, item.check())...)
			if to := key(item.Address); item.Kind == Address && !item.Final && c.entries[to].line > 0 {
				next[name] = append(next[name], to)
			}
		}
		if slices.Contains(next[name], name) { // the user of that name, and so no loop
			delete(next, name)
		}
	}
	return append(wrong, c.loops(next)...)
}

// check looks for what an item needs on this host. What cannot be looked at from here may be there.
func (i Item) check() error {
	switch {
	case i.Kind == Include:
		_, err := ReadList(i.Path)
		return err
	case i.Kind == Command && filepath.IsAbs(i.Dest.Args[0]):
		st, err := os.Stat(i.Dest.Args[0])
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s does not exist", i.Dest.Args[0])
		}
		if err == nil && (!st.Mode().IsRegular() || st.Mode()&0o111 == 0) {
			return fmt.Errorf("%s is not a program that can be run", i.Dest.Args[0])
		}
	}
	return nil
}

// loops finds aliases that lead back to themselves, each loop once.
func (c content) loops(next map[address.Path][]address.Path) []mistake {
	var wrong []mistake
	var way []address.Path
	seen := map[address.Path]int{} // 1 and more: where it stands on the way; -1: done
	var follow func(name address.Path)
	follow = func(name address.Path) {
		if i := seen[name]; i > 0 {
			var words []string
			for _, n := range way[i-1:] {
				words = append(words, n.String())
			}
			wrong = append(wrong, mistake{c.entries[name].line, fmt.Errorf("these aliases stand for each other: %s; a user is written \\%s",
				strings.Join(words, ", "), name.Local)})
		}
		if seen[name] != 0 {
			return
		}
		way = append(way, name)
		seen[name] = len(way)
		for _, n := range next[name] {
			follow(n)
		}
		way = way[:len(way)-1]
		seen[name] = -1
	}
	for _, name := range c.names() {
		follow(name)
	}
	return wrong
}

// names gives all names in the order in which they stand in the file.
func (c content) names() []address.Path {
	return slices.SortedFunc(maps.Keys(c.entries), func(a, b address.Path) int { return cmp.Compare(c.entries[a].line, c.entries[b].line) })
}

// Addresses gives the addresses among the items of all aliases, each with the "path:line" where it stands. One that is its own alias's name
// comes as Final. A name without a domain that stands behind name@domain gets that domain. Aliases with mistakes are left out.
func (t *Table) Addresses() iter.Seq2[string, Item] {
	return func(yield func(string, Item) bool) {
		if t == nil || t.path == "" {
			return
		}
		c := t.current()
		for _, name := range c.names() {
			e := c.entries[name]
			items, _ := e.items() // none where there is a mistake
			for _, item := range items {
				if item.Kind != Address {
					continue
				}
				item.Final = item.Final || key(item.Address) == name
				if item.Address.Domain == "" {
					item.Address.Domain = name.Domain
				}
				if !yield(fmt.Sprintf("%s:%d", t.path, e.line), item) {
					return
				}
			}
		}
	}
}
