// Package channel is what SASL learns of the TLS below it: the channel bindings tls-exporter (RFC 9266) and tls-server-end-point (RFC 5929 4),
// and whom a client's certificate names.
//
// tls-unique is left out: TLS 1.3 does not have it, and with older versions it is not safe (RFC 9266 1).
package channel

import (
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"crypto/x509"
	"net"

	"github.com/postel-mail/postel/internal/sasl"
)

// conn is what TLS runs over; it notes the certificate that the handshake on it shows.
type conn struct {
	net.Conn
	shown *x509.Certificate
}

// Server puts the server's side of TLS on c. For tls-server-end-point config is one that Watch has been given.
func Server(c net.Conn, config *tls.Config) *tls.Conn { return tls.Server(&conn{Conn: c}, config) }

// Watch makes config note the certificate that each handshake shows. It is called once, before config is used.
func Watch(config *tls.Config) {
	before := config.GetConfigForClient
	config.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		chosen, other := config, (*tls.Config)(nil)
		if before != nil {
			var err error
			if other, err = before(hello); err != nil {
				return nil, err
			}
			if other != nil {
				chosen = other
			}
		}
		if c, ok := hello.Conn.(*conn); ok {
			c.shown = certificate(chosen, hello)
		}
		return other, nil
	}
}

// certificate makes the choice that crypto/tls makes behind it; nil where there is none to make.
func certificate(config *tls.Config, hello *tls.ClientHelloInfo) *x509.Certificate {
	if config.GetCertificate != nil && (len(config.Certificates) == 0 || hello.ServerName != "") {
		if c, err := config.GetCertificate(hello); err != nil || c != nil {
			return leaf(c)
		}
	}
	for i := range config.Certificates {
		if c := &config.Certificates[i]; len(config.Certificates) == 1 || hello.SupportsCertificate(c) == nil {
			return leaf(c)
		}
	}
	if len(config.Certificates) > 0 {
		return leaf(&config.Certificates[0])
	}
	return nil
}

func leaf(c *tls.Certificate) *x509.Certificate {
	switch {
	case c == nil:
		return nil
	case c.Leaf != nil:
		return c.Leaf
	case len(c.Certificate) == 0:
		return nil
	}
	parsed, err := x509.ParseCertificate(c.Certificate[0])
	if err != nil {
		return nil
	}
	return parsed
}

// Of gives what SASL needs of a TLS session whose handshake is over; nil is a connection without TLS. Names are the addresses (rfc822Name, RFC 5280
// 4.2.1.6) in a client's certificate that was verified; what stands in its subject counts for nothing.
func Of(t *tls.Conn) sasl.Channel {
	if t == nil {
		return sasl.Channel{}
	}
	state := t.ConnectionState()
	var c sasl.Channel
	if len(state.VerifiedChains) > 0 {
		c.Names = state.VerifiedChains[0][0].EmailAddresses
	}
	c.Binding = func(kind string) []byte {
		switch kind {
		case sasl.Exporter:
			b, err := state.ExportKeyingMaterial("EXPORTER-Channel-Binding", nil, 32)
			if err != nil { // TLS 1.2 without extended master secret
				return nil
			}
			return b
		case sasl.EndPoint:
			if c, ok := t.NetConn().(*conn); ok && c.shown != nil {
				return endPoint(c.shown)
			}
		}
		return nil
	}
	return c
}

// endPoint hashes a certificate with the hash of its signature, or SHA-256 in the place of a weaker one; nil where RFC 5929 4.1 does not say which.
func endPoint(c *x509.Certificate) []byte {
	switch c.SignatureAlgorithm {
	case x509.MD5WithRSA, x509.SHA1WithRSA, x509.ECDSAWithSHA1, x509.SHA256WithRSA, x509.SHA256WithRSAPSS, x509.ECDSAWithSHA256:
		sum := sha256.Sum256(c.Raw)
		return sum[:]
	case x509.SHA384WithRSA, x509.SHA384WithRSAPSS, x509.ECDSAWithSHA384:
		sum := sha512.Sum384(c.Raw)
		return sum[:]
	case x509.SHA512WithRSA, x509.SHA512WithRSAPSS, x509.ECDSAWithSHA512:
		sum := sha512.Sum512(c.Raw)
		return sum[:]
	}
	return nil
}
