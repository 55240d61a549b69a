package alias

import (
	"errors"
	"fmt"
	"strings"

	"github.com/postel-mail/postel/internal/address"
	"github.com/postel-mail/postel/internal/destination"
)

// Kind says what an item of a list is.
type Kind int

// The kinds of items.
const (
	Address Kind = iota // name, name@domain, \name
	Include             // :include:/file
	Command             // |command
	Place               // /file, /dir/, or a destination: maildir:, mbox:, pipe:, discard:
)

// Item is one item of an alias, of a .forward or of an included list. Only the fields of its kind are set.
type Item struct {
	Kind    Kind
	Address address.Path            // Address; its Domain is "" for a name of this host
	Final   bool                    // Address written \name: it is not looked up in aliases and .forward again
	Path    string                  // Include: absolute
	Dest    destination.Destination // Command: Pipe, its program not necessarily a path; Place: Maildir, Mbox, Pipe, Discard
}

// String writes the item as it stands in a list.
func (i Item) String() string {
	switch {
	case i.Kind == Include:
		return ":include:" + i.Path
	case i.Kind != Address:
		return i.Dest.String()
	case i.Final:
		return `\` + i.Address.String()
	}
	s := i.Address.String()
	if strings.HasPrefix(s, "/") || strings.HasPrefix(s, "|") || strings.HasPrefix(s, "#") { // a local part may; bare it would be something else
		return "<" + s + ">"
	}
	return s
}

// MaxItems bounds the items of one list.
const MaxItems = 10_000

// ParseList reads the text of a list: a .forward, an included file. Items are separated by commas and line ends; lines that begin with
// "#" are comments. name stands in front of errors as "name:line: "; every mistake is told.
func ParseList(text, name string) ([]Item, error) {
	var items []Item
	var wrong []mistake
	n := 0
	for line := range strings.Lines(text) {
		n++
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "#") {
			continue
		}
		more, err := parseItems(line)
		wrong = append(wrong, mistakes(n, err)...)
		if items = append(items, more...); len(items)+len(wrong) > MaxItems {
			wrong = append(wrong, mistake{n, fmt.Errorf("more than %d items", MaxItems)})
			break
		}
	}
	if len(wrong) > 0 {
		return nil, join(name, wrong)
	}
	return items, nil
}

// parseItems reads items separated by commas. Its error joins all mistakes.
func parseItems(s string) ([]Item, error) {
	var items []Item
	var wrong []error
	for s != "" {
		end, open := address.ItemEnd(s)
		if open {
			wrong = append(wrong, errors.New("a quote is not closed"))
			break
		}
		if word := strings.TrimSpace(s[:end]); word != "" {
			item, err := parseItem(word)
			if err != nil {
				wrong = append(wrong, err)
			}
			if items = append(items, item); len(items) > MaxItems {
				wrong = append(wrong, fmt.Errorf("more than %d items", MaxItems))
				break
			}
		}
		s = strings.TrimPrefix(s[end:], ",")
	}
	if wrong != nil {
		return nil, errors.Join(wrong...)
	}
	return items, nil
}

func parseItem(word string) (Item, error) {
	if strings.ContainsFunc(word, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }) {
		return Item{}, fmt.Errorf("%q has a control character", word)
	}
	if inner, ok := unquote(word); ok && beginsPlace(inner) {
		word = inner // "|program args", "/file name"
	}
	switch {
	case word[0] == '|':
		return parseCommand(word)
	case word[0] == '/':
		return Item{Kind: Place, Dest: fileDestination(word)}, nil
	case hasPrefixFold(word, ":include:"):
		path := strings.TrimSpace(word[len(":include:"):])
		if !strings.HasPrefix(path, "/") {
			return Item{}, fmt.Errorf("%q: the path of an included file must begin with /", word)
		}
		return Item{Kind: Include, Path: path}, nil
	case isDestination(word):
		return parseDestination(word)
	}
	return parseAddress(word)
}

// unquote takes the double quotes off a word that stands in them whole.
func unquote(s string) (string, bool) {
	if len(s) < 2 || s[0] != '"' {
		return "", false
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		c := s[i]
		if c == '"' {
			return b.String(), i == len(s)-1
		}
		if c == '\\' && i+1 < len(s) {
			i++
			c = s[i]
		}
		b.WriteByte(c)
	}
	return "", false
}

func beginsPlace(s string) bool {
	return s != "" && (s[0] == '|' || s[0] == '/') || hasPrefixFold(s, ":include:") || isDestination(s)
}

func hasPrefixFold(s, prefix string) bool {
	return len(s) >= len(prefix) && strings.EqualFold(s[:len(prefix)], prefix)
}

// parseCommand reads "|program args". As sendmail has it, all behind the bar may stand in quotes once more.
func parseCommand(word string) (Item, error) {
	line := strings.TrimSpace(word[1:])
	if inner, ok := unquote(line); ok {
		line = inner
	}
	args, err := destination.SplitWords(line)
	if err != nil {
		return Item{}, fmt.Errorf("%q: %w", word, err)
	}
	if len(args) == 0 || args[0] == "" {
		return Item{}, fmt.Errorf("%q: there is no command", word)
	}
	if strings.Contains(args[0], "/") && !strings.HasPrefix(args[0], "/") {
		return Item{}, fmt.Errorf("%q: the program must be a name or an absolute path", word)
	}
	return Item{Kind: Command, Dest: destination.Destination{Kind: destination.Pipe, Args: args}}, nil
}

// fileDestination is where "/file" and "/dir/" point to. A percent sign in them is only that.
func fileDestination(path string) destination.Destination {
	if path == "/dev/null" {
		return destination.Destination{Kind: destination.Discard}
	}
	d := destination.Destination{Kind: destination.Mbox, Path: strings.ReplaceAll(path, "%", "%%")}
	if strings.HasSuffix(path, "/") {
		d.Kind, d.Path = destination.Maildir, strings.TrimRight(d.Path, "/")
		if d.Path == "" {
			d.Path = "/"
		}
	}
	return d
}

// isDestination reports whether s begins with a destination's scheme.
func isDestination(s string) bool {
	scheme, _, ok := strings.Cut(s, ":")
	if !ok {
		return false
	}
	switch scheme {
	case "maildir", "mbox", "pipe", "discard", "smtp", "smtps", "lmtp", "mx":
		return true
	}
	return false
}

func parseDestination(word string) (Item, error) {
	d, err := destination.Parse(word)
	if err != nil {
		return Item{}, err
	}
	if !d.IsLocal() && d.Kind != destination.Pipe && d.Kind != destination.Discard {
		return Item{}, fmt.Errorf("destination %q: %s: cannot stand in a list; it belongs into the routes", word, d.Kind)
	}
	return Item{Kind: Place, Dest: d}, nil
}

// parseAddress reads name, name@domain, \name and "Words <name@domain>".
func parseAddress(word string) (Item, error) {
	item := Item{Kind: Address}
	s := word
	if open := strings.LastIndexByte(s, '<'); open >= 0 && strings.HasSuffix(s, ">") {
		s = s[open+1 : len(s)-1]
	}
	if rest, ok := strings.CutPrefix(s, `\`); ok {
		s, item.Final = rest, true
	}
	var err error
	if item.Address, err = parseName(s); err != nil {
		return Item{}, fmt.Errorf("%q: %w", word, err)
	}
	return item, nil
}

// parseName reads name@domain, or a name alone, quoted where it must be. An empty name is an error: in a table it would be all of
// a domain.
func parseName(s string) (address.Path, error) {
	p, err := address.Parse(s + "@localhost")
	if err == nil {
		p.Domain = ""
	} else if strings.Contains(s, "@") {
		p, err = address.Parse(s)
	}
	if err == nil && p.Local == "" {
		err = errors.New("local part is empty")
	}
	return p, err
}
