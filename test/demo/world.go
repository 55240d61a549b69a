package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/postel-mail/postel/test/dnszone"
)

// world is all that runs: three hosts, the DNS, and the log that their programs write together.
type world struct {
	dir, bin           string
	dns                *dnszone.Server
	port               int // of SMTP, on every host
	north, gate, south *host

	mu       sync.Mutex
	lines    []string
	seen     int // lines that await has passed
	grown    chan struct{}
	children []*exec.Cmd
	sockets  []net.Listener
	done     sync.WaitGroup
}

// host is one machine of the model.
type host struct {
	name, ip, dir, config string
	submission, pop3      string // addresses
}

func newWorld() (*world, error) {
	dir, err := os.MkdirTemp("", "postel-demo-")
	if err != nil {
		return nil, err
	}
	bin, err := filepath.Abs("bin")
	if err != nil {
		return nil, err
	}
	w := &world{dir: dir, bin: bin, grown: make(chan struct{})}
	w.north = &host{name: "north", ip: "127.0.1.1"}
	w.gate = &host{name: "gate", ip: "127.0.1.2"}
	w.south = &host{name: "south", ip: "127.0.1.3"}
	if w.port, err = freePort(w.north.ip, w.gate.ip, w.south.ip); err != nil {
		return nil, err
	}
	if w.dns, err = serveZone(); err != nil {
		return nil, err
	}
	for _, h := range []*host{w.north, w.gate, w.south} {
		if err := w.configure(h); err != nil {
			return nil, err
		}
	}
	return w, nil
}

// freePort finds a port that is free on all these addresses.
func freePort(ips ...string) (int, error) {
	for range 50 {
		l, err := net.Listen("tcp", net.JoinHostPort(ips[0], "0"))
		if err != nil {
			return 0, err
		}
		l.Close()
		port := l.Addr().(*net.TCPAddr).Port
		if !slices.ContainsFunc(ips, func(ip string) bool {
			l, err := net.Listen("tcp", net.JoinHostPort(ip, strconv.Itoa(port)))
			if err == nil {
				l.Close()
			}
			return err != nil
		}) {
			return port, nil
		}
	}
	return 0, errors.New("no port is free on all of " + strings.Join(ips, ", "))
}

func serveZone() (*dnszone.Server, error) {
	zone, err := dnszone.Parse(`
$TTL 300
example.        SOA ns.example. postmaster.example. 1 3600 600 86400 300
north.example.       MX 10 mail.north.example.
mail.north.example.  A  127.0.1.1
south.example.       MX 10 gate.south.example.
gate.south.example.  A  127.0.1.2
mail.south.example.  A  127.0.1.3
`)
	if err != nil {
		return nil, err
	}
	return zone.Serve("127.0.0.1:0")
}

// configure writes the host's folder: configuration, users, certificate.
func (w *world) configure(h *host) error {
	h.dir = filepath.Join(w.dir, h.name)
	h.config = filepath.Join(h.dir, "postel.toml")
	if err := os.MkdirAll(h.dir, 0o700); err != nil {
		return err
	}
	common := fmt.Sprintf("spool = %q\nusers = %q\naliases = %q\n", h.dir+"/spool", h.dir+"/users", h.dir+"/aliases")
	tables := fmt.Sprintf("[dns]\nservers = [%q]\n[smtp]\nport = %d\nbind = [%q]\n[tls]\ncertificate = %q\nkey = %q\n",
		w.dns.Addr(), w.port, h.ip, h.dir+"/cert.pem", h.dir+"/key.pem")
	var own, users string
	switch h.name {
	case "north":
		own = fmt.Sprintf("hostname = \"mail.north.example\"\ndomains = [\"north.example\"]\nmailbox = \"maildir:~/Maildir\"\nlocal = \"lmtp://%s/lmtp.sock\"\n", h.dir)
		users = "alice:{PLAIN}alice-secret:::Alice:" + h.dir + "/alice::\n"
	case "gate":
		own = fmt.Sprintf("hostname = \"gate.south.example\"\nrelay_domains = [\"south.example\"]\nrelay_networks = [\"%s/32\"]\n", w.south.ip)
		tables += fmt.Sprintf("[routes]\n\"south.example\" = \"smtp://%s\"\n", w.south.ip)
	case "south":
		own = "hostname = \"mail.south.example\"\ndomains = [\"south.example\"]\nmailbox = \"mbox:~/mbox\"\nrelay_networks = []\n"
		users = "bob:{PLAIN}bob-secret:::Bob:" + h.dir + "/bob::\n"
		tables += fmt.Sprintf("[routes]\n\"*\" = \"smtp://%s\"\n", w.gate.ip)
	}
	for _, user := range []string{"alice", "bob"} {
		if strings.HasPrefix(users, user) {
			if err := os.Mkdir(filepath.Join(h.dir, user), 0o700); err != nil {
				return err
			}
		}
	}
	return errors.Join(
		os.WriteFile(h.config, []byte(own+common+tables), 0o600),
		os.WriteFile(h.dir+"/users", []byte(users), 0o600),
		writeCertificate(h.dir),
	)
}

// start starts every program, each in another way.
func (w *world) start() error {
	title("starting three hosts below %s", w.dir)
	smtp := func(h *host) string { return net.JoinHostPort(h.ip, strconv.Itoa(w.port)) }

	// north: LISTEN_FDS as systemd passes them, --listen, a UNIX socket, inetd "wait".
	if err := w.socketActivated(w.north, smtp(w.north), "smtpd"); err != nil {
		return err
	}
	if err := w.daemon(w.north, "lmtpd", "--listen", "unix:"+w.north.dir+"/lmtp.sock"); err != nil {
		return err
	}
	var err error
	if w.north.pop3, err = w.inetdWait(w.north, net.JoinHostPort(w.north.ip, "0"), "pop3d"); err != nil {
		return err
	}
	if err := w.daemon(w.north, "qmgr"); err != nil {
		return err
	}
	// gate: inetd "nowait", and the runner by its classic name.
	if err := w.inetdNowait(w.gate, smtp(w.gate), "smtpd"); err != nil {
		return err
	}
	if err := w.daemon(w.gate, "sendmail", "-q5m"); err != nil {
		return err
	}
	// south: --listen.
	if err := w.daemon(w.south, "smtpd", "--listen", smtp(w.south)); err != nil {
		return err
	}
	if err := w.daemon(w.south, "smtpd", "--submission", "--listen", net.JoinHostPort(w.south.ip, "0")); err != nil {
		return err
	}
	w.mu.Lock()
	last := w.lines[len(w.lines)-1]
	w.mu.Unlock()
	w.south.submission = value(last, "addr")
	return w.daemon(w.south, "qmgr")
}

// command prepares a program of the host.
func (w *world) command(h *host, name string, args ...string) *exec.Cmd {
	c := exec.Command(filepath.Join(w.bin, name), args...)
	c.Env = []string{"PATH=" + w.bin + ":/usr/bin:/bin", "POSTEL_CONFIG=" + h.config, "HOME=" + h.dir}
	c.Dir = h.dir
	return c
}

// launch starts a child whose stderr is the log.
func (w *world) launch(h *host, c *exec.Cmd) error {
	r, err := c.StderrPipe()
	if err != nil {
		return err
	}
	if err := c.Start(); err != nil {
		return err
	}
	w.mu.Lock()
	w.children = append(w.children, c)
	w.mu.Unlock()
	w.done.Go(func() {
		for s := bufio.NewScanner(r); s.Scan(); {
			w.log(h, s.Text())
		}
		_ = c.Wait() // what it did shows in the log; close looks at how daemons end
	})
	return nil
}

// daemon starts a program that stays, and waits until its log says that it works.
func (w *world) daemon(h *host, name string, args ...string) error {
	if err := w.launch(h, w.command(h, name, args...)); err != nil {
		return err
	}
	sign := "event=start "
	if slices.Contains(args, "--listen") {
		sign = "event=listening "
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := w.find(ctx, func(line string) bool { return strings.HasPrefix(line, h.name+" ") && strings.Contains(line, sign) }); err != nil {
		return fmt.Errorf("%s on %s does not start: %w\n%s", name, h.name, err, w.tail())
	}
	return nil
}

// socketActivated passes a listening socket as systemd does with Accept=no.
func (w *world) socketActivated(h *host, addr, name string, args ...string) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	defer l.Close()
	f, err := l.(*net.TCPListener).File()
	if err != nil {
		return err
	}
	defer f.Close()
	c := w.command(h, name, args...)
	c.Env = append(c.Env, "LISTEN_FDS=1") // LISTEN_PID is optional, and not known before the start
	c.ExtraFiles = []*os.File{f}
	return w.launch(h, c)
}

// inetdWait starts the program with the listening socket as standard input, as inetd does at the first connection.
func (w *world) inetdWait(h *host, addr, name string, args ...string) (string, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return "", err
	}
	defer l.Close()
	f, err := l.(*net.TCPListener).File()
	if err != nil {
		return "", err
	}
	defer f.Close()
	c := w.command(h, name, args...)
	c.Stdin = f
	return l.Addr().String(), w.launch(h, c)
}

// inetdNowait accepts, and starts the program once for each connection with it as standard input and output.
func (w *world) inetdNowait(h *host, addr, name string, args ...string) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	w.sockets = append(w.sockets, l)
	w.done.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			f, err := conn.(*net.TCPConn).File()
			conn.Close()
			if err != nil {
				w.log(h, err.Error())
				continue
			}
			c := w.command(h, name, args...)
			c.Stdin, c.Stdout = f, f
			if err := w.launch(h, c); err != nil {
				w.log(h, err.Error())
			}
			f.Close()
		}
	})
	return nil
}

// shell runs a script on a host and gives what it printed; its stderr is the log.
func (w *world) shell(ctx context.Context, h *host, script string) (string, error) {
	c := w.command(h, "sh")
	c.Path, c.Args = "/bin/sh", []string{"sh", "-euc", script}
	var out, errs bytes.Buffer
	c.Stdout, c.Stderr = &out, &errs
	err := c.Run()
	for line := range strings.Lines(errs.String()) {
		w.log(h, strings.TrimSpace(line))
	}
	if err != nil {
		return "", fmt.Errorf("script on %s: %w: %s%s", h.name, err, out.String(), errs.String())
	}
	return out.String(), ctx.Err()
}

// log takes a line of a program's log, and prints the hops.
func (w *world) log(h *host, line string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lines = append(w.lines, h.name+" "+line)
	close(w.grown)
	w.grown = make(chan struct{})
	event, id := value(line, "event"), value(line, "id")
	var what string
	switch event {
	case "listening":
		what = "listens on " + value(line, "addr")
	case "accepted":
		what = "accepts " + id + " from " + value(line, "from") + ", " + value(line, "size") + " octets, " + value(line, "proto")
	case "delivered":
		relay := value(line, "relay")
		if relay == "pipe" {
			relay, _, _ = strings.Cut(value(line, "dest"), " ")
		}
		what = "hands " + id + " for " + value(line, "to") + " to " + relay
	case "deferred", "bounced", "refused":
		what = strings.Join(strings.Fields(event+" "+id+" "+value(line, "to")), " ") + ": " + value(line, "code") + " " + value(line, "text")
	case "stored":
		what = "stores " + id + " for " + value(line, "to") + " in " + value(line, "dest")
	case "report":
		what = "reports on " + id + " in " + value(line, "report")
	case "login":
		what = "knows " + value(line, "user") + " by " + value(line, "proto")
	case "problem", "panic", "corrupt", "not-stored", "login-failed":
		what = event + ": " + line
	default:
		return
	}
	fmt.Printf("%s %-6s %-9s %s\n", time.Now().Format("15:04:05.000"), h.name, value(line, "prog"), what)
}

// value is the value of a key in a logfmt line.
func value(line, key string) string {
	_, rest, ok := strings.Cut(" "+line, " "+key+"=")
	if !ok {
		return ""
	}
	if quoted, err := strconv.QuotedPrefix(rest); err == nil {
		s, _ := strconv.Unquote(quoted)
		return s
	}
	rest, _, _ = strings.Cut(rest, " ")
	return rest
}

// await waits for an event about an address on a host, among the lines that came since the last await.
func (w *world) await(ctx context.Context, h *host, event, to string) error {
	err := w.find(ctx, func(line string) bool {
		return strings.HasPrefix(line, h.name+" ") && value(line, "event") == event && value(line, "to") == "<"+to+">"
	})
	if err != nil {
		return fmt.Errorf("no event %q for %s on %s: %w", event, to, h.name, err)
	}
	return nil
}

// find waits for a line.
func (w *world) find(ctx context.Context, match func(line string) bool) error {
	for {
		w.mu.Lock()
		for w.seen < len(w.lines) {
			line := w.lines[w.seen]
			w.seen++
			if match(line) {
				w.mu.Unlock()
				return nil
			}
		}
		grown := w.grown
		w.mu.Unlock()
		select {
		case <-grown:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// tail is the end of the log.
func (w *world) tail() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Join(w.lines[max(0, len(w.lines)-20):], "\n")
}

// explain says how to talk to what runs.
func (w *world) explain() {
	fmt.Printf(`
Everything stays up until you press Ctrl-C. Try:
  POSTEL_CONFIG=%[1]s %[2]s/mailq
  echo hello | POSTEL_CONFIG=%[1]s %[2]s/sendmail -f alice@north.example bob@south.example
  nc %[3]s %[4]d                      (SMTP, the mail exchanger of north.example)
  openssl s_client -crlf -starttls smtp -connect %[5]s   (submission, user bob, password bob-secret)
  openssl s_client -crlf -starttls pop3 -connect %[6]s   (POP3, user alice, password alice-secret)
`, w.north.config, w.bin, w.north.ip, w.port, w.south.submission, w.north.pop3)
}

// close ends every child by its process id and removes the folder. A daemon that does not end well is an error.
func (w *world) close() error {
	for _, l := range w.sockets {
		l.Close()
	}
	w.mu.Lock()
	children := slices.Clone(w.children)
	w.mu.Unlock()
	for _, c := range children {
		_ = c.Process.Signal(syscall.SIGTERM) // those that ended are gone already
	}
	ended := make(chan struct{})
	go func() { w.done.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-time.After(20 * time.Second):
		for _, c := range children {
			_ = c.Process.Kill()
		}
		<-ended
	}
	var failed []error
	for _, c := range children {
		if code := c.ProcessState.ExitCode(); code != 0 {
			failed = append(failed, fmt.Errorf("%s ended with %s", strings.Join(c.Args, " "), c.ProcessState))
		}
	}
	w.dns.Close()
	return errors.Join(append(failed, os.RemoveAll(w.dir))...)
}
