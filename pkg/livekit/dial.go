// SPDX-License-Identifier: Apache-2.0

package livekit

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"time"
)

// forbidden says that a URL leads where no tenant's may.
type forbidden struct{}

func (forbidden) Error() string {
	return "its address is loopback, link-local, private or a node's, where no LiveKit of a workload's own Secret may be;" +
		" name a Service of the workload's own namespace, such as ws://livekit.NAMESPACE.svc:7880, or have an administrator allow the range with --livekit-allow-cidr"
}

// Tenants says where the URLs that tenants choose may lead. Whatever a name resolves to, it is not a loopback, link-local, multicast or
// private address, for there is what only the cluster should reach. A Service of the tenant's own namespace may have a private one.
// Where a proxy is asked instead, it is for the proxy to know whom it connects to.
type Tenants struct {
	allowed []net.IPNet
	cluster func(netip.Addr) bool
	// By whether a private address may be led to, so that none shares the connections of another.
	own, others *reach
}

// NewTenants returns Tenants with the settings of base. An administrator allows ranges of addresses. cluster reports whether an address is
// that of a node or of the API server, where not even a Service may lead.
func NewTenants(base *http.Transport, allowed []net.IPNet, cluster func(netip.Addr) bool) *Tenants {
	t := &Tenants{allowed: allowed, cluster: cluster}
	t.own, t.others = t.reach(base, true), t.reach(base, false)
	return t
}

// Of is the transport for the projects of a namespace.
func (t *Tenants) Of(namespace string) http.RoundTripper {
	return roundTripper(func(req *http.Request) (*http.Response, error) {
		if isServiceOf(namespace, req.URL.Hostname()) {
			return t.own.RoundTrip(req)
		}
		return t.others.RoundTrip(req)
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

// RoundTrip implements http.RoundTripper.
func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// isServiceOf reports whether a host is a Service of a namespace, or a pod of it, by a name that only the cluster resolves.
func isServiceOf(namespace, host string) bool {
	name := strings.TrimSuffix(strings.TrimSuffix(strings.ToLower(host), "."), ".cluster.local")
	service, is := strings.CutSuffix(name, "."+namespace+".svc")
	return is && service != "" && strings.Count(service, ".") <= 1
}

// reach is how far connections may go.
type reach struct {
	may             func(netip.Addr) bool
	proxied, direct *http.Transport
}

func (t *Tenants) reach(base *http.Transport, private bool) *reach {
	r := &reach{may: func(addr netip.Addr) bool { return t.may(addr, private) }, proxied: base.Clone(), direct: base.Clone()}
	r.proxied.MaxResponseHeaderBytes, r.direct.MaxResponseHeaderBytes = maxHeaderBytes, maxHeaderBytes
	r.direct.Proxy = nil
	r.direct.DialContext = (&net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second, ControlContext: r.control}).DialContext
	return r
}

// RoundTrip implements http.RoundTripper.
func (r *reach) RoundTrip(req *http.Request) (*http.Response, error) {
	if r.proxied.Proxy == nil {
		return r.direct.RoundTrip(req)
	}
	proxy, err := r.proxied.Proxy(req)
	if err != nil || proxy == nil {
		return r.direct.RoundTrip(req)
	}
	if addr, err := netip.ParseAddr(req.URL.Hostname()); err == nil && !r.may(addr) {
		return nil, forbidden{}
	}
	return r.proxied.RoundTrip(req)
}

// control is asked with the address that a name has been resolved to.
func (r *reach) control(_ context.Context, _, address string, _ syscall.RawConn) error {
	to, err := netip.ParseAddrPort(address)
	if err != nil || !r.may(to.Addr()) {
		return forbidden{}
	}
	return nil
}

// may says whether a tenant may lead to an address: to a private one where private is true.
func (t *Tenants) may(addr netip.Addr, private bool) bool {
	addr = addr.Unmap().WithZone("")
	if slices.ContainsFunc(t.allowed, func(n net.IPNet) bool { return n.Contains(addr.AsSlice()) }) {
		return true
	}
	switch {
	case addr.IsLoopback(), addr.IsLinkLocalUnicast(), addr.IsMulticast(), addr.IsUnspecified(), t.cluster(addr):
		return false
	case addr.IsPrivate(), slices.ContainsFunc(alsoPrivate(), func(p netip.Prefix) bool { return p.Contains(addr) }):
		return private
	default:
		return true
	}
}

// alsoPrivate are the ranges that clusters use for pods and Services beside those of RFC 1918 and RFC 4193: shared address space
// (RFC 6598), and that for benchmarks (RFC 2544).
func alsoPrivate() []netip.Prefix {
	return []netip.Prefix{netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("198.18.0.0/15")}
}
