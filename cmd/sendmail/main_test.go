package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/postel-mail/postel/internal/queue"
	"github.com/postel-mail/postel/internal/submission"
	"github.com/postel-mail/postel/test/build"
	"github.com/postel-mail/postel/test/dialog"
)

// bin is the folder of the built program and of stand-ins for the others.
var bin string

func TestMain(m *testing.M) { os.Exit(build.Main(m, &bin, ".")) }

// host is a configuration and its spool.
type host struct {
	t      *testing.T
	config string
	spool  string
	caller uint32 // whom programs run as; 0: as the test
}

func newHost(t *testing.T) *host {
	dir := t.TempDir()
	h := &host{t: t, config: dir + "/postel.toml", spool: dir + "/spool"}
	h.write(h.config, 0o600, fmt.Sprintf("hostname = \"host.example\"\nspool = %q\n[limits]\nmin_free = \"0B\"\nmessage_size = \"64KiB\"\nhops = 3\n", h.spool))
	return h
}

func (h *host) write(file string, mode os.FileMode, text string) {
	h.t.Helper()
	if err := os.WriteFile(file, []byte(text), mode); err != nil {
		h.t.Fatal(err)
	}
}

// run runs a program and gives its exit status and output.
func (h *host) run(program, stdin string, args ...string) (status int, stdout, stderr string) {
	h.t.Helper()
	var out, errs bytes.Buffer
	c := &exec.Cmd{Path: program, Args: append([]string{program}, args...), Stdin: strings.NewReader(stdin), Stdout: &out, Stderr: &errs,
		Env: []string{"POSTEL_CONFIG=" + h.config, "USER=mallory", "LOGNAME=mallory", "HOME=/"}}
	if h.caller != 0 {
		c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: h.caller, Gid: h.caller}}
	}
	err := c.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		h.t.Fatal(err)
	}
	return c.ProcessState.ExitCode(), out.String(), errs.String()
}

// queued takes the one message out of the queue and gives its envelope in one line, and its content.
func (h *host) queued() (env, content string) {
	h.t.Helper()
	s, err := queue.Open(h.spool)
	if err != nil {
		h.t.Fatal(err)
	}
	defer s.Close()
	ids, err := s.IDs()
	if err != nil || len(ids) != 1 {
		return fmt.Sprintf("%d messages %v", len(ids), err), ""
	}
	m, err := s.Claim(ids[0])
	if err != nil {
		h.t.Fatal(err)
	}
	defer m.Close()
	b, err := io.ReadAll(m.Body())
	if err != nil {
		h.t.Fatal(err)
	}
	if err := m.Remove(); err != nil {
		h.t.Fatal(err)
	}
	env = m.Envelope.From.Angle()
	for _, r := range m.Envelope.Rcpts {
		env += " " + r.To.Angle()
		if r.Notify != "" {
			env += "=" + r.Notify
		}
	}
	if m.Envelope.UID != os.Getuid() {
		h.t.Errorf("uid %d", m.Envelope.UID)
	}
	return strings.TrimSpace(env + " " + m.Envelope.Ret + m.Envelope.EnvID + m.Envelope.Body), string(b)
}

func TestSubmit(t *testing.T) {
	h := newHost(t)
	s := submission.Submission{Hostname: "host.example"}
	if err := s.SetCaller(os.Getuid()); err != nil {
		t.Fatal(err)
	}
	me := s.Sender.Angle()
	for _, c := range []struct {
		args, in string // arguments separated by "~"
		env      string
		has      string
	}{
		{"bob", "Subject: x\n\nhi\n", me + " <bob@host.example>", "\r\nSubject: x\r\nFrom: "},
		{"a@b, c~\"D E\" <f@g>", "\n", me + " <a@b> <c@host.example> <f@g>", ""},
		{"-t", "To: a\nBcc: b@c\n\n", me + " <a@host.example> <b@c>", "To: a@host.example\r\nFrom: "},
		{"-t~x@y", "To: a@b\n\n", me + " <x@y> <a@b>", ""},
		{"-f~~a@b", "\n", "<> <a@b>", "From: Mail Delivery System <MAILER-DAEMON@host.example>\r\n"},
		{"-f~<>~a@b", "\n", "<> <a@b>", ""},
		{"-f~boss~-F~The Boss~a@b", "\n", "<boss@host.example> <a@b>", "From: The Boss <boss@host.example>\r\n"},
		{"a@b~-r~me@x.example~-i", "\n.\nx\n", "<me@x.example> <a@b>", "From: me@x.example\r\n"},
		{"-fx@y~-F~Evil\r\nBcc: z~a@b", "\n", "<x@y> <a@b>", "From: \"Evil  Bcc: z\" <x@y>\r\n"},
		{"-oi~-odb~-oem~-h~3~-Ac~-p~x~-Ltag~-OQueueDirectory=/tmp~-X~/nonexistent/log~a@b", "\nx\n.\ny\n", me + " <a@b>", "\r\n\r\nx\r\n.\r\ny\r\n"},
		{"a@b", "\nx\n.\ny\n", me + " <a@b>", "\r\n\r\nx\r\n"},
		{"-N~success,delay~-R~hdrs~-V~id+2B~-B~8bitmime~a@b", "\n", me + " <a@b>=SUCCESS,DELAY HDRSid+8BITMIME", ""},
		{"-bm~-v~-U~-n~-m~-x~a@b", "\n", me + " <a@b>", ""},
		{"-G~a@b", "Bcc: c\n\nx", me + " <a@b>", "\r\nBcc: c\r\n\r\nx\r\n"},
		{"--~-t@b~--help~__complete", "\n", me + " <-t@b> <--help@host.example> <__complete@host.example>", ""},
		{"completion~bash~help", "\n", me + " <completion@host.example> <bash@host.example> <help@host.example>", ""},
		{`\root~"|/bin/sh"~../../x~|/bin/sh~"$(reboot)"@b~$HOME;x`, "\n",
			me + ` <root@host.example> <|/bin/sh@host.example> <"../../x"@host.example> <"$(reboot)"@b> <$HOME@host.example> <x@host.example>`, ""},
	} {
		status, stdout, stderr := h.run(bin+"/sendmail", c.in, strings.Split(c.args, "~")...)
		env, content := h.queued()
		if status != 0 || stderr != "" || env != c.env || !strings.Contains(content, c.has) || strings.Contains(content, "\n.\r\ny") && strings.HasSuffix(c.has, "x\r\n") {
			t.Errorf("%q: exit %d %s\ngot  %s\n%s\nwant %s\nwith %q", c.args, status, stderr, env, content, c.env, c.has)
		}
		if verbose := strings.Contains(c.args, "-v"); verbose != strings.HasPrefix(stdout, "queued as ") {
			t.Errorf("%q: says %q", c.args, stdout)
		}
	}
}

func TestStatus(t *testing.T) {
	h := newHost(t)
	bad := filepath.Join(t.TempDir(), "bad.toml")
	h.write(bad, 0o600, "hostnam = \"x\"\n")
	file := filepath.Join(t.TempDir(), "file.toml")
	h.write(file, 0o600, fmt.Sprintf("hostname = \"h.example\"\nspool = %q\n", bad+"/spool"))
	for _, c := range []struct {
		args, in string
		status   int
		stderr   string
	}{
		{"", "To: a@b\n\n", 64, "sendmail: no recipients\n"},
		{"-t", "Subject: x\n\n", 65, "sendmail: no recipients in To, Cc or Bcc of the message\n"},
		{"-t", "To: John Smith\n\n", 65, "sendmail: To: malformed address \"John Smith\"\n"},
		{"a b", "", 64, "sendmail: recipient: malformed address \"a b\"\n"},
		{"-f|a b|c", "", 64, "sendmail: -f \"a b\": malformed address \"a b\"\n"},
		{"-N|sometimes|c", "", 64, "sendmail: -N \"sometimes\": "},
		{"-R|all|c", "", 64, "sendmail: -R \"all\": "},
		{"-V|\n|c", "", 64, "sendmail: -V \"\\n\": "},
		{"-B|9bit|c", "", 64, "sendmail: -B \"9bit\": "},
		{"-Z", "", 64, "sendmail: unknown flag -Z "},
		{"--zzz", "", 64, "sendmail: unknown flag: --zzz (see sendmail --help)\n"},
		{"-f", "", 64, "sendmail: flag -f needs a value\n"},
		{"--config", "", 64, "sendmail: flag --config needs a value\n"},
		{"-bt", "", 64, "sendmail: mode -bt is not supported"},
		{"-qx", "", 64, "sendmail: -qx: \"x\" is not a duration"},
		{"a", "Received: a\nReceived: b\nReceived: c\nReceived: d\n\n", 69, "sendmail: 554 5.4.6 Too many hops: the message has 4 Received fields\n"},
		{"a", strings.Repeat("x", 70_000), 69, "sendmail: 552 5.3.4 Message is larger than 65536 octets, limits.message_size\n"},
		{"-C|" + bad + "|a", "", 78, "sendmail: " + bad + ":1:1: unknown key \"hostnam\"\n"},
		{"--check|-C|" + bad, "", 78, "sendmail: " + bad + ":1:1: unknown key \"hostnam\"\n"},
		{"-C/nonexistent|a", "", 78, "sendmail: cannot read configuration: open /nonexistent: no such file or directory\n"},
		{"-C|" + file + "|a", "\n", 75, "sendmail: cannot use the spool " + bad + "/spool: "},
	} {
		var args []string
		if c.args != "" {
			args = strings.Split(c.args, "|")
		}
		status, stdout, stderr := h.run(bin+"/sendmail", c.in, args...)
		if status != c.status || stdout != "" || !strings.HasPrefix(stderr, c.stderr) || strings.Count(stderr, "\n") != 1 {
			t.Errorf("%q: exit %d %q %q, want %d %q", c.args, status, stdout, stderr, c.status, c.stderr)
		}
	}
	if env, _ := h.queued(); env != "0 messages <nil>" {
		t.Errorf("after refusals: %s", env)
	}
	if status, stdout, stderr := h.run(bin+"/sendmail", "", "--check"); status != 0 || stdout != "" || stderr != "" {
		t.Errorf("--check: exit %d %q %q", status, stdout, stderr)
	}
	for _, flag := range []string{"--help", "--version"} {
		if status, stdout, stderr := h.run(bin+"/sendmail", "", flag, "x"); status != 0 || stdout == "" || stderr != "" {
			t.Errorf("%s: exit %d %q %q", flag, status, stdout, stderr)
		}
	}
}

// stranger makes h's spool one that the caller of sendmail may not write: by another user where there is one, else by its mode. The function that it
// gives runs sendmail as that caller.
func (h *host) stranger(submit string) func(stdin string, args ...string) (status int, stdout, stderr string) {
	h.t.Helper()
	spool, err := queue.Open(h.spool)
	if err != nil {
		h.t.Fatal(err)
	}
	spool.Close()
	dir := filepath.Dir(h.config)
	h.write(h.config, 0o644, fmt.Sprintf("hostname = \"host.example\"\nspool = %q\nsubmit = %q\n[limits]\nmin_free = \"0B\"\nrecipients = 100\n", h.spool, submit))
	if err := errors.Join(os.Chmod(filepath.Dir(dir), 0o711), os.Chmod(dir, 0o711), os.Chmod(h.config, 0o644)); err != nil {
		h.t.Fatal(err)
	}
	if os.Getuid() == 0 {
		h.caller = 65534
	} else {
		if err := os.Chmod(h.spool, 0o311); err != nil {
			h.t.Fatal(err)
		}
		h.t.Cleanup(func() { _ = os.Chmod(h.spool, 0o711) })
	}
	return func(stdin string, args ...string) (int, string, string) {
		return h.run(bin+"/sendmail", stdin, args...)
	}
}

// dropped reads the one message in the drop directory, or gives "".
func (h *host) dropped() string {
	h.t.Helper()
	if err := os.Chmod(h.spool+"/drop", 0o733); err != nil {
		h.t.Fatal(err)
	}
	names, err := filepath.Glob(h.spool + "/drop/*")
	if err != nil || len(names) > 1 {
		h.t.Fatalf("%q %v", names, err)
	}
	if len(names) == 0 {
		return ""
	}
	text, err := os.ReadFile(names[0])
	if err != nil {
		h.t.Fatal(err)
	}
	return string(text)
}

// TestWays: who may not write the queue hands the message to the submission server, and where there is none to the drop directory; but never to both.
func TestWays(t *testing.T) {
	const upToMessage = "S: 220 x\nC. EHLO host.example\nS: 250-x\nS: 250 PIPELINING\nC: MAIL FROM:<me@x.example>\nC. RCPT TO:<bob@host.example>\nS: 250 ok\nS: 250 ok\n"
	for _, c := range []struct {
		name, script string
		status       int
		stdout       string
		stderr       string
		drops        bool
	}{
		{"server", upToMessage + "C. DATA\nS: 354 go\nC| \"Subject: x\\r\\nFrom: me@x.example\\r\\nDate: \"\nBODY\nS: 250 2.0.0 Ok: queued as abc\nC: QUIT", 0, "queued as abc\n", "", false},
		{"no server", "", 0, "queued as 1", "", true},
		{"server is busy", "S: 421 4.3.2 busy", 0, "queued as 1", "", true},
		{"server's disk is full", upToMessage + "C. DATA\nS: 452 4.3.1 full", 0, "queued as 1", "", true},
		{"server refuses the user", upToMessage[:len(upToMessage)-len("S: 250 ok\n")] + "S: 550 5.1.1 unknown", 67, "", "sendmail: 550 5.1.1 unknown: said of RCPT TO:<bob@host.example>\n", false},
		{"server refuses the message", upToMessage + "C. DATA\nS: 354 go\nBODY\nS: 554 5.7.1 spam", 69, "", "sendmail: 554 5.7.1 spam: said of the message\n", false},
		{"server dies behind the message", upToMessage + "C. DATA\nS: 354 go\nBODY\nCLOSE", 75, "", "sendmail: the submission server was given the message and may have taken it", false},
	} {
		h := newHost(t)
		socket := filepath.Dir(h.config) + "/submit.sock"
		run := h.stranger(socket)
		played := make(chan error, 1)
		if c.script == "" {
			played <- nil
		} else {
			l, err := net.Listen("unix", socket)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(socket, 0o666); err != nil {
				t.Fatal(err)
			}
			go func() {
				conn, err := l.Accept()
				l.Close()
				if err == nil {
					err = dialog.Server{}.Play(conn, c.script)
				}
				played <- err
			}()
		}
		status, stdout, stderr := run("Subject: x\n\nhi\n", "-v", "-f", "me@x.example", "bob")
		if err := <-played; err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if status != c.status || !strings.HasPrefix(stdout, c.stdout) || !strings.HasPrefix(stderr, c.stderr) || c.stderr == "" && stderr != "" || strings.Count(stderr, "\n") > 1 {
			t.Errorf("%s: exit %d %q %q", c.name, status, stdout, stderr)
		}
		text := h.dropped()
		if !c.drops && text == "" {
			continue
		}
		id := strings.TrimSpace(strings.TrimPrefix(stdout, "queued as "))
		if !strings.HasPrefix(text, "postel-queue 1\nSize: ") || !strings.Contains(text, "\nTo: <bob@host.example>\n\nSubject: x\r\nFrom: me@x.example\r\nDate: ") ||
			!strings.Contains(text, "\r\nMessage-ID: <"+id+"@host.example>\r\n\r\nhi\r\n") || !c.drops {
			t.Errorf("%s: dropped %q", c.name, text)
		}
	}
}

// TestNoWay: when nothing is open, one line says so, with all reasons.
func TestNoWay(t *testing.T) {
	h := newHost(t)
	run := h.stranger("/nonexistent/submit.sock")
	if err := os.Remove(h.spool + "/drop"); err != nil {
		t.Fatal(err)
	}
	status, _, stderr := run("\n", "a")
	for _, want := range []string{h.spool + ": permission denied", "connect /nonexistent/submit.sock: no such file", h.spool + "/drop: no such file"} {
		if status != 75 || !strings.Contains(stderr, want) || strings.Count(stderr, "\n") != 1 {
			t.Errorf("exit %d %q, want %q", status, stderr, want)
		}
	}
}

// TestTooManyRecipients: what the collector would not take is refused while somebody listens.
func TestTooManyRecipients(t *testing.T) {
	h := newHost(t)
	run := h.stranger("/nonexistent/submit.sock")
	var rcpts []string
	for n := range 101 {
		rcpts = append(rcpts, fmt.Sprint("r", n))
	}
	status, _, stderr := run("\n", rcpts...)
	if want := "sendmail: 554 5.5.3 Message has 101 recipients, limits.recipients is 100\n"; status != 69 || stderr != want {
		t.Errorf("exit %d %q, want 69 %q", status, stderr, want)
	}
	if text := h.dropped(); text != "" {
		t.Errorf("dropped %q", text)
	}
}

// lineSource is a message of n octets: one line, or lines of 64.
type lineSource struct {
	n   int
	one bool
}

func (l *lineSource) Read(p []byte) (int, error) {
	n := min(len(p), l.n)
	for i := range p[:n] {
		if p[i] = 'x'; !l.one && (l.n-i)%64 == 0 {
			p[i] = '\n'
		}
	}
	if l.n -= n; n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

// A message of nearly 50 MiB, in short lines and in one that has to be encoded, passes in less than 32 MiB of memory.
func TestMemory(t *testing.T) {
	for _, one := range []bool{false, true} {
		h := newHost(t)
		h.write(h.config, 0o600, fmt.Sprintf("hostname = \"host.example\"\nspool = %q\n[limits]\nmin_free = \"0B\"\n", h.spool))
		kib, id := h.peak(io.MultiReader(strings.NewReader("Subject: x\n\n"), &lineSource{n: 49 << 20, one: one}))
		if kib > 32<<10 {
			t.Errorf("one line %v: %d KiB of memory", one, kib)
		}
		spool, err := queue.Open(h.spool)
		if err != nil {
			t.Fatal(err)
		}
		defer spool.Close()
		m, err := spool.Claim(id)
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		head := make([]byte, 1000)
		if _, err := io.ReadFull(m.Body(), head); err != nil {
			t.Fatal(err)
		}
		if encoded := bytes.Contains(head, []byte("quoted-printable")); m.Size() < 49<<20 || encoded != one {
			t.Errorf("one line %v: %d octets, encoded %v", one, m.Size(), encoded)
		}
	}
}

// peak submits a message and gives the most memory that sendmail had, in KiB, and the queue id. The memory is read when the message is queued
// and sendmail waits to print its id into a full pipe: what wait4(2) tells later begins with the memory of this process.
func (h *host) peak(in io.Reader) (kib int, id string) {
	h.t.Helper()
	check := func(err error) {
		h.t.Helper()
		if err != nil {
			h.t.Fatal(err)
		}
	}
	spool, err := queue.Open(h.spool)
	check(err)
	defer spool.Close()
	trigger, err := spool.OpenTrigger()
	check(err)
	r, w, err := os.Pipe()
	check(err)
	defer r.Close()
	size, err := unix.FcntlInt(w.Fd(), unix.F_SETPIPE_SZ, os.Getpagesize())
	check(err)
	_, err = w.Write(make([]byte, size))
	check(err)
	c := exec.Command(bin+"/sendmail", "-v", "-i", "-C", h.config, "a@b")
	c.Stdin, c.Stdout = in, w
	check(c.Start())
	w.Close()
	ended := make(chan error, 1)
	go func() {
		ended <- c.Wait()
		trigger.Close() // should it never have been pulled
	}()
	check(spool.Wakeups(trigger, func(woken string) {
		id = woken
		trigger.Close()
	}))
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.Process.Pid))
	check(err)
	_, rest, _ := strings.Cut(string(text), "VmHWM:")
	_, err = fmt.Sscan(rest, &kib)
	check(err)
	_, err = io.Copy(io.Discard, r)
	check(err)
	check(<-ended)
	return kib, id
}

func TestAgents(t *testing.T) {
	h := newHost(t)
	for _, name := range []string{"smtpd", "qmgr", "mailq", "deliver"} {
		h.write(filepath.Join(bin, name), 0o700, "#!/bin/sh\nprintf '%s' \"${0##*/}\"; printf ' %s' \"$@\"; cat; exit 69\n")
	}
	if err := os.Symlink("sendmail", bin+"/newaliases"); err != nil && !errors.Is(err, os.ErrExist) {
		t.Fatal(err)
	}
	for _, c := range []struct{ program, args, want string }{
		{"sendmail", "-bp", "mailq"},
		{"sendmail", "-bP", "mailq"},
		{"sendmail", "-bp -v -C /x", "mailq --config=/x"},
		{"sendmail", "-bp -qRx@y", "mailq --to=x@y"},
		{"sendmail", "-q", "qmgr --log=syslog --once"},
		{"sendmail", "-q -v", "qmgr --once"},
		{"sendmail", "-q -v --log json", "qmgr --log=json --once"},
		{"sendmail", "-qf", "qmgr --log=syslog --once"},
		{"sendmail", "-q5s", "qmgr --wake=5s"},
		{"sendmail", "-q15", "qmgr --wake=15m"},
		{"sendmail", "-q1h30m", "qmgr --wake=1h30m"},
		{"sendmail", "-qp5m", "qmgr --wake=5m"},
		{"sendmail", "-qp", "qmgr"},
		{"sendmail", "-qIabc -C/x", "mailq --config=/x retry --id=abc"},
		{"sendmail", "-qRx@y", "mailq retry --to=x@y"},
		{"sendmail", "-qSx@y", "mailq retry --from=x@y"},
		{"sendmail", "-bs", "smtpd --log=syslog --submission"},
		{"sendmail", "-bs -odb -t --log text", "smtpd --log=text --submission"},
		{"sendmail", "-bv a@b -- -c", "qmgr --route -- a@b -c"},
		{"sendmail", "-bi", "deliver --check"},
		{"sendmail", "-I -C/x", "deliver --config=/x --check"},
		{"newaliases", "", "deliver --check"},
	} {
		status, stdout, stderr := h.run(filepath.Join(bin, c.program), "<stdin>", strings.Fields(c.args)...)
		if want := c.want; status != 69 || strings.TrimSpace(strings.TrimSuffix(stdout, "<stdin>")) != want || !strings.HasSuffix(stdout, "<stdin>") || stderr != "" {
			t.Errorf("%s %s: exit %d %q %q, want %q", c.program, c.args, status, stdout, stderr, want)
		}
	}
	if err := os.Remove(bin + "/mailq"); err != nil {
		t.Fatal(err)
	}
	if status, _, stderr := h.run(bin+"/sendmail", "", "-bp"); status != 75 || stderr != "sendmail: cannot run "+bin+"/mailq: no such file or directory\n" {
		t.Errorf("no mailq: exit %d %q", status, stderr)
	}
}

func TestDaemons(t *testing.T) {
	h := newHost(t)
	const stays = "#!/bin/sh\ntrap 'exit 0' TERM\necho \"${0##*/}\" \"$@\"\nwhile :; do sleep 0.05; done\n"
	h.write(bin+"/smtpd", 0o700, stays)
	for _, c := range []struct {
		name, qmgr string
		status     int
		stderr     string
	}{
		{"signal", stays, 0, ""},
		{"one ends", "#!/bin/sh\nexit 0\n", 0, ""},
		{"one fails", "#!/bin/sh\nexit 78\n", 78, "sendmail: qmgr ended: exit status 78\n"},
		{"one is killed", "#!/bin/sh\nkill -9 $$\n", 75, "sendmail: qmgr ended: signal: killed\n"},
		{"one cannot start", "", 75, "sendmail: cannot run qmgr: "},
	} {
		h.write(bin+"/qmgr", 0o700, c.qmgr)
		if c.qmgr == "" {
			if err := os.Remove(bin + "/qmgr"); err != nil {
				t.Fatal(err)
			}
		}
		cmd := exec.Command(bin+"/sendmail", "-bd", "-q5m", "-C", h.config)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var said strings.Builder
		if c.qmgr == stays { // both are up when both have spoken
			buf := make([]byte, 256)
			for strings.Count(said.String(), "\n") < 2 {
				n, err := out.Read(buf)
				if err != nil {
					t.Fatal(err)
				}
				said.Write(buf[:n])
			}
			if s := said.String(); !strings.Contains(s, "smtpd --config="+h.config+" --listen :25\n") || !strings.Contains(s, "qmgr --config="+h.config+" --wake=5m\n") {
				t.Errorf("%s: %q", c.name, s)
			}
			if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
		}
		_, _ = io.Copy(io.Discard, out)
		_ = cmd.Wait()
		if got := cmd.ProcessState.ExitCode(); got != c.status || !strings.HasPrefix(stderr.String(), c.stderr) || (c.stderr == "" && stderr.Len() > 0) {
			t.Errorf("%s: exit %d %q, want %d %q", c.name, got, stderr.String(), c.status, c.stderr)
		}
	}
}

// TestSmall: nothing is linked in that speaks to the network, or that every message would wait for while it is initialised.
func TestSmall(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for pkg := range strings.FieldsSeq(string(out)) {
		found = found || pkg == "github.com/postel-mail/postel/internal/queue"
		top, _, _ := strings.Cut(pkg, "/")
		switch {
		case pkg == "net/netip": // addresses alone
		case top == "net", top == "crypto", top == "regexp", top == "text", top == "flag", strings.HasPrefix(pkg, "math/big"),
			strings.HasPrefix(pkg, "github.com/") && !strings.HasPrefix(pkg, "github.com/postel-mail/") && !strings.HasPrefix(pkg, "github.com/pelletier/go-toml/"):
			t.Errorf("%s is linked in", pkg)
		}
	}
	if !found {
		t.Errorf("the list is not what this test expects: %s", out)
	}
}

// TestClosedInput: a caller without standard input has no message. One that is empty is a message.
func TestClosedInput(t *testing.T) {
	h := newHost(t)
	status, _, stderr := h.run("/bin/sh", "", "-c", bin+"/sendmail bob <&-")
	if want := "sendmail: standard input is closed\n"; status != 74 || stderr != want {
		t.Errorf("got exit %d, %q; want 74, %q", status, stderr, want)
	}
	if env, _ := h.queued(); env != "0 messages <nil>" {
		t.Errorf("queued: %s", env)
	}
	if status, _, stderr := h.run("/bin/sh", "", "-c", bin+"/sendmail -f x@y bob </dev/null"); status != 0 {
		t.Errorf("an empty file: got exit %d, %q", status, stderr)
	}
	if env, _ := h.queued(); env != "<x@y> <bob@host.example>" {
		t.Errorf("queued: %s", env)
	}
}
