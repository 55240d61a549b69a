package main

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"strings"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
)

// writeCertificate makes a self-signed certificate for a day.
func writeCertificate(dir string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "postel demo"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(dir+"/cert.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}), 0o600),
		os.WriteFile(dir+"/key.pem", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600),
	)
}

// The demo's certificates are its own, so its clients do not verify them.
var trusting = &tls.Config{InsecureSkipVerify: true} //nolint:gosec // see above

// clientSubmit sends a message as a mail client does, by another author's SMTP client.
func (w *world) clientSubmit(user, to, text string) error {
	c, err := smtp.DialStartTLS(w.south.submission, trusting)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.Auth(sasl.NewPlainClient("", user, user+"-secret")); err != nil {
		return err
	}
	if err := c.SendMail(user+"@south.example", []string{to}, strings.NewReader(text)); err != nil {
		return err
	}
	return c.Quit()
}

// popFetch fetches all messages by POP3 with STLS, lines ending in LF.
func (w *world) popFetch(addr, user, password string) (messages []string, err error) {
	conn, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		return nil, err
	}
	defer func() { conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		return nil, err
	}
	r := bufio.NewReader(conn)
	say := func(line string) (string, error) {
		if line != "" {
			if _, err := fmt.Fprintf(conn, "%s\r\n", line); err != nil {
				return "", err
			}
		}
		answer, err := r.ReadString('\n')
		if err == nil && !strings.HasPrefix(answer, "+OK") {
			err = fmt.Errorf("%q is answered %q", line, answer)
		}
		return answer, err
	}
	if _, err := say(""); err != nil {
		return nil, err
	}
	if _, err := say("STLS"); err != nil {
		return nil, err
	}
	conn = tls.Client(conn, trusting)
	r = bufio.NewReader(conn)
	for _, line := range []string{"USER " + user, "PASS " + password} {
		if _, err := say(line); err != nil {
			return nil, err
		}
	}
	stat, err := say("STAT")
	if err != nil {
		return nil, err
	}
	var count, octets int
	if _, err := fmt.Sscanf(stat, "+OK %d %d", &count, &octets); err != nil {
		return nil, err
	}
	for i := range count {
		if _, err := say(fmt.Sprintf("RETR %d", i+1)); err != nil {
			return nil, err
		}
		var text strings.Builder
		for {
			line, err := r.ReadString('\n')
			if err != nil {
				return nil, err
			}
			line = strings.TrimRight(line, "\r\n")
			if line == "." {
				break
			}
			text.WriteString(strings.TrimPrefix(line, ".") + "\n")
		}
		messages = append(messages, text.String())
	}
	_, err = say("QUIT")
	return messages, err
}
