package sasl

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

var errWrong = errors.New("wrong password")

func authenticate(user, password string) error {
	if user == "bob" && password == "se cret" {
		return nil
	}
	return errWrong
}

// none stands for a response that the client has not sent.
const none = "<none>"

func TestExchanges(t *testing.T) {
	for _, tt := range []struct {
		mechanism  string
		responses  []string
		challenges []string
		want       error
	}{
		{"PLAIN", []string{"\x00bob\x00se cret"}, nil, nil},
		{"PLAIN", []string{none, "bob\x00bob\x00se cret"}, []string{""}, nil},
		{"PLAIN", []string{"\x00bob\x00wrong"}, nil, errWrong},
		{"PLAIN", []string{"\x00bob\x00"}, nil, errWrong},
		{"PLAIN", []string{"alice\x00bob\x00se cret"}, nil, ErrIdentity},
		{"PLAIN", []string{"bob\x00se cret"}, nil, ErrMalformed},
		{"PLAIN", []string{"\x00bob\x00se cret\x00"}, nil, ErrMalformed},
		{"PLAIN", []string{""}, nil, ErrMalformed},
		{"PLAIN", []string{"\x00\x00se cret"}, nil, ErrMalformed},
		{"PLAIN", []string{"\x00bo\nb\x00se cret"}, nil, ErrMalformed},
		{"PLAIN", []string{"\x00bo\xffb\x00se cret"}, nil, ErrMalformed},
		{"PLAIN", []string{"\x00" + strings.Repeat("b", 256) + "\x00se cret"}, nil, ErrMalformed},
		{"PLAIN", []string{"\x00bob\x00" + strings.Repeat("b", 1025)}, nil, ErrMalformed},
		{"LOGIN", []string{none, "bob", "se cret"}, []string{"Username:", "Password:"}, nil},
		{"LOGIN", []string{"bob", "se cret"}, []string{"Password:"}, nil},
		{"LOGIN", []string{none, "bob", "wrong"}, []string{"Username:", "Password:"}, errWrong},
		{"LOGIN", []string{none, "", "se cret"}, []string{"Username:", "Password:"}, ErrMalformed},
	} {
		s := New(tt.mechanism, authenticate)
		var challenges []string
		var done bool
		var err error
		for _, r := range tt.responses {
			var challenge, response []byte
			if r != none {
				response = append([]byte{}, r...)
			}
			if challenge, done, err = s.Next(response); err != nil || done {
				break
			}
			challenges = append(challenges, string(challenge))
		}
		if !errors.Is(err, tt.want) || err == nil && (!done || tt.want != nil) || !slices.Equal(challenges, tt.challenges) {
			t.Errorf("%s %q: got %q, done %v, %v; want %q, %v", tt.mechanism, tt.responses, challenges, done, err, tt.challenges, tt.want)
		}
	}
}

func TestNew(t *testing.T) {
	for _, name := range Names {
		if New(name, authenticate) == nil {
			t.Errorf("%s is offered and not there", name)
		}
	}
	if New("CRAM-MD5", authenticate) != nil {
		t.Error("CRAM-MD5 is there")
	}
}

func TestDecode(t *testing.T) {
	for _, tt := range []struct {
		in, want string
		err      error
	}{
		{"AGJvYgBz", "\x00bob\x00s", nil},
		{"=", "", nil},
		{"", "", nil},
		{"*", "", ErrCancelled},
		{"AGJvYgB", "", ErrMalformed},
		{"AGJv\nYgBz", "", ErrMalformed},
		{"AGJv YgBz", "", ErrMalformed},
		{"YR==", "", ErrMalformed}, // trailing bits are not zero
		{"YQ", "", ErrMalformed},
		{"YQ==", "a", nil},
		{"YQ==YQ==", "", ErrMalformed},
	} {
		got, err := Decode(tt.in)
		if !errors.Is(err, tt.err) || string(got) != tt.want || err == nil && got == nil {
			t.Errorf("%q: got %q, %v; want %q, %v", tt.in, got, err, tt.want, tt.err)
		}
	}
}

func FuzzExchange(f *testing.F) {
	f.Add("PLAIN", "AGJvYgBzZSBjcmV0", "")
	f.Add("LOGIN", "Ym9i", "c2UgY3JldA==")
	f.Add("LOGIN", "=", "*")
	f.Fuzz(func(t *testing.T, mechanism, first, second string) {
		var user string
		s := New(mechanism, func(u, _ string) error { user = u; return nil })
		if s == nil {
			return
		}
		for _, line := range []string{first, second} {
			response, err := Decode(line)
			if err != nil {
				return
			}
			_, done, err := s.Next(response)
			if err != nil {
				return
			}
			if done {
				if user == "" || strings.ContainsAny(user, "\x00\r\n\x7f") {
					t.Fatalf("user %q", user)
				}
				return
			}
		}
	})
}
