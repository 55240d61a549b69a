package internal

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/postel-mail/postel/"

// floors is the house: data falls from the top to the bottom, imports go down only, and two packages on one floor do not know each other.
var floors = [][]string{
	0: {"clock", "status", "address", "getopt"},
	1: {"durable", "activation", "tablefile"},
	2: {"sysexits", "envelope", "message", "mailbox", "destination", "saslclient", "password", "ledger", "journal"},
	3: {"sasl", "recode", "screen"},
	4: {"channel", "guesses", "queue", "mx", "smtpclient", "maildir", "mbox", "alias", "userdb", "command", "dsn", "maillog", "config", "senders"},
	5: {"logins", "confine", "smtpserver", "lmtpserver", "pop3server", "transport", "credentials", "mailstore", "hostlist", "submission", "listing", "trace"},
	6: {"callout", "delivery", "runner", "drop"},
	7: {"process"},
	8: {"program"},
	9: {"daemon"},
}

// only says who may import a package, where not everybody above may.
var only = map[string][]string{
	"config":     {"process", "program", "daemon", "cmd"},
	"activation": {"smtpserver", "lmtpserver", "pop3server", "daemon", "cmd"},
}

// banned are packages that no code of ours uses, with the reason. Tests may.
var banned = map[string]string{
	"net/textproto": "its DotReader ends a body at LF-dot-LF; quadratic parsers",
	"net/smtp":      "frozen",
	"net/mail":      "quadratic parsers; internal/message reads headers",
	"io/ioutil":     "deprecated",
	"log":           "internal/maillog is the log",
}

// bytesOnly are the packages of the formats, which touch neither files nor network.
var bytesOnly = []string{"envelope", "message", "mailbox", "destination", "sasl", "saslclient", "sysexits", "status", "address", "recode"}

func TestFloors(t *testing.T) {
	level := map[string]int{"cmd": len(floors)}
	for n, names := range floors {
		for _, name := range names {
			level[name] = n
		}
	}
	seen := map[string]bool{}
	walk(t, func(file, pkg string, imports []string) {
		seen[pkg] = true
		if _, ok := level[pkg]; !ok {
			t.Errorf("%s: package %s is on no floor; give it one in deps_test.go", file, pkg)
			return
		}
		for _, path := range imports {
			if why := banned[path]; why != "" {
				t.Errorf("%s imports %s: %s", file, path, why)
			}
			if contains(bytesOnly, pkg) && (path == "os" || path == "net") {
				t.Errorf("%s imports %s, but %s is about bytes only", file, path, pkg)
			}
			name, ours := strings.CutPrefix(path, module)
			if !ours {
				continue
			}
			name, inside := strings.CutPrefix(name, "internal/")
			if !inside {
				t.Errorf("%s imports %s, which is not for use by others", file, path)
				continue
			}
			if level[name] >= level[pkg] {
				t.Errorf("%s (floor %d) imports %s (floor %d)", file, level[pkg], name, level[name])
			}
			if allowed := only[name]; allowed != nil && !contains(allowed, pkg) {
				t.Errorf("%s imports %s, which only %s may", file, name, strings.Join(allowed, ", "))
			}
		}
	})
	for name := range level {
		if !seen[name] {
			t.Errorf("package %s is on a floor but not there", name)
		}
	}
}

// walk calls f with each Go file that is not a test.
func walk(t *testing.T, f func(file, pkg string, imports []string)) {
	t.Helper()
	for _, root := range []string{".", "../cmd"} {
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			pkg, _, _ := strings.Cut(filepath.ToSlash(path), "/")
			if root != "." {
				pkg = "cmd"
			}
			if pkg == "mailbox" && strings.Contains(path, "mailboxtest") {
				return nil // a suite for tests
			}
			parsed, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
			if err != nil {
				return err
			}
			var imports []string
			for _, i := range parsed.Imports {
				p, err := strconv.Unquote(i.Path.Value)
				if err != nil {
					return err
				}
				imports = append(imports, p)
			}
			f(path, pkg, imports)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func contains(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}
