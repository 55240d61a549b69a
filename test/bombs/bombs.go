// Package bombs measures what a parser makes of input that is made to cost it much.
package bombs

import (
	"runtime"
	"strings"
	"testing"
)

// Linear asks that ten times as much of unit makes f allocate about ten times as much. The inputs are also long enough for a quadratic step in time to be missed by nobody.
func Linear(t *testing.T, name, unit string, f func(in string)) {
	t.Helper()
	f(unit) // what is allocated once
	const n = 20_000
	small := allocated(func() { f(strings.Repeat(unit, n/len(unit))) })
	large := allocated(func() { f(strings.Repeat(unit, 10*n/len(unit))) })
	if large > 20*small+1<<20 { // a quadratic step would make it 100 times as much
		t.Errorf("%s %q: %d octets allocated for %d of input, %d for ten times as much", name, unit, small, n, large)
	}
}

// allocated is the number of octets that f allocates.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}
