package command

import "strings"

// Word is a Spec.Stdout for a program that says one word. It keeps the first 32 octets.
type Word struct{ b []byte }

// Write takes a piece of the output.
func (w *Word) Write(p []byte) (int, error) {
	w.b = append(w.b, p[:min(len(p), 32-len(w.b))]...)
	return len(p), nil
}

// String is the word.
func (w *Word) String() string { return strings.TrimSpace(string(w.b)) }
