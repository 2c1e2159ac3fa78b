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

// forbidden is the error if a tenant's URL leads to an address that is not allowed.
type forbidden struct{}

func (forbidden) Error() string {
	return "its address is loopback, link-local, private, a node's or that of another namespace's Service, where no LiveKit of a workload's own Secret may be;" +
		" name a Service of the workload's own namespace, such as ws://livekit.NAMESPACE.svc:7880, or have an administrator add the range to livekit.allowCIDRs of callguard's chart (--livekit-allow-cidr)"
}

// Tenants limits the addresses to which URLs chosen by tenants may lead. A name must not resolve to a loopback, link-local,
// multicast or private address, because these are reachable only from the cluster. A Service of the tenant's own namespace may
// have a private address, a Service of another namespace only one that an administrator allows. If a proxy is used, the proxy has
// to decide where it connects.
type Tenants struct {
	cfg TenantsConfig
	// To Services of the tenant's namespace, to those of others, and to everything else. They are separate so that they share no
	// connections.
	own, foreign, outside *reach

	mu    sync.Mutex
	known map[string]lookup // by host
}

// lookup is the Service for which a host was an alias, and when.
type lookup struct {
	service string
	at      time.Time
}

const (
	// lookAgain is how long a lookup is used, about as long as clusters' DNS servers cache an
	// answer.
	lookAgain = 10 * time.Second
	// maxLookups is how many lookups are kept.
	maxLookups = 1024
)

// TenantsConfig is what Tenants needs.
type TenantsConfig struct {
	// Base has the settings of the transports.
	Base *http.Transport
	// Allowed are ranges of addresses that an administrator allows for all tenants, whatever is
	// there.
	Allowed []net.IPNet
	// Domain is the domain of the cluster, such as cluster.local.
	Domain string
	// Cluster reports whether an address is that of a node or of the API server, to which not even a Service may
	// lead.
	Cluster func(context.Context, netip.Addr) bool
	// LookupCNAME is like that of net.Resolver.
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

// Of returns the transport for the projects of a namespace.
func (t *Tenants) Of(namespace string) http.RoundTripper {
	return roundTripper(func(req *http.Request) (*http.Response, error) {
		to, err := t.towards(req.Context(), namespace, req.URL.Hostname())
		if err != nil {
			return nil, err
		}
		return to.RoundTrip(req)
	})
}

// towards returns the reach of a tenant's connection to a host, by what the host's name
// finally stands for.
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

// lookUp returns the Service that a host's name finally stands for, or nothing. A Service of type ExternalName is an alias of
// something else, and may become one between this lookup and the connection.
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

// service returns the Service, or the pod behind one, and the namespace that a host names, such as livekit.voice; empty if it
// names none.
func (t *Tenants) service(host string) string {
	name := strings.TrimSuffix(strings.TrimSuffix(strings.ToLower(host), "."), "."+t.cfg.Domain)
	service, is := strings.CutSuffix(name, ".svc")
	if labels := strings.Split(service, "."); !is || len(labels) < 2 || len(labels) > 3 || slices.Contains(labels, "") {
		return ""
	}
	return service
}

// reach is a transport that only connects to allowed addresses.
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

// control is called with the address to which a name was resolved.
func (r *reach) control(ctx context.Context, _, address string, _ syscall.RawConn) error {
	to, err := netip.ParseAddrPort(address)
	if err != nil || !r.may(ctx, to.Addr()) {
		return forbidden{}
	}
	return nil
}

// may reports whether a tenant's URL may lead to an address; private allows private addresses.
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

// isAllowed reports whether an administrator allows an address for all tenants.
func (t *Tenants) isAllowed(addr netip.Addr) bool {
	addr = addr.Unmap().WithZone("")
	return slices.ContainsFunc(t.cfg.Allowed, func(n net.IPNet) bool { return n.Contains(addr.AsSlice()) })
}

func isAmong(addr netip.Addr, ranges []netip.Prefix) bool {
	return slices.ContainsFunc(ranges, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// isTranslated reports whether an address stands for an IPv4 address (RFC 6052, RFC 8215), which may be
// any.
func isTranslated(addr netip.Addr) bool {
	return isAmong(addr, []netip.Prefix{netip.MustParsePrefix("64:ff9b::/96"), netip.MustParsePrefix("64:ff9b:1::/48")})
}

// alsoPrivate returns ranges that clusters are known to use for pods and Services, in addition to those of RFC 1918 and RFC 4193:
// shared address space (RFC 6598), that for benchmarks (RFC 2544), class E, and GKE's own for Services
// (https://cloud.google.com/kubernetes-engine/docs/concepts/alias-ips).
func alsoPrivate() []netip.Prefix {
	return []netip.Prefix{
		netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("198.18.0.0/15"), netip.MustParsePrefix("240.0.0.0/4"),
		netip.MustParsePrefix("34.118.224.0/20"),
	}
}
