package credentials

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

func TestLoad(t *testing.T) {
	file := filepath.Join(t.TempDir(), "credentials")
	for _, tt := range []struct {
		text string
		mode os.FileMode
		want string // of the error; "" for none
	}{
		{"# comment\n\nSMTP.example.com relay  pass word \n", 0o600, ""},
		{"smtp.example.com relay {PLAIN} pass word \r\n", 0o660, ""},
		{"smtp.example.com relay", 0o600, "credentials:1: write HOST USER PASSWORD"},
		{"a b c\nsmtp.example.com", 0o640, "credentials:2: "},
		{"a b {PLAIN}", 0o600, "credentials:1: a password that begins with {"},
		{"a b {secret", 0o600, "credentials:1: a password that begins with {"},
		{"a b {TOKEN}", 0o600, "credentials:1: write {TOKEN} and the absolute path"},
		{"a b {TOKEN}cat /etc/token", 0o600, "credentials:1: write {TOKEN} and the absolute path"},
		{"a b {TOKEN}/bin/cat 'x", 0o600, "credentials:1: write {TOKEN} and the absolute path"},
		{"a b c\n", 0o644, "everybody may read it"},
		{"a b {TOKEN}/bin/cat\n", 0o660, "its group may write it"},
		{strings.Repeat("#", maxFile+1), 0o600, "at most 1 MiB"},
		{"smtp.example.com relay  pass word \n" + strings.Repeat("#", maxFile-35), 0o600, ""},
	} {
		if err := os.WriteFile(file, []byte(tt.text), tt.mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(file, tt.mode); err != nil {
			t.Fatal(err)
		}
		c, err := Load(file)
		if tt.want != "" {
			if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "secret") {
				t.Errorf("%.40q: %v, want %q", tt.text, err, tt.want)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if l, err := c.Login("smtp.Example.com", "relay"); l.User != "relay" || l.Password != " pass word " || l.Token != nil || err != nil {
			t.Errorf("got %+v, %v", l, err)
		}
		if _, err := c.Login("smtp.example.com", "other"); err == nil {
			t.Error("a password for a user who has none")
		}
		c.Certificate = true
		if l, err := c.Login("smtp.example.com", "other"); l.User != "other" || l.Password != "" || l.Token != nil || err != nil {
			t.Errorf("by certificate: got %+v, %v", l, err)
		}
	}
	c, err := Load(file + ".missing")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Login("a", "b"); err == nil {
		t.Error("a password without a file")
	}
	if _, err := Load(filepath.Dir(file)); err == nil {
		t.Error("a directory was read")
	}
}

// FuzzCredentials: whatever is accepted has a host, a user and one way to log in, in one line.
func FuzzCredentials(f *testing.F) {
	f.Add("# c\nhost user pass word\n")
	f.Add("host user {TOKEN}/bin/x 'a b'\nh u {PLAIN}{\r\n")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := parse(text, "f")
		if err != nil {
			return
		}
		for k, l := range c.logins {
			if k.host == "" || k.user == "" || l.User != k.user || (l.Password == "") == (l.Token == nil) || strings.Contains(l.Password, "\n") {
				t.Fatalf("%q gives %q %+v", text, k, l)
			}
		}
	})
}

// program makes a token program that counts its runs in a file, and gives what stands behind {TOKEN} for it.
func program(t *testing.T, script string) (line string, runs func() int) {
	t.Helper()
	count := filepath.Join(t.TempDir(), "count")
	path := filepath.Join(t.TempDir(), "program")
	text := "#!/bin/sh\necho >>'" + count + "'\nn=$(wc -l <'" + count + "')\n" + script
	if err := os.WriteFile(path, []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	return path, func() int {
		b, err := os.ReadFile(count)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		return len(b)
	}
}

func load(t *testing.T, line string) func(context.Context, string) (string, error) {
	t.Helper()
	c, err := parse("h u {TOKEN}"+line, "f")
	if err != nil {
		t.Fatal(err)
	}
	l, err := c.Login("h", "u")
	if err != nil {
		t.Fatal(err)
	}
	return l.Token
}

// TestToken: the program runs once, and again when a server has refused what it gave.
func TestToken(t *testing.T) {
	line, runs := program(t, "echo \" token$n$1 \"\necho other\necho hush >&2")
	get := load(t, line+" ' x'")
	for i, tt := range []struct {
		refused, want string
		runs          int
	}{
		{"", "token1 x", 1}, {"", "token1 x", 1}, {"another", "token1 x", 1}, {"token1 x", "token2 x", 2}, {"token1 x", "token2 x", 2}, {"", "token2 x", 2}, {"token2 x", "token3 x", 3},
	} {
		got, err := get(t.Context(), tt.refused)
		if got != tt.want || err != nil || runs() != tt.runs {
			t.Errorf("%d, refused %q: got %q after %d runs, %v; want %q after %d", i, tt.refused, got, runs(), err, tt.want, tt.runs)
		}
	}
}

func TestTokenFails(t *testing.T) {
	for _, tt := range []struct{ script, want string }{
		{"echo t; echo it is broken >&2; exit 75", "it is broken"},
		{"exit 1", "failed"},
		{"true", "its first line is empty or longer than 8 KiB"},
		{"echo; echo t", "its first line is empty"},
		{fmt.Sprintf("head -c %d /dev/zero | tr '\\0' t", maxToken+1), "longer than 8 KiB"},
	} {
		line, runs := program(t, tt.script)
		get := load(t, line)
		for n := range 2 { // a failure is not kept
			if got, err := get(t.Context(), ""); got != "" || err == nil || !strings.Contains(err.Error(), tt.want) || runs() != n+1 {
				t.Errorf("%s: got %q, %v after %d runs; want %q", tt.script, got, err, runs(), tt.want)
			}
		}
	}
	line, _ := program(t, fmt.Sprintf("head -c %d /dev/zero | tr '\\0' t; echo; yes | head -c 1000000", maxToken))
	if got, err := load(t, line)(t.Context(), ""); len(got) != maxToken || err != nil {
		t.Errorf("a token of 8 KiB: got %d octets, %v", len(got), err)
	}
	if _, err := load(t, "/nonexistent/program")(t.Context(), ""); err == nil || !strings.Contains(err.Error(), "/nonexistent/program") {
		t.Errorf("no program: %v", err)
	}
}

// TestTokenAtOnce: who asks while the program runs waits for it, as long as he likes.
func TestTokenAtOnce(t *testing.T) {
	gate := filepath.Join(t.TempDir(), "gate")
	line, runs := program(t, "while ! test -e '"+gate+"'; do sleep 0.01; done; echo token")
	get := load(t, line)
	stopped, stop := context.WithCancel(t.Context())
	stop()
	if _, err := get(stopped, ""); !errors.Is(err, context.Canceled) {
		t.Errorf("stopped: got %v", err)
	}
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			if got, err := get(t.Context(), ""); got != "token" || err != nil {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
	if err := os.WriteFile(gate, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	if runs() != 1 {
		t.Errorf("%d runs", runs())
	}
}
