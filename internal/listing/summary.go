package listing

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/postel-mail/postel/internal/clock"
	"github.com/postel-mail/postel/internal/queue"
)

// The classes of age are those of Postfix's qshape: under 5 minutes, then each twice the one before, and all that is older.
const (
	firstClass = 5 * time.Minute
	classes    = 10
)

// className is how a class is written: in minutes, what its messages are younger than.
func className(i int) string {
	if i == classes-1 {
		return className(i-1) + "+"
	}
	return strconv.Itoa(int(firstClass.Minutes())<<i) + "m"
}

func classOf(age time.Duration) int {
	i := 0
	for limit := firstClass; i < classes-1 && age >= limit; limit *= 2 {
		i++
	}
	return i
}

// row counts recipients that wait, by how long their message has been in the queue.
type row [classes]uint32

func (r *row) total() (n uint32) {
	for _, c := range r {
		n += c
	}
	return n
}

// Summary is how many recipients wait, by domain and by age.
type Summary struct {
	Messages int
	domains  map[string]*row
}

// Summarize counts the messages of s. failed is called for those that cannot be read.
func Summarize(s *Selection, failed func(id string, err error)) *Summary {
	sum := &Summary{domains: map[string]*row{}}
	now := clock.Now()
	type counted struct {
		class   int
		domains []string
	}
	work := func(m *queue.Message) (c counted, err error) {
		defer m.Close()
		rcpts := m.Envelope.Rcpts
		if len(rcpts) > 1 { // a lone recipient waits, or the message would be gone
			err = m.ReadState()
		}
		for i, r := range rcpts {
			if len(rcpts) == 1 || err == nil && m.State.Rcpts[i].Open() {
				c.domains = append(c.domains, r.To.ASCII().Domain)
			}
		}
		c.class = classOf(now.Sub(m.Envelope.Arrival))
		return c, err
	}
	Each(s, work, func(id string, c counted, err error) {
		if err != nil {
			failed(id, err)
			return
		}
		sum.Messages++
		for _, d := range c.domains {
			r := sum.domains[d]
			if r == nil {
				r = &row{}
				sum.domains[d] = r
			}
			r[c.class]++
		}
	})
	return sum
}

// rows gives the domains, that with most recipients first, and the sum of all.
func (s *Summary) rows() (domains []string, all row) {
	domains = slices.SortedFunc(maps.Keys(s.domains), func(a, b string) int {
		return cmp.Or(cmp.Compare(s.domains[b].total(), s.domains[a].total()), cmp.Compare(a, b))
	})
	for _, r := range s.domains {
		for i, n := range r {
			all[i] += n
		}
	}
	return domains, all
}

// Table prints the summary for people.
func (s *Summary) Table(w io.Writer) error {
	domains, all := s.rows()
	widest := len("TOTAL")
	for _, d := range domains {
		widest = max(widest, len([]rune(Safe(d))))
	}
	column := make([]int, classes)
	for i := range column {
		column[i] = max(len(className(i)), len(strconv.Itoa(int(all[i]))))
	}
	total := max(len("T"), len(strconv.Itoa(int(all.total()))))
	fmt.Fprintf(w, "%*s %*s", widest, "", total, "T")
	for i, c := range column {
		fmt.Fprintf(w, " %*s", c, className(i))
	}
	fmt.Fprintln(w)
	line := func(name string, r *row) (err error) {
		fmt.Fprintf(w, "%*s %*d", widest, name, total, r.total())
		for i, n := range r {
			fmt.Fprintf(w, " %*d", column[i], n)
		}
		_, err = fmt.Fprintln(w)
		return err
	}
	if err := line("TOTAL", &all); err != nil {
		return err
	}
	for _, d := range domains {
		if err := line(Safe(d), s.domains[d]); err != nil {
			return err
		}
	}
	return nil
}

// JSON prints the summary as JSON objects, one a line: first the sum, then each domain.
func (s *Summary) JSON(w io.Writer) error {
	domains, all := s.rows()
	line := func(name string, value any, r *row) error {
		var b bytes.Buffer
		fmt.Fprintf(&b, "{%q:", name)
		if err := json.NewEncoder(&b).Encode(value); err != nil {
			return err
		}
		b.Truncate(b.Len() - 1)
		fmt.Fprintf(&b, `,"total":%d`, r.total())
		for i, n := range r {
			fmt.Fprintf(&b, ",%q:%d", className(i), n)
		}
		b.WriteString("}\n")
		_, err := w.Write(EscapeJSON(b.Bytes()))
		return err
	}
	if err := line("messages", s.Messages, &all); err != nil {
		return err
	}
	for _, d := range domains {
		if err := line("domain", d, s.domains[d]); err != nil {
			return err
		}
	}
	return nil
}
