// SPDX-License-Identifier: Apache-2.0

package charts

import (
	"bytes"
	"encoding/base64"
	"encoding/xml"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"helm.sh/helm/v4/pkg/chart/v2/loader"
)

// both renders both charts with the same values.
func both(t *testing.T, set, json []string) map[string]rendered {
	t.Helper()
	return map[string]rendered{"callguard": addon{set: set, json: json}.must(t), "voice-agent": given{set: set, json: json}.must(t)}
}

// TestExtraObjects: the user's own objects are rendered, given as objects or as text, including the release's name.
func TestExtraObjects(t *testing.T) {
	t.Parallel()
	for chart, r := range both(t, nil, []string{`extraObjects=[
		{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"object-{{ .Release.Name }}"},"data":{"of":"{{ .Chart.Name }}"}},
		"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: text}\ndata: {of: {{ .Chart.Name }}}\n"]`}) {
		found := all[corev1.ConfigMap](t, r, "ConfigMap")
		for _, name := range []string{"object-" + map[string]string{"callguard": "callguard", "voice-agent": "v"}[chart], "text"} {
			if found[name] == nil || found[name].Data["of"] != chart {
				t.Errorf("%s: ConfigMap %s is %+v", chart, name, found[name])
			}
		}
	}
}

// TestAddressFamilies: every Service has the given ones, and none if none are given: then the cluster chooses.
func TestAddressFamilies(t *testing.T) {
	t.Parallel()
	every := []string{
		"serviceMonitor.enabled=true", "metricsAdapter.mode=own", "mcpServers.crm.image.repository=x", "mcpServers.crm.image.tag=a", "livekit.turn.enabled=true",
		"livekit.turn.domain=turn.example.com", "livekit.turn.existingSecret=turn",
	}
	of := func(chart string, more ...string) rendered {
		if chart == "callguard" {
			return addon{set: append(more, every[:2]...)}.must(t)
		}
		return given{set: append(more, every[2:]...)}.must(t)
	}
	for chart, count := range map[string]int{"callguard": 3, "voice-agent": 4} {
		for name, s := range services(t, of(chart)) {
			if s.Spec.IPFamilyPolicy != nil || s.Spec.IPFamilies != nil {
				t.Errorf("%s: Service %s asks for %v %v", chart, name, *s.Spec.IPFamilyPolicy, s.Spec.IPFamilies)
			}
		}
		six := services(t, of(chart, "ipFamilyPolicy=SingleStack", "ipFamilies={IPv6}"))
		if len(six) != count {
			t.Fatalf("%s has %d Services, want %d", chart, len(six), count)
		}
		for name, s := range six {
			if s.Spec.IPFamilyPolicy == nil || *s.Spec.IPFamilyPolicy != corev1.IPFamilyPolicySingleStack || !cmp.Equal(s.Spec.IPFamilies, []corev1.IPFamily{corev1.IPv6Protocol}) {
				t.Errorf("%s: Service %s has families %v", chart, name, s.Spec.IPFamilies)
			}
		}
	}
}

// TestCommonAnnotations: every object has them, no pod does, and an object's own annotations override them.
func TestCommonAnnotations(t *testing.T) {
	t.Parallel()
	plain, r := given{file: "full"}, given{file: "full", set: []string{"commonAnnotations.owner=team", `commonAnnotations.callguard\.dev/min-available=none`, "agent.serviceAccount.annotations.owner=other"}}
	for _, o := range r.must(t).objects {
		want := "team"
		if o.GetKind() == "ServiceAccount" && strings.HasSuffix(o.GetName(), "-agent") {
			want = "other"
		}
		if got := o.GetAnnotations()["owner"]; got != want {
			t.Errorf("%s has annotation owner=%q, want %q", id(o), got, want)
		}
	}
	if got := deployment(t, r.must(t), "agent").Annotations["callguard.dev/min-available"]; got != "50%" {
		t.Errorf("the agent's own annotation is %q", got)
	}
	before := deployments(t, plain.must(t))
	for name, d := range deployments(t, r.must(t)) {
		if diff := cmp.Diff(before[name].Spec.Template, d.Spec.Template); diff != "" {
			t.Errorf("an annotation of all objects restarts %s:\n%s", name, diff)
		}
	}
	for name, account := range all[corev1.ServiceAccount](t, given{set: []string{"agent.minAvailable=1"}}.must(t), "ServiceAccount") {
		for key := range account.Annotations {
			if !strings.HasPrefix(key, "helm.sh/") { // a hook's
				t.Errorf("ServiceAccount %s has its Deployment's annotation %s", name, key)
			}
		}
	}
}

// TestExtraMetrics: the autoscaler uses calls and the added metrics.
func TestExtraMetrics(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		given
		want []autoscalingv2.MetricSourceType
	}{
		"Calls":     {want: []autoscalingv2.MetricSourceType{autoscalingv2.ObjectMetricSourceType}},
		"OldValues": {given: given{json: []string{"agent.autoscaling.extraMetrics=null"}}, want: []autoscalingv2.MetricSourceType{autoscalingv2.ObjectMetricSourceType}},
		"More": {
			given{json: []string{`agent.autoscaling.extraMetrics=[{"type":"Resource","resource":{"name":"cpu","target":{"type":"Utilization","averageUtilization":80}}}]`}},
			[]autoscalingv2.MetricSourceType{autoscalingv2.ObjectMetricSourceType, autoscalingv2.ResourceMetricSourceType},
		},
	} {
		var got []autoscalingv2.MetricSourceType
		for _, m := range autoscalers(t, tc.must(t))["v-voice-agent-agent"].Spec.Metrics {
			got = append(got, m.Type)
		}
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("%s: metrics (-want +got):\n%s", name, diff)
		}
	}
}

// TestRelabelings: every scraped port has them.
func TestRelabelings(t *testing.T) {
	t.Parallel()
	const relabelings, metrics = `[{"targetLabel":"cluster","replacement":"eu"}]`, `[{"action":"labeldrop","regex":"pod"}]`
	count := func(r rendered, field string) (with, all int) {
		for _, o := range r.objects {
			endpoints, _, _ := unstructured.NestedSlice(o.Object, "spec", field)
			for _, e := range endpoints {
				all++
				endpoint, _ := e.(map[string]any)
				if cmp.Equal(endpoint["relabelings"], []any{map[string]any{"targetLabel": "cluster", "replacement": "eu"}}) &&
					cmp.Equal(endpoint["metricRelabelings"], []any{map[string]any{"action": "labeldrop", "regex": "pod"}}) && endpoint["interval"] == "30s" {
					with++
				}
			}
		}
		return with, all
	}
	guard := addon{set: []string{"serviceMonitor.enabled=true", "serviceMonitor.interval=30s"}, json: []string{"serviceMonitor.relabelings=" + relabelings, "serviceMonitor.metricRelabelings=" + metrics}}.must(t)
	if with, all := count(guard, "endpoints"); with != 2 || all != 2 {
		t.Errorf("callguard: %d of %d ports are relabelled, want both", with, all)
	}
	voice := given{set: []string{"podMonitor.enabled=true", "podMonitor.interval=30s", "livekit.prometheusPort=6789"}, json: []string{"podMonitor.relabelings=" + relabelings, "podMonitor.metricRelabelings=" + metrics}}.must(t)
	if with, all := count(voice, "podMetricsEndpoints"); with != 3 || all != 3 {
		t.Errorf("voice-agent: %d of %d ports are relabelled, want all three", with, all)
	}
}

// TestIcon: it is a picture that is embedded in the chart.
func TestIcon(t *testing.T) {
	t.Parallel()
	for _, path := range []string{addonFolder, folder} {
		c, err := loader.Load(path)
		if err != nil {
			t.Fatal(err)
		}
		encoded, ok := strings.CutPrefix(c.Metadata.Icon, "data:image/svg+xml;base64,")
		picture, err := base64.StdEncoding.DecodeString(encoded)
		if !ok || err != nil {
			t.Fatalf("the icon of %s is %q: %v", c.Name(), c.Metadata.Icon, err)
		}
		var root struct{ XMLName xml.Name }
		if err := xml.NewDecoder(bytes.NewReader(picture)).Decode(&root); err != nil || root.XMLName.Local != "svg" {
			t.Errorf("the icon of %s is %s: %v", c.Name(), picture, err)
		}
	}
}
