package queue

import (
	"errors"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/postel-mail/postel/internal/journal"
)

// flusher flushes files, those of one moment together. The file system puts them into one commit anyway; when one goroutine waits for it in the
// place of all, the others cost neither threads nor changes between them. Where there is a journal it is what is flushed.
type flusher struct {
	journals atomic.Pointer[journals] // nil: there is none
	turn     sync.Mutex               // held while a batch is flushed
	mu       sync.Mutex               // guards next
	next     *batch                   // what is flushed after that; nil: nobody waits
}

type batch struct {
	files   []*os.File
	records []journal.Record // the same files; without octets where they are too many
	errs    []error          // of files, when done is closed
	done    chan struct{}
}

// together is the size up to which a file is flushed with others. They would have to wait for the data of a larger one.
const together = 256 << 10

// sync flushes f, of size octets, or notes it as r, which has no octets where they are too many. The first of a batch flushes for all of it, as soon as the batch before is done.
func (fl *flusher) sync(f *os.File, size int64, r journal.Record) error {
	journals := fl.journals.Load()
	if size > together || journals != nil && r.Data == nil {
		return f.Sync()
	}
	fl.mu.Lock()
	b := fl.next
	if b == nil {
		b = &batch{done: make(chan struct{})}
		fl.next = b
	}
	i := len(b.files)
	b.files, b.records = append(b.files, f), append(b.records, r)
	fl.mu.Unlock()
	if i > 0 {
		<-b.done
		return b.errs[i]
	}
	fl.turn.Lock()
	defer fl.turn.Unlock()
	runtime.Gosched() // who is about to be ready shares this flush, and need not wait for the next
	fl.mu.Lock()
	fl.next = nil
	fl.mu.Unlock()
	b.errs = make([]error, len(b.files))
	if journals == nil || slices.ContainsFunc(b.records, func(r journal.Record) bool { return r.Data == nil }) || journals.put(b.records) != nil {
		b.flush()
	}
	close(b.done)
	return b.errs[0]
}

// flush gives each file a flush of its own. The data of all is on its way by then, and the last file's arrives last, so that it alone waits.
func (b *batch) flush() {
	if len(b.files) > 1 {
		for i, f := range b.files {
			b.errs[i] = unix.SyncFileRange(int(f.Fd()), 0, 0, unix.SYNC_FILE_RANGE_WRITE)
		}
	}
	for i, f := range slices.Backward(b.files) {
		b.errs[i] = errors.Join(b.errs[i], f.Sync())
	}
}
