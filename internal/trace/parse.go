package trace

import (
	"encoding/json"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Event is one line of the log, taken apart.
type Event struct {
	Prefix string // what syslog or the journal wrote in front of it
	Fields []Field
}

// Field is one key of an event and its value.
type Field struct{ Key, Value string }

// maxLine bounds a line in octets: a dozen values of 900 octets, quoted, are far below.
const maxLine = 64 << 10

// Parse takes a line apart, without its end. ok is false when it is not a line of postel's log. A line that was cut on its way keeps the fields
// that are whole.
func Parse(line string) (e Event, ok bool) {
	start := len(line)
	for _, word := range []string{`time=`, `level=`, `{"time":`, `{"level":`} {
		if i := index(line, word); i >= 0 {
			start = min(start, i)
		}
	}
	if start == len(line) || len(line) > maxLine {
		return Event{}, false
	}
	e.Prefix = strings.TrimSuffix(line[:start], " ")
	if line[start] == '{' {
		e.Fields = parseJSON(line[start:])
	} else {
		e.Fields = parseLogfmt(line[start:])
	}
	return e, e.Get("prog") != "" && e.Get("event") != ""
}

// index finds word where something begins.
func index(line, word string) int {
	if strings.HasPrefix(line, word) {
		return 0
	}
	if i := strings.Index(line, " "+word); i >= 0 {
		return i + 1
	}
	return -1
}

func parseLogfmt(s string) (fields []Field) {
	for s != "" {
		key, rest, ok := strings.Cut(s, "=")
		if !ok || !isKey(key) {
			break
		}
		value, rest, ok := cutValue(rest)
		if !ok {
			break
		}
		fields = append(fields, Field{key, value})
		s = rest
	}
	return fields
}

// cutValue cuts a value and the blank behind it from the start of s.
func cutValue(s string) (value, rest string, ok bool) {
	if !strings.HasPrefix(s, `"`) {
		value, rest, _ = strings.Cut(s, " ")
		return value, rest, !strings.ContainsAny(value, `"\=`)
	}
	quoted, err := strconv.QuotedPrefix(s)
	if err != nil {
		return "", "", false
	}
	if value, err = strconv.Unquote(quoted); err != nil {
		return "", "", false
	}
	rest = s[len(quoted):]
	if rest == "" {
		return value, "", true
	}
	rest, ok = strings.CutPrefix(rest, " ")
	return value, rest, ok
}

func isKey(s string) bool {
	return s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz_-0123456789") == ""
}

// parseJSON reads an object of strings, in its order.
func parseJSON(s string) (fields []Field) {
	d := json.NewDecoder(strings.NewReader(s))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil
	}
	for d.More() {
		key, err := d.Token()
		if err != nil {
			break
		}
		value, err := d.Token()
		if err != nil {
			break
		}
		k, isKey := key.(string)
		v, isText := value.(string)
		if !isKey || !isText {
			break
		}
		fields = append(fields, Field{k, v})
	}
	return fields
}

// Get gives the value of a key; "" where it is not there.
func (e Event) Get(key string) string {
	for _, f := range e.Fields {
		if f.Key == key {
			return f.Value
		}
	}
	return ""
}

// AppendJSON appends the fields as a JSON object, in their order.
func (e Event) AppendJSON(b []byte) []byte {
	b = append(b, '{')
	for i, f := range e.Fields {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendString(b, f.Key)
		b = append(b, ':')
		b = appendString(b, f.Value)
	}
	return append(b, '}')
}

func appendString(b []byte, s string) []byte {
	var text strings.Builder
	enc := json.NewEncoder(&text)
	enc.SetEscapeHTML(false) // addresses stand in <>
	_ = enc.Encode(s)        // a string always marshals
	return append(b, strings.TrimSuffix(text.String(), "\n")...)
}

// Time is when the event was: its own time, or else that of the prefix, which syslog may have written without a year and without a zone: then it is
// this host's local time within the year before now. ok is false where there is neither.
func (e Event) Time(now time.Time) (t time.Time, ok bool) {
	if t, err := time.Parse(time.RFC3339, e.Get("time")); err == nil {
		return t, true
	}
	p := e.Prefix
	if i := strings.IndexByte(p, '>'); i > 0 && p[0] == '<' { // the priority, and RFC 5424's version
		p = strings.TrimPrefix(p[i+1:], "1 ")
	}
	word, _, _ := strings.Cut(p, " ")
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04:05Z0700"} {
		if t, err := time.Parse(layout, word); err == nil {
			return t, true
		}
	}
	return stamp(p, now)
}

// stamp reads "Nov 23 17:50:04" or "Nov 23 17:50:04.562133" at the start of s.
func stamp(s string, now time.Time) (time.Time, bool) {
	const day = len("Nov 23 ")
	if len(s) < len(time.Stamp) || !utf8.ValidString(s[:day]) {
		return time.Time{}, false
	}
	clock, _, _ := strings.Cut(s[day:], " ")
	for _, year := range []int{now.Year() + 1, now.Year(), now.Year() - 1} {
		t, err := time.ParseInLocation("2006 Jan _2 15:04:05", strconv.Itoa(year)+" "+s[:day]+clock, now.Location())
		if err == nil && !t.After(now.AddDate(0, 0, 1)) { // another host's clock may be ahead
			return t, true
		}
	}
	return time.Time{}, false
}
