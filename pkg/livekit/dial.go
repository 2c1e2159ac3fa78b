// SPDX-License-Identifier: Apache-2.0

package livekit

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"syscall"
	"time"
)

// forbidden says that a URL leads where no tenant's may.
type forbidden struct{}

func (forbidden) Error() string {
	return "its address is loopback or link-local, where no LiveKit of a workload's own Secret may be; an administrator may allow the range with --livekit-allow-cidr"
}

// TenantTransport is a transport like base for the URLs that tenants choose. Whatever
// their names resolve to, it does not connect to loopback, link-local and multicast
// addresses, but for those in the ranges allowed. Where a proxy is asked instead, it is
// for the proxy to know whom it connects to.
func TenantTransport(base *http.Transport, allowed []net.IPNet) http.RoundTripper {
	t := &tenants{allowed: allowed, proxied: base.Clone(), direct: base.Clone()}
	t.proxied.MaxResponseHeaderBytes, t.direct.MaxResponseHeaderBytes = maxHeaderBytes, maxHeaderBytes
	t.direct.Proxy = nil
	t.direct.DialContext = (&net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second, ControlContext: t.control}).DialContext
	return t
}

type tenants struct {
	allowed         []net.IPNet
	proxied, direct *http.Transport
}

// RoundTrip implements http.RoundTripper.
func (t *tenants) RoundTrip(req *http.Request) (*http.Response, error) {
	if t.proxied.Proxy == nil {
		return t.direct.RoundTrip(req)
	}
	proxy, err := t.proxied.Proxy(req)
	if err != nil || proxy == nil {
		return t.direct.RoundTrip(req)
	}
	if addr, err := netip.ParseAddr(req.URL.Hostname()); err == nil && !t.may(addr) {
		return nil, forbidden{}
	}
	return t.proxied.RoundTrip(req)
}

// control is asked with the address that a name has been resolved to.
func (t *tenants) control(_ context.Context, _, address string, _ syscall.RawConn) error {
	to, err := netip.ParseAddrPort(address)
	if err != nil || !t.may(to.Addr()) {
		return forbidden{}
	}
	return nil
}

func (t *tenants) may(addr netip.Addr) bool {
	addr = addr.Unmap().WithZone("")
	inner := addr.IsLoopback() || addr.IsLinkLocalUnicast() || addr.IsMulticast() || addr.IsUnspecified()
	return !inner || slices.ContainsFunc(t.allowed, func(n net.IPNet) bool { return n.Contains(addr.AsSlice()) })
}
