// Package clock is the one place where postel reads the wall clock, so that a test can turn it.
//
// Waits and deadlines use the monotonic reading that a time.Time carries; what is written to disk
// or to a header is the wall clock, in UTC.
package clock

import (
	"sync/atomic"
	"time"
)

var source atomic.Pointer[func() time.Time]

// Now is the current time, with its monotonic reading.
func Now() time.Time {
	if f := source.Load(); f != nil {
		return (*f)()
	}
	return time.Now()
}

// Since is the time that has passed since t.
func Since(t time.Time) time.Duration { return Now().Sub(t) }

// Set makes Now answer with f; nil gives the real clock back. For tests only.
func Set(f func() time.Time) {
	if f == nil {
		source.Store(nil)
		return
	}
	source.Store(&f)
}
