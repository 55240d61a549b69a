package transport

import (
	"bufio"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postel-mail/postel/internal/clock"
	"github.com/postel-mail/postel/internal/smtpclient"
)

// TestIdleSessionsEnd: a session that nobody takes is ended, with QUIT, when its time is over; in the bubble time passes at once.
func TestIdleSessionsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		said := make(chan string, 10)
		go func() {
			defer theirs.Close()
			r := bufio.NewReader(theirs)
			reply := "220 hi\r\n"
			for {
				if _, err := theirs.Write([]byte(reply)); err != nil {
					return
				}
				line, err := r.ReadString('\n')
				if err != nil {
					close(said)
					return
				}
				said <- line[:4]
				reply = "250 ok\r\n"
			}
		}()
		c, err := smtpclient.New(t.Context(), ours, smtpclient.Options{Hostname: "test.example", TLS: smtpclient.Off})
		if err != nil {
			t.Fatal(err)
		}
		var p pool
		p.put(&session{Client: c, key: "k", opened: clock.Now()})
		if got := <-said; got != "EHLO" {
			t.Errorf("first %q", got)
		}
		time.Sleep(idleTime - time.Millisecond)
		synctest.Wait()
		p.mu.Lock()
		idle := len(p.idle)
		p.mu.Unlock()
		if idle != 1 || len(said) != 0 {
			t.Errorf("%d idle, %d commands before the time is over", idle, len(said))
		}
		if got := <-said; got != "QUIT" {
			t.Errorf("then %q", got)
		}
		if s := p.take("k"); s != nil {
			t.Error("an ended session was given out")
		}
		p.close()
	})
}
