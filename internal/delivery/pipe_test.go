package delivery

import (
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/postel-mail/postel/internal/address"
	"github.com/postel-mail/postel/internal/destination"
	"github.com/postel-mail/postel/internal/userdb"
)

// otherRights are those of nobody where the test is root, which runs no command with its own.
func otherRights() *syscall.Credential {
	if os.Geteuid() == 0 {
		return &syscall.Credential{Uid: 65534, Gid: 65534}
	}
	return nil
}

func TestPipe(t *testing.T) {
	r := newRig(t, "")
	m := msg("bob+box@example.org")
	m.Arrival = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	m.Original = address.Path{Local: "team", Domain: "example.org"}
	j, err := r.begin(m)
	if err != nil {
		t.Fatal(err)
	}
	u := userdb.User{Name: "bob", UID: -1, GID: -1, Home: "/"}
	for _, tt := range []struct {
		script, want string
		piped        bool
	}{
		{"exit 0", "", false},
		{"cat >/dev/null; echo 5.2.2 no room; exit 69", "550 5.2.2 no room", false},
		{"exit 75", "451 4.3.0 Temporary failure", false},
		{"kill -9 $$", "451 4.3.0 Delivery program failed", false},
		{`test "$SENDER $RECIPIENT $ORIGINAL_RECIPIENT $USER $EXTENSION $LOCAL $DOMAIN $HOME $POSTEL_ID" = ` +
			`'"a b"@sender.example bob+box@example.org team@example.org bob box bob+box example.org / 0id.3' || { set; exit 65; }`, "", false},
		{`read -r a; test "$a" = 'Return-Path: <"a b"@sender.example>' || exit 65`, "", false},
		{`read -r a; test "$a" = 'From "a_b"@sender.example Fri Jan  2 03:04:05 2026' || exit 65`, "", true},
		{"exec cat >/dev/full", "451 4.3.0 cat: write error: No space left on device", true},
		{`tr '\n\r' '|^' | { read -r a; test "$a" = 'Return-Path: <"a b"@sender.example>|Delivered-To: bob+box@example.org|Received: x|Subject: y||body|.|end|'; } || exit 65`, "", false},
	} {
		where := target{kind: toPlace, to: m.Recipient, user: u, piped: tt.piped,
			place: destination.Destination{Kind: destination.Pipe, Args: []string{"/bin/sh", "-c", tt.script}}}
		if got := reply(j.pipe(t.Context(), where, otherRights())); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.script, got, tt.want)
		}
	}
	if os.Geteuid() == 0 {
		where := target{kind: toPlace, to: m.Recipient, place: destination.Destination{Kind: destination.Pipe, Args: []string{"/bin/true"}}}
		if err := j.pipe(t.Context(), where, nil); err == nil || !strings.Contains(err.Error(), "no command is run as root") {
			t.Errorf("as root: got %v", err)
		}
	}
}
