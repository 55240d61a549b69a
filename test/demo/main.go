// Demo sends real mail between two complete mail hosts and an appliance, all on loopback, without root, and prints its journey.
//
// north.example is one host: sendmail, smtpd, a submission server, qmgr, lmtpd with a Maildir, pop3d. south.example has the same with an mbox and
// deliver by pipe, and stands behind gate.south.example, an appliance with nothing but smtpd and qmgr, that is its mail exchanger and its
// smart host. Names come from a DNS server of the demo's own. Each server is started in another of the ways of postel.7.
//
// With KEEP set in the environment everything stays up at the end. It exits 0 when every hop happened, else 1 with the reason.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func run() (err error) {
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	w, err := newWorld()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	if err := w.start(); err != nil {
		return err
	}
	bounded, stop := context.WithTimeout(ctx, 60*time.Second)
	defer stop()
	for _, step := range []func(context.Context) error{w.lookUp, w.cron, w.submit, w.bounce, w.fetch} {
		if err := step(bounded); err != nil {
			return fmt.Errorf("%w\nlast lines of the log:\n%s", err, w.tail())
		}
	}
	if os.Getenv("KEEP") == "" {
		return nil
	}
	w.explain()
	<-ctx.Done()
	return nil
}

// title prints the heading of a step.
func title(format string, args ...any) {
	fmt.Printf("\n== %s\n", fmt.Sprintf(format, args...))
}

// lookUp asks for the mail hosts in a shell loop, as a script would.
func (w *world) lookUp(ctx context.Context) error {
	title("mxlookup in a shell loop: where does mail for these domains go?")
	out, err := w.shell(ctx, w.north, `for domain in north.example south.example; do
		mxlookup -a "$domain" | while read pref host addr; do echo "$domain: $host at $addr, preference $pref"; done
	done`)
	fmt.Print(out)
	if err == nil && strings.Count(out, "\n") != 2 {
		err = fmt.Errorf("two lines expected")
	}
	return err
}

// cron pipes text into sendmail on north: queue, MX, gate, south, deliver, mbox.
func (w *world) cron(ctx context.Context) error {
	title("alice's cron job on north.example pipes its output into sendmail")
	_, err := w.shell(ctx, w.north, `printf 'Subject: nightly backup\nTo: bob@south.example\n\nbackup of /home: 42 files, no errors\n' |
		sendmail --log text -oi -f alice@north.example -t`)
	if err != nil {
		return err
	}
	return w.await(ctx, w.south, "delivered", "bob@south.example") // deliver's own log goes to syslog
}

// submit sends a reply as a mail client does: submission port, STARTTLS, AUTH; then smart host, MX, LMTP, Maildir.
func (w *world) submit(ctx context.Context) error {
	title("bob's mail client answers by the submission port, STARTTLS and AUTH")
	if err := w.clientSubmit("bob", "alice@north.example", "Subject: Re: nightly backup\r\nFrom: Bob <bob@south.example>\r\nTo: alice@north.example\r\n\r\nThank you.\r\n"); err != nil {
		return fmt.Errorf("submission: %w", err)
	}
	return w.await(ctx, w.north, "stored", "alice@north.example")
}

// bounce sends to a user who is not there; the appliance's report comes back to alice.
func (w *world) bounce(ctx context.Context) error {
	title("alice writes to somebody who is not there; the report comes back")
	_, err := w.shell(ctx, w.north, `printf 'Subject: hello?\nTo: nobody@south.example\n\nAre you there?\n' | sendmail --log text -oi -f alice@north.example -t`)
	if err != nil {
		return err
	}
	if err := w.await(ctx, w.gate, "bounced", "nobody@south.example"); err != nil {
		return err
	}
	return w.await(ctx, w.north, "stored", "alice@north.example")
}

// fetch reads both mailboxes by POP3: bob's by pop3d on a pipe, alice's over TCP with STLS.
func (w *world) fetch(ctx context.Context) error {
	title("bob fetches his mail from the mbox: pop3d on a pipe")
	out, err := w.shell(ctx, w.south, `printf 'USER bob\r\nPASS bob-secret\r\nSTAT\r\nRETR 1\r\nQUIT\r\n' | pop3d 2>/dev/null`)
	if err != nil {
		return err
	}
	fmt.Print(strings.ReplaceAll(out, "\r\n", "\n"))
	if strings.Count(out, "\r\nReceived: ") != 3 || !strings.Contains(out, "backup of /home: 42 files, no errors") {
		return errors.New("bob's message with three Received fields expected")
	}
	title("alice fetches hers from the Maildir: pop3d over TCP with STLS")
	messages, err := w.popFetch(w.north.pop3, "alice", "alice-secret")
	if err != nil {
		return fmt.Errorf("POP3: %w", err)
	}
	if len(messages) != 2 {
		return fmt.Errorf("%d messages, two expected", len(messages))
	}
	fmt.Print(messages[0])
	if strings.Count(messages[0], "\nReceived: ") < 3 || !strings.Contains(messages[0], "Thank you.") {
		return errors.New("bob's answer with its Received fields expected")
	}
	title("and the report (its second part)")
	_, report, _ := strings.Cut(messages[1], "message/delivery-status\n\n")
	report, _, _ = strings.Cut(report, "\n--=_")
	fmt.Println(strings.TrimSpace(report))
	if !strings.Contains(report, "Status: 5.1.1") {
		return errors.New("a report with status 5.1.1 expected")
	}
	fmt.Println("\nAll hops happened.")
	return nil
}
