package queue

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/postel-mail/postel/internal/clock"
)

// TestParseHead: a head is what the writer writes and nothing that looks like it.
func TestParseHead(t *testing.T) {
	good := fmt.Sprintf(headFormat, 1234, 0xab12)
	for head, want := range map[string]string{
		good: "1234 ab12 <nil>",
		fmt.Sprintf(headFormat, int64(1)<<62, uint32(1)<<31):                     "4611686018427387904 80000000 <nil>",
		strings.Replace(good, "queue 1", "queue 2", 1):                           "0 0 " + ErrVersion.Error(),
		strings.Replace(good, "postel", "pastel", 1):                             "0 0 not a queue file",
		strings.Replace(good, "00001234", "0000+234", 1):                         "0 0 malformed head",
		strings.Replace(good, "00001234", "0000_234", 1):                         "0 0 malformed head",
		strings.Replace(good, "00001234", "    1234", 1):                         "0 0 malformed head",
		strings.Replace(good, "0000ab12", "0000AB12", 1):                         "0 0 malformed head",
		strings.Replace(good, "0000ab12", "+000ab12", 1):                         "0 0 malformed head",
		strings.Replace(good, "0000ab12\n", "0000ab123", 1):                      "0 0 malformed head",
		strings.Replace(good, "Size: 0", "Size:  ", 1):                           "0 0 malformed head",
		strings.Replace(good, "\nSum: ", "Sum: \n", 1):                           "0 0 malformed head",
		strings.Replace(good, "00000000000000001234", "99999999999999999999", 1): "0 0 malformed head",
		strings.Replace(good, "00000000000000001234", "09999999999999999999", 1): "0 0 malformed head",
	} {
		total, sum, err := parseHead(head)
		if got := fmt.Sprintf("%d %x %v", total, sum, err); got != want {
			t.Errorf("%q: got %s, want %s", head, got, want)
		}
	}
}

func TestArrival(t *testing.T) {
	at := time.Date(2026, 11, 23, 17, 0, 0, 1000, time.UTC)
	clock.Set(func() time.Time { return at })
	defer clock.Set(nil)
	e := newEnvelope()
	s := open(t)
	w, err := s.Create(e)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort()
	if got := Arrival(w.ID()); got.Sub(at).Abs() > time.Second || got.Location() != time.UTC { // ids of one process ascend, whatever the clock says
		t.Errorf("got %v, want %v", got, at)
	}
	at = time.Date(2026, 11, 23, 17, 50, 4, 560294000, time.UTC)
	if got := Arrival("1k0ymwmgnx61xz2chmfc"); got.Sub(at).Abs() > time.Microsecond {
		t.Errorf("got %v, want %v", got, at)
	}
	for _, id := range []string{"", "x", "1JSK0M8B6GGQRRMCF4X2", "1jsk0m8b6ggqrrmcf4xo"} {
		if got := Arrival(id); !got.IsZero() {
			t.Errorf("%q: got %v", id, got)
		}
	}
}

// TestLook: an envelope that is longer than one read is read whole, and a look does not read the message.
func TestLook(t *testing.T) {
	s := open(t)
	e := newEnvelope()
	for len(e.Rcpts) < 500 {
		e.Rcpts = append(e.Rcpts, e.Rcpts[0])
	}
	w, err := s.Create(e)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort()
	const text = "Subject: x\r\n\r\nhello\r\n"
	if _, err := w.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := w.Commit(); err != nil {
		t.Fatal(err)
	}
	path := s.queue.Path() + "/" + w.ID()
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	whole[len(whole)-3] ^= 1 // the sum does not hold any more
	if err := os.WriteFile(path, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, f := range map[string]func(string) (*Message, error){"look": s.Look, "peek": s.Peek, "claim unread": s.ClaimUnread} {
		m, err := f(w.ID())
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if len(m.Envelope.Rcpts) != 500 || m.Size() != int64(len(text)) {
			t.Errorf("%s: %d recipients, %d octets", name, len(m.Envelope.Rcpts), m.Size())
		}
		m.Close()
	}
	var bad *CorruptError
	if _, err := s.Claim(w.ID()); !errors.As(err, &bad) || !bad.Moved {
		t.Errorf("claim: %v", err)
	}
}

// TestClaimUnread: a claim is a claim, however little was read.
func TestClaimUnread(t *testing.T) {
	s := open(t)
	id := put(t, s)
	m, err := s.ClaimUnread(id)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Claim(id); !errors.Is(err, ErrBusy) {
		t.Errorf("claimed twice: %v", err)
	}
	m.State.Expire = true
	if err := m.Record(true); err != nil {
		t.Fatal(err)
	}
	m.Close()
	if m, err = s.Claim(id); err != nil || !m.State.Expire {
		t.Fatalf("%v, %+v", err, m)
	}
	defer m.Close()
	if _, err := s.ClaimUnread(id); !errors.Is(err, ErrBusy) {
		t.Errorf("claimed twice: %v", err)
	}
	if err := errors.Join(m.Remove(), s.SyncRemoved()); err != nil {
		t.Error(err)
	}
	if _, err := s.ClaimUnread(id); !errors.Is(err, ErrGone) {
		t.Errorf("removed: %v", err)
	}
}
