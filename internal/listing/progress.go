package listing

import (
	"fmt"
	"io"
	"time"

	"github.com/postel-mail/postel/internal/clock"
)

// Progress is a line on a terminal that says how far a long run has come; nil says nothing. It is rewritten a few times a second, and not
// shown at all in the first second.
type Progress struct {
	w     io.Writer
	next  time.Time
	shown bool
}

const (
	progressFrom  = time.Second
	progressEvery = 200 * time.Millisecond
)

// NewProgress makes a progress that writes to w.
func NewProgress(w io.Writer) *Progress {
	return &Progress{w: w, next: clock.Now().Add(progressFrom)}
}

// Step says that n of total are done.
func (p *Progress) Step(n, total int) {
	if p == nil {
		return
	}
	if now := clock.Now(); now.After(p.next) {
		p.next, p.shown = now.Add(progressEvery), true
		fmt.Fprintf(p.w, "\r%d of %d (%d%%)\x1b[K", n, total, int64(n)*100/int64(max(total, 1)))
	}
}

// Clear takes the line away, before something else is printed.
func (p *Progress) Clear() {
	if p != nil && p.shown {
		p.shown = false
		fmt.Fprint(p.w, "\r\x1b[K")
	}
}
