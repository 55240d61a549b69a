package runner

import (
	"bytes"
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/postel-mail/postel/internal/alias"
	"github.com/postel-mail/postel/internal/destination"
	"github.com/postel-mail/postel/internal/mx"
	"github.com/postel-mail/postel/internal/status"
	"github.com/postel-mail/postel/internal/sysexits"
)

func TestGuide(t *testing.T) {
	file := filepath.Join(t.TempDir(), "aliases")
	if err := os.WriteFile(file, []byte("sales: bob, carol@south.example, |/bin/true\nring: ring\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	aliases, err := alias.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	parse := func(list ...string) (dests []destination.Destination) {
		for _, s := range list {
			d, err := destination.Parse(s)
			if err != nil {
				t.Fatal(err)
			}
			dests = append(dests, d)
		}
		return dests
	}
	answers := map[string]error{"null.example": mx.ErrNullMX, "null.list.example": mx.ErrNullMX, "gone.example": mx.ErrNoDomain, "gone.list.example": mx.ErrNoDomain, "slow.example": context.DeadlineExceeded}
	g := &Guide{
		Routes: &Routes{Domains: []string{"north.example"}, Local: parse("lmtp:///l")[0], Table: map[string][]destination.Destination{
			"east.example":  parse("smtp://192.0.2.9"),
			"west.example":  parse("smtps://u@hub.example:4650", "smtp://none.example"),
			".list.example": parse("mx:", "lmtp:///other"),
		}},
		Aliases: aliases, Hostname: "north.example", Delimiter: "+",
		MX: func(_ context.Context, domain string) (mx.Answer, error) {
			if err := answers[domain]; err != nil {
				return mx.Answer{}, err
			}
			return mx.Answer{Name: domain, Hosts: []mx.Host{{Preference: 10, Name: "one.example"}, {Preference: 20, Name: "none.example"}, {Preference: 30, Name: "north.example"}}}, nil
		},
		Addresses: func(_ context.Context, host string) ([]netip.Addr, error) {
			if host == "none.example" {
				return nil, status.Permanent(550, "5.1.2", "no such host", nil)
			}
			return []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")}, nil
		},
	}
	hosts := "\t10 one.example 192.0.2.1\n\t10 one.example 2001:db8::1\n\t20 none.example: 550 5.1.2 no such host\n"
	for _, tt := range []struct {
		addr, want string
		exit       int
	}{
		{"x@south.example", "x@south.example: mx, to mx:\n" + hosts, 0},
		{"x@null.example", "x@null.example: mx, to mx:\n", sysexits.Unavailable},
		{"x@gone.example", "x@gone.example: mx, to mx:\n", sysexits.NoHost},
		{"x@slow.example", "x@slow.example: mx, to mx:\n", sysexits.TempFail},
		{"x@east.example", "x@east.example: east.example, to smtp://192.0.2.9\n", 0},
		{"x@west.example", "x@west.example: west.example, to smtps://u@hub.example:4650\n\thub.example 192.0.2.1\n\thub.example 2001:db8::1\n" +
			"x@west.example: west.example, then to smtp://none.example\n\tnone.example: 550 5.1.2 no such host\n", 0},
		{"x@a.list.example", "x@a.list.example: .list.example, to mx:\n" + hosts + "x@a.list.example: .list.example, then to lmtp:///other\n", 0},
		{"x@gone.list.example", "x@gone.list.example: .list.example, to mx:\n\tx@gone.list.example: no such domain\nx@gone.list.example: .list.example, then to lmtp:///other\n", 0},
		{"x@null.list.example", "x@null.list.example: .list.example, to mx:\n", sysexits.Unavailable}, // as transport has it
		{"bob+x", "bob+x@north.example: local, to lmtp:///l\n", 0},
		{"sales+x", "sales+x@north.example: local, to lmtp:///l\n\tbob@north.example: local, to lmtp:///l\n\tcarol@south.example: mx, to mx:\n" +
			"\t\t10 one.example 192.0.2.1\n\t\t10 one.example 2001:db8::1\n\t\t20 none.example: 550 5.1.2 no such host\n\tpipe:/bin/true\n", 0},
		{"a b", "", sysexits.DataErr},
	} {
		var out bytes.Buffer
		err := g.Show(t.Context(), &out, []string{tt.addr})
		if got := sysexits.Of(err); out.String() != tt.want || got != tt.exit {
			t.Errorf("%s: exit %d, %v, got\n%s\nwant %d,\n%s", tt.addr, got, err, out.String(), tt.exit, tt.want)
		}
	}
	err = g.Show(t.Context(), &bytes.Buffer{}, []string{"x@null.example", "x@east.example", "x@gone.example"})
	if !errors.Is(err, mx.ErrNullMX) || !errors.Is(err, mx.ErrNoDomain) || sysexits.Of(err) != sysexits.Unavailable {
		t.Errorf("of several: %v", err)
	}
}
