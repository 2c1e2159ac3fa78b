// SPDX-License-Identifier: Apache-2.0

package manifests

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/applyconfigurations"
	"k8s.io/client-go/kubernetes/scheme"
)

const authority = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"

func digest() string { return strings.Repeat("0123", 16) }

// variants are the ways to install the chart that differ in what they render.
func variants(t *testing.T) map[string][]string {
	t.Helper()
	pem := filepath.Join(t.TempDir(), "ca.crt")
	if err := os.WriteFile(pem, []byte(authority), 0o600); err != nil {
		t.Fatal(err)
	}
	optIns := []string{
		"--set", "networkPolicy.enabled=true", "--set", "prometheusRule.enabled=true", "--set", "prometheusRule.labels.release=prometheus",
		"--set", "serviceMonitor.enabled=true", "--set", "serviceMonitor.labels.release=prometheus", "--set", "serviceMonitor.interval=30s",
		"--set", "grafanaDashboard.enabled=true", "--set", "grafanaDashboard.annotations.grafana_folder=voice", "--set", "namespace.create=true",
	}
	existing := []string{"--set", "tls.mode=existingSecret", "--set", "tls.existingSecret=own", "--set-file", "tls.caBundle=" + pem}
	return map[string][]string{
		"Default":     nil,
		"NoAdapter":   append([]string{"--set", "metricsAdapter.mode=none"}, optIns...),
		"OptIns":      optIns,
		"CertManager": append([]string{"--set", "tls.mode=certManager"}, optIns...),
		"Issuer": {"--set", "tls.mode=certManager", "--set", "tls.certManager.issuerRef.name=corporate",
			"--set", "tls.certManager.issuerRef.kind=ClusterIssuer"},
		"ExistingSecret": append(existing, optIns...),
		"NoProject":      {"--set", "livekit.secretName="},
		"Scheduling": {
			"--set", "image.digest=sha256:" + digest(), "--set", "imagePullSecrets={pull}", "--set", "test.namespace=voice",
			"--set", "metricsAdapter.extraArgs={--resync-interval=10s}", "--set", "drainGuard.extraArgs={--max-hold=2h}",
			"--set", "metricsAdapter.replicas=3", "--set", "livekit.requestsPerMinute=1000000",
			"--set", "metricsAdapter.priorityClassName=", "--set", "drainGuard.priorityClassName=infra",
			"--set-json", `metricsAdapter.tolerations=[{"operator": "Exists"}]`, "--set-json", `drainGuard.nodeSelector={"pool": "infra"}`,
			"--set-json", `metricsAdapter.affinity={"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}}`,
		},
		"Narrow": {"--set", "networkPolicy.enabled=true", "--set", "networkPolicy.agentPorts={8081}",
			"--set-json", `networkPolicy.apiServerFrom=[{"ipBlock": {"cidr": "10.0.0.0/28"}}]`,
			"--set-json", `networkPolicy.webhooksFrom=[{"ipBlock": {"cidr": "10.1.0.0/16"}}]`,
			"--set-json", `networkPolicy.metricsFrom=[{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}]`},
	}
}

// TestChart renders each variant and checks what holds for all of them.
func TestChart(t *testing.T) {
	converter := applyconfigurations.NewTypeConverter(scheme.Scheme)
	for name, flags := range variants(t) {
		t.Run(name, func(t *testing.T) {
			objects := chart(t, flags...)
			seen := map[string]bool{}
			for _, o := range objects {
				id := idOf(o)
				if seen[id] {
					t.Errorf("%s is rendered twice", id)
				}
				seen[id] = true
				if !scheme.Scheme.Recognizes(o.GroupVersionKind()) {
					continue
				}
				// What a server-side apply would refuse: unknown fields, duplicates.
				if _, err := converter.ObjectToTyped(o); err != nil {
					t.Errorf("kube-apiserver would not accept %s: %v", id, err)
				}
			}
			pods := podsOf(t, objects)
			for id, pod := range pods {
				restricted(t, id, pod)
			}
			for id, selector := range selectorsOf(t, objects) {
				chosen := []string{}
				for pod, template := range pods {
					if selector.Matches(labels.Set(template.Labels)) {
						chosen = append(chosen, pod)
					}
				}
				want := []string{"Deployment/" + id[strings.LastIndex(id, "/")+1:]}
				switch id {
				case "Service/metrics-adapter-peers":
					want = []string{"Deployment/metrics-adapter"}
				case "NetworkPolicy/drain-guard-unlock":
					want = []string{"Job/drain-guard-unlock"}
				case "NetworkPolicy/callguard-hooks": // what is there of them with these values
					want = slices.DeleteFunc([]string{"Pod/metrics-adapter-check"}, func(id string) bool { return !seen[id] })
				}
				if slices.Sort(chosen); !slices.Equal(chosen, want) {
					t.Errorf("%s chooses the pods of %v, want those of %v and no others", id, chosen, want)
				}
			}
		})
	}
}

// TestChartParts checks which objects exist with some values, and which do not.
func TestChartParts(t *testing.T) {
	const bundle, insecure = "caBundle", "insecureSkipTLSVerify:"
	cases := map[string]struct {
		reason        string
		want, wantNot []string
	}{
		"Default": {
			reason: "The adapter keeps caBundle itself; two writers would be a conflict at the next upgrade. Nothing needs another operator.",
			want: []string{"name: v1beta1.custom.metrics.k8s.io", "name: v1beta2.custom.metrics.k8s.io", "verbs: [get, patch]", "--service=callguard-system/metrics-adapter",
				"--replicas-service=callguard-system/metrics-adapter-peers"},
			wantNot: []string{bundle + ":", insecure, "--tls-cert-file", "--replicas=", "--livekit-requests-per-minute", "cert-manager.io", "kind: NetworkPolicy", "monitoring.coreos.com", "grafana_dashboard"},
		},
		"NoAdapter": {
			reason:  "Another adapter keeps its API, its certificates and its alerts.",
			want:    []string{"name: drain-guard", "kind: PrometheusRule", "kind: ServiceMonitor"},
			wantNot: []string{"kind: APIService", "name: metrics-adapter", "callguard:metrics-adapter", "CallguardMetricsNotReady"},
		},
		"CertManager": {
			reason:  "cert-manager writes caBundle; the adapter needs no right to.",
			want:    []string{"cert-manager.io/inject-ca-from: callguard-system/metrics-adapter", "secretName: metrics-adapter-tls", "--tls-cert-file=/etc/metrics-adapter/tls/tls.crt", "isCA: true"},
			wantNot: []string{bundle + ":", insecure, "verbs: [get, patch]", "insecureSkipVerify"},
		},
		"Issuer": {
			reason:  "An issuer of one's own needs no authority of ours.",
			want:    []string{"kind: ClusterIssuer", "name: corporate"},
			wantNot: []string{"isCA: true", "selfSigned"},
		},
		"ExistingSecret": {
			reason:  "Whoever brings a certificate also brings its authority.",
			want:    []string{bundle + ": " + base64.StdEncoding.EncodeToString([]byte(authority)), "secretName: own", "--tls-private-key-file=/etc/metrics-adapter/tls/tls.key"},
			wantNot: []string{insecure, "verbs: [get, patch]", "insecureSkipVerify"},
		},
		"NoProject": {
			reason:  "Where every workload names its project, no Secret of ours is asked for.",
			wantNot: []string{"--livekit-url", "/etc/livekit"},
		},
		"Scheduling": {
			reason:  "The administrator decides which image is pulled, and where it runs.",
			want:    []string{"image: callguard:dev@sha256:" + digest(), "- --resync-interval=10s", "- --max-hold=2h", "- --replicas=3", "- --livekit-requests-per-minute=1000000", "priorityClassName: infra", "pool: infra", "--namespace=voice", "resources: [pods/active_calls]"},
			wantNot: []string{"system-cluster-critical"},
		},
		"Narrow": {
			reason:  "Replicas pass webhooks on, whoever may send them.",
			want:    []string{"cidr: 10.0.0.0/28", "cidr: 10.1.0.0/16", "name: monitoring"},
			wantNot: []string{"port: 8089"},
		},
	}
	all := variants(t)
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			text := install(t, all[name]...)
			for _, want := range tc.want {
				if !strings.Contains(text, want) {
					t.Errorf("%s %q is missing", tc.reason, want)
				}
			}
			for _, not := range tc.wantNot {
				if strings.Contains(text, not) {
					t.Errorf("%s %q should not be there", tc.reason, not)
				}
			}
		})
	}
}

// rulesOf returns the rules of a role, and none for other objects.
func rulesOf(t *testing.T, o *unstructured.Unstructured) []rbacv1.PolicyRule {
	t.Helper()
	switch role := typed(t, o).(type) {
	case *rbacv1.ClusterRole:
		return role.Rules
	case *rbacv1.Role:
		return role.Rules
	}
	return nil
}

// TestChartRights looks up each verb in the tables that say why it is needed, and what an attacker could do with it.
func TestChartRights(t *testing.T) {
	text, err := os.ReadFile("../docs/reference/rights.md")
	if err != nil {
		t.Fatal(err)
	}
	explained := func(resource, verb string) bool {
		for row := range strings.SplitSeq(string(text), "\n") {
			words := strings.FieldsFunc(row, func(r rune) bool { return strings.ContainsRune(" ,:;`|", r) })
			if strings.HasPrefix(row, "|") && slices.Contains(words, resource) && slices.Contains(words, verb) {
				return true
			}
		}
		return false
	}
	rights := 0
	for _, o := range chart(t) {
		for _, rule := range rulesOf(t, o) {
			for _, resource := range rule.Resources {
				if resource == "*" {
					resource = rule.APIGroups[0]
				}
				for _, verb := range rule.Verbs {
					rights++
					if !explained(resource, verb) {
						t.Errorf("%s may %s %s; say why in a table of docs/reference/rights.md", idOf(o), verb, resource)
					}
				}
			}
			if slices.Contains(rule.Verbs, "*") || slices.Contains(rule.APIGroups, "*") || slices.Contains(rule.Resources, "secrets") {
				t.Errorf("%s has a right that is too wide: %v", idOf(o), rule)
			}
			if slices.Contains(rule.Resources, "apiservices") && len(rule.ResourceNames) != 2 {
				t.Errorf("%s has rights to other adapters' APIServices: %v", idOf(o), rule)
			}
		}
	}
	if rights < 50 {
		t.Errorf("only %d rights were found", rights)
	}
}

// TestViewerReads checks the role that is aggregated into view: it exists with and without the adapter, lets the plugin read
// what it needs, and nothing that a viewer must not read.
func TestViewerReads(t *testing.T) {
	for _, flags := range [][]string{nil, {"--set", "metricsAdapter.mode=none"}} {
		found := false
		for _, o := range chart(t, flags...) {
			role, is := typed(t, o).(*rbacv1.ClusterRole)
			if !is || role.Name != "callguard-viewer" {
				continue
			}
			found = true
			if role.Labels["rbac.authorization.k8s.io/aggregate-to-view"] != "true" {
				t.Error("a viewer does not have it")
			}
			for _, rule := range role.Rules {
				for _, verb := range rule.Verbs {
					if verb != "get" && verb != "list" {
						t.Errorf("it may %s %v", verb, rule.Resources)
					}
				}
				for _, resource := range rule.Resources {
					if resource == "secrets" || strings.Contains(resource, "/") || resource == "*" && !slices.Equal(rule.APIGroups, []string{"custom.metrics.k8s.io"}) {
						t.Errorf("it may read %s of %v", resource, rule.APIGroups)
					}
				}
			}
		}
		if !found {
			t.Errorf("with %v it is missing", flags)
		}
	}
}

// TestOperatorDrains checks the role for drains: it has all that a viewer's has, cordons and evicts, and is aggregated into no
// other role.
func TestOperatorDrains(t *testing.T) {
	rules := map[string][]rbacv1.PolicyRule{}
	for _, o := range chart(t) {
		if role, is := typed(t, o).(*rbacv1.ClusterRole); is {
			rules[role.Name] = role.Rules
			for label := range role.Labels {
				if role.Name == "callguard-operator" && strings.Contains(label, "aggregate-to") {
					t.Errorf("it aggregates: %s", label)
				}
			}
		}
	}
	want := append(slices.Clone(rules["callguard-viewer"]),
		rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"nodes"}, Verbs: []string{"patch"}},
		rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"pods/eviction"}, Verbs: []string{"create"}})
	if diff := cmp.Diff(want, rules["callguard-operator"]); diff != "" || len(want) < 5 {
		t.Errorf("its rights: -want, +got:\n%s", diff)
	}
}

// TestUnlockStep checks the uninstall Job: an install does not create it, it has its own account and rights, and can be left
// out.
func TestUnlockStep(t *testing.T) {
	const step = "drain-guard-unlock"
	mine := func(o *unstructured.Unstructured) bool { return o.GetLabels()["app.kubernetes.io/name"] == step }
	kinds := map[string]bool{}
	for _, o := range chart(t, "--set", "networkPolicy.enabled=true") {
		hook := o.GetAnnotations()["helm.sh/hook"]
		if hook == "pre-delete" {
			t.Errorf("%s unlocks before the uninstall has succeeded", idOf(o))
		}
		if !mine(o) {
			continue
		}
		kinds[o.GetKind()] = true
		if hook != "post-delete" {
			t.Errorf("%s is hook %q; an install would create an object that is no hook", idOf(o), hook)
		}
		switch object := typed(t, o).(type) {
		case *batchv1.Job:
			pod := object.Spec.Template.Spec
			if pod.ServiceAccountName != step {
				t.Errorf("it runs as %s; the policies exempt the guard's account", pod.ServiceAccountName)
			}
			if want := []string{"/drain-guard", "unlock", "--after-uninstall"}; !slices.Equal(pod.Containers[0].Command, want) {
				t.Errorf("it runs %v, want %v, which looks whether anything is installed", pod.Containers[0].Command, want)
			}
		case *rbacv1.ClusterRole:
			for _, rule := range object.Rules {
				if slices.Contains(rule.Resources, "leases") || slices.Contains(rule.Resources, "pods") && slices.Contains(rule.Verbs, "delete") {
					t.Errorf("it may %v %v", rule.Verbs, rule.Resources)
				}
			}
		}
	}
	for _, kind := range []string{"ServiceAccount", "ClusterRole", "ClusterRoleBinding", "NetworkPolicy", "Job"} {
		if !kinds[kind] {
			t.Errorf("it has no %s", kind)
		}
	}
	for _, o := range chart(t, "--set", "unlockOnUninstall=false") {
		if mine(o) || strings.HasSuffix(o.GetName(), ":unlock") {
			t.Errorf("%s exists with unlockOnUninstall=false", idOf(o))
		}
	}
}

// TestChartSteady renders twice. A difference would make every upgrade a change, and cause drift for GitOps.
func TestChartSteady(t *testing.T) {
	flags := variants(t)["CertManager"]
	if diff := cmp.Diff(install(t, flags...), install(t, flags...)); diff != "" {
		t.Errorf("a second rendering differs:\n%s", diff)
	}
}

// TestChartRefuses sets values that cannot work.
func TestChartRefuses(t *testing.T) {
	cases := map[string]struct {
		flags []string
		want  string
	}{
		"Mode":      {[]string{"--set", "tls.mode=insecure"}, "at '/tls/mode': value must be one of 'selfRotate', 'certManager', 'existingSecret'"},
		"NoSecret":  {[]string{"--set", "tls.mode=existingSecret"}, "tls.existingSecret is empty; name the Secret"},
		"Authority": {[]string{"--set", "tls.mode=existingSecret", "--set", "tls.existingSecret=own"}, "--set-file tls.caBundle=ca.crt"},
		"Group":     {[]string{"--set", "breakGlassGroup=it's"}, "at '/breakGlassGroup'"},
		"Tag":       {[]string{"--set", "image.tag=1234567"}, `image.tag is the number 1234567, and a tag is text; write tag: "1234567", or --set-string image.tag=1234567`},
		"Digest":    {[]string{"--set", "image.digest=sha256:12"}, "at '/image/digest'"},
		"Pull":      {[]string{"--set", "image.pullPolicy=Sometimes"}, "value must be one of 'Always', 'IfNotPresent', 'Never'"},
		"Replicas":  {[]string{"--set", "drainGuard.replicas=0"}, "at '/drainGuard/replicas': minimum: got 0, want 1"},
		"Level":     {[]string{"--set", "logLevel=loud"}, "at '/logLevel'"},
		"Priority":  {[]string{"--set", "priorityClass.value=2000000000"}, "at '/priorityClass/value': maximum"},
		"Port":      {[]string{"--set", "networkPolicy.egressPorts={0}"}, "at '/networkPolicy/egressPorts/0'"},
		"NoPort":    {[]string{"--set-json", "networkPolicy.agentPorts=[]"}, "at '/networkPolicy/agentPorts': minItems"},
		"Issuer":    {[]string{"--set", "tls.certManager.issuerRef.kind=ClusterIssuer"}, "missing property 'name'"},
		"Label":     {[]string{"--set", "prometheusRule.labels.a.b=c"}, "at '/prometheusRule/labels/a': got object, want string"},
		"Null":      {[]string{"--set", "tls=null"}, "missing property 'tls'"},
	}
	for name, tc := range cases {
		if _, complaints, err := helm(t, tc.flags...); err == nil || !strings.Contains(complaints, tc.want) {
			t.Errorf("%s: want a refusal with %q, got: %v\n%s", name, tc.want, err, complaints)
		}
	}
}

// TestChartTypos writes an unknown key at every level.
func TestChartTypos(t *testing.T) {
	text, err := os.ReadFile("../charts/callguard/values.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	type schema struct {
		Type                 any                        `json:"type"`
		AdditionalProperties any                        `json:"additionalProperties"`
		Properties           map[string]json.RawMessage `json:"properties"`
	}
	freeForm := []string{"affinity", "dnsConfig", "podSecurityContext", "resources", "securityContext", "strategy"} // Kubernetes defines their content
	levels := 0
	var walk func(path string, raw json.RawMessage)
	walk = func(path string, raw json.RawMessage) {
		var s schema
		if err := json.Unmarshal(raw, &s); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		if s.Type != "object" || path == ".global" {
			return
		}
		switch s.AdditionalProperties {
		case false:
			levels++
			flag := strings.TrimPrefix(path+".tpyo", ".") + "=1"
			if _, complaints, err := helm(t, "--set", flag); err == nil || !strings.Contains(complaints, "'tpyo'") {
				t.Errorf("--set %s is not refused as unknown: %v\n%s", flag, err, complaints)
			}
		case true, nil:
			if !slices.Contains(freeForm, path[strings.LastIndex(path, ".")+1:]) {
				t.Errorf("the schema allows any keys in %s; only %v may have them", path, freeForm)
			}
		}
		for key, value := range s.Properties {
			walk(path+"."+key, value)
		}
	}
	walk("", text)
	if levels < 14 {
		t.Errorf("the schema has %d strict objects; want those of values.yaml", levels)
	}
	if _, complaints, err := helm(t, "--set", "global.anything=1", "--set", "enabled=true"); err != nil {
		t.Errorf("the chart cannot be a part of another: %v\n%s", err, complaints)
	}
}

// TestAnotherAdapter installs where another adapter may serve the custom metrics API.
func TestAnotherAdapter(t *testing.T) {
	beside := []string{"--set", "metricsAdapter.mode=compose", "--set", "metricsAdapter.compose.insecure=true",
		"--set", "metricsAdapter.compose.service.namespace=callguard-system", "--set", "metricsAdapter.compose.service.name=prometheus-adapter"}
	cases := map[string]struct {
		reason string
		owners map[string]string // by version: the Service in namespace callguard-system that serves it
		taken  bool              // in mode compose
		flags  []string
		want   []string // each must be in the refusal; empty means no refusal
	}{
		"Nobody": {reason: "The API is free."},
		"Ours":   {reason: "An upgrade finds its own.", owners: map[string]string{"v1beta1": "metrics-adapter", "v1beta2": "metrics-adapter"}},
		"First": {
			reason: "The message names the owner and the ways out.",
			owners: map[string]string{"v1beta1": "prometheus-adapter"},
			want: []string{"APIService v1beta1.custom.metrics.k8s.io belongs to Service callguard-system/prometheus-adapter",
				"kubectl delete apiservice v1beta1.custom.metrics.k8s.io", "metricsAdapter.mode=none"},
		},
		"Second": {
			reason: "Whoever has the preferred version serves every autoscaler.",
			owners: map[string]string{"v1beta2": "stackdriver"},
			want:   []string{"APIService v1beta2.custom.metrics.k8s.io belongs to Service callguard-system/stackdriver"},
		},
		"NotWanted": {
			reason: "Without its adapter callguard can be installed next to another.",
			owners: map[string]string{"v1beta1": "prometheus-adapter"},
			flags:  []string{"--set", "metricsAdapter.mode=none"},
		},
		"Beside": {
			reason: "callguard can serve together with the adapter that the values name.",
			owners: map[string]string{"v1beta1": "prometheus-adapter"},
			flags:  beside,
		},
		"BesideAnother": {
			reason: "An adapter that the values do not name is not taken over.",
			owners: map[string]string{"v1beta1": "stackdriver"},
			flags:  beside,
			want:   []string{"APIService v1beta1.custom.metrics.k8s.io belongs to Service callguard-system/stackdriver", "--set metricsAdapter.compose.service.name=stackdriver"},
		},
		"BesideAlready": {
			reason: "An upgrade finds those that it has taken.",
			owners: map[string]string{"v1beta1": "metrics-adapter", "v1beta2": "metrics-adapter"}, taken: true,
			flags: beside,
		},
		"NoMore": {
			reason: "Without an adapter of callguard's behind it, the API would lead nowhere.",
			owners: map[string]string{"v1beta1": "metrics-adapter", "v1beta2": "metrics-adapter"}, taken: true,
			flags: []string{"--set", "metricsAdapter.mode=none"},
			want:  []string{"was taken from another adapter", "kubectl exec -n callguard-system deploy/metrics-adapter -- /metrics-adapter hand-back"},
		},
		"Alone": {
			reason: "The record of the previous state would be lost.",
			owners: map[string]string{"v1beta1": "metrics-adapter", "v1beta2": "metrics-adapter"}, taken: true,
			want: []string{"was taken from another adapter"},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			flags := append([]string{"--namespace", DefaultNamespace, "--dry-run=server", "--disable-openapi-validation", "--kubeconfig", aggregator(t, tc.owners, tc.taken)}, tc.flags...)
			out, complaints, err := helm(t, flags...)
			if (err != nil) != (len(tc.want) > 0) {
				t.Fatalf("%s helm template: %v\n%s", tc.reason, err, complaints)
			}
			for _, want := range tc.want {
				if !strings.Contains(complaints, want) {
					t.Errorf("%s %q is missing in:\n%s", tc.reason, want, complaints)
				}
			}
			if err == nil && !strings.Contains(out, "name: callguard-delete") {
				t.Errorf("%s Nothing is rendered", tc.reason)
			}
		})
	}
}

// aggregator simulates a kube-apiserver with these APIServices and returns the path of a kubeconfig for it.
func aggregator(t *testing.T, owners map[string]string, taken bool) string {
	t.Helper()
	mux := http.NewServeMux()
	answer := func(path string, body any) {
		mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			if err := json.NewEncoder(w).Encode(body); err != nil {
				t.Error(err)
			}
		})
	}
	type object = map[string]any
	answer("/version", object{"major": "1", "minor": "36", "gitVersion": "v1.36.0"})
	answer("/api", object{"kind": "APIVersions", "versions": []string{"v1"}})
	kinds := map[schema.GroupVersion]map[string]bool{}
	for _, o := range chart(t) {
		gv := o.GroupVersionKind().GroupVersion()
		if kinds[gv] == nil {
			kinds[gv] = map[string]bool{}
		}
		kinds[gv][o.GetKind()] = o.GetNamespace() != ""
	}
	var groups []any
	for gv, of := range kinds {
		path := "/api/v1"
		if gv.Group != "" {
			path = "/apis/" + gv.String()
			version := object{"groupVersion": gv.String(), "version": gv.Version}
			groups = append(groups, object{"name": gv.Group, "versions": []any{version}, "preferredVersion": version})
		}
		var resources []any
		for kind, namespaced := range of {
			resources = append(resources, object{"name": strings.ToLower(kind) + "s", "namespaced": namespaced, "kind": kind, "verbs": []string{"get"}})
		}
		answer(path, object{"kind": "APIResourceList", "groupVersion": gv.String(), "resources": resources})
	}
	answer("/apis", object{"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
	for version, service := range owners {
		name := version + ".custom.metrics.k8s.io"
		annotations := object{"meta.helm.sh/release-name": "callguard", "meta.helm.sh/release-namespace": DefaultNamespace}
		if taken {
			annotations["callguard.dev/before"] = "{}"
		}
		answer("/apis/apiregistration.k8s.io/v1/apiservices/"+name, object{
			"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
			"metadata": object{
				"name": name, "labels": object{"app.kubernetes.io/managed-by": "Helm"},
				"annotations": annotations,
			},
			"spec": object{"service": object{"namespace": DefaultNamespace, "name": service}},
		})
	}
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	path := filepath.Join(t.TempDir(), "kubeconfig")
	text := fmt.Sprintf(`{"apiVersion": "v1", "kind": "Config", "current-context": "c",
		"contexts": [{"name": "c", "context": {"cluster": "c"}}], "clusters": [{"name": "c", "cluster": {"server": %q}}]}`, server.URL)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// install renders all that an install and its hooks would create.
func install(t *testing.T, flags ...string) string {
	t.Helper()
	out, complaints, err := helm(t, append([]string{"--namespace", DefaultNamespace, "--kube-version", "1.36.0"}, flags...)...)
	if err != nil {
		t.Fatalf("helm template: %v\n%s", err, complaints)
	}
	return out
}

// chart is the same as objects.
func chart(t *testing.T, flags ...string) []*unstructured.Unstructured {
	t.Helper()
	var objects []*unstructured.Unstructured
	documents := yaml.NewYAMLReader(bufio.NewReader(strings.NewReader(install(t, flags...))))
	for {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			return objects
		}
		if err != nil {
			t.Fatal(err)
		}
		o := &unstructured.Unstructured{}
		if err := yaml.UnmarshalStrict(document, &o.Object); err != nil {
			t.Fatalf("%v in:\n%s", err, document)
		}
		if len(o.Object) > 0 {
			objects = append(objects, o)
		}
	}
}

func idOf(o *unstructured.Unstructured) string {
	if ns := o.GetNamespace(); ns != "" && ns != DefaultNamespace {
		return o.GetKind() + "/" + ns + "/" + o.GetName()
	}
	return o.GetKind() + "/" + o.GetName()
}

// typed converts an object to one of Kubernetes' own types.
func typed(t *testing.T, o *unstructured.Unstructured) runtime.Object {
	t.Helper()
	object, err := scheme.Scheme.New(o.GroupVersionKind())
	if runtime.IsNotRegisteredError(err) {
		return o
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, object); err != nil {
		t.Fatalf("%s: %v", idOf(o), err)
	}
	return object
}

// podsOf returns the template of every pod of the chart.
func podsOf(t *testing.T, objects []*unstructured.Unstructured) map[string]corev1.PodTemplateSpec {
	t.Helper()
	pods := map[string]corev1.PodTemplateSpec{}
	for _, o := range objects {
		switch object := typed(t, o).(type) {
		case *appsv1.Deployment:
			pods[idOf(o)] = object.Spec.Template
		case *batchv1.Job:
			pods[idOf(o)] = object.Spec.Template
		case *corev1.Pod:
			pods[idOf(o)] = corev1.PodTemplateSpec{ObjectMeta: object.ObjectMeta, Spec: object.Spec}
		}
	}
	return pods
}

// selectorsOf returns every selector that should match the pods of one Deployment.
func selectorsOf(t *testing.T, objects []*unstructured.Unstructured) map[string]labels.Selector {
	t.Helper()
	selectors := map[string]labels.Selector{}
	add := func(id string, s *metav1.LabelSelector) {
		selector, err := metav1.LabelSelectorAsSelector(s)
		if err != nil {
			t.Fatalf("%s: %v", id, err)
		}
		selectors[id] = selector
	}
	for _, o := range objects {
		switch object := typed(t, o).(type) {
		case *appsv1.Deployment:
			add(idOf(o), object.Spec.Selector)
			for _, c := range object.Spec.Template.Spec.TopologySpreadConstraints {
				add("Spread/"+o.GetName(), c.LabelSelector)
			}
		case *policyv1.PodDisruptionBudget:
			add(idOf(o), object.Spec.Selector)
		case *networkingv1.NetworkPolicy:
			add(idOf(o), &object.Spec.PodSelector)
		case *corev1.Service:
			add(idOf(o), &metav1.LabelSelector{MatchLabels: object.Spec.Selector})
		}
	}
	return selectors
}

// restricted checks the pod security standard of that name, and our own rules.
func restricted(t *testing.T, id string, pod corev1.PodTemplateSpec) {
	t.Helper()
	wrong := func(what string) { t.Errorf("%s: %s", id, what) }
	yes := func(b *bool) bool { return b != nil && *b }
	spec := pod.Spec
	if spec.HostNetwork || spec.HostPID || spec.HostIPC {
		wrong("its pods share a namespace of the node")
	}
	s := spec.SecurityContext
	if s == nil || !yes(s.RunAsNonRoot) || s.SeccompProfile == nil || s.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
		wrong("its pods may run as root, or without seccomp")
	}
	for _, v := range spec.Volumes {
		if v.Secret == nil {
			wrong("volume " + v.Name + " is no Secret")
		}
	}
	for _, c := range spec.Containers {
		s := c.SecurityContext
		if s == nil || s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation || !yes(s.ReadOnlyRootFilesystem) ||
			s.Capabilities == nil || len(s.Capabilities.Add) > 0 || !cmp.Equal(s.Capabilities.Drop, []corev1.Capability{"ALL"}) {
			wrong("container " + c.Name + " has more rights than it needs")
		}
		if c.Resources.Requests.Cpu().IsZero() || c.Resources.Requests.Memory().IsZero() || c.Resources.Limits.Memory().IsZero() {
			wrong("container " + c.Name + " does not say what it needs")
		}
		if len(c.Command) == 0 || !strings.HasPrefix(c.Command[0], "/") {
			wrong("container " + c.Name + " does not say which program of the image it runs")
		}
	}
}
