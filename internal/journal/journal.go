// Package journal is a file that is written from its front again and again. A record in it lasts after one flush of data: its blocks are on the disk
// already, and neither a name nor a size changes with it, so that no file system has anything to write besides.
//
// The file has a head of one sector, which a disk writes whole or not at all, and from octet 4096 on records, one behind the other:
//
//	postel-journal 1
//	Life: the words that Create was given
//	Turn: 00000000000000000001
//	Sum: 00000000
//
//	record TURN NAME LENGTH SUM
//	the octets
//
// The sums are CRC-32C: of the lines before, and of turn, name and octets. All records are forgotten at once, by the next turn in the head: what stands behind is of an
// earlier turn then. What is flushed together begins a page of its own, so that nothing that was flushed is ever written again, and is read until a record is not whole,
// or not of this turn; a page that begins with none is the end.
package journal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/postel-mail/postel/internal/durable"
)

const (
	magic        = "postel-journal 1\n"
	sector       = 512
	page         = 4096
	front        = page // where the records begin
	nameLength   = 20
	recordFormat = "record %016x %s %08d %08x\n"
	recordLength = len("record  \n") + 16 + nameLength + 1 + 8 + 1 + 8
	maxLife      = 200
)

// MaxData is the largest number of octets that a record can have.
const MaxData = 64 << 10

// Least is the smallest size of a journal: it holds one record, whatever that is.
const Least = front + MaxData + page

// Record is a name of 20 characters without blanks, and octets.
type Record struct {
	Name string
	Data []byte
}

// Journal is a file that this process writes, and has locked (flock). It is for one goroutine at a time.
type Journal struct {
	dir  *durable.Dir
	name string
	file *os.File
	life string
	turn uint64
	size int64
	next int64  // the page where the next records go
	buf  []byte // of the last records, kept while it is small
}

// Create makes a journal of size octets, rounded down to pages, all of them written and flushed. life is one line of at most 200 octets, for the one who reads it.
func Create(d *durable.Dir, name, life string, size int64) (*Journal, error) {
	size -= size % page
	if size < Least || len(life) > maxLife || strings.ContainsAny(life, "\n\x00") {
		return nil, fmt.Errorf("journal: %d octets, or %q: not possible", size, life)
	}
	f, err := d.Create(name, 0o600)
	if err != nil {
		return nil, err
	}
	j := &Journal{dir: d, name: name, file: f, life: life, size: size, next: front}
	if err := j.prepare(); err != nil {
		return nil, errors.Join(err, j.Remove())
	}
	return j, nil
}

// prepare makes the file what it is to stay.
func (j *Journal) prepare() error {
	if err := errors.Join(durable.TryFlock(j.file), j.dir.Give(j.file)); err != nil {
		return err
	}
	zeros := make([]byte, 256<<10)
	for at := int64(0); at < j.size; at += int64(len(zeros)) { // written and not only reserved, or the first record in each block would be a change of the file
		if _, err := j.file.WriteAt(zeros[:min(int64(len(zeros)), j.size-at)], at); err != nil {
			return err
		}
	}
	if err := j.Forget(); err != nil {
		return err
	}
	return errors.Join(j.file.Sync(), j.dir.Sync())
}

// Fits reports whether there is room for these records.
func (j *Journal) Fits(records []Record) bool {
	n := j.next
	for _, r := range records {
		n += int64(recordLength + len(r.Data))
	}
	return n <= j.size
}

// Empty reports whether there is no record of this turn.
func (j *Journal) Empty() bool { return j.next == front }

// Append writes records that fit, and flushes them. After an error it is not known which of them will be read; the journal is to be written no more.
func (j *Journal) Append(records []Record) error {
	b := j.buf[:0]
	for _, r := range records {
		if len(r.Name) != nameLength || len(r.Data) > MaxData {
			return fmt.Errorf("journal: a record %q of %d octets", r.Name, len(r.Data))
		}
		b = fmt.Appendf(b, recordFormat, j.turn, r.Name, len(r.Data), sum(j.turn, r))
		b = append(b, r.Data...)
	}
	if rest := len(b) % page; rest > 0 { // whole pages, which need not be read for that
		b = append(b, make([]byte, page-rest)...)
	}
	if cap(b) <= 4*MaxData {
		j.buf = b
	}
	if _, err := j.file.WriteAt(b, j.next); err != nil {
		return err
	}
	j.next += int64(len(b))
	return j.sync()
}

// Forget begins the next turn: no record so far is ever read again.
func (j *Journal) Forget() error {
	j.turn++
	j.next = front
	return j.putHead()
}

// Rename gives the journal another life.
func (j *Journal) Rename(life string) error {
	j.life = life
	return j.putHead()
}

func (j *Journal) putHead() error {
	head := fmt.Appendf(nil, "%sLife: %s\nTurn: %020d\n", magic, j.life, j.turn)
	head = fmt.Appendf(head, "Sum: %08x\n", crc32.Checksum(head, table()))
	if _, err := j.file.WriteAt(append(head, make([]byte, sector-len(head))...), 0); err != nil {
		return err
	}
	return j.sync()
}

// sync flushes what was written. Times of the file may be lost.
func (j *Journal) sync() error {
	for {
		if err := unix.Fdatasync(int(j.file.Fd())); !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("fdatasync", err)
		}
	}
}

// Remove removes the file and closes it.
func (j *Journal) Remove() error { return errors.Join(j.dir.Remove(j.name), j.Close()) }

// Close closes the file and leaves it.
func (j *Journal) Close() error { return j.file.Close() }

// Life gives that of a journal; "" when Create was not finished.
func Life(f io.ReaderAt) (string, error) {
	life, _, err := readHead(f)
	return life, err
}

func readHead(f io.ReaderAt) (life string, turn uint64, err error) {
	var head [sector]byte
	if _, err := f.ReadAt(head[:], 0); err != nil && err != io.EOF {
		return "", 0, err
	}
	if head == [sector]byte{} {
		return "", 0, nil
	}
	return parseHead(string(head[:]))
}

// Read gives each record of a journal's last turn to yield, in order and until that fails.
func Read(f io.ReaderAt, yield func(Record) error) error {
	_, turn, err := readHead(f)
	if err != nil {
		return err
	}
	for at := int64(front); ; {
		r, err := readRecord(f, at, turn)
		switch {
		case err != nil:
			return err
		case r.Data != nil:
			if err := yield(r); err != nil {
				return err
			}
			at += int64(recordLength + len(r.Data))
		case at%page == 0:
			return nil
		default:
			at += page - at%page
		}
	}
}

// readRecord reads one of that turn; the zero Record where there is none.
func readRecord(f io.ReaderAt, at int64, turn uint64) (Record, error) {
	var line [recordLength]byte
	if _, err := f.ReadAt(line[:], at); err != nil {
		return Record{}, noRecord(err)
	}
	name, length, want, ok := parseRecord(string(line[:]), turn)
	if !ok {
		return Record{}, nil
	}
	r := Record{Name: name, Data: make([]byte, length)}
	if _, err := f.ReadAt(r.Data, at+int64(recordLength)); err != nil {
		return Record{}, noRecord(err)
	}
	if sum(turn, r) != want {
		return Record{}, nil
	}
	return r, nil
}

func noRecord(err error) error {
	if err == io.EOF {
		return nil
	}
	return err
}

// ErrUnknown says that a file is no journal, or one of a later version.
var ErrUnknown = errors.New("journal: not a journal of version 1")

// parseHead reads what putHead wrote, and nothing else.
func parseHead(head string) (life string, turn uint64, err error) {
	if !strings.HasPrefix(head, magic) {
		return "", 0, ErrUnknown
	}
	text, rest, ok := strings.Cut(head[len(magic):], "\nSum: ")
	life, number, ok2 := strings.Cut(text, "\nTurn: ")
	life, ok3 := strings.CutPrefix(life, "Life: ")
	if ok && ok2 && ok3 {
		text = head[:len(magic)+len(text)+1]
		if _, err := fmt.Sscanf(number, "%d", &turn); err == nil &&
			text == fmt.Sprintf("%sLife: %s\nTurn: %020d\n", magic, life, turn) &&
			strings.TrimRight(rest, "\x00") == fmt.Sprintf("%08x\n", crc32.Checksum([]byte(text), table())) {
			return life, turn, nil
		}
	}
	return "", 0, fmt.Errorf("journal: malformed head %.100q", head)
}

// parseRecord reads a record's first line, where it is one of that turn.
func parseRecord(line string, turn uint64) (name string, length int, sum uint32, ok bool) {
	prefix := fmt.Sprintf("record %016x ", turn)
	if !strings.HasPrefix(line, prefix) {
		return "", 0, 0, false
	}
	rest := line[len(prefix):]
	name = rest[:nameLength]
	if strings.ContainsAny(name, " \n") {
		return "", 0, 0, false
	}
	if _, err := fmt.Sscanf(rest[nameLength:], " %08d %08x\n", &length, &sum); err != nil || length < 0 || length > MaxData {
		return "", 0, 0, false
	}
	return name, length, sum, line == fmt.Sprintf(recordFormat, turn, name, length, sum)
}

func sum(turn uint64, r Record) uint32 {
	var b [8 + nameLength]byte
	binary.BigEndian.PutUint64(b[:], turn)
	copy(b[8:], r.Name)
	return crc32.Update(crc32.Checksum(b[:], table()), table(), r.Data)
}

// table is made by the first call, and not at the start of every program.
func table() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

// Same reports whether r has the octets of a file.
func (r Record) Same(f io.Reader) bool {
	block := make([]byte, MaxData+1)
	n, err := io.ReadFull(f, block)
	return (err == io.ErrUnexpectedEOF || err == io.EOF) && bytes.Equal(block[:n], r.Data)
}
