// SPDX-License-Identifier: Apache-2.0

// Package apiservice interprets an APIService: which adapter it belongs to, and whether
// kube-apiserver reaches that. It makes no requests, and changes nothing in the cluster.
package apiservice

import (
	"cmp"
	"slices"

	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
)

// Names returns the names of the APIServices of custom metrics, one for each version.
func Names() []string {
	return []string{"v1beta1.custom.metrics.k8s.io", "v1beta2.custom.metrics.k8s.io"}
}

// Path returns the API server's path of the APIService of a name.
func Path(name string) string { return "/apis/apiregistration.k8s.io/v1/apiservices/" + name }

// Owner returns the Service of an APIService, as namespace/name; empty if kube-apiserver itself serves it.
func Owner(s *apiregistrationv1.APIService) string {
	if s.Spec.Service == nil {
		return ""
	}
	return s.Spec.Service.Namespace + "/" + s.Spec.Service.Name
}

// Unavailable returns why kube-apiserver does not reach an APIService; empty if it does.
func Unavailable(s *apiregistrationv1.APIService) string {
	i := slices.IndexFunc(s.Status.Conditions, func(c apiregistrationv1.APIServiceCondition) bool { return c.Type == apiregistrationv1.Available })
	if i < 0 {
		return "it has no condition Available yet; is kube-apiserver's aggregator running?"
	}
	if c := s.Status.Conditions[i]; c.Status != apiregistrationv1.ConditionTrue {
		return cmp.Or(c.Reason, string(c.Status)) + ": " + c.Message
	}
	return ""
}
