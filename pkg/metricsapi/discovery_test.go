// SPDX-License-Identifier: Apache-2.0

package metricsapi

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/google/go-cmp/cmp"
	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/endpoints/request"
)

// TestServes checks paths of the API as an API server parses them.
func TestServes(t *testing.T) {
	t.Parallel()
	infos := request.RequestInfoFactory{APIPrefixes: sets.NewString("apis")}
	for path, want := range map[string]bool{
		"namespaces/shop/pods/*/active_calls":                       true,
		"namespaces/shop/pods/x/active_calls":                       true,
		"namespaces/shop/deployments.apps/x/busy_pods":              true,
		"namespaces/shop/metrics/active_calls":                      true,
		"namespaces/*/metrics/active_calls":                         true,
		"nodes/*/active_calls":                                      true,
		"namespaces/shop/pods/*/http_requests":                      false,
		"namespaces/shop/deployments.apps/x/http_requests":          false,
		"namespaces/shop/services/x/active_calls":                   false, // not a resource that callguard describes
		"namespaces/shop/metrics/http_requests":                     false,
		"nodes/*/cpu":                                               false,
		"namespaces/shop/nodes/x/active_calls":                      false, // a node is in no namespace
		"namespaces/shop/pods/*/active_calls?metricLabelSelector=a": true,
	} {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/apis/custom.metrics.k8s.io/v1beta2/"+path, nil)
		info, err := infos.NewRequestInfo(r)
		if err != nil {
			t.Fatal(err)
		}
		if got := Serves(info); got != want {
			t.Errorf("%s: %t, want %t", path, got, want)
		}
	}
}

func TestListedBesideOthers(t *testing.T) {
	t.Parallel()
	others := []metav1.APIResource{
		{Name: "pods/http_requests", Namespaced: true}, {Name: "pods/active_calls", Namespaced: true, Kind: "Theirs"},
		{Name: "services/hits", Namespaced: true}, {Name: "namespaces/cpu"}, {Name: "nonsense"},
	}
	all := merged(others)
	if got, want := len(all), len(merged(nil))+4; got != want {
		t.Errorf("%d metrics, want %d: ours, and theirs but the one that is ours, too", got, want)
	}
	var pods, services []string
	for _, r := range aggregated("v1beta2", all) {
		for _, metric := range r.Subresources {
			switch r.Resource {
			case "pods":
				pods = append(pods, metric.Subresource)
			case "services":
				services = append(services, string(r.Scope)+" "+metric.Subresource)
			case "nonsense":
				t.Error("something that is no metric is listed")
			}
		}
	}
	if diff := cmp.Diff([]string{ActiveCalls, UntilIdle, "http_requests"}, pods); diff != "" {
		t.Errorf("metrics of pods (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{string(apidiscoveryv2.ScopeNamespace) + " hits"}, services); diff != "" {
		t.Errorf("metrics of Services (-want +got):\n%s", diff)
	}
}
