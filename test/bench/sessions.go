package main

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"strings"
	"time"
)

// sessions opens many SMTP sessions and prints what the server's memory is: 200 after MAIL, 5,000 after EHLO, 1,000 of them under TLS, and when they have left.
func (b *bench) sessions() error {
	s, err := b.exchanger("connections = 6000\nconnections_per_client = 6000\n")
	if err != nil {
		return err
	}
	defer s.end()
	if err := s.sleep(0, false, false); err != nil { // what the first session needs for good
		return err
	}
	before, files := s.pss(), s.files()
	var after ratios
	for _, herd := range []struct {
		n         int
		mail, tls bool
		wanted    string
	}{{200, true, false, ", wanted < 40"}, {5000, false, false, ", wanted < 100"}, {1000, false, true, ""}, {5000, false, false, ", wanted < 100"}} {
		if err := s.sleep(herd.n, herd.mail, herd.tls); err != nil {
			return err
		}
		say("sessions", "%4d open%s%s: %.1f MiB PSS%s; %.1f KiB each", herd.n, map[bool]string{true: " after MAIL"}[herd.mail], map[bool]string{true: " under TLS"}[herd.tls],
			s.most, herd.wanted, (s.most-before)*1024/float64(herd.n))
		if herd.n == 5000 {
			after.add(s.rested())
		}
	}
	say("sessions", "%.1f MiB at first, %.1f when 5,000 have left, %.1f when 6,000 more have: ratio %.2f, wanted <= 1.1; %d descriptors more, wanted 0",
		before, after[0], after[1], after[1]/after[0], s.files()-files)
	return nil
}

// exchanger is a running smtpd.
type exchanger struct {
	*process
	addr  string
	spool string
	most  float64 // MiB PSS, as sleep found it
}

// exchanger starts an smtpd for anybody, with more limits.
func (b *bench) exchanger(limits string) (*exchanger, error) { return b.server(limits) }

// server starts an smtpd with more limits and flags.
func (b *bench) server(limits string, flags ...string) (*exchanger, error) {
	dir := b.dir + "/exchanger"
	if err := errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o700), certify(dir)); err != nil {
		return nil, err
	}
	config := fmt.Sprintf("hostname = \"bench.test\"\nspool = %q\nusers = %q\naliases = \"\"\nrelay_networks = []\n[tls]\ncertificate = %q\nkey = %q\n[limits]\nmin_free = \"1MiB\"\n%s",
		dir+"/spool", b.dir+"/users", dir+"/cert.pem", dir+"/key.pem", limits)
	if err := os.WriteFile(dir+"/postel.toml", []byte(config), 0o600); err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	addr := l.Addr().String()
	l.Close()
	p, err := launch(b.command(dir, "smtpd", append(flags, "--listen", addr)...), dir+"/log")
	if err != nil {
		return nil, err
	}
	if err := p.listens(addr); err != nil {
		p.end()
		log, _ := os.ReadFile(dir + "/log")
		return nil, fmt.Errorf("%w: %s", err, log)
	}
	return &exchanger{process: p, addr: addr, spool: dir + "/spool"}, nil
}

// certify makes a certificate in dir.
func certify(dir string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "bench.test"}, DNSNames: []string{"bench.test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(240 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return err
	}
	pkcs, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return errors.Join(os.WriteFile(dir+"/cert.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600),
		os.WriteFile(dir+"/key.pem", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs}), 0o600))
}

// sleep opens n sessions, notes the memory while they are idle, and closes them.
func (s *exchanger) sleep(n int, mail, secure bool) error {
	var all []net.Conn
	defer func() {
		for _, c := range all {
			c.Close()
		}
	}()
	for range max(n, 1) {
		c, t, err := dial(s.addr, secure)
		if err != nil {
			return err
		}
		all = append(all, c)
		if mail {
			if err := t.say("MAIL FROM:<a@far.example>\r\n", "250"); err != nil {
				return err
			}
		}
	}
	time.Sleep(time.Second)
	s.most = s.pss()
	return nil
}

// talker is a client's end of a session.
type talker struct {
	io.Writer
	r *bufio.Reader
}

// say sends and reads one reply, which begins with want.
func (t talker) say(line, want string) error {
	if _, err := io.WriteString(t.Writer, line); err != nil {
		return err
	}
	for {
		reply, err := t.r.ReadString('\n')
		if err != nil {
			return fmt.Errorf("%.20q: %w", line, err)
		}
		if !strings.HasPrefix(reply, want) {
			return fmt.Errorf("%.20q: %q", line, reply)
		}
		if len(reply) > 3 && reply[3] == ' ' {
			return nil
		}
	}
}

// step is what a client says, and what the answer begins with.
type step struct{ say, want string }

// talk says one thing after the other.
func (t talker) talk(steps ...step) error {
	for _, s := range steps {
		if err := t.say(s.say, s.want); err != nil {
			return err
		}
	}
	return nil
}

const hello = "EHLO client.example\r\n"

// greet begins a session on c, up to EHLO.
func greet(c net.Conn) (talker, error) {
	t := talker{c, bufio.NewReaderSize(c, 512)}
	return t, t.talk(step{"", "220"}, step{hello, "250"})
}

// dial gives a session behind EHLO, under TLS where secure says so.
func dial(addr string, secure bool) (net.Conn, talker, error) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, talker{}, err
	}
	t, err := greet(c)
	if err == nil && secure {
		if err = t.say("STARTTLS\r\n", "220"); err == nil {
			inside := tls.Client(c, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13, CurvePreferences: []tls.CurveID{tls.X25519}}) // what every server has
			t = talker{inside, bufio.NewReaderSize(inside, 512)}
			err = t.say(hello, "250")
		}
	}
	if err != nil {
		c.Close()
	}
	return c, t, err
}

// pss is the share of memory that the process has, in MiB.
func (p *process) pss() (mib float64) {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", p.Process.Pid))
	for line := range strings.Lines(string(b)) {
		var kib float64
		if _, err := fmt.Sscanf(line, "Pss: %f kB", &kib); err == nil {
			return kib / 1024
		}
	}
	return 0
}

// files is how many descriptors the process has open.
func (p *process) files() int {
	all, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.Process.Pid))
	return len(all)
}

// rested is the memory when the sessions are over and the server has had time to give some back.
func (p *process) rested() float64 {
	for range 60 {
		if p.files() < 50 {
			break
		}
		time.Sleep(time.Second)
	}
	time.Sleep(10 * time.Second)
	return p.pss()
}
