package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	llsys "github.com/landlock-lsm/go-landlock/landlock/syscall"
)

// TestConfineSocket: a server that gets its socket from systemd tells what it is confined to, as another does.
func TestConfineSocket(t *testing.T) {
	h := newHost(t)
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	f, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	c := h.command("--idle-exit", "1s")
	c.Env, c.ExtraFiles = append(c.Env, "LISTEN_FDS=1"), []*os.File{f}
	c.Stdout = io.Discard
	log, err := c.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(log)
	if e := c.Wait(); e != nil || err != nil || !strings.Contains(string(text), " event=confined ") {
		t.Errorf("%v, %v\n%s", err, e, text)
	}
}

// TestConfine: a server that root starts is the spool's owner when it serves, takes mail, and reads no more than what the configuration named then.
func TestConfine(t *testing.T) {
	h := newHost(t)
	uid := os.Getuid()
	if uid == 0 {
		uid = 65533
		for d := h.dir; d != "/"; d = filepath.Dir(d) {
			if st, err := os.Stat(d); err != nil || st.Mode()&0o001 == 0 && os.Chmod(d, st.Mode()|0o711) != nil {
				t.Fatal(d, err)
			}
		}
		if err := os.Mkdir(h.dir+"/spool", 0o711); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"spool", "users", "aliases", "postel.toml"} { // the key stays root's: it has been read by then
			if err := os.Chown(h.dir+"/"+name, uid, uid); err != nil {
				t.Fatal(err)
			}
		}
	}
	d := h.start()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", d.Process.Pid))
	if err != nil || !strings.Contains(string(status), fmt.Sprintf("\nUid:\t%[1]d\t%[1]d\t%[1]d\t%[1]d\n", uid)) {
		t.Errorf("not user %d: %v\n%s", uid, err, status)
	}
	c := d.dial()
	for _, step := range []string{"EHLO x", "MAIL FROM:<>", "RCPT TO:<bob@own.example>", "DATA"} {
		c.do(step, map[bool]string{true: "354", false: "250"}[step == "DATA"])
	}
	c.do("Subject: x\r\n\r\nhello\r\n.", "250")
	if got := h.queued(); len(got) != 1 {
		t.Errorf("queued: %q", got)
	}
	if _, err := llsys.LandlockGetABIVersion(); err != nil {
		return // the log says so
	}
	elsewhere := t.TempDir()
	for d := elsewhere; d != "/"; d = filepath.Dir(d) {
		if st, err := os.Stat(d); err != nil || os.Getuid() == 0 && st.Mode()&0o001 == 0 && os.Chmod(d, st.Mode()|0o711) != nil {
			t.Fatal(d, err)
		}
	}
	if err := os.WriteFile(elsewhere+"/aliases", []byte("eve: bob\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(h.config())
	if err != nil {
		t.Fatal(err)
	}
	h.write("postel.toml", strings.Replace(string(text), h.dir+"/aliases", elsewhere+"/aliases", 1))
	if err := d.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	if line := d.event("reload-failed"); !strings.Contains(line, "permission denied") {
		t.Errorf("a table elsewhere: %s", line)
	}
}
