package dsn

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	"strings"
	"testing"
	"time"

	"github.com/postel-mail/postel/internal/address"
	"github.com/postel-mail/postel/internal/envelope"
	"github.com/postel-mail/postel/internal/message"
	"github.com/postel-mail/postel/internal/status"
)

const (
	original = "From: a@north.example\r\nSubject: hi\r\n\r\n.dot\r\nbody\r\n"
	header   = "From: a@north.example\r\nSubject: hi\r\n"
	eight    = "Subject: z\xc3\xbc\r\n\r\nz\xc3\xbc\r\n" // in header and body
)

func report(action Action, ret string) *Report {
	r := &Report{
		Hostname: "mail.north.example", Action: action, Now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
		Message: &envelope.Envelope{ID: "0id", Arrival: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), EnvID: "env=1", Ret: ret,
			From: address.Path{Local: "a", Domain: "north.example"}},
		Rcpts: []Recipient{{
			Recipient: envelope.Recipient{To: address.Path{Local: "b", Domain: "south.example"}, ORcpt: "rfc822;old@south.example"},
			Err:       status.Permanent(550, "5.1.1", "no such user\r\nX: y ü", errors.New("secret path")), Relay: "mx.south.example[192.0.2.1]:25", Said: true,
		}},
		Until: time.Date(2026, 1, 6, 0, 0, 0, 0, time.UTC),
	}
	r.about(original)
	return r
}

// about makes text the message that the report is about.
func (r *Report) about(text string) { r.Original, r.Size = strings.NewReader(text), int64(len(text)) }

// part is a part of a report, its content decoded.
type part struct{ kind, encoding, content string }

// read reads a report with the standard library's MIME reader, and asks of it what holds for every report.
func read(t *testing.T, r *Report) (header string, parts []part) {
	t.Helper()
	var b strings.Builder
	n, err := r.WriteTo(&b)
	if err != nil || n != int64(b.Len()) {
		t.Fatalf("%d of %d octets, %v", n, b.Len(), err)
	}
	text := b.String()
	lines := message.CRLF(strings.NewReader(text))
	if normal, _ := io.ReadAll(lines); string(normal) != text || isOdd(lines) {
		t.Errorf("bare CR or LF, NUL, or a line of %d octets", lines.Longest())
	}
	header, body, _ := strings.Cut(text, "\r\n\r\n")
	e, err := r.Envelope()
	if err != nil {
		t.Fatal(err)
	}
	if !e.From.IsNull() || len(e.Rcpts) != 1 || e.Rcpts[0].Notify != "NEVER" {
		t.Errorf("envelope %+v", e)
	}
	if message.HasEightBit([]byte(header)) && !e.SMTPUTF8 || lines.EightBit() && e.Body != "8BITMIME" ||
		e.Body != "" && !strings.Contains(header, "\r\nContent-Transfer-Encoding: 8bit") {
		t.Errorf("%+v does not fit\n%s", e, text)
	}
	_, ct, _ := strings.Cut(header, "Content-Type: ")
	ct, _, _ = strings.Cut(strings.ReplaceAll(ct, "\r\n ", " "), "\r\n")
	kind, params, err := mime.ParseMediaType(ct)
	if err != nil || kind != "multipart/report" || params["report-type"] != "delivery-status" {
		t.Fatalf("%q: %v", ct, err)
	}
	mr := multipart.NewReader(strings.NewReader(body), params["boundary"])
	for {
		p, err := mr.NextRawPart()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		c, err := io.ReadAll(p)
		if err != nil {
			t.Fatal(err)
		}
		encoding := p.Header.Get("Content-Transfer-Encoding")
		if message.HasEightBit(c) && encoding != "8bit" {
			t.Errorf("%s has octets over 127, its encoding is %q", p.Header.Get("Content-Type"), encoding)
		}
		if encoding == "quoted-printable" {
			if c, err = io.ReadAll(quotedprintable.NewReader(strings.NewReader(string(c)))); err != nil {
				t.Error(err)
			}
		}
		parts = append(parts, part{p.Header.Get("Content-Type"), encoding, string(c)})
	}
	if len(parts) != 3 || parts[0].kind != "text/plain; charset=utf-8" {
		t.Fatalf("parts %+v", parts)
	}
	return header, parts
}

func lacks(t *testing.T, where, text string, wants ...string) {
	t.Helper()
	for _, want := range wants {
		if !strings.Contains(text, want) {
			t.Errorf("%s lacks %q:\n%s", where, want, text)
		}
	}
}

func TestFailed(t *testing.T) {
	header, parts := read(t, report(Failed, ""))
	lacks(t, "header", header, "Date: Fri, 2 Jan 2026 03:04:05 +0000\r\n", "To: <a@north.example>\r\n", "Auto-Submitted: auto-replied\r\n", "Message-ID: <0id.failed.",
		"From: Mail Delivery System <MAILER-DAEMON@mail.north.example>\r\n", "MIME-Version: 1.0\r\n")
	lacks(t, "text", parts[0].content, "<b@south.example>\r\n    mx.south.example[192.0.2.1]:25 said: 550 5.1.1 no such user??X: y ü\r\n")
	if parts[1].kind != "message/delivery-status" || parts[2] != (part{"message/rfc822", "", original}) {
		t.Errorf("%+v", parts)
	}
	lacks(t, "status", parts[1].content,
		"Original-Envelope-Id: env=1\r\nReporting-MTA: dns; mail.north.example\r\nX-Postel-Queue-ID: 0id\r\nArrival-Date: Thu, 1 Jan 2026 00:00:00 +0000\r\n",
		"\r\n\r\nOriginal-Recipient: rfc822; old@south.example\r\nFinal-Recipient: rfc822; b@south.example\r\nAction: failed\r\nStatus: 5.1.1\r\n"+
			"Remote-MTA: dns; mx.south.example\r\nDiagnostic-Code: smtp; 550 5.1.1 no such user??X: y ?\r\n")
	if strings.Contains(fmt.Sprint(parts), "secret") {
		t.Error("the cause of a remote refusal shows")
	}
}

func TestOtherActions(t *testing.T) {
	r := report(Delayed, "")
	r.Rcpts[0].Err = status.Temporary(451, "4.4.1", "no answer", errors.New("timeout"))
	r.Rcpts[0].Said, r.Rcpts[0].Relay = false, ""
	_, parts := read(t, r)
	lacks(t, "text", parts[0].content, "    451 4.4.1 no answer (timeout)\r\n", "given up on Tue, 6 Jan 2026")
	lacks(t, "status", parts[1].content, "Action: delayed\r\nStatus: 4.4.1\r\nDiagnostic-Code: x-postel; 451 4.4.1 no answer\r\nWill-Retry-Until: Tue, 6 Jan 2026")
	for _, action := range []Action{Delivered, Relayed, Expanded} {
		r := report(action, "")
		r.Rcpts[0].Err = nil
		_, parts := read(t, r)
		lacks(t, "text", parts[0].content, "<b@south.example>\r\n    taken by mx.south.example[192.0.2.1]:25\r\n")
		lacks(t, "status", parts[1].content, "Action: "+string(action)+"\r\nStatus: 2.0.0\r\nRemote-MTA: dns; mx.south.example\r\n")
	}
}

// TestRequireTLS: a report about a message with REQUIRETLS has it too, and brings back the header alone, whatever the sender chose (RFC 8689 5). So does one about a
// binary message, which is no text.
func TestRequireTLS(t *testing.T) {
	for _, binary := range []bool{false, true} {
		r := report(Failed, "FULL")
		if r.Message.RequireTLS = !binary; binary {
			r.Message.Body = "BINARYMIME"
		}
		if _, parts := read(t, r); parts[2] != (part{"text/rfc822-headers", "", header}) {
			t.Errorf("got %+v", parts[2])
		}
		if e, err := r.Envelope(); err != nil || e.RequireTLS == binary || e.Body != "" {
			t.Errorf("envelope %+v, %v", e, err)
		}
	}
}

// TestOriginalRecipient: an address of type utf-8 is encoded in a report that is ASCII (RFC 6533 3).
func TestOriginalRecipient(t *testing.T) {
	for _, tt := range []struct{ orcpt, from, want string }{
		{"rfc822;old@south.example", "a", "rfc822; old@south.example"},
		{"utf-8;øld@south.example", "a", `utf-8; \x{F8}ld@south.example`},
		{"utf-8;øld@south.example", "ägid", "utf-8; øld@south.example"},
	} {
		r := report(Failed, "HDRS")
		r.Rcpts[0].ORcpt, r.Message.From.Local = tt.orcpt, tt.from
		if _, parts := read(t, r); !strings.Contains(parts[1].content, "\r\nOriginal-Recipient: "+tt.want+"\r\n") {
			t.Errorf("%s for %s: got\n%s", tt.orcpt, tt.from, parts[1].content)
		}
	}
}

func TestReturnedPart(t *testing.T) {
	long := "Subject: " + strings.Repeat("x", 2000) + "\r\n"
	for _, tt := range []struct {
		name     string
		action   Action
		ret      string
		smtputf8 bool
		from     string
		text     string
		size     int64 // what the queue says of it, where not the truth
		want     part
	}{
		{name: "whole", action: Failed, text: original, want: part{"message/rfc822", "", original}},
		{name: "headers wanted", action: Failed, ret: "HDRS", text: original, want: part{"text/rfc822-headers", "", header}},
		{name: "large", action: Failed, text: original, size: maxUnasked + 1, want: part{"text/rfc822-headers", "", header}},
		{name: "large, all wanted", action: Failed, ret: "FULL", text: original, size: maxUnasked + 1, want: part{"message/rfc822", "", original}},
		{name: "too large, all wanted", action: Failed, ret: "FULL", text: original, size: maxReturned + 1, want: part{"text/rfc822-headers", "", header}},
		{name: "delay", action: Delayed, ret: "FULL", text: original, want: part{"text/rfc822-headers", "", header}},
		{name: "success", action: Delivered, text: original, want: part{"text/rfc822-headers", "", header}},
		{name: "8 bit", action: Failed, text: eight, want: part{"message/rfc822", "8bit", eight}},
		{name: "8 bit header", action: Failed, ret: "HDRS", text: eight, want: part{"text/rfc822-headers", "quoted-printable", "Subject: zü\r\n"}},
		{name: "SMTPUTF8", action: Failed, smtputf8: true, text: eight, want: part{"message/global", "8bit", eight}},
		{name: "SMTPUTF8 header", action: Failed, ret: "HDRS", smtputf8: true, text: eight, want: part{"message/global-headers", "quoted-printable", "Subject: zü\r\n"}},
		{name: "ASCII by SMTPUTF8", action: Failed, smtputf8: true, text: original, want: part{"message/rfc822", "", original}},
		{name: "from UTF-8", action: Failed, ret: "HDRS", smtputf8: true, from: "ägid", text: eight, want: part{"message/global-headers", "8bit", "Subject: zü\r\n"}},
		{name: "from UTF-8, whole", action: Failed, smtputf8: true, from: "ägid", text: eight, want: part{"message/global", "8bit", eight}},
		{name: "NUL", action: Failed, text: "A: b\r\n\r\n\x00", want: part{"text/rfc822-headers", "", "A: b\r\n"}},
		{name: "NUL in the header", action: Failed, text: "A: \x00\r\n\r\nb", want: part{"text/rfc822-headers", "quoted-printable", "A: \x00\r\n"}},
		{name: "long line", action: Failed, text: header + "\r\n" + long, want: part{"text/rfc822-headers", "", header}},
		{name: "long header", action: Failed, text: long + "\r\nb\r\n", want: part{"text/rfc822-headers", "quoted-printable", long}},
		{name: "bare line ends", action: Failed, text: "A: b\rC: d\nE: f\n\ng\rh\n", want: part{"message/rfc822", "", "A: b C: d\r\nE: f\r\n\r\ng h\r\n"}},
		{name: "no body", action: Failed, ret: "HDRS", text: "A: b\r\n", want: part{"text/rfc822-headers", "", "A: b\r\n"}},
		{name: "no header", action: Failed, ret: "HDRS", text: "\r\nb\r\n", want: part{"text/rfc822-headers", "", ""}},
		{name: "nothing", action: Failed, text: "", want: part{"message/rfc822", "", ""}},
	} {
		r := report(tt.action, tt.ret)
		r.about(tt.text)
		if tt.size > 0 {
			r.Size = tt.size
		}
		r.Message.SMTPUTF8 = tt.smtputf8
		if tt.from != "" {
			r.Message.From.Local = tt.from
		}
		if _, parts := read(t, r); parts[2] != tt.want {
			t.Errorf("%s: got %+v, want %+v", tt.name, parts[2], tt.want)
		}
	}
}

// TestHugeHeader: a header that never ends is cut.
func TestHugeHeader(t *testing.T) {
	r := report(Failed, "HDRS")
	r.about(strings.Repeat("X: y\r\n", 1<<20))
	if _, parts := read(t, r); len(parts[2].content) > maxReturnedHeader+2 || len(parts[2].content) < maxReturnedHeader {
		t.Errorf("%d octets", len(parts[2].content))
	}
}

// TestInternational: addresses in their three forms, RFC 6533 3.
func TestInternational(t *testing.T) {
	for _, tt := range []struct{ from, to, kind, want string }{
		{"ägid", "jörg@süd.example", "message/global-delivery-status", "Final-Recipient: utf-8; jörg@süd.example\r\n"},
		{"a", "jörg@south.example", "message/delivery-status", "Final-Recipient: utf-8; j\\x{F6}rg@south.example\r\n"},
		{"a", "b@süd.example", "message/delivery-status", "Final-Recipient: rfc822; b@xn--sd-xka.example\r\n"},
	} {
		r := report(Failed, "HDRS")
		r.Message.SMTPUTF8 = true
		r.Message.From.Local = tt.from
		var err error
		if r.Rcpts[0].To, err = address.Parse(tt.to); err != nil {
			t.Fatal(err)
		}
		header, parts := read(t, r)
		if parts[1].kind != tt.kind {
			t.Errorf("%s for %s", parts[1].kind, tt.to)
		}
		lacks(t, "status", parts[1].content, tt.want)
		lacks(t, "text", parts[0].content, "<"+tt.to+">\r\n", "y ü\r\n")
		lacks(t, "header", header, "To: <"+tt.from+"@north.example>")
	}
}

// TestSenderDomain: a sender who is international by the domain alone gets a plain report.
func TestSenderDomain(t *testing.T) {
	r := report(Failed, "")
	r.Message.SMTPUTF8, r.Message.From.Domain = true, "nörd.example"
	header, _ := read(t, r)
	lacks(t, "header", header, "To: <a@xn--nrd-sna.example>")
}

// TestNobodySaid: what this host found out itself is not put into another host's mouth.
func TestNobodySaid(t *testing.T) {
	r := report(Failed, "HDRS")
	r.Rcpts[0].Said = false
	_, parts := read(t, r)
	if strings.Contains(parts[0].content, " said: ") || strings.Contains(parts[1].content, "Remote-MTA") {
		t.Errorf("%+v", parts)
	}
	lacks(t, "status", parts[1].content, "Diagnostic-Code: x-postel; 550")
}

// TestDoubleBounce: of a message without a sender postmaster is told, and the report can be known.
func TestDoubleBounce(t *testing.T) {
	r := report(Failed, "")
	r.Message.From = address.Path{}
	top, parts := read(t, r)
	lacks(t, "header", top, "To: <postmaster@mail.north.example>\r\n", "Subject: Mail that could be neither", "X-Postel-Report: double-bounce\r\n", "Auto-Submitted: auto-replied\r\n")
	lacks(t, "text", parts[0].content, "postmaster of this host", "<b@south.example>\r\n")
	if parts[2].content != original {
		t.Errorf("the message came back as %q", parts[2].content)
	}
	for text, want := range map[string]bool{top: true, "Delivered-To: x@y\r\n" + top: true, original: false, "X-Postel-Report: \r\n": false} {
		h, err := message.ReadHeader(bufio.NewReader(strings.NewReader(text)), message.MaxHeader)
		if err != nil || IsDoubleBounce(h) != want {
			t.Errorf("%q: %v, want %v", text, err, want)
		}
	}
	if plain, _ := read(t, report(Failed, "")); strings.Contains(plain, kindField) {
		t.Error("a report to a sender is marked")
	}
}

// TestMessageID: the same news has the same Message-ID, other news another one.
func TestMessageID(t *testing.T) {
	other := report(Failed, "")
	other.Rcpts[0].To.Local = "c"
	id := report(Failed, "").messageID()
	if id != report(Failed, "HDRS").messageID() || id == report(Delayed, "").messageID() || id == other.messageID() {
		t.Error(id)
	}
}

// TestHostileText: nothing that a peer says begins a line, a field or a part, or makes a line that cannot be sent.
func TestHostileText(t *testing.T) {
	for _, text := range []string{
		"\r\n\r\n--=_postel_X\r\nContent-Type: text/html\r\n", "\n.\r\nQUIT", "a\x00b", "\xff\xfe latin-\xe4", "\u2028\u0085",
		strings.Repeat("x", 10<<20), strings.Repeat("word ", 2<<20), strings.Repeat("ü", 5<<20), strings.Repeat(" ", 2000),
	} {
		for _, from := range []string{"a", "ä", ""} {
			r := report(Failed, "")
			r.Message.From.Local = from
			if from == "" {
				r.Message.From = address.Path{}
			}
			r.Rcpts[0].Err = status.Permanent(550, "5.1.1", text, nil)
			r.Rcpts[0].ORcpt = "rfc822;" + strings.Repeat("y", 500)
			_, parts := read(t, r)
			for _, p := range parts[:2] {
				if len(p.content) > 4000 || strings.ContainsAny(p.content, "\x00\u0085") {
					t.Errorf("%d octets: %q", len(p.content), p.content[:200])
				}
			}
			if n := strings.Count(parts[1].content, "\r\n\r\n"); n != 1 {
				t.Errorf("%d empty lines in\n%s", n, parts[1].content)
			}
		}
	}
}

// TestManyRecipients: a thousand are all named, each once.
func TestManyRecipients(t *testing.T) {
	r := report(Failed, "")
	one := r.Rcpts[0]
	one.Err = status.Permanent(550, "5.1.1", strings.Repeat("no such user ", 60), nil)
	r.Rcpts = nil
	for i := range 1000 {
		one.To.Local = fmt.Sprintf("user%d.", i) // needs quotes
		r.Rcpts = append(r.Rcpts, one)
	}
	_, parts := read(t, r)
	for i := range 1000 {
		to := fmt.Sprintf("\"user%d.\"@south.example", i)
		if strings.Count(parts[0].content, "<"+to+">\r\n") != 1 || strings.Count(parts[1].content, "Final-Recipient: rfc822; "+to+"\r\n") != 1 {
			t.Fatalf("%s is not named once", to)
		}
	}
}

// TestBroken: an error of the message below, or of the writer, is told.
func TestBroken(t *testing.T) {
	broken := errors.New("broken")
	r := report(Failed, "")
	r.Original = brokenSeeker{strings.NewReader(original), broken}
	if _, err := r.Envelope(); !errors.Is(err, broken) {
		t.Error(err)
	}
	if _, err := r.WriteTo(io.Discard); !errors.Is(err, broken) {
		t.Error(err)
	}
	pr, pw := io.Pipe()
	pr.CloseWithError(broken)
	if _, err := report(Failed, "").WriteTo(pw); !errors.Is(err, broken) {
		t.Error(err)
	}
}

type brokenSeeker struct {
	io.ReadSeeker
	err error
}

func (b brokenSeeker) Read(p []byte) (int, error) { return 0, b.err }

// FuzzReport: whatever the message, and whatever a peer says of it, the report has three parts and can be sent, and what goes back is what was there.
func FuzzReport(f *testing.F) {
	for _, text := range []string{original, eight, "A: b\rC\x00: d\n\n", "--=_postel_\r\n\r\n", ""} {
		f.Add(text, "no\r\n\r\nAction: delivered", "HDRS", false)
		f.Add(text, "n\xc3\xb6 \x00", "FULL", true)
	}
	f.Fuzz(func(t *testing.T, text, said, ret string, smtputf8 bool) {
		r := report(Failed, ret)
		r.Message.SMTPUTF8 = smtputf8
		r.Rcpts[0].Err = status.Permanent(550, "5.1.1", said, nil)
		r.about(text)
		_, parts := read(t, r)
		all, err := io.ReadAll(message.CRLF(strings.NewReader(text)))
		if err != nil || !strings.HasPrefix(string(all), parts[2].content) {
			t.Errorf("%q came back as %q", all, parts[2].content)
		}
		if ret == "HDRS" && strings.HasPrefix(parts[2].kind, "message/rfc822") {
			t.Errorf("%s for RET=HDRS", parts[2].kind)
		}
		if strings.Count(parts[1].content, "\r\n\r\n") != 1 || strings.Count("\r\n"+parts[1].content, "\r\nAction: ") != 1 {
			t.Errorf("%q makes the status\n%s", said, parts[1].content)
		}
	})
}
