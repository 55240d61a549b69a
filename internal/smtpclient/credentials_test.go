package smtpclient

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestLoadCredentials(t *testing.T) {
	file := filepath.Join(t.TempDir(), "credentials")
	for _, tt := range []struct {
		text string
		mode os.FileMode
		want string // of the error; "" for none
	}{
		{"# comment\n\nSMTP.example.com relay  pass word \n", 0o600, ""},
		{"smtp.example.com relay", 0o600, "credentials:1: write HOST USER PASSWORD"},
		{"a b c\nsmtp.example.com", 0o640, "credentials:2: "},
		{"a b c\n", 0o644, "everybody may read it"},
	} {
		if err := os.WriteFile(file, []byte(tt.text), tt.mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(file, tt.mode); err != nil {
			t.Fatal(err)
		}
		c, err := LoadCredentials(file)
		if tt.want != "" {
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%q: %v, want %q", tt.text, err, tt.want)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if p, err := c.Password("smtp.Example.com", "relay"); p != " pass word " || err != nil {
			t.Errorf("got %q, %v", p, err)
		}
		if _, err := c.Password("smtp.example.com", "other"); err == nil {
			t.Error("a password for a user who has none")
		}
	}
	if c, err := LoadCredentials(file + ".missing"); err != nil || len(c) != 0 {
		t.Errorf("%v, %v", c, err)
	}
}

// FuzzCredentials: whatever is accepted has a host, a user and a password in one line.
func FuzzCredentials(f *testing.F) {
	f.Add("# c\nhost user pass word\n")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := parseCredentials(text, "f")
		if err != nil {
			return
		}
		for key, password := range c {
			if key[0] == "" || key[1] == "" || password == "" || strings.Contains(password, "\n") {
				t.Fatalf("%q gives %q %q", text, key, password)
			}
		}
	})
}
