package message

import "bytes"

// HeaderEnd finds the empty line that ends the header of a message, which may lie across blocks.
type HeaderEnd struct {
	matched int // octets of CRLFCRLF seen; 4 is the end
	begun   bool
}

// Within gives how many octets of the next block belong to the header.
func (h *HeaderEnd) Within(block []byte) int {
	const blank = "\r\n\r\n"
	if !h.begun { // a message that begins with an empty line has no header
		h.begun, h.matched = true, 2
	}
	for i := 0; i < len(block); i++ {
		if h.matched == len(blank) {
			return i
		}
		if h.matched == 0 {
			cr := bytes.IndexByte(block[i:], '\r')
			if cr < 0 {
				break
			}
			i += cr
		}
		switch block[i] {
		case blank[h.matched]:
			h.matched++
		case '\r':
			h.matched = 1
		default:
			h.matched = 0
		}
	}
	return len(block)
}

// Over reports whether the header has ended.
func (h *HeaderEnd) Over() bool { return h.matched == 4 }
