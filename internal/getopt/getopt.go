// Package getopt reads the command line of sendmail(8) as it has been for forty years: single-dash flags of one letter, values attached or apart,
// before and behind the recipients. Libraries for flags would read some of it otherwise: -q15m, -h 3, -F=x, or a recipient named __complete; and they
// would cost sendmail, which is started for every message, a third of its time.
package getopt

import (
	"fmt"
	"strings"
)

// classic is one single-dash flag of sendmail(8).
type classic struct {
	value byte   // which it takes: one of the constants below
	long  string // the flag it stands for, or that flag and "=" and its value; "" does nothing here
}

const (
	unknown  = iota
	none     // no value
	one      // a value, attached or apart
	attached // a value, attached or not at all
)

// classics are the flags of sendmail 8.18, and those that other systems' programs pass.
var classics = [128]classic{
	'A': {one, ""}, // which configuration: -Ac, -Am
	'B': {one, "body"},
	'b': {one, "mode"},
	'C': {one, "config"},
	'c': {none, ""},
	'D': {one, ""},      // where debug output goes
	'd': {attached, ""}, // debug level
	'e': {one, ""},      // what happens with errors: always the exit status
	'F': {one, "full-name"},
	'f': {one, "sender"},
	'G': {none, "relay"},
	'h': {one, ""}, // hop count: the Received fields are counted
	'I': {none, "mode=i"},
	'i': {none, "ignore-dots"},
	'L': {one, ""},  // tag in the log
	'M': {one, ""},  // macro
	'm': {none, ""}, // me too
	'N': {one, "notify"},
	'n': {none, ""}, // no aliases
	'O': {one, ""},  // option, by name
	'o': {one, ""},  // option, by letter
	'p': {one, ""},  // protocol
	'q': {attached, "queue"},
	'R': {one, "return"},
	'r': {one, "sender"},
	's': {none, ""},
	't': {none, "read-recipients"},
	'U': {none, ""}, // first submission
	'V': {one, "envelope-id"},
	'v': {none, "verbose"},
	'X': {one, ""}, // traffic log: would write a file for whoever asks
	'x': {none, ""},
}

// Canonical turns a classic command line into one of long flags: "--flag=value" for all flags, "--", recipients.
// takesValue says whether a long flag has a value. An error is the caller's fault.
func Canonical(args []string, takesValue func(long string) bool) ([]string, error) {
	var flags, rcpts []string
	for len(args) > 0 {
		arg := args[0]
		args = args[1:]
		switch {
		case arg == "--":
			rcpts = append(rcpts, args...)
			args = nil
		case strings.HasPrefix(arg, "--"):
			name, _, attached := strings.Cut(arg[2:], "=")
			if !attached && takesValue(name) {
				if len(args) == 0 {
					return nil, fmt.Errorf("flag --%s needs a value", name)
				}
				arg += "=" + args[0]
				args = args[1:]
			}
			flags = append(flags, arg)
		case strings.HasPrefix(arg, "-") && arg != "-":
			more, left, err := cluster(arg[1:], args)
			if err != nil {
				return nil, err
			}
			flags, args = append(flags, more...), left
		default:
			rcpts = append(rcpts, arg)
		}
	}
	return append(append(flags, "--"), rcpts...), nil
}

// cluster reads the letters of one argument, "tiodb" of "-tiodb"; a value that is not attached is taken from args.
func cluster(letters string, args []string) (flags, left []string, err error) {
	for i := range len(letters) {
		letter, value := letters[i], letters[i+1:]
		c := classics[letter&0x7f]
		switch {
		case c.value == unknown || letter >= 0x80:
			return nil, nil, fmt.Errorf("unknown flag -%s (see sendmail --help)", letters[i:])
		case c.value == none:
			if c.long != "" {
				flags = append(flags, "--"+c.long)
			}
			continue
		case c.value == one && value == "":
			if len(args) == 0 {
				return nil, nil, fmt.Errorf("flag -%c needs a value", letter)
			}
			value, args = args[0], args[1:]
		}
		if c.long != "" {
			flags = append(flags, "--"+c.long+"="+value)
		} else if ignoresDots(letter, value) {
			flags = append(flags, "--ignore-dots")
		}
		break
	}
	return flags, args, nil
}

// ignoresDots knows -oi and -O IgnoreDots, with or without a value.
func ignoresDots(flag byte, value string) bool {
	var set string
	switch {
	case flag == 'o' && strings.HasPrefix(value, "i"):
		set = value[1:]
	case flag == 'O':
		name, v, _ := strings.Cut(value, "=")
		if !strings.EqualFold(strings.TrimSpace(name), "IgnoreDots") {
			return false
		}
		set = strings.TrimSpace(v)
	default:
		return false
	}
	return set == "" || strings.IndexByte("tTyY1", set[0]) >= 0
}
