package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// server serves disks as files, by the protocol of fuse(4). Names say what a file is:
//
//	disk.NAME               the disk NAME, made from the base image when it is first asked for, and recorded; removing it forgets the record
//	mark.NAME               what is written here stands in NAME's record
//	fail.NAME               "N M" written here: the next N writes and flushes of NAME work, the M after them fail
//	log.NAME                the record, to be read: "INDEX WORD" for each mark, then "INDEX end FLUSHES FAILED"
//	keep.NAME               what is written here is the file that gets the record, for -replay
//	cut.NAME.N.FATE.SEED    NAME after a power cut before its N-th op; see disk.cut
//
// All goes by FOPEN_DIRECT_IO. With the kernel's cache in between, one write of a loop device comes as several, and when a later one of these fails the
// device reports a short write, which it takes for a success.
type server struct {
	fd   int
	kind kind
	base *image

	disks map[string]*disk
	nodes map[uint64]*node
	last  uint64 // node id
}

// node is a file that the kernel knows.
type node struct {
	kind    string
	name    string // of the disk
	disk    *disk
	image   *image // of a cut
	lookups uint64
}

const root = 1

// Opcodes of the protocol.
const (
	opLookup, opForget, opGetattr, opSetattr, opUnlink, opOpen, opRead, opWrite          = 1, 2, 3, 4, 10, 14, 15, 16
	opRelease, opFsync, opFlush, opInit, opInterrupt, opDestroy, opBatchForget, opFalloc = 18, 20, 25, 26, 36, 38, 42, 43
)

const (
	maxWrite  = 1 << 20
	inHeader  = 40
	ioHeader  = inHeader + 40 // of READ and WRITE
	directIO  = 1             // FOPEN_DIRECT_IO
	bigWrites = 1 << 5        // FUSE_BIG_WRITES
	maxPages  = 1 << 22       // FUSE_MAX_PAGES
)

var le = binary.LittleEndian

// serve answers the kernel until the file system is not mounted anywhere, or ctx ends before it is.
func (s *server) serve(ctx context.Context) error {
	s.nodes, s.last = map[uint64]*node{}, root
	buf := make([]byte, maxWrite+page)
	mounted := false
	for {
		n, err := unix.Read(s.fd, buf)
		switch {
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.ENOENT), errors.Is(err, unix.EAGAIN):
			continue
		case errors.Is(err, unix.EPERM) && !mounted:
			if ctx.Err() != nil {
				return nil
			}
			time.Sleep(5 * time.Millisecond)
			continue
		case errors.Is(err, unix.ENODEV):
			return nil
		case err != nil:
			return fmt.Errorf("fuse: %w", err)
		case n < inHeader:
			return fmt.Errorf("fuse: a request of %d octets", n)
		}
		mounted = true
		in := buf[:n]
		code := le.Uint32(in[4:])
		answer, err := s.handle(code, le.Uint64(in[16:]), in)
		if code == opForget || code == opBatchForget || code == opInterrupt {
			continue
		}
		out := make([]byte, 16, 16+len(answer))
		if err != nil {
			errno := unix.EIO
			if !errors.As(err, &errno) {
				fmt.Fprintln(os.Stderr, "lab:", err)
			}
			le.PutUint32(out[4:], uint32(-int32(errno)))
			answer = nil
		}
		copy(out[8:], in[8:16]) // the request's number
		out = append(out, answer...)
		le.PutUint32(out, uint32(len(out)))
		if _, err := unix.Write(s.fd, out); err != nil && !errors.Is(err, unix.ENOENT) { // the asker was killed
			return fmt.Errorf("fuse: %w", err)
		}
	}
}

// handle answers one request. An error that is no errno is one of the lab.
func (s *server) handle(code uint32, id uint64, in []byte) ([]byte, error) {
	body := in[inHeader:]
	switch code {
	case opInit:
		return initAnswer(body), nil
	case opLookup:
		return s.lookup(cString(body))
	case opForget:
		s.forget(id, le.Uint64(body))
	case opBatchForget:
		for i := range int(le.Uint32(body)) {
			one := body[8+16*i:]
			s.forget(le.Uint64(one), le.Uint64(one[8:]))
		}
	case opUnlink:
		kind, name, _ := strings.Cut(cString(body), ".")
		for _, n := range s.nodes {
			if n.name == name && (n.kind == kind || kind == "disk") {
				n.name = "" // those who have it open keep it
			}
		}
		if kind == "disk" {
			delete(s.disks, name)
		}
		return nil, nil
	case opGetattr, opSetattr:
		return append(make([]byte, 16), s.attr(id)...), nil
	case opOpen:
		out := make([]byte, 16)
		le.PutUint32(out[8:], directIO)
		return out, nil
	case opRelease, opFlush, opDestroy:
		return nil, nil
	case opRead, opWrite, opFsync, opFalloc:
		n := s.nodes[id]
		if n == nil {
			return nil, unix.ENOENT
		}
		return s.data(code, n, in)
	}
	return nil, unix.ENOSYS
}

func initAnswer(body []byte) []byte {
	out := make([]byte, 64)
	le.PutUint32(out, 7)
	le.PutUint32(out[4:], 31) // of the protocol; younger kernels speak it too
	le.PutUint32(out[8:], le.Uint32(body[8:]))
	le.PutUint32(out[12:], le.Uint32(body[12:])&(bigWrites|maxPages))
	le.PutUint32(out[20:], maxWrite)
	le.PutUint32(out[24:], 1)
	le.PutUint16(out[28:], maxWrite/page)
	return out
}

func (s *server) lookup(file string) ([]byte, error) {
	kind, name, _ := strings.Cut(file, ".")
	for id, n := range s.nodes {
		if n.kind == kind && n.name == name {
			n.lookups++
			return s.entry(id), nil
		}
	}
	n := &node{kind: kind, name: name, lookups: 1}
	switch kind {
	case "cut":
		var at int
		var how fate
		var seed uint64
		name, rest, _ := strings.Cut(name, ".")
		if _, err := fmt.Sscanf(strings.ReplaceAll(rest, ".", " "), "%d %s %d", &at, &how, &seed); err != nil || s.disks[name] == nil {
			return nil, unix.ENOENT
		}
		n.image = s.disks[name].cut(at, how, seed)
	case "disk":
		if s.disks[name] == nil {
			s.disks[name] = newDisk(s.base, s.kind)
		}
		fallthrough
	default:
		if n.disk = s.disks[name]; n.disk == nil {
			return nil, unix.ENOENT
		}
	}
	s.last++
	s.nodes[s.last] = n
	return s.entry(s.last), nil
}

func (s *server) entry(id uint64) []byte {
	out := make([]byte, 40, 128)
	le.PutUint64(out, id)
	return append(out, s.attr(id)...)
}

func (s *server) forget(id, times uint64) {
	if n := s.nodes[id]; n != nil {
		if n.lookups -= min(times, n.lookups); n.lookups == 0 {
			delete(s.nodes, id)
		}
	}
}

func (s *server) attr(id uint64) []byte {
	out := make([]byte, 88)
	le.PutUint64(out, id)
	mode, size := uint32(unix.S_IFREG|0o600), int64(0)
	switch n := s.nodes[id]; {
	case id == root:
		mode = unix.S_IFDIR | 0o700
	case n != nil && (n.kind == "disk" || n.kind == "cut"):
		size = s.base.size
	}
	le.PutUint64(out[8:], uint64(size))
	le.PutUint64(out[16:], uint64(size/sector))
	le.PutUint32(out[60:], mode)
	le.PutUint32(out[64:], 1) // link
	le.PutUint32(out[80:], page)
	return out
}

// data does what changes or shows a file's octets.
func (s *server) data(code uint32, n *node, in []byte) ([]byte, error) {
	if code == opFsync {
		if n.kind == "disk" {
			return nil, n.disk.flush()
		}
		return nil, nil
	}
	at := int64(le.Uint64(in[inHeader+8:]))
	switch code {
	case opRead:
		size := int64(le.Uint32(in[inHeader+16:]))
		if n.kind == "log" {
			text := n.disk.log()
			return text[min(at, int64(len(text))):min(at+size, int64(len(text)))], nil
		}
		image := n.image
		if image == nil {
			image = n.disk.now
		}
		b := make([]byte, max(0, min(size, image.size-at)))
		image.read(b, at)
		return b, nil
	case opWrite:
		b := in[ioHeader:]
		out := make([]byte, 8)
		le.PutUint32(out, uint32(len(b)))
		return out, n.write(b, at)
	case opFalloc: // what discards or zeroes; here zeros are written
		length := int64(le.Uint64(in[inHeader+16:]))
		for length > 0 {
			m := min(length, maxWrite)
			if err := n.write(make([]byte, m), at); err != nil {
				return nil, err
			}
			at, length = at+m, length-m
		}
		return nil, nil
	}
	return nil, unix.ENOSYS
}

func (n *node) write(b []byte, at int64) error {
	switch n.kind {
	case "disk":
		return n.disk.write(b, at)
	case "cut":
		if at < 0 || at+int64(len(b)) > n.image.size {
			return unix.EFBIG
		}
		n.image.write(b, at)
		return nil
	case "mark":
		n.disk.mark(string(b))
		return nil
	case "keep":
		return n.disk.keep(string(b))
	case "fail":
		var healthy, failing int
		if _, err := fmt.Sscan(string(b), &healthy, &failing); err != nil {
			return unix.EINVAL
		}
		n.disk.fail(healthy, failing)
		return nil
	}
	return unix.EACCES
}

// log is the record as a text.
func (d *disk) log() []byte {
	var b bytes.Buffer
	flushes := 0
	for i, o := range d.ops {
		if o.Mark != "" {
			fmt.Fprintf(&b, "%d %s\n", i, o.Mark)
		}
		if o.Flush {
			flushes++
		}
	}
	fmt.Fprintf(&b, "%d end %d %d\n", len(d.ops), flushes, d.failed)
	return b.Bytes()
}

func cString(b []byte) string {
	text, _, _ := bytes.Cut(b, []byte{0})
	return string(text)
}
