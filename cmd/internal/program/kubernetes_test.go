// SPDX-License-Identifier: Apache-2.0

package program

import (
	"net/netip"
	"testing"
)

func TestDomainIn(t *testing.T) {
	for text, want := range map[string]string{
		"": "cluster.local",
		"nameserver 10.96.0.10\nsearch callguard-system.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n": "cluster.local",
		"search callguard-system.svc.corp.example. svc.corp.example. corp.example. example.com":                               "corp.example",
		"search example.com\n": "cluster.local",
	} {
		if got := domainIn(text); got != want {
			t.Errorf("the cluster's domain is %q, want %q, by\n%s", got, want, text)
		}
	}
}

func TestIsAPIServer(t *testing.T) {
	for name, tc := range map[string]struct {
		host, address string
		want          bool
	}{
		"Address": {"10.96.0.1", "10.96.0.1", true},
		"Mapped":  {"10.96.0.1", "::ffff:10.96.0.1", true},
		"Another": {"10.96.0.1", "10.96.0.2", false},
		"Name":    {"localhost", "127.0.0.1", true},
		"Outside": {"", "127.0.0.1", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("KUBERNETES_SERVICE_HOST", tc.host)
			if got := IsAPIServer(t.Context(), netip.MustParseAddr(tc.address)); got != tc.want {
				t.Errorf("%s is the API server's: %t, want %t", tc.address, got, tc.want)
			}
		})
	}
}
