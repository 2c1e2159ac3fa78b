// SPDX-License-Identifier: Apache-2.0

package local

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

const certificateLife = 365 * 24 * time.Hour

// authority signs certificates. A cluster has three: its own, etcd's, and the front proxy's, with which aggregated API
// servers verify what kube-apiserver tells them about the caller.
type authority struct {
	cert *x509.Certificate
	key  crypto.Signer
	pem  []byte
}

// keyPair is a certificate and its private key, both PEM.
type keyPair struct{ cert, key []byte }

// writePKI creates all keys of an instance in a folder. The control plane's certificates include address.
func writePKI(dir, address string) error {
	files := map[string][]byte{}
	put := func(name string, kp keyPair, err error) error {
		if err != nil {
			return fmt.Errorf("cannot make the certificate %s: %w", name, err)
		}
		files[name+".crt"], files[name+".key"] = kp.cert, kp.key
		return nil
	}
	issue := func(ca *authority, name string, template *x509.Certificate) error {
		kp, err := ca.sign(template)
		return put(name, kp, err)
	}
	authorities := map[string]*authority{}
	for _, name := range []string{"ca", "etcd-ca", "front-proxy-ca"} {
		ca, kp, err := newAuthority("callguard-local-" + name)
		if err := put(name, kp, err); err != nil {
			return err
		}
		authorities[name] = ca
	}
	ca, etcd, front := authorities["ca"], authorities["etcd-ca"], authorities["front-proxy-ca"]
	for _, c := range []struct {
		by       *authority
		name     string
		template *x509.Certificate
	}{
		{ca, "control-plane", serverTemplate("control-plane", address)},
		{ca, "kubelet-client", clientTemplate("kube-apiserver-kubelet-client", []string{adminGroup})},
		{etcd, "etcd", serverTemplate("etcd", "127.0.0.1")},
		{etcd, "etcd-client", clientTemplate("kube-apiserver", nil)},
		{front, "front-proxy-client", clientTemplate("front-proxy-client", nil)},
	} {
		if err := issue(c.by, c.name, c.template); err != nil {
			return err
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("cannot make the key of service account tokens: %w", err)
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return fmt.Errorf("cannot make the key of service account tokens: %w", err)
	}
	if files["sa.key"], err = encodeKey(key); err != nil {
		return fmt.Errorf("cannot make the key of service account tokens: %w", err)
	}
	files["sa.pub"] = pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public})
	for name, data := range files {
		if err := writeFile(filepath.Join(dir, name), data); err != nil {
			return err
		}
	}
	return nil
}

func newAuthority(name string) (*authority, keyPair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, keyPair{}, err
	}
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	kp, err := certify(template, template, key, key)
	if err != nil {
		return nil, keyPair{}, err
	}
	ca, err := parseAuthority(kp)
	return ca, kp, err
}

// loadAuthority reads a certificate authority back, to sign later identities.
func loadAuthority(dir, name string) (*authority, error) {
	var kp keyPair
	var err error
	if kp.cert, err = os.ReadFile(filepath.Join(dir, name+".crt")); err == nil {
		kp.key, err = os.ReadFile(filepath.Join(dir, name+".key"))
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the certificate authority %s: %w; start the instance again", name, err)
	}
	return parseAuthority(kp)
}

func parseAuthority(kp keyPair) (*authority, error) {
	certBlock, _ := pem.Decode(kp.cert)
	keyBlock, _ := pem.Decode(kp.key)
	if certBlock == nil || keyBlock == nil {
		return nil, fmt.Errorf("cannot read a certificate authority: no PEM block")
	}
	cert, err := x509.ParseCertificate(certBlock.Bytes)
	if err != nil {
		return nil, fmt.Errorf("cannot read a certificate authority: %w", err)
	}
	key, err := x509.ParseECPrivateKey(keyBlock.Bytes)
	if err != nil {
		return nil, fmt.Errorf("cannot read the key of a certificate authority: %w", err)
	}
	return &authority{cert: cert, key: key, pem: kp.cert}, nil
}

func (a *authority) sign(template *x509.Certificate) (keyPair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return keyPair{}, err
	}
	return certify(template, a.cert, key, a.key)
}

func certify(template, parent *x509.Certificate, key *ecdsa.PrivateKey, by crypto.Signer) (keyPair, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return keyPair{}, err
	}
	template.SerialNumber = serial
	template.NotBefore = time.Now().Add(-time.Hour)
	template.NotAfter = time.Now().Add(certificateLife)
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), by)
	if err != nil {
		return keyPair{}, err
	}
	keyPEM, err := encodeKey(key)
	if err != nil {
		return keyPair{}, err
	}
	return keyPair{cert: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), key: keyPEM}, nil
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), nil
}

// clientTemplate is an identity as Kubernetes reads it: the common name is the user, the organizations are the groups.
func clientTemplate(user string, groups []string) *x509.Certificate {
	return &x509.Certificate{
		Subject:     pkix.Name{CommonName: user, Organization: groups},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
}

func serverTemplate(name, address string) *x509.Certificate {
	return &x509.Certificate{
		Subject:     pkix.Name{CommonName: name},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		DNSNames:    []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv4(10, 0, 0, 1), net.ParseIP("fd00:10::1"), net.ParseIP(address)},
	}
}
