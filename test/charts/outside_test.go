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
	"sigs.k8s.io/yaml"
)

// TestIngress: callers reach signalling, and nothing else, by the given names.
func TestIngress(t *testing.T) {
	t.Parallel()
	r := given{set: []string{
		"livekit.ingress.enabled=true", "livekit.ingress.className=nginx", "livekit.ingress.hosts={a.example.com,b.example.com}",
		"livekit.ingress.tlsSecret=wss", `livekit.ingress.annotations.cert-manager\.io/cluster-issuer=letsencrypt`,
	}}.must(t)
	ingress := all[networkingv1.Ingress](t, r, "Ingress")["v-voice-agent-livekit"]
	if ingress == nil {
		t.Fatal("there is no Ingress")
	}
	prefix, class := networkingv1.PathTypePrefix, "nginx"
	backend := networkingv1.IngressBackend{Service: &networkingv1.IngressServiceBackend{Name: "v-voice-agent-livekit", Port: networkingv1.ServiceBackendPort{Name: "http"}}}
	rule := func(host string) networkingv1.IngressRule {
		return networkingv1.IngressRule{Host: host, IngressRuleValue: networkingv1.IngressRuleValue{HTTP: &networkingv1.HTTPIngressRuleValue{
			Paths: []networkingv1.HTTPIngressPath{{Path: "/", PathType: &prefix, Backend: backend}},
		}}}
	}
	want := networkingv1.IngressSpec{
		IngressClassName: &class, TLS: []networkingv1.IngressTLS{{Hosts: []string{"a.example.com", "b.example.com"}, SecretName: "wss"}},
		Rules: []networkingv1.IngressRule{rule("a.example.com"), rule("b.example.com")},
	}
	if diff := cmp.Diff(want, ingress.Spec); diff != "" {
		t.Errorf("the Ingress (-want +got):\n%s", diff)
	}
	if ingress.Annotations["cert-manager.io/cluster-issuer"] != "letsencrypt" {
		t.Errorf("its annotations are %v", ingress.Annotations)
	}
	service := services(t, r)["v-voice-agent-livekit"]
	if !slices.ContainsFunc(service.Spec.Ports, func(p corev1.ServicePort) bool { return p.Name == "http" && p.Port == 7880 }) {
		t.Errorf("the Service that it leads to has ports %+v", service.Spec.Ports)
	}
	if !strings.Contains(r.notes(), "wss://a.example.com") {
		t.Errorf("the notes do not say where callers find LiveKit:\n%s", r.notes())
	}
	plain := all[networkingv1.Ingress](t, given{set: []string{"livekit.ingress.enabled=true", "livekit.ingress.hosts={a.example.com}"}}.must(t), "Ingress")["v-voice-agent-livekit"]
	if plain == nil || plain.Spec.IngressClassName != nil || len(plain.Spec.TLS) != 0 {
		t.Errorf("without class and certificate it is %+v", plain)
	}
}

// TestHTTPRoute: the same through a Gateway.
func TestHTTPRoute(t *testing.T) {
	t.Parallel()
	r := given{set: []string{"livekit.httpRoute.enabled=true", "livekit.httpRoute.hostnames={livekit.example.com}"}, json: []string{`livekit.httpRoute.parentRefs=[{"name":"public","namespace":"gateways","sectionName":"https"}]`}}.must(t)
	i := slices.IndexFunc(r.objects, func(o *unstructured.Unstructured) bool { return o.GetKind() == "HTTPRoute" })
	if i < 0 {
		t.Fatal("there is no HTTPRoute")
	}
	want := map[string]any{
		"parentRefs": []any{map[string]any{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "public", "namespace": "gateways", "sectionName": "https"}},
		"hostnames":  []any{"livekit.example.com"},
		"rules": []any{map[string]any{
			"matches":     []any{map[string]any{"path": map[string]any{"type": "PathPrefix", "value": "/"}}},
			"backendRefs": []any{map[string]any{"group": "", "kind": "Service", "name": "v-voice-agent-livekit", "port": float64(7880), "weight": float64(1)}},
		}},
	}
	if diff := cmp.Diff(want, r.objects[i].Object["spec"]); diff != "" || r.objects[i].GetAPIVersion() != "gateway.networking.k8s.io/v1" {
		t.Errorf("the HTTPRoute, %s (-want +got):\n%s", r.objects[i].GetAPIVersion(), diff)
	}
	if !strings.Contains(r.notes(), "wss://livekit.example.com") {
		t.Errorf("the notes do not say where callers find LiveKit:\n%s", r.notes())
	}
}

// TestTURN: the address that LiveKit announces is where it listens, where a Service points, and what a policy
// allows.
func TestTURN(t *testing.T) {
	t.Parallel()
	tls := []string{"livekit.turn.enabled=true", "livekit.turn.domain=turn.example.com", "livekit.turn.existingSecret=turn"}
	type object = map[string]any
	files := object{"cert_file": "/etc/livekit-turn/tls.crt", "key_file": "/etc/livekit-turn/tls.key"}
	for name, tc := range map[string]struct {
		given
		config  object   // LiveKit's configuration
		service []string // ports of the Service for TURN over TLS, and of that for media
		media   []string
		mounted bool
	}{
		"Off":       {media: []string{"7881/TCP", "7882/UDP"}},
		"OldValues": {given: given{json: []string{"livekit.turn=null", "livekit.ingress=null", "livekit.httpRoute=null"}}, media: []string{"7881/TCP", "7882/UDP"}},
		"Both": {
			given: given{set: tls}, mounted: true, service: []string{"443/TCP"}, media: []string{"7881/TCP", "7882/UDP", "3478/UDP"},
			config: object{"enabled": true, "domain": "turn.example.com", "tls_port": 5349.0, "udp_port": 3478.0, "external_tls": false, "cert_file": files["cert_file"], "key_file": files["key_file"]},
		},
		"External": {
			given: given{set: append(tls, "livekit.turn.externalTls=true", "livekit.turn.udpPort=0")}, service: []string{"443/TCP"}, media: []string{"7881/TCP", "7882/UDP"},
			config: object{"enabled": true, "domain": "turn.example.com", "tls_port": 5349.0, "udp_port": 0.0, "external_tls": true},
		},
		"PlainUDP": {
			given: given{set: []string{"livekit.turn.enabled=true", "livekit.turn.tlsPort=0"}}, media: []string{"7881/TCP", "7882/UDP", "3478/UDP"},
			config: object{"enabled": true, "tls_port": 0.0, "udp_port": 3478.0, "external_tls": false},
		},
		"HostNetwork": {
			given: given{set: append(tls, "livekit.hostNetwork=true")}, mounted: true, service: []string{"443/TCP"},
			config: object{"enabled": true, "domain": "turn.example.com", "tls_port": 5349.0, "udp_port": 3478.0, "external_tls": false, "cert_file": files["cert_file"], "key_file": files["key_file"]},
		},
		"LaidOver": {
			given:   given{set: append(tls, "livekit.turn.udpPort=0"), json: []string{`livekit.config={"turn":{"allow_restricted_peer_cidrs":["10.0.0.0/8"]}}`}},
			mounted: true, service: []string{"443/TCP"}, media: []string{"7881/TCP", "7882/UDP"},
			config: object{
				"enabled": true, "domain": "turn.example.com", "tls_port": 5349.0, "udp_port": 0.0, "external_tls": false, "cert_file": files["cert_file"], "key_file": files["key_file"],
				"allow_restricted_peer_cidrs": []any{"10.0.0.0/8"},
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tc.set = append(slices.Clone(tc.set), "networkPolicy.enabled=true")
			r := tc.must(t)
			var config struct{ Turn object }
			if err := yaml.Unmarshal([]byte(all[corev1.ConfigMap](t, r, "ConfigMap")["v-voice-agent-livekit-config"].Data["config.yaml"]), &config); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.config, config.Turn); diff != "" {
				t.Errorf("LiveKit's settings (-want +got):\n%s", diff)
			}
			server := container(t, deployment(t, r, "livekit"), "livekit")
			listens := func(name string) bool {
				return slices.ContainsFunc(server.Ports, func(p corev1.ContainerPort) bool { return p.Name == name })
			}
			ports := func(name string) (found []string) {
				if s := services(t, r)[name]; s != nil {
					for _, p := range s.Spec.Ports {
						if !listens(p.TargetPort.StrVal) {
							t.Errorf("Service %s leads to port %s, where LiveKit does not listen", name, p.TargetPort.String())
						}
						found = append(found, portOf(p.Port, p.Protocol))
					}
				}
				return found
			}
			if diff := cmp.Diff(tc.service, ports("v-voice-agent-livekit-turn")); diff != "" {
				t.Errorf("the Service for TURN (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tc.media, ports("v-voice-agent-livekit-rtc")); diff != "" {
				t.Errorf("the Service for media (-want +got):\n%s", diff)
			}
			mounted := slices.ContainsFunc(server.VolumeMounts, func(m corev1.VolumeMount) bool { return m.MountPath == "/etc/livekit-turn" && m.ReadOnly })
			if mounted != tc.mounted {
				t.Errorf("the certificate is mounted: %t", mounted)
			}
			if policy := policies(t, r)["v-voice-agent-livekit"]; policy != nil {
				for _, p := range server.Ports {
					want := "anybody"
					if p.Name == "metrics" {
						want = "nobody"
					}
					protocol := p.Protocol
					if protocol == "" {
						protocol = corev1.ProtocolTCP
					}
					if got := who(policy, protocol, int(p.ContainerPort)); got != want {
						t.Errorf("port %s may be reached by %s, want %s", p.Name, got, want)
					}
				}
			}
		})
	}
	node := services(t, given{file: "azure", set: []string{"livekit.turn.enabled=true", "livekit.turn.tlsPort=0", "livekit.turn.udpPort=30883"}}.must(t))["v-voice-agent-livekit-rtc"]
	for _, p := range node.Spec.Ports {
		if p.NodePort != p.Port {
			t.Errorf("nodes open %d for port %d, which callers are told", p.NodePort, p.Port)
		}
	}
}

func portOf(port int32, protocol corev1.Protocol) string {
	if protocol == "" {
		protocol = corev1.ProtocolTCP
	}
	return fmt.Sprintf("%d/%s", port, protocol)
}
