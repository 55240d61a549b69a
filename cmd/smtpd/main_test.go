package main

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	gosasl "github.com/emersion/go-sasl"
	gosmtp "github.com/emersion/go-smtp"
	"golang.org/x/sys/unix"

	"github.com/postel-mail/postel/internal/queue"
	"github.com/postel-mail/postel/internal/sysexits"
)

// TestMain makes the test's own program the server, when a test starts it so.
func TestMain(m *testing.M) {
	if os.Getenv("SMTPD_TEST") != "" {
		os.Exit(run(os.Args[1:]))
	}
	os.Exit(m.Run())
}

// host is a configured host in a directory of its own.
type host struct {
	t   *testing.T
	dir string
}

func newHost(t *testing.T) *host {
	h := &host{t, t.TempDir()}
	h.write("users", "bob:{PLAIN}secret:::::\n")
	h.write("aliases", "sales: bob\n")
	h.certificate("cert.pem", "key.pem", 1)
	h.configure("")
	return h
}

func (h *host) write(name, text string) {
	h.t.Helper()
	if err := os.WriteFile(filepath.Join(h.dir, name), []byte(text), 0o600); err != nil {
		h.t.Fatal(err)
	}
}

// configure writes postel.toml with more lines at its top.
func (h *host) configure(more string) {
	h.write("postel.toml", more+fmt.Sprintf(`
hostname = "mail.own.example"
domains = ["own.example"]
spool = "%[1]s/spool"
users = "%[1]s/users"
aliases = "%[1]s/aliases"
relay_networks = []
[tls]
certificate = "%[1]s/cert.pem"
key = "%[1]s/key.pem"
`, h.dir))
}

func (h *host) certificate(cert, key string, serial int64) {
	h.t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		h.t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), DNSNames: []string{"mail.own.example"}, NotAfter: time.Unix(1<<33, 0)}
	c, err := x509.CreateCertificate(rand.Reader, template, template, &k.PublicKey, k)
	if err != nil {
		h.t.Fatal(err)
	}
	p, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		h.t.Fatal(err)
	}
	h.write(cert, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c})))
	h.write(key, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: p})))
}

func (h *host) config() string { return filepath.Join(h.dir, "postel.toml") }

func (h *host) command(args ...string) *exec.Cmd {
	c := exec.Command(os.Args[0], append([]string{"-C", h.config()}, args...)...)
	c.Env = append(os.Environ(), "SMTPD_TEST=1")
	return c
}

// queued gives the texts of the queue.
func (h *host) queued() (texts []string) {
	h.t.Helper()
	s, err := queue.Open(filepath.Join(h.dir, "spool"))
	if err != nil {
		h.t.Fatal(err)
	}
	defer s.Close()
	ids, err := s.IDs()
	if err != nil {
		h.t.Fatal(err)
	}
	for _, id := range ids {
		m, err := s.Claim(id)
		if err != nil {
			h.t.Fatal(err)
		}
		b, err := io.ReadAll(m.Body())
		if err != nil {
			h.t.Fatal(err)
		}
		m.Close()
		texts = append(texts, string(b))
	}
	return texts
}

// TestExit: what is wrong with command line or configuration is said in one line and one number.
func TestExit(t *testing.T) {
	h := newHost(t)
	for _, tt := range []struct {
		args   []string
		change func()
		want   int
		say    string
	}{
		{[]string{"--check"}, nil, sysexits.OK, ""},
		{[]string{"--bogus"}, nil, sysexits.Usage, "unknown flag"},
		{[]string{"argument"}, nil, sysexits.Usage, "unexpected argument"},
		{[]string{"--idle-exit", "soon"}, nil, sysexits.Usage, "--idle-exit"},
		{[]string{"--listen", "nonsense"}, nil, sysexits.Usage, `"nonsense" is not of the form`},
		{[]string{"--check"}, func() { h.write("users", ":{PLAIN}x\n") }, sysexits.Config, "users:1"},
		{[]string{"--check"}, func() { h.write("users", "bob:{PLAIN}secret:::::\n"); h.write("aliases", "sales bob\n") }, sysexits.Config, "aliases:1"},
		{[]string{"--check"}, func() { h.write("aliases", ""); h.write("key.pem", "nonsense") }, sysexits.Config, "key.pem"},
		{[]string{"--check"}, func() { os.Remove(filepath.Join(h.dir, "key.pem")) }, sysexits.OK, "STARTTLS is not offered"},
		{[]string{"--tls", "--check"}, nil, sysexits.Config, "key.pem"},
		{[]string{"--check"}, func() { h.configure("nonsense = 1\n") }, sysexits.Config, "postel.toml:1:1: unknown key"},
		{nil, func() { h.configure(""); os.RemoveAll(filepath.Join(h.dir, "spool")); h.write("spool", "a file") }, sysexits.TempFail, "spool"},
	} {
		if tt.change != nil {
			tt.change()
		}
		c := h.command(tt.args...)
		var stderr bytes.Buffer
		c.Stderr = &stderr
		_ = c.Run() // the status says it
		if got := c.ProcessState.ExitCode(); got != tt.want || !strings.Contains(stderr.String(), tt.say) || tt.say == "" && stderr.Len() > 0 {
			t.Errorf("%q: exit status %d, want %d; said %q, want %q", tt.args, got, tt.want, &stderr, tt.say)
		}
	}
}

// TestUnreadablePasswords: where nobody could log in, --check says so.
func TestUnreadablePasswords(t *testing.T) {
	dir, err := os.MkdirTemp("", "smtpd") // not below t.TempDir, which lets no other user through
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	file, aliases := filepath.Join(dir, "postel.toml"), filepath.Join(dir, "aliases")
	if err := errors.Join(os.Chmod(dir, 0o755), os.WriteFile(file, fmt.Appendf(nil, "hostname = \"mail.own.example\"\naliases = %q\n", aliases), 0o644),
		os.WriteFile(aliases, nil, 0o644)); err != nil {
		t.Fatal(err)
	}
	for args, want := range map[string]int{"--submission": sysexits.Config, "": sysexits.OK, "--submission --listen unix:/run/s": sysexits.OK} {
		status := make(chan int)
		go func() {
			runtime.LockOSThread() // which ends with the goroutine
			if os.Geteuid() == 0 {
				_ = unix.Setfsuid(65534) // the status shows whether it did
			}
			status <- run(append([]string{"-C", file, "--check"}, strings.Fields(args)...))
		}()
		if got := <-status; got != want {
			t.Errorf("%q: exit status %d, want %d", args, got, want)
		}
	}
}

// TestPipe is a session on standard input and output.
func TestPipe(t *testing.T) {
	h := newHost(t)
	c := h.command()
	c.Stdin = strings.NewReader("EHLO x\r\nMAIL FROM:<a@far.example>\r\nRCPT TO:<sales+box@own.example>\r\nRCPT TO:<nobody@own.example>\r\nDATA\r\nSubject: x\r\n\r\nhi\r\n.\r\nQUIT\r\n")
	out, err := c.Output()
	if err != nil {
		t.Fatal(err)
	}
	var codes []string
	for line := range strings.Lines(string(out)) {
		if line[3] == ' ' {
			codes = append(codes, line[:3])
		}
	}
	if got := strings.Join(codes, " "); got != "220 250 250 250 550 354 250 221" {
		t.Errorf("replies %s\n%s", got, out)
	}
	if texts := h.queued(); len(texts) != 1 || !strings.Contains(texts[0], "\r\n\tfor <sales+box@own.example>; ") {
		t.Errorf("queue: %q", texts)
	}
}

// process is a running server.
type process struct {
	*exec.Cmd
	t    *testing.T
	log  *bufio.Reader
	addr string
}

func (h *host) start(args ...string) *process {
	h.t.Helper()
	d := &process{Cmd: h.command(append([]string{"--listen", "127.0.0.1:0"}, args...)...), t: h.t}
	stderr, err := d.StderrPipe()
	if err != nil {
		h.t.Fatal(err)
	}
	if err := d.Start(); err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { _ = d.Process.Kill(); _ = d.Wait() })
	d.log = bufio.NewReader(stderr)
	_, d.addr, _ = strings.Cut(strings.TrimSpace(d.event("listening")), "addr=")
	return d
}

// event reads the log up to an event of that name.
func (d *process) event(name string) string {
	d.t.Helper()
	for {
		line, err := d.log.ReadString('\n')
		if err != nil {
			d.t.Fatalf("no event %s: %v", name, err)
		}
		if strings.Contains(line, " event="+name+" ") || strings.HasSuffix(line, " event="+name+"\n") {
			return line
		}
	}
}

func (d *process) dial() *textConn {
	d.t.Helper()
	c, err := net.Dial("tcp", d.addr)
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(time.Minute)) // a hang is a failure
	tc := &textConn{d.t, c, bufio.NewReader(c)}
	tc.expect("220")
	return tc
}

type textConn struct {
	t *testing.T
	net.Conn
	r *bufio.Reader
}

func (c *textConn) expect(want string) {
	c.t.Helper()
	for {
		line, err := c.r.ReadString('\n')
		if err != nil || !strings.HasPrefix(line, want) {
			c.t.Fatalf("got %q, %v, want %q", line, err, want)
		}
		if len(line) < 4 || line[3] != '-' {
			return
		}
	}
}

func (c *textConn) do(command, want string) {
	c.t.Helper()
	if _, err := io.WriteString(c.Conn, command+"\r\n"); err != nil {
		c.t.Fatal(err)
	}
	c.expect(want)
}

// TestSubmission has a stranger's client log in with a user of the table and send.
func TestSubmission(t *testing.T) {
	h := newHost(t)
	d := h.start("--submission")
	c, err := gosmtp.DialStartTLS(d.addr, &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Auth(gosasl.NewPlainClient("", "bob", "wrong")); err == nil {
		t.Error("a wrong password opens the door")
	}
	if err := c.Auth(gosasl.NewPlainClient("", "bob@own.example", "secret")); err != nil {
		t.Fatal(err)
	}
	if err := c.SendMail("bob@own.example", []string{"x@else.example"}, strings.NewReader("Subject: x\r\n\r\nhi\r\n")); err != nil {
		t.Fatal(err)
	}
	if line := d.event("accepted"); !strings.Contains(line, " proto=ESMTPSA auth=bob") {
		t.Errorf("log: %s", line)
	}
	if texts := h.queued(); len(texts) != 1 || !strings.Contains(texts[0], "Message-ID: <") {
		t.Errorf("queue: %q", texts)
	}
}

func (d *process) serial() string {
	d.t.Helper()
	c := d.dial()
	c.do("EHLO x", "250")
	c.do("STARTTLS", "220")
	tc := tls.Client(c.Conn, &tls.Config{InsecureSkipVerify: true})
	if err := tc.Handshake(); err != nil {
		d.t.Fatal(err)
	}
	return tc.ConnectionState().PeerCertificates[0].SerialNumber.String()
}

// TestReload: SIGHUP brings a new certificate and new tables; a mistake in them leaves the old ones in force.
func TestReload(t *testing.T) {
	h := newHost(t)
	d := h.start()
	c := d.dial()
	c.do("EHLO x", "250")
	c.do("MAIL FROM:<>", "250")
	c.do("RCPT TO:<eve@own.example>", "550")
	if got := d.serial(); got != "1" {
		t.Fatalf("certificate %s", got)
	}
	hup := func(event string) {
		t.Helper()
		if err := d.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		d.event(event)
	}
	h.configure("nonsense = 1\n")
	h.certificate("cert.pem", "key.pem", 2)
	hup("reload-failed")
	if got := d.serial(); got != "1" {
		t.Errorf("certificate %s after a failed reload", got)
	}
	h.configure("")
	h.write("users", "eve:{PLAIN}secret:::::\n")
	hup("reload")
	if got := d.serial(); got != "2" {
		t.Errorf("certificate %s after a reload", got)
	}
	c = d.dial()
	c.do("EHLO x", "250")
	c.do("MAIL FROM:<>", "250")
	c.do("RCPT TO:<eve@own.example>", "250")
	text, err := os.ReadFile(h.config())
	if err != nil {
		t.Fatal(err)
	}
	h.write("postel.toml", strings.Replace(string(text), "/spool", "/elsewhere", 1))
	hup("reload-failed")
}

// TestStop: SIGTERM ends a session that waits, lets one in a transaction finish, and the status is 0.
func TestStop(t *testing.T) {
	h := newHost(t)
	d := h.start()
	idle, busy := d.dial(), d.dial()
	idle.do("EHLO x", "250")
	busy.do("EHLO x", "250")
	busy.do("MAIL FROM:<a@far.example>", "250")
	busy.do("RCPT TO:<bob@own.example>", "250")
	busy.do("DATA", "354")
	if err := d.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	idle.expect("421 4.3.2")
	if _, err := net.Dial("tcp", d.addr); err == nil {
		t.Error("new connections are accepted")
	}
	busy.do("Subject: x\r\n\r\nhi\r\n.", "250 2.0.0 Ok: queued as")
	busy.expect("421 4.3.2")
	d.event("stop")
	if err := d.Wait(); err != nil {
		t.Error(err)
	}
	if texts := h.queued(); len(texts) != 1 {
		t.Errorf("queue: %q", texts)
	}
}
