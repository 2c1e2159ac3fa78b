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
	t.Setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
	for address, want := range map[string]bool{"10.96.0.1": true, "::ffff:10.96.0.1": true, "10.96.0.2": false} {
		if got := IsAPIServer(netip.MustParseAddr(address)); got != want {
			t.Errorf("%s is the API server's: %t, want %t", address, got, want)
		}
	}
}
