package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/postel-mail/postel/internal/sysexits"
	"github.com/postel-mail/postel/test/dnszone"
)

// TestExit: the exit status alone tells a script what it must know.
func TestExit(t *testing.T) {
	z, err := dnszone.Parse("a.example. MX 10 mx.a.example.\nnull.example. MX 0 .\ntext.example. TXT x\n")
	if err != nil {
		t.Fatal(err)
	}
	s, err := z.Serve("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}

	write := func(name, text string) string {
		file := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	good := write("good", `hostname = "host.example"`+"\n[dns]\nservers = [\""+s.Addr()+"\"]\n")
	bad := write("bad", "nonsense = 1\n")
	name := write("name", `hostname = "host.example"`+"\n[dns]\nservers = [\"ns.example.org\"]\n")
	tests := []struct {
		args []string
		want int
	}{
		{[]string{"-C", good, "a.example"}, sysexits.OK},
		{[]string{"-C", good, "user@A.Example."}, sysexits.OK},
		{[]string{"--server", s.Addr(), "a.example"}, sysexits.OK},
		{[]string{"--server", s.Addr(), "-C", bad, "a.example"}, sysexits.OK},
		{[]string{"-C", good, "nosuch.example"}, sysexits.NoHost},
		{[]string{"-C", good, "text.example"}, sysexits.NoHost},
		{[]string{"-C", good, "null.example"}, sysexits.Unavailable},
		{[]string{"-C", good, "--me", "mx.a.example", "a.example"}, sysexits.Unavailable},
		{[]string{"-C", good, "not a domain"}, sysexits.DataErr},
		{[]string{"-C", good, ""}, sysexits.DataErr},
		{[]string{"-C", good, "a.example", "nosuch.example", "null.example"}, sysexits.Unavailable},
		{[]string{"-C", good, "nosuch.example", "bad"}, sysexits.NoHost},
		{[]string{"-C", good, "--check"}, sysexits.OK},
		{[]string{"-C", bad, "--check"}, sysexits.Config},
		{[]string{"-C", bad, "a.example"}, sysexits.Config},
		{[]string{"-C", name, "--check"}, sysexits.Config},
		{[]string{"-C", name, "a.example"}, sysexits.Config},
		{[]string{"--server", "ns.example.org", "a.example"}, sysexits.Usage},
		{[]string{"--jobs", "0", "a.example"}, sysexits.Usage},
		{[]string{"--timeout", "0s", "a.example"}, sysexits.Usage},
		{[]string{"--timeout", "soon", "a.example"}, sysexits.Usage},
		{[]string{"--log", "loud", "-C", good, "a.example"}, sysexits.Usage},
		{[]string{"--bogus"}, sysexits.Usage},
	}
	for _, tt := range tests {
		if got := run(tt.args); got != tt.want {
			t.Errorf("%q: exit status %d, want %d", tt.args, got, tt.want)
		}
	}
	s.Close()
	if got := run([]string{"-C", good, "a.example"}); got != sysexits.TempFail {
		t.Errorf("without a server: exit status %d", got)
	}
}
