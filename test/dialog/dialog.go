// Package dialog plays the server of a line protocol from a script, for tests of clients: a text that a mail administrator can read.
//
// A script has a line for each step; blanks in front of it and empty lines do not count.
//
//	S: text     the server writes text and CRLF
//	S| "text"   it writes the quoted Go string as it is
//	C: text     the client must write text and CRLF
//	C. text     the same, and nothing behind it before the next answer
//	C| "text"   the client must write the quoted Go string
//	C/ text     the client must write a line that begins with text
//	BODY        the client must write a message, up to the line of a lone dot
//	TLS         handshake with the certificate
//	NOTLS       the same, but it must fail; the script ends there
//	NODOT       the client must close without a line of a lone dot
//	STOP        stop is called
//	CLOSE       the server closes, at once
//
// At the end of the script the client must close without a further word.
package dialog

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/postel-mail/postel/internal/clock"
)

const (
	patience = 2 * time.Minute // for one dialog
	maxLine  = 64 << 10        // octets that the client may write in one line
)

// Server is what a script needs besides its text.
type Server struct {
	Certificate tls.Certificate // for TLS
	Stop        func()          // for STOP
}

// player is one dialog.
type player struct {
	Server
	conn net.Conn
	r    *bufio.Reader
}

// errEnd ends a script before its end.
var errEnd = errors.New("end of the script")

// Play plays the script over conn and closes it. The error says which step went wrong.
func (s Server) Play(conn net.Conn, script string) error {
	defer conn.Close()
	if err := conn.SetDeadline(clock.Now().Add(patience)); err != nil {
		return err
	}
	p := &player{Server: s, conn: conn, r: bufio.NewReaderSize(conn, maxLine)}
	for n, line := range strings.Split(script, "\n") {
		step, arg, _ := strings.Cut(strings.TrimLeft(line, " \t"), " ")
		if err := p.step(step, arg); errors.Is(err, errEnd) {
			return nil
		} else if err != nil {
			return fmt.Errorf("script line %d, %s: %w", n+1, strings.TrimSpace(line), err)
		}
	}
	rest, err := io.ReadAll(p.r)
	if len(rest) > 0 || err != nil && !isClose(err) {
		return fmt.Errorf("after the script the client wrote %q (%v)", rest, err)
	}
	return nil
}

func (p *player) step(step, arg string) error {
	switch step {
	case "":
		return nil
	case "S:":
		_, err := io.WriteString(p.conn, arg+"\r\n")
		return err
	case "S|":
		raw, err := strconv.Unquote(arg)
		if err != nil {
			return err
		}
		_, err = io.WriteString(p.conn, raw)
		return err
	case "C:", "C.":
		line, err := p.r.ReadSlice('\n')
		if err != nil || string(line) != arg+"\r\n" {
			return fmt.Errorf("the client wrote %q (%v)", line, err)
		}
		if step == "C." && p.r.Buffered() > 0 {
			return errors.New("the client wrote more behind it")
		}
		return nil
	case "C/":
		line, err := p.r.ReadSlice('\n')
		if err != nil || !strings.HasPrefix(string(line), arg) {
			return fmt.Errorf("the client wrote %q (%v)", line, err)
		}
		return nil
	case "C|":
		want, err := strconv.Unquote(arg)
		if err != nil {
			return err
		}
		got := make([]byte, len(want))
		if n, err := io.ReadFull(p.r, got); err != nil || string(got) != want {
			return fmt.Errorf("the client wrote %q (%v)", got[:n], err)
		}
		return nil
	case "BODY":
		for {
			if line, err := p.r.ReadSlice('\n'); err != nil || string(line) == ".\r\n" {
				return err
			}
		}
	case "NODOT":
		rest, err := io.ReadAll(p.r)
		if err != nil && !isClose(err) || bytes.Contains(append([]byte("\r\n"), rest...), []byte("\r\n.\r\n")) {
			return fmt.Errorf("%d octets came (%v), with a lone dot among them", len(rest), err)
		}
		return nil
	case "TLS", "NOTLS":
		return p.handshake(step == "TLS")
	case "STOP":
		p.Stop()
		return nil
	case "CLOSE":
		return errEnd
	}
	return errors.New("unknown step")
}

func (p *player) handshake(good bool) error {
	c := tls.Server(p.conn, &tls.Config{Certificates: []tls.Certificate{p.Certificate}})
	err := c.Handshake()
	switch {
	case good && err == nil:
		p.conn, p.r = c, bufio.NewReaderSize(c, maxLine)
		return nil
	case good:
		return fmt.Errorf("handshake: %w", err)
	case err == nil:
		return errors.New("the client made a handshake")
	}
	return errEnd
}

// isClose tells a client that went away, with or without a farewell, from other errors.
func isClose(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, io.ErrClosedPipe)
}

// Certificate makes a certificate for names and addresses, valid for an hour, and the pool of roots that it verifies against.
func Certificate(names ...string) (tls.Certificate, *x509.CertPool, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	now := clock.Now()
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: names[0]}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			c.IPAddresses = append(c.IPAddresses, ip)
		} else {
			c.DNSNames = append(c.DNSNames, name)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, pool, nil
}
