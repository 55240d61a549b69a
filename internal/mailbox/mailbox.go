// Package mailbox has the words for stored mail, which the Maildir and the mbox speak alike.
package mailbox

import (
	"context"
	"errors"
	"io"
	"time"
)

// Delivery is one message on its way into a mailbox.
type Delivery struct {
	// ID names this delivery, the same on every try: the queue id and the recipient's number. A store that holds a
	// delivery of that name already takes it as done. "" for a message that comes without one.
	ID      string
	Arrival time.Time // when the message arrived here; the zero time is now
	Sender  string    // envelope sender without brackets, "" for the null path; for mbox's From_ line
	Header  string    // lines put in front, each ending in LF: Return-Path, Delivered-To
	Body    io.Reader // the message, lines ending in LF or CRLF; stored with LF
}

// Store is a place that keeps mail: a Maildir or an mbox file.
type Store interface {
	// Deliver stores one message. When it returns nil the message survives a power cut; when it returns an error no
	// part of the message can be seen. The error carries a status where the store knows better than 451 4.3.0 (a full disk: 452 4.2.2).
	Deliver(ctx context.Context, d Delivery) error
	// Open locks the mailbox for one session of POP3 and reads what is in it. ErrInUse when another session has it. A mailbox
	// that does not exist yet is empty.
	Open(ctx context.Context) (Session, error)
}

// Session is one mailbox held by one session. What arrives after Open is not seen in it and not touched by it.
type Session interface {
	// Messages lists the messages in a stable order. The slice belongs to the session.
	Messages() []Message
	// Body opens message i of Messages for reading, lines ending as they are stored.
	Body(i int) (io.ReadCloser, error)
	// Remove removes the messages of those indexes for good; the error says how many could not be removed.
	Remove(indexes []int) error
	// Close gives the lock back.
	Close() error
}

// Message is one stored message.
type Message struct {
	UID  string // unique and stable for ever within the mailbox: 1 to 70 characters of 0x21 to 0x7E (RFC 1939 7, UIDL)
	Size int64  // octets as sent with CRLF line ends, before dot-stuffing
}

// ErrInUse says that another session holds the mailbox.
var ErrInUse = errors.New("mailbox is in use by another session")
