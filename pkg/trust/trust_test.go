// SPDX-License-Identifier: Apache-2.0

package trust

import (
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestBesides(t *testing.T) {
	server := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer server.Close()
	own := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	for name, tc := range map[string]struct {
		ca     []byte
		trusts bool
	}{"Own": {own, true}, "None": {nil, false}} {
		t.Run(name, func(t *testing.T) {
			config, err := Besides(tc.ca)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := (&http.Client{Transport: &http.Transport{TLSClientConfig: config}}).Get(server.URL)
			if err == nil {
				_ = resp.Body.Close()
			}
			if (err == nil) != tc.trusts {
				t.Errorf("it trusts the server: %t, %v; want %t", err == nil, err, tc.trusts)
			}
		})
	}
	if _, err := Besides([]byte("no certificate")); err == nil || !strings.Contains(err.Error(), "give one or more in PEM") {
		t.Errorf("the error about invalid PEM is %v", err)
	}
}
