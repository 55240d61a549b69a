// Package activation gets a server its connections, in the five ways that postel.7 lists: --listen, LISTEN_FDS (systemd),
// a listening socket as standard input (inetd "wait"), a connected one (inetd "nowait", UCSPI), and a pipe, file or terminal. It limits them, ends
// them in order when the program is told to stop, and puts a guard (Conn) between each and the protocol.
//
// The protocol LISTEN_FDS is that of sd_listen_fds(3); TCPREMOTEIP and TCPREMOTEPORT are UCSPI-TCP's.
package activation

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
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
	Listen     []string       // addresses to listen on: "127.0.0.1:25", ":25", "unix:/path"
	IdleExit   time.Duration  // Run returns after so long without a connection; below 0: 60 s for inetd "wait", never otherwise
	Limit      int            // connections at once; 0 no limit
	PerClient  int            // connections at once of one IPv4 address or IPv6 /64; 0 no limit
	PerNetwork int            // of one IPv4 /24 or IPv6 /48; 0 no limit
	Known      []netip.Prefix // networks that PerNetwork is not for
	PerUser    int            // of one user of this host, but root, over UNIX sockets; 0 no limit
	Busy       string         // line for a connection over a limit, without line end; "" closes without a word
	Proxies    []netip.Prefix // clients that must begin with a PROXY header, and are the client that it names

	// Hurry is how long a session that waits between transactions may be silent from the time on when four of five places are taken, until two of five are free
	// again: then a server that is full has room soon, whoever holds it. 0: no hurry.
	Hurry time.Duration

	Serve     func(c *Conn)                            // one session; c is closed afterwards
	Bound     func() error                             // all sockets are open; an error ends Run; may be nil
	Listening func(addr string)                        // a listener is ready
	Stopping  func(why string)                         // Run is about to end: "SIGTERM", "idle" and so on; may be nil
	Reload    func()                                   // SIGHUP; nil ignores it
	Signals   chan os.Signal                           // of Signals, for a program that has been loading before Run; nil: Run's own
	Refused   func(client string, more int)            // a connection was over a limit, and more besides since the last call; once a second at most; may be nil
	Crowding  func(crowded bool, n int)                // Hurry begins or ends, with n connections; must not wait; may be nil
	Unproxied func(proxy string, err error)            // a connection of Proxies was closed for its header; may be nil
	Problem   func(err error)                          // accepting failed and goes on; may be nil
	Panicked  func(client string, v any, stack []byte) // a session ended in a bug; may be nil

	sessions  sync.WaitGroup // Add under mu, and not once the accepters are gone for good
	accepters sync.WaitGroup
	lingering chan struct{} // refused connections that linger
	refusals  refusals
	crowded   atomic.Bool
	mu        sync.Mutex // what follows
	conns     map[*Conn][]holder
	held      map[holder]int // places
	lastBusy  time.Time      // when the last session ended
	most      int            // connections, since memory was given back
}

// holder is who holds places besides others: a client, the network that it is in, or a user of this host.
type holder struct {
	network netip.Prefix // not valid for a user
	uid     int
}

// refusals counts connections over a limit between two calls of Refused.
type refusals struct {
	mu   sync.Mutex
	last time.Time
	more int
}

const (
	manySessions = 100             // at once, that leave memory behind worth giving back,
	restFor      = 5 * time.Second // when three of four are gone for so long

	maxLingering = 32                     // refused connections that may linger until their peer has read why
	refuseFor    = 100 * time.Millisecond // to send that to the others; a new socket takes it at once
)

// SingleSession reports whether Run, with these listen addresses, would serve one session on standard input rather than listen: inetd
// "nowait", UCSPI or a pipe.
func SingleSession(listen []string) bool {
	return len(listen) == 0 && os.Getenv("LISTEN_FDS") == "" && !accepts(0)
}

// Signals begins to catch the signals that end a server and make it load again. Until Run has the channel they wait in it.
func Signals() chan os.Signal {
	c := make(chan os.Signal, 4)
	signal.Notify(c, unix.SIGTERM, unix.SIGINT, unix.SIGHUP)
	return c
}

// CheckAddress says what is wrong with the form of an address for Listen.
func CheckAddress(addr string) error {
	if path, ok := strings.CutPrefix(addr, "unix:"); ok {
		if !strings.HasPrefix(path, "/") || len(path) > maxPath {
			return fmt.Errorf("%q is not an absolute path of at most %d octets, as unix: needs", path, maxPath)
		}
		return nil
	}
	_, port, err := net.SplitHostPort(addr)
	if err == nil {
		_, err = net.LookupPort("tcp", port)
	}
	if err != nil || port == "" {
		return fmt.Errorf("%q is not of the form 127.0.0.1:25, [::1]:25, :25 or unix:/PATH", addr)
	}
	return nil
}

// maxPath is how long the path of a UNIX socket may be, see unix(7).
const maxPath = 107

// Run gets the connections and serves them until SIGTERM or SIGINT, the idle time, or the end of the single session. It returns nil then, and
// an error when it cannot begin.
func (s *Server) Run() error {
	s.begin()
	signals := s.Signals
	if signals == nil {
		signals = Signals()
	}
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
	if s.Bound != nil {
		if err := s.Bound(); err != nil {
			return err
		}
	}
	for _, l := range listeners {
		if s.Listening != nil {
			s.Listening(name(l.Addr()))
		}
	}
	panics := make(chan struct{}, 1)
	s.accept(listeners, panics)
	for _, c := range conns {
		s.serve(c, panics)
	}
	why := s.wait(signals, listeners, idle, panics)
	if why != "" && s.Stopping != nil {
		s.Stopping(why)
	}
	for _, l := range listeners {
		l.Close()
	}
	s.accepters.Wait() // what they still got is a session, and hears of the end as one
	s.drain(signals)
	if len(listeners) == 0 && len(panics) > 0 {
		return errors.New("the session ended in a bug, see the log")
	}
	return nil
}

// serve gives a connection to Serve, unless it is over a limit. panics gets a word when that ends in a bug.
func (s *Server) serve(raw net.Conn, panics chan<- struct{}) {
	c := NewConn(raw)
	proxy := contains(s.Proxies, c.ip)
	if !s.admit(c, !proxy) {
		s.refuse(c)
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
		if !proxy || s.unwrap(c) {
			s.Serve(c)
		}
	}()
}

// unwrap makes a connection of a proxy that of its client. It reports whether that is to be served.
func (s *Server) unwrap(c *Conn) bool {
	proxy := c.client
	switch err := c.readProxy(); {
	case err == io.EOF || err == ErrDraining: // somebody looked whether the port is open
		return false
	case err != nil:
		if s.Unproxied != nil {
			s.Unproxied(proxy, err)
		}
		c.abort()
		return false
	case !s.count(c):
		s.refuse(c)
		return false
	}
	return true
}

// refuse tells a connection that it is over a limit. Some may linger, so that the client surely reads it; in a flood the others are
// closed at once, and hold nothing.
func (s *Server) refuse(c *Conn) {
	if more, now := s.refusals.count(); now && s.Refused != nil {
		s.Refused(c.client, more)
	}
	if s.Busy == "" {
		c.abort()
		return
	}
	_, _ = c.Write([]byte(s.Busy + "\r\n")) // is held back, and cannot fail
	select {
	case s.lingering <- struct{}{}:
		go func() {
			_ = c.Close()
			<-s.lingering
		}()
	default:
		c.Timeout(refuseFor)
		_ = c.Flush() // the client is sent away either way
		c.abort()
	}
}

// count reports whether a refusal is to be told now, and how many were not.
func (r *refusals) count() (more int, now bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.last.IsZero() && clock.Since(r.last) < time.Second {
		r.more++
		return 0, false
	}
	more, r.more, r.last = r.more, 0, clock.Now()
	return more, true
}

func (s *Server) begin() {
	s.conns, s.held, s.lingering = map[*Conn][]holder{}, map[holder]int{}, make(chan struct{}, maxLingering)
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
	c, err := standardInput()
	if err != nil {
		return nil, nil, 0, fmt.Errorf("standard input: %w", err)
	}
	return nil, []net.Conn{c}, 0, nil
}

// standardInput is the connection of a single session.
func standardInput() (net.Conn, error) {
	remote, err := ucspiAddr()
	if err != nil {
		return nil, err
	}
	if !isSocket(0) {
		if remote == nil {
			remote = pipeAddr{}
		}
		return newPipeConn(os.Stdin, os.Stdout, remote), nil
	}
	c, err := net.FileConn(os.Stdin)
	if err != nil {
		return nil, err
	}
	if u, ok := c.(*net.UnixConn); ok && remote != nil {
		return &ucspiConn{u, remote}, nil
	}
	return c, nil
}

// ucspiConn is a UNIX socket, most likely one of a pair, with somebody on the network behind it.
type ucspiConn struct {
	*net.UnixConn
	remote net.Addr
}

func (c *ucspiConn) RemoteAddr() net.Addr { return c.remote }

// ucspiAddr is the client that a UCSPI super-server names; nil when there is none. A name that is not understood is an error: without one a pipe
// counts as private.
func ucspiAddr() (net.Addr, error) {
	v, ok := os.LookupEnv("TCPREMOTEIP")
	if !ok {
		return nil, nil
	}
	ip, err := netip.ParseAddr(v)
	if err != nil {
		return nil, fmt.Errorf("TCPREMOTEIP=%q is not an IP address", v)
	}
	port, _ := strconv.ParseUint(os.Getenv("TCPREMOTEPORT"), 10, 16) // informative
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(ip, uint16(port))), nil
}

func listen(addr string) (net.Listener, error) {
	path, ok := strings.CutPrefix(addr, "unix:")
	if !ok {
		// No keep-alive, which takes four calls for each connection: a session has its own times, and ends by them.
		return (&net.ListenConfig{KeepAlive: -1}).Listen(context.Background(), "tcp", addr)
	}
	l, err := net.Listen("unix", path)
	if errors.Is(err, unix.EADDRINUSE) { // left behind by a crash, unless somebody answers
		if fi, e := os.Lstat(path); e == nil && fi.Mode()&os.ModeSocket == 0 {
			return nil, errors.New("it exists and is not a socket")
		}
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

// accept begins to take connections from all listeners.
func (s *Server) accept(listeners []net.Listener, panics chan<- struct{}) {
	for _, l := range listeners {
		s.accepters.Go(func() { s.acceptFrom(l, panics) })
	}
}

// acceptFrom takes connections from l until that is closed or paused.
func (s *Server) acceptFrom(l net.Listener, panics chan<- struct{}) {
	wait := 5 * time.Millisecond
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrDeadlineExceeded) {
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
		s.serve(c, panics)
	}
}

// pause makes the accepters end, and waits until they have, or lets the listeners be accepted from again.
func (s *Server) pause(listeners []net.Listener, paused bool) {
	var t time.Time
	if paused {
		t = past
	}
	for _, l := range listeners {
		if d, ok := l.(interface{ SetDeadline(time.Time) error }); ok {
			_ = d.SetDeadline(t) // fails where it is closed, which does the same
		}
	}
	if paused {
		s.accepters.Wait()
	}
}

// networkOf gives the network of that many bits that an address is in, by its family.
func networkOf(ip netip.Addr, bits4, bits6 int) netip.Prefix {
	bits := bits4
	if ip.Is6() {
		bits = bits6
	}
	p, _ := ip.Prefix(bits)
	return p
}

// ClientNetwork is what counts as one client: an IPv4 address, or an IPv6 network of 64 bits, in which a host chooses its addresses.
func ClientNetwork(ip netip.Addr) netip.Prefix { return networkOf(ip, 32, 64) }

func contains(networks []netip.Prefix, ip netip.Addr) bool {
	return slices.ContainsFunc(networks, func(n netip.Prefix) bool { return n.Contains(ip) })
}

// take gives a connection one of all places.
func (s *Server) take(c *Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.Limit > 0 && len(s.conns) >= s.Limit {
		return false
	}
	s.sessions.Add(1)
	s.conns[c] = nil
	s.most = max(s.most, len(s.conns))
	c.server = s
	s.crowd()
	return true
}

// admit gives a connection a place, and counts it as its client's where that one is known.
func (s *Server) admit(c *Conn, known bool) bool {
	if !s.take(c) {
		return false
	}
	if known && !s.count(c) {
		s.leave(c)
		return false
	}
	return true
}

// count counts the place of a connection as its client's. False says that this one has too many.
func (s *Server) count(c *Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	var holders []holder
	over := false
	hold := func(h holder, limit int) {
		if limit > 0 {
			holders = append(holders, h)
			over = over || s.held[h] >= limit
		}
	}
	if c.ip.IsValid() {
		hold(holder{network: ClientNetwork(c.ip)}, s.PerClient)
		if !contains(s.Known, c.ip) {
			hold(holder{network: networkOf(c.ip, 24, 48)}, s.PerNetwork)
		}
	} else if c.uid > 0 {
		hold(holder{uid: c.uid}, s.PerUser)
	}
	if over {
		return false
	}
	for _, h := range holders {
		s.held[h]++
	}
	s.conns[c] = holders
	return true
}

func (s *Server) leave(c *Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, h := range s.conns[c] {
		if s.held[h]--; s.held[h] == 0 {
			delete(s.held, h)
		}
	}
	delete(s.conns, c)
	s.crowd()
	if s.most >= manySessions && len(s.conns) == s.most/4 { // once on the way down
		time.AfterFunc(restFor, s.rest)
	}
	s.lastBusy = clock.Now()
	s.sessions.Done()
}

// rest gives back memory to the system when there are still few sessions. Left alone the runtime keeps it for many minutes.
func (s *Server) rest() {
	s.mu.Lock()
	few := s.most >= manySessions && len(s.conns) <= s.most/4
	if few {
		s.most = len(s.conns)
	}
	s.mu.Unlock()
	if few {
		runtime.GC() // a sync.Pool is empty after the second
		debug.FreeOSMemory()
	}
}

// crowd begins or ends the hurry.
func (s *Server) crowd() {
	n, was := len(s.conns), s.crowded.Load()
	now := 5*n >= 4*s.Limit || was && 5*n > 3*s.Limit
	if s.Hurry == 0 || s.Limit == 0 || now == was {
		return
	}
	s.crowded.Store(now)
	if now {
		until := clock.Now().Add(s.Hurry)
		for c := range s.conns {
			c.hasten(until)
		}
	}
	if s.Crowding != nil {
		s.Crowding(now, n)
	}
}

// wait returns when the server is to stop, and why; "" when the connections that it was given are over.
func (s *Server) wait(signals <-chan os.Signal, listeners []net.Listener, idle time.Duration, panics chan<- struct{}) (why string) {
	var done chan struct{}
	if len(listeners) == 0 {
		done = make(chan struct{})
		go func() { s.sessions.Wait(); close(done) }()
	}
	s.mu.Lock()
	s.lastBusy = clock.Now()
	s.mu.Unlock()
	var tick <-chan time.Time
	timer := time.NewTimer(idle)
	defer timer.Stop()
	if len(listeners) > 0 && idle > 0 {
		tick = timer.C
	}
	for {
		select {
		case <-done:
			return ""
		case <-tick:
			left := s.idleLeft(idle)
			if left <= 0 {
				// Who connects now is either served by us or left in the queue for the next process.
				if s.pause(listeners, true); s.idleLeft(idle) <= 0 {
					return "idle"
				}
				s.pause(listeners, false)
				s.accept(listeners, panics)
				left = idle
			}
			timer.Reset(left)
		case sig := <-signals:
			if sig != unix.SIGHUP {
				n, _ := sig.(syscall.Signal)
				return unix.SignalName(n)
			}
			if s.Reload != nil {
				s.Reload()
			}
		}
	}
}

// idleLeft is how long the server has to be idle yet.
func (s *Server) idleLeft(idle time.Duration) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.conns) > 0 {
		return idle
	}
	return idle - clock.Since(s.lastBusy)
}

// drain ends the sessions: those that wait at once, those in a transaction when it is over, all after 30 s or a second signal.
func (s *Server) drain(signals <-chan os.Signal) {
	s.mu.Lock()
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
