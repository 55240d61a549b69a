package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/postel-mail/postel/internal/sysexits"
)

// host writes a configuration with two virtual users in one home each, and gives its file.
func host(t *testing.T) (dir, file string) {
	t.Helper()
	dir = t.TempDir()
	write(t, dir, "users", fmt.Sprintf("alice:{PLAIN}x::::%[1]s/alice::\nbob@b.example:{PLAIN}x::::%[1]s/bob::\n", dir))
	write(t, dir, "aliases", "both: alice, bob@b.example\n")
	file = write(t, dir, "postel.toml", fmt.Sprintf("hostname = %q\ndomains = [%q, %q]\nusers = %q\naliases = %q\nmailbox = %q\n",
		"mail.a.example", "a.example", "b.example", dir+"/users", dir+"/aliases", "maildir:~/Maildir"))
	for _, name := range []string{"alice", "bob"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return dir, file
}

func write(t *testing.T, dir, name, text string) string {
	t.Helper()
	file := filepath.Join(dir, name)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestExit(t *testing.T) {
	dir, good := host(t)
	bad := write(t, dir, "bad", "nonsense = 1\n")
	noUsers := write(t, dir, "nousers", `hostname = "a.example"`+"\nusers = \"/nonexistent/users\"\n")
	badAliases := write(t, dir, "badaliases", `hostname = "a.example"`+"\naliases = \""+write(t, dir, "al", "a: \"b\n")+"\"\n")
	for _, c := range []struct {
		args []string
		want int
	}{
		{[]string{"-C", good, "--check"}, sysexits.OK},
		{[]string{"-C", bad, "--check"}, sysexits.Config},
		{[]string{"-C", bad}, sysexits.Config},
		{[]string{"-C", noUsers}, sysexits.Config},
		{[]string{"-C", badAliases, "--check"}, sysexits.Config},
		{[]string{"-C", "/nonexistent/postel.toml"}, sysexits.Config},
		{[]string{"-C", good, "--listen", "unix:/nonexistent/dir/sock"}, sysexits.TempFail},
		{[]string{"-C", good, "--idle-exit", "soon", "--listen", "127.0.0.1:0"}, sysexits.Usage},
		{[]string{"-C", good, "argument"}, sysexits.Usage},
		{[]string{"--bogus"}, sysexits.Usage},
		{[]string{"--help"}, sysexits.OK},
		{[]string{"--version"}, sysexits.OK},
	} {
		if got := run(c.args); got != c.want {
			t.Errorf("lmtpd %q: exit status %d, want %d", c.args, got, c.want)
		}
	}
}

func TestLacksRights(t *testing.T) {
	for _, tt := range []struct {
		users string
		uid   int
		want  bool
	}{{"system", 0, false}, {"system", 1000, true}, {"/etc/postel/users", 1000, false}, {"/etc/postel/users", 0, false}} {
		if got := lacksRights(tt.users, tt.uid); got != tt.want {
			t.Errorf("%s, user %d: got %v", tt.users, tt.uid, got)
		}
	}
}

// A message goes from the socket into the Maildirs; tables are read again; SIGTERM ends the server with 0.
func TestServer(t *testing.T) {
	dir, file := host(t)
	socket := filepath.Join(dir, "lmtp.sock")
	exit := make(chan int)
	go func() { exit <- run([]string{"-C", file, "--listen", "unix:" + socket}) }()
	var conn net.Conn
	for deadline := time.Now().Add(time.Minute); ; {
		var err error
		if conn, err = net.Dial("unix", socket); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(time.Millisecond)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(conn)
	say := func(line, want string) {
		t.Helper()
		if _, err := io.WriteString(conn, line); err != nil {
			t.Fatal(err)
		}
		for {
			b, _, err := r.ReadLine()
			if err != nil {
				t.Fatalf("%.40q: %v", line, err)
			}
			if s := string(b); len(s) < 4 || s[3] != '-' {
				if !strings.HasPrefix(s, want) {
					t.Errorf("%.40q: got %q, want %q", line, s, want)
				}
				return
			}
		}
	}
	say("", "220 mail.a.example LMTP")
	say("LHLO client.example\r\n", "250 ")
	say("MAIL FROM:<sender@c.example>\r\n", "250 2.1.0 ")
	say("RCPT TO:<alice@a.example>\r\n", "250 2.1.5 ")
	say("RCPT TO:<nobody@a.example>\r\n", "550 5.1.1 ")
	say("RCPT TO:<alice@elsewhere.example>\r\n", "550 5.7.1 ")
	say("RCPT TO:<both@b.example>\r\n", "250 2.1.5 ")
	say("DATA\r\n", "354 ")
	say("Subject: hi\r\n\r\n..hello\r\n.\r\n", "250 2.1.5 <alice@a.example> ")
	say("", "250 2.1.5 <both@b.example> ")
	for name, n := range map[string]int{"alice": 2, "bob": 1} {
		files, err := filepath.Glob(filepath.Join(dir, name, "Maildir/new/*"))
		if err != nil || len(files) != n {
			t.Errorf("%s: files %v, %v, want %d", name, files, err, n)
		}
		for _, f := range files {
			text, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			s := string(text)
			if !strings.HasPrefix(s, "Return-Path: <sender@c.example>\nDelivered-To: "+name+"@") || !strings.Contains(s, "with LMTP\n\tid ") ||
				!strings.HasSuffix(s, "\nSubject: hi\n\n.hello\n") {
				t.Errorf("%s: message\n%s", name, s)
			}
		}
	}
	if err := syscall.Kill(os.Getpid(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	say("", "421 4.3.2 ")
	if got := <-exit; got != 0 {
		t.Errorf("exit status %d, want 0", got)
	}
}
