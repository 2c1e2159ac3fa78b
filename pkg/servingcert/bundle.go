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
	// maxAuthorities bounds a bundle. It is far more than there are replicas, so
	// that only those of replicas long gone are ever pushed out before they expire.
	maxAuthorities = 32
	// backdate is how far clocks may differ.
	backdate = 5 * time.Minute
)

// pair is a serving certificate with its key and the authority that signed it.
// The authority's own key is thrown away once it has signed.
type pair struct {
	cert, key, ca       []byte // PEM
	notBefore, notAfter time.Time
}

// newPair makes an authority and a serving certificate, both for the time given.
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

// mergeBundle returns bundle with the authorities in own, without what has
// expired or is no certificate, newest first and not more than maxAuthorities.
func mergeBundle(bundle []byte, own [][]byte, now time.Time) []byte {
	mine := map[string]bool{}
	for _, ca := range own {
		mine[string(ca)] = true
	}
	type authority struct {
		pem       []byte
		notBefore time.Time
	}
	var found []authority
	seen := map[string]bool{}
	for rest := bytes.Join([][]byte{bytes.Join(own, nil), bundle}, []byte("\n")); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil || now.After(cert.NotAfter) {
			continue
		}
		text := encode("CERTIFICATE", block.Bytes)
		if !seen[string(text)] {
			seen[string(text)] = true
			found = append(found, authority{text, cert.NotBefore})
		}
	}
	slices.SortStableFunc(found, func(a, b authority) int {
		if mine[string(a.pem)] != mine[string(b.pem)] {
			if mine[string(a.pem)] {
				return -1
			}
			return 1
		}
		return b.notBefore.Compare(a.notBefore)
	})
	var merged []byte
	for _, a := range found[:min(len(found), maxAuthorities)] {
		merged = append(merged, a.pem...)
	}
	return merged
}

// contains says whether every authority in own stands in bundle.
func contains(bundle []byte, own [][]byte) bool {
	return !slices.ContainsFunc(own, func(ca []byte) bool { return !bytes.Contains(bundle, ca) })
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}
