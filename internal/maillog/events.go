package maillog

import (
	"fmt"
	"strconv"
	"time"

	"github.com/postel-mail/postel/internal/address"
	"github.com/postel-mail/postel/internal/status"
)

// Start: a program that stays has read its configuration. order is the way in which the queue makes files durable, "" where
// there is no queue.
func (l *Log) Start(version, order string) {
	l.event(info, "start", field{"version", version}, field{"order", order})
}

// Stop: the program ends because of why.
func (l *Log) Stop(why string) { l.event(info, "stop", field{"text", why}) }

// Unclean: the runner before this one was killed; recipients that it had sent to without recording it are sent to again.
func (l *Log) Unclean() {
	l.event(warning, "unclean", field{"text", "the last runner was killed: what it was sending then may arrive twice"})
}

// Late: the message that waits longest was due that long ago and has not had its turn; text says what holds it up.
func (l *Log) Late(id string, delay time.Duration, text string) {
	l.event(warning, "late", field{"id", id}, field{"delay", seconds(delay)}, field{"text", text})
}

// Confined: the server gave up rights that it does not need any more; text says which it has.
func (l *Log) Confined(text string) { l.event(info, "confined", field{"text", text}) }

// Reload: configuration, tables and certificates were read again.
func (l *Log) Reload() { l.event(info, "reload") }

// ReloadFailed: they could not be; the old ones stay in force.
func (l *Log) ReloadFailed(err error) {
	l.event(failure, "reload-failed", field{"text", err.Error()})
}

// Listening: a server accepts connections on addr.
func (l *Log) Listening(addr string) { l.event(info, "listening", field{"addr", addr}) }

// Stress: n connections are so many that those who only wait have to be quick.
func (l *Log) Stress(n int) { l.event(warning, "stress", field{"n", strconv.Itoa(n)}) }

// StressOver: n connections are not.
func (l *Log) StressOver(n int) { l.event(info, "stress-over", field{"n", strconv.Itoa(n)}) }

// Connect: a client connected.
func (l *Log) Connect(client string) { l.event(info, "connect", field{"client", client}) }

// Disconnect: the client's session ended; text says why where it was not the client's wish.
func (l *Log) Disconnect(client, text string) {
	l.event(info, "disconnect", field{"client", client}, field{"text", text})
}

// Accepted is what the Accepted event says.
type Accepted struct {
	ID     string
	From   address.Path
	Size   int64 // octets, as they are queued
	NRcpt  int
	Client string // address, "unix" or "local"
	Proto  string // RFC 3848 keyword, "LMTP" or "local"
	Auth   string // login name, or ""
	UID    int    // local submitter, or -1
}

// Accepted: a message is in the queue and will survive a power cut.
func (l *Log) Accepted(a Accepted) {
	uid := ""
	if a.UID >= 0 {
		uid = strconv.Itoa(a.UID)
	}
	l.event(info, "accepted", field{"id", a.ID}, field{"from", path(a.From)}, field{"size", strconv.FormatInt(a.Size, 10)},
		field{"nrcpt", strconv.Itoa(a.NRcpt)}, field{"client", a.Client}, field{"proto", a.Proto}, field{"auth", a.Auth}, field{"uid", uid})
}

// Refused: a client's command was refused. from and to are nil where they were not yet known; id is "" where no message was begun.
func (l *Log) Refused(id, client string, from, to *address.Path, s *status.Error) {
	f := []field{{"id", id}, {"client", client}}
	if from != nil {
		f = append(f, field{"from", path(*from)})
	}
	if to != nil {
		f = append(f, field{"to", path(*to)})
	}
	l.event(warning, "refused", append(f, outcome(s)...)...)
}

// Delivery is what Delivered, Deferred and Bounced say of one recipient.
type Delivery struct {
	ID    string
	To    address.Path
	Dest  string        // the destination, as configured or routed
	Relay string        // host and address that answered, or ""
	Delay time.Duration // since the message arrived
}

func (d Delivery) fields() []field {
	return []field{{"id", d.ID}, {"to", path(d.To)}, {"dest", d.Dest}, {"relay", d.Relay}, {"delay", seconds(d.Delay)}}
}

// Delivered: the next hop or the mailbox took the message for that recipient.
func (l *Log) Delivered(d Delivery, code int, text string) {
	l.event(info, "delivered", append(d.fields(), field{"code", strconv.Itoa(code)}, field{"text", text})...)
}

// Deferred: the attempt failed for now; the next one is at next.
func (l *Log) Deferred(d Delivery, next time.Time, s *status.Error) {
	f := append(d.fields(), field{"next", next.UTC().Format(time.RFC3339)})
	l.event(warning, "deferred", append(f, outcome(s)...)...)
}

// Bounced: the recipient cannot be reached for good; the sender is told, or postmaster where there is none.
func (l *Log) Bounced(d Delivery, s *status.Error) {
	l.event(warning, "bounced", append(d.fields(), outcome(s)...)...)
}

// Report: a delivery status notification of message id was queued as report; kind is "failed", "delayed", "delivered" or "relayed", or
// "double-bounce" for one to postmaster.
func (l *Log) Report(id, report, kind string) {
	l.event(info, "report", field{"id", id}, field{"report", report}, field{"kind", kind})
}

// Dropped: what became of recipients of message id is told to nobody; text says why.
func (l *Log) Dropped(id, text string) {
	l.event(warning, "dropped", field{"id", id}, field{"text", text})
}

// Removed: the message is out of the queue; text says why where it is not that all recipients are done.
func (l *Log) Removed(id, text string) {
	l.event(info, "removed", field{"id", id}, field{"text", text})
}

// Changed: a person has changed what is to become of the message; text says what, and who.
func (l *Log) Changed(id, text string) {
	l.event(info, "changed", field{"id", id}, field{"text", text})
}

// Corrupt: a queue file could not be read and was put into SPOOL/corrupt.
func (l *Log) Corrupt(id string, err error) {
	l.event(failure, "corrupt", field{"id", id}, field{"text", err.Error()})
}

// Recovered: n messages were made again from a journal, which a power cut had taken out of the queue or torn there.
func (l *Log) Recovered(n int) { l.event(warning, "recovered", field{"n", strconv.Itoa(n)}) }

// Discarded: a file of user uid in SPOOL/drop, which is no message and was never one, was removed; text says what it was.
func (l *Log) Discarded(name string, uid int, text string) {
	l.event(warning, "discarded", field{"name", name}, field{"uid", strconv.Itoa(uid)}, field{"text", text})
}

// Stored: final delivery put a message into a mailbox or gave it to a program.
func (l *Log) Stored(id string, to address.Path, dest string) {
	l.event(info, "stored", field{"id", id}, field{"to", path(to)}, field{"dest", dest})
}

// Forwarded: final delivery handed the message on to another address.
func (l *Log) Forwarded(id string, to, forward address.Path) {
	l.event(info, "forwarded", field{"id", id}, field{"to", path(to)}, field{"forward", path(forward)})
}

// NotStored: final delivery failed for that recipient.
func (l *Log) NotStored(id string, to address.Path, s *status.Error) {
	f := []field{{"id", id}, {"to", path(to)}}
	l.event(warning, "not-stored", append(f, outcome(s)...)...)
}

// Login: a user proved who they are.
func (l *Log) Login(user, client, proto string) {
	l.event(info, "login", field{"user", user}, field{"client", client}, field{"proto", proto})
}

// LoginFailed: somebody did not.
func (l *Log) LoginFailed(user, client, proto string, err error) {
	l.event(warning, "login-failed", field{"user", user}, field{"client", client}, field{"proto", proto}, field{"text", err.Error()})
}

// Banned: no login from the client network is looked at for that long, because so many failed; with user only that user's from there.
func (l *Log) Banned(user, client string, delay time.Duration, proto string) {
	l.event(warning, "banned", field{"user", user}, field{"client", client}, field{"proto", proto}, field{"delay", seconds(delay)})
}

// Fetched: a retrieval session ended; n messages of octets octets were read, removed were removed.
func (l *Log) Fetched(user, client string, n int, octets int64, removed int) {
	l.event(info, "fetched", field{"user", user}, field{"client", client}, field{"n", strconv.Itoa(n)},
		field{"octets", strconv.FormatInt(octets, 10)}, field{"removed", strconv.Itoa(removed)})
}

// Screened: what the DNS says of a client: its name, checked in both directions, or "", and the score that text is made of.
func (l *Log) Screened(client, name string, score int, text string) {
	l.event(info, "screened", field{"client", client}, field{"name", name}, field{"score", strconv.Itoa(score)}, field{"text", text})
}

// TLSFailed: a TLS handshake with the client failed.
func (l *Log) TLSFailed(client string, err error) {
	l.event(warning, "tls-failed", field{"client", client}, field{"text", err.Error()})
}

// Problem: something on this host went wrong that no reply or status says; id is the message it concerns, or "".
func (l *Log) Problem(id string, err error) {
	l.event(failure, "problem", field{"id", id}, field{"text", err.Error()})
}

// Panic: a bug ended one session or attempt; the service goes on. stack is where.
func (l *Log) Panic(client string, value any, stack []byte) {
	l.event(failure, "panic", field{"client", client}, field{"text", fmt.Sprint(value)}, field{"stack", string(stack)})
}
