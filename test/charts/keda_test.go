// SPDX-License-Identifier: Apache-2.0

package charts

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// scaledObject returns the only ScaledObject's spec; nil if there is none.
func scaledObject(t *testing.T, r rendered) map[string]any {
	t.Helper()
	var found []map[string]any
	for _, o := range r.objects {
		if o.GetKind() == "ScaledObject" && o.GetAPIVersion() == "keda.sh/v1alpha1" {
			spec, _, err := unstructured.NestedMap(o.Object, "spec")
			if err != nil {
				t.Fatal(err)
			}
			found = append(found, spec)
		}
	}
	if len(found) > 1 {
		t.Fatalf("there are %d ScaledObjects", len(found))
	}
	if len(found) == 0 {
		return nil
	}
	return found[0]
}

// toZero are values of an agent that KEDA scales to zero.
func toZero(more ...string) given {
	return given{set: append([]string{"agent.autoscaling.keda.enabled=true", "agent.autoscaling.minReplicas=0", "callguard.waiting.agentName=desk", "callguard.waiting.dispatchAgain=true"}, more...)}
}

// TestScaledObject: KEDA scales the agent instead of the autoscaler, by the same numbers.
func TestScaledObject(t *testing.T) {
	t.Parallel()
	trigger := func(kind, metricType, metric, target, address string) map[string]any {
		return map[string]any{
			"type": kind, "metricType": metricType,
			"metadata":          map[string]any{"scalerAddress": address, "enableTLS": "true", "deployment": "v-voice-agent-agent", "metric": metric, "target": target},
			"authenticationRef": map[string]any{"kind": "ClusterTriggerAuthentication", "name": "callguard"},
		}
	}
	const own = "metrics-adapter.callguard-system.svc:8091"
	for name, tc := range map[string]struct {
		given
		want []any
	}{
		"Calls":   {given: toZero(), want: []any{trigger("external-push", "AverageValue", "active_calls", "5", own)}},
		"Waiting": {given: toZero("agent.autoscaling.waitingCalls=true"), want: []any{trigger("external-push", "AverageValue", "active_calls", "5", own), trigger("external", "Value", "waiting_calls", "500m", own)}},
		"Address": {given: toZero("agent.autoscaling.keda.scalerAddress=calls.example.com:443", "agent.autoscaling.targetActiveCalls=8"), want: []any{trigger("external-push", "AverageValue", "active_calls", "8", "calls.example.com:443")}},
		"More": {
			given{set: toZero().set, json: []string{`agent.autoscaling.keda.extraTriggers=[{"type":"cron","metadata":{"desiredReplicas":"3"}}]`}},
			[]any{trigger("external-push", "AverageValue", "active_calls", "5", own), map[string]any{"type": "cron", "metadata": map[string]any{"desiredReplicas": "3"}}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := tc.must(t)
			spec := scaledObject(t, r)
			if diff := cmp.Diff(tc.want, spec["triggers"]); diff != "" {
				t.Errorf("triggers (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(map[string]any{"apiVersion": "apps/v1", "kind": "Deployment", "name": "v-voice-agent-agent"}, spec["scaleTargetRef"]); diff != "" {
				t.Errorf("what is scaled (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(map[string]any{"failureThreshold": 3.0, "replicas": 2.0, "behavior": "currentReplicasIfHigher"}, spec["fallback"]); diff != "" {
				t.Errorf("the fallback (-want +got):\n%s", diff)
			}
			if spec["minReplicaCount"] != 0.0 || spec["maxReplicaCount"] != 20.0 || spec["advanced"] == nil {
				t.Errorf("the bounds are %v and %v, the behavior %v", spec["minReplicaCount"], spec["maxReplicaCount"], spec["advanced"])
			}
			if hpas := autoscalers(t, r); len(hpas) != 0 || deployment(t, r, "agent").Spec.Replicas != nil {
				t.Errorf("somebody else scales the agent, too: %v, replicas %v", hpas, deployment(t, r, "agent").Spec.Replicas)
			}
			if strings.Contains(r.notes(), "WARNING") {
				t.Errorf("the notes warn:\n%s", r.notes())
			}
		})
	}
	for _, g := range []given{{}, {set: []string{"agent.autoscaling.keda.enabled=true", "agent.autoscaling.external=true"}}, {set: []string{"agent.autoscaling.keda.enabled=true", "agent.autoscaling.enabled=false"}}, {json: []string{"agent.autoscaling.keda=null"}}} {
		if spec := scaledObject(t, g.must(t)); spec != nil {
			t.Errorf("with %v there is a ScaledObject: %v", g.set, spec)
		}
	}
	if notes := toZero("callguard.waiting.dispatchAgain=false").must(t).notes(); !strings.Contains(notes, "the first caller is never answered") {
		t.Errorf("the NOTES do not say that the first caller is never answered:\n%s", notes)
	}
}

// TestScaledObjectRefusals: values that would leave callers without an agent, or scale by nothing, are refused, with what to do.
func TestScaledObjectRefusals(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		given
		want string
	}{
		"ZeroWithoutKEDA": {given{set: []string{"agent.autoscaling.minReplicas=0"}}, "use 1 or more, or KEDA: agent.autoscaling.keda.enabled=true"},
		"NobodyWaits":     {toZero("callguard.waiting.agentName="), "set callguard.waiting.agentName"},
		"Unguarded":       {toZero("callguard.enabled=false"), "no calls are counted"},
		"HPAsMetrics":     {given{set: toZero().set, json: []string{`agent.autoscaling.extraMetrics=[{"type":"Resource"}]`}}, "use agent.autoscaling.keda.extraTriggers"},
		"PodsMetric":      {toZero("agent.autoscaling.metric=Pods"), "leave it at Object"},
		"Bounds":          {toZero("agent.autoscaling.minReplicas=9", "agent.autoscaling.maxReplicas=3"), "agent.autoscaling.minReplicas is 9, above maxReplicas, 3"},
		"NoFallback":      {toZero("agent.autoscaling.keda.fallback.replicas=0"), "fallback"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := tc.render(); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
	if spec := scaledObject(t, toZero("callguard.waiting.agentName=", "callguard.waiting.rooms=every").must(t)); spec == nil {
		t.Error("every room waits for an agent, and there is no ScaledObject")
	}
}

// TestAddonForKEDA: the adapter answers KEDA if a value asks for it, with a certificate that KEDA can verify, and only clients
// with a certificate from KEDA's authority.
func TestAddonForKEDA(t *testing.T) {
	t.Parallel()
	on := []string{"metricsAdapter.keda.enabled=true", "tls.mode=certManager", "networkPolicy.enabled=true"}
	for name, tc := range map[string]struct {
		addon
		volume corev1.VolumeSource
		port   int32
		from   string
	}{
		"Secret": {
			addon: addon{set: append([]string{"metricsAdapter.keda.clientCA.secret=ca"}, on...)}, port: 8091, from: "anybody",
			volume: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "ca", Items: []corev1.KeyToPath{{Key: "ca.crt", Path: "ca.crt"}}}},
		},
		"ConfigMap": {
			addon: addon{set: append([]string{"metricsAdapter.keda.clientCA.configMap=ca", "metricsAdapter.keda.clientCA.key=bundle.pem", "metricsAdapter.keda.port=9000"}, on...), json: []string{`networkPolicy.kedaFrom=[{"namespaceSelector":{"matchLabels":{"kubernetes.io/metadata.name":"keda"}}}]`}},
			port:  9000, from: "keda",
			volume: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "ca"}, Items: []corev1.KeyToPath{{Key: "bundle.pem", Path: "ca.crt"}}}},
		},
		"Off": {addon: addon{set: []string{"networkPolicy.enabled=true"}}, from: "nobody"},
		"Old": {addon: addon{set: []string{"networkPolicy.enabled=true"}, json: []string{"metricsAdapter.keda=null", "networkPolicy.kedaFrom=null"}}, from: "nobody"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := tc.must(t)
			pod := all[appsv1.Deployment](t, r, "Deployment")["metrics-adapter"].Spec.Template.Spec
			c := pod.Containers[0]
			var volume corev1.VolumeSource
			for _, v := range pod.Volumes {
				if v.Name == "keda" {
					volume = v.VolumeSource
				}
			}
			if diff := cmp.Diff(tc.volume, volume); diff != "" {
				t.Errorf("the authority (-want +got):\n%s", diff)
			}
			var port, servicePort int32
			for _, p := range c.Ports {
				if p.Name == "keda" {
					port = p.ContainerPort
				}
			}
			for _, p := range services(t, r)["metrics-adapter"].Spec.Ports {
				if p.Name == "keda" && p.TargetPort.StrVal == "keda" {
					servicePort = p.Port
				}
			}
			on := tc.port != 0
			if port != tc.port || on != (servicePort == 8091) {
				t.Errorf("KEDA is answered at port %d, and %d of the Service; want %d", port, servicePort, tc.port)
			}
			if got := slices.Contains(c.Args, "--keda-client-ca-file=/etc/metrics-adapter/keda/ca.crt"); got != on {
				t.Errorf("the adapter knows the authority: %t, in %v", got, c.Args)
			}
			if got := who(policies(t, r)["metrics-adapter"], corev1.ProtocolTCP, int(max(tc.port, 8091))); got != tc.from {
				t.Errorf("the port may be reached by %s, want %s", got, tc.from)
			}
		})
	}
	for name, tc := range map[string]struct {
		set  []string
		want string
	}{
		"SelfMade":    {[]string{"metricsAdapter.keda.enabled=true", "metricsAdapter.keda.clientCA.secret=ca"}, "use tls.mode=certManager or existingSecret"},
		"NoAuthority": {on, "--set metricsAdapter.keda.clientCA.secret=keda-client-ca"},
		"Two":         {append([]string{"metricsAdapter.keda.clientCA.secret=a", "metricsAdapter.keda.clientCA.configMap=b"}, on...), `set the other to ""`},
		"NoAdapter":   {append([]string{"metricsAdapter.mode=none", "metricsAdapter.keda.clientCA.secret=a"}, on...), "use metricsAdapter.mode=own or compose"},
		"SamePort":    {append([]string{"metricsAdapter.keda.port=8090", "metricsAdapter.keda.clientCA.secret=a"}, on...), "metricsAdapter.keda.port is 8090"},
		"Kubelets":    {append([]string{"metricsAdapter.keda.port=10250", "metricsAdapter.hostNetwork=true", "metricsAdapter.keda.clientCA.secret=a"}, on...), "metricsAdapter.keda.port is 10250, and on the host network"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := (addon{set: tc.set}).render(); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}
