package main

import (
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
)

// secure lets 10 clients at a time begin TLS, and submit with a password under it, at smtpd and at Postfix in turn, with one certificate and without resumption. Dovecot tells
// Postfix whether a password is right. Neither hashes it: how much that costs is for the administrator to choose.
func (b *bench) secure() error {
	if b.postfix.root == "" || b.dovecot == "" {
		say("secure", "left out: Postfix and Dovecot are not both here")
		return nil
	}
	s, err := b.server("connections = 1000\nconnections_per_client = 1000\n", "--submission")
	if err != nil {
		return err
	}
	defer s.end()
	auth, err := b.passwords()
	if err != nil {
		return err
	}
	defer auth.end()
	for _, name := range []string{"cert.pem", "key.pem"} {
		pem, err := os.ReadFile(b.dir + "/exchanger/" + name)
		if err = errors.Join(err, os.WriteFile(b.postfix.root+"/etc/postfix/"+name, pem, 0o600)); err != nil {
			return err
		}
	}
	if err := b.postfix.start(hold + "smtpd_tls_security_level = may\nsmtpd_tls_cert_file = /etc/postfix/cert.pem\nsmtpd_tls_key_file = /etc/postfix/key.pem\n" +
		"smtpd_sasl_auth_enable = yes\nsmtpd_sasl_type = dovecot\nsmtpd_sasl_path = inet:" + authPort + "\nbroken_sasl_auth_clients = no\n"); err != nil {
		return err
	}
	for _, load := range []struct {
		what           string
		sessions, each int // how many clients, one behind the other ten at a time, and how many messages each sends
		unit           string
	}{{"handshakes", 400, 0, "sessions"}, {"sessions kept", 10, 100, "messages"}, {"a session for each", 400, 1, "messages"}} {
		submitters := func(addr string) func() error {
			return func() error {
				if err := rush(addr, load.sessions, load.each); err != nil {
					return fmt.Errorf("%s, %s: %w", addr, load.what, err)
				}
				return nil
			}
		}
		theirs := func() []int { return append(b.postfix.pids(), family(auth.Process.Pid)...) }
		d := duel{what: load.what, unit: load.unit, n: load.sessions * max(load.each, 1), rate: ">= 2", cpu: "less",
			ours:   side{submitters(s.addr), s.pids, func() error { return s.empty(load.sessions * load.each) }},
			theirs: side{submitters("127.0.0.1:25"), theirs, b.postfix.empty}}
		if err := b.fight("secure", d); err != nil {
			return err
		}
	}
	return nil
}

const authPort = "127.0.0.1:12345"

// passwords starts a Dovecot that only says whether a password is right.
func (b *bench) passwords() (*process, error) {
	config := "protocols =\nlog_path = /dev/stderr\nbase_dir = /run/dovecot-bench\nssl = no\nauth_mechanisms = plain\npassdb {\n driver = static\n args = password=secret\n}\n" +
		"userdb {\n driver = static\n args = uid=65534 gid=65534 home=/tmp\n}\nservice auth {\n inet_listener {\n  address = 127.0.0.1\n  port = 12345\n }\n}\n"
	file := "/etc/dovecot/bench.conf"
	if err := os.WriteFile(b.dovecot+file, []byte(config), 0o644); err != nil {
		return nil, err
	}
	p, err := launch(inside(b.dovecot, "/usr/sbin/dovecot", "-F", "-c", file), b.dir+"/dovecot.log")
	if err != nil {
		return nil, err
	}
	if err := p.listens(authPort); err != nil {
		p.end()
		log, _ := os.ReadFile(b.dir + "/dovecot.log")
		return nil, fmt.Errorf("%w: %s", err, log)
	}
	return p, nil
}

// rush has ten clients go through so many sessions, in each of which so many messages are submitted.
func rush(addr string, sessions, each int) error {
	const clients = 10
	var all sync.WaitGroup
	var left atomic.Int64
	left.Store(int64(sessions))
	errs := make([]error, clients)
	for i := range errs {
		all.Go(func() {
			for errs[i] == nil && left.Add(-1) >= 0 {
				errs[i] = submitSecurely(addr, each)
			}
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

// login is that of the one user.
func (t talker) login() error {
	return t.say("AUTH PLAIN "+base64.StdEncoding.EncodeToString([]byte("\x00u\x00secret"))+"\r\n", "235")
}

// submitSecurely is one session: STARTTLS, and where there are messages, AUTH.
func submitSecurely(addr string, messages int) error {
	c, t, err := dial(addr, true)
	if err != nil {
		return err
	}
	defer c.Close()
	if messages > 0 {
		if err := t.login(); err != nil {
			return err
		}
	}
	for range messages {
		if err := t.talk(step{"MAIL FROM:<u@bench.test>\r\n", "250"}, step{"RCPT TO:<x@remote.test>\r\n", "250"}, step{"DATA\r\n", "354"}, step{data, "250"}); err != nil {
			return err
		}
	}
	return t.say("QUIT\r\n", "221")
}
