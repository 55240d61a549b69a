package delivery

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postel-mail/postel/internal/address"
	"github.com/postel-mail/postel/internal/clock"
	"github.com/postel-mail/postel/internal/command"
	"github.com/postel-mail/postel/internal/destination"
	"github.com/postel-mail/postel/internal/envelope"
	"github.com/postel-mail/postel/internal/mailbox"
	"github.com/postel-mail/postel/internal/userdb"
)

// pipe gives the message to a program, with the rights of this process where c is nil. Root runs none.
func (j *job) pipe(ctx context.Context, t target, c *syscall.Credential) error {
	if os.Geteuid() == 0 && c == nil {
		return misconfigured(errors.New("delivery: no command is run as root"))
	}
	head := j.header(t.to)
	if t.piped {
		head = j.fromLine() + head
	}
	f, err := j.copyOf(head)
	if err != nil {
		return err
	}
	defer f.Close()
	words := command.Words{Sender: j.m.Sender, Recipient: t.to, Original: j.original(), User: t.user.Name, Extension: j.a.extension(t.user, t.to),
		Home: t.user.Home, ID: j.m.ID}
	if s := command.Run(ctx, command.Spec{Args: t.place.Args, Env: words.Environ(), Stdin: f, Dir: t.user.Home, Credential: c}); s != nil {
		return s
	}
	j.a.Log.Stored(j.m.logID(), t.to, t.place.String())
	return nil
}

func (j *job) original() address.Path {
	if j.m.Original.IsNull() {
		return j.m.Recipient
	}
	return j.m.Original
}

// fromLine is the first line of an mbox, which programs for "|command" know the sender by.
func (j *job) fromLine() string {
	arrival := j.m.Arrival
	if arrival.IsZero() {
		arrival = clock.Now()
	}
	sender := strings.ReplaceAll(j.m.Sender.String(), " ", "_")
	if sender == "" {
		sender = "MAILER-DAEMON"
	}
	return "From " + sender + " " + arrival.UTC().Format(time.ANSIC) + "\n"
}

// sendmail hands the message on to the addresses of targets.
func (j *job) sendmail(ctx context.Context, sender address.Path, dsn envelope.DSN, targets []target) error {
	f, err := j.copyOf(deliveredTo(j.m.Recipient))
	if err != nil {
		return err
	}
	defer f.Close()
	args := append([]string{j.a.Sendmail, "-G", "-i", "-f", pathArg(sender)}, dsn.Flags()...)
	args = append(args, "--")
	for _, t := range targets {
		args = append(args, t.to.String())
	}
	env := command.Words{Sender: sender, Recipient: j.m.Recipient, Original: j.original()}.Environ()
	if j.a.Config != "" {
		env = append(env, "POSTEL_CONFIG="+j.a.Config)
	}
	if s := command.Run(ctx, command.Spec{Args: args, Env: env, Stdin: f}); s != nil {
		return s
	}
	return nil
}

// pathArg writes a reverse-path for a command line.
func pathArg(p address.Path) string {
	if p.IsNull() {
		return "<>"
	}
	return p.String()
}

// copyOf writes head and the message, lines ending in LF, to a file without a name: a program that is given the whole file, and no pipe, cannot
// take a message that was cut short for a whole one.
func (j *job) copyOf(head string) (*os.File, error) {
	f, err := tempFile()
	if err != nil {
		return nil, err
	}
	_, err = io.WriteString(f, head)
	if err == nil {
		err = mailbox.CopyLines(f, j.m.body())
	}
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("delivery: copy message: %w", err)
	}
	return f, nil
}

// tempFile opens a new file without a name in the directory for temporary files.
func tempFile() (*os.File, error) {
	dir := os.TempDir()
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_EXCL|unix.O_CLOEXEC, 0o600)
	if err == nil {
		return os.NewFile(uintptr(fd), dir+"/message"), nil
	}
	f, err := os.CreateTemp(dir, "postel-") // a file system without O_TMPFILE
	if err != nil {
		return nil, fmt.Errorf("delivery: temporary file: %w", err)
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, fmt.Errorf("delivery: temporary file: %w", err)
	}
	return f, nil
}

// credential is a user's rights, for a program to start.
func credential(u userdb.User) *syscall.Credential {
	c := &syscall.Credential{Uid: uint32(u.UID), Gid: uint32(u.GID)}
	for _, g := range u.Groups {
		c.Groups = append(c.Groups, uint32(g))
	}
	return c
}

// childLimit is how long a child may take, which may have several programs to run.
const childLimit = 4 * command.Limit

// Child delivers by starting the program deliver as the user. Its Deliver is an Agent's AsUser.
type Child struct {
	Program string // absolute path of deliver
	Config  string // configuration file, "" for the default
}

// Deliver starts deliver as the user u and waits for its outcome. The file of Message.Open is its standard input.
func (c Child) Deliver(ctx context.Context, u userdb.User, to destination.Destination, m Message) (Outcome, error) {
	if u.UID <= 0 || u.GID < 0 {
		return Delivered, misconfigured(fmt.Errorf("delivery: user %s has no user and group to deliver as", u))
	}
	args := []string{c.Program, "-f", pathArg(m.Sender), "--user", u.String()}
	if c.Config != "" {
		args = append(args, "-C", c.Config)
	}
	if to.Kind != destination.None {
		args = append(args, "--to", to.String())
	}
	args = append(append(args, m.DSN.Flags()...), "--", m.Recipient.String())
	f, err := m.Open()
	if err != nil {
		return Delivered, fmt.Errorf("delivery: open message: %w", err)
	}
	defer f.Close()
	words := command.Words{Sender: m.Sender, Recipient: m.Recipient, Original: m.Original, User: u.Name, Home: u.Home, ID: m.ID}
	spec := command.Spec{Args: args, Env: words.Environ(), Stdin: f, Credential: credential(u), Limit: childLimit}
	var word command.Word
	if m.DSN.Notify != "" {
		spec.Stdout = &word
	}
	if s := command.Run(ctx, spec); s != nil {
		return Delivered, s
	}
	if o := Outcome(word.String()); o == Forwarded || o == Expanded {
		return o, nil
	}
	return Delivered, nil
}
