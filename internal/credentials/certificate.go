package credentials

import (
	"crypto/tls"
	"fmt"
)

// ReadCertificate reads what this host shows to servers that ask who it is, and notes that there is one. An empty path is none: nil.
func (c *Credentials) ReadCertificate(path, key string) (*tls.Certificate, error) {
	if path == "" {
		return nil, nil
	}
	pair, err := tls.LoadX509KeyPair(path, key)
	if err != nil {
		return nil, fmt.Errorf("cannot read the certificate %s with key %s: %w", path, key, err)
	}
	c.Certificate = true
	return &pair, nil
}
