// Package daemon is what the mains of the servers share beyond package program: the flags that say where connections come from, the
// certificate that can be read again while the server runs, and the way from configuration to a running activation.Server with its log.
package daemon

import (
	"crypto/tls"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/postel-mail/postel/internal/activation"
	"github.com/postel-mail/postel/internal/config"
	"github.com/postel-mail/postel/internal/maillog"
	"github.com/postel-mail/postel/internal/program"
	"github.com/postel-mail/postel/internal/sysexits"
)

// Flags are the flags of every server.
type Flags struct {
	Listen   []string // --listen
	IdleExit string   // --idle-exit
}

// Add adds the flags to a program, which takes no arguments besides.
func (f *Flags) Add(p *program.Program) {
	p.Args = cobra.NoArgs
	p.Flags().StringArrayVar(&f.Listen, "listen", nil, "listen on `ADDR`, as 127.0.0.1:25, :25 or unix:/PATH; may be repeated")
	p.Flags().StringVar(&f.IdleExit, "idle-exit", "", "exit after `DURATION` without a connection (default 60s as inetd wait, else never)")
}

// Server is the part of an activation.Server that is the same for all: limits, signals and log lines. reload reads tables and
// certificates again; busy is the line for a connection over a limit. The caller sets Serve.
func (f *Flags) Server(c *config.Config, log *maillog.Log, busy string, reload func() error) (*activation.Server, error) {
	idle := time.Duration(-1)
	if f.IdleExit != "" {
		var err error
		if idle, err = config.ParseDuration(f.IdleExit); err != nil {
			return nil, sysexits.With(sysexits.Usage, fmt.Errorf("--idle-exit: %w", err))
		}
	}
	return &activation.Server{
		Listen: f.Listen, IdleExit: idle, Busy: busy,
		Limit: c.Limits.Connections, PerClient: c.Limits.ConnectionsPerClient,
		Listening: log.Listening,
		Refused:   func(client string) { log.Disconnect(client, "too many connections") },
		Problem:   func(err error) { log.Problem("", err) },
		Panicked:  log.Panic,
		Reload: func() {
			if err := reload(); err != nil {
				log.ReloadFailed(err)
				return
			}
			log.Reload()
		},
	}, nil
}

// Certificate is a server's certificate and key, in files that may change.
type Certificate struct {
	cert, key string
	current   atomic.Pointer[tls.Certificate]
}

// LoadCertificate reads a certificate chain and its key, both PEM.
func LoadCertificate(cert, key string) (*Certificate, error) {
	c := &Certificate{cert: cert, key: key}
	return c, c.Reload()
}

// Reload reads the files again; after an error the old certificate stays.
func (c *Certificate) Reload() error {
	pair, err := tls.LoadX509KeyPair(c.cert, c.key)
	if err != nil {
		return fmt.Errorf("cannot read the certificate %s with key %s: %w", c.cert, c.key, err)
	}
	c.current.Store(&pair)
	return nil
}

// Config is a server's TLS configuration with the certificate as it is at each handshake; TLS 1.2 is the oldest spoken (RFC 8996).
func (c *Certificate) Config() *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.current.Load(), nil },
	}
}
