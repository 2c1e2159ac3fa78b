// SPDX-License-Identifier: Apache-2.0

// Package trust defines which certificate authorities a program trusts as a TLS client. It reads no
// files: the programs do.
package trust

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
)

// Besides returns a TLS configuration that trusts the authorities in ca, as PEM, in
// addition to the system's. If ca is empty, it trusts only the system's. It returns an
// error if ca holds no certificate.
func Besides(ca []byte) (*tls.Config, error) {
	if len(ca) == 0 {
		return &tls.Config{MinVersion: tls.VersionTLS12}, nil
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(ca) {
		return nil, errors.New("the CA file holds no certificate; give one or more in PEM")
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: pool}, nil
}
