// SPDX-License-Identifier: Apache-2.0

package metricsapi

import (
	"strings"

	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/endpoints/request"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/metrics/pkg/apis/custom_metrics"
	"sigs.k8s.io/custom-metrics-apiserver/pkg/provider"
)

// Others returns the metrics that another adapter serves in addition to callguard's, in a
// version of the API.
type Others func(version string) []metav1.APIResource

// NoOthers is for the case that there is no other adapter.
func NoOthers(string) []metav1.APIResource { return nil }

// addDiscovery adds the metrics to aggregated discovery, which custom-metrics-apiserver
// does not do. Without it kube-apiserver lists the group without resources, and `kubectl
// api-resources` shows none.
//
// A metric is a subresource of the resource that it describes, such as `pods/active_calls`.
func addDiscovery(server *genericapiserver.GenericAPIServer, versions []metav1.GroupVersionForDiscovery, others Others) {
	for _, version := range versions {
		server.AggregatedDiscoveryGroupManager.AddGroupVersion(custom_metrics.GroupName, apidiscoveryv2.APIVersionDiscovery{
			Version: version.Version, Freshness: apidiscoveryv2.DiscoveryFreshnessCurrent,
			Resources: aggregated(version.Version, merged(others(version.Version))),
		})
	}
}

// merged returns callguard's metrics and those of others. If both have a name, callguard's
// is served.
func merged(others []metav1.APIResource) []metav1.APIResource {
	var all []metav1.APIResource
	seen := map[string]bool{}
	for _, d := range described() {
		for _, metric := range d.metrics {
			name := d.resource.String() + "/" + metric
			seen[name] = true
			all = append(all, metav1.APIResource{Name: name, Namespaced: d.namespaced, Kind: listKind, Verbs: metav1.Verbs{"get"}})
		}
	}
	for _, r := range others {
		if !seen[r.Name] {
			seen[r.Name] = true
			all = append(all, r)
		}
	}
	return all
}

// aggregated returns resources in the form of aggregated discovery, in the order of their first
// metrics.
func aggregated(version string, all []metav1.APIResource) []apidiscoveryv2.APIResourceDiscovery {
	kind := &metav1.GroupVersionKind{Group: custom_metrics.GroupName, Version: version, Kind: listKind}
	var list []apidiscoveryv2.APIResourceDiscovery
	at := map[string]int{}
	for _, r := range all {
		resource, metric, found := strings.Cut(r.Name, "/")
		if !found {
			continue // not a metric
		}
		i, known := at[resource]
		if !known {
			scope := apidiscoveryv2.ScopeCluster
			if r.Namespaced {
				scope = apidiscoveryv2.ScopeNamespace
			}
			i = len(list)
			at[resource] = i
			list = append(list, apidiscoveryv2.APIResourceDiscovery{Resource: resource, ResponseKind: kind, Scope: scope, Verbs: []string{"get"}})
		}
		list[i].Subresources = append(list[i].Subresources, apidiscoveryv2.APISubresourceDiscovery{
			Subresource: metric, ResponseKind: kind, Verbs: []string{"get"},
		})
	}
	return list
}

// listing has the metrics of one version, for that version's own path in discovery.
type listing struct {
	version string
	others  Others
}

// ListAPIResources implements discovery.APIResourceLister.
func (l listing) ListAPIResources() []metav1.APIResource { return merged(l.others(l.version)) }

// Serves reports, by its path, whether a request is for one of callguard's metrics.
func Serves(r *request.RequestInfo) bool {
	info := provider.CustomMetricInfo{GroupResource: schema.ParseGroupResource(r.Resource), Namespaced: r.Namespace != "", Metric: r.Subresource}
	if r.Resource == "metrics" && r.Subresource == "" { // of the namespace itself
		info = provider.CustomMetricInfo{GroupResource: schema.GroupResource{Resource: "namespaces"}, Metric: r.Name}
	}
	_, is := describe(info)
	return is
}
