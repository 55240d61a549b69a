// Package sysexits has the exit statuses of sysexits(3) and what they mean for mail, both ways.
//
// postel's programs exit with nothing else: other mail systems take 1 and 2 for a permanent failure
// and would bounce mail because of a typing error.
package sysexits

import (
	"errors"

	"github.com/postel-mail/postel/internal/status"
)

// Exit statuses, from BSD's sysexits.h.
const (
	OK          = 0
	Usage       = 64
	DataErr     = 65
	NoInput     = 66
	NoUser      = 67
	NoHost      = 68
	Unavailable = 69
	Software    = 70
	OSErr       = 71
	OSFile      = 72
	CantCreat   = 73
	IOErr       = 74
	TempFail    = 75
	Protocol    = 76
	NoPerm      = 77
	Config      = 78
)

// Error is an error that knows the exit status of its program.
type Error struct {
	Status int
	Err    error
}

func (e *Error) Error() string { return e.Err.Error() }

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// With gives err an exit status; nil stays nil.
func With(code int, err error) error {
	if err == nil {
		return nil
	}
	return &Error{Status: code, Err: err}
}

// Of is the exit status that says err: the one it carries, else that of its status, else 75.
func Of(err error) int {
	if err == nil {
		return OK
	}
	var e *Error
	if errors.As(err, &e) {
		return e.Status
	}
	var s *status.Error
	if errors.As(err, &s) {
		return FromStatus(s)
	}
	return TempFail
}

// FromStatus is the exit status of a delivery with that outcome: 0, 65 (the message is at fault), 67 (no
// such user), 69 (any other refusal) or 75, the five that a calling mail system can rely on.
func FromStatus(s *status.Error) int {
	switch {
	case s == nil:
		return OK
	case s.Temporary():
		return TempFail
	case s.Enhanced == "5.1.1" || s.Enhanced == "5.1.6":
		return NoUser
	case len(s.Enhanced) > 2 && s.Enhanced[2] == '6':
		return DataErr
	}
	return Unavailable
}

// meaning of a program's exit status for the message it was given, after Postfix's sys_exits and
// the comments of sysexits.h.
var meaning = map[int]status.Error{
	Usage:       {Code: 500, Enhanced: "5.3.0", Text: "Command line usage error"},
	DataErr:     {Code: 501, Enhanced: "5.6.0", Text: "Data format error"},
	NoInput:     {Code: 550, Enhanced: "5.3.0", Text: "Cannot open input"},
	NoUser:      {Code: 550, Enhanced: "5.1.1", Text: "User unknown"},
	NoHost:      {Code: 550, Enhanced: "5.1.2", Text: "Host name unknown"},
	Unavailable: {Code: 550, Enhanced: "5.3.0", Text: "Service unavailable"},
	CantCreat:   {Code: 550, Enhanced: "5.2.0", Text: "Cannot create output file"},
	NoPerm:      {Code: 550, Enhanced: "5.7.0", Text: "Permission denied"},

	Software: {Code: 451, Enhanced: "4.3.0", Text: "Internal software error"},
	OSErr:    {Code: 451, Enhanced: "4.3.0", Text: "System resource problem"},
	OSFile:   {Code: 451, Enhanced: "4.3.0", Text: "Critical system file missing"},
	IOErr:    {Code: 451, Enhanced: "4.3.0", Text: "Input/output error"},
	TempFail: {Code: 451, Enhanced: "4.3.0", Text: "Temporary failure"},
	Protocol: {Code: 451, Enhanced: "4.5.0", Text: "Remote protocol error"},
	Config:   {Code: 451, Enhanced: "4.3.5", Text: "Local configuration error"},
}

// ToStatus is the outcome that a delivery program's exit status stands for; 0 is nil. A number that is
// not in sysexits(3) says nothing about the message, so it is temporary.
func ToStatus(code int) *status.Error {
	if code == OK {
		return nil
	}
	if s, ok := meaning[code]; ok {
		return &s
	}
	return status.Temporary(451, "4.3.0", "Delivery program failed", nil)
}
