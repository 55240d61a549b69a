package listing

import (
	"fmt"
	"strings"
	"time"

	"github.com/postel-mail/postel/internal/clock"
	"github.com/postel-mail/postel/internal/queue"
)

// Limits are what a queue in good health keeps below; a negative one is none.
type Limits struct {
	WarnAge, CritAge     time.Duration // of the oldest message that is not held
	WarnCount, CritCount int           // messages, with those that are held
}

// Verdicts, as the plugins of Nagios and its like exit.
const (
	Healthy = iota
	Warning
	Critical
	Unknown
)

var verdicts = [...]string{"OK", "WARNING", "CRITICAL", "UNKNOWN"}

// Health judges the messages of s: one line for a monitoring system, and the verdict. Of a whole queue only names are read, and the states of the oldest until
// one is not held.
func Health(s *Selection, l Limits) (verdict int, line string) {
	var arrival time.Time
	count, failed := 0, error(nil)
	if s.Filter.IsEmpty() {
		count = len(s.found)
		for _, e := range s.found {
			if _, held, _ := s.Spool.Schedule(e.id()); !held {
				arrival = queue.Arrival(e.id())
				break
			}
		}
	} else {
		type seen struct {
			arrival time.Time
			held    bool
		}
		Each(s, func(m *queue.Message) (seen, error) {
			defer m.Close()
			_, held, _ := s.Spool.Schedule(m.ID())
			return seen{m.Envelope.Arrival, held}, nil
		}, func(_ string, v seen, err error) {
			if err != nil {
				failed = err
				return
			}
			count++
			if !v.held && (arrival.IsZero() || v.arrival.Before(arrival)) {
				arrival = v.arrival
			}
		})
	}
	if failed != nil {
		return Unhealthy(failed)
	}
	age := time.Duration(0)
	if !arrival.IsZero() {
		age = max(0, clock.Since(arrival))
	}
	return judge(count, age, l)
}

// Unhealthy is the verdict where the queue cannot be read.
func Unhealthy(err error) (verdict int, line string) {
	text, _, _ := strings.Cut(err.Error(), "\n")
	return Unknown, "MAILQ " + verdicts[Unknown] + ": " + strings.ReplaceAll(Safe(text), "|", "/")
}

func judge(count int, age time.Duration, l Limits) (verdict int, line string) {
	messages, oldest := fmt.Sprintf("%d messages", count), "the oldest waits for "+brief(age)
	if count == 1 {
		messages = "1 message"
	}
	switch {
	case l.CritCount >= 0 && count > l.CritCount:
		verdict, messages = Critical, messages+fmt.Sprintf(" (more than %d)", l.CritCount)
	case l.WarnCount >= 0 && count > l.WarnCount:
		verdict, messages = Warning, messages+fmt.Sprintf(" (more than %d)", l.WarnCount)
	}
	switch {
	case l.CritAge >= 0 && age > l.CritAge:
		verdict, oldest = Critical, oldest+" (longer than "+brief(l.CritAge)+")"
	case l.WarnAge >= 0 && age > l.WarnAge:
		verdict, oldest = max(verdict, Warning), oldest+" (longer than "+brief(l.WarnAge)+")"
	}
	if age == 0 {
		oldest = "none waits"
	}
	return verdict, fmt.Sprintf("MAILQ %s: %s, %s | messages=%d;%s;%s;0; oldest=%ds;%s;%s;0;", verdicts[verdict], messages, oldest,
		count, threshold(l.WarnCount), threshold(l.CritCount), int(age.Seconds()), threshold(seconds(l.WarnAge)), threshold(seconds(l.CritAge)))
}

func seconds(d time.Duration) int {
	if d < 0 {
		return -1
	}
	return int(d.Seconds())
}

// threshold writes a limit as performance data have it: nothing where there is none.
func threshold(n int) string {
	if n < 0 {
		return ""
	}
	return fmt.Sprint(n)
}

// brief writes a duration in its two largest units.
func brief(d time.Duration) string {
	text, units := "", 0
	for _, unit := range []struct {
		name string
		of   time.Duration
	}{{"d", 24 * time.Hour}, {"h", time.Hour}, {"m", time.Minute}, {"s", time.Second}} {
		n := d / unit.of
		d -= n * unit.of
		if n > 0 && units < 2 {
			text += fmt.Sprintf("%d%s", n, unit.name)
		}
		if text != "" {
			units++
		}
	}
	if text == "" {
		return "0s"
	}
	return text
}
