// SPDX-License-Identifier: Apache-2.0

package apiservice

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
)

const ours, theirs = "callguard-system/metrics-adapter", "monitoring/prometheus-adapter"

func named(namespace, name string, annotations map[string]string) *apiregistrationv1.APIService {
	s := &apiregistrationv1.APIService{}
	s.Name, s.Annotations = Names()[0], annotations
	s.Spec.Service = &apiregistrationv1.ServiceReference{Namespace: namespace, Name: name}
	return s
}

func TestStands(t *testing.T) {
	t.Parallel()
	marked := map[string]string{BeforeAnnotation: "{}"}
	for name, tc := range map[string]struct {
		reason string
		is     *apiregistrationv1.APIService
		had    bool
		want   Standing
	}{
		"None":           {"Prometheus-adapter's chart has no v1beta2.", nil, false, Missing},
		"Deleted":        {"The other adapter's uninstall takes it along.", nil, true, Missing},
		"Theirs":         {"It is free to take.", named("monitoring", "prometheus-adapter", nil), false, Theirs},
		"Ours":           {"Nothing is to do.", named("callguard-system", "metrics-adapter", marked), false, Ours},
		"OursUnmarked":   {"Whoever led it to us meant it.", named("callguard-system", "metrics-adapter", nil), false, Ours},
		"Patched":        {"Helm's upgrade leaves our annotation.", named("monitoring", "prometheus-adapter", marked), false, PutBack},
		"Replaced":       {"Kubectl's replace takes it off, and we have not forgotten.", named("monitoring", "prometheus-adapter", nil), true, PutBack},
		"Another":        {"Nobody has said that this one may be taken.", named("datadog", "agent", nil), false, Foreign},
		"AnotherLater":   {"Nor after it was ours.", named("datadog", "agent", marked), true, Foreign},
		"KubeAPIServers": {"One without a Service is kube-apiserver's own.", &apiregistrationv1.APIService{}, false, Foreign},
	} {
		if got := Stands(tc.is, ours, theirs, tc.had); got != tc.want {
			t.Errorf("%s: %d, want %d. %s", name, got, tc.want, tc.reason)
		}
	}
}

// TestTakenAndGivenBack takes over every form of an APIService, and restores it as it
// was.
func TestTakenAndGivenBack(t *testing.T) {
	t.Parallel()
	port := int32(6443)
	our := apiregistrationv1.ServiceReference{Namespace: "callguard-system", Name: "metrics-adapter", Port: &port}
	signed := named("monitoring", "prometheus-adapter", map[string]string{"meta.helm.sh/release-name": "prom"})
	signed.Spec.CABundle, signed.Spec.VersionPriority = []byte("theirs"), 7
	insecure := named("monitoring", "prometheus-adapter", nil)
	insecure.Spec.InsecureSkipTLSVerify, insecure.Spec.Service.Port = true, &port
	for name, was := range map[string]*apiregistrationv1.APIService{"signed": signed, "insecure": insecure} {
		is := was.DeepCopy()
		if err := Take(is, our, []byte("ours")); err != nil {
			t.Fatal(err)
		}
		if Owner(is) != ours || string(is.Spec.CABundle) != "ours" || is.Spec.InsecureSkipTLSVerify || is.Spec.VersionPriority != was.Spec.VersionPriority {
			t.Errorf("%s, taken over: %+v", name, is.Spec)
		}
		before, err := WasBefore(is)
		if err != nil || before == nil {
			t.Fatalf("%s: %v, %v", name, before, err)
		}
		GiveBack(is, before, ours)
		if len(is.Annotations) == 0 {
			is.Annotations = nil
		}
		if diff := cmp.Diff(was, is); diff != "" {
			t.Errorf("%s, given back (-was +is):\n%s", name, diff)
		}
	}

	put := named("monitoring", "prometheus-adapter", map[string]string{BeforeAnnotation: "{}"})
	put.Spec.CABundle = []byte("newer")
	GiveBack(put, &Before{Service: theirs, CABundle: []byte("older")}, ours)
	if string(put.Spec.CABundle) != "newer" || len(put.Annotations) > 0 {
		t.Errorf("one that was put back already: %+v; want it as it is, without the annotation", put)
	}
}

func TestMade(t *testing.T) {
	t.Parallel()
	for i, want := range []int32{100, 200} {
		s, err := Make(Names()[i], "v", "g", apiregistrationv1.ServiceReference{Namespace: "n", Name: "s"}, []byte("ca"))
		if err != nil {
			t.Fatal(err)
		}
		before, err := WasBefore(s)
		if err != nil || !before.Absent || s.Spec.VersionPriority != want || string(s.Spec.CABundle) != "ca" || Owner(s) != "n/s" {
			t.Errorf("%+v, before %+v, %v", s.Spec, before, err)
		}
	}
}

func TestUnreadableNote(t *testing.T) {
	t.Parallel()
	if b, err := WasBefore(named("a", "b", map[string]string{BeforeAnnotation: "none"})); err == nil {
		t.Errorf("read %v of nonsense", b)
	}
	if b, err := WasBefore(named("a", "b", nil)); b != nil || err != nil {
		t.Errorf("read %v, %v of nothing", b, err)
	}
}
