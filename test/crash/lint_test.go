//go:build linux && amd64

package crash

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/postel-mail/postel/internal/durable"
)

// entry is a name that a program made, and what of it a power cut would take.
type entry struct {
	content bool // written since its last fsync
	name    bool // made or changed since the last fsync that makes names last
}

// unflushed follows a trace and says, at each point where a program answered for a message, what would not survive a power cut
// then. answered tells these points. order is what the file system asks of a file below spool; anywhere else it is
// FsyncRenameFsync, since other programs read there: a file must be flushed before it gets its name.
func unflushed(trace []event, spool string, order durable.Order, answered func(event) bool) (wrong []string) {
	files := map[string]*entry{}
	for _, e := range trace {
		if answered(e) {
			for _, path := range sorted(files) {
				if f := files[path]; f.content || f.name {
					wrong = append(wrong, fmt.Sprintf("answered before %s was flushed (content %v, name %v)", path, !f.content, !f.name))
				}
			}
			continue
		}
		if e.failed {
			continue
		}
		oneFlush := order == durable.RenameFsync && strings.HasPrefix(e.path, spool+"/")
		f := files[e.path]
		switch e.name {
		case "openat": // a lock says nothing after a power cut, and what is in ledger/ may be lost
			if e.creates && f == nil && filepath.Base(e.path) != "lock" && filepath.Base(filepath.Dir(e.path)) != "ledger" {
				files[e.path] = &entry{content: true, name: true}
			}
		case "mkdirat":
			files[e.path] = &entry{name: true}
		case "write", "pwrite64", "writev", "ftruncate", "sendfile", "copy_file_range":
			if f != nil {
				f.content = true
			}
		case "renameat", "renameat2", "linkat":
			if f == nil {
				break
			}
			if f.content && !oneFlush {
				wrong = append(wrong, fmt.Sprintf("%s got its name before it was flushed", e.to))
			}
			if e.name != "linkat" {
				delete(files, e.path)
			}
			files[e.to] = &entry{content: f.content, name: true}
		case "unlinkat":
			delete(files, e.path)
		case "syncfs":
			clear(files)
		case "fsync", "fdatasync":
			if f != nil {
				f.content = false
				f.name = f.name && !oneFlush
			}
			for path, f := range files {
				if filepath.Dir(path) == e.path {
					f.name = false
				}
			}
		}
	}
	return wrong
}

func sorted(files map[string]*entry) []string {
	var paths []string
	for path := range files {
		paths = append(paths, path)
	}
	slices.Sort(paths)
	return paths
}

func said(text string) func(event) bool {
	return func(e event) bool { return e.name == "say" && strings.Contains(e.path, text) }
}

// ended is for programs that answer by their exit status.
func ended(e event) bool { return e.name == "exit" }

// TestLint: the lint sees the orders that lose mail, and lets those pass that do not. The letters are those of docs/durability.md.
func TestLint(t *testing.T) {
	for _, tt := range []struct {
		name, trace string
		order       durable.Order
		wrong       int
	}{
		{"A: fsync, rename", "create t/1, write t/1, fsync t/1, rename t/1 q/1, exit", durable.FsyncRenameFsync, 1},
		{"A on a file system that wants one flush", "create t/1, write t/1, fsync t/1, rename t/1 q/1, exit", durable.RenameFsync, 1},
		{"B: fsync, rename, fsync dir", "create t/1, write t/1, fsync t/1, rename t/1 q/1, fsync q, exit", durable.FsyncRenameFsync, 0},
		{"B with the other directory", "create t/1, write t/1, fsync t/1, rename t/1 q/1, fsync t, exit", durable.FsyncRenameFsync, 1},
		{"D: rename, fsync", "create t/1, write t/1, rename t/1 q/1, fsync q/1, exit", durable.RenameFsync, 0},
		{"D where it does not hold", "create t/1, write t/1, rename t/1 q/1, fsync q/1, exit", durable.FsyncRenameFsync, 2},
		{"E: fsync, link, unlink", "create t/1, write t/1, fsync t/1, link t/1 q/1, unlink t/1, exit", durable.RenameFsync, 1},
		{"J: rename, fsync dir", "create t/1, write t/1, rename t/1 q/1, fsync q, exit", durable.RenameFsync, 1},
		{"write behind the fsync", "create t/1, write t/1, rename t/1 q/1, fsync q/1, write q/1, exit", durable.RenameFsync, 1},
		{"answer before the fsync", "create t/1, write t/1, rename t/1 q/1, exit, fsync q/1", durable.RenameFsync, 1},
		{"fsync that failed", "create t/1, write t/1, rename t/1 q/1, !fsync q/1, exit", durable.RenameFsync, 1},
		{"given up", "create t/1, write t/1, unlink t/1, exit", durable.FsyncRenameFsync, 0},
		{"the whole file system", "create q/1, write q/1, syncfs q/1, exit", durable.FsyncRenameFsync, 0},
		{"new directory", "mkdir q, create q/1, write q/1, fsync q/1, fsync q, exit", durable.FsyncRenameFsync, 1},
	} {
		wrong := unflushed(parse(tt.trace), "/s", tt.order, ended)
		if len(wrong) != tt.wrong {
			t.Errorf("%s: found %q, want %d", tt.name, wrong, tt.wrong)
		}
	}
}

// parse reads the short form of a trace.
func parse(text string) (trace []event) {
	calls := map[string]string{"create": "openat", "rename": "renameat2", "link": "linkat", "unlink": "unlinkat", "mkdir": "mkdirat"}
	for step := range strings.SplitSeq(text, ", ") {
		f := append(strings.Fields(step), "", "")
		e := event{name: strings.TrimPrefix(f[0], "!"), failed: f[0][0] == '!', creates: f[0] == "create"}
		if name := calls[e.name]; name != "" {
			e.name = name
		}
		if f[1] != "" {
			e.path = "/s/" + f[1]
		}
		if f[2] != "" {
			e.to = "/s/" + f[2]
		}
		trace = append(trace, e)
	}
	return trace
}
