package dnszone

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

const text = `
$ORIGIN north.example.
@        IN SOA ns hostmaster 1 3600 600 86400 60
@        IN MX 10 mx1
@        IN MX 20 mx2.south.example.
mx1      IN A 127.0.0.2
mx1      IN AAAA ::1
a.b      IN A 127.0.0.3
alias    IN CNAME over.south.example.
out      IN CNAME elsewhere.test.
ring1    IN CNAME ring2
ring2    IN CNAME ring1
big      IN TXT ( "` + twoHundred + `" "` + twoHundred + `" "` + twoHundred + `" )
$ORIGIN south.example.
@        IN SOA ns hostmaster 1 3600 600 86400 60
@        IN MX 0 .
over     IN CNAME mx2
mx2   60 IN A 127.0.0.4
*.many   IN MX 5 mx2
`

const twoHundred = "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789" +
	"0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789"

func start(t *testing.T, text string) string {
	t.Helper()
	z, err := Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	s, err := z.Serve("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s.Addr()
}

// ask gives a reply as one line: rcode, then the answers' owners and data.
func ask(t *testing.T, network, addr, name string, qtype uint16) string {
	t.Helper()
	q := new(dns.Msg).SetQuestion(name, qtype)
	m, _, err := (&dns.Client{Net: network}).Exchange(q, addr)
	if err != nil {
		t.Fatal(err)
	}
	out := []string{dns.RcodeToString[m.Rcode]}
	for _, rr := range m.Answer {
		data := strings.TrimPrefix(rr.String(), rr.Header().String())
		out = append(out, rr.Header().Name+" "+data)
	}
	slices.Sort(out[1:])
	if m.Truncated {
		out[0] = "TC"
		out = out[:1]
	}
	if len(m.Answer) == 0 && len(m.Ns) > 0 {
		out = append(out, "soa")
	}
	return strings.Join(out, "; ")
}

func TestAnswers(t *testing.T) {
	addr := start(t, text)
	tests := []struct {
		name  string
		qtype uint16
		want  string
	}{
		{"north.example.", dns.TypeMX, "NOERROR; north.example. 10 mx1.north.example.; north.example. 20 mx2.south.example."},
		{"NORTH.example.", dns.TypeMX, "NOERROR; NORTH.example. 10 mx1.north.example.; NORTH.example. 20 mx2.south.example."},
		{"south.example.", dns.TypeMX, "NOERROR; south.example. 0 ."},
		{"north.example.", dns.TypeA, "NOERROR; soa"},
		{"b.north.example.", dns.TypeA, "NOERROR; soa"},
		{"nosuch.north.example.", dns.TypeA, "NXDOMAIN; soa"},
		{"mx1.north.example.", dns.TypeAAAA, "NOERROR; mx1.north.example. ::1"},
		{"alias.north.example.", dns.TypeA, "NOERROR; alias.north.example. over.south.example.; mx2.south.example. 127.0.0.4; over.south.example. mx2.south.example."},
		{"alias.north.example.", dns.TypeCNAME, "NOERROR; alias.north.example. over.south.example."},
		{"out.north.example.", dns.TypeA, "NOERROR; out.north.example. elsewhere.test."},
		{"x.many.south.example.", dns.TypeMX, "NOERROR; x.many.south.example. 5 mx2.south.example."},
		{"x.y.many.south.example.", dns.TypeMX, "NOERROR; x.y.many.south.example. 5 mx2.south.example."},
		{"elsewhere.test.", dns.TypeA, "REFUSED"},
	}
	for _, network := range []string{"udp", "tcp"} {
		for _, tt := range tests {
			if got := ask(t, network, addr, tt.name, tt.qtype); got != tt.want {
				t.Errorf("%s %s %s:\n got %s\nwant %s", network, tt.name, dns.TypeToString[tt.qtype], got, tt.want)
			}
		}
	}
	if got := ask(t, "udp", addr, "big.north.example.", dns.TypeTXT); got != "TC" {
		t.Errorf("over UDP: got %s, want TC", got)
	}
	if got := ask(t, "tcp", addr, "big.north.example.", dns.TypeTXT); !strings.HasPrefix(got, "NOERROR; ") {
		t.Errorf("over TCP: got %s", got)
	}
	if got := ask(t, "tcp", addr, "ring1.north.example.", dns.TypeA); strings.Count(got, ";") > 9 {
		t.Errorf("a ring of CNAMEs: got %s", got)
	}
}

func TestWithoutSOA(t *testing.T) {
	addr := start(t, "a.example. MX 1 b.example.\nb.example. A 127.0.0.1\n")
	for name, want := range map[string]string{"a.example.": "NOERROR; a.example. 1 b.example.", "example.": "NOERROR", "c.test.": "NXDOMAIN"} {
		if got := ask(t, "udp", addr, name, dns.TypeMX); got != want {
			t.Errorf("%s: got %s, want %s", name, got, want)
		}
	}
}

func TestParseError(t *testing.T) {
	for _, text := range []string{"a.example. MX ten b.", "$INCLUDE /etc/passwd\n"} {
		if z, err := Parse(text); err == nil {
			t.Errorf("%q: got %v, want an error", text, fmt.Sprint(z.records))
		}
	}
}
