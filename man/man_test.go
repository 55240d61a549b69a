// Package man_test holds the manual pages to the code that they describe: flags, keys of the configuration, log events, exit statuses.
package man_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/postel-mail/postel/internal/config"
	"github.com/postel-mail/postel/internal/destination"
	"github.com/postel-mail/postel/internal/screen"
	"github.com/postel-mail/postel/internal/sysexits"
	"github.com/postel-mail/postel/test/build"
)

var bin string // where the programs are

func TestMain(m *testing.M) { os.Exit(build.Main(m, &bin, "../cmd/...")) }

// TestPages: every program has a page, every page of a program has its program, and a reference within the suite leads somewhere.
func TestPages(t *testing.T) {
	names := programs(t)
	pages := pageFiles(t)
	for _, name := range names {
		if pageOf(pages, name) == "" {
			t.Errorf("cmd/%s has no page", name)
		}
	}
	for _, page := range pages {
		if name := page[:len(page)-2]; isCommand(page) && name != "newaliases" && !slices.Contains(names, name) {
			t.Errorf("%s: there is no cmd/%s", page, name)
		}
		for _, line := range lines(t, page) {
			words := strings.Fields(line)
			if len(words) > 2 && words[0] == ".Dt" && !strings.EqualFold(words[1]+"."+words[2], page) {
				t.Errorf("%s: %q is another page's", page, line)
			}
			if len(words) < 3 || words[0] != ".Xr" || !slices.Contains(names, words[1]) && !strings.HasPrefix(words[1], "postel") {
				continue
			}
			if to := words[1] + "." + words[2]; !slices.Contains(pages, to) {
				t.Errorf("%s: %q leads nowhere", page, line)
			}
		}
	}
}

// TestLint: mandoc finds nothing to say about a page.
func TestLint(t *testing.T) {
	mandoc, err := exec.LookPath("mandoc")
	if err != nil {
		t.Fatalf("the pages cannot be checked: %v; apt-get install mandoc", err)
	}
	for _, page := range pageFiles(t) {
		out, err := exec.Command(mandoc, "-T", "lint", "-W", "warning", page).CombinedOutput()
		if len(out) > 0 || err != nil {
			t.Errorf("%s: %v\n%s", page, err, out)
		}
	}
}

// TestFlags: the flags of --help are those of the page.
func TestFlags(t *testing.T) {
	pages := pageFiles(t)
	for _, name := range programs(t) {
		page := pageOf(pages, name)
		if page == "" {
			continue // TestPages says so
		}
		help, err := exec.Command(filepath.Join(bin, name), "--help").Output()
		if err != nil {
			t.Errorf("%s --help: %v", name, err)
			continue
		}
		long, short := pageFlags(t, page)
		wantLong, wantShort := helpFlags(string(help))
		if name == "sendmail" {
			wantShort = classicFlags(t)
		}
		compare(t, page+": flag --", long, wantLong)
		compare(t, page+": flag -", short, wantShort)
	}
}

var helpFlag = regexp.MustCompile(`(?m)^ +(?:-(\w), )?(?:    )?--([\w-]+)`)

// helpFlags gives the flags that a help text lists.
func helpFlags(help string) (long, short []string) {
	for _, m := range helpFlag.FindAllStringSubmatch(help, -1) {
		long = append(long, m[2])
		if m[1] != "" {
			short = append(short, m[1])
		}
	}
	return long, short
}

// pageFlags gives the flags of a page's ".It Fl" lines. A single-dash flag is known by its letter: "oi" is the flag o.
func pageFlags(t *testing.T, page string) (long, short []string) {
	for _, line := range lines(t, page) {
		rest, ok := strings.CutPrefix(line, ".It Fl ")
		if !ok {
			continue
		}
		words := strings.Fields("Fl " + rest)
		for i, word := range words[1:] {
			if words[i] != "Fl" {
				continue
			}
			if name, ok := strings.CutPrefix(word, "-"); ok {
				long = append(long, name)
			} else if !slices.Contains(short, word[:1]) {
				short = append(short, word[:1])
			}
		}
	}
	return long, short
}

// classicFlags gives the single-dash flags of sendmail from the table in package getopt.
func classicFlags(t *testing.T) []string {
	var flags []string
	for _, file := range parseDir(t, "../internal/getopt") {
		ast.Inspect(file, func(n ast.Node) bool {
			v, ok := n.(*ast.ValueSpec)
			if !ok || v.Names[0].Name != "classics" || len(v.Values) != 1 {
				return true
			}
			for _, e := range v.Values[0].(*ast.CompositeLit).Elts {
				flags = append(flags, unquote(t, e.(*ast.KeyValueExpr).Key))
			}
			return false
		})
	}
	if len(flags) == 0 {
		t.Error("internal/getopt has no table classics")
	}
	return flags
}

// TestKeys: the keys of postel.toml, with their types and defaults, are those of the page. A key is a line
//
//	.It Ic NAME Pq Ar TYPE , No default Li VALUE
//
// below ".Ss [TABLE]", or below another heading where it stands in no table. A default that is not a value is in words, without Li.
func TestKeys(t *testing.T) {
	const page = "postel.toml.5"
	table, documented := "", map[string]string{}
	var defaults strings.Builder
	for _, line := range lines(t, page) {
		if rest, ok := strings.CutPrefix(line, ".Ss "); ok {
			if table = ""; strings.HasPrefix(rest, "[") {
				table = strings.Trim(rest, "[]")
				fmt.Fprintf(&defaults, "[%s]\n", table)
			}
		}
		rest, ok := strings.CutPrefix(line, ".It Ic ")
		if !ok {
			continue
		}
		key, rest, _ := strings.Cut(rest, " Pq Ar ")
		kind, value, ok := strings.Cut(rest, " , No default ")
		if !ok {
			t.Errorf("%s: %q is not NAME Pq Ar TYPE , No default ...", page, line)
			continue
		}
		if value, ok = strings.CutPrefix(value, "Li "); ok {
			value = strings.ReplaceAll(strings.Trim(value, `"`), `\(dq`, `"`)
			fmt.Fprintf(&defaults, "%s = %s\n", key, value)
		}
		if key = strings.TrimPrefix(table+"."+key, "."); documented[key] != "" {
			t.Errorf("%s: %s stands there twice", page, key)
		}
		documented[key] = strings.Trim(kind, `"`)
	}
	keys := map[string]string{}
	configKeys(t, "", reflect.TypeFor[config.Config](), keys)
	compare(t, page+": key ", slices.Sorted(maps.Keys(documented)), slices.Sorted(maps.Keys(keys)))
	for key, kind := range documented {
		if keys[key] != kind && keys[key] != "" {
			t.Errorf("%s: %s: type is %q, want %q", page, key, kind, keys[key])
		}
	}
	got, err := config.Parse(strings.NewReader(defaults.String()), "defaults in "+page)
	if err != nil {
		t.Fatalf("%v\n%s", err, &defaults)
	}
	want, err := config.Parse(strings.NewReader(""), "empty")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := fmt.Sprintf("%+v", *got), fmt.Sprintf("%+v", *want); got != want {
		t.Errorf("%s: the defaults give\n%s\nand an empty file gives\n%s", page, got, want)
	}
}

var typeNames = map[reflect.Type]string{
	reflect.TypeFor[string]():                             "string",
	reflect.TypeFor[[]string]():                           "list of strings",
	reflect.TypeFor[int]():                                "number",
	reflect.TypeFor[bool]():                               "boolean",
	reflect.TypeFor[config.Size]():                        "size",
	reflect.TypeFor[config.Duration]():                    "duration",
	reflect.TypeFor[[]config.Duration]():                  "list of durations",
	reflect.TypeFor[[]config.Domain]():                    "list of domains",
	reflect.TypeFor[[]netip.Addr]():                       "list of addresses",
	reflect.TypeFor[[]netip.Prefix]():                     "list of networks",
	reflect.TypeFor[[]screen.List]():                      "list of strings",
	reflect.TypeFor[config.TLSLevel]():                    "string",
	reflect.TypeFor[config.Files]():                       "file or list of files",
	reflect.TypeFor[config.Command]():                     "command",
	reflect.TypeFor[config.BareNewline]():                 "string",
	reflect.TypeFor[destination.Destination]():            "destination",
	reflect.TypeFor[map[string]destination.Destination](): "destination",
}

// configKeys gives the keys of a struct of the configuration, with the names of their types. The keys of a map are the user's: they
// count as the key DOMAIN.
func configKeys(t *testing.T, prefix string, s reflect.Type, keys map[string]string) {
	for i := range s.NumField() {
		f := s.Field(i)
		key, kind := prefix+f.Tag.Get("toml"), typeNames[f.Type]
		switch {
		case f.Type.Kind() == reflect.Map:
			keys[key+".DOMAIN"] = kind
		case kind != "":
			keys[key] = kind
		case f.Type.Kind() == reflect.Struct:
			configKeys(t, key+".", f.Type, keys)
		default:
			t.Errorf("%s: typeNames has no name for %v", key, f.Type)
		}
	}
}

// TestEvents: the events of package maillog, their levels and their keys are those of the page. An event is a line
//
//	.It Cm LEVEL Ic NAME Ar KEY ...
func TestEvents(t *testing.T) {
	const page = "postel-log.5"
	var got []string
	for _, line := range lines(t, page) {
		if rest, ok := strings.CutPrefix(line, ".It Cm "); ok && strings.Contains(rest, " Ic ") {
			level, rest, _ := strings.Cut(rest, " Ic ")
			got = append(got, level+" "+strings.Replace(rest, " Ar ", " ", 1))
		}
	}
	compare(t, page+": event ", got, events(t))
}

// events reads "LEVEL NAME KEY ..." of each event from the source of package maillog.
func events(t *testing.T) []string {
	levels, funcs := map[string]string{}, map[string]*ast.FuncDecl{}
	for _, file := range parseDir(t, "../internal/maillog") {
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncDecl:
				funcs[n.Name.Name] = n
			case *ast.ValueSpec:
				if len(n.Values) == 1 {
					if lit, ok := n.Values[0].(*ast.BasicLit); ok && lit.Kind == token.STRING {
						levels[n.Names[0].Name] = unquote(t, lit)
					}
				}
			}
			return true
		})
	}
	var all []string
	for _, f := range funcs {
		ast.Inspect(f.Body, func(n ast.Node) bool {
			if call, ok := n.(*ast.CallExpr); ok && callee(call) == "event" {
				level := levels[call.Args[0].(*ast.Ident).Name]
				words := append([]string{level, unquote(t, call.Args[1])}, fieldKeys(t, f.Body, funcs)...)
				all = append(all, strings.Join(words, " "))
			}
			return true
		})
	}
	return all
}

// fieldKeys gives the keys of the fields that a function makes, in their order, with those of the functions outcome and fields where it
// calls them.
func fieldKeys(t *testing.T, body ast.Node, funcs map[string]*ast.FuncDecl) []string {
	var keys []string
	ast.Inspect(body, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.CallExpr:
			if name := callee(n); name == "outcome" || name == "fields" {
				keys = append(keys, fieldKeys(t, funcs[name].Body, funcs)...)
			}
		case *ast.CompositeLit:
			if len(n.Elts) == 2 { // field{"key", value}, or {"key", value} in a list of fields
				if lit, ok := n.Elts[0].(*ast.BasicLit); ok {
					keys = append(keys, unquote(t, lit))
				}
			}
		}
		return true
	})
	return keys
}

func callee(call *ast.CallExpr) string {
	switch f := call.Fun.(type) {
	case *ast.Ident:
		return f.Name
	case *ast.SelectorExpr:
		return f.Sel.Name
	}
	return ""
}

// TestExitStatus: the page of a program lists its exit statuses, each once, and none that is not in sysexits(3).
func TestExitStatus(t *testing.T) {
	known := []int{sysexits.OK, sysexits.Usage, sysexits.DataErr, sysexits.NoInput, sysexits.NoUser, sysexits.NoHost, sysexits.Unavailable,
		sysexits.Software, sysexits.OSErr, sysexits.OSFile, sysexits.CantCreat, sysexits.IOErr, sysexits.TempFail, sysexits.Protocol,
		sysexits.NoPerm, sysexits.Config}
	for _, page := range pageFiles(t) {
		section, seen := "", []int{}
		for _, line := range lines(t, page) {
			if rest, ok := strings.CutPrefix(line, ".Sh "); ok {
				section = rest
			}
			rest, ok := strings.CutPrefix(line, ".It ")
			if !ok || section != "EXIT STATUS" {
				continue
			}
			for word := range strings.FieldsSeq(rest) {
				n, err := strconv.Atoi(strings.Trim(word, ","))
				if err != nil {
					continue
				}
				if !slices.Contains(known, n) || slices.Contains(seen, n) {
					t.Errorf("%s: exit status %d is none of sysexits(3), or stands there twice", page, n)
				}
				seen = append(seen, n)
			}
		}
		if isCommand(page) && !slices.Contains(seen, 0) {
			t.Errorf("%s: EXIT STATUS lists no 0", page)
		}
	}
}

func programs(t *testing.T) []string {
	dirs, err := os.ReadDir("../cmd")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, d := range dirs {
		names = append(names, d.Name())
	}
	return names
}

func pageFiles(t *testing.T) []string {
	pages, err := filepath.Glob("*.[1-9]")
	if err != nil || len(pages) == 0 {
		t.Fatalf("no pages: %v", err)
	}
	return pages
}

// isCommand reports whether a page is that of a program.
func isCommand(page string) bool {
	return strings.HasSuffix(page, ".1") || strings.HasSuffix(page, ".8")
}

func pageOf(pages []string, name string) string {
	for _, page := range pages {
		if isCommand(page) && page[:len(page)-2] == name {
			return page
		}
	}
	return ""
}

func lines(t *testing.T, page string) []string {
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(string(text), "\n")
}

func parseDir(t *testing.T, dir string) []*ast.File {
	names, err := filepath.Glob(dir + "/*.go")
	if err != nil {
		t.Fatal(err)
	}
	var files []*ast.File
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	return files
}

func unquote(t *testing.T, e ast.Expr) string {
	lit, ok := e.(*ast.BasicLit)
	if !ok {
		t.Fatalf("%T is not a literal", e)
	}
	s, err := strconv.Unquote(lit.Value)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// compare says what is documented and not there, and what is there and not documented.
func compare(t *testing.T, what string, documented, there []string) {
	t.Helper()
	for _, s := range documented {
		if !slices.Contains(there, s) {
			t.Errorf("%s%s is documented and does not exist", what, s)
		}
	}
	for _, s := range there {
		if !slices.Contains(documented, s) {
			t.Errorf("%s%s is not documented", what, s)
		}
	}
}
