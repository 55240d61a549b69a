// Package maillog writes the mail log: one line per event, from a closed set of events, one method each.
//
// A line is logfmt, its keys in the order "time level prog event id ..."; or a JSON object with the same
// members. postel-log(5) describes every event; a test holds the two together. Values that come from a
// peer are quoted so that they cannot start a new line, and cut at 900 octets. Never a password, never a message's text.
package maillog

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postel-mail/postel/internal/address"
	"github.com/postel-mail/postel/internal/clock"
	"github.com/postel-mail/postel/internal/status"
)

// Log is where one program writes its events. The zero value and nil drop them. It may be used by many goroutines.
type Log struct {
	mu     sync.Mutex
	write  func(level string, line []byte) // nil drops events
	prog   string
	json   bool
	noTime bool
}

// Forms are the words that --log takes: "" and "text" are logfmt on stderr, "json" JSON lines on stderr, "syslog" logfmt to the
// host's log socket.
const Forms = "text, json or syslog"

// New opens the log of program prog. With form "" or "text" events go to stderr, or to syslog when stderr is a socket and not
// the journal's: under inetd it is the client's connection, and a log line there would be read as a reply.
func New(prog, form string) (*Log, error) {
	l := &Log{prog: prog, write: toWriter(os.Stderr), json: form == "json", noTime: isJournal()}
	switch form {
	case "", "text", "json":
		if !StderrIsSocket() {
			return l, nil
		}
	case "syslog":
	default:
		return nil, fmt.Errorf("--log %q: must be %s", form, Forms)
	}
	s := &syslogWriter{prog: prog}
	l.write, l.json, l.noTime = s.write, false, true
	return l, nil
}

// ToWriter makes a log of logfmt lines with time into w, for tests.
func ToWriter(w io.Writer, prog string) *Log { return &Log{write: toWriter(w), prog: prog} }

func toWriter(w io.Writer) func(string, []byte) {
	return func(_ string, line []byte) { _, _ = w.Write(line) } // there is nowhere left to say that the log is broken
}

// StderrIsSocket reports whether descriptor 2 is a socket other than the journal's, so that nothing may be written to it.
func StderrIsSocket() bool { return !isJournal() && isSocket(os.Stderr) }

func isSocket(f *os.File) bool {
	var st unix.Stat_t
	return unix.Fstat(int(f.Fd()), &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFSOCK
}

// isJournal compares stderr with the device and inode in JOURNAL_STREAM, as systemd.exec(5) asks.
func isJournal() bool {
	var st unix.Stat_t
	v := os.Getenv("JOURNAL_STREAM")
	return v != "" && unix.Fstat(int(os.Stderr.Fd()), &st) == nil && v == fmt.Sprintf("%d:%d", st.Dev, st.Ino)
}

// field is one key and its value; an empty value is left out.
type field struct{ key, value string }

// Levels, as they are written.
const (
	info    = "info"
	warning = "warning"
	failure = "error"
)

func (l *Log) event(level, event string, fields ...field) {
	if l == nil || l.write == nil {
		return
	}
	all := make([]field, 0, len(fields)+4)
	if !l.noTime {
		all = append(all, field{"time", clock.Now().UTC().Format("2006-01-02T15:04:05.000Z")})
	}
	all = append(all, field{"level", level}, field{"prog", l.prog}, field{"event", event})
	for _, f := range fields {
		if f.value != "" {
			all = append(all, f)
		}
	}
	var line []byte
	if l.json {
		line = appendJSON(nil, all)
	} else {
		line = appendLogfmt(nil, all)
	}
	line = append(line, '\n')
	l.mu.Lock()
	defer l.mu.Unlock()
	l.write(level, line)
}

func appendLogfmt(b []byte, fields []field) []byte {
	for i, f := range fields {
		if i > 0 {
			b = append(b, ' ')
		}
		b = append(b, f.key...)
		b = append(b, '=')
		v := clean(f.value)
		if strings.ContainsAny(v, " \"=\\") {
			b = strconv.AppendQuote(b, v)
		} else {
			b = append(b, v...)
		}
	}
	return b
}

func appendJSON(b []byte, fields []field) []byte {
	b = append(b, '{')
	for i, f := range fields {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendQuote(b, f.key)
		b = append(b, ':')
		var v bytes.Buffer
		enc := json.NewEncoder(&v)
		enc.SetEscapeHTML(false)       // addresses stand in <>
		_ = enc.Encode(clean(f.value)) // a string always marshals
		b = append(b, bytes.TrimSuffix(v.Bytes(), []byte("\n"))...)
	}
	return append(b, '}')
}

// clean makes a value safe for a line and a terminal, and bounds it.
func clean(s string) string { return status.Clean(s) }

// syslogWriter sends datagrams to the host's log socket, RFC 3164 as syslog(3) writes it. It holds no network code, since sendmail
// logs with it too.
type syslogWriter struct {
	prog string
	fd   int // 0 while not connected
}

func (s *syslogWriter) write(level string, line []byte) {
	const facilityMail = 2 << 3
	severity := map[string]int{info: 6, warning: 4, failure: 3}[level]
	head := fmt.Sprintf("<%d>%s postel/%s[%d]: ", facilityMail|severity, clock.Now().Format(time.Stamp), s.prog, os.Getpid())
	packet := append([]byte(head), line[:len(line)-1]...)
	for range 2 { // a restarted syslogd needs a new connection
		if s.fd == 0 {
			fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return
			}
			if unix.Connect(fd, &unix.SockaddrUnix{Name: "/dev/log"}) != nil {
				unix.Close(fd)
				return
			}
			s.fd = fd
		}
		if _, err := unix.Write(s.fd, packet); err == nil {
			return
		}
		unix.Close(s.fd)
		s.fd = 0
	}
}

func path(p address.Path) string { return p.Angle() }

func seconds(d time.Duration) string { return strconv.FormatFloat(d.Seconds(), 'f', 3, 64) + "s" }

func outcome(s *status.Error) []field {
	return []field{{"code", strconv.Itoa(s.Code)}, {"enhanced", s.Enhanced}, {"text", s.Text}, {"cause", cause(s)}}
}

func cause(s *status.Error) string {
	if s.Err == nil {
		return ""
	}
	return s.Err.Error()
}
