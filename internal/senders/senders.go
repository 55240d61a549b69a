// Package senders is the table of who may send as whom, beside the addresses that are a user's own: lines
//
//	login: address, @domain, ...
//
// where "*" as an item is any address and "*" as a login is everybody who has one. A line that begins with white space continues the one before; lines whose first
// word begins with "#" are comments. Logins and local parts are compared without regard to case.
package senders

import (
	"errors"
	"fmt"
	"strings"

	"github.com/postel-mail/postel/internal/address"
	"github.com/postel-mail/postel/internal/tablefile"
)

// Table is one file. It may be used by many goroutines. A nil Table allows nothing.
type Table struct {
	file      tablefile.File[table]
	delimiter string
}

// maxFile bounds the file in octets, maxTold the mistakes that are told of it.
const (
	maxFile = 64 << 20
	maxTold = 10
)

// Load reads the file; with an empty path there is no Table. delimiter stands between name and detail of a local part. The error joins the mistakes of the
// file, "path:line: ...". A file that changes is read again by itself; problem hears once of a change that cannot be used, and the old
// content stays in force then.
func Load(path, delimiter string, problem func(error)) (*Table, error) {
	if path == "" {
		return nil, nil
	}
	t := &Table{delimiter: delimiter}
	t.file.Path, t.file.Max, t.file.Problem = path, maxFile, problem
	t.file.Parse = func(text string) (table, error) { return parse(text, path) }
	if err := t.file.Load(); err != nil {
		return nil, fmt.Errorf("senders: %w", err)
	}
	return t, nil
}

// Allows reports whether the table lets login send as from: by its address, with or without the detail, its domain, or any.
func (t *Table) Allows(login string, from address.Path) bool {
	if t == nil {
		return false
	}
	from = fold(from)
	base := from
	base.Local, _ = address.Split(from.Local, t.delimiter)
	table := t.file.Get()
	for _, who := range []string{strings.ToLower(login), anybody} {
		if s := table[who]; s[from] || s[base] || s[address.Path{Domain: from.Domain}] || s[anything] {
			return true
		}
	}
	return false
}

// table has the senders of each login; those without a local part are whole domains.
type table map[string]map[address.Path]bool

const anybody = "*"

// anything is the item "*". No address is like it: those that are parsed have a domain.
var anything = address.Path{Local: "*"}

func fold(p address.Path) address.Path {
	p = p.ASCII()
	p.Local = strings.ToLower(p.Local)
	return p
}

func parse(text, path string) (table, error) {
	t := table{}
	var wrong []error
	var login string // of the line before; "" where that is not one
	where := map[string]int{}
	n := 0
	for line := range strings.Lines(text) {
		if n++; len(wrong) == maxTold {
			break
		}
		fail := func(err error) { wrong = append(wrong, fmt.Errorf("%s:%d: %w", path, n, err)) }
		word := strings.TrimSpace(line)
		items := word
		switch {
		case word == "" || word[0] == '#':
			continue
		case line[0] != ' ' && line[0] != '\t':
			var err error
			if login, items, err = cutLogin(word); err != nil {
				fail(err)
				continue
			}
			if was := where[login]; was > 0 {
				fail(fmt.Errorf("%s stands in line %d already", login, was))
				login = ""
				continue
			}
			where[login], t[login] = n, map[address.Path]bool{}
		case len(where) == 0 && wrong == nil:
			fail(errors.New("the first line cannot begin with white space"))
			continue
		}
		if login == "" {
			continue // told
		}
		if err := add(t[login], items); err != nil {
			fail(err)
		}
	}
	return t, errors.Join(wrong...)
}

// cutLogin reads "login: items".
func cutLogin(s string) (login, items string, err error) {
	login, items, ok := strings.Cut(s, ":")
	login = strings.ToLower(strings.TrimRight(login, " \t"))
	switch {
	case !ok:
		return "", "", errors.New("no colon; write login: address, @domain")
	case login == "" || strings.ContainsFunc(login, func(r rune) bool { return r <= ' ' || r == 0x7f || r == ',' }):
		return "", "", fmt.Errorf("%q is not a login", login)
	}
	return login, items, nil
}

// add adds items separated by commas.
func add(to map[address.Path]bool, items string) error {
	for items != "" {
		end, _ := address.ItemEnd(items) // an open quote is a mistake of the item
		item := strings.TrimSpace(items[:end])
		items = strings.TrimPrefix(items[end:], ",")
		if item == "" {
			continue
		}
		p, err := parseItem(item)
		if err != nil {
			return fmt.Errorf("%q: %w", item, err)
		}
		to[p] = true
	}
	return nil
}

func parseItem(item string) (address.Path, error) {
	if item == "*" {
		return anything, nil
	}
	if domain, ok := strings.CutPrefix(item, "@"); ok {
		if err := address.CheckDomain(domain); err != nil {
			return address.Path{}, err
		}
		return fold(address.Path{Domain: domain}), nil
	}
	p, err := address.Parse(item)
	if err == nil && p.Local == "" {
		err = errors.New("local part is empty") // it would be the whole domain
	}
	return fold(p), err
}
