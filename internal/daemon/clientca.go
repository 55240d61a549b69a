package daemon

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"

	"github.com/postel-mail/postel/internal/channel"
	"github.com/postel-mail/postel/internal/config"
)

// ClientCA makes t, which may be nil, one for a server that users log in to: it asks clients for a certificate where the configuration says whose are taken, and its
// sessions can be bound to a login. A client need not have a certificate; one that shows another's is not let in.
func (d *Daemon) ClientCA(c *config.Config, t *tls.Config) error {
	if t == nil {
		return nil
	}
	channel.Watch(t)
	if c.TLS.ClientCA == "" {
		return nil
	}
	pem, err := os.ReadFile(c.TLS.ClientCA)
	if err != nil {
		return fmt.Errorf("tls.client_ca: %w", err)
	}
	t.ClientCAs = x509.NewCertPool()
	if !t.ClientCAs.AppendCertsFromPEM(pem) {
		return fmt.Errorf("tls.client_ca: there is no certificate in %s", c.TLS.ClientCA)
	}
	t.ClientAuth = tls.VerifyClientCertIfGiven
	return nil
}
