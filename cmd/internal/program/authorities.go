// SPDX-License-Identifier: Apache-2.0

package program

import (
	"crypto/x509"

	"golang.org/x/crypto/x509roots/fallback/bundle"
)

// trust makes the process trust the authorities of Authorities: always, if the main package
// has "//go:debug x509usefallbackroots=1", otherwise only if the system has none.
func trust() { x509.SetFallbackRoots(Authorities()) }

// Authorities returns the authorities of the system, or those in SSL_CERT_DIR and
// SSL_CERT_FILE, and in addition the public ones, for which the image has no files. They
// are read once.
func Authorities() *x509.CertPool {
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	for root := range bundle.Roots() {
		certificate, err := x509.ParseCertificate(root.Certificate)
		if err != nil {
			continue // from a later version of Go
		}
		if root.Constraint == nil {
			pool.AddCert(certificate)
		} else {
			pool.AddCertWithConstraint(certificate, root.Constraint)
		}
	}
	return pool
}
