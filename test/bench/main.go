// Bench measures what the README promises, each as a ratio within one run: the start of a program against a C program that does nothing, a submission
// against Postfix's sendmail on the same disk, and the memory that a 50 MiB message takes on its way. Machines are shared and noisy: rounds are
// interleaved, and medians count.
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	bin := flag.String("bin", "bin", "postel's programs")
	dir := flag.String("dir", "", "folder to work in, on the disk to be measured")
	postfix := flag.String("postfix", "", "root of a running Postfix on the same disk")
	rounds := flag.Int("rounds", 5, "interleaved rounds")
	flag.Parse()
	b := &bench{bin: *bin, dir: *dir, rounds: *rounds}
	if err := errors.Join(b.prepare(), b.start(), b.submit(*postfix), b.memory()); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

type bench struct {
	bin, dir string
	rounds   int
}

func (b *bench) prepare() error {
	config := fmt.Sprintf("hostname = \"bench.test\"\nspool = %q\nusers = %q\nmailbox = \"maildir:~/Maildir\"\naliases = \"\"\n[limits]\nmin_free = \"1MiB\"\n"+
		"message_size = \"64MiB\"\n", b.dir+"/spool", b.dir+"/users")
	return errors.Join(os.WriteFile(b.dir+"/postel.toml", []byte(config), 0o600),
		os.WriteFile(b.dir+"/users", []byte("u:{PLAIN}secret::::"+b.dir+"/u::\n"), 0o600), os.Mkdir(b.dir+"/u", 0o700))
}

func (b *bench) command(name string, args ...string) *exec.Cmd {
	c := exec.Command(filepath.Join(b.bin, name), args...)
	c.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "POSTEL_CONFIG=" + b.dir + "/postel.toml"}
	return c
}

// times runs the commands in turn, n times each, and gives the median of each.
func times(n int, make ...func() *exec.Cmd) ([]time.Duration, error) {
	all := make2(len(make), n)
	for range n {
		for i, f := range make {
			c := f()
			var errs bytes.Buffer
			c.Stderr = &errs
			begin := time.Now()
			if err := c.Run(); err != nil {
				return nil, fmt.Errorf("%s: %w: %s", c, err, errs.String())
			}
			all[i] = append(all[i], time.Since(begin))
		}
	}
	medians := make2(1, len(make))[0]
	for _, d := range all {
		slices.Sort(d)
		medians = append(medians, d[len(d)/2])
	}
	return medians, nil
}

func make2(n, size int) [][]time.Duration {
	s := make([][]time.Duration, n)
	for i := range s {
		s[i] = make([]time.Duration, 0, size)
	}
	return s
}

// compare prints the medians of the rounds' ratios of a to b.
func compare(what, nameA, nameB string, rounds, n int, a, b func() *exec.Cmd) error {
	var ratios []float64
	var ta, tb []time.Duration
	for range rounds {
		m, err := times(n, a, b)
		if err != nil {
			return err
		}
		ratios, ta, tb = append(ratios, float64(m[0])/float64(m[1])), append(ta, m[0]), append(tb, m[1])
	}
	slices.Sort(ratios)
	slices.Sort(ta)
	slices.Sort(tb)
	mid := rounds / 2
	fmt.Printf("%-8s %-20s %8.2f ms   %-20s %8.2f ms   ratio %.2f (%.2f-%.2f)\n", what, nameA, ms(ta[mid]), nameB, ms(tb[mid]), ratios[mid], ratios[0], ratios[rounds-1])
	return nil
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// start compares the start of sendmail with that of a C program that returns 0.
func (b *bench) start() error {
	src := b.dir + "/nothing.c"
	if err := os.WriteFile(src, []byte("int main(void) { return 0; }\n"), 0o600); err != nil {
		return err
	}
	if out, err := exec.Command("cc", "-O2", "-o", b.dir+"/nothing", src).CombinedOutput(); err != nil {
		return fmt.Errorf("cc: %w: %s", err, out)
	}
	return compare("start", "sendmail --version", "C: return 0", b.rounds, 100,
		func() *exec.Cmd { return b.command("sendmail", "--version") },
		func() *exec.Cmd { return exec.Command(b.dir + "/nothing") })
}

var letter = "From: u1@bench.test\nTo: u2@bench.test\nSubject: bench\n\n" + strings.Repeat(strings.Repeat("x", 75)+"\n", 25)

// submit compares `sendmail -oi -t` from start to exit with Postfix's.
func (b *bench) submit(postfix string) error {
	if postfix == "" {
		fmt.Println("submit   left out: no Postfix")
		return nil
	}
	return compare("submit", "postel sendmail", "postfix sendmail", b.rounds, 100,
		func() *exec.Cmd {
			c := b.command("sendmail", "-oi", "-t")
			c.Stdin = strings.NewReader(letter)
			return c
		},
		func() *exec.Cmd {
			c := exec.Command("/usr/sbin/sendmail", "-oi", "-t")
			c.Path, c.Err = "/usr/sbin/sendmail", nil
			c.SysProcAttr = &syscall.SysProcAttr{Chroot: postfix}
			c.Dir, c.Stdin = "/", strings.NewReader(letter)
			return c
		})
}

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
	if err := b.relay(); err != nil {
		return err
	}
	commands := b.dir + "/commands"
	if err := os.WriteFile(commands, []byte("USER u\r\nPASS secret\r\nRETR 1\r\nQUIT\r\n"), 0o600); err != nil {
		return err
	}
	return b.rss("pop3d", commands, "+OK")
}

func (b *bench) relay() error {
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
			c := b.command("lmtpd") // one session a connection, as inetd starts it
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
	c := b.command(name, args...)
	out := &head{}
	var errs bytes.Buffer
	c.Stdin, c.Stdout, c.Stderr = in, out, &errs
	if err := c.Run(); err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, errs.String())
	}
	if !strings.Contains(out.text.String(), want) {
		return fmt.Errorf("%s said %q, not %q", name, out.text.String(), want)
	}
	usage := c.ProcessState.SysUsage().(*syscall.Rusage)
	fmt.Printf("memory   %-20s %8.1f MiB resident at most with a 50 MiB message\n", name, float64(usage.Maxrss)/1024)
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
