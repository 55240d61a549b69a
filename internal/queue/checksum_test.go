package queue

import (
	"hash/crc32"
	"testing"
)

func TestSum(t *testing.T) {
	if *plainTable() != *fastTable() {
		t.Fatal("the tables differ")
	}
	var s checksum
	var all []byte
	for n := range 300 {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(i * n)
		}
		_, _ = s.Write(b)
		all = append(all, b...)
		if want := crc32.Checksum(all, crc32.MakeTable(crc32.Castagnoli)); s.Sum32() != want {
			t.Fatalf("%d octets: got %08x, want %08x", len(all), s.Sum32(), want)
		}
	}
}
