package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/postel-mail/postel/internal/config"
	"github.com/postel-mail/postel/internal/maillog"
	"github.com/postel-mail/postel/internal/process"
	"github.com/postel-mail/postel/internal/queue"
	"github.com/postel-mail/postel/internal/submission"
	"github.com/postel-mail/postel/internal/sysexits"
)

// submit queues the message on stdin.
func (f *sendmail) submit(rcpts []string) error {
	c, err := f.Config()
	if err != nil {
		return err
	}
	s, err := f.submission(c, rcpts)
	if err != nil {
		return sysexits.With(sysexits.Usage, err)
	}
	in, err := process.Stdin()
	if err != nil {
		return sysexits.With(sysexits.IOErr, err)
	}
	spool, err := queue.Open(c.Spool)
	if err != nil {
		return explain(err, c.Spool)
	}
	defer spool.Close()
	spool.SetMinFree(int64(c.Limits.MinFree))
	receipt, err := s.Submit(spool, in)
	if err != nil {
		return explain(err, c.Spool)
	}
	if f.verbose {
		fmt.Println("queued as", receipt.ID)
	}
	if log, err := f.Log(); err == nil { // a wrong --log does not undo that the message is queued
		log.Accepted(maillog.Accepted{ID: receipt.ID, From: s.Sender, Size: receipt.Size, NRcpt: receipt.NRcpt, Client: "local", Proto: "local", UID: s.UID})
	}
	return nil
}

// explain adds what to do where the spool is closed to this user.
func explain(err error, spool string) error {
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%w (user %d may not write the queue in %s; run as its owner or as root)", err, os.Getuid(), spool)
	}
	return err
}

// submission reads the flags that are about the message.
func (f *sendmail) submission(c *config.Config, rcpts []string) (*submission.Submission, error) {
	s := &submission.Submission{Hostname: c.Hostname, MaxSize: int64(c.Limits.MessageSize), MaxHops: c.Limits.Hops,
		FromHeader: f.readRecipients, EndAtDot: !f.ignoreDots, Relay: f.relay}
	err := s.SetCaller(os.Getuid())
	if err == nil && f.sender != nil {
		err = s.SetSender(*f.sender)
	}
	if f.fullName != "" {
		s.Name = f.fullName
	}
	for _, list := range rcpts {
		if err == nil {
			err = s.AddRecipients(list)
		}
	}
	if err == nil {
		err = s.SetDSN(f.notify, f.ret, f.envid)
	}
	if err == nil {
		err = s.SetBody(f.body)
	}
	return s, err
}
