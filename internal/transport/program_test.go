package transport

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/postel-mail/postel/internal/destination"
	"github.com/postel-mail/postel/internal/envelope"
)

// script writes a shell script that works in dir.
func script(t *testing.T, dir, text string) string {
	t.Helper()
	name := filepath.Join(dir, "program")
	if err := os.WriteFile(name, []byte("#!/bin/sh\ncd '"+dir+"'\n"+text), 0o700); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestPipe(t *testing.T) {
	tests := []struct{ name, script, want string }{
		{"taken", "exit 0", "250 2.0.0 Taken by the program at pipe"},
		{"unknown user", "exit 67", "550 5.1.1 User unknown at pipe"},
		{"its own words", "echo '4.2.2 over quota'; exit 75", "451 4.2.2 over quota at pipe"},
		{"a number of its own", "exit 3", "451 4.3.0 Delivery program failed at pipe"},
		{"killed", "kill -9 $$", "451 4.3.0 Delivery program failed at pipe"},
		{"too long", "echo began; exec sleep 60", "451 4.3.0 Delivery program took too long at pipe"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tr := &Transport{}
			if tt.name == "too long" {
				tr.ProgramTime = 50 * time.Millisecond
			}
			r := all(enqueue(t, letter, "a@a.example", "b@b.example"), destination.Destination{Kind: destination.Pipe, Args: []string{script(t, t.TempDir(), tt.script)}})
			if got := (&hosts{}).summary(tr.Attempt(context.Background(), r)); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
	r := all(enqueue(t, letter, "a@a.example", "b@b.example"), destination.Destination{Kind: destination.Pipe, Args: []string{"/nonexistent/program"}})
	if got := (&Transport{}).Attempt(context.Background(), r); got[0].Err == nil || !got[0].Err.Temporary() {
		t.Errorf("a program that is not there: got %+v", got[0])
	}
}

// TestWords shows what programs get: one run for each recipient, the whole message each time, the closed environment, and for the delivery
// agent the arguments.
func TestWords(t *testing.T) {
	dir := t.TempDir()
	program := script(t, dir, `n=$(ls | wc -l)
for a; do echo "arg $a"; done > $n
env | grep -v -e ^PWD= -e ^SHLVL= -e ^_= -e ^OLDPWD= | sort >> $n
cat >> $n
`)
	e := &envelope.Envelope{From: path(t, "-oQ/tmp@a.example"), UID: -1, Rcpts: []envelope.Recipient{
		{To: path(t, "user+box@b.example"), ORcpt: "rfc822;old@b.example"},
		{To: path(t, `"-x; $(id) \"y"@b.example`), ORcpt: "rfc822;old\nUID=0@b.example"},
	}}
	body := "Subject: x\r\n\r\n" + strings.Repeat("line\r\n", 20000)
	m := enqueueAs(t, e, body)
	id := m.ID()
	env := func(extra, n, local, to, original string) string {
		return "DOMAIN=b.example\n" + extra + "LOCAL=" + local + "\nORIGINAL_RECIPIENT=" + original + "\nPATH=/usr/local/bin:/usr/bin:/bin\nPOSTEL_ID=" + id + "." + n +
			"\nRECIPIENT=" + to + "\nSENDER=-oQ/tmp@a.example\n"
	}
	plain := env("EXTENSION=box\n", "0", "user+box", "user+box@b.example", "old@b.example") + "USER=user\n" + body
	odd := env("", "1", `-x; $(id) "y`, `"-x; $(id) \"y"@b.example`, `"-x; $(id) \"y"@b.example`) + `USER=-x; $(id) "y` + "\n" + body
	agent := "arg -C\narg conf\narg -f\narg -oQ/tmp@a.example\n"
	tests := []struct {
		dest destination.Destination
		args string
	}{
		{destination.Destination{Kind: destination.Pipe, Args: []string{program, "one two", "$RECIPIENT"}}, "arg one two\narg $RECIPIENT\n"},
		{destination.Destination{Kind: destination.Pipe, Args: []string{program, "-C", "conf"}}, agent + "ORCPTarg --\narg TO\n"},
		{dest(t, "maildir:/var/mail/%d/%n"), agent + "arg --to\narg maildir:/var/mail/%d/%n\nORCPTarg --\narg TO\n"},
		{dest(t, "mbox:~/mbox"), agent + "arg --to\narg mbox:~/mbox\nORCPTarg --\narg TO\n"},
	}
	tr := &Transport{Delimiter: "+", Deliver: []string{program, "-C", "conf"}}
	for _, tt := range tests {
		for i, o := range tr.Attempt(context.Background(), all(m, tt.dest)) {
			if o.Err != nil {
				t.Fatalf("%s, recipient %d: %v", tt.dest, i, o.Err)
			}
		}
		files, err := filepath.Glob(dir + "/[0-9]*")
		if err != nil || len(files) != 2 {
			t.Fatalf("%s: %d runs, %v", tt.dest, len(files), err)
		}
		for i, want := range []string{plain, odd} {
			got, err := os.ReadFile(files[i])
			if err != nil {
				t.Fatal(err)
			}
			asked := []string{"arg --orcpt=rfc822;old@b.example\n", ""}[i]
			if want = strings.Replace(strings.Replace(tt.args, "ORCPT", asked, 1), "TO", m.Envelope.Rcpts[i].To.String(), 1) + want; string(got) != want {
				t.Errorf("%s: got\n%.900s\nwant\n%.900s", tt.dest, got, want)
			}
			os.Remove(files[i])
		}
	}
}

func TestOthers(t *testing.T) {
	m := enqueue(t, letter, "a@a.example", "b@b.example", "c@b.example")
	tr := &Transport{}
	for _, tt := range []struct {
		dest destination.Destination
		want string
	}{
		{dest(t, "discard:"), "250 2.0.0 Discarded\n250 2.0.0 Discarded"},
		{destination.Destination{}, "451 4.3.5 No way to this destination\n451 4.3.5 No way to this destination"},
		{dest(t, "maildir:/x"), "451 4.3.5 No delivery agent is configured at pipe\n451 4.3.5 No delivery agent is configured at pipe"},
	} {
		if got := (&hosts{}).summary(tr.Attempt(context.Background(), all(m, tt.dest))); got != tt.want {
			t.Errorf("%s: got\n%s\nwant\n%s", tt.dest, got, tt.want)
		}
	}
	if got := tr.Attempt(context.Background(), Request{Message: m, Dests: []destination.Destination{dest(t, "mx:")}}); len(got) != 0 {
		t.Errorf("nobody: got %v", got)
	}
}

// TestAgentTells: the delivery agent is told what the sender wants to hear, and its word on standard output says who tells of success; other programs are told nothing and
// have no such word.
func TestAgentTells(t *testing.T) {
	dir := t.TempDir()
	program := script(t, dir, `case $* in *"--notify=SUCCESS,FAILURE --return=HDRS --envelope-id=x+2B --orcpt=rfc822;old@b.example -- b@b.example"*) echo expanded;; *"--notify=SUCCESS"*) echo forwarded;; *) echo expanded;; esac`)
	e := &envelope.Envelope{From: path(t, "a@a.example"), Ret: "HDRS", EnvID: "x+", UID: -1, Rcpts: []envelope.Recipient{
		{To: path(t, "b@b.example"), Notify: "SUCCESS,FAILURE", ORcpt: "rfc822;old@b.example"},
		{To: path(t, "c@b.example"), Notify: "SUCCESS"},
		{To: path(t, "d@b.example")},
	}}
	m := enqueueAs(t, e, letter)
	for agent, want := range map[string][3][2]bool{program: {{false, true}, {true, false}, {}}, "/other": {}} {
		tr := &Transport{Deliver: []string{agent}}
		for i, r := range tr.Attempt(context.Background(), all(m, destination.Destination{Kind: destination.Pipe, Args: []string{program}})) {
			if got := [2]bool{r.DSN, r.Expanded}; r.Err != nil || got != want[i] {
				t.Errorf("the agent is %s, recipient %d: got %v, %v, want %v", agent, i, got, r.Err, want[i])
			}
		}
	}
}

func TestSaid(t *testing.T) {
	for reply, want := range map[string]string{
		"2.1.5 <b@b.example> Ok: forwarded 0a1b": "forwarded", "2.1.5 Ok: delivered 0a1b": "delivered", "2.1.5 <x Ok: forwarded y@b.example> Ok: expanded 0": "expanded",
		"2.1.5 <x Ok: forwarded y@b.example> Saved": "", "Ok": "", "": "", "forwarded Ok: x": "",
	} {
		if got := said(reply); got != want {
			t.Errorf("%q: got %q, want %q", reply, got, want)
		}
	}
}
