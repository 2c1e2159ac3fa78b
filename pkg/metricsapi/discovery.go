// SPDX-License-Identifier: Apache-2.0

package metricsapi

import (
	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/metrics/pkg/apis/custom_metrics"
)

// addDiscovery tells aggregated discovery of the metrics, which
// custom-metrics-apiserver leaves out: without it kube-apiserver lists the group
// without resources, and `kubectl api-resources` shows none.
//
// A metric is a subresource of what it describes, as `pods/active_calls`.
func addDiscovery(server *genericapiserver.GenericAPIServer, versions []metav1.GroupVersionForDiscovery) {
	for _, version := range versions {
		kind := &metav1.GroupVersionKind{Group: custom_metrics.GroupName, Version: version.Version, Kind: listKind}
		entry := apidiscoveryv2.APIVersionDiscovery{Version: version.Version, Freshness: apidiscoveryv2.DiscoveryFreshnessCurrent}
		for _, d := range described() {
			scope := apidiscoveryv2.ScopeCluster
			if d.namespaced {
				scope = apidiscoveryv2.ScopeNamespace
			}
			resource := apidiscoveryv2.APIResourceDiscovery{
				Resource: d.resource.String(), ResponseKind: kind, Scope: scope, Verbs: []string{"get"},
			}
			for _, metric := range d.metrics {
				resource.Subresources = append(resource.Subresources, apidiscoveryv2.APISubresourceDiscovery{
					Subresource: metric, ResponseKind: kind, Verbs: []string{"get"},
				})
			}
			entry.Resources = append(entry.Resources, resource)
		}
		server.AggregatedDiscoveryGroupManager.AddGroupVersion(custom_metrics.GroupName, entry)
	}
}
