// Package daemon is what the mains of the servers share beyond package program: the flags that say where connections come from and whether
// they begin with TLS, the certificate, and the life of a server: load what the configuration describes, serve, load again on SIGHUP, stop.
package daemon

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/postel-mail/postel/internal/activation"
	"github.com/postel-mail/postel/internal/config"
	"github.com/postel-mail/postel/internal/confine"
	"github.com/postel-mail/postel/internal/maillog"
	"github.com/postel-mail/postel/internal/process"
	"github.com/postel-mail/postel/internal/program"
	"github.com/postel-mail/postel/internal/sysexits"
	"github.com/postel-mail/postel/internal/userdb"
)

// Engine speaks a protocol on one connection.
type Engine interface{ ServeConn(*activation.Conn) }

// Daemon is a server program.
type Daemon struct {
	*program.Program
	Listen      []string // --listen
	ImplicitTLS bool     // --tls
	Log         *maillog.Log

	idleExit  string
	current   atomic.Pointer[Engine] // what new sessions get; replaced by SIGHUP
	unreadKey atomic.Pointer[error]  // why the single session of a user goes without TLS
	offersTLS atomic.Bool            // there was a certificate
	started   sync.Once              // single is known
	single    bool
}

// New makes a server program; it takes no arguments besides flags.
func New(usage, short, example string) *Daemon {
	d := &Daemon{Program: program.New(usage, short, example)}
	d.Args = program.NoArgs
	d.Flags().StringArrayVar(&d.Listen, "listen", nil, "listen on `ADDR`, as 127.0.0.1:25, :25 or unix:/PATH; may be repeated")
	d.Flags().StringVar(&d.idleExit, "idle-exit", "", "exit after `DURATION` without a connection (default 60s as inetd wait, else never)")
	return d
}

// AddTLS adds --tls, for a protocol that has a port of its own for it.
func (d *Daemon) AddTLS(port int) {
	d.Flags().BoolVar(&d.ImplicitTLS, "tls", false, fmt.Sprintf("speak TLS from the first octet (port %d)", port))
}

// Single reports whether this process serves one session and ends with it.
// It holds what it was at first: when the server takes its sockets over, it takes LISTEN_FDS away.
func (d *Daemon) Single() bool {
	d.started.Do(func() { d.single = activation.SingleSession(d.Listen) })
	return d.single
}

// Service is what makes a daemon this server and no other.
type Service struct {
	// Load makes the engine that the configuration describes; its errors exit 78, or leave the engine in force on SIGHUP.
	Load func(c *config.Config) (Engine, error)
	// Order is said in the start event: how the queue makes files durable. nil: there is no queue.
	Order func() string
	// Busy is the line for a connection over a limit; with --tls none is said, since the client expects a handshake.
	Busy func(c *config.Config) string
	// Serve is used for a connection in the place of the engine; nil: the engine's.
	Serve func(conn *activation.Conn)
	// Started is called when the server listens, and not for a single session; may be nil.
	Started func()
	// Stopping is called when the server begins to stop; may be nil.
	Stopping func()
	// Tune sets what this server alone asks of its connections; may be nil.
	Tune func(c *config.Config, a *activation.Server)
	// Bounds is what the server is confined to once its sockets are open; nil: it stays as it was started.
	Bounds func(c *config.Config) confine.Bounds
}

// Run serves until a signal, the idle time, or the end of the single session. With --check it only loads. It is the RunE of a server.
func (d *Daemon) Run(s Service) error {
	_ = d.Single()
	var signals chan os.Signal
	if !d.CheckOnly {
		signals = activation.Signals() // they may come while tables are loaded
	}
	for _, addr := range d.Listen {
		if err := activation.CheckAddress(addr); err != nil {
			return sysexits.With(sysexits.Usage, fmt.Errorf("--listen: %w", err))
		}
	}
	c, err := d.Config()
	if err != nil {
		return err
	}
	if d.Log, err = d.Program.Log(); err != nil {
		return err
	}
	engine, err := s.Load(c)
	if err != nil || d.CheckOnly {
		var known *sysexits.Error
		if errors.As(err, &known) {
			return err
		}
		return sysexits.With(sysexits.Config, err)
	}
	d.current.Store(&engine)
	a, err := d.server(c, s)
	if err != nil {
		return err
	}
	a.Signals = signals
	if s.Bounds != nil {
		a.Bound = func() error { return d.confine(s.Bounds(c)) }
	}
	stop := d.announce(a, s)
	if err := a.Run(); err != nil {
		return err
	}
	stop()
	return nil
}

// announce makes a tell the log of the program's start, when it listens, and gives what tells of the end. A process that serves what it was
// given, and no more, neither starts nor stops.
func (d *Daemon) announce(a *activation.Server, s Service) (stop func()) {
	started, reason := false, ""
	a.Listening = func(addr string) {
		if !started {
			started = true
			order := ""
			if s.Order != nil {
				order = s.Order()
			}
			d.Log.Start(process.Version, order)
			if s.Started != nil {
				s.Started()
			}
		}
		d.Log.Listening(addr)
	}
	a.Stopping = func(why string) {
		reason = why
		if s.Stopping != nil {
			s.Stopping()
		}
	}
	return func() {
		if started {
			d.Log.Stop(reason)
		}
	}
}

// confine gives up what the server does not need. What it writes besides is the folders of its UNIX sockets, which it removes at the end.
func (d *Daemon) confine(b confine.Bounds) error {
	for _, addr := range d.Listen {
		if path, ok := strings.CutPrefix(addr, "unix:"); ok {
			b.Write = append(b.Write, filepath.Dir(path))
		}
	}
	file, err := d.ConfigPath()
	if err != nil {
		return sysexits.With(sysexits.OSErr, err)
	}
	b.Read = append(b.Read, file)
	text, err := confine.Enter(b)
	if err != nil {
		return sysexits.With(sysexits.TempFail, err)
	}
	if !d.Single() { // not for each connection
		d.Log.Confined(text)
	}
	return nil
}

func (d *Daemon) server(c *config.Config, s Service) (*activation.Server, error) {
	idle := time.Duration(-1)
	if d.idleExit != "" {
		var err error
		if idle, err = config.ParseDuration(d.idleExit); err != nil {
			return nil, sysexits.With(sysexits.Usage, fmt.Errorf("--idle-exit: %w", err))
		}
	}
	a := &activation.Server{
		Listen: d.Listen, IdleExit: idle,
		Limit: c.Limits.Connections, PerClient: c.Limits.ConnectionsPerClient,
		Serve:     s.Serve,
		Refused:   d.refused,
		Problem:   func(err error) { d.Log.Problem("", err) },
		Unproxied: func(proxy string, err error) { d.Log.Disconnect(proxy, "PROXY header: "+err.Error()) },
		Crowding:  d.crowding,
		Panicked:  d.Log.Panic,
		Reload:    func() { d.reload(s) },
	}
	if a.Serve == nil {
		a.Serve = d.serve
	}
	if !d.ImplicitTLS {
		a.Busy = s.Busy(c)
	}
	if s.Tune != nil {
		s.Tune(c, a)
	}
	return a, nil
}

func (d *Daemon) serve(conn *activation.Conn) {
	if err := d.unreadKey.Load(); err != nil && !conn.Private() {
		d.Log.Problem("", *err)
	}
	(*d.current.Load()).ServeConn(conn)
}

func (d *Daemon) crowding(crowded bool, n int) {
	if crowded {
		d.Log.Stress(n)
	} else {
		d.Log.StressOver(n)
	}
}

func (d *Daemon) refused(client string, more int) {
	text := "too many connections"
	if more > 0 {
		text += fmt.Sprintf(", like %d before it", more)
	}
	d.Log.Disconnect(client, text)
}

// reload reads configuration, tables and certificate again. Sessions that go on keep what they began with.
func (d *Daemon) reload(s Service) {
	c, err := d.Config()
	if err == nil {
		var engine Engine
		if engine, err = s.Load(c); err == nil {
			d.current.Store(&engine)
			d.Log.Reload()
			return
		}
	}
	d.Log.ReloadFailed(err)
}

// NeedPasswords says what stands in the way of logging in. With --check that is an error; a server that stays tells it and goes on; for a single
// session it is told when somebody tries. A server that only listens on UNIX sockets and trusts their clients (trusted) needs none.
func (d *Daemon) NeedPasswords(users *userdb.DB, trusted bool) error {
	if trusted && d.onlyUnix() || d.Single() && !d.CheckOnly {
		return nil
	}
	err := users.CheckPasswords()
	if err == nil || d.CheckOnly {
		return err
	}
	d.Log.Problem("", err)
	return nil
}
