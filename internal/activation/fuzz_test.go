package activation

import (
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
)

// FuzzPassedFiles: what stands in LISTEN_FDS, LISTEN_PID and LISTEN_FDNAMES is followed, refused, or not meant for this process, and children see none of it. A count that
// would be followed is said to be for another process, since the descriptors from 3 on are the test's own.
func FuzzPassedFiles(f *testing.F) {
	for _, v := range [][3]string{
		{"", "", ""}, {"0", "", ""}, {"1", "1", "smtp"}, {"2", "x", "a:b"}, {"-1", "", ""}, {"1001", "", ""}, {"99999999999999999999", "", ":"},
		{"1 ", "", ""}, {"+0", "", ""}, {"0x1", "", ""}, {"1", " 1", ""}, {"00", "0", "\xff"},
	} {
		f.Add(v[0], v[1], v[2])
	}
	own := strconv.Itoa(os.Getpid())
	f.Fuzz(func(t *testing.T, count, pid, names string) {
		if strings.Contains(count+pid+names, "\x00") { // cannot be in an environment
			return
		}
		n, err := strconv.Atoi(count)
		valid := err == nil && n >= 0 && n <= 1000
		if valid && n > 0 && (pid == "" || pid == own) {
			pid = "1"
		}
		for name, v := range map[string]string{"LISTEN_FDS": count, "LISTEN_PID": pid, "LISTEN_FDNAMES": names} {
			t.Setenv(name, v)
		}
		ours := count != "" && (pid == "" || pid == own)
		files, err := passedFiles()
		if len(files) != 0 || (err != nil) != (ours && !valid) {
			t.Errorf("LISTEN_FDS=%q LISTEN_PID=%q: got %d files, %v", count, pid, len(files), err)
		}
		for _, name := range []string{"LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"} {
			if v, ok := os.LookupEnv(name); ok {
				t.Errorf("%s=%q is still there", name, v)
			}
		}
	})
}

// FuzzUCSPI: TCPREMOTEIP and TCPREMOTEPORT give an address that is a client's, or an error; nothing at all would count as private.
func FuzzUCSPI(f *testing.F) {
	for _, v := range [][2]string{
		{"192.0.2.1", "25"}, {"2001:db8::1", "65535"}, {"::ffff:192.0.2.1", "0"}, {"fe80::1%eth0", "x"}, {"", ""}, {"localhost", "1"}, {"192.0.2.1:25", "1"},
		{"[::1]", "1"}, {"192.0.2.01", "1"}, {" 192.0.2.1", "70000"}, {"192.0.2.1\n", "-1"}, {"1.2.3", "1e3"},
	} {
		f.Add(v[0], v[1])
	}
	f.Fuzz(func(t *testing.T, ip, port string) {
		if strings.Contains(ip+port, "\x00") {
			return
		}
		t.Setenv("TCPREMOTEIP", ip)
		t.Setenv("TCPREMOTEPORT", port)
		addr, err := ucspiAddr()
		if (addr == nil) != (err != nil) {
			t.Fatalf("TCPREMOTEIP=%q: got %v, %v", ip, addr, err)
		}
		if err != nil {
			return
		}
		tcp, ok := addr.(*net.TCPAddr)
		if !ok || tcp.IP == nil {
			t.Fatalf("TCPREMOTEIP=%q: got %#v", ip, addr)
		}
		if n, err := strconv.ParseUint(port, 10, 16); err == nil && tcp.Port != int(n) {
			t.Errorf("TCPREMOTEPORT=%q: got %d", port, tcp.Port)
		}
		again := tcp.IP.String()
		if tcp.Zone != "" {
			again += "%" + tcp.Zone
		}
		t.Setenv("TCPREMOTEIP", again)
		if other, err := ucspiAddr(); err != nil || !other.(*net.TCPAddr).IP.Equal(tcp.IP) {
			t.Errorf("TCPREMOTEIP=%q: got %v, and of that %v, %v", ip, addr, other, err)
		}
		if name(addr) == "" || strings.ContainsAny(tcp.IP.String(), "\r\n ") {
			t.Errorf("TCPREMOTEIP=%q: a client by the name of %q", ip, name(addr))
		}
	})
}
