package envelope

import (
	"strings"
	"testing"
)

// parseFlags reads what Flags wrote.
func parseFlags(t *testing.T, args []string) DSN {
	t.Helper()
	given := map[string]string{}
	for _, arg := range args {
		name, value, _ := strings.Cut(arg, "=")
		given[name] = value
	}
	d, err := ParseDSN(given["--notify"], given["--orcpt"], given["--return"], given["--envelope-id"])
	if err != nil || len(args) != len(given) {
		t.Fatalf("%q: %v", args, err)
	}
	return d
}

func TestDSNFlags(t *testing.T) {
	for _, tt := range []struct {
		d    DSN
		want string
	}{
		{DSN{}, ""},
		{DSN{"NEVER", "", "", ""}, "--notify=NEVER"},
		{DSN{"SUCCESS,DELAY", "rfc822;a+b@c", "HDRS", "x=1 2"}, "--notify=SUCCESS,DELAY --return=HDRS --envelope-id=x+3D1+202 --orcpt=rfc822;a+2Bb@c"},
		{DSN{"", "utf-8;ø@c", "FULL", ""}, "--return=FULL --orcpt=utf-8;+C3+B8@c"},
	} {
		args := tt.d.Flags()
		if got := strings.Join(args, " "); got != tt.want {
			t.Errorf("%+v: got %s, want %s", tt.d, got, tt.want)
		}
		if again := parseFlags(t, args); again != tt.d {
			t.Errorf("%+v comes back as %+v", tt.d, again)
		}
	}
	if got := (DSN{Notify: "NEVER", ORcpt: "rfc822;a\nb", EnvID: "a\nb"}).Flags(); strings.Join(got, " ") != "--notify=NEVER" {
		t.Errorf("malformed ones: got %q", got)
	}
}

func TestParseDSNRefuses(t *testing.T) {
	for _, tt := range [][4]string{
		{"sometimes"}, {"never,success"}, {"", "a@b"}, {"", "rfc822;"}, {"", ";a"}, {"", "rfc822;a+"}, {"", "rfc822;a+0Ab"}, {"", "rfc822;" + strings.Repeat("a", 500)}, {"", "rfc822;+C3+B8"},
		{"", "", "all"}, {"", "", "", "a b"}, {"", "", "", "+0A"}, {"", "", "", strings.Repeat("x", 101)},
	} {
		if d, err := ParseDSN(tt[0], tt[1], tt[2], tt[3]); err == nil {
			t.Errorf("%q: got %+v", tt, d)
		}
	}
}

func TestWithoutSuccess(t *testing.T) {
	for notify, want := range map[string]string{"": "", "NEVER": "NEVER", "SUCCESS": "NEVER", "FAILURE": "FAILURE", "SUCCESS,FAILURE,DELAY": "FAILURE,DELAY", "DELAY,SUCCESS": "DELAY"} {
		if got := (DSN{Notify: notify, ORcpt: "rfc822;x"}).WithoutSuccess(); got != (DSN{Notify: want, ORcpt: "rfc822;x"}) {
			t.Errorf("%q: got %+v, want %q", notify, got, want)
		}
	}
}

func FuzzDSN(f *testing.F) {
	f.Add("SUCCESS,delay", "rfc822;a+2Bb@c", "hdrs", "x+3D1")
	f.Add("never", "utf-8;+C3+B8@c", "", "")
	f.Add("", "", "", "+")
	f.Fuzz(func(t *testing.T, notify, orcpt, ret, envID string) {
		d, err := ParseDSN(notify, orcpt, ret, envID)
		if err != nil {
			return
		}
		if again := parseFlags(t, d.Flags()); again != d {
			t.Errorf("%+v comes back as %+v", d, again)
		}
		if d.WithoutSuccess().WantsSuccess() {
			t.Errorf("%+v still wants success", d.WithoutSuccess())
		}
	})
}

// TestEncodeORcpt: whatever stands in it, the value is one word of a command.
func TestEncodeORcpt(t *testing.T) {
	for in, want := range map[string]string{
		"": "", "bob": "", "rfc822;bob@x.example": "rfc822;bob@x.example", "rfc822;a+b=c@x.example": "rfc822;a+2Bb+3Dc@x.example",
		"utf-8;bøb@x.example": `utf-8;b\x{F8}b@x.example`, "x400;a;b c": "x400;a;b+20c", "a NOTIFY=NEVER;b": "a+20NOTIFY+3DNEVER;b",
	} {
		if got := EncodeORcpt(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}
