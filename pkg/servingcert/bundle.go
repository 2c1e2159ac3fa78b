// SPDX-License-Identifier: Apache-2.0

package servingcert

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"slices"
	"time"
)

const (
	// maxAuthorities is the maximum number of authorities in a bundle. Each replica puts its
	// authority first, and the bundle is cut off at the end.
	maxAuthorities = 32
	// safePlaces is how far down an authority may be before its replica puts it first again.
	// As long as there are fewer replicas than that, only authorities of replicas that are
	// gone are cut off, however often another replica restarts: it would have to restart as
	// often as there are places below, between two looks of a healthy one.
	safePlaces = maxAuthorities / 2
	// backdate is how much clocks may differ.
	backdate = time.Hour
)

// pair is a serving certificate with its key and the authority that signed it. The
// authority's own key is discarded once it has signed.
type pair struct {
	cert, key, ca       []byte // PEM
	notBefore, notAfter time.Time
}

// newPair creates an authority and a serving certificate, both with the given lifetime.
func newPair(dnsNames []string, now time.Time, lifetime time.Duration) (*pair, error) {
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("cannot make the authority's key: %w", err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("cannot make the serving key: %w", err)
	}
	template := func(serial *big.Int, name string) *x509.Certificate {
		return &x509.Certificate{
			SerialNumber: serial, Subject: pkix.Name{CommonName: name},
			NotBefore: now.Add(-backdate), NotAfter: now.Add(lifetime),
		}
	}
	serials := make([]*big.Int, 2)
	for i := range serials {
		if serials[i], err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120)); err != nil {
			return nil, fmt.Errorf("cannot make a serial number: %w", err)
		}
	}
	ca := template(serials[0], fmt.Sprintf("callguard %x", serials[0]))
	ca.IsCA, ca.BasicConstraintsValid, ca.MaxPathLenZero = true, true, true
	ca.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature
	leaf := template(serials[1], dnsNames[0])
	leaf.DNSNames = dnsNames
	leaf.KeyUsage = x509.KeyUsageDigitalSignature
	leaf.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}

	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	if err != nil {
		return nil, fmt.Errorf("cannot sign the authority: %w", err)
	}
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, ca, key.Public(), caKey)
	if err != nil {
		return nil, fmt.Errorf("cannot sign the serving certificate: %w", err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("cannot encode the serving key: %w", err)
	}
	return &pair{
		cert:      encode("CERTIFICATE", leafDER),
		key:       encode("PRIVATE KEY", keyDER),
		ca:        encode("CERTIFICATE", caDER),
		notBefore: now,
		notAfter:  leaf.NotAfter,
	}, nil
}

// mergeBundle returns bundle with the authorities in own first, without expired
// certificates and other data, and with at most maxAuthorities.
func mergeBundle(bundle []byte, own [][]byte, now time.Time) []byte {
	var merged []byte
	seen := map[string]bool{}
	for rest := bytes.Join([][]byte{bytes.Join(own, nil), bundle}, []byte("\n")); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil || len(seen) == maxAuthorities {
			break
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil || now.After(cert.NotAfter) {
			continue
		}
		text := encode("CERTIFICATE", block.Bytes)
		if !seen[string(text)] {
			seen[string(text)] = true
			merged = append(merged, text...)
		}
	}
	return merged
}

// safe reports whether every authority in own is in bundle, and not so far down that others
// might soon push it out.
func safe(bundle []byte, own [][]byte) bool {
	return !slices.ContainsFunc(own, func(ca []byte) bool {
		before, _, found := bytes.Cut(bundle, ca)
		return !found || bytes.Count(before, []byte("-----BEGIN ")) >= safePlaces
	})
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}
