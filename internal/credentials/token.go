package credentials

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/postel-mail/postel/internal/command"
)

// Bounds of a program that prints a token.
const (
	tokenTime = 30 * time.Second
	maxToken  = 8 << 10 // octets; as base64 it fits into an answer to AUTH (RFC 4954 4)
)

// token is what a program printed, kept until a server refuses it.
type token struct {
	args []string

	mu      sync.Mutex
	value   string // "" for none
	running *run   // nil while no program runs
}

// run is one run of the program; whoever asks meanwhile gets what comes of it. value and err are read behind done.
type run struct {
	done  chan struct{}
	value string
	err   error
}

// get gives a token that is not refused, which is one that a server did not take, or "". The program is not stopped when ctx ends: the next
// who asks may want what it prints.
func (t *token) get(ctx context.Context, refused string) (string, error) {
	t.mu.Lock()
	if t.value == refused {
		t.value = ""
	}
	if t.value != "" {
		defer t.mu.Unlock()
		return t.value, nil
	}
	r := t.running
	if r == nil {
		r = &run{done: make(chan struct{})}
		t.running = r
		go t.run(r)
	}
	t.mu.Unlock()
	select {
	case <-r.done:
		return r.value, r.err
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

func (t *token) run(r *run) {
	var out firstLine
	s := command.Run(context.Background(), command.Spec{Args: t.args, Stdout: &out, Limit: tokenTime})
	value := string(bytes.TrimSpace(out.line))
	switch {
	case s != nil:
		r.err = fmt.Errorf("token program %s: %w", t.args[0], s)
	case value == "" || out.long:
		r.err = fmt.Errorf("token program %s: its first line is %w", t.args[0], errNoToken)
	default:
		r.value = value
	}
	t.mu.Lock()
	t.value, t.running = r.value, nil
	t.mu.Unlock()
	close(r.done)
}

var errNoToken = errors.New("empty or longer than 8 KiB")

// firstLine keeps the first line that is written.
type firstLine struct {
	line        []byte
	ended, long bool
}

func (f *firstLine) Write(p []byte) (int, error) {
	if !f.ended {
		line, _, ended := bytes.Cut(p, []byte("\n"))
		f.ended = ended
		f.long = f.long || len(f.line)+len(line) > maxToken
		if !f.long {
			f.line = append(f.line, line...)
		}
	}
	return len(p), nil
}
