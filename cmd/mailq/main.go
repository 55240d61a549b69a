// Mailq looks into the queue and acts on it; see mailq(1).
package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/postel-mail/postel/internal/clock"
	"github.com/postel-mail/postel/internal/config"
	"github.com/postel-mail/postel/internal/listing"
	"github.com/postel-mail/postel/internal/maillog"
	"github.com/postel-mail/postel/internal/program"
	"github.com/postel-mail/postel/internal/queue"
	"github.com/postel-mail/postel/internal/sysexits"
)

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	var s selection
	var asJSON bool
	p := program.New("mailq [flags] [list|show|retry|hold|release|delete] [id...]", "look into the mail queue and act on it",
		"  mailq\n  mailq show 1jsk0m8b6ggqrrmcf4x2\n  mailq retry --domain south.example\n  mailq delete --from spammer@ --older 1h\n  mailq --json | jq .id")
	p.Flags().StringVar(&s.id, "id", "", "only messages with `TEXT` in their id")
	p.Flags().StringVar(&s.from, "from", "", "only messages with `TEXT` in their sender")
	p.Flags().StringVar(&s.to, "to", "", "only messages with `TEXT` in a recipient")
	p.Flags().StringVar(&s.domain, "domain", "", "only messages with a recipient in `DOMAIN`")
	p.Flags().StringVar(&s.older, "older", "", "only messages that are in the queue longer than `DURATION`")
	p.Flags().BoolVar(&asJSON, "json", false, "print one JSON object a message")
	p.Flags().Lookup("log").Usage = "log what is deleted as `FORM`: " + maillog.Forms + " (default syslog)"
	p.Args = cobra.ArbitraryArgs
	p.RunE = func(_ *cobra.Command, args []string) error {
		verb := "list"
		if len(args) > 0 {
			verb, s.ids = args[0], args[1:]
		}
		if err := s.check(verb); err != nil {
			return sysexits.With(sysexits.Usage, err)
		}
		c, err := p.Config()
		if err != nil || p.CheckOnly {
			return err
		}
		spool, err := open(c.Spool)
		if errors.Is(err, fs.ErrNotExist) {
			return s.none(os.Stdout, verb, asJSON)
		}
		if err != nil {
			return err
		}
		defer spool.Close()
		if verb == "list" || verb == "show" {
			return look(os.Stdout, spool, &s, verb, asJSON)
		}
		if p.LogForm == "" {
			p.LogForm = "syslog" // stderr is for the person who typed the command
		}
		log, err := p.Log()
		if err != nil {
			return err
		}
		return act(spool, log, &s, verb, asJSON)
	}
	return p.Main(args)
}

// open opens a spool that is there; looking must not make one.
func open(path string) (*queue.Spool, error) {
	_, err := os.Stat(path + "/queue")
	if err != nil {
		err = fmt.Errorf("cannot use the spool: %w", err)
	}
	var spool *queue.Spool
	if err == nil {
		spool, err = queue.Open(path)
	}
	switch {
	case errors.Is(err, fs.ErrPermission):
		return nil, sysexits.With(sysexits.NoPerm, fmt.Errorf("%w; run mailq as root or as the user who owns %s", err, path))
	case err != nil:
		return nil, sysexits.With(sysexits.IOErr, err)
	}
	return spool, nil
}

// selection is which messages a verb is for: those of ids, or where there are none, all that every filter lets through.
type selection struct {
	ids                         []string
	id, from, to, domain, older string
	age                         time.Duration
}

func (s *selection) check(verb string) error {
	filtered := s.id+s.from+s.to+s.domain+s.older != ""
	switch {
	case !slices.Contains([]string{"list", "show", "retry", "hold", "release", "delete"}, verb):
		return fmt.Errorf("unknown verb %q (see mailq --help)", verb)
	case len(s.ids) > 0 && filtered:
		return errors.New("give ids or filters, not both")
	case (verb == "delete" || verb == "hold" || verb == "show") && len(s.ids) == 0 && !filtered:
		return fmt.Errorf("%s needs an id or a filter", verb)
	}
	for _, id := range s.ids {
		if !queue.ValidID(id) {
			return fmt.Errorf("%q is not a queue id", id)
		}
	}
	if s.older != "" {
		var err error
		if s.age, err = config.ParseDuration(s.older); err != nil {
			return fmt.Errorf("--older: %w", err)
		}
	}
	return nil
}

func (s *selection) has(m *queue.Message) bool {
	e := m.Envelope
	if len(s.ids) > 0 {
		return slices.Contains(s.ids, e.ID)
	}
	if !strings.Contains(e.ID, s.id) || !strings.Contains(e.From.Angle(), s.from) || clock.Since(e.Arrival) < s.age {
		return false
	}
	if s.to == "" && s.domain == "" {
		return true
	}
	for _, r := range e.Rcpts {
		if strings.Contains(r.To.Angle(), s.to) && (s.domain == "" || strings.EqualFold(r.To.Domain, s.domain)) {
			return true
		}
	}
	return false
}

// none answers on a host that has queued nothing so far and has no spool yet.
func (s *selection) none(out io.Writer, verb string, asJSON bool) error {
	var failed []error
	for _, id := range s.ids {
		failed = append(failed, gone(id))
	}
	if verb == "list" && !asJSON && failed == nil {
		listing.Foot(out, 0, 0)
	}
	return errors.Join(failed...)
}

func gone(id string) error {
	return sysexits.With(sysexits.DataErr, fmt.Errorf("%s: not in the queue", id))
}

// each calls f for each selected message, in order of arrival. An id that is not there is an error, after the others.
func (s *selection) each(spool *queue.Spool, f func(m *queue.Message) error) error {
	ids := s.ids
	if len(ids) == 0 {
		var err error
		if ids, err = spool.IDs(); err != nil {
			return sysexits.With(sysexits.IOErr, err)
		}
	}
	var failed []error
	for _, id := range ids {
		m, err := spool.Peek(id)
		switch {
		case errors.Is(err, queue.ErrGone) && len(s.ids) == 0:
			continue // delivered meanwhile
		case errors.Is(err, queue.ErrGone):
			failed = append(failed, gone(id))
		case err != nil:
			failed = append(failed, sysexits.With(sysexits.IOErr, err))
		default:
			if s.has(m) {
				if err := f(m); err != nil {
					failed = append(failed, err)
				}
			}
			m.Close()
		}
	}
	return errors.Join(failed...)
}

// look prints the selected messages.
func look(out io.Writer, spool *queue.Spool, s *selection, verb string, asJSON bool) error {
	w := bufio.NewWriter(out)
	var count, octets int64
	err := s.each(spool, func(m *queue.Message) error {
		count++
		octets += m.Size()
		switch {
		case asJSON:
			return listing.JSON(w, m)
		case verb == "show":
			return listing.Show(w, m)
		case count == 1:
			listing.Head(w)
		}
		listing.List(w, m)
		return nil
	})
	if !asJSON && verb == "list" && err == nil {
		listing.Foot(w, count, octets)
	}
	if e := w.Flush(); err == nil {
		err = e
	}
	return err
}

// done is what each verb says of a message.
var done = map[string]string{"retry": "due now", "hold": "held", "release": "released", "delete": "deleted"}

// act changes the selected messages, each claimed so that the runner does not work on it, and wakes the runner.
func act(spool *queue.Spool, log *maillog.Log, s *selection, verb string, asJSON bool) error {
	defer spool.Trigger("")
	return s.each(spool, func(seen *queue.Message) error {
		id := seen.ID()
		m, err := spool.Claim(id)
		if errors.Is(err, queue.ErrBusy) {
			return sysexits.With(sysexits.TempFail, fmt.Errorf("%s: is being delivered, try again", id))
		}
		if err != nil {
			return sysexits.With(sysexits.IOErr, err)
		}
		defer m.Close()
		switch {
		case verb == "retry" && m.State.Hold && len(s.ids) > 0:
			return sysexits.With(sysexits.DataErr, fmt.Errorf("%s: is held; release it first", id))
		case verb == "retry" && m.State.Hold:
			return nil
		}
		switch verb {
		case "retry":
			m.State.Next = time.Time{}
			err = m.Record(true)
		case "hold", "release":
			m.State.Hold = verb == "hold"
			err = m.Record(true)
		case "delete":
			if err = m.Remove(); err == nil {
				log.Removed(id, fmt.Sprintf("deleted by uid %d", os.Getuid()))
			}
		}
		if err != nil {
			return sysexits.With(sysexits.IOErr, fmt.Errorf("%s: %w", id, err))
		}
		if asJSON {
			return listing.Encode(os.Stdout, map[string]string{"id": id, "done": done[verb]})
		}
		_, err = fmt.Printf("%s %s\n", id, done[verb])
		return err
	})
}
