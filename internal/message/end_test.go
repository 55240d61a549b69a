package message

import "testing"

// TestHeaderEnd finds the end of a header in whatever pieces it comes.
func TestHeaderEnd(t *testing.T) {
	for _, tt := range []struct {
		in   string
		size int
	}{
		{"A: b\r\n\r\nbody", 8}, {"\r\nbody", 2}, {"A: b\r\n", 6}, {"", 0}, {"A: b\n\nc\r\n", 9}, {"A: b\r\n\r\r\n\r\nx", 11}, {"A\r\r\n\r\n\r\n", 6}, {"\r\n\r\n\r\n", 2},
	} {
		for cut := range len(tt.in) + 1 {
			var h HeaderEnd
			got := h.Within([]byte(tt.in[:cut]))
			more := h.Within([]byte(tt.in[cut:]))
			if got < cut && more != 0 || got+more != tt.size || h.Over() != (tt.size > 0 && tt.in[tt.size-1] == '\n' && (tt.size == 2 || tt.in[max(0, tt.size-4):tt.size] == "\r\n\r\n")) {
				t.Errorf("%q cut at %d: got %d and %d, over %v, want %d", tt.in, cut, got, more, h.Over(), tt.size)
			}
		}
	}
}
