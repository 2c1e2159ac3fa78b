// SPDX-License-Identifier: Apache-2.0

package livekit

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// forbidden says that a URL leads where no tenant's may.
type forbidden struct{}

func (forbidden) Error() string {
	return "its address is loopback, link-local, private, a node's or that of another namespace's Service, where no LiveKit of a workload's own Secret may be;" +
		" name a Service of the workload's own namespace, such as ws://livekit.NAMESPACE.svc:7880, or have an administrator add the range to livekit.allowCIDRs of callguard's chart (--livekit-allow-cidr)"
}

// Tenants says where the URLs that tenants choose may lead. Whatever a name resolves to, it is not a loopback, link-local, multicast or
// private address, for there is what only the cluster should reach. A Service of the tenant's own namespace may have a private one, one of
// another namespace only what an administrator allows. Where a proxy is asked instead, it is for the proxy to know whom it connects to.
type Tenants struct {
	cfg TenantsConfig
	// To Services of the tenant's namespace, to those of others, and to all else; apart, so that none shares the connections of another.
	own, foreign, outside *reach

	mu    sync.Mutex
	known map[string]lookup // by host
}

// lookup is which Service a host was another name for, and when.
type lookup struct {
	service string
	at      time.Time
}

const (
	// lookAgain is how long a lookup holds, about as long as clusters' DNS servers keep an answer.
	lookAgain = 10 * time.Second
	// maxLookups bounds those that are kept.
	maxLookups = 1024
)

// TenantsConfig is what Tenants needs.
type TenantsConfig struct {
	// Base has the settings of the transports.
	Base *http.Transport
	// Allowed are ranges of addresses that an administrator opens to all tenants, whatever is there.
	Allowed []net.IPNet
	// Domain is that of the cluster, such as cluster.local.
	Domain string
	// Cluster reports whether an address is that of a node or of the API server, where not even a Service may lead.
	Cluster func(context.Context, netip.Addr) bool
	// LookupCNAME is that of a net.Resolver.
	LookupCNAME func(ctx context.Context, host string) (string, error)
}

// NewTenants returns Tenants.
func NewTenants(cfg TenantsConfig) *Tenants {
	t := &Tenants{cfg: cfg, known: map[string]lookup{}}
	t.own = newReach(cfg.Base, func(ctx context.Context, addr netip.Addr) bool { return t.may(ctx, addr, true) })
	t.outside = newReach(cfg.Base, func(ctx context.Context, addr netip.Addr) bool { return t.may(ctx, addr, false) })
	t.foreign = newReach(cfg.Base, func(_ context.Context, addr netip.Addr) bool { return t.isAllowed(addr) })
	return t
}

// Of is the transport for the projects of a namespace.
func (t *Tenants) Of(namespace string) http.RoundTripper {
	return roundTripper(func(req *http.Request) (*http.Response, error) {
		to, err := t.towards(req.Context(), namespace, req.URL.Hostname())
		if err != nil {
			return nil, err
		}
		return to.RoundTrip(req)
	})
}

// towards says how far a tenant's connection to a host may go, by what the host is in the end.
func (t *Tenants) towards(ctx context.Context, namespace, host string) (*reach, error) {
	if t.service(host) == "" {
		return t.outside, nil
	}
	service, err := t.lookUp(ctx, host)
	switch {
	case err != nil:
		return nil, err
	case service == "":
		return t.outside, nil
	case strings.HasSuffix(service, "."+namespace):
		return t.own, nil
	default:
		return t.foreign, nil
	}
}

// lookUp returns the Service that a host is in the end, or nothing: one of type ExternalName is another name for something else. It may
// become that between this look and the connection.
func (t *Tenants) lookUp(ctx context.Context, host string) (service string, err error) {
	now := time.Now()
	t.mu.Lock()
	last, known := t.known[host]
	t.mu.Unlock()
	if known && now.Sub(last.at) < lookAgain {
		return last.service, nil
	}
	name, err := t.cfg.LookupCNAME(ctx, host)
	if err != nil {
		return "", err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.known) >= maxLookups {
		clear(t.known)
	}
	t.known[host] = lookup{t.service(name), now}
	return t.known[host].service, nil
}

type roundTripper func(*http.Request) (*http.Response, error)

// RoundTrip implements http.RoundTripper.
func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// service is the name of the Service, or of the pod behind one, and the namespace that a host names, such as livekit.voice; empty where
// it names none.
func (t *Tenants) service(host string) string {
	name := strings.TrimSuffix(strings.TrimSuffix(strings.ToLower(host), "."), "."+t.cfg.Domain)
	service, is := strings.CutSuffix(name, ".svc")
	if labels := strings.Split(service, "."); !is || len(labels) < 2 || len(labels) > 3 || slices.Contains(labels, "") {
		return ""
	}
	return service
}

// reach is how far connections may go.
type reach struct {
	may             func(context.Context, netip.Addr) bool
	proxied, direct *http.Transport
}

func newReach(base *http.Transport, may func(context.Context, netip.Addr) bool) *reach {
	r := &reach{may: may, proxied: base.Clone(), direct: base.Clone()}
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
	if addr, err := netip.ParseAddr(req.URL.Hostname()); err == nil && !r.may(req.Context(), addr) {
		return nil, forbidden{}
	}
	return r.proxied.RoundTrip(req)
}

// control is asked with the address that a name has been resolved to.
func (r *reach) control(ctx context.Context, _, address string, _ syscall.RawConn) error {
	to, err := netip.ParseAddrPort(address)
	if err != nil || !r.may(ctx, to.Addr()) {
		return forbidden{}
	}
	return nil
}

// may reports whether a tenant may lead to an address: to a private one where private is true.
func (t *Tenants) may(ctx context.Context, addr netip.Addr, private bool) bool {
	allowed := t.isAllowed(addr)
	addr = addr.Unmap().WithZone("")
	switch {
	case allowed:
		return true
	case addr.IsLoopback(), addr.IsLinkLocalUnicast(), addr.IsMulticast(), addr.IsUnspecified(), t.cfg.Cluster(ctx, addr), isTranslated(addr):
		return false
	case addr.IsPrivate(), isAmong(addr, alsoPrivate()):
		return private
	default:
		return true
	}
}

// isAllowed reports whether an administrator opens an address to all tenants.
func (t *Tenants) isAllowed(addr netip.Addr) bool {
	addr = addr.Unmap().WithZone("")
	return slices.ContainsFunc(t.cfg.Allowed, func(n net.IPNet) bool { return n.Contains(addr.AsSlice()) })
}

func isAmong(addr netip.Addr, ranges []netip.Prefix) bool {
	return slices.ContainsFunc(ranges, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// isTranslated reports whether an address stands for one of IPv4 (RFC 6052, RFC 8215), which may be any.
func isTranslated(addr netip.Addr) bool {
	return isAmong(addr, []netip.Prefix{netip.MustParsePrefix("64:ff9b::/96"), netip.MustParsePrefix("64:ff9b:1::/48")})
}

// alsoPrivate are ranges that clusters are known to use for pods and Services, beside those of RFC 1918 and RFC 4193: shared address space
// (RFC 6598), that for benchmarks (RFC 2544), class E, and GKE's own for Services
// (https://cloud.google.com/kubernetes-engine/docs/concepts/alias-ips).
func alsoPrivate() []netip.Prefix {
	return []netip.Prefix{
		netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("198.18.0.0/15"), netip.MustParsePrefix("240.0.0.0/4"),
		netip.MustParsePrefix("34.118.224.0/20"),
	}
}
