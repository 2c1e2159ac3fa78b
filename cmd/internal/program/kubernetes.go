// SPDX-License-Identifier: Apache-2.0

package program

import (
	"context"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
)

// ClusterDomain returns the DNS domain of the cluster in which this pod runs, as the kubelet writes it into resolv.conf; outside
// a cluster it is cluster.local.
func ClusterDomain() string {
	text, _ := os.ReadFile("/etc/resolv.conf") // without the file there is no domain
	return domainIn(string(text))
}

func domainIn(resolvConf string) string {
	for line := range strings.Lines(resolvConf) {
		words := strings.Fields(line)
		if len(words) == 0 || words[0] != "search" {
			continue
		}
		for _, word := range words[1:] {
			if domain, is := strings.CutPrefix(strings.TrimSuffix(word, "."), "svc."); is {
				return domain
			}
		}
	}
	return "cluster.local"
}

// IsAPIServer reports whether an address is one at which pods reach the API server, by the environment variables that the kubelet
// sets in every container. If these contain a name, Service kubernetes, which every cluster has, has another address.
func IsAPIServer(ctx context.Context, addr netip.Addr) bool {
	host := os.Getenv("KUBERNETES_SERVICE_HOST")
	if host == "" { // outside a cluster
		return false
	}
	if of, err := netip.ParseAddr(host); err == nil {
		return of.Unmap() == addr.Unmap()
	}
	return slices.ContainsFunc([]string{host, "kubernetes.default.svc"}, func(name string) bool {
		found, _ := net.DefaultResolver.LookupNetIP(ctx, "ip", name) // without cluster DNS that Service is not reachable either
		return slices.ContainsFunc(found, func(of netip.Addr) bool { return of.Unmap() == addr.Unmap() })
	})
}
