package journal

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/postel-mail/postel/internal/durable"
)

const size = 3 * Least

func create(t *testing.T) (*Journal, *durable.Dir) {
	t.Helper()
	d, err := durable.OpenDir(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	j, err := Create(d, "j", "a life", size)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close() })
	return j, d
}

func record(n, length int) Record {
	return Record{fmt.Sprintf("%020d", n), bytes.Repeat([]byte{byte(n), '\n'}, length/2+1)[:length]}
}

// names are those of the records that are read, with their octets checked against record.
func names(t *testing.T, text []byte) (all string) {
	t.Helper()
	if err := Read(bytes.NewReader(text), func(r Record) error {
		var n int
		if _, err := fmt.Sscan(strings.TrimLeft(r.Name, "0")+" ", &n); err != nil {
			t.Errorf("name %q: %v", r.Name, err)
		}
		if want := record(n, len(r.Data)); !bytes.Equal(r.Data, want.Data) {
			t.Errorf("record %d: other octets", n)
		}
		all += fmt.Sprint(n, " ")
		return nil
	}); err != nil {
		t.Errorf("Read: %v", err)
	}
	return all
}

func text(t *testing.T, d *durable.Dir) []byte {
	t.Helper()
	b, err := os.ReadFile(d.Path() + "/j")
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestJournal(t *testing.T) {
	j, d := create(t)
	put := func(want bool, records ...Record) {
		t.Helper()
		if fits := j.Fits(records); fits != want {
			t.Fatalf("Fits: %v at %d of %d, want %v", fits, j.next, j.size, want)
		}
		if !want {
			return
		}
		if err := j.Append(records); err != nil {
			t.Fatal(err)
		}
	}
	if got := names(t, text(t, d)); got != "" || !j.Empty() {
		t.Errorf("at first %q", got)
	}
	put(true, record(1, 100), record(2, 2600))
	put(true, record(3, MaxData))
	put(true, record(4, page-recordLength), record(5, 1)) // the second begins a page
	before := text(t, d)
	if got := names(t, before); got != "1 2 3 4 5 " {
		t.Errorf("read %q", got)
	}
	put(false, record(6, MaxData), record(7, MaxData), record(8, 5000))
	put(true, record(6, MaxData))
	if after := text(t, d); !bytes.Equal(before[:j.next-MaxData-page], after[:j.next-MaxData-page]) {
		t.Error("what was flushed was written again")
	}
	if err := j.Forget(); err != nil || !j.Empty() {
		t.Fatal(err)
	}
	if got := names(t, text(t, d)); got != "" {
		t.Errorf("after Forget %q", got)
	}
	put(true, record(8, 100)) // what stands behind it is of the turn before
	if got := names(t, text(t, d)); got != "8 " {
		t.Errorf("in the second turn %q", got)
	}
	if err := j.Rename("another"); err != nil {
		t.Fatal(err)
	}
	if life, err := Life(bytes.NewReader(text(t, d))); life != "another" || err != nil {
		t.Errorf("life %q, %v", life, err)
	}
	if err := j.Append([]Record{{"short", nil}}); err == nil {
		t.Error("a name of five characters was taken")
	}
	if st, err := os.Stat(d.Path() + "/j"); err != nil || st.Size() != size-size%page {
		t.Errorf("the size has changed: %v, %v", st.Size(), err)
	}
	if err := j.Remove(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(d.Path() + "/j"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after Remove: %v", err)
	}
}

// TestCreateFails: what cannot be made leaves nothing.
func TestCreateFails(t *testing.T) {
	_, d := create(t)
	for _, tt := range []struct {
		name, life string
		size       int64
	}{{"j", "", size}, {"small", "", Least - 1}, {"lines", "a\nb", size}} {
		if _, err := Create(d, tt.name, tt.life, tt.size); err == nil {
			t.Errorf("%s was made", tt.name)
		}
		if there, err := d.Exists(tt.name); there != (tt.name == "j") || err != nil {
			t.Errorf("%s is there: %v, %v", tt.name, there, err)
		}
	}
}

// TestTorn: of what was flushed before, each record is read, whatever became of what was written last; of that, only whole records are.
func TestTorn(t *testing.T) {
	j, d := create(t)
	if err := j.Append([]Record{record(1, 3000), record(2, 700)}); err != nil {
		t.Fatal(err)
	}
	from, before := j.next, text(t, d)
	if err := j.Append([]Record{record(3, 5000), record(4, 6000)}); err != nil {
		t.Fatal(err)
	}
	to, after := j.next, text(t, d)
	sectors := int(to-from) / sector
	for which := range 1 << 8 { // eight parts of what was written last, each there or not
		mixed := bytes.Clone(before)
		for i := range sectors {
			if which>>(i*8/sectors)&1 == 1 {
				at := int(from) + i*sector
				copy(mixed[at:], after[at:at+sector])
			}
		}
		got := names(t, mixed)
		if !strings.HasPrefix(got, "1 2 ") || which == 255 && got != "1 2 3 4 " {
			t.Errorf("parts %08b: read %q", which, got)
		}
	}
}

func TestReadHead(t *testing.T) {
	j, d := create(t)
	if err := j.Append([]Record{record(1, 10)}); err != nil {
		t.Fatal(err)
	}
	good := text(t, d)
	for _, tt := range []struct {
		name    string
		change  func(b []byte) []byte
		unknown bool
	}{
		{"later version", func(b []byte) []byte { b[len("postel-journal ")] = '2'; return b }, true},
		{"another turn", func(b []byte) []byte { return bytes.Replace(b, []byte("1\nSum"), []byte("2\nSum"), 1) }, false},
		{"another life", func(b []byte) []byte { return bytes.Replace(b, []byte("a life"), []byte("b life"), 1) }, false},
		{"octets behind", func(b []byte) []byte { b[sector-1] = 1; return b }, false},
	} {
		err := Read(bytes.NewReader(tt.change(bytes.Clone(good))), func(Record) error { t.Errorf("%s: a record", tt.name); return nil })
		if err == nil || errors.Is(err, ErrUnknown) != tt.unknown {
			t.Errorf("%s: %v, want an error, unknown %v", tt.name, err, tt.unknown)
		}
	}
	for _, b := range [][]byte{nil, make([]byte, 100), make([]byte, size)} { // Create was not finished
		if life, err := Life(bytes.NewReader(b)); life != "" || err != nil || names(t, b) != "" {
			t.Errorf("%d octets of zeros: %q, %v", len(b), life, err)
		}
	}
	stop := errors.New("stop")
	if err := Read(bytes.NewReader(good), func(Record) error { return stop }); err != stop {
		t.Errorf("yield's error became %v", err)
	}
}

func FuzzRead(f *testing.F) {
	d, err := durable.OpenDir(f.TempDir())
	if err != nil {
		f.Fatal(err)
	}
	defer d.Close()
	j, err := Create(d, "j", "a life", Least)
	if err != nil {
		f.Fatal(err)
	}
	defer j.Close()
	if err := errors.Join(j.Append([]Record{record(1, 10), record(2, 4000)}), j.Append([]Record{record(3, 1)})); err != nil {
		f.Fatal(err)
	}
	b, err := os.ReadFile(d.Path() + "/j")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b[:j.next])
	f.Add(b[:front+20])
	f.Add([]byte(magic))
	f.Fuzz(func(t *testing.T, b []byte) {
		octets := 0
		if err := Read(bytes.NewReader(b), func(r Record) error {
			octets += len(r.Data)
			if len(r.Name) != nameLength || !bytes.Contains(b, r.Data) {
				t.Errorf("a record %q that is not in the file", r.Name)
			}
			return nil
		}); err == nil && octets > len(b) {
			t.Errorf("%d octets out of %d", octets, len(b))
		}
	})
}
