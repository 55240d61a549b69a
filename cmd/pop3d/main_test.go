package main

import (
	"bufio"
	"bytes"
	"context"
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

	"golang.org/x/sys/unix"

	"github.com/postel-mail/postel/internal/mailbox"
	"github.com/postel-mail/postel/internal/maildir"
	"github.com/postel-mail/postel/internal/mbox"
)

// The test binary is pop3d too, so that processes can be tested.
func TestMain(m *testing.M) {
	if os.Getenv("TEST_POP3D") != "" {
		main()
	}
	os.Exit(m.Run())
}

// site is a directory with a configuration, a certificate and users.
type site struct {
	t   *testing.T
	dir string
}

const otherUID = 12345

func newSite(t *testing.T, mailboxes, extra string) *site {
	t.Helper()
	dir, err := os.MkdirTemp("", "pop3d") // not below t.TempDir, which lets no other user through
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s := &site{t: t, dir: dir}
	if err := os.Chmod(s.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	s.write("postel.toml", fmt.Sprintf("hostname = \"pop.example\"\nusers = %q\nmailbox = %q\n%s\n[tls]\ncertificate = %q\nkey = %q\nplaintext_login = [\"127.0.0.0/8\"]\n",
		s.path("users"), strings.ReplaceAll(mailboxes, "DIR", s.dir), extra, s.path("cert.pem"), s.path("key.pem")))
	var users strings.Builder
	for name, ids := range map[string]string{"own": ":", "root": "0:0", "other": fmt.Sprintf("%d:%d", otherUID, otherUID)} {
		fmt.Fprintf(&users, "%s:{PLAIN}secret:%s::%s:\n", name, ids, s.path(name))
	}
	s.write("users", users.String())
	return s
}

func (s *site) path(name string) string { return filepath.Join(s.dir, name) }

func (s *site) write(name, content string) {
	s.t.Helper()
	if err := os.WriteFile(s.path(name), []byte(content), 0o644); err != nil {
		s.t.Fatal(err)
	}
}

// certificate makes a new one and gives its serial number.
func (s *site) certificate() *big.Int {
	s.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		s.t.Fatal(err)
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<60))
	if err != nil {
		s.t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: serial, DNSNames: []string{"pop.example"}, NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<33, 0)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		s.t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		s.t.Fatal(err)
	}
	s.write("cert.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	s.write("key.pem", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})))
	return serial
}

// pop3d is the program, not yet started.
func (s *site) pop3d(args ...string) *exec.Cmd {
	s.t.Helper()
	self, err := os.Executable()
	if err != nil {
		s.t.Fatal(err)
	}
	cmd := exec.Command(self, append([]string{"--config", s.path("postel.toml")}, args...)...)
	cmd.Env = append(os.Environ(), "TEST_POP3D=1")
	return cmd
}

// start starts a server on a port that it finds, and gives its address and its log behind that.
func (s *site) start(args ...string) (cmd *exec.Cmd, addr string, log *bufio.Reader) {
	s.t.Helper()
	cmd = s.pop3d(append([]string{"--listen", "127.0.0.1:0"}, args...)...)
	r, w, err := os.Pipe()
	if err != nil {
		s.t.Fatal(err)
	}
	cmd.Stderr = w
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	w.Close()
	s.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		r.Close()
	})
	log = bufio.NewReader(r)
	line := await(s.t, log, "event=listening")
	_, addr, _ = strings.Cut(strings.TrimSpace(line), "addr=")
	return cmd, addr, log
}

// await reads the log up to a line.
func await(t *testing.T, log *bufio.Reader, want string) string {
	t.Helper()
	var seen strings.Builder
	for {
		line, err := log.ReadString('\n')
		if strings.Contains(line, want) {
			return line
		}
		if seen.WriteString(line); err != nil {
			t.Fatalf("the log ends without %q:\n%s", want, seen.String())
		}
	}
}

// dialog sends the words and gives everything that comes back.
func dialog(t *testing.T, conn net.Conn, words string) string {
	t.Helper()
	_ = conn.SetDeadline(time.Now().Add(time.Minute)) // a hang is a failure
	if _, err := io.WriteString(conn, words); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(conn)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Fatalf("after %q: %v", got, err)
	}
	conn.Close()
	return string(got)
}

func dial(t *testing.T, addr string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

func deliver(t *testing.T, store mailbox.Store, body string) {
	t.Helper()
	if err := store.Deliver(context.Background(), mailbox.Delivery{Sender: "a@b", Body: strings.NewReader(body)}); err != nil {
		t.Fatal(err)
	}
}

func login(user string) string { return "USER " + user + "\r\nPASS secret\r\n" }

const fetched = "+OK pop.example POP3 ready\r\n+OK send the password\r\n+OK 1 messages (13 octets)\r\n+OK 13 octets\r\nA: b\r\n\r\n..\r\n\r\n.\r\n+OK marked\r\n+OK bye\r\n"

// checkStatus runs cmd and holds its exit status and output against what is wanted.
func checkStatus(t *testing.T, cmd *exec.Cmd, status int, want string) {
	t.Helper()
	out, err := cmd.CombinedOutput()
	if got := cmd.ProcessState.ExitCode(); got != status || !strings.Contains(string(out), want) {
		t.Errorf("%q: status %d, %v, said %q; want %d and %q", cmd.Args[1:], got, err, out, status, want)
	}
}

func TestPipe(t *testing.T) {
	s := newSite(t, "maildir:~/Maildir", "")
	deliver(t, maildir.New(s.path("own/Maildir")), "A: b\n\n.\n\n")
	cmd := s.pop3d()
	cmd.Stdin = strings.NewReader(login("own") + "RETR 1\r\nDELE 1\r\nQUIT\r\n")
	var log bytes.Buffer
	cmd.Stderr = &log
	out, err := cmd.Output()
	if string(out) != fetched || err != nil {
		t.Errorf("got %q, %v\n%s", out, err, log.String())
	}
	if !strings.Contains(log.String(), "event=fetched user=own client=pipe n=1 octets=13 removed=1") {
		t.Errorf("log:\n%s", log.String())
	}
	if left, _ := filepath.Glob(s.path("own/Maildir/new/*")); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}

func TestCheck(t *testing.T) {
	s := newSite(t, "maildir:~/Maildir", "")
	checkStatus(t, s.pop3d("--check"), 0, "STLS is not offered")
	checkStatus(t, s.pop3d("--check", "--tls"), 78, "cannot read the certificate")
	s.certificate()
	checkStatus(t, s.pop3d("--check", "--tls"), 0, "")
	s.write("key.pem", "broken")
	checkStatus(t, s.pop3d("--check"), 78, "cannot read the certificate")
	checkStatus(t, s.pop3d("--listne"), 64, "pop3d --help")
	checkStatus(t, s.pop3d("word"), 64, "word")
	checkStatus(t, s.pop3d("--check", "--idle-exit", "x"), 78, "cannot read the certificate")
	s.certificate()
	s.write("users", "own:{PLAIN}secret\nown:{NOSUCH}x\n")
	checkStatus(t, s.pop3d("--check"), 78, "users:2:")
	checkStatus(t, s.pop3d("--listen", "127.0.0.1:0"), 78, "users:2:")
	s.write("postel.toml", "nosuch = 1\n")
	checkStatus(t, s.pop3d("--check"), 78, "postel.toml:1:1")
}

// Where nobody could log in, --check says so.
func TestUnreadablePasswords(t *testing.T) {
	s := newSite(t, "maildir:~/Maildir", "")
	s.write("postel.toml", "hostname = \"pop.example\"\n")
	umask := syscall.Umask(0)
	defer syscall.Umask(umask)
	status := make(chan int)
	go func() {
		runtime.LockOSThread() // which ends with the goroutine
		if os.Geteuid() == 0 {
			_ = unix.Setfsuid(65534) // the status shows whether it did
		}
		status <- run([]string{"--config", s.path("postel.toml"), "--check"})
	}()
	if got := <-status; got != 78 {
		t.Errorf("exit status %d", got)
	}
}

// inetd gives the connection as descriptors 0, 1 and 2: nothing but replies may come out of it.
func TestInetd(t *testing.T) {
	s := newSite(t, "mbox:~/mbox", "")
	deliver(t, mbox.New(s.path("own/mbox")), "A: b\n\n.\n\n")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client := dial(t, l.Addr().String())
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	socket, err := conn.(*net.TCPConn).File()
	if err != nil {
		t.Fatal(err)
	}
	cmd := s.pop3d()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = socket, socket, socket
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	conn.Close()
	socket.Close()
	if got := dialog(t, client, login("own")+"RETR 1\r\nDELE 1\r\nQUIT\r\n"); got != fetched {
		t.Errorf("got %q", got)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	if st, err := os.Stat(s.path("own/mbox")); err != nil || st.Size() != 0 {
		t.Errorf("the mbox: %v, %v", st, err)
	}
}

func TestTLSAndSignals(t *testing.T) {
	s := newSite(t, "maildir:~/Maildir", "")
	first := s.certificate()
	cmd, addr, log := s.start("--tls")
	serial := func() *big.Int {
		t.Helper()
		conn, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		if got := dialog(t, conn, login("own")+"STAT\r\nQUIT\r\n"); !strings.HasSuffix(got, "+OK 0 0\r\n+OK bye\r\n") {
			t.Errorf("got %q", got)
		}
		return conn.ConnectionState().PeerCertificates[0].SerialNumber
	}
	if got := serial(); got.Cmp(first) != 0 {
		t.Errorf("serial number %v, want %v", got, first)
	}
	signal := func(sig os.Signal, want string) {
		t.Helper()
		if err := cmd.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
		await(t, log, want)
	}
	second := s.certificate()
	signal(syscall.SIGHUP, "event=reload")
	if got := serial(); got.Cmp(second) != 0 {
		t.Errorf("after SIGHUP: serial number %v, want %v", got, second)
	}
	waiting, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(waiting)
	if line, err := r.ReadString('\n'); err != nil || !strings.HasPrefix(line, "+OK") {
		t.Fatalf("%q, %v", line, err)
	}
	s.write("postel.toml", "broken")
	signal(syscall.SIGHUP, "event=reload-failed")
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if line, err := r.ReadString('\n'); err != nil || line != "-ERR [SYS/TEMP] server is stopping, try again\r\n" {
		t.Errorf("the session that waits hears %q, %v", line, err)
	}
	waiting.Close()
	await(t, log, "event=stop")
	if err := cmd.Wait(); err != nil {
		t.Errorf("after SIGTERM: %v", err)
	}
}

// Whose mailbox it is decides as whom it is touched.
func TestUsers(t *testing.T) {
	s := newSite(t, "maildir:~/Maildir", "")
	_, addr, log := s.start()
	if os.Geteuid() == 0 {
		s.asOther(addr, "maildir")
	} else {
		if got := dialog(t, dial(t, addr), login("other")+"QUIT\r\n"); !strings.Contains(got, "-ERR [SYS/PERM] this server has no right to your mailbox\r\n") {
			t.Errorf("other: got %q", got)
		}
		await(t, log, "event=login-failed user=other")
	}
	if got := dialog(t, dial(t, addr), login("root")+"QUIT\r\n"); !strings.Contains(got, "-ERR [AUTH] wrong name or password\r\n") {
		t.Errorf("root: got %q", got)
	}
	if got := dialog(t, dial(t, addr), login("own")+"STAT\r\nQUIT\r\n"); !strings.HasSuffix(got, "+OK 0 0\r\n+OK bye\r\n") {
		t.Errorf("own: got %q", got)
	}
}

// asOther fetches other's mail, as the server's first session, and looks at the process that serves it.
func (s *site) asOther(addr, kind string) {
	t := s.t
	t.Helper()
	conn := dial(t, addr)
	r := bufio.NewReader(conn)
	if _, err := io.WriteString(conn, login("other")); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		line, err := r.ReadString('\n')
		if err != nil || !strings.HasPrefix(line, "+OK") {
			t.Fatalf("%s: %q, %v", kind, line, err)
		}
	}
	found := false
	all, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range all {
		line, _ := os.ReadFile(file)
		if !bytes.Contains(line, []byte(s.dir)) || bytes.Contains(line, []byte("--listen")) {
			continue
		}
		st, err := os.ReadFile(filepath.Dir(file) + "/status")
		if err != nil {
			continue
		}
		found = true
		for _, want := range []string{fmt.Sprintf("Uid:\t%[1]d\t%[1]d\t%[1]d\t%[1]d\n", otherUID), fmt.Sprintf("Gid:\t%[1]d\t%[1]d\t%[1]d\t%[1]d\n", otherUID), "CapEff:\t0000000000000000\n", "CapPrm:\t0000000000000000\n"} {
			if !strings.Contains(string(st), want) {
				t.Errorf("%s: the session's process lacks %q", kind, want)
			}
		}
	}
	if !found {
		t.Errorf("%s: no process of the session is found", kind)
	}
	if _, err := io.WriteString(conn, "QUIT\r\n"); err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, conn)
}

// A mailbox as /var/mail/other, in a directory of root and a group: its user can remove messages.
func TestMailSpool(t *testing.T) {
	if os.Geteuid() != 0 {
		return // only root can serve another user
	}
	s := newSite(t, "mbox:DIR/spool/%n", "")
	if err := errors.Join(os.Mkdir(s.path("spool"), 0o755), os.Chown(s.path("spool"), 0, 8), os.Chmod(s.path("spool"), 0o2775|os.ModeSetgid)); err != nil {
		t.Fatal(err)
	}
	deliver(t, mbox.New(s.path("spool/other")), "A: b\n\n.\n\n")
	deliver(t, mbox.New(s.path("spool/other")), "second\n")
	if err := errors.Join(os.Chown(s.path("spool/other"), otherUID, 8), os.Chmod(s.path("spool/other"), 0o660)); err != nil {
		t.Fatal(err)
	}
	_, addr, _ := s.start()
	s.asOther(addr, "mbox")
	if got := dialog(t, dial(t, addr), login("other")+"DELE 1\r\nQUIT\r\n"); !strings.HasSuffix(got, "+OK marked\r\n+OK bye\r\n") {
		t.Errorf("got %q", got)
	}
	var st syscall.Stat_t
	if err := syscall.Stat(s.path("spool/other"), &st); err != nil || st.Uid != otherUID || st.Gid != 8 || st.Mode&0o777 != 0o660 {
		t.Errorf("the mbox: %+v, %v", st, err)
	}
	content, err := os.ReadFile(s.path("spool/other"))
	if err != nil || strings.Contains(string(content), "A: b") || !strings.Contains(string(content), "second") {
		t.Errorf("the mbox has %q, %v", content, err)
	}
}
