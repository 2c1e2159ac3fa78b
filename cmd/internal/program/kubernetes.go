// SPDX-License-Identifier: Apache-2.0

package program

import (
	"net/netip"
	"os"
)

// IsAPIServer reports whether an address is that by which pods reach the API server, as the kubelet tells every container.
func IsAPIServer(addr netip.Addr) bool {
	of, err := netip.ParseAddr(os.Getenv("KUBERNETES_SERVICE_HOST"))
	return err == nil && of.Unmap() == addr.Unmap()
}
