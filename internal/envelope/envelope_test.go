package envelope

import (
	"bufio"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/postel-mail/postel/internal/address"
)

func full() *Envelope {
	return &Envelope{
		ID: "0abc", Arrival: time.Date(2026, 11, 23, 1, 2, 3, 4000, time.UTC),
		From: address.Path{Local: "a b", Domain: "north.example"},
		Ret:  "HDRS", EnvID: "x+y=z", Body: "8BITMIME", SMTPUTF8: true, RequireTLS: true,
		Client: "[::1]", Auth: "alice smith", UID: 1000, Wait: "0123456789abcdefghij",
		Rcpts: []Recipient{
			{To: address.Path{Local: "b", Domain: "south.example"}, Notify: "SUCCESS,FAILURE", ORcpt: "rfc822;c d@e"},
			{To: address.Path{Local: "postmaster"}},
		},
	}
}

func TestRoundTrip(t *testing.T) {
	null := &Envelope{ID: "1", Arrival: time.Unix(0, 0).UTC(), UID: -1, Rcpts: []Recipient{{To: address.Path{Local: "x", Domain: "y"}}}}
	for _, e := range []*Envelope{full(), null} {
		text := string(e.AppendText(nil)) + "\nbody"
		r := bufio.NewReader(strings.NewReader(text))
		got, err := Read(r)
		if err != nil {
			t.Fatalf("%v in\n%s", err, text)
		}
		if !reflect.DeepEqual(got, e) {
			t.Errorf("got %+v\nwant %+v", got, e)
		}
		if rest, _ := r.ReadString(0); rest != "body" {
			t.Errorf("rest is %q", rest)
		}
	}
}

func TestReadRefuses(t *testing.T) {
	good := string(full().AppendText(nil)) + "\n"
	for _, tt := range []struct{ name, text string }{
		{"no end", strings.TrimSuffix(good, "\n")},
		{"no recipient", good[:strings.Index(good, "To:")] + "\n"},
		{"unknown line", "Later: promise\n" + good},
		{"twice", "From: <>\n" + good},
		{"no value", "Ret\n" + good},
		{"bad time", strings.Replace(good, "2026-", "26-", 1)},
		{"bad Requiretls", strings.Replace(good, "Requiretls: yes", "Requiretls: no", 1)},
		{"bad notify", strings.Replace(good, "SUCCESS", "PERHAPS", 1)},
		{"bad wait", strings.Replace(good, "0123456789abcdefghij", "../../../etc/passwd", 1)},
		{"short wait", strings.Replace(good, "0123456789abcdefghij", "a", 1)},
		{"long line", "Client: " + strings.Repeat("x", 3000) + "\n" + good},
	} {
		if _, err := Read(bufio.NewReader(strings.NewReader(tt.text))); err == nil {
			t.Errorf("%s: accepted", tt.name)
		}
	}
}

// FuzzRead: what is read is written in a form that is read as the same.
func FuzzRead(f *testing.F) {
	f.Add(string(full().AppendText(nil)) + "\n")
	f.Add("Id: 1\nArrival: 2026-11-23T00:00:00.000000Z\nFrom: <>\nTo: <a@b>\n\n")
	f.Fuzz(func(t *testing.T, s string) {
		e, err := Read(bufio.NewReader(strings.NewReader(s)))
		if err != nil {
			return
		}
		text := string(e.AppendText(nil)) + "\n"
		again, err := Read(bufio.NewReader(strings.NewReader(text)))
		if err != nil || !reflect.DeepEqual(again, e) {
			t.Fatalf("%q is read as %+v, written as %q, read as %+v, %v", s, e, text, again, err)
		}
	})
}
