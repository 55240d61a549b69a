// Package activation gets a server its connections, in the five ways that postel.7 lists: --listen, LISTEN_FDS (systemd),
// a listening socket as standard input (inetd "wait"), a connected one (inetd "nowait", UCSPI), and a pipe, file or terminal. It limits them, ends
// them in order when the program is told to stop, and puts a guard (Conn) between each and the protocol.
//
// The protocol LISTEN_FDS is that of sd_listen_fds(3); TCPREMOTEIP and TCPREMOTEPORT are UCSPI-TCP's.
package activation

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postel-mail/postel/internal/clock"
)

// drainFor is how long sessions in a transaction may go on after SIGTERM.
const drainFor = 30 * time.Second

// abortFor is how long a session may take to notice that its connection was closed under it.
const abortFor = 5 * time.Second

// Server hands each connection to Serve in a goroutine of its own. All fields are set before Run and not changed after.
type Server struct {
	Listen    []string      // addresses to listen on: "127.0.0.1:25", ":25", "unix:/path"
	IdleExit  time.Duration // Run returns after so long without a connection; below 0: 60 s for inetd "wait", never otherwise
	Limit     int           // connections at once; 0 no limit
	PerClient int           // connections at once of one IPv4 address or IPv6 /64; 0 no limit
	Busy      string        // line for a connection over a limit, without line end; "" closes without a word

	Serve     func(c *Conn)                            // one session; c is closed afterwards
	Listening func(addr string)                        // a listener is ready
	Reload    func()                                   // SIGHUP; nil ignores it
	Refused   func(client string)                      // a connection was over a limit; may be nil
	Problem   func(err error)                          // accepting failed and goes on; may be nil
	Panicked  func(client string, v any, stack []byte) // a session ended in a bug; may be nil

	sessions  sync.WaitGroup // Add under mu, and not once stopping is set
	mu        sync.Mutex
	conns     map[*Conn]bool
	perClient map[netip.Prefix]int
	lastBusy  time.Time // when the last session ended
	stopping  bool
}

// SingleSession reports whether Run, with these listen addresses, would serve one session on standard input rather than listen: inetd
// "nowait", UCSPI or a pipe.
func SingleSession(listen []string) bool {
	return len(listen) == 0 && os.Getenv("LISTEN_FDS") == "" && !accepts(0)
}

// Run gets the connections and serves them until SIGTERM or SIGINT, the idle time, or the end of the single session. It returns nil then, and
// an error when it cannot begin.
func (s *Server) Run() error {
	s.begin()
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT, unix.SIGHUP)
	defer signal.Stop(signals)
	// Caught and dropped: were it ignored, the programs that a server starts would inherit that.
	signal.Notify(make(chan os.Signal, 1), unix.SIGPIPE)

	listeners, conns, idle, err := s.sources()
	if err != nil {
		return err
	}
	if s.IdleExit >= 0 {
		idle = s.IdleExit
	}
	panics := make(chan struct{}, 1)
	serve := func(raw net.Conn) {
		c := NewConn(raw)
		if !s.admit(c) {
			if s.Refused != nil {
				s.Refused(c.client)
			}
			if s.Busy != "" {
				_, _ = c.Write([]byte(s.Busy + "\r\n"))
			}
			go c.Close()
			return
		}
		go func() {
			defer s.leave(c)
			defer c.Close()
			defer func() {
				if v := recover(); v != nil {
					select {
					case panics <- struct{}{}:
					default:
					}
					if s.Panicked != nil {
						s.Panicked(c.client, v, debug.Stack())
					}
				}
			}()
			s.Serve(c)
		}()
	}
	for _, l := range listeners {
		if s.Listening != nil {
			s.Listening(name(l.Addr()))
		}
		go s.accept(l, serve)
	}
	for _, c := range conns {
		serve(c)
	}
	s.wait(signals, len(listeners) > 0, idle)

	for _, l := range listeners {
		l.Close()
	}
	s.drain(signals)
	if len(listeners) == 0 && len(panics) > 0 {
		return errors.New("the session ended in a bug, see the log")
	}
	return nil
}

func (s *Server) begin() {
	s.conns, s.perClient = map[*Conn]bool{}, map[netip.Prefix]int{}
}

// name writes a listener's address as --listen takes it.
func name(a net.Addr) string {
	if u, ok := a.(*net.UnixAddr); ok {
		return "unix:" + u.Name
	}
	return a.String()
}

// sources finds the connections, in the documented order of preference.
func (s *Server) sources() (listeners []net.Listener, conns []net.Conn, idle time.Duration, err error) {
	if len(s.Listen) > 0 {
		for _, addr := range s.Listen {
			l, err := listen(addr)
			if err != nil {
				for _, l := range listeners {
					l.Close()
				}
				return nil, nil, 0, fmt.Errorf("cannot listen on %s: %w", addr, err)
			}
			listeners = append(listeners, l)
		}
		return listeners, nil, 0, nil
	}
	files, err := passedFiles()
	if err != nil {
		return nil, nil, 0, err
	}
	if len(files) > 0 {
		for _, f := range files {
			if accepts(int(f.Fd())) {
				l, err := net.FileListener(f)
				if err != nil {
					return nil, nil, 0, fmt.Errorf("LISTEN_FDS: descriptor %s: %w", f.Name(), err)
				}
				listeners = append(listeners, l)
			} else {
				c, err := net.FileConn(f)
				if err != nil {
					return nil, nil, 0, fmt.Errorf("LISTEN_FDS: descriptor %s is not a socket: %w", f.Name(), err)
				}
				conns = append(conns, c)
			}
			f.Close()
		}
		return listeners, conns, 0, nil
	}
	if accepts(0) {
		l, err := net.FileListener(os.Stdin)
		if err != nil {
			return nil, nil, 0, fmt.Errorf("standard input: %w", err)
		}
		return []net.Listener{l}, nil, 60 * time.Second, nil
	}
	if isSocket(0) {
		if c, err := net.FileConn(os.Stdin); err == nil {
			return nil, []net.Conn{c}, 0, nil
		}
	}
	return nil, []net.Conn{newPipeConn(os.Stdin, os.Stdout, ucspiAddr())}, 0, nil
}

// ucspiAddr is the client that a UCSPI super-server names.
func ucspiAddr() net.Addr {
	ip, err := netip.ParseAddr(os.Getenv("TCPREMOTEIP"))
	if err != nil {
		return pipeAddr{}
	}
	port, _ := strconv.ParseUint(os.Getenv("TCPREMOTEPORT"), 10, 16) // informative
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(ip, uint16(port)))
}

func listen(addr string) (net.Listener, error) {
	path, ok := strings.CutPrefix(addr, "unix:")
	if !ok {
		return net.Listen("tcp", addr)
	}
	l, err := net.Listen("unix", path)
	if errors.Is(err, unix.EADDRINUSE) { // left behind by a crash, unless somebody answers
		if !leftBehind(path) {
			return nil, err
		}
		if e := os.Remove(path); e != nil {
			return nil, errors.Join(err, e)
		}
		l, err = net.Listen("unix", path)
	}
	if err != nil {
		return nil, err
	}
	// Who may connect is decided by the directory that the socket is in.
	if err := os.Chmod(path, 0o666); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// leftBehind reports whether path is a socket on which nobody listens any more. One that is too busy to answer is not.
func leftBehind(path string) bool {
	var st unix.Stat_t
	if unix.Lstat(path, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return false
	}
	c, err := net.Dial("unix", path)
	if err == nil {
		c.Close()
	}
	return errors.Is(err, unix.ECONNREFUSED)
}

// passedFiles takes over what sd_listen_fds(3) describes. Children do not see it.
func passedFiles() ([]*os.File, error) {
	count, pid := os.Getenv("LISTEN_FDS"), os.Getenv("LISTEN_PID")
	for _, v := range []string{"LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"} {
		os.Unsetenv(v)
	}
	if count == "" || (pid != "" && pid != strconv.Itoa(os.Getpid())) {
		return nil, nil
	}
	n, err := strconv.Atoi(count)
	if err != nil || n < 0 || n > 1000 {
		return nil, fmt.Errorf("LISTEN_FDS=%q is not a number of descriptors", count)
	}
	files := make([]*os.File, n)
	for i := range files {
		unix.CloseOnExec(3 + i)
		files[i] = os.NewFile(uintptr(3+i), strconv.Itoa(3+i))
		if files[i] == nil {
			return nil, fmt.Errorf("LISTEN_FDS=%s, but descriptor %d is not open", count, 3+i)
		}
	}
	return files, nil
}

func accepts(fd int) bool {
	v, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	return err == nil && v == 1
}

func isSocket(fd int) bool {
	var st unix.Stat_t
	return unix.Fstat(fd, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFSOCK
}

func (s *Server) accept(l net.Listener, serve func(net.Conn)) {
	wait := 5 * time.Millisecond
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // no descriptors or no memory: it may pass
			if s.Problem != nil {
				s.Problem(fmt.Errorf("accept on %s: %w", name(l.Addr()), err))
			}
			time.Sleep(wait)
			wait = min(2*wait, time.Second)
			continue
		}
		wait = 5 * time.Millisecond
		serve(c)
	}
}

// group is what counts as one client for PerClient.
func group(ip netip.Addr) netip.Prefix {
	bits := 32
	if ip.Is6() {
		bits = 64
	}
	p, _ := ip.Prefix(bits)
	return p
}

func (s *Server) admit(c *Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := group(c.ip)
	if s.stopping || s.Limit > 0 && len(s.conns) >= s.Limit || s.PerClient > 0 && c.ip.IsValid() && s.perClient[g] >= s.PerClient {
		return false
	}
	s.sessions.Add(1)
	s.conns[c] = true
	s.perClient[g]++
	return true
}

func (s *Server) leave(c *Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
	g := group(c.ip)
	s.perClient[g]--
	if s.perClient[g] == 0 {
		delete(s.perClient, g)
	}
	s.lastBusy = clock.Now()
	s.sessions.Done()
}

// wait returns when the server is to stop.
func (s *Server) wait(signals <-chan os.Signal, listening bool, idle time.Duration) {
	var done chan struct{}
	if !listening {
		done = make(chan struct{})
		go func() { s.sessions.Wait(); close(done) }()
	}
	s.mu.Lock()
	s.lastBusy = clock.Now()
	s.mu.Unlock()
	var tick <-chan time.Time
	timer := time.NewTimer(idle)
	defer timer.Stop()
	if listening && idle > 0 {
		tick = timer.C
	}
	for {
		select {
		case <-done:
			return
		case <-tick:
			s.mu.Lock()
			left := idle - clock.Since(s.lastBusy)
			if len(s.conns) > 0 {
				left = idle
			} else if left <= 0 {
				s.stopping = true
			}
			stop := s.stopping
			s.mu.Unlock()
			if stop {
				return
			}
			timer.Reset(left)
		case sig := <-signals:
			if sig != unix.SIGHUP {
				return
			}
			if s.Reload != nil {
				s.Reload()
			}
		}
	}
}

// drain ends the sessions: those that wait at once, those in a transaction when it is over, all after 30 s or a second signal.
func (s *Server) drain(signals <-chan os.Signal) {
	s.mu.Lock()
	s.stopping = true
	for c := range s.conns {
		c.drain()
	}
	s.mu.Unlock()
	done := make(chan struct{})
	go func() { s.sessions.Wait(); close(done) }()
	timer := time.NewTimer(drainFor)
	defer timer.Stop()
	for {
		select {
		case <-done:
			return
		case sig := <-signals:
			if sig == unix.SIGHUP {
				continue
			}
		case <-timer.C:
		}
		s.mu.Lock()
		for c := range s.conns {
			c.abort()
		}
		s.mu.Unlock()
		select {
		case <-done:
		case <-time.After(abortFor): // it writes to a pipe that nobody reads
		}
		return
	}
}
