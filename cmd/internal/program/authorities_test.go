// SPDX-License-Identifier: Apache-2.0

//go:debug x509usefallbackroots=1

package program

import (
	"crypto/x509"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/x509roots/fallback/bundle"
)

// TestPrivateAuthority: a server with a certificate of an authority in SSL_CERT_DIR is
// trusted, without that variable it is not, and the public authorities are always
// trusted: an image without any certificate files has no others.
func TestPrivateAuthority(t *testing.T) {
	if url := os.Getenv("ASK"); url != "" {
		trust()
		response, err := http.Get(url) //nolint:gosec // the test's own server
		if err != nil {
			t.Fatal(err)
		}
		if err := response.Body.Close(); err != nil {
			t.Fatal(err)
		}
		return
	}
	server := httptest.NewTLSServer(http.NotFoundHandler())
	t.Cleanup(server.Close)
	empty, private := t.TempDir(), t.TempDir()
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(filepath.Join(private, "ca.crt"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct{ dirs, want string }{
		"Private": {dirs: empty + ":" + private},
		"None":    {dirs: empty, want: "certificate signed by unknown authority"},
	} {
		t.Run(name, func(t *testing.T) {
			ask := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestPrivateAuthority$", "-test.v")
			ask.Env = append(os.Environ(), "ASK="+server.URL, "SSL_CERT_FILE="+filepath.Join(empty, "none"), "SSL_CERT_DIR="+tc.dirs)
			out, err := ask.CombinedOutput()
			if (err != nil) != (tc.want != "") || !strings.Contains(string(out), tc.want) {
				t.Errorf("want %q, got %v: %s", tc.want, err, out)
			}
		})
	}

	for root := range bundle.Roots() {
		if root.Constraint != nil {
			continue
		}
		certificate, err := x509.ParseCertificate(root.Certificate)
		if err != nil {
			t.Fatal(err)
		}
		usages := []x509.ExtKeyUsage{x509.ExtKeyUsageAny}
		if _, err := certificate.Verify(x509.VerifyOptions{Roots: Authorities(), CurrentTime: certificate.NotBefore, KeyUsages: usages}); err != nil {
			t.Errorf("public authority %s is not trusted: %v", certificate.Subject, err)
		}
		return
	}
	t.Error("no public authority is known")
}
