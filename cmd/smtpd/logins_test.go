package main

import (
	"crypto/tls"
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/postel-mail/postel/internal/sysexits"
)

func b64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

// add puts lines behind the configuration, of which [tls] is the last table.
func (h *host) add(lines string) {
	h.t.Helper()
	text, err := os.ReadFile(h.config())
	if err != nil {
		h.t.Fatal(err)
	}
	h.write("postel.toml", string(text)+lines)
}

// once runs a session of its own process with a client at ip, and gives the last line of the answer to AUTH.
func (h *host) once(ip, auth string) string {
	h.t.Helper()
	c := h.command("--submission")
	c.Env = append(c.Env, "TCPREMOTEIP="+ip)
	c.Stdin = strings.NewReader("EHLO x\r\n" + auth + "\r\nQUIT\r\n")
	out, err := c.Output()
	if err != nil {
		h.t.Errorf("%v\n%s", err, out)
	}
	_, answer, _ := strings.Cut(string(out), "250 ENHANCEDSTATUSCODES\r\n")
	answer, _, _ = strings.Cut(answer, "\r\n")
	return answer
}

// TestBanOverProcesses: failures count together although each is in a process of its own, as under inetd.
func TestBanOverProcesses(t *testing.T) {
	h := newHost(t)
	h.add("plaintext_login = [\"192.0.2.0/24\"]\n")
	right, wrong := "AUTH PLAIN "+b64("\x00bob\x00secret"), "AUTH PLAIN "+b64("\x00alice\x00wrong")
	if got := h.once("192.0.2.8", right); !strings.HasPrefix(got, "235 ") {
		t.Fatalf("the right password: %s", got)
	}
	var sessions sync.WaitGroup // each failure waits for a second
	for range 10 {
		sessions.Go(func() {
			for _, ip := range []string{"192.0.2.7", "192.0.2.8"} {
				if got := h.once(ip, wrong); !strings.HasPrefix(got, "535 ") {
					t.Errorf("a wrong password from %s: %s", ip, got)
				}
			}
		})
	}
	sessions.Wait()
	for ip, want := range map[string]string{"192.0.2.7": "421 4.7.0 ", "192.0.2.8": "235 2.7.0 ", "192.0.2.9": "235 2.7.0 "} {
		if got := h.once(ip, right); !strings.HasPrefix(got, want) {
			t.Errorf("bob from %s: %s, want %s", ip, got, want)
		}
	}
}

// TestTokenCheck: a server that stays, and is confined, runs the program; the mechanisms are those that the configuration makes possible.
func TestTokenCheck(t *testing.T) {
	h := newHost(t)
	h.write("check", "#!/bin/sh\nread -r token\n[ \"$token\" = good ] || exit 77\necho bob\n")
	if err := os.Chmod(filepath.Join(h.dir, "check"), 0o700); err != nil {
		t.Fatal(err)
	}
	h.certificate("ca.pem", "ca.key", 2)
	h.add("client_ca = '" + h.dir + "/ca.pem'\n[auth]\ntoken_check = '" + h.dir + "/check'\n")
	d := h.start("--submission")
	c := d.dial()
	c.do("EHLO x", "250")
	c.do("STARTTLS", "220")
	conn := tls.Client(c.Conn, &tls.Config{InsecureSkipVerify: true})
	if err := conn.Handshake(); err != nil {
		t.Fatal(err)
	}
	if state := conn.ConnectionState(); state.Version != tls.VersionTLS13 {
		t.Fatalf("TLS %x", state.Version)
	}
	c.Conn = conn
	c.r.Reset(conn)
	c.do("EHLO x", "250")
	c.do("AUTH OAUTHBEARER "+b64("n,,\x01auth=Bearer bad\x01\x01"), "334")
	c.do("AQ==", "535")
	c.do("AUTH XOAUTH2 "+b64("user=robert\x01auth=Bearer good\x01\x01"), "235")
	if line := d.event("login"); !strings.Contains(line, " user=bob ") {
		t.Errorf("log: %s", line)
	}
	c.do("MAIL FROM:<bob@own.example>", "250")
}

// TestLoginErrors: what stands in the way of logging in is a mistake in the configuration.
func TestLoginErrors(t *testing.T) {
	for _, tt := range []struct{ lines, want string }{
		{"client_ca = '%s/none.pem'", "none.pem"},
		{"client_ca = '%s/aliases'", "there is no certificate in"},
	} {
		h := newHost(t)
		h.add(strings.Replace(tt.lines, "%s", h.dir, 1) + "\n")
		c := h.command("--submission", "--check")
		out, _ := c.CombinedOutput()
		if got := c.ProcessState.ExitCode(); got != sysexits.Config || !strings.Contains(string(out), tt.want) {
			t.Errorf("%s: exit status %d, %s", tt.lines, got, out)
		}
	}
}
