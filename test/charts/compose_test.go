// SPDX-License-Identifier: Apache-2.0

package charts

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

const authority = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"

// beside are the values of mode compose.
func beside(more ...string) []string {
	return append([]string{
		"metricsAdapter.mode=compose", "metricsAdapter.compose.service.namespace=monitoring", "metricsAdapter.compose.service.name=prometheus-adapter",
		"metricsAdapter.compose.caBundle=" + authority,
	}, more...)
}

func has(r rendered, kind, name string) bool {
	return slices.Contains(r.names(), kind+" "+name)
}

// names are the objects, as "Kind name".
func (r rendered) names() []string {
	var names []string
	for _, o := range r.objects {
		names = append(names, o.GetKind()+" "+o.GetName())
	}
	return names
}

// TestModes: which Service the APIServices point to, and what each mode needs.
func TestModes(t *testing.T) {
	t.Parallel()
	for mode, tc := range map[string]struct {
		reason string
		set    []string
		want   map[string]bool
	}{
		"own": {"They are the chart's.", nil, map[string]bool{
			"APIService v1beta1.custom.metrics.k8s.io": true, "APIService v1beta2.custom.metrics.k8s.io": true, "Deployment metrics-adapter": true,
			"Job metrics-adapter-hand-back": false, "ClusterRole callguard:metrics-adapter:compose": false, "Role metrics-adapter": true, "ConfigMap metrics-adapter-compose": false,
		}},
		"compose": {"They stay the other chart's, and the adapter takes them.", beside(), map[string]bool{
			"APIService v1beta1.custom.metrics.k8s.io": false, "APIService v1beta2.custom.metrics.k8s.io": false, "Deployment metrics-adapter": true,
			"Job metrics-adapter-hand-back": true, "ClusterRole callguard:metrics-adapter:compose": true, "Role metrics-adapter": true, "ConfigMap metrics-adapter-compose": true,
			"ValidatingAdmissionPolicy callguard-adapter-leash": true,
		}},
		"none": {"There is nothing of it.", []string{"metricsAdapter.mode=none"}, map[string]bool{
			"APIService v1beta1.custom.metrics.k8s.io": false, "Deployment metrics-adapter": false, "Job metrics-adapter-hand-back": false,
			"Role metrics-adapter": false, "ValidatingAdmissionPolicy callguard-adapter-leash": false, "Deployment drain-guard": true,
		}},
	} {
		r := addon{set: tc.set}.must(t)
		for what, want := range tc.want {
			kind, name, _ := strings.Cut(what, " ")
			if has(r, kind, name) != want {
				t.Errorf("%s: %s is there: %t, want %t. %s", mode, what, !want, want, tc.reason)
			}
		}
		for _, o := range r.objects {
			if o.GetKind() == "Role" && o.GetName() == "metrics-adapter" {
				rules, _, err := unstructured.NestedSlice(o.Object, "rules")
				if err != nil {
					t.Fatal(err)
				}
				if text := fmt.Sprint(rules); strings.Contains(text, "events") != (mode == "compose") || !strings.Contains(text, "endpointslices") {
					t.Errorf("%s: its own namespace's rights are %s; Events are for the mode compose alone", mode, text)
				}
			}
		}
	}
}

// TestComposeFlags: the adapter's flags about the other adapter, value by value.
func TestComposeFlags(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		set     []string
		flags   []string
		without string
		files   []string
	}{
		"Verified": {beside(), []string{"--compose-service=monitoring/prometheus-adapter:443", "--compose-ca-file=/etc/metrics-adapter/compose/ca.crt", "--service=callguard-system/metrics-adapter"}, "--compose-insecure", []string{"ca.crt"}},
		"Insecure": {
			[]string{"metricsAdapter.mode=compose", "metricsAdapter.compose.service.namespace=monitoring", "metricsAdapter.compose.service.name=prometheus-adapter", "metricsAdapter.compose.service.port=6443", "metricsAdapter.compose.insecure=true"},
			[]string{"--compose-service=monitoring/prometheus-adapter:6443", "--compose-insecure"}, "--compose-ca-file=/etc/metrics-adapter/compose/ca.crt", nil,
		},
		"CertManager":    {beside("tls.mode=certManager"), []string{"--compose-serving-ca-file=/etc/metrics-adapter/tls/ca.crt", "--service=callguard-system/metrics-adapter"}, "--compose-insecure", []string{"ca.crt"}},
		"ExistingSecret": {beside("tls.mode=existingSecret", "tls.existingSecret=own", "tls.caBundle="+authority), []string{"--compose-serving-ca-file=/etc/metrics-adapter/compose/serving-ca.crt"}, "--compose-insecure", []string{"ca.crt", "serving-ca.crt"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := addon{set: tc.set}.must(t)
			pod := all[appsv1.Deployment](t, r, "Deployment")["metrics-adapter"].Spec.Template
			args := pod.Spec.Containers[0].Args
			for _, flag := range tc.flags {
				if !slices.Contains(args, flag) {
					t.Errorf("there is no %s in %v", flag, args)
				}
			}
			if slices.Contains(args, tc.without) {
				t.Errorf("there is %s in %v", tc.without, args)
			}
			var files map[string]string
			if m := all[corev1.ConfigMap](t, r, "ConfigMap")["metrics-adapter-compose"]; m != nil {
				files = m.Data
			}
			if len(files) != len(tc.files) {
				t.Errorf("there are the files %v, want %v", files, tc.files)
			}
			for _, file := range tc.files {
				if files[file] != authority {
					t.Errorf("%s is %q", file, files[file])
				}
			}
			mounted := slices.ContainsFunc(pod.Spec.Volumes, func(v corev1.Volume) bool { return v.ConfigMap != nil && v.ConfigMap.Name == "metrics-adapter-compose" })
			if mounted != (len(tc.files) > 0) || (pod.Annotations["checksum/compose"] != "") != mounted {
				t.Errorf("mounted: %t, annotations %v; the files are read when a pod starts", mounted, pod.Annotations)
			}
		})
	}
}

// TestComposeRights: the rights at the other adapter come from a value, and the uninstall has its own
// rights.
func TestComposeRights(t *testing.T) {
	t.Parallel()
	r := addon{set: beside("networkPolicy.enabled=true"), json: []string{`metricsAdapter.compose.resources=["pods/http_requests"]`}}.must(t)
	roles := all[rbacv1.ClusterRole](t, r, "ClusterRole")
	if got := roles["callguard:metrics-adapter:compose"].Rules; len(got) != 1 || !slices.Equal(got[0].Resources, []string{"pods/http_requests"}) || !slices.Equal(got[0].Verbs, []string{"get", "list"}) {
		t.Errorf("it may read %v", got)
	}
	for _, rule := range append(roles["callguard:metrics-adapter"].Rules, roles["callguard:metrics-adapter:hand-back"].Rules...) {
		if slices.Contains(rule.Verbs, "impersonate") || slices.Contains(rule.Resources, "secrets") {
			t.Errorf("it may %v %v", rule.Verbs, rule.Resources)
		}
	}
	job := all[batchv1.Job](t, r, "Job")["metrics-adapter-hand-back"]
	pod := job.Spec.Template.Spec
	if got := append(pod.Containers[0].Command, pod.Containers[0].Args...); !slices.Equal(got, []string{
		"/metrics-adapter", "hand-back", "--after-uninstall", "--service=callguard-system/metrics-adapter", "--compose-service=monitoring/prometheus-adapter",
	}) {
		t.Errorf("the uninstall runs %v", got)
	}
	if pod.ServiceAccountName != "metrics-adapter-hand-back" {
		t.Errorf("it runs as %s, whose rights are gone by then", pod.ServiceAccountName)
	}
	for _, o := range r.objects {
		if o.GetLabels()["app.kubernetes.io/name"] == "metrics-adapter-hand-back" && o.GetAnnotations()["helm.sh/hook"] != "post-delete" {
			t.Errorf("%s would be made by an install", id(o))
		}
	}
	egress := policies(t, r)["metrics-adapter"].Spec.Egress
	if !slices.ContainsFunc(egress, func(e networkingv1.NetworkPolicyEgressRule) bool {
		return len(e.To) == 1 && e.To[0].NamespaceSelector != nil && e.To[0].NamespaceSelector.MatchLabels["kubernetes.io/metadata.name"] == "monitoring"
	}) {
		t.Errorf("it does not reach the other adapter: %+v", egress)
	}
}

// TestComposeRefuses gives values that cannot work, apart from those that the schema refuses.
func TestComposeRefuses(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		set  []string
		want string
	}{
		"NoService":   {[]string{"metricsAdapter.mode=compose", "metricsAdapter.compose.insecure=true"}, "metricsAdapter.compose.service names no adapter"},
		"Ourselves":   {beside("metricsAdapter.compose.service.namespace=callguard-system", "metricsAdapter.compose.service.name=metrics-adapter"), "metricsAdapter.compose.service is callguard's own"},
		"NoAuthority": {beside("metricsAdapter.compose.caBundle="), "metricsAdapter.compose.caBundle holds no certificate"},
		"Both":        {beside("metricsAdapter.compose.insecure=true"), "both caBundle and insecure"},
		"Former":      {[]string{"metricsAdapter.enabled=false"}, "use metricsAdapter.mode=none"},
		"Unknown":     {[]string{"metricsAdapter.mode=both"}, "metricsAdapter/mode"},
		"Misspelt":    {beside("metricsAdapter.compose.unsafe=true"), "unsafe"},
	} {
		if _, err := (addon{set: tc.set}).render(); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v; want %q", name, err, tc.want)
		}
	}
	addon{set: []string{"metricsAdapter.enabled=true"}}.must(t) // values of an earlier version, as with --reuse-values
}
