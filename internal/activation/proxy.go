package activation

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/postel-mail/postel/internal/clock"
)

// The PROXY protocol, versions 1 and 2, as HAProxy's proxy-protocol.txt describes it: what a proxy says in front of a
// connection about the client that it stands for. Of the additions of version 2 (TLVs) only CRC32C is looked at: where it is there it must be right. Datagrams
// are not spoken. Where a client on a UNIX socket, or one that the proxy does not know, is behind it, nothing is known of it here.

const (
	proxyTime = 5 * time.Second // for the header; the text asks for three at least
	proxyText = 107             // octets of a header of version 1 at most, with its line end
	proxyMax  = 16 << 10        // of version 2; certificates may be in it
)

// Families and protocols of version 2.
const (
	unspecified = 0x00
	overTCP4    = 0x11
	overTCP6    = 0x21
	overUNIX    = 0x31
)

var proxySignature = []byte("\r\n\r\n\x00\r\nQUIT\n")

// proxied is what a header says.
type proxied struct {
	local    bool           // the proxy speaks for itself, to see whether we are well
	src, dst netip.AddrPort // not valid where they are not known
}

var (
	errShort   = errors.New("more to come") // the header is not whole yet
	errNoProxy = errors.New("there is none")
)

// parseProxy reads the header in front of b, of n octets. errShort asks for more behind b, any other error is final.
func parseProxy(b []byte) (h proxied, n int, err error) {
	switch {
	case len(b) == 0:
		return h, 0, errShort
	case b[0] == proxySignature[0]:
		return parseProxy2(b)
	}
	const word = "PROXY "
	if m := min(len(b), len(word)); string(b[:m]) != word[:m] {
		return h, 0, errNoProxy
	}
	line, _, whole := bytes.Cut(b[:min(len(b), proxyText)], []byte("\r\n"))
	switch {
	case !whole && len(b) >= proxyText:
		return h, 0, errors.New("the line is longer than 107 octets")
	case !whole:
		return h, 0, errShort
	}
	h, err = parseProxy1(string(line[min(len(line), len(word)):]))
	return h, len(line) + 2, err
}

// parseProxy1 reads what stands behind "PROXY ".
func parseProxy1(line string) (h proxied, err error) {
	words := strings.Split(line, " ")
	if words[0] == "UNKNOWN" { // whatever follows
		return h, nil
	}
	if len(words) != 5 || words[0] != "TCP4" && words[0] != "TCP6" {
		return h, errors.New("the line is malformed")
	}
	var ends [2]netip.AddrPort
	for i := range ends {
		ip, err := netip.ParseAddr(words[1+i])
		port, err2 := strconv.ParseUint(words[3+i], 10, 16)
		if err != nil || err2 != nil || ip.Zone() != "" || ip.Is4() != (words[0] == "TCP4") || strconv.FormatUint(port, 10) != words[3+i] {
			return h, errors.New("the line has a bad address or port")
		}
		ends[i] = netip.AddrPortFrom(ip.Unmap(), uint16(port))
	}
	return proxied{src: ends[0], dst: ends[1]}, nil
}

func parseProxy2(b []byte) (h proxied, n int, err error) {
	if m := min(len(b), len(proxySignature)); !bytes.Equal(b[:m], proxySignature[:m]) {
		return h, 0, errNoProxy
	}
	if len(b) < 16 {
		return h, 0, errShort
	}
	n = 16 + int(binary.BigEndian.Uint16(b[14:]))
	switch {
	case b[12]>>4 != 2 || b[12]&15 > 1:
		return h, 0, fmt.Errorf("version and command %#02x are not known", b[12])
	case n > proxyMax:
		return h, 0, fmt.Errorf("its %d octets are too many", n)
	case len(b) < n:
		return h, 0, errShort
	case b[12]&15 == 0: // LOCAL: the rest is to be passed over
		return proxied{local: true}, n, nil
	}
	size, ok := map[byte]int{unspecified: 0, overTCP4: 12, overTCP6: 36, overUNIX: 216}[b[13]]
	addresses := b[16:n]
	switch {
	case !ok || len(addresses) < size:
		return h, 0, fmt.Errorf("family and protocol %#02x with %d octets are not known", b[13], len(addresses))
	case b[13] == unspecified: // nor is what follows
		return h, n, nil
	case b[13] != overUNIX:
		ip := (size - 4) / 2
		end := func(i int) netip.AddrPort {
			a, _ := netip.AddrFromSlice(addresses[i*ip : (i+1)*ip])
			return netip.AddrPortFrom(a.Unmap(), binary.BigEndian.Uint16(addresses[2*ip+2*i:]))
		}
		h.src, h.dst = end(0), end(1)
	}
	return h, n, checkTLVs(b[:n], 16+size)
}

// checkTLVs walks through the additions of a header, which begin at i.
func checkTLVs(header []byte, i int) error {
	const typeCRC32C = 0x03
	for i < len(header) {
		if len(header)-i < 3 {
			return errors.New("an addition is cut off")
		}
		kind, size := header[i], int(binary.BigEndian.Uint16(header[i+1:]))
		if i += 3; size > len(header)-i {
			return errors.New("an addition is cut off")
		}
		if kind == typeCRC32C {
			if size != 4 {
				return errors.New("the checksum is malformed")
			}
			table := crc32.MakeTable(crc32.Castagnoli)
			sum := crc32.Update(0, table, header[:i]) // with the checksum itself taken as zero
			sum = crc32.Update(crc32.Update(sum, table, make([]byte, 4)), table, header[i+4:])
			if sum != binary.BigEndian.Uint32(header[i:]) {
				return errors.New("the checksum is wrong")
			}
		}
		i += size
	}
	return nil
}

// readProxy reads the header and makes c the client's connection. An io.EOF is of a peer that left without a word.
func (c *Conn) readProxy() error {
	c.Until(clock.Now().Add(proxyTime))
	c.Wait(true)
	defer c.Until(time.Time{})
	defer c.Wait(false)
	var b []byte
	block := make([]byte, 512)
	for {
		n, err := c.Read(block)
		if b = append(b, block[:n]...); n > 0 {
			h, size, err := parseProxy(b)
			if err == nil {
				c.ahead = b[size:]
				c.assume(h)
			}
			if err != errShort {
				return err
			}
		}
		switch {
		case err == io.EOF && len(b) > 0:
			err = io.ErrUnexpectedEOF
		case errors.Is(err, os.ErrDeadlineExceeded):
			err = fmt.Errorf("none within %.0f seconds", proxyTime.Seconds())
		}
		if err != nil {
			return err
		}
	}
}

// assume makes c a connection of the client that a proxy names. One whose address is not known is nobody who could be trusted, and has no address: it would be that
// of the proxy, which may well be trusted itself.
func (c *Conn) assume(h proxied) {
	client := c.client
	if !h.local {
		client = ""
	}
	c.Assume(client, h.src.Addr(), h.dst.Addr())
}
