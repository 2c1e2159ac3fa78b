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

// ClusterDomain is the DNS domain of the cluster that this pod runs in, as the kubelet writes it into resolv.conf; outside of one
// cluster.local.
func ClusterDomain() string {
	text, _ := os.ReadFile("/etc/resolv.conf") // what cannot be read names none
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

// IsAPIServer reports whether an address is that by which pods reach the API server, as the kubelet tells every container. Where that is a
// name, the Service that every cluster has is at another address.
func IsAPIServer(ctx context.Context, addr netip.Addr) bool {
	host := os.Getenv("KUBERNETES_SERVICE_HOST")
	if host == "" { // outside of a cluster
		return false
	}
	if of, err := netip.ParseAddr(host); err == nil {
		return of.Unmap() == addr.Unmap()
	}
	return slices.ContainsFunc([]string{host, "kubernetes.default.svc"}, func(name string) bool {
		found, _ := net.DefaultResolver.LookupNetIP(ctx, "ip", name) // one without cluster DNS has no such Service either
		return slices.ContainsFunc(found, func(of netip.Addr) bool { return of.Unmap() == addr.Unmap() })
	})
}
