package tablefile

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/postel-mail/postel/internal/clock"
)

func file(path string) *File[string] {
	return &File[string]{Path: path, Max: 10, Parse: func(text string) (string, error) {
		if text == "bad" {
			return "", errors.New("it is bad")
		}
		return text, nil
	}}
}

func TestLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	for _, tt := range []struct {
		name, want string
		make       func() error
	}{
		{"missing", "no such file", func() error { return nil }},
		{"too large", "larger than 10 octets", func() error { return os.WriteFile(path, []byte("01234567890"), 0o600) }},
		{"bad", "it is bad", func() error { return os.WriteFile(path, []byte("bad"), 0o600) }},
		{"everybody's", "others can write it (mode 0602)", func() error { return os.Chmod(path, 0o602) }},
		{"directory", "not a regular file", func() error { return errors.Join(os.Remove(path), os.Mkdir(path, 0o700)) }},
		{"FIFO", "not a regular file", func() error { return errors.Join(os.Remove(path), syscall.Mkfifo(path, 0o600)) }},
	} {
		if err := tt.make(); err != nil {
			t.Fatal(err)
		}
		if err := file(path).Load(); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %s", tt.name, err, tt.want)
		}
	}
}

// TestHalf: a file that is being written is left for the next time; one from the future is not left for ever.
func TestHalf(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	now := time.Now()
	clock.Set(func() time.Time { return now })
	defer clock.Set(nil)
	put := func(text string, age time.Duration) {
		t.Helper()
		if err := errors.Join(os.WriteFile(path, []byte(text), 0o600), os.Chtimes(path, time.Time{}, now.Add(-age))); err != nil {
			t.Fatal(err)
		}
	}
	f := file(path)
	put("one", time.Hour)
	if err := f.Load(); err != nil {
		t.Fatal(err)
	}
	get := func(want string) {
		t.Helper()
		if got := f.Get(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	put("two", time.Minute)
	get("one") // looked at a moment ago
	now = now.Add(2 * time.Second)
	get("two")
	now = now.Add(2 * time.Second)
	put("thr", 0)
	get("two")
	now = now.Add(2 * time.Second)
	get("thr")
	now = now.Add(2 * time.Second)
	put("four", -time.Hour)
	get("four")
}
