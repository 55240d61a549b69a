// Mailq looks into the queue and acts on it; see mailq(1).
package main

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/postel-mail/postel/internal/config"
	"github.com/postel-mail/postel/internal/listing"
	"github.com/postel-mail/postel/internal/maillog"
	"github.com/postel-mail/postel/internal/process"
	"github.com/postel-mail/postel/internal/program"
	"github.com/postel-mail/postel/internal/queue"
	"github.com/postel-mail/postel/internal/sysexits"
)

func main() { os.Exit(run(os.Args[1:])) }

// verbs are what can be done, in the order of the help.
var verbs = []string{"list", "show", "retry", "hold", "release", "delete", "expire", "trace"}

type mailq struct {
	*program.Program
	verb    string
	filter  listing.Filter
	older   string
	json    bool
	summary bool
	health  health
}

func run(args []string) int {
	q := &mailq{}
	q.Program = program.New("mailq [flags] ["+strings.Join(verbs, "|")+"] [id...]", "look into the mail queue and act on it",
		"  mailq\n  mailq show 1jsk0m8b6ggqrrmcf4x2\n  mailq retry --domain south.example\n  mailq delete --from spammer@ --older 1h\n"+
			"  mailq --json | jq .id\n  mailq --summary\n  mailq --warn-age 1h --crit-age 6h --warn-count 100\n  mailq trace 1jsk0m8b6ggqrrmcf4x2 /var/log/mail.log")
	f := q.Flags()
	f.StringVar(&q.filter.ID, "id", "", "only messages with `TEXT` in their id")
	f.StringVar(&q.filter.From, "from", "", "only messages with `TEXT` in their sender")
	f.StringVar(&q.filter.To, "to", "", "only messages with `TEXT` in a recipient that waits")
	f.StringVar(&q.filter.Domain, "domain", "", "only messages with a recipient that waits in `DOMAIN`")
	f.StringVar(&q.older, "older", "", "only messages that are in the queue longer than `DURATION`")
	f.BoolVar(&q.json, "json", false, "print one JSON object a message")
	f.BoolVar(&q.summary, "summary", false, "print how many recipients wait, by domain and age")
	q.health.flags(q.Command)
	f.Lookup("log").Usage = "log what is changed as `FORM`: " + maillog.Forms + " (default syslog)"
	q.Args = cobra.ArbitraryArgs
	q.RunE = q.run
	exit := q.Main(args)
	if q.health.asked && exit == sysexits.OK {
		return q.health.verdict
	}
	return exit
}

func (q *mailq) run(_ *cobra.Command, args []string) error {
	q.verb = "list"
	if len(args) > 0 {
		q.verb, args = args[0], args[1:]
	}
	q.health.see(q.Command)
	if q.verb == "trace" && !q.CheckOnly {
		return q.trace(args)
	}
	q.filter.IDs = args
	if err := q.check(); err != nil {
		return q.health.unknown(sysexits.With(sysexits.Usage, err))
	}
	c, err := q.Config()
	if err != nil || q.CheckOnly {
		return q.health.unknown(err)
	}
	spool, err := open(c.Spool)
	if errors.Is(err, fs.ErrNotExist) && !q.health.asked {
		return q.none()
	}
	if err != nil {
		return q.health.unknown(err)
	}
	defer spool.Close()
	chosen, err := listing.Choose(spool, &q.filter)
	if err != nil {
		return q.health.unknown(sysexits.With(sysexits.IOErr, err))
	}
	if isTerminal(os.Stderr) && (q.summary || q.health.asked || !isTerminal(os.Stdout)) { // else the output says how far it is
		chosen.Progress = listing.NewProgress(os.Stderr)
	}
	if q.health.asked {
		return q.health.judge(chosen)
	}
	failed := &failures{Program: q.Program}
	if err := q.work(chosen, failed.add); err != nil {
		failed.add("", err)
	}
	return failed.err()
}

// work does what the command line says with the chosen messages.
func (q *mailq) work(chosen *listing.Selection, failed func(string, error)) error {
	switch {
	case q.summary:
		return q.print(listing.Summarize(chosen, failed))
	case q.verb == "list":
		return listing.ListAll(os.Stdout, chosen, q.json, failed)
	case q.verb == "show" && isTerminal(os.Stdout):
		return listing.ShowAll(listing.Terminal(os.Stdout), chosen, q.json, failed)
	case q.verb == "show":
		return listing.ShowAll(os.Stdout, chosen, q.json, failed)
	}
	if q.LogForm == "" {
		q.LogForm = "syslog" // stderr is for the person who typed the command
	}
	log, err := q.Log()
	if err != nil {
		return err
	}
	w := bufio.NewWriter(os.Stdout) // an error sticks in it
	err = listing.Change(chosen, listing.Verb(q.verb), log, func(id, what string) {
		if q.json {
			_ = listing.Encode(w, map[string]string{"id": id, "done": what})
		} else {
			fmt.Fprintf(w, "%s %s\n", id, what)
		}
	}, func(id string, err error) {
		_ = w.Flush()
		failed(id, err)
	})
	return errors.Join(err, w.Flush())
}

// output gives an error that says no status of its own that of input and output.
func output(err error) error {
	var known *sysexits.Error
	if errors.As(err, &known) {
		return err
	}
	return sysexits.With(sysexits.IOErr, err)
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
		return nil, sysexits.With(sysexits.NoPerm, fmt.Errorf("%w; run mailq as root or as the user who owns the spool", err))
	case err != nil:
		return nil, sysexits.With(sysexits.IOErr, err)
	}
	return spool, nil
}

func (q *mailq) check() error {
	f := &q.filter
	filtered := f.ID+f.From+f.To+f.Domain+q.older != ""
	switch {
	case !slices.Contains(verbs, q.verb):
		return fmt.Errorf("unknown verb %q (see mailq --help)", q.verb)
	case len(f.IDs) > 0 && filtered:
		return errors.New("give ids or filters, not both")
	case q.summary && q.health.asked:
		return errors.New("--summary and limits do not go together")
	case (q.summary || q.health.asked) && (q.verb != "list" || len(f.IDs) > 0):
		return errors.New("--summary and limits take filters, no verb and no ids")
	case slices.Contains([]string{"delete", "hold", "expire", "show"}, q.verb) && len(f.IDs) == 0 && !filtered:
		return fmt.Errorf("%s needs an id or a filter", q.verb)
	}
	for _, id := range f.IDs {
		if !queue.ValidID(id) {
			return fmt.Errorf("%q is not a queue id", id)
		}
	}
	if q.older != "" {
		var err error
		if f.Older, err = config.ParseDuration(q.older); err != nil {
			return fmt.Errorf("--older: %w", err)
		}
	}
	return q.health.check()
}

// none answers on a host that has queued nothing so far and has no spool yet.
func (q *mailq) none() error {
	var failed []error
	for _, id := range q.filter.IDs {
		failed = append(failed, gone(id))
	}
	switch {
	case failed != nil:
	case q.summary:
		return output(q.print(&listing.Summary{}))
	case q.verb == "list" && !q.json:
		listing.Foot(os.Stdout, 0, 0)
	}
	return errors.Join(failed...)
}

func gone(id string) error {
	return sysexits.With(sysexits.DataErr, fmt.Errorf("%s: not in the queue", id))
}

// failures says each error at once, so that a million of them take no memory, and ends with the exit status of the first.
type failures struct {
	*program.Program
	status int
}

func (f *failures) add(id string, err error) {
	if errors.Is(err, queue.ErrGone) {
		err = gone(id)
	}
	err = output(err)
	if f.status == sysexits.OK {
		f.status = sysexits.Of(err)
	}
	f.Say(err)
}

func (f *failures) err() error {
	if f.status == sysexits.OK {
		return nil
	}
	return sysexits.With(f.status, process.ErrSilent)
}

func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
