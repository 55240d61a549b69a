package mx

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"
)

// conf is what resolv.conf(5) says, as far as it concerns absolute names.
type conf struct {
	servers  []string      // "address:port"
	timeout  time.Duration // of one query
	attempts int           // how often each server is asked
	rotate   bool
	tcp      bool // use-vc
}

// settings takes servers from the caller or, with their options, from file.
func settings(servers []string, file string) (conf, error) {
	if len(servers) == 0 {
		text, err := readFile(file)
		if err != nil {
			return conf{}, fmt.Errorf("mx: %w", err)
		}
		return parseResolvConf(text), nil
	}
	c := parseResolvConf("")
	c.servers = nil
	for _, s := range servers {
		addr, ok := serverAddress(s)
		if !ok {
			return conf{}, fmt.Errorf("mx: DNS server %q is not an address", s)
		}
		c.servers = append(c.servers, addr)
	}
	return c, nil
}

func readFile(name string) (string, error) {
	f, err := os.Open(name)
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer f.Close()
	const longest = 64 << 10
	text, err := io.ReadAll(io.LimitReader(f, longest))
	return string(text), err
}

// serverAddress completes an address with port 53.
func serverAddress(s string) (string, bool) {
	if ap, err := netip.ParseAddrPort(s); err == nil && ap.Port() != 0 {
		return ap.String(), true
	}
	if strings.HasPrefix(s, "[") && strings.HasSuffix(s, "]") {
		s = s[1 : len(s)-1]
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		return "", false
	}
	return net.JoinHostPort(a.String(), "53"), true
}

// parseResolvConf reads resolv.conf(5) as libc does: what it does not understand is passed over, at most three servers count, and without any it
// is this host. EDNS0 is always used, so "edns0" says nothing new; "search" and "ndots" concern names that are not absolute.
func parseResolvConf(text string) conf {
	c := conf{timeout: 5 * time.Second, attempts: 2}
	for line := range strings.Lines(text) {
		if i := strings.IndexAny(line, "#;"); i >= 0 {
			line = line[:i]
		}
		words := strings.Fields(line)
		switch {
		case len(words) < 2:
		case words[0] == "nameserver" && len(c.servers) < 3:
			if addr, ok := serverAddress(words[1]); ok {
				c.servers = append(c.servers, addr)
			}
		case words[0] == "options":
			for _, o := range words[1:] {
				c.option(o)
			}
		}
	}
	if len(c.servers) == 0 {
		c.servers = []string{"127.0.0.1:53"}
	}
	return c
}

func (c *conf) option(o string) {
	name, value, _ := strings.Cut(o, ":")
	n, err := strconv.Atoi(value)
	switch {
	case name == "rotate":
		c.rotate = true
	case name == "use-vc":
		c.tcp = true
	case name == "timeout" && err == nil && n > 0:
		c.timeout = time.Duration(min(n, 30)) * time.Second
	case name == "attempts" && err == nil && n > 0:
		c.attempts = min(n, 5)
	}
}
