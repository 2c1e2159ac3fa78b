// SPDX-License-Identifier: Apache-2.0

package program

import (
	"cmp"
	"context"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
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

// IsAPIServer reports whether an address is that by which pods reach the API server. It may be asked at any time, and looks names up once.
func IsAPIServer(addr netip.Addr) bool { return slices.Contains(apiServer(), addr.Unmap()) }

// apiServer are the addresses of what the kubelet tells every container, and of the Service that is there in every cluster.
var apiServer = sync.OnceValue(func() (addresses []netip.Addr) { //nolint:gochecknoglobals // looked up once
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for _, host := range []string{os.Getenv("KUBERNETES_SERVICE_HOST"), "kubernetes.default.svc"} {
		found, _ := net.DefaultResolver.LookupNetIP(ctx, "ip", cmp.Or(host, "localhost")) // outside of a cluster there is none
		for _, addr := range found {
			addresses = append(addresses, addr.Unmap())
		}
	}
	return addresses
})
