// SPDX-License-Identifier: Apache-2.0

package charts

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// who returns who may reach a port by a policy: the peers' namespaces, components and ranges; nobody; or anybody.
func who(p *networkingv1.NetworkPolicy, protocol corev1.Protocol, port int) string {
	peers := []string{}
	for _, rule := range p.Spec.Ingress {
		if !slices.ContainsFunc(rule.Ports, func(np networkingv1.NetworkPolicyPort) bool {
			is := corev1.ProtocolTCP
			if np.Protocol != nil {
				is = *np.Protocol
			}
			return is == protocol && np.Port.IntValue() == port
		}) {
			continue
		}
		if len(rule.From) == 0 {
			return "anybody"
		}
		for _, from := range rule.From {
			switch {
			case from.IPBlock != nil:
				peers = append(peers, from.IPBlock.CIDR)
			case from.NamespaceSelector != nil:
				peers = append(peers, from.NamespaceSelector.MatchLabels[corev1.LabelMetadataName])
			default:
				l := from.PodSelector.MatchLabels
				peers = append(peers, strings.TrimPrefix(l["app.kubernetes.io/component"]+"/"+l["app.kubernetes.io/name"], "/"))
			}
		}
	}
	if len(peers) == 0 {
		return "nobody"
	}
	slices.Sort(peers)
	return strings.Join(slices.Compact(peers), " ")
}

const (
	monitoring = `[{"namespaceSelector":{"matchLabels":{"kubernetes.io/metadata.name":"monitoring"}}}]`
	control    = `[{"ipBlock":{"cidr":"10.0.0.0/28"}}]`
)

// TestAddonNetworks: Prometheus is allowed if it is named, and nobody else is; extra ports are allowed.
func TestAddonNetworks(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		json           []string
		guard, adapter string // who may read the metrics of each
	}{
		"Default":   {guard: "anybody", adapter: "anybody"},
		"OldValues": {json: []string{"networkPolicy.extraIngress=null", "networkPolicy.extraEgress=null", "networkPolicy.metricsFrom=null", "networkPolicy.apiServerFrom=" + control}, guard: "anybody", adapter: "10.0.0.0/28"},
		"APIServer": {json: []string{"networkPolicy.apiServerFrom=" + control}, guard: "anybody", adapter: "10.0.0.0/28"},
		"Metrics":   {json: []string{"networkPolicy.metricsFrom=" + monitoring}, guard: "monitoring", adapter: "anybody"},
		"Both":      {json: []string{"networkPolicy.apiServerFrom=" + control, "networkPolicy.metricsFrom=" + monitoring}, guard: "monitoring", adapter: "10.0.0.0/28 monitoring"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			all := policies(t, addon{set: []string{"networkPolicy.enabled=true"}, json: tc.json}.must(t))
			if got := who(all["drain-guard"], corev1.ProtocolTCP, 8080); got != tc.guard {
				t.Errorf("drain-guard's metrics may be read by %s, want %s", got, tc.guard)
			}
			if got := who(all["metrics-adapter"], corev1.ProtocolTCP, 10250); got != tc.adapter {
				t.Errorf("metrics-adapter's metrics may be read by %s, want %s", got, tc.adapter)
			}
		})
	}
	more := policies(t, addon{set: []string{"networkPolicy.enabled=true"}, json: []string{
		`networkPolicy.extraIngress=[{"ports":[{"port":9000}],"from":` + monitoring + `}]`, `networkPolicy.extraEgress=[{"ports":[{"port":4317}]}]`,
	}}.must(t))
	for _, name := range []string{"drain-guard", "metrics-adapter"} {
		if got := who(more[name], corev1.ProtocolTCP, 9000); got != "monitoring" {
			t.Errorf("an added port of %s may be reached by %s", name, got)
		}
	}
	for _, name := range []string{"drain-guard", "metrics-adapter", "drain-guard-unlock", "callguard-hooks"} {
		if !slices.ContainsFunc(more[name].Spec.Egress, func(r networkingv1.NetworkPolicyEgressRule) bool {
			return len(r.Ports) == 1 && r.Ports[0].Port.IntValue() == 4317
		}) {
			t.Errorf("%s may not reach the added port: %+v", name, more[name].Spec.Egress)
		}
	}
}

// TestNetworks: the same for the voice agent. Only Prometheus and callguard can reach metrics.
func TestNetworks(t *testing.T) {
	t.Parallel()
	const callguard, tried = "callguard-system", " try/voice-agent"
	for name, tc := range map[string]struct {
		given
		want map[string]string // by component and port
	}{
		"Nobody": {given{set: []string{"livekit.prometheusPort=6789"}}, map[string]string{
			"agent:8089": callguard + tried, "agent:8080": "nobody", "worker:8089": callguard + tried, "livekit:6789": "nobody", "livekit:7880": "anybody",
		}},
		"Prometheus": {given{set: []string{"livekit.prometheusPort=6789"}, json: []string{"networkPolicy.metricsFrom=" + monitoring}}, map[string]string{
			"agent:8089": callguard + " monitoring" + tried, "agent:8080": "monitoring", "agent:8081": callguard, "worker:8089": callguard + tried, "livekit:6789": "monitoring", "livekit:7880": "anybody",
		}},
		"WithoutGuard": {given{file: "unguarded", json: []string{"networkPolicy.metricsFrom=" + monitoring}}, map[string]string{
			"agent:8089": "nobody", "agent:8080": "nobody", "livekit:6789": "nobody",
		}},
		"Added": {given{set: []string{"mcpServers.crm.image.repository=x", "mcpServers.crm.image.tag=a"}, json: []string{
			`networkPolicy.extraIngress={"agent":[{"ports":[{"port":9001}],"from":` + monitoring + `}],"worker":[{"ports":[{"port":9002}]}],"livekit":[{"ports":[{"port":3478,"protocol":"UDP"}]}],"mcp-crm":[{"ports":[{"port":9004}],"from":` + control + `}]}`,
		}}, map[string]string{
			"agent:9001": "monitoring", "agent:9002": "nobody", "worker:9002": "anybody", "livekit:3478/UDP": "anybody", "livekit:3478": "nobody", "mcp-crm:9004": "10.0.0.0/28", "mcp-crm:8000": "agent/voice-agent worker/voice-agent",
		}},
		"OldValues": {given{json: []string{"networkPolicy.metricsFrom=null", "networkPolicy.extraIngress=null"}}, map[string]string{"agent:8089": callguard + tried, "livekit:7880": "anybody"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tc.set = append(tc.set, "networkPolicy.enabled=true")
			by := map[string]*networkingv1.NetworkPolicy{}
			for _, p := range policies(t, tc.must(t)) {
				by[p.Labels["app.kubernetes.io/component"]] = p
			}
			for at, want := range tc.want {
				component, rest, _ := strings.Cut(at, ":")
				var port int
				protocol := corev1.ProtocolTCP
				if udp, ok := strings.CutSuffix(rest, "/UDP"); ok {
					rest, protocol = udp, corev1.ProtocolUDP
				}
				if _, err := fmt.Sscan(rest, &port); err != nil {
					t.Fatal(err)
				}
				if by[component] == nil {
					t.Fatalf("%s has no policy", component)
				}
				if got := who(by[component], protocol, port); got != want {
					t.Errorf("%s may be reached by %s, want %s", at, got, want)
				}
			}
		})
	}
}

// monitors returns the PodMonitors of a render by component, and checks that each port exists in exactly the pods it selects.
func monitors(t *testing.T, r rendered) map[string]*unstructured.Unstructured {
	t.Helper()
	found := map[string]*unstructured.Unstructured{}
	for _, o := range r.objects {
		if o.GetKind() != "PodMonitor" {
			continue
		}
		component := o.GetLabels()["app.kubernetes.io/component"]
		found[component] = o
		selector, _, _ := unstructured.NestedStringMap(o.Object, "spec", "selector", "matchLabels")
		d := deployment(t, r, component)
		if diff := cmp.Diff(d.Spec.Selector.MatchLabels, selector); diff != "" {
			t.Errorf("PodMonitor %s selects others than its component (-want +got):\n%s", o.GetName(), diff)
		}
		for _, port := range scraped(o) {
			if !slices.ContainsFunc(containers(d), func(c corev1.Container) bool {
				return slices.ContainsFunc(c.Ports, func(p corev1.ContainerPort) bool { return p.Name == port })
			}) {
				t.Errorf("PodMonitor %s reads port %s, which no container has", o.GetName(), port)
			}
		}
	}
	return found
}

func scraped(monitor *unstructured.Unstructured) []string {
	var ports []string
	endpoints, _, _ := unstructured.NestedSlice(monitor.Object, "spec", "podMetricsEndpoints")
	for _, e := range endpoints {
		if endpoint, ok := e.(map[string]any); ok {
			ports = append(ports, fmt.Sprint(endpoint["port"]))
		}
	}
	return ports
}

// TestPodMonitors: everything with metrics about calls is scraped, and nothing that does not exist.
func TestPodMonitors(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		given
		want map[string][]string
	}{
		"Off":       {want: map[string][]string{}},
		"OldValues": {given: given{json: []string{"podMonitor=null"}}, want: map[string][]string{}},
		"On":        {given: given{set: []string{"podMonitor.enabled=true"}}, want: map[string][]string{"agent": {"gate", "realtime"}}},
		"All": {
			given: given{set: []string{"podMonitor.enabled=true", "worker.guarded=true", "livekit.prometheusPort=6789"}},
			want:  map[string][]string{"agent": {"gate", "realtime"}, "worker": {"gate"}, "livekit": {"metrics"}},
		},
		"NoGate":  {given: given{set: []string{"podMonitor.enabled=true", "callguard.gate.enabled=false"}}, want: map[string][]string{"agent": {"realtime"}}},
		"Nothing": {given: given{file: "unguarded", set: []string{"podMonitor.enabled=true"}}, want: map[string][]string{}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := map[string][]string{}
			for component, monitor := range monitors(t, tc.must(t)) {
				got[component] = scraped(monitor)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("ports that are read (-want +got):\n%s", diff)
			}
		})
	}
	for component, monitor := range monitors(t, given{file: "operators", set: []string{"commonLabels.team=voice"}}.must(t)) {
		if monitor.GetLabels()["release"] != "prometheus" || monitor.GetLabels()["team"] != "voice" {
			t.Errorf("the PodMonitor of %s has labels %v", component, monitor.GetLabels())
		}
	}
}
