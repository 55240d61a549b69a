package dsn

import (
	"errors"
	"io"
	"mime"
	"mime/multipart"
	"strings"
	"testing"
	"time"

	"github.com/postel-mail/postel/internal/address"
	"github.com/postel-mail/postel/internal/envelope"
	"github.com/postel-mail/postel/internal/status"
)

const original = "From: a@north.example\r\nSubject: hi\r\n\r\n.dot\r\nbody\r\n"

func report(action Action, ret string) *Report {
	return &Report{
		Hostname: "mail.north.example", Action: action, Now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
		Message: &envelope.Envelope{ID: "0id", Arrival: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), EnvID: "env=1", Ret: ret,
			From: address.Path{Local: "a", Domain: "north.example"}},
		Rcpts: []Recipient{{
			Recipient: envelope.Recipient{To: address.Path{Local: "b", Domain: "south.example"}, ORcpt: "rfc822;old@south.example"},
			Err:       status.Permanent(550, "5.1.1", "no such user\r\nX: y ü", errors.New("secret path")), Relay: "mx.south.example[192.0.2.1]:25", Said: true,
		}},
		Original: strings.NewReader(original), Size: int64(len(original)), Until: time.Date(2026, 1, 6, 0, 0, 0, 0, time.UTC),
	}
}

// parts reads a report with the standard library's MIME reader: type and content of the message and of each part.
func parts(t *testing.T, r *Report) (header string, types, contents []string) {
	t.Helper()
	var b strings.Builder
	n, err := r.WriteTo(&b)
	if err != nil || n != int64(b.Len()) {
		t.Fatalf("%d of %d octets, %v", n, b.Len(), err)
	}
	text := b.String()
	if strings.Contains(strings.ReplaceAll(text, "\r\n", ""), "\n") || strings.Contains(strings.ReplaceAll(text, "\r\n", ""), "\r") {
		t.Error("bare CR or LF")
	}
	header, body, _ := strings.Cut(text, "\r\n\r\n")
	_, ct, _ := strings.Cut(header, "Content-Type: ")
	ct, _, _ = strings.Cut(strings.ReplaceAll(ct, "\r\n\t", " "), "\r\n")
	kind, params, err := mime.ParseMediaType(ct)
	if err != nil || kind != "multipart/report" || params["report-type"] != "delivery-status" {
		t.Fatalf("%q: %v", ct, err)
	}
	mr := multipart.NewReader(strings.NewReader(body), params["boundary"])
	for {
		p, err := mr.NextRawPart()
		if err == io.EOF {
			return header, types, contents
		}
		if err != nil {
			t.Fatal(err)
		}
		c, err := io.ReadAll(p)
		if err != nil {
			t.Fatal(err)
		}
		types, contents = append(types, p.Header.Get("Content-Type")), append(contents, string(c))
	}
}

func TestFailed(t *testing.T) {
	header, types, contents := parts(t, report(Failed, ""))
	if len(types) != 3 || types[1] != "message/delivery-status" || types[2] != "message/rfc822" {
		t.Fatalf("types %q", types)
	}
	for _, want := range []string{"To: <a@north.example>\r\n", "Auto-Submitted: auto-replied\r\n", "From: Mail Delivery System <MAILER-DAEMON@mail.north.example>\r\n"} {
		if !strings.Contains(header, want) {
			t.Errorf("header lacks %q:\n%s", want, header)
		}
	}
	if want := "<b@south.example>\r\n    mx.south.example[192.0.2.1]:25 said: 550 5.1.1 no such user??X: y ?\r\n"; !strings.Contains(contents[0], want) {
		t.Errorf("text lacks %q:\n%s", want, contents[0])
	}
	for _, want := range []string{
		"Original-Envelope-Id: env=1\r\nReporting-MTA: dns; mail.north.example\r\n",
		"\r\n\r\nOriginal-Recipient: rfc822; old@south.example\r\nFinal-Recipient: rfc822; b@south.example\r\nAction: failed\r\nStatus: 5.1.1\r\n" +
			"Remote-MTA: dns; mx.south.example\r\nDiagnostic-Code: smtp; 550 5.1.1 no such user??X: y ?\r\n",
	} {
		if !strings.Contains(contents[1], want) {
			t.Errorf("status lacks %q:\n%s", want, contents[1])
		}
	}
	if contents[2] != original {
		t.Errorf("original came back as %q", contents[2])
	}
	if strings.Contains(strings.Join(contents, ""), "secret") {
		t.Error("the cause of a remote refusal shows")
	}
}

func TestReturnedPart(t *testing.T) {
	head, _, _ := strings.Cut(original, "\r\n\r\n")
	for _, tt := range []struct {
		action    Action
		ret       string
		size      int64
		kind, got string
	}{
		{Failed, "HDRS", 10, "text/rfc822-headers", head + "\r\n"},
		{Failed, "", maxReturned + 1, "text/rfc822-headers", head + "\r\n"},
		{Failed, "FULL", maxReturned + 1, "message/rfc822", original},
		{Delayed, "FULL", 10, "text/rfc822-headers", head + "\r\n"},
		{Delivered, "", 10, "text/rfc822-headers", head + "\r\n"},
	} {
		r := report(tt.action, tt.ret)
		r.Size = tt.size
		_, types, contents := parts(t, r)
		if types[2] != tt.kind || contents[2] != tt.got {
			t.Errorf("%s %q %d: %s %q", tt.action, tt.ret, tt.size, types[2], contents[2])
		}
	}
}

func TestInternational(t *testing.T) {
	r := report(Failed, "HDRS")
	r.Message.SMTPUTF8 = true
	r.Message.From.Local = "ägid"
	r.Rcpts[0].To.Local = "jörg"
	_, types, contents := parts(t, r)
	if types[1] != "message/global-delivery-status" || types[2] != "message/global-headers" || !strings.Contains(contents[1], "Final-Recipient: utf-8; jörg@south.example\r\n") {
		t.Errorf("%q\n%s", types, contents[1])
	}
	if e := r.Envelope(); !e.SMTPUTF8 || e.Body != "8BITMIME" || !e.From.IsNull() || e.Rcpts[0].Notify != "NEVER" {
		t.Errorf("%+v", e)
	}
}

// TestASCII: a sender whose address is ASCII gets a report that is, whatever the message was.
func TestASCII(t *testing.T) {
	const eight = "Subject: z\xc3\xbc\r\n\r\nz\xc3\xbc\r\n"
	for _, smtputf8 := range []bool{false, true} {
		r := report(Failed, "FULL")
		r.Message.Body, r.Message.SMTPUTF8 = "8BITMIME", smtputf8
		r.Rcpts[0].To.Local = "jörg"
		r.Original, r.Size = strings.NewReader(eight), int64(len(eight))
		header, types, contents := parts(t, r)
		all := header + strings.Join(contents, "")
		if strings.ContainsFunc(all, func(c rune) bool { return c >= 0x80 }) {
			t.Errorf("not ASCII: %q", all)
		}
		if types[2] != "text/rfc822-headers" || contents[2] != "Subject: z??\r\n" {
			t.Errorf("%s %q", types[2], contents[2])
		}
		if want := "Final-Recipient: utf-8; j\\x{F6}rg@south.example\r\n"; !strings.Contains(contents[1], want) {
			t.Errorf("status lacks %q:\n%s", want, contents[1])
		}
		if e := r.Envelope(); e.SMTPUTF8 || e.Body != "" {
			t.Errorf("%+v", e)
		}
	}
}

// TestNobodySaid: what this host found out itself is not put into another host's mouth.
func TestNobodySaid(t *testing.T) {
	r := report(Failed, "HDRS")
	r.Rcpts[0].Said = false
	_, _, contents := parts(t, r)
	if strings.Contains(contents[0], " said: ") || strings.Contains(contents[1], "Remote-MTA") || !strings.Contains(contents[1], "Diagnostic-Code: x-postel; 550") {
		t.Errorf("%s\n%s", contents[0], contents[1])
	}
}
