package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/postel-mail/postel/internal/clock"
	"github.com/postel-mail/postel/internal/listing"
	"github.com/postel-mail/postel/internal/queue"
	"github.com/postel-mail/postel/internal/sysexits"
	"github.com/postel-mail/postel/internal/trace"
)

// print prints a summary.
func (q *mailq) print(sum *listing.Summary) error {
	w := bufio.NewWriter(os.Stdout)
	var err error
	if q.json {
		err = sum.JSON(w)
	} else {
		err = sum.Table(w)
	}
	return errors.Join(err, w.Flush())
}

// trace prints what logs say about a message. It needs neither the configuration nor the spool.
func (q *mailq) trace(args []string) error {
	if len(args) == 0 || !queue.ValidID(args[0]) || q.summary || q.health.asked || q.older != "" || !q.filter.IsEmpty() {
		return sysexits.With(sysexits.Usage, errors.New("trace takes a queue id and the logs to look into, no filters and no limits"))
	}
	id, names := args[0], args[1:]
	if len(names) == 0 {
		names = []string{"-"}
	}
	var logs []trace.Log
	for _, name := range names {
		f := os.Stdin
		if name != "-" {
			var err error
			if f, err = os.Open(name); err != nil {
				return sysexits.With(sysexits.NoInput, err)
			}
			defer f.Close()
		}
		logs = append(logs, trace.Log{Name: name, Reader: f})
	}
	lines, err := trace.Follow(id, logs, clock.Now())
	if errors.Is(err, trace.ErrMany) {
		q.Say(err)
	} else if err != nil {
		return sysexits.With(sysexits.NoInput, err)
	}
	if len(lines) == 0 {
		return sysexits.With(sysexits.DataErr, fmt.Errorf("%s: no log has a line about it", id))
	}
	w := bufio.NewWriter(os.Stdout) // an error sticks in it
	for _, l := range lines {
		if q.json {
			_, _ = w.Write(append(listing.EscapeJSON(l.AppendJSON(nil)), '\n'))
		} else {
			fmt.Fprintf(w, "%s%s\n", strings.Repeat("  ", l.Depth), listing.Plain(strings.ToValidUTF8(l.Text, "?")))
		}
	}
	return output(w.Flush())
}
