package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/postel-mail/postel/internal/clock"
)

// traces runs the tests of package crash, which stop the programs at their calls, on a disk of this kind: what the programs flush is another thing on each.
// On one where they flush once some are also stopped at every call, and calls fail; make test does so for all of them, in the order that its own disk asks for.
func (m *machine) traces(p *plan) (err error) {
	began := clock.Now()
	if err := m.mount("disk.steps"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.unmount()) }()
	which := "^TestTrace$|^TestFlushes$|^TestDropTrace$"
	if m.kind.stepped {
		which += "|^TestEveryCall$/^(sendmail|smtpd|relay)$/^kill_all$|^TestEveryCall$/^(sendmail|smtpd)$/^EIO$"
	}
	c := exec.Command(p.steps, "-test.run", which, "-test.v", "-test.timeout", "150s")
	c.Dir = filepath.Dir(p.steps)
	c.Env = append(os.Environ(), "POSTEL_BIN="+m.bin, "POSTEL_TOOLS="+filepath.Dir(p.steps), "POSTEL_CRASH_DIR="+m.disk(""))
	out, err := c.CombinedOutput()
	text := string(out)
	passed, flushes := strings.Count(text, "--- PASS: "), ""
	if _, rest, ok := strings.Cut(text, "flushes for each message "); ok {
		flushes, _, _ = strings.Cut(rest, "\n")
	}
	if err == nil && (flushes == "" || !strings.Contains(text, "--- PASS: TestTrace/smtpd")) {
		err = errors.New("the tests did not run")
	}
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", p.steps, err, text)
	}
	fmt.Printf("%-17s traces: %d tests passed; flushes for each message %s; %.1f s\n",
		m.kind.name, passed, flushes, clock.Since(began).Seconds())
	return nil
}
