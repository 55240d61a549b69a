package message

import (
	"bufio"
	"runtime"
	"strings"
	"testing"
)

// allocated is the number of octets that f allocates.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// Every input is also long enough for a quadratic step to be missed by nobody.
func testLinear(t *testing.T, name string, unit string, f func(in string)) {
	t.Helper()
	f(unit) // what is allocated once
	const n = 20_000
	small := allocated(func() { f(strings.Repeat(unit, n/len(unit))) })
	large := allocated(func() { f(strings.Repeat(unit, 10*n/len(unit))) })
	if large > 20*small+1<<20 { // a quadratic step would make it 100 times as much
		t.Errorf("%s %q: %d octets allocated for %d of input, %d for ten times as much", name, unit, small, n, large)
	}
}

func TestLinearList(t *testing.T) {
	for _, unit := range []string{"(", "()", ")", `"`, `""`, `"" `, `"\`, `\`, "[", "[]", "<", "<>", ">", "@", "a@", "@a,", ":", "a:", ";", ",", ".", "a.", "a",
		"a ", " ", "\r\n ", "=?", "=?a?", "=?a?b?c?=", "a@b,", "a@b ", "<a@b>", "<@a:", "<a ", `"a"<a@b>,`, "\x00", "\xff"} {
		testLinear(t, "list", unit, func(in string) { _, _ = ParseList(in) })
	}
}

func TestLinearComplete(t *testing.T) {
	for _, unit := range []string{"a,", "a@b,", "a ", " ", "\t \r\n ", `"`, "("} {
		testLinear(t, "header", unit, func(in string) {
			h, err := ReadHeader(bufio.NewReader(strings.NewReader("To: "+in+"\n\n")), 2*MaxHeader)
			if err != nil {
				t.Fatal(err)
			}
			_, _ = h.Recipients()
			h.Complete(completion())
			_ = NewField("X", in)
		})
	}
}
