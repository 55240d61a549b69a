package daemon

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/postel-mail/postel/internal/activation"
	"github.com/postel-mail/postel/internal/config"
	"github.com/postel-mail/postel/internal/maillog"
	"github.com/postel-mail/postel/internal/sysexits"
	"github.com/postel-mail/postel/internal/userdb"
)

// TestMain makes the test's own program a server, when a test starts it so.
func TestMain(m *testing.M) {
	if os.Getenv("DAEMON_TEST") != "" {
		os.Exit(serve(os.Args[1:]))
	}
	os.Exit(m.Run())
}

type engine struct{}

func (engine) ServeConn(c *activation.Conn) { _, _ = c.Write([]byte("hello\n")) }

// serve is a server program. While it loads it gets the signals that DAEMON_SIGNALS names.
func serve(args []string) int {
	d := New("testd [flags]", "be tested", "  testd")
	loads := 0
	d.RunE = func(*cobra.Command, []string) error {
		return d.Run(Service{
			Busy: func(*config.Config) string { return "busy" },
			Load: func(c *config.Config) (Engine, error) {
				if loads++; loads > 1 {
					return engine{}, nil
				}
				for name := range strings.FieldsSeq(os.Getenv("DAEMON_SIGNALS")) {
					if err := unix.Kill(os.Getpid(), unix.SignalNum(name)); err != nil {
						return nil, err
					}
				}
				return engine{}, nil
			},
		})
	}
	return d.Main(args)
}

func run(t *testing.T, env string, args ...string) (status int, out, errout string) {
	t.Helper()
	cmd := exec.Command(os.Args[0], append([]string{"-C", os.DevNull}, args...)...)
	cmd.Env = append(os.Environ(), "DAEMON_TEST=1", env)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	_ = cmd.Run() // the status says it
	return cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()
}

// events are the names in a log, with the reason of a stop.
func events(log string) string {
	var all []string
	for line := range strings.Lines(log) {
		_, event, _ := strings.Cut(line, " event=")
		if strings.HasPrefix(event, "stop") {
			event = strings.ReplaceAll(event, " text=", ":")
		}
		event, _, _ = strings.Cut(strings.TrimSpace(event), " ")
		all = append(all, event)
	}
	return strings.Join(all, " ")
}

// TestLife: the log tells of start and stop of what listens, and why it stopped; a signal while it loads is neither lost nor fatal.
func TestLife(t *testing.T) {
	for _, tt := range []struct {
		signals string
		args    []string
		status  int
		events  string
	}{
		{"", []string{"--idle-exit", "1s", "--listen", "127.0.0.1:0", "--listen", "127.0.0.1:0"}, 0, "start listening listening stop:idle"},
		{"SIGTERM", []string{"--listen", "127.0.0.1:0"}, 0, "start listening stop:SIGTERM"},
		{"SIGINT", []string{"--listen", "127.0.0.1:0"}, 0, "start listening stop:SIGINT"},
		{"SIGHUP", []string{"--idle-exit", "1s", "--listen", "127.0.0.1:0"}, 0, "start listening reload stop:idle"},
		{"", []string{"--listen", "unix:/nonexistent/directory/socket"}, sysexits.TempFail, ""},
		{"SIGTERM", nil, 0, ""}, // one session
		{"", nil, 0, ""},
	} {
		status, _, log := run(t, "DAEMON_SIGNALS="+tt.signals, tt.args...)
		if got := events(log); status != tt.status || got != tt.events {
			t.Errorf("%s %q: status %d, events %q, want %d, %q\n%s", tt.signals, tt.args, status, got, tt.status, tt.events, log)
		}
	}
}

// TestUsage: what is wrong with the command line is 64, and said in one line.
func TestUsage(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		args   []string
		status int
		say    string
	}{
		{[]string{"extra"}, sysexits.Usage, `testd: unexpected argument "extra" (see testd --help)` + "\n"},
		{[]string{"--listen", "foo"}, sysexits.Usage, `testd: --listen: "foo" is not of the form 127.0.0.1:25, [::1]:25, :25 or unix:/PATH` + "\n"},
		{[]string{"--check", "--listen", "127.0.0.1"}, sysexits.Usage, `"127.0.0.1" is not of the form`},
		{[]string{"--listen", "127.0.0.1:99999"}, sysexits.Usage, `"127.0.0.1:99999" is not of the form`},
		{[]string{"--listen", "unix:run/socket"}, sysexits.Usage, `"run/socket" is not an absolute path`},
		{[]string{"--listen", "unix:" + file}, sysexits.TempFail, "cannot listen on unix:" + file + ": it exists and is not a socket\n"},
	} {
		if status, _, said := run(t, "X=", tt.args...); status != tt.status || !strings.Contains(said, tt.say) || strings.Count(said, "\n") != 1 {
			t.Errorf("%q: status %d, said %q, want %d, %q", tt.args, status, said, tt.status, tt.say)
		}
	}
}

// certificate writes a certificate and its key, which nobody but its owner may read.
func certificate(t *testing.T, dir string, names ...string) (cert, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: names, NotAfter: time.Unix(1<<33, 0)}
	c, err := x509.CreateCertificate(rand.Reader, template, template, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	p, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for name, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: c}, key: {Type: "PRIVATE KEY", Bytes: p}} {
		if err := os.WriteFile(name, pem.EncodeToMemory(block), 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(cert, 0o644); err != nil {
		t.Fatal(err)
	}
	return cert, key
}

// asNobody runs f with the rights to files that nobody has.
func asNobody(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // which ends with the goroutine
		if os.Geteuid() == 0 {
			_ = unix.Setfsuid(65534) // the test sees whether it did
		}
		f()
	}()
	<-done
}

// openDir is a directory that everybody may look into.
func openDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "daemon") // not below t.TempDir, which lets no other user through
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestTLS: who has no right to the key has a session without TLS, by hand, and nothing else.
func TestTLS(t *testing.T) {
	c := &config.Config{}
	cert, key := certificate(t, openDir(t))
	c.TLS.Certificate, c.TLS.Key = config.Files{cert}, config.Files{key}
	missing := &config.Config{}
	missing.TLS.Certificate, missing.TLS.Key = config.Files{"/nonexistent/cert"}, config.Files{"/nonexistent/key"}
	broken := &config.Config{}
	broken.TLS.Certificate, broken.TLS.Key = config.Files{"/dev/null"}, config.Files{"/dev/null"}
	for _, tt := range []struct {
		name    string
		config  *config.Config
		change  func(*Daemon)
		fails   bool
		told    int  // lines in the log at the start
		problem bool // at a connection from the network
	}{
		{"by hand", c, func(*Daemon) {}, false, 0, true},
		{"by hand with --tls", c, func(d *Daemon) { d.ImplicitTLS = true }, true, 0, false},
		{"as a server", c, func(d *Daemon) { d.Listen = []string{"127.0.0.1:0"} }, false, 1, false},
		{"as a server with --tls", c, func(d *Daemon) { d.Listen, d.ImplicitTLS = []string{"127.0.0.1:0"}, true }, true, 0, false},
		{"with --check", c, func(d *Daemon) { d.CheckOnly = true }, true, 0, false},
		{"without a certificate", missing, func(*Daemon) {}, false, 0, false},
		{"without a certificate, as a server", missing, func(d *Daemon) { d.Listen = []string{"127.0.0.1:0", "unix:/s"} }, false, 1, false},
		{"without a certificate, for this host", missing, func(d *Daemon) { d.Listen = []string{"unix:/s"} }, false, 0, false},
		{"without a certificate, on a reload", missing, func(d *Daemon) { d.offersTLS.Store(true) }, true, 0, false},
		{"without a certificate, with --tls", missing, func(d *Daemon) { d.ImplicitTLS = true }, true, 0, false},
		{"without a certificate, with --check", missing, func(d *Daemon) { d.CheckOnly = true }, false, 0, false},
		{"without a certificate, with --check --tls", missing, func(d *Daemon) { d.CheckOnly, d.ImplicitTLS = true, true }, true, 0, false},
		{"with a broken one", broken, func(d *Daemon) { d.Listen = []string{"127.0.0.1:0"} }, false, 1, false},
		{"with a broken one, by hand", broken, func(*Daemon) {}, false, 0, true},
		{"with a broken one, with --check", broken, func(d *Daemon) { d.CheckOnly = true }, true, 0, false},
	} {
		var log bytes.Buffer
		d := New("testd", "be tested", "")
		d.Log = maillog.ToWriter(&log, "testd")
		tt.change(d)
		asNobody(func() {
			got, err := d.TLS(tt.config, "STARTTLS")
			if got != nil || (err != nil) != tt.fails {
				t.Errorf("%s: %v, %v", tt.name, got, err)
			}
		})
		if got := strings.Count(log.String(), "event=problem text=\"STARTTLS is not offered"); got != tt.told || strings.Count(log.String(), "\n") != got {
			t.Errorf("%s: log %s", tt.name, &log)
		}
		if tt.fails {
			continue
		}
		var e Engine = engine{}
		d.current.Store(&e)
		for _, network := range []bool{false, true} {
			log.Reset()
			d.serve(activation.NewConn(peer(network)))
			if got := strings.Contains(log.String(), "event=problem text=\"STARTTLS is not offered"); got != (tt.problem && network) {
				t.Errorf("%s: network %v: log %s", tt.name, network, &log)
			}
		}
	}
}

// peer is a connection that says whether it comes from the network.
type peer bool

func (peer) Read([]byte) (int, error)         { return 0, io.EOF }
func (peer) Write(p []byte) (int, error)      { return len(p), nil }
func (peer) Close() error                     { return nil }
func (peer) LocalAddr() net.Addr              { return &net.UnixAddr{} }
func (peer) SetDeadline(time.Time) error      { return nil }
func (peer) SetReadDeadline(time.Time) error  { return nil }
func (peer) SetWriteDeadline(time.Time) error { return nil }
func (p peer) RemoteAddr() net.Addr {
	if p {
		return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1)}
	}
	return &net.UnixAddr{}
}

// TestNeedPasswords: a server that nobody can log in to says so, unless nobody has to.
func TestNeedPasswords(t *testing.T) {
	for _, tt := range []struct {
		listen  string
		check   bool
		trusted bool
		fails   bool
		problem bool
	}{
		{"", true, false, true, false},
		{"", true, true, true, false},
		{"", false, false, false, false},
		{"127.0.0.1:0", false, false, false, true},
		{"127.0.0.1:0 unix:/s", false, true, false, true},
		{"unix:/s", false, false, false, true},
		{"unix:/s", false, true, false, false},
		{"unix:/s", true, true, false, false},
	} {
		var log bytes.Buffer
		d := New("testd", "be tested", "")
		d.Log, d.CheckOnly, d.Listen = maillog.ToWriter(&log, "testd"), tt.check, strings.Fields(tt.listen)
		asNobody(func() {
			users, err := userdb.Open("system", nil)
			if err != nil {
				t.Error(err)
				return
			}
			err = d.NeedPasswords(users, tt.trusted)
			if (err != nil) != tt.fails || strings.Contains(log.String(), "event=problem") != tt.problem {
				t.Errorf("%+v: %v, log %s", tt, err, &log)
			}
			if said := fmt.Sprint(err, log.String()); (tt.fails || tt.problem) && !strings.Contains(said, "run by root, or let users name a file") {
				t.Errorf("%+v: it does not say what to do: %s", tt, said)
			}
		})
	}
}

func TestRefused(t *testing.T) {
	var log bytes.Buffer
	d := &Daemon{Log: maillog.ToWriter(&log, "testd")}
	d.refused("192.0.2.1", 0)
	d.refused("192.0.2.1", 7)
	if got := log.String(); strings.Count(got, `client=192.0.2.1 text="too many connections`) != 2 || !strings.Contains(got, `, like 7 before it"`) {
		t.Errorf("log %s", got)
	}
}
