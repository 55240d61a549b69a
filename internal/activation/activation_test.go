package activation

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postel-mail/postel/internal/clock"
)

func TestMain(m *testing.M) {
	if os.Getenv("ECHO_SERVER") == "" {
		os.Exit(m.Run())
	}
	os.Exit(echoServer())
}

// echoServer is what the tests start in the five ways. Its settings come by the environment, its events go to stderr.
func echoServer() int {
	number := func(name string, otherwise int) int {
		if n, err := strconv.Atoi(os.Getenv(name)); err == nil {
			return n
		}
		return otherwise
	}
	s := &Server{
		Signals:  Signals(),
		IdleExit: time.Duration(number("ECHO_IDLE_MS", -1)) * time.Millisecond,
		Limit:    number("ECHO_LIMIT", 0), PerClient: number("ECHO_PER_CLIENT", 0), Busy: "421 busy",
		Serve:     echo,
		Listening: func(addr string) { fmt.Fprintln(os.Stderr, "listening", addr) },
		Reload:    func() { fmt.Fprintln(os.Stderr, "reload") },
		Refused:   func(client string, more int) { fmt.Fprintln(os.Stderr, "refused", client, more) },
		Stopping:  func(why string) { fmt.Fprintln(os.Stderr, "stopping", why) },
		Panicked:  func(client string, v any, _ []byte) { fmt.Fprintln(os.Stderr, "panicked", client, v) },
	}
	if v := os.Getenv("ECHO_LISTEN"); v != "" {
		s.Listen = strings.Split(v, " ")
	}
	if err := s.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "error", err)
		return 75
	}
	fmt.Fprintln(os.Stderr, "end")
	return 0
}

// echo is a protocol with transactions: "begin" to "end".
func echo(c *Conn) {
	c.Wait(true)
	r := bufio.NewReader(c)
	for {
		line, err := r.ReadSlice('\n')
		if errors.Is(err, ErrDraining) {
			fmt.Fprintf(c, "421 stopping\n")
			return
		}
		if err != nil {
			return
		}
		switch word := string(bytes.TrimRight(line, "\r\n")); word {
		case "who":
			fmt.Fprintf(c, "%s ip=%v private=%v uid=%d\n", c.Client(), c.IP(), c.Private(), c.UID())
		case "environment":
			fmt.Fprintf(c, "%q %q\n", os.Getenv("LISTEN_FDS"), os.Getenv("LISTEN_PID"))
		case "child":
			out, err := exec.Command("/bin/cat", "/proc/self/status").Output()
			_, text, _ := strings.Cut(string(out), "SigIgn:\t")
			text, _, _ = strings.Cut(text, "\n")
			ignored, parsed := strconv.ParseUint(text, 16, 64)
			// The server's own are these; what else is ignored comes from whoever started the test.
			ours := uint64(1)<<(unix.SIGPIPE-1) | 1<<(unix.SIGTERM-1) | 1<<(unix.SIGHUP-1)
			fmt.Fprintf(c, "%x %v %v\n", ignored&ours, err, parsed)
		case "begin", "end":
			c.Wait(word == "end")
			fmt.Fprintf(c, "ok\n")
		case "panic":
			panic("on purpose")
		case "quit":
			fmt.Fprintf(c, "bye\n")
			return
		default:
			fmt.Fprintf(c, "%s\n", word)
		}
	}
}

// server is an echo server that runs.
type server struct {
	t      *testing.T
	cmd    *exec.Cmd
	events chan string
	exit   chan int
}

// start runs an echo server with that environment; prepare may give it descriptors.
func start(t *testing.T, prepare func(c *exec.Cmd), env ...string) *server {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command(self)
	c.Env = append([]string{"ECHO_SERVER=1", "GORACE=atexit_sleep_ms=0"}, env...)
	if prepare != nil {
		prepare(c)
	}
	stderr, err := c.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	s := &server{t: t, cmd: c, events: make(chan string, 1000), exit: make(chan int, 1)}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			s.events <- lines.Text()
		}
		close(s.events)
		_ = c.Wait() // the status is looked at below
		s.exit <- c.ProcessState.ExitCode()
	}()
	t.Cleanup(func() { _ = c.Process.Kill() })
	return s
}

// event waits for an event and gives what follows the word.
func (s *server) event(word string) string {
	s.t.Helper()
	for {
		line := within(s.t, "event "+word, s.events)
		if line == "" {
			s.t.Fatalf("the server ended without event %q", word)
		}
		if first, rest, _ := strings.Cut(line, " "); first == word {
			return rest
		} else if first == "error" {
			s.t.Fatalf("server: %s", line)
		}
	}
}

func (s *server) signal(sig os.Signal) {
	s.t.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil {
		s.t.Fatal(err)
	}
}

func (s *server) ends(want int) {
	s.t.Helper()
	if got := within(s.t, "exit", s.exit); got != want {
		s.t.Errorf("exit status %d, want %d", got, want)
	}
}

// client is a connection to an echo server.
type client struct {
	t *testing.T
	io.ReadWriteCloser
	r *bufio.Reader
}

func dial(t *testing.T, addr string) *client {
	t.Helper()
	network := "tcp"
	if path, ok := strings.CutPrefix(addr, "unix:"); ok {
		network, addr = "unix", path
	}
	c, err := net.Dial(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	return talk(t, c)
}

func talk(t *testing.T, c net.Conn) *client {
	t.Helper()
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return &client{t, c, bufio.NewReader(c)}
}

func (c *client) say(line, want string) {
	c.t.Helper()
	if _, err := io.WriteString(c, line+"\n"); err != nil {
		c.t.Fatalf("%s: %v", line, err)
	}
	c.hear(want)
}

func (c *client) hear(want string) {
	c.t.Helper()
	got, err := c.r.ReadString('\n')
	if strings.TrimRight(got, "\r\n") != want {
		c.t.Fatalf("heard %q (%v), want %q", got, err, want)
	}
}

// ended asks that the server has closed the connection, in order.
func (c *client) ended() {
	c.t.Helper()
	if b, err := c.r.ReadByte(); err != io.EOF {
		c.t.Errorf("the connection goes on: %q, %v", b, err)
	}
}

// admitted dials until the server has noticed that a session before it has ended.
func admitted(t *testing.T, addr string) *client {
	t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); {
		c := dial(t, addr)
		if _, err := io.WriteString(c, "here\n"); err != nil {
			t.Fatal(err)
		}
		if line, err := c.r.ReadString('\n'); err == nil && line == "here\n" {
			return c
		}
		c.Close()
	}
	t.Fatal("never admitted")
	return nil
}

func TestListenTCP(t *testing.T) {
	t.Parallel()
	s := start(t, nil, "ECHO_LISTEN=127.0.0.1:0 [::1]:0")
	v4, v6 := s.event("listening"), s.event("listening")
	if strings.HasSuffix(v4, ":0") {
		t.Fatalf("listening on %s", v4)
	}
	one, two := dial(t, v4), dial(t, v6)
	one.say("who", "127.0.0.1 ip=127.0.0.1 private=false uid=-1")
	two.say("who", "::1 ip=::1 private=false uid=-1")
	one.say("quit", "bye")
	one.ended()
	s.signal(unix.SIGTERM)
	two.hear("421 stopping")
	two.ended()
	s.ends(0)
}

func TestListenUnix(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := dir + "/s"
	addr := "unix:" + path
	who := fmt.Sprintf("unix ip=invalid IP private=true uid=%d", os.Getuid())

	s := start(t, nil, "ECHO_LISTEN="+addr)
	if got := s.event("listening"); got != addr {
		t.Errorf("listening on %q, want %q", got, addr)
	}
	dial(t, addr).say("who", who)

	// A second server must not take the socket from the first.
	second := start(t, nil, "ECHO_LISTEN="+addr)
	second.ends(75)
	dial(t, addr).say("who", who)

	// A crash leaves the socket file behind; the next server takes it over.
	if err := s.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	s.ends(-1)
	if _, err := os.Lstat(path); err != nil {
		t.Fatal(err)
	}
	s = start(t, nil, "ECHO_LISTEN="+addr)
	s.event("listening")
	dial(t, addr).say("who", who)
	s.signal(unix.SIGINT)
	s.ends(0)
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket file is still there: %v", err)
	}
}

// TestListenLeavesFiles: a name that is no socket, or whose server is only too busy to answer, is not taken.
func TestListenLeavesFiles(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "letter")
	if err := os.WriteFile(path, []byte("dear"), 0o600); err != nil {
		t.Fatal(err)
	}
	if l, err := listen("unix:" + path); err == nil {
		l.Close()
		t.Error("listening in place of a file")
	} else if !strings.Contains(err.Error(), "not a socket") {
		t.Errorf("the error does not tell: %v", err)
	}
	if text, err := os.ReadFile(path); string(text) != "dear" {
		t.Errorf("the file is %q, %v", text, err)
	}

	path = filepath.Join(t.TempDir(), "busy")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrUnix{Name: path}), unix.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	for range 100 { // until nothing more is queued
		c, err := net.Dial("unix", path)
		if err != nil {
			break
		}
		defer c.Close()
	}
	if l, err := listen("unix:" + path); err == nil {
		l.Close()
		t.Error("listening in place of a busy server")
	}
}

// socketFile gives the descriptor of a listener or a connection to a child.
func socketFile(t *testing.T, s interface{ File() (*os.File, error) }) *os.File {
	t.Helper()
	f, err := s.File()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func tcpListener(t *testing.T) *net.TCPListener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l.(*net.TCPListener)
}

// accepted is a connection as a super-server has it, and its client.
func accepted(t *testing.T) (*net.TCPConn, *client) {
	t.Helper()
	l := tcpListener(t)
	c := dial(t, l.Addr().String())
	raw, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { raw.Close() })
	return raw.(*net.TCPConn), c
}

func TestSystemdListener(t *testing.T) {
	t.Parallel()
	l1, l2 := tcpListener(t), tcpListener(t)
	s := start(t, func(c *exec.Cmd) {
		c.ExtraFiles = []*os.File{socketFile(t, l1), socketFile(t, l2)}
	}, "LISTEN_FDS=2", "LISTEN_FDNAMES=a:b")
	for _, l := range []net.Listener{l1, l2} {
		if got := s.event("listening"); got != l.Addr().String() {
			t.Errorf("listening on %q, want %q", got, l.Addr())
		}
		c := dial(t, l.Addr().String())
		c.say("who", "127.0.0.1 ip=127.0.0.1 private=false uid=-1")
		c.say("environment", `"" ""`)
	}
	s.signal(unix.SIGTERM)
	s.ends(0)
}

func TestSystemdConnection(t *testing.T) {
	t.Parallel()
	raw, c := accepted(t)
	s := start(t, func(cmd *exec.Cmd) { cmd.ExtraFiles = []*os.File{socketFile(t, raw)} }, "LISTEN_FDS=1")
	raw.Close()
	c.say("who", "127.0.0.1 ip=127.0.0.1 private=false uid=-1")
	c.say("quit", "bye")
	c.Close()
	s.ends(0)
}

func TestSystemdMistakes(t *testing.T) {
	t.Parallel()
	for _, env := range []string{"LISTEN_FDS=x", "LISTEN_FDS=-1", "LISTEN_FDS=1001"} {
		start(t, nil, env).ends(75)
	}
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	start(t, func(c *exec.Cmd) { c.ExtraFiles = []*os.File{f} }, "LISTEN_FDS=1").ends(75)

	// Descriptors that are meant for another process: the session is on standard input.
	var out bytes.Buffer
	s := start(t, func(c *exec.Cmd) { c.Stdin, c.Stdout = strings.NewReader("who\nquit\n"), &out }, "LISTEN_FDS=1", "LISTEN_PID=1")
	s.ends(0)
	if out.String() != "pipe ip=invalid IP private=true uid=-1\nbye\n" {
		t.Errorf("got %q", out.String())
	}
}

func TestInetdWait(t *testing.T) {
	t.Parallel()
	l := tcpListener(t)
	c := dial(t, l.Addr().String()) // before the server starts: it waits in the backlog
	s := start(t, func(c *exec.Cmd) { c.Stdin = socketFile(t, l) }, "ECHO_IDLE_MS=500")
	if got := s.event("listening"); got != l.Addr().String() {
		t.Errorf("listening on %q, want %q", got, l.Addr())
	}
	c.say("begin", "ok")
	c.say("quit", "bye")
	c.ended()
	s.ends(0)
	// The socket is inetd's, and still listens.
	c = dial(t, l.Addr().String())
	next := start(t, func(c *exec.Cmd) { c.Stdin = socketFile(t, l) }, "ECHO_IDLE_MS=500")
	c.say("quit", "bye")
	next.ends(0)
}

// TestIdleTimeCountsSessions: a session that goes on keeps the server, however short the idle time.
func TestIdleTimeCountsSessions(t *testing.T) {
	t.Parallel()
	s := start(t, nil, "ECHO_LISTEN=127.0.0.1:0", "ECHO_IDLE_MS=1000")
	addr := s.event("listening")
	c := dial(t, addr)
	for i := range 15 { // 1.5 s in all: longer than the idle time
		time.Sleep(100 * time.Millisecond)
		c.say(strconv.Itoa(i), strconv.Itoa(i))
	}
	c.say("quit", "bye")
	s.ends(0)
}

func TestInetdNowait(t *testing.T) {
	t.Parallel()
	raw, c := accepted(t)
	s := start(t, func(cmd *exec.Cmd) {
		f := socketFile(t, raw)
		cmd.Stdin, cmd.Stdout = f, f
	})
	c.say("who", "127.0.0.1 ip=127.0.0.1 private=false uid=-1")
	c.say("quit", "bye")
	c.Close()
	s.ends(0)
}

func TestNowaitDrains(t *testing.T) {
	t.Parallel()
	raw, c := accepted(t)
	s := start(t, func(cmd *exec.Cmd) { cmd.Stdin = socketFile(t, raw) })
	c.say("begin", "ok")
	s.signal(unix.SIGTERM)
	c.say("still here", "still here")
	c.say("end", "ok")
	c.hear("421 stopping")
	c.Close()
	s.ends(0)
}

func TestPipes(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ env, want string }{
		{"X=", "pipe ip=invalid IP private=true uid=-1\nbye\n"},
		{"TCPREMOTEIP=::ffff:192.0.2.7", "192.0.2.7 ip=192.0.2.7 private=false uid=-1\nbye\n"},
		{"TCPREMOTEIP=192.0.2.7", "192.0.2.7 ip=192.0.2.7 private=false uid=-1\nbye\n"},
		{"TCPREMOTEIP=2001:db8::7", "2001:db8::7 ip=2001:db8::7 private=false uid=-1\nbye\n"},
	} {
		var out bytes.Buffer
		s := start(t, func(c *exec.Cmd) { c.Stdin, c.Stdout = strings.NewReader("who\nquit\n"), &out }, tt.env, "TCPREMOTEPORT=1234")
		s.ends(0)
		if out.String() != tt.want {
			t.Errorf("%s: got %q, want %q", tt.env, out.String(), tt.want)
		}
	}
	// A pipe with a client on the network behind it must not be taken for one without.
	for _, env := range []string{"TCPREMOTEIP=nonsense", "TCPREMOTEIP="} {
		var out bytes.Buffer
		s := start(t, func(c *exec.Cmd) { c.Stdin, c.Stdout = strings.NewReader("who\nquit\n"), &out }, env)
		if s.ends(75); out.Len() > 0 {
			t.Errorf("%s: got %q", env, out.String())
		}
	}
}

// TestSocketPair is a session on an AF_UNIX socket: private, unless a super-server says who is behind it.
func TestSocketPair(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ env, want string }{
		{"X=", fmt.Sprintf("unix ip=invalid IP private=true uid=%d", os.Getuid())},
		{"TCPREMOTEIP=192.0.2.7", "192.0.2.7 ip=192.0.2.7 private=false uid=-1"},
	} {
		ours, theirs := socketPair(t)
		s := start(t, func(c *exec.Cmd) { c.Stdin, c.Stdout = theirs, theirs }, tt.env)
		theirs.Close()
		c, err := net.FileConn(ours)
		if err != nil {
			t.Fatal(err)
		}
		peer := talk(t, c)
		peer.say("who", tt.want)
		peer.say("quit", "bye")
		peer.ended()
		peer.Close()
		s.ends(0)
	}
	_, theirs := socketPair(t)
	start(t, func(c *exec.Cmd) { c.Stdin, c.Stdout = theirs, theirs }, "TCPREMOTEIP=nonsense").ends(75)
}

func socketPair(t *testing.T) (ours, theirs *os.File) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs = os.NewFile(uintptr(fds[0]), "ours"), os.NewFile(uintptr(fds[1]), "theirs")
	t.Cleanup(func() { ours.Close(); theirs.Close() })
	return ours, theirs
}

// TestPlainFile: a script on standard input, without a farewell.
func TestPlainFile(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "in")
	if err := os.WriteFile(name, []byte("a\nb\nrest"), 0o600); err != nil {
		t.Fatal(err)
	}
	in, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	var out bytes.Buffer
	s := start(t, func(c *exec.Cmd) { c.Stdin, c.Stdout = in, &out })
	s.ends(0)
	if out.String() != "a\nb\n" {
		t.Errorf("got %q", out.String())
	}
}

func TestPipeDrains(t *testing.T) {
	t.Parallel()
	in, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { in.Close(); w.Close(); r.Close(); out.Close() }()
	s := start(t, func(c *exec.Cmd) { c.Stdin, c.Stdout = in, out })
	c := &client{t, struct {
		io.Reader
		io.WriteCloser
	}{r, w}, bufio.NewReader(r)}
	c.say("x", "x")
	s.signal(unix.SIGTERM)
	c.hear("421 stopping")
	s.ends(0)
}

// TestStuckWriterIsLeft: a client that reads nothing must not keep a server that was told twice to stop.
func TestStuckWriterIsLeft(t *testing.T) {
	t.Parallel()
	in, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { in.Close(); w.Close(); r.Close(); out.Close() }()
	s := start(t, func(c *exec.Cmd) { c.Stdin, c.Stdout = in, out })
	c := &client{t, struct {
		io.Reader
		io.WriteCloser
	}{r, w}, bufio.NewReader(r)}
	c.say("begin", "ok")
	go func() {
		line := strings.Repeat("x", 1000) + "\n"
		for {
			if _, err := io.WriteString(w, line); err != nil { // at the end
				return
			}
		}
	}()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if n, err := unix.IoctlGetInt(int(r.Fd()), unix.TIOCINQ); err != nil || n > 60000 {
			break // the pipe is full, but for its last page
		}
	}
	s.signal(unix.SIGTERM)
	s.signal(unix.SIGINT)
	s.ends(0)
}

func TestDrainWaitsForATransaction(t *testing.T) {
	t.Parallel()
	s := start(t, nil, "ECHO_LISTEN=127.0.0.1:0")
	addr := s.event("listening")
	working, waiting := dial(t, addr), dial(t, addr)
	working.say("begin", "ok")
	waiting.say("x", "x")
	s.signal(unix.SIGTERM)
	waiting.hear("421 stopping")
	if _, err := net.Dial("tcp", addr); err == nil {
		t.Error("a connection after SIGTERM is accepted")
	}
	working.say("data", "data")
	working.say("end", "ok")
	working.hear("421 stopping")
	s.ends(0)
}

func TestSecondSignalEndsTransactions(t *testing.T) {
	t.Parallel()
	s := start(t, nil, "ECHO_LISTEN=127.0.0.1:0")
	c := dial(t, s.event("listening"))
	c.say("begin", "ok")
	s.signal(unix.SIGTERM)
	s.signal(unix.SIGINT)
	s.ends(0)
}

func TestReload(t *testing.T) {
	t.Parallel()
	s := start(t, nil, "ECHO_LISTEN=127.0.0.1:0")
	c := dial(t, s.event("listening"))
	c.say("begin", "ok")
	for range 3 {
		s.signal(unix.SIGHUP)
		s.event("reload")
	}
	c.say("x", "x")
	s.signal(unix.SIGTERM)
	s.signal(unix.SIGHUP) // no second stop
	c.say("end", "ok")
	c.hear("421 stopping")
	s.ends(0)
}

func TestPanic(t *testing.T) {
	t.Parallel()
	s := start(t, nil, "ECHO_LISTEN=127.0.0.1:0", "ECHO_LIMIT=2")
	addr := s.event("listening")
	other := dial(t, addr)
	other.say("x", "x")
	for range 5 { // more often than Limit: the place is given back
		c := admitted(t, addr)
		if _, err := io.WriteString(c, "panic\n"); err != nil {
			t.Fatal(err)
		}
		c.ended()
		c.Close()
		if got := s.event("panicked"); got != "127.0.0.1 on purpose" {
			t.Errorf("panicked %q", got)
		}
	}
	other.say("y", "y")
	s.signal(unix.SIGTERM)
	s.ends(0)

	single := start(t, func(c *exec.Cmd) { c.Stdin = strings.NewReader("panic\n") })
	single.ends(75)
}

func TestBusy(t *testing.T) {
	t.Parallel()
	s := start(t, nil, "ECHO_LISTEN=127.0.0.1:0", "ECHO_PER_CLIENT=2")
	addr := s.event("listening")
	one, two := dial(t, addr), dial(t, addr)
	one.say("x", "x")
	two.say("x", "x")
	three := dial(t, addr)
	three.hear("421 busy")
	three.ended()
	if got := s.event("refused"); got != "127.0.0.1 0" {
		t.Errorf("refused %q", got)
	}
	one.say("quit", "bye")
	one.Close()
	admitted(t, addr)
	s.signal(unix.SIGTERM)
	s.ends(0)
}

// TestFloodOfRefusals: connections over a limit hold nothing for long, and are told of once a second at most.
func TestFloodOfRefusals(t *testing.T) {
	var told atomic.Int32
	s := &Server{Limit: 1, Busy: "421 busy", Refused: func(string, int) { told.Add(1) }}
	s.begin()
	if !s.admit(NewConn(&fake{}), true) {
		t.Fatal("not admitted")
	}
	const flood = 10 * maxLingering
	var open atomic.Int32
	var clients []net.Conn
	for range flood {
		ours, client := tcpPair(t)
		open.Add(1)
		clients = append(clients, client)
		s.refuse(NewConn(&counted{ours, &open}))
	}
	if n := open.Load(); n > maxLingering {
		t.Errorf("%d of %d refused connections are open", n, flood)
	}
	if n := told.Load(); n > 2 { // a slow machine may need more than a second for them
		t.Errorf("told of %d times", n)
	}
	for i, c := range clients {
		if got, err := io.ReadAll(c); string(got) != "421 busy\r\n" || err != nil {
			t.Fatalf("client %d heard %q, %v", i, got, err)
		}
	}
}

// counted is an accepted connection that is counted while it is open.
type counted struct {
	*net.TCPConn
	open *atomic.Int32
}

func (c *counted) Close() error {
	c.open.Add(-1)
	return c.TCPConn.Close()
}

func tcpPair(t *testing.T) (ours *net.TCPConn, client net.Conn) {
	t.Helper()
	ours, c := accepted(t)
	return ours, c.ReadWriteCloser.(net.Conn)
}

func TestRefusalsAreCounted(t *testing.T) {
	now := time.Date(2026, 5, 4, 3, 2, 1, 0, time.UTC)
	defer clock.Set(nil)
	var r refusals
	for i, tt := range []struct {
		at   time.Duration
		more int
		now  bool
	}{{0, 0, true}, {0, 0, false}, {time.Second / 2, 0, false}, {time.Second, 2, true}, {3 * time.Second, 0, true}} {
		clock.Set(func() time.Time { return now.Add(tt.at) })
		if more, now := r.count(); more != tt.more || now != tt.now {
			t.Errorf("%d: got %d, %v", i, more, now)
		}
	}
}

// raced is a listener that has a last connection for who pauses it.
type raced struct {
	net.Listener
	next   chan any // net.Conn or error
	pauses int
}

func (l *raced) Accept() (net.Conn, error) {
	switch v := (<-l.next).(type) {
	case net.Conn:
		return v, nil
	case error:
		return nil, v
	}
	panic("not reached")
}

func (l *raced) SetDeadline(t time.Time) error {
	if !t.IsZero() {
		if l.pauses++; l.pauses == 1 {
			l.next <- &fake{}
		}
		l.next <- os.ErrDeadlineExceeded
	}
	return nil
}

// TestIdleExitServesWhoComes: a connection that is accepted when the idle time has just ended is served, and the server stays for it.
func TestIdleExitServesWhoComes(t *testing.T) {
	served := 0
	s := &Server{Serve: func(c *Conn) { served++ }}
	s.begin()
	l := &raced{next: make(chan any, 4)}
	panics := make(chan struct{}, 1)
	s.accept([]net.Listener{l}, panics)
	why := s.wait(nil, []net.Listener{l}, 10*time.Millisecond, panics)
	s.sessions.Wait()
	if why != "idle" || served != 1 || l.pauses != 2 {
		t.Errorf("ended because of %q, %d sessions, paused %d times", why, served, l.pauses)
	}
}

// TestPause: who connects to a paused listener waits.
func TestPause(t *testing.T) {
	s := &Server{Busy: "421 busy", Serve: func(c *Conn) { fmt.Fprintf(c, "served\n") }}
	s.begin()
	l := tcpListener(t)
	listeners := []net.Listener{l}
	panics := make(chan struct{}, 1)
	for range 20 {
		s.accept(listeners, panics)
		dial(t, l.Addr().String()).hear("served")
		s.pause(listeners, true) // the accepters are gone
		waits := dial(t, l.Addr().String())
		s.pause(listeners, false)
		s.accept(listeners, panics)
		waits.hear("served")
		s.pause(listeners, true)
		s.pause(listeners, false)
	}
}

// TestIdleExitIsNoLimit: clients that come all the time while a server keeps leaving never hear that there are too many.
func TestIdleExitIsNoLimit(t *testing.T) {
	for range 20 {
		addr := make(chan string, 1)
		why := make(chan string, 1)
		s := &Server{Listen: []string{"127.0.0.1:0"}, IdleExit: 5 * time.Millisecond, Busy: "421 busy",
			Listening: func(a string) { addr <- a },
			Stopping:  func(w string) { why <- w },
			Serve:     func(c *Conn) { fmt.Fprintf(c, "served\n") }}
		done := make(chan error, 1)
		go func() { done <- s.Run() }()
		at := within(t, "address", addr)
		for over := false; !over; {
			select {
			case err := <-done:
				if over = true; err != nil {
					t.Fatal(err)
				}
				continue
			case <-time.After(5 * time.Millisecond): // just when it may leave
			}
			c, err := net.Dial("tcp", at)
			if err != nil {
				continue // it has left
			}
			line, _ := bufio.NewReader(c).ReadString('\n') // a reset, where the kernel alone had taken it
			if c.Close(); line != "served\n" && line != "" {
				t.Fatalf("heard %q", line)
			}
		}
		if got := within(t, "reason", why); got != "idle" {
			t.Errorf("stopped because of %q", got)
		}
	}
}

// TestSignalsBeforeRun: what a program was told while it was loading holds when it begins.
func TestSignalsBeforeRun(t *testing.T) {
	signals := make(chan os.Signal, 2)
	signals <- unix.SIGHUP
	signals <- unix.SIGTERM
	reloads, why := 0, ""
	s := &Server{Listen: []string{"127.0.0.1:0"}, IdleExit: -1, Signals: signals, Serve: func(*Conn) {},
		Reload: func() { reloads++ }, Stopping: func(w string) { why = w }}
	if err := s.Run(); err != nil || reloads != 1 || why != "SIGTERM" {
		t.Errorf("%v, %d reloads, stopped because of %q", err, reloads, why)
	}
}

func TestCheckAddress(t *testing.T) {
	for addr, good := range map[string]bool{
		"127.0.0.1:25": true, "[::1]:25": true, ":25": true, ":0": true, "localhost:smtp": true, "unix:/run/s": true,
		"": false, "foo": false, "127.0.0.1": false, "127.0.0.1:": false, ":": false, "::1": false, "[::1]": false, "127.0.0.1:99999": false, "127.0.0.1:-1": false,
		"127.0.0.1:nonsense": false, "unix:": false, "unix:run/s": false, "unix:@abstract": false, "unix:/" + strings.Repeat("x", 107): false,
	} {
		if err := CheckAddress(addr); (err == nil) != good {
			t.Errorf("%q: %v", addr, err)
		}
	}
}

// TestChildren: a program that a server starts must not inherit ignored signals; a shell's pipeline would never end.
func TestChildren(t *testing.T) {
	t.Parallel()
	s := start(t, nil, "ECHO_LISTEN=127.0.0.1:0")
	dial(t, s.event("listening")).say("child", "0 <nil> <nil>")
	s.signal(unix.SIGTERM)
	s.ends(0)
}

func TestAdmit(t *testing.T) {
	at := func(ip string) net.Addr { return &net.TCPAddr{IP: net.ParseIP(ip)} }
	unix := &net.UnixAddr{Name: "@"}
	for _, tt := range []struct {
		name    string
		limits  *Server
		from    []net.Addr
		uid     int
		refused int // index of the only one refused; -1 none
	}{
		{"no limits", &Server{}, []net.Addr{at("192.0.2.1"), at("192.0.2.1"), at("192.0.2.1")}, 0, -1},
		{"limit", &Server{Limit: 2}, []net.Addr{at("192.0.2.1"), at("192.0.2.2"), at("192.0.2.3")}, 0, 2},
		{"IPv4", &Server{PerClient: 2}, []net.Addr{at("192.0.2.1"), at("192.0.2.2"), at("192.0.2.1"), at("192.0.2.1")}, 0, 3},
		{"IPv4 in IPv6", &Server{PerClient: 1}, []net.Addr{at("192.0.2.1"), at("::ffff:192.0.2.1")}, 0, 1},
		{"IPv6 /64", &Server{PerClient: 2}, []net.Addr{at("2001:db8::1"), at("2001:db8::ffff:1"), at("2001:db8:0:1::1"), at("2001:db8::2")}, 0, 3},
		{"IPv4 /24", &Server{PerClient: 2, PerNetwork: 3}, []net.Addr{at("192.0.2.1"), at("192.0.2.2"), at("192.0.3.1"), at("192.0.2.1"), at("192.0.2.3")}, 0, 4},
		{"IPv6 /48", &Server{PerNetwork: 2}, []net.Addr{at("2001:db8::1"), at("2001:db8:0:1::1"), at("2001:db8:1::1"), at("2001:db8:0:2::1")}, 0, 3},
		{"known", &Server{PerNetwork: 1, Known: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/30")}}, []net.Addr{at("192.0.2.1"), at("192.0.2.2"), at("192.0.2.4"), at("192.0.2.5")}, 0, 3},
		{"UNIX sockets", &Server{PerClient: 1, PerNetwork: 1}, []net.Addr{unix, unix, pipeAddr{}}, 1, -1},
		{"UNIX user", &Server{PerUser: 2}, []net.Addr{unix, unix, unix}, 1000, 2},
		{"root", &Server{PerUser: 2}, []net.Addr{unix, unix, unix}, 0, -1},
	} {
		s := tt.limits
		s.begin()
		var conns []*Conn
		for i, addr := range tt.from {
			c := NewConn(&fake{remote: addr})
			c.uid = tt.uid
			ok := s.admit(c, true)
			if ok != (i != tt.refused) {
				t.Errorf("%s: connection %d from %v: %v", tt.name, i, addr, ok)
			}
			if ok {
				c.Assume("", netip.MustParseAddr("192.0.2.99"), netip.Addr{}) // whoever it becomes, it gives back what it took
				conns = append(conns, c)
			}
		}
		for _, c := range conns {
			s.leave(c)
		}
		if len(s.conns) != 0 || len(s.held) != 0 {
			t.Errorf("%s: %d and %d left when all are gone", tt.name, len(s.conns), len(s.held))
		}
	}
}

// TestHurry: when places get scarce those who only wait have to be quick, also those who began to wait before; one in a transaction has not.
func TestHurry(t *testing.T) {
	var told []string
	s := &Server{Limit: 10, Hurry: 10 * time.Second, Crowding: func(crowded bool, n int) { told = append(told, fmt.Sprint(crowded, n)) }}
	s.begin()
	now := time.Date(2026, 5, 4, 3, 2, 1, 0, time.UTC)
	clock.Set(func() time.Time { return now })
	defer clock.Set(nil)
	var conns []*Conn
	var raws []*fake
	come := func(n int) {
		for range n {
			raw := &fake{reads: []any{"x", "x", "x"}}
			c := NewConn(raw)
			if !s.admit(c, true) {
				t.Fatal("not admitted")
			}
			c.Timeout(5 * time.Minute)
			conns, raws = append(conns, c), append(raws, raw)
		}
	}
	read := func(i int, waiting bool) {
		conns[i].Wait(waiting)
		if _, err := conns[i].Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
	}
	last := func(i int, want time.Duration) {
		t.Helper()
		if got := raws[i].read[len(raws[i].read)-1].Sub(now); got != want {
			t.Errorf("connection %d has %v, want %v", i, got, want)
		}
	}
	leave := func(n int) {
		for _, c := range conns[len(conns)-n:] {
			s.leave(c)
		}
		conns = conns[:len(conns)-n]
	}
	come(7)
	read(0, true)
	read(1, false)
	last(0, 5*time.Minute)
	if conns[0].Crowded() {
		t.Error("crowded with 7 of 10")
	}
	come(1)
	last(0, 10*time.Second)
	last(1, 5*time.Minute)
	read(2, true)
	last(2, 10*time.Second)
	read(2, false)
	last(2, 5*time.Minute)
	come(1)
	leave(2) // 7 are no reason to forget it
	if !conns[0].Crowded() {
		t.Error("not crowded with 7 of 10, after 9")
	}
	leave(1)
	if conns[0].Crowded() {
		t.Error("crowded with 6 of 10")
	}
	read(0, true)
	last(0, 5*time.Minute)
	leave(6)
	if got := strings.Join(told, ", "); got != "true 8, false 6" {
		t.Errorf("told %q", got)
	}
}

// TestManyAtOnce is for the race detector.
func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	s := start(t, nil, "ECHO_LISTEN=127.0.0.1:0", "ECHO_LIMIT=500")
	addr := s.event("listening")
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			c, err := net.Dial("tcp", addr)
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
				t.Error(err)
			}
			for range 20 {
				if _, err := io.WriteString(c, "x\ny\n"); err != nil {
					t.Error(err)
				}
				if _, err := io.ReadFull(c, make([]byte, 4)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	s.signal(unix.SIGTERM)
	s.ends(0)
}
