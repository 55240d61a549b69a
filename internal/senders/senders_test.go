package senders

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/postel-mail/postel/internal/address"
	"github.com/postel-mail/postel/internal/clock"
)

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

const example = `# who may send as whom
bob: sales@example.org, @shop.example,
	Info@example.org, # no comment here, an item that is wrong would be
carol@virtual.example : "a,b"@example.org
	# a comment between

	news@bücher.example
robot: *
*: noreply@example.org
`

func TestAllows(t *testing.T) {
	path := filepath.Join(t.TempDir(), "senders")
	write(t, path, strings.Replace(example, " # no comment here, an item that is wrong would be", "", 1))
	table, err := Load(path, "+", nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		login, from string
		want        bool
	}{
		{"bob", "sales@example.org", true},
		{"BOB", "SALES@Example.org", true},
		{"bob", "sales+x@example.org", true},
		{"bob", "info@example.org", true},
		{"bob", "anything@shop.example", true},
		{"bob", "x@sub.shop.example", false},
		{"bob", "bob@example.org", false}, // the table knows nothing of own addresses
		{"bob", "noreply@example.org", true},
		{"bob", `"*"@example.org`, false},
		{"carol@virtual.example", `"a,b"@example.org`, true},
		{"carol@virtual.example", "news@xn--bcher-kva.example", true},
		{"carol", "news@xn--bcher-kva.example", false},
		{"robot", "president@elsewhere.example", true},
		{"nobody", "president@elsewhere.example", false},
		{"nobody", "noreply@example.org", true},
		{"*", "sales@example.org", false},
		{"", "sales@example.org", false},
	} {
		from, err := address.Parse(tt.from)
		if err != nil {
			t.Fatal(err)
		}
		if got := table.Allows(tt.login, from); got != tt.want {
			t.Errorf("%s as %s: got %v, want %v", tt.login, tt.from, got, tt.want)
		}
	}
	if none, err := Load("", "+", nil); none.Allows("bob", address.Path{Local: "bob", Domain: "example.org"}) || err != nil {
		t.Errorf("without a table: %v", err)
	}
}

func TestMistakes(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"bob sales@example.org\n", "F:1: no colon"},
		{"\tbob: x@example.org\n", "F:1: the first line cannot begin with white space"},
		{"# x\n: x@example.org\n", `F:2: "" is not a login`},
		{"bob smith: x@example.org\n", `F:1: "bob smith" is not a login`},
		{"bob: sales\n", `F:1: "sales": address has no domain`},
		{"bob: \"\"@example.org\n", `local part is empty`},
		{"bob: x@example.org\n\t@-x.example\n", `F:2: "@-x.example": domain has a label`},
		{"bob: x@example.org\nBob: y@example.org\n\tz\n", "F:2: bob stands in line 1 already"},
		{"bob: x@example.org y@example.org\n", "F:1: "},
		{"a: x\nb: y\n", "\nF:2: "},
	} {
		_, err := parse(tt.text, "F")
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%q: got %v, want %s", tt.text, err, tt.want)
		}
	}
	if _, err := parse(strings.Repeat("x\n", 1000), "F"); strings.Count(err.Error(), "\n") != maxTold-1 {
		t.Errorf("too much is told: %v", err)
	}
	if _, err := Load(filepath.Join(t.TempDir(), "none"), "+", nil); err == nil {
		t.Error("a table that is not there is none")
	}
}

// TestChange: the file is read again when it changes, and a mistake leaves what was.
func TestChange(t *testing.T) {
	path := filepath.Join(t.TempDir(), "senders")
	write(t, path, "bob: a@example.org\n")
	var problems []string
	table, err := Load(path, "", func(err error) { problems = append(problems, err.Error()) })
	if err != nil {
		t.Fatal(err)
	}
	a, b := address.Path{Local: "a", Domain: "example.org"}, address.Path{Local: "b", Domain: "example.org"}
	now := time.Now()
	clock.Set(func() time.Time { return now })
	defer clock.Set(nil)
	for _, tt := range []struct {
		text     string // "-" for no file
		a, b     bool
		problems int
	}{
		{"bob: b@example.org\n", false, true, 0},
		{"bob: b@example.org, nonsense\n", false, true, 1},
		{"", false, false, 1},
		{"bob: a@example.org\n", true, false, 1},
		{"-", true, false, 2},
		{"bob: b@example.org\n", false, true, 2},
	} {
		if tt.text == "-" {
			_ = os.Remove(path)
		} else {
			write(t, path, tt.text)
		}
		for range 2 { // told once
			now = now.Add(2 * time.Second) // time to look again, and what was written is whole
			if gotA, gotB := table.Allows("bob", a), table.Allows("bob", b); gotA != tt.a || gotB != tt.b || len(problems) != tt.problems {
				t.Errorf("%q: a %v, b %v, want %v, %v; problems %q, want %d", tt.text, gotA, gotB, tt.a, tt.b, problems, tt.problems)
			}
		}
	}
}

var numbered = regexp.MustCompile(`^F:[0-9]+: `)

// FuzzParse: whatever stands in the file, a mistake names its line, and what is taken lets nobody do more than the text says.
func FuzzParse(f *testing.F) {
	f.Add(example)
	f.Add("bob: *\n\t@x.example\n*: \"a\\\"b\"@c.example,,\n")
	f.Add("bob : <x@y.example>\n#\n bob: \n")
	f.Fuzz(func(t *testing.T, text string) {
		table, err := parse(text, "F")
		if err != nil {
			for line := range strings.SplitSeq(err.Error(), "\n") {
				if !numbered.MatchString(line) {
					t.Fatalf("%q: %q", text, line)
				}
			}
			return
		}
		for login, list := range table {
			if login == "" || !strings.Contains(strings.ToLower(text), login) {
				t.Fatalf("%q: login %q", text, login)
			}
			for p := range list {
				switch {
				case p == anything && strings.Contains(text, "*"), p.Local == "" && strings.Contains(text, "@"):
				case p.Domain == "" || p.Local == "":
					t.Fatalf("%q: item %+v", text, p)
				}
				if p.Domain != "" && address.CheckDomain(p.Domain) != nil {
					if _, ok := p.Literal(); !ok {
						t.Fatalf("%q: domain %q", text, p.Domain)
					}
				}
			}
		}
	})
}
