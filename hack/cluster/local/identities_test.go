// SPDX-License-Identifier: Apache-2.0

package local

import (
	"crypto/x509"
	"encoding/pem"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestIdentities(t *testing.T) {
	dir := t.TempDir()
	l := layout{dir: dir}
	if err := writePKI(l.pki(""), "127.0.0.1"); err != nil {
		t.Fatal(err)
	}
	config, err := restConfig(state{Ports: map[string]int{APIServer: 1}}, l, nodeUser("node-1"), []string{nodesGroup})
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(config.CertData)
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if cert.Subject.CommonName != "system:node:node-1" || !cmp.Equal(cert.Subject.Organization, []string{"system:nodes"}) {
		t.Errorf("identity: got %s", cert.Subject)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(config.CAData)
	if _, err := cert.Verify(x509.VerifyOptions{Roots: pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		t.Errorf("the certificate authority does not vouch for it: %v", err)
	}
	if a, b := fileName("a", []string{"b", "c"}), fileName("a", []string{"b c"}); a == b {
		t.Errorf("two identities share the file %s", a)
	}
}
