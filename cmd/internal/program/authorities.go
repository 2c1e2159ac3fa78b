// SPDX-License-Identifier: Apache-2.0

package program

import (
	"crypto/x509"

	"golang.org/x/crypto/x509roots/fallback/bundle"
)

// trust has the process trust the authorities of Authorities: where the main package says
// "//go:debug x509usefallbackroots=1", always, and otherwise where the system has none.
func trust() { x509.SetFallbackRoots(Authorities()) }

// Authorities are those of the system, or that SSL_CERT_DIR and SSL_CERT_FILE name, and
// besides them the public ones, which the image has no files of. They are read once.
func Authorities() *x509.CertPool {
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	for root := range bundle.Roots() {
		certificate, err := x509.ParseCertificate(root.Certificate)
		if err != nil {
			continue // of a later Go
		}
		if root.Constraint == nil {
			pool.AddCert(certificate)
		} else {
			pool.AddCertWithConstraint(certificate, root.Constraint)
		}
	}
	return pool
}
