package daemon

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postel-mail/postel/internal/clock"
	"github.com/postel-mail/postel/internal/config"
)

// TLS is the server's side of TLS, from 1.2 on (RFC 8996), with the certificates that the configuration names. Without them it is nil at the start, and the server
// works without offering verb, which is said once; with --tls, with --check and on a reload of a server that has some that is an error. A single session without
// --tls may lack the right to read the key: a user who tries something by hand. Where all clients come by UNIX sockets nobody misses it.
func (d *Daemon) TLS(c *config.Config, verb string) (*tls.Config, error) {
	pairs := &certificates{files: c.TLS.Certificate, keys: c.TLS.Key, failed: d.failedReload}
	err := pairs.load()
	if err == nil {
		d.offersTLS.Store(true)
		return &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: pairs.get, SessionTicketsDisabled: !c.TLS.SessionTickets}, nil
	}
	missing := fmt.Errorf("%s is not offered, there is no certificate that can be read: %w", verb, err)
	gone := errors.Is(err, fs.ErrNotExist)
	switch {
	case d.ImplicitTLS, d.offersTLS.Load(), d.CheckOnly && !gone:
		return nil, err
	case d.CheckOnly:
		d.Say(missing)
	case d.Single() && !gone:
		d.unreadKey.Store(&missing)
	case !d.Single() && !d.onlyUnix(): // not for each connection
		d.Log.Problem("", missing)
	}
	return nil, nil
}

// failedReload tells of certificates that have changed and cannot be read.
func (d *Daemon) failedReload(err error) { d.Log.ReloadFailed(err) }

// onlyUnix reports whether the server listens on UNIX sockets and on nothing else.
func (d *Daemon) onlyUnix() bool {
	return len(d.Listen) > 0 && !slices.ContainsFunc(d.Listen, func(a string) bool { return !strings.HasPrefix(a, "unix:") })
}

// lookAgain is how often the files of certificates are looked at, and how long they rest before they are read: a certificate may be in its place before its key is.
const lookAgain = 2 * time.Second

// certificates are those in files and keys, read again when one of these files changes.
type certificates struct {
	files, keys []string
	failed      func(error) // is told of a change that cannot be read

	mu     sync.Mutex
	looked time.Time
	stamps []stamp // of the files when they were read last, well or not
	pairs  []tls.Certificate
}

// stamp tells one state of a file from another.
type stamp struct {
	size     int64
	modified time.Time
	inode    uint64
}

// get gives the first certificate that suits the client, by the name it asks for and what it understands, and else the first.
func (s *certificates) get(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	pairs := s.current()
	for i := range pairs {
		if len(pairs) == 1 || hello.SupportsCertificate(&pairs[i]) == nil {
			return &pairs[i], nil
		}
	}
	return &pairs[0], nil
}

// current gives the certificates as the files are now, or as they were last when they could be read.
func (s *certificates) current() []tls.Certificate {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := clock.Now()
	if since := now.Sub(s.looked); since >= 0 && since < lookAgain {
		return s.pairs
	}
	s.looked = now
	stamps := s.stat()
	rest := func(st stamp) bool { age := now.Sub(st.modified); return age < 0 || age >= lookAgain }
	if slices.Equal(stamps, s.stamps) || slices.ContainsFunc(stamps, func(st stamp) bool { return !rest(st) }) {
		return s.pairs
	}
	if err := s.load(); err != nil {
		s.failed(err)
	}
	return s.pairs
}

func (s *certificates) stat() []stamp {
	stamps := make([]stamp, 0, 2*len(s.files))
	for _, name := range slices.Concat(s.files, s.keys) {
		st := stamp{}
		var file unix.Stat_t
		if unix.Stat(name, &file) == nil {
			st = stamp{file.Size, time.Unix(file.Mtim.Unix()), file.Ino}
		}
		stamps = append(stamps, st)
	}
	return stamps
}

// load reads all of them, or changes nothing but the stamps.
func (s *certificates) load() error {
	s.stamps = s.stat() // before the reading: what changes meanwhile is another change
	pairs := make([]tls.Certificate, len(s.files))
	for i, name := range s.files {
		var err error
		if pairs[i], err = tls.LoadX509KeyPair(name, s.keys[i]); err != nil {
			return fmt.Errorf("cannot read the certificate %s with key %s: %w", name, s.keys[i], err)
		}
	}
	s.pairs = pairs
	return nil
}
