// Sendmail is the submission command that programs run: a message on stdin, recipients as arguments or in its header. Its other classic
// modes become the program that does the work, by exec. No network code is linked in, and nothing else that would slow its start. See sendmail(1).
package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/postel-mail/postel/internal/config"
	"github.com/postel-mail/postel/internal/getopt"
	"github.com/postel-mail/postel/internal/maillog"
	"github.com/postel-mail/postel/internal/process"
	"github.com/postel-mail/postel/internal/sysexits"
)

func main() { os.Exit(run(os.Args[1:])) }

const help = `Submit a message to the mail system.

Usage:
  sendmail [flags] [--] [recipient...]

Examples:
  printf 'Subject: hello\n\nHow are you?\n' | sendmail friend@example.org
  sendmail -t -i < letter

Flags:
`

// sendmail is the command line.
type sendmail struct {
	process.Process
	showHelp, showVersion                           bool
	readRecipients, ignoreDots, relay, verbose      bool
	fullName, notify, ret, envid, orcpt, body, mode string
	sender, queue, wait                             *string // nil: not given
}

func run(args []string) int {
	s := &sendmail{Process: process.Process{Prog: "sendmail"}, mode: "m"}
	return s.Exit(func() error {
		flags := s.flags()
		rcpts, err := flags.Parse(args)
		switch {
		case err != nil:
			return sysexits.With(sysexits.Usage, err)
		case s.showHelp:
			_, err = fmt.Print(help + flags.Help())
		case s.showVersion:
			err = s.PrintVersion()
		case filepath.Base(os.Args[0]) == "newaliases":
			s.mode = "i"
			fallthrough
		default:
			err = s.dispatch(rcpts)
		}
		return err
	})
}

func (s *sendmail) flags() getopt.Flags {
	return getopt.Flags{
		getopt.Text(&s.ConfigFile, 'C', "config", "FILE", "configuration FILE (default $POSTEL_CONFIG, then "+config.DefaultFile+")"),
		getopt.Text(&s.LogForm, 0, "log", "FORM", "log as FORM: "+maillog.Forms+" (default syslog)"),
		getopt.On(&s.CheckOnly, 0, "check", "read configuration and tables, say what is wrong, and exit"),
		getopt.On(&s.showHelp, 0, "help", "print this help and exit"),
		getopt.On(&s.showVersion, 0, "version", "print the version and exit"),
		getopt.On(&s.readRecipients, 't', "read-recipients", "send to the addresses of To, Cc and Bcc, besides those given; remove Bcc"),
		getopt.On(&s.ignoreDots, 'i', "ignore-dots", "a line with nothing but a dot does not end the message; also -oi"),
		getopt.Given(&s.sender, 'f', "sender", "ADDR", "envelope sender is ADDR; empty or <> for none; also -r"),
		getopt.Text(&s.fullName, 'F', "full-name", "NAME", "the author's name is NAME, where the message has no From"),
		getopt.Text(&s.notify, 'N', "notify", "WHEN", "report to the sender WHEN: never, or a list of success, failure and delay"),
		getopt.Text(&s.ret, 'R', "return", "WHAT", "a report returns WHAT of the message: full or hdrs"),
		getopt.Text(&s.envid, 'V', "envelope-id", "ID", "reports quote ID"),
		getopt.Text(&s.orcpt, 0, "orcpt", "ADDR", "reports name ADDR, as TYPE;ADDRESS, as the recipient that the sender wrote to"),
		getopt.Text(&s.body, 'B', "body", "TYPE", "the body is TYPE: 7bit or 8bitmime (found out by itself)"),
		getopt.On(&s.relay, 'G', "relay", "the message passes through: do not complete or change its header"),
		getopt.On(&s.verbose, 'v', "verbose", "print the queue id"),
		getopt.Maybe(&s.wait, "wait", "DURATION", "5m", "wait until every recipient was tried, DURATION at most (default 5m), and exit with what became of them"),
		getopt.Text(&s.mode, 'b', "mode", "WHAT", "do WHAT: m submit, s SMTP on stdin and stdout, d server and runner, p print the queue, v show routes, i check aliases (default m)"),
		getopt.Given(&s.queue, 'q', "queue", "HOW", "run the queue once; with HOW: every 5m and so on, or Iid, Rrecipient, Ssender"),
	}
}

// dispatch does what the flags say.
func (s *sendmail) dispatch(rcpts []string) error {
	if s.wait != nil && (s.mode != "m" || s.queue != nil || s.CheckOnly) {
		return sysexits.With(sysexits.Usage, errors.New("--wait is for submitting a message, not with -b, -q or --check"))
	}
	if s.CheckOnly {
		_, err := s.Config()
		return err
	}
	once := s.queue != nil && (*s.queue == "" || *s.queue == "f")
	if s.LogForm == "" && (s.mode == "s" || s.mode == "m" && s.queue == nil || once && !s.verbose) {
		s.LogForm = "syslog" // whoever runs a program reads its stderr, and cron mails it
	}
	var common []string
	if s.ConfigFile != "" {
		common = append(common, "--config="+s.ConfigFile)
	}
	if s.LogForm != "" {
		common = append(common, "--log="+s.LogForm)
	}
	runner, err := s.runner(common)
	if err != nil {
		return sysexits.With(sysexits.Usage, err)
	}
	switch {
	case s.mode == "m" && s.queue != nil:
		return become(runner)
	case s.mode == "m":
		return s.submit(rcpts)
	case s.mode == "s":
		return become(command("smtpd", common, "--submission"))
	case s.mode == "d" || s.mode == "D":
		return runAll(command("smtpd", common, "--listen", ":25"), runner)
	case s.mode == "p" || s.mode == "P":
		return become(command("mailq", common, s.selection()...))
	case s.mode == "v":
		return become(command("qmgr", common, append([]string{"--route", "--"}, rcpts...)...))
	case s.mode == "i":
		return become(command("deliver", common, "--check"))
	}
	return sysexits.With(sysexits.Usage, fmt.Errorf("mode -b%s is not supported (see sendmail --help)", s.mode))
}

// selection is what -qI, -qR and -qS say, in mailq's words.
func (s *sendmail) selection() []string {
	if s.queue == nil || *s.queue == "" {
		return nil
	}
	flag, ok := map[byte]string{'I': "--id=", 'R': "--to=", 'S': "--from="}[(*s.queue)[0]]
	if !ok {
		return nil
	}
	return []string{flag + (*s.queue)[1:]}
}

// runner is the command line that -q stands for; without -q the runner itself.
func (s *sendmail) runner(common []string) ([]string, error) {
	if s.queue == nil {
		return command("qmgr", common), nil
	}
	how := *s.queue
	switch {
	case how == "p":
		return command("qmgr", common), nil
	case how == "" || how == "f":
		return command("qmgr", common, "--once"), nil
	case s.selection() != nil:
		return command("mailq", common, append([]string{"retry"}, s.selection()...)...), nil
	}
	if how[0] == 'p' || how[0] == 'f' { // persistent, in the foreground: as it is anyway
		how = how[1:]
	}
	if strings.Trim(how, "0123456789") == "" {
		how += "m" // as sendmail has it
	}
	if _, err := config.ParseDuration(how); err != nil {
		return nil, fmt.Errorf("-q%s: %w, or IID, RRECIPIENT, SSENDER", *s.queue, err)
	}
	return command("qmgr", common, "--wake="+how), nil
}
