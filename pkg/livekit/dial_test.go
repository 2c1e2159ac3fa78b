// SPDX-License-Identifier: Apache-2.0

package livekit

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestWhereTenantsMayLead(t *testing.T) {
	cases := map[string]struct {
		address string
		// Whether anyone may connect there, and whether a tenant's Service may be there.
		want, service bool
	}{
		"Public":       {"203.0.113.7", true, true},
		"Public6":      {"2001:db8::1", true, true},
		"Private":      {"10.0.0.1", false, true},
		"Private6":     {"fd00::1", false, true},
		"Shared":       {"100.64.3.4", false, true},
		"Benchmark":    {"198.18.0.10", false, true},
		"ClassE":       {"240.1.2.3", false, true},
		"GKE":          {"34.118.226.7", false, true},
		"MappedTo10":   {"::ffff:10.0.0.1", false, true},
		"Translated":   {"64:ff9b::a00:1", false, false},
		"Node":         {"10.1.1.1", false, false},
		"PublicNode":   {"203.0.113.9", false, false},
		"Loopback":     {"127.0.0.2", false, false},
		"Loopback6":    {"::1", false, false},
		"Mapped":       {"::ffff:127.0.0.2", false, false},
		"Metadata":     {"169.254.169.254", false, false},
		"LinkLocal6":   {"fe80::1", false, false},
		"Zone":         {"fe80::1%lo", false, false},
		"Unspecified":  {"0.0.0.0", false, false},
		"Unspecified6": {"::", false, false},
		"Multicast":    {"224.0.0.1", false, false},
		"Allowed":      {"127.0.0.1", true, true},
		"AllowedToo":   {"::ffff:127.0.0.1", true, true},
	}
	nodes := []netip.Addr{netip.MustParseAddr("10.1.1.1"), netip.MustParseAddr("203.0.113.9")}
	_, allowed, err := net.ParseCIDR("127.0.0.1/32")
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			tenants := NewTenants(TenantsConfig{
				Base: &http.Transport{}, Allowed: []net.IPNet{*allowed}, Cluster: func(_ context.Context, addr netip.Addr) bool { return slices.Contains(nodes, addr) },
			})
			addr := netip.MustParseAddr(tc.address)
			if got := tenants.may(t.Context(), addr, false); got != tc.want {
				t.Errorf("%s is allowed: %t; want %t", tc.address, got, tc.want)
			}
			if got := tenants.may(t.Context(), addr, true); got != tc.service {
				t.Errorf("%s is allowed for a Service: %t; want %t", tc.address, got, tc.service)
			}
			if got, want := tenants.foreign.may(t.Context(), addr), strings.HasPrefix(name, "Allowed"); got != want {
				t.Errorf("%s is allowed for another namespace's Service: %t; want %t", tc.address, got, want)
			}
		})
	}
}

func TestService(t *testing.T) {
	tenants := NewTenants(TenantsConfig{Base: &http.Transport{}, Domain: "corp.local"})
	for host, want := range map[string]string{
		"livekit.voice.svc":               "livekit.voice",
		"LiveKit.voice.svc.corp.local":    "livekit.voice",
		"livekit.voice.svc.corp.local.":   "livekit.voice",
		"livekit-0.livekit.voice.svc":     "livekit-0.livekit.voice",
		"livekit.other.svc":               "livekit.other",
		"livekit.voice.svc.cluster.local": "",
		"livekit.voice":                   "",
		"livekit":                         "",
		"voice.svc":                       "",
		".voice.svc":                      "",
		"livekit.voice.svc.example.com":   "",
		"a.b.c.voice.svc":                 "",
		"10.0.0.1":                        "",
	} {
		if got := tenants.service(host); got != want {
			t.Errorf("%q names Service %q, want %q", host, got, want)
		}
	}
}

// TestTenantsNameTheirOwnServices: where the names of a tenant in namespace voice may point, whatever they
// resolve to.
func TestTenantsNameTheirOwnServices(t *testing.T) {
	names, asked := map[string]string{
		"livekit.voice.svc":  "livekit.voice.svc.cluster.local.",
		"alias.voice.svc":    "db.other.svc.cluster.local.",
		"longer.voice.svc":   "longer.voice.svc.attacker.example.",
		"cloud.voice.svc":    "project.livekit.cloud.",
		"livekit.other.svc":  "livekit.other.svc.cluster.local.",
		"livekit.voice2.svc": "livekit.voice2.svc.cluster.local.",
	}, map[string]int{}
	tenants := NewTenants(TenantsConfig{
		Base: &http.Transport{}, Domain: "cluster.local", LookupCNAME: func(_ context.Context, host string) (string, error) {
			asked[host]++
			if name := names[host]; name != "" {
				return name, nil
			}
			return "", &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
		},
	})
	for host, want := range map[string]*reach{
		"livekit.voice.svc": tenants.own, "alias.voice.svc": tenants.foreign, "livekit.other.svc": tenants.foreign, "livekit.voice2.svc": tenants.foreign,
		"longer.voice.svc": tenants.outside, "cloud.voice.svc": tenants.outside, "livekit.example.com": tenants.outside, "10.0.0.1": tenants.outside,
		"missing.voice.svc": nil,
	} {
		for range 3 {
			got, err := tenants.towards(t.Context(), "voice", host)
			if got != want || (err != nil) != (want == nil) {
				t.Errorf("%s leads too far, or not far enough: %v", host, err)
			}
		}
	}
	if asked["livekit.voice.svc"] != 1 || asked["livekit.example.com"] != 0 {
		t.Errorf("names were looked up %v times, want once for each Service", asked)
	}
}

// TestTenantsAreNotLedInside: a tenant's URL is checked after its name was resolved, and nothing is sent to a
// forbidden address.
func TestTenantsAreNotLedInside(t *testing.T) {
	asked := make(chan string, 10)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- r.Host
		w.Header().Set("Content-Type", "application/protobuf")
	}))
	defer server.Close()
	_, port, err := net.SplitHostPort(server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	_, loopback, err := net.ParseCIDR("127.0.0.0/8")
	if err != nil {
		t.Fatal(err)
	}
	behind := &http.Transport{Proxy: func(*http.Request) (*url.URL, error) { return url.Parse(server.URL) }}
	cases := map[string]struct {
		reason  string
		host    string
		base    *http.Transport
		allowed []net.IPNet
		want    bool
	}{
		"Address":      {reason: "The API server or a node's agent may be there.", host: "127.0.0.1"},
		"Name":         {reason: "A name may lead there, too.", host: "localhost"},
		"Allowed":      {reason: "An administrator may allow it.", host: "127.0.0.1", allowed: []net.IPNet{*loopback}, want: true},
		"Proxy":        {reason: "A proxy may be there, because the tenant does not choose it.", host: "livekit.example.com", base: behind, want: true},
		"PastTheProxy": {reason: "The proxy's target is the tenant's choice.", host: "169.254.169.254", base: behind},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if tc.base == nil {
				tc.base = &http.Transport{}
			}
			c := clientOf(t, nil, func(c *Config) {
				c.URL, c.Transport = "http://"+net.JoinHostPort(tc.host, port), NewTenants(TenantsConfig{Base: tc.base, Allowed: tc.allowed, Domain: "cluster.local", Cluster: func(context.Context, netip.Addr) bool { return false }}).Of("voice")
			})
			_, err := c.Rooms(t.Context())
			switch {
			case tc.want && (err != nil || len(asked) != 1):
				t.Errorf("%s %v, asked %d times", tc.reason, err, len(asked))
			case !tc.want && (err == nil || !strings.Contains(err.Error(), "--livekit-allow-cidr") || len(asked) != 0):
				t.Errorf("%s %v, asked %d times", tc.reason, err, len(asked))
			}
			for len(asked) > 0 {
				<-asked
			}
		})
	}
}

// TestClassesOfNoAnswer: a tenant who names a URL learns only a class of error about what is there. The
// network's message goes to the program's own log.
func TestClassesOfNoAnswer(t *testing.T) {
	dial := func(err error) error {
		return &url.Error{Op: "Post", URL: "http://hush", Err: &net.OpError{Op: "dial", Net: "tcp", Addr: &net.TCPAddr{IP: net.IPv4(10, 9, 8, 7), Port: 1}, Err: err}}
	}
	cases := map[string]struct {
		err    error
		want   string
		detail string
	}{
		"Refused":     {dial(os.NewSyscallError("connect", syscall.ECONNREFUSED)), "connection refused; check the URL", "10.9.8.7"},
		"NoRoute":     {dial(os.NewSyscallError("connect", syscall.EHOSTUNREACH)), "no route to host; check the URL", "10.9.8.7"},
		"NoHost":      {dial(&net.DNSError{Err: "no such host", Name: "hush.svc", Server: "10.9.8.7:53", IsNotFound: true}), "there is no such host", "hush.svc"},
		"NoDNS":       {dial(&net.DNSError{Err: "server misbehaving", Name: "hush.svc", Server: "10.9.8.7:53"}), "cannot be resolved", "hush.svc"},
		"Timeout":     {dial(os.ErrDeadlineExceeded), "it does not answer within 5s", "10.9.8.7"},
		"Certificate": {&url.Error{Err: &tls.CertificateVerificationError{Err: x509.HostnameError{Certificate: &x509.Certificate{DNSNames: []string{"hush.internal"}}, Host: "x"}}}, "its certificate or its TLS is not accepted", "hush.internal"},
		"Alert":       {&url.Error{Err: tls.AlertError(40)}, "its certificate or its TLS is not accepted", "handshake"},
		"NotTLS":      {&url.Error{Err: tls.RecordHeaderError{Msg: "first record does not look like a TLS handshake"}}, "its certificate or its TLS is not accepted", "first record"},
		"Forbidden":   {dial(forbidden{}), "its address is loopback, link-local, private, a node's or", "10.9.8.7"},
		"NotHTTP":     {&url.Error{Err: errors.New("malformed HTTP response \"hush\"")}, "it answers what is not HTTP", ""},
		"Ends":        {&url.Error{Err: io.EOF}, "it ends the connection", ""},
		"GivenUp":     {&url.Error{Err: context.Canceled}, "the request was given up", ""},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			err := fmt.Errorf("cannot list: %w", noAnswer(tc.err, 5*time.Second))
			if text := err.Error(); !strings.Contains(text, tc.want) || strings.Contains(text, "hush") || strings.Contains(text, "10.9.8.7") {
				t.Errorf("a tenant reads %q; want %q", text, tc.want)
			}
			if detail := Detail(err); !strings.Contains(detail, tc.detail) || tc.detail == "" && detail != "" {
				t.Errorf("the log has %q; want %q", detail, tc.detail)
			}
		})
	}
}
