package delivery

import (
	"bytes"
	"io"
	"os"
	"strings"
	"testing"
)

// FuzzTakeIn: a message in a file is read from where the file stands, without the From_ line in front and with nothing else left out.
func FuzzTakeIn(f *testing.F) {
	f.Add("From alice@example.org Mon Nov 23 12:00:00 2026\nSubject: x\n\nFrom here\n", 0)
	f.Add("xxFrom  \n\n", 2)
	f.Add("From alice", 0)
	f.Fuzz(func(t *testing.T, text string, start int) {
		start = max(0, min(start, len(text)))
		in, err := os.Create(t.TempDir() + "/message")
		if err != nil {
			t.Fatal(err)
		}
		defer in.Close()
		if _, err := in.WriteString(text); err != nil {
			t.Fatal(err)
		}
		if _, err := in.Seek(int64(start), io.SeekStart); err != nil {
			t.Fatal(err)
		}
		m := &Message{}
		sender, err := m.TakeIn(in)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(io.NewSectionReader(m.Body, 0, m.Size+1))
		if err != nil || int64(len(got)) != m.Size {
			t.Fatalf("%d octets of %d, %v", len(got), m.Size, err)
		}
		want := text[start:]
		if line, rest, ok := strings.Cut(want, "\n"); ok && strings.HasPrefix(line, "From ") && len(line) < 2048 {
			want = rest
		} else if sender != "" {
			t.Errorf("sender %q without a From_ line", sender)
		}
		if string(got) != want || strings.ContainsAny(sender, " \n") {
			t.Errorf("%q from %d gives %q and %q", text, start, sender, got)
		}
		again, err := m.Open()
		if err != nil {
			t.Fatal(err)
		}
		defer again.Close()
		if b, err := io.ReadAll(again); err != nil || !bytes.Equal(b, got) {
			t.Errorf("again %q, %v", b, err)
		}
	})
}
