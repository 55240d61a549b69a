package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/postel-mail/postel/internal/config"
	"github.com/postel-mail/postel/internal/maillog"
	"github.com/postel-mail/postel/internal/process"
	"github.com/postel-mail/postel/internal/queue"
	"github.com/postel-mail/postel/internal/submission"
	"github.com/postel-mail/postel/internal/sysexits"
)

// submit hands the message on stdin over, in the first way that is open to this user.
func (s *sendmail) submit(rcpts []string) error {
	c, err := s.Config()
	if err != nil {
		return err
	}
	sub, err := s.submission(c, rcpts)
	if err != nil {
		return sysexits.With(sysexits.Usage, err)
	}
	patience, err := s.patience()
	if err != nil {
		return sysexits.With(sysexits.Usage, err)
	}
	in, err := process.Stdin()
	if err != nil {
		return sysexits.With(sysexits.IOErr, err)
	}
	spool, closed := queue.Open(c.Spool)
	if closed != nil && !errors.Is(closed, fs.ErrPermission) {
		return closed
	}
	sub.Trace = closed == nil // the others tell themselves who gave it to them
	m, err := sub.Read(in)
	if err != nil {
		return err
	}
	defer m.Close()
	var waiter *queue.Waiter
	if s.wait != nil {
		if waiter, err = queue.NewWaiter(c.Spool); err != nil {
			return sysexits.With(sysexits.CantCreat, fmt.Errorf("cannot wait, so nothing was sent: %w", err))
		}
		defer waiter.Close()
		sub.Wait = waiter.Name()
	}
	var receipt *submission.Receipt
	if closed == nil {
		defer spool.Close()
		receipt, err = s.enqueue(c, spool, m)
	} else {
		receipt, err = handOver(c, m, closed)
	}
	switch {
	case err != nil:
		return err
	case waiter != nil:
		return s.verdict(waiter, receipt.ID, patience)
	}
	s.tell("queued as", receipt.ID)
	return nil
}

// tell says what only -v wants to know.
func (s *sendmail) tell(words ...any) {
	if s.verbose {
		fmt.Println(words...)
	}
}

// patience reads the value of --wait.
func (s *sendmail) patience() (time.Duration, error) {
	if s.wait == nil {
		return 0, nil
	}
	d, err := config.ParseDuration(*s.wait)
	if err == nil && d == 0 {
		err = errors.New("must be more than nothing")
	}
	if err != nil {
		err = fmt.Errorf("--wait=%s: %w", *s.wait, err)
	}
	return d, err
}

// verdict waits for what becomes of the message, and says it. A signal ends the wait.
func (s *sendmail) verdict(waiter *queue.Waiter, id string, patience time.Duration) error {
	ctx, stop := context.WithTimeout(context.Background(), patience)
	defer stop()
	ctx, ignore := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer ignore()
	s.tell("queued as", id)
	until := "within " + *s.wait
	err := waiter.Wait(ctx)
	switch {
	case errors.Is(err, context.Canceled):
		until = "until a signal came"
	case err != nil && !errors.Is(err, context.DeadlineExceeded):
		until = "as it cannot be heard of: " + err.Error()
	}
	for i := range waiter.Rcpts {
		if r := &waiter.Rcpts[i]; r.Got() {
			s.tell(submission.Line(r))
		}
	}
	return submission.Verdict(id, waiter.Rcpts, until)
}

// enqueue writes the queue.
func (s *sendmail) enqueue(c *config.Config, spool *queue.Spool, m *submission.Message) (*submission.Receipt, error) {
	spool.SetMinFree(int64(c.Limits.MinFree))
	receipt, err := submission.Send(m, spool.Create)
	if err != nil {
		return nil, err
	}
	if log, err := s.Log(); err == nil { // a wrong --log does not undo that the message is queued
		log.Accepted(maillog.Accepted{ID: receipt.ID, From: m.Sender, Size: receipt.Size, NRcpt: receipt.NRcpt, Client: "local", Proto: "local", UID: m.UID})
	}
	return receipt, nil
}

// handOver gives the message to who may write the queue: to the submission server at its socket, or where that is not there, or does not take the message
// for now, to the runner in the drop directory. closed says why the queue cannot be written. The second is not tried when the first may have the message.
func handOver(c *config.Config, m *submission.Message, closed error) (*submission.Receipt, error) {
	socket := &submission.Socket{Path: c.Submit, Hostname: c.Hostname}
	receipt, refused := submission.Send(m, socket.Create)
	if !errors.Is(refused, submission.ErrNotTaken) {
		return receipt, refused
	}
	drop, err := queue.OpenDrop(c.Spool, int64(c.Limits.MinFree))
	if err == nil {
		defer drop.Close()
		if receipt, err = submission.Send(m, drop.Create); err == nil {
			return receipt, nil
		}
	}
	return nil, sysexits.With(sysexits.TempFail, fmt.Errorf("no way is open to user %d: %w; %w; %w", os.Getuid(), closed, refused, err))
}

// submission reads the flags that are about the message.
func (s *sendmail) submission(c *config.Config, rcpts []string) (*submission.Submission, error) {
	sub := &submission.Submission{Hostname: c.Hostname, MaxSize: int64(c.Limits.MessageSize), MaxRecipients: c.Limits.Recipients, MaxHops: c.Limits.Hops,
		FromHeader: s.readRecipients, EndAtDot: !s.ignoreDots, Relay: s.relay}
	err := sub.SetCaller(os.Getuid())
	if err == nil && s.sender != nil {
		err = sub.SetSender(*s.sender)
	}
	if s.fullName != "" {
		sub.Name = s.fullName
	}
	for _, list := range rcpts {
		if err == nil {
			err = sub.AddRecipients(list)
		}
	}
	if err == nil {
		err = sub.SetDSN(s.notify, s.orcpt, s.ret, s.envid)
	}
	if err == nil {
		err = sub.SetBody(s.body)
	}
	return sub, err
}
