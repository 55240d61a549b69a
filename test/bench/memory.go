package main

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"time"
)

// memory sends 50 MiB through every program and prints the most that each had resident.
func (b *bench) memory() error {
	for _, d := range []string{"/spool", "/u/Maildir"} {
		if err := os.RemoveAll(b.dir + d); err != nil {
			return err
		}
	}
	big := b.dir + "/big"
	f, err := os.Create(big)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteString("Subject: big\n\n"); err != nil {
		return err
	}
	line := []byte(strings.Repeat("y", 75) + "\n")
	for range 50 << 20 / len(line) {
		if _, err := f.Write(line); err != nil {
			return err
		}
	}
	if err := b.rss("sendmail", big, "", "-oi", "u@bench.test"); err != nil {
		return err
	}
	// smtpd on a pipe takes the same message once more.
	dialog := b.dir + "/dialog"
	if err := exec.Command("sh", "-c", `{ printf 'EHLO x\r\nMAIL FROM:<a@bench.test>\r\nRCPT TO:<u@bench.test>\r\nDATA\r\n'; sed 's/$/\r/' "$1"; printf '.\r\nQUIT\r\n'; } > "$2"`,
		"sh", big, dialog).Run(); err != nil {
		return err
	}
	if err := b.rss("smtpd", dialog, "queued as"); err != nil {
		return err
	}
	if err := exec.Command("sed", "-i", "s/^EHLO/LHLO/", dialog).Run(); err != nil {
		return err
	}
	if err := b.rss("lmtpd", dialog, "250 2."); err != nil {
		return err
	}
	if err := b.rss("deliver", big, "", "u@bench.test"); err != nil {
		return err
	}
	// qmgr brings the two that are queued to a server that takes everything.
	if err := b.hand(); err != nil {
		return err
	}
	commands := b.dir + "/commands"
	if err := os.WriteFile(commands, []byte("USER u\r\nPASS secret\r\nRETR 1\r\nQUIT\r\n"), 0o600); err != nil {
		return err
	}
	return b.rss("pop3d", commands, "+OK")
}

// hand lets qmgr hand over what is queued to lmtpd by LMTP.
func (b *bench) hand() error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer l.Close()

	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			f, err := conn.(*net.TCPConn).File()
			conn.Close()
			if err != nil {
				return
			}
			c := b.command(b.dir, "lmtpd") // one session a connection, as inetd starts it
			c.Stdin, c.Stdout = f, f
			if err := c.Start(); err == nil {
				go func() { _ = c.Wait() }() // qmgr's log and the empty queue tell
			}
			f.Close()
		}
	}()
	config, err := os.ReadFile(b.dir + "/postel.toml")
	if err != nil {
		return err
	}
	config = append(fmt.Appendf(nil, "local = \"lmtp://%s\"\n", l.Addr()), config...)
	if err := os.WriteFile(b.dir+"/relay.toml", config, 0o600); err != nil {
		return err
	}
	return b.rss("qmgr", "/dev/null", "", "--once", "-C", b.dir+"/relay.toml")
}

// rss runs a program on an input file and prints its peak resident memory. Its output must contain want.
func (b *bench) rss(name, input, want string, args ...string) error {
	in, err := os.Open(input)
	if err != nil {
		return err
	}
	defer in.Close()
	c := b.command(b.dir, name, args...)
	out := &head{}
	var errs bytes.Buffer
	c.Stdin, c.Stdout, c.Stderr = in, out, &errs
	if err := c.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- c.Wait() }()
	most, err := watch(c.Process.Pid, ended)
	if err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, errs.String())
	}
	if !strings.Contains(out.text.String(), want) {
		return fmt.Errorf("%s said %q, not %q", name, out.text.String(), want)
	}
	fmt.Printf("memory   %-20s %8.1f MiB resident at most with a 50 MiB message\n", name, most)
	return nil
}

// head keeps the first octets that are written to it.
type head struct{ text strings.Builder }

func (h *head) Write(p []byte) (int, error) {
	if room := 4096 - h.text.Len(); room > 0 {
		h.text.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}

// watch gives the most that a process had resident until it ended. What getrusage(2) says would begin with what this process has had.
func watch(pid int, ended <-chan error) (most float64, err error) {
	for {
		select {
		case err := <-ended:
			return most, err
		case <-time.After(time.Millisecond):
			if _, m := resident(pid); m > most {
				most = m
			}
		}
	}
}
