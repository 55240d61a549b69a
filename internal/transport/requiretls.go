package transport

import (
	"crypto/tls"
	"errors"
	"fmt"

	"github.com/postel-mail/postel/internal/smtpclient"
	"github.com/postel-mail/postel/internal/status"
)

// secure reports whether the message may only go to a server that is proven, by TLS, and keeps to REQUIRETLS (RFC 8689 4.2.1). A bounce is rather sent in the clear
// than lost (RFC 8689 5); it too says REQUIRETLS where the server knows it.
func (r Request) secure() bool {
	if r.Message == nil {
		return false
	}
	e := r.Message.Envelope
	return e.RequireTLS && !e.From.IsNull()
}

// raise makes TLS and its certificate a must for a secure message. A UNIX socket is no network.
func (w *attempt) raise() {
	if !w.r.secure() || w.o.Private {
		return
	}
	w.o.Verify = true
	if w.o.TLS != smtpclient.Implicit {
		w.o.TLS = smtpclient.Require
	}
}

// unproven is the outcome where mail hosts are only known by a DNS that anybody could have answered for: RFC 8689 4.2.1 wants DNSSEC or MTA-STS besides.
func unproven(domain string) *status.Error {
	return status.Permanent(550, "5.7.10", "Message requires TLS, and nothing proves the mail hosts of "+domain, nil)
}

// insecure makes it final for a secure message that a server offers no TLS, or has no certificate that verifies (RFC 8689 4.2.1). Whatever else fails on the way to
// TLS may be the connection, this host that stops, or a server that cannot for now.
func (w *attempt) insecure(s *status.Error) *status.Error {
	noTLS := errors.Is(s, smtpclient.ErrNoTLS) || errors.As(s, new(*tls.CertificateVerificationError))
	if !w.r.secure() || w.o.Private || !noTLS {
		return s
	}
	return status.Permanent(550, "5.7.10", "Message requires TLS: "+s.Text, fmt.Errorf("transport: %w", s))
}

// keepsTLS says why a session cannot have the message, or nil.
func (w *attempt) keepsTLS(s *session) *status.Error {
	if !w.r.secure() || w.o.Private || s.RequireTLS() {
		return nil
	}
	return status.Permanent(550, "5.7.30", "REQUIRETLS support required, and "+s.relay+" does not offer it", nil)
}
