package getopt

import (
	"fmt"
	"strings"
)

// Flag is a flag by its long name.
type Flag struct {
	Short byte         // its letter, for Help; 0: none
	Long  string       // its name
	Value string       // what Help calls its value; "": it has none
	Usage string       // what it does, for Help
	Set   func(string) // is given each value in turn, or "" where it has none

	Default string // the value where none is attached; "": it must have one, attached or apart
}

// On makes a flag without a value, which sets p.
func On(p *bool, short byte, long, usage string) Flag {
	return Flag{Short: short, Long: long, Usage: usage, Set: func(string) { *p = true }}
}

// Text makes a flag whose value becomes p.
func Text(p *string, short byte, long, value, usage string) Flag {
	return Flag{Short: short, Long: long, Value: value, Usage: usage, Set: func(v string) { *p = v }}
}

// Given makes a flag whose value p points to afterwards; nil stays where it is not given.
func Given(p **string, short byte, long, value, usage string) Flag {
	return Flag{Short: short, Long: long, Value: value, Usage: usage, Set: func(v string) { *p = &v }}
}

// Maybe makes a flag whose value must be attached, as in --wait=5m. p points to it afterwards, or to preset where there is none; nil stays where the flag is
// not given.
func Maybe(p **string, long, value, preset, usage string) Flag {
	f := Given(p, 0, long, value, usage)
	f.Default = preset
	return f
}

// Flags are the flags of a program.
type Flags []Flag

// Parse reads a command line as Canonical does, sets the flags, and gives the recipients. An error is the caller's fault.
func (fs Flags) Parse(args []string) (rcpts []string, err error) {
	args, err = Canonical(args, func(long string) bool {
		f := fs.find(long)
		return f != nil && f.Value != "" && f.Default == ""
	})
	for i, arg := range args {
		if arg == "--" {
			return args[i+1:], nil
		}
		name, value, given := strings.Cut(arg[2:], "=")
		f := fs.find(name)
		switch {
		case f == nil:
			return nil, fmt.Errorf("unknown flag: --%s (see sendmail --help)", name)
		case given && f.Value == "":
			return nil, fmt.Errorf("flag --%s takes no value (see sendmail --help)", name)
		}
		if !given {
			value = f.Default
		}
		f.Set(value)
	}
	return nil, err
}

func (fs Flags) find(long string) *Flag {
	for i := range fs {
		if fs[i].Long == long {
			return &fs[i]
		}
	}
	return nil
}

// Help lists the flags, a line for each.
func (fs Flags) Help() string {
	left, width := make([]string, len(fs)), 0
	for i, f := range fs {
		left[i] = "      --" + f.Long
		if f.Short != 0 {
			left[i] = fmt.Sprintf("  -%c, --%s", f.Short, f.Long)
		}
		switch {
		case f.Default != "":
			left[i] += "[=" + f.Value + "]"
		case f.Value != "":
			left[i] += " " + f.Value
		}
		width = max(width, len(left[i]))
	}
	var b strings.Builder
	for i, f := range fs {
		fmt.Fprintf(&b, "%-*s   %s\n", width, left[i], f.Usage)
	}
	return b.String()
}
