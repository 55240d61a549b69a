// Sendmail is the submission command that programs run: a message on stdin, recipients as arguments or in its header. Its other classic
// modes become the program that does the work, by exec. No network code is linked in. See sendmail(1).
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/postel-mail/postel/internal/config"
	"github.com/postel-mail/postel/internal/getopt"
	"github.com/postel-mail/postel/internal/maillog"
	"github.com/postel-mail/postel/internal/program"
	"github.com/postel-mail/postel/internal/sysexits"
)

func main() { os.Exit(run(os.Args[1:])) }

// flags is the command line.
type flags struct {
	readRecipients, ignoreDots, relay, verbose       bool
	sender, fullName, notify, ret, envid, body, mode string
	queue                                            string
	senderGiven, queueGiven                          bool
}

func run(args []string) int {
	p := program.New("sendmail [flags] [--] [recipient...]", "submit a message to the mail system",
		"  printf 'Subject: hello\\n\\nHow are you?\\n' | sendmail friend@example.org\n  sendmail -t -i < letter")
	p.Args = cobra.ArbitraryArgs
	p.Flags().Lookup("log").Usage = "log as `FORM`: " + maillog.Forms + " (default syslog)"
	f := &flags{}
	f.add(p)
	args, usage := getopt.Canonical(args, func(long string) bool {
		flag := p.Flags().Lookup(long)
		return flag != nil && flag.NoOptDefVal == ""
	})
	p.RunE = func(_ *cobra.Command, rcpts []string) error {
		if usage != nil {
			return sysexits.With(sysexits.Usage, usage)
		}
		if filepath.Base(os.Args[0]) == "newaliases" {
			f.mode = "i"
		}
		f.senderGiven, f.queueGiven = p.Flags().Changed("sender"), p.Flags().Changed("queue")
		return f.dispatch(p, rcpts)
	}
	if usage != nil {
		args = []string{"--"} // nil would be the original command line
	}
	return p.Main(args)
}

func (f *flags) add(p *program.Program) {
	s := p.Flags()
	s.BoolVarP(&f.readRecipients, "read-recipients", "t", false, "send to the addresses of To, Cc and Bcc, besides those given; remove Bcc")
	s.BoolVarP(&f.ignoreDots, "ignore-dots", "i", false, "a line with nothing but a dot does not end the message; also -oi")
	s.StringVarP(&f.sender, "sender", "f", "", "envelope sender is `ADDR`; empty or <> for none; also -r")
	s.StringVarP(&f.fullName, "full-name", "F", "", "the author's name is `NAME`, where the message has no From")
	s.StringVarP(&f.notify, "notify", "N", "", "report to the sender `WHEN`: never, or a list of success, failure and delay")
	s.StringVarP(&f.ret, "return", "R", "", "a report returns `WHAT` of the message: full or hdrs")
	s.StringVarP(&f.envid, "envelope-id", "V", "", "reports quote `ID`")
	s.StringVarP(&f.body, "body", "B", "", "the body is `TYPE`: 7bit or 8bitmime (found out by itself)")
	s.BoolVarP(&f.relay, "relay", "G", false, "the message passes through: do not complete or change its header")
	s.BoolVarP(&f.verbose, "verbose", "v", false, "print the queue id")
	s.StringVarP(&f.mode, "mode", "b", "m", "do `WHAT`: m submit, s SMTP on stdin and stdout, d server and runner, p print the queue, v show routes, i check aliases")
	s.StringVarP(&f.queue, "queue", "q", "", "run the queue once; with `HOW`: every 5m and so on, or Iid, Rrecipient, Ssender")
}

// dispatch does what the flags say.
func (f *flags) dispatch(p *program.Program, rcpts []string) error {
	if p.CheckOnly {
		_, err := p.Config()
		return err
	}
	once := f.queueGiven && (f.queue == "" || f.queue == "f")
	if p.LogForm == "" && (f.mode == "s" || f.mode == "m" && !f.queueGiven || once && !f.verbose) {
		p.LogForm = "syslog" // whoever runs a program reads its stderr, and cron mails it
	}
	var common []string
	if p.ConfigFile != "" {
		common = append(common, "--config="+p.ConfigFile)
	}
	if p.LogForm != "" {
		common = append(common, "--log="+p.LogForm)
	}
	runner, err := f.runner(common)
	if err != nil {
		return sysexits.With(sysexits.Usage, err)
	}
	switch {
	case f.mode == "m" && f.queueGiven:
		return become(runner)
	case f.mode == "m":
		return f.submit(p, rcpts)
	case f.mode == "s":
		return become(command("smtpd", common, "--submission"))
	case f.mode == "d" || f.mode == "D":
		return runAll(command("smtpd", common, "--listen", ":25"), runner)
	case f.mode == "p" || f.mode == "P":
		return become(command("mailq", common, f.selection()...))
	case f.mode == "v":
		return become(command("qmgr", common, append([]string{"--route", "--"}, rcpts...)...))
	case f.mode == "i":
		return become(command("deliver", common, "--check"))
	}
	return sysexits.With(sysexits.Usage, fmt.Errorf("mode -b%s is not supported (see sendmail --help)", f.mode))
}

// selection is what -qI, -qR and -qS say, in mailq's words.
func (f *flags) selection() []string {
	if f.queue == "" {
		return nil
	}
	flag, ok := map[byte]string{'I': "--id=", 'R': "--to=", 'S': "--from="}[f.queue[0]]
	if !ok {
		return nil
	}
	return []string{flag + f.queue[1:]}
}

// runner is the command line that -q stands for; without -q the runner itself.
func (f *flags) runner(common []string) ([]string, error) {
	how := f.queue
	switch {
	case !f.queueGiven || how == "p":
		return command("qmgr", common), nil
	case how == "" || how == "f":
		return command("qmgr", common, "--once"), nil
	case f.selection() != nil:
		return command("mailq", common, append([]string{"retry"}, f.selection()...)...), nil
	}
	if how[0] == 'p' || how[0] == 'f' { // persistent, in the foreground: as it is anyway
		how = how[1:]
	}
	if strings.Trim(how, "0123456789") == "" {
		how += "m" // as sendmail has it
	}
	if _, err := config.ParseDuration(how); err != nil {
		return nil, fmt.Errorf("-q%s: %w, or IID, RRECIPIENT, SSENDER", f.queue, err)
	}
	return command("qmgr", common, "--wake="+how), nil
}
