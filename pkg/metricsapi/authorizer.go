// SPDX-License-Identifier: Apache-2.0

package metricsapi

import (
	"context"
	"maps"
	"slices"
	"strconv"

	"golang.org/x/sync/singleflight"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/metrics/pkg/apis/custom_metrics"
)

// all stands for everything in the attributes for authorizers. Source: ResourceAttributes
// of k8s.io/api/authorization/v1.
const all = "*"

// WidestFirst returns an authorizer that first asks whether the user may read every metric
// of the cluster, then every metric of the namespace, and only then the requested one. So
// for an authorizer that caches its answers, all reads of an autoscaler are one. If a wider
// question fails or is denied, the narrower one is still asked. An authorizer with
// exceptions, which RBAC does not have, must therefore deny "all".
func WidestFirst(asked authorizer.Authorizer) authorizer.Authorizer {
	var group singleflight.Group // of concurrent reads, only one asks
	return authorizer.AuthorizerFunc(func(ctx context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
		if a.IsResourceRequest() && a.GetAPIGroup() == custom_metrics.GroupName && a.GetUser() != nil {
			namespaces := []string{""} // an empty namespace means all of them
			if a.GetNamespace() != "" {
				namespaces = append(namespaces, a.GetNamespace())
			}
			for _, namespace := range namespaces {
				wide := authorizer.AttributesRecord{
					User: a.GetUser(), Verb: a.GetVerb(), Namespace: namespace,
					APIGroup: a.GetAPIGroup(), APIVersion: all, Resource: all, Subresource: all, ResourceRequest: true,
				}
				allowed, _, _ := group.Do(question(wide), func() (any, error) {
					decision, _, err := asked.Authorize(ctx, wide)
					return err == nil && decision == authorizer.DecisionAllow, nil
				})
				if allowed == true {
					return authorizer.DecisionAllow, "", nil
				}
			}
		}
		return asked.Authorize(ctx, a)
	})
}

// question returns a key that is equal for users who are equal in everything that decides.
func question(a authorizer.AttributesRecord) string {
	who := a.User
	text := make([]byte, 0, 256) // this runs in every read: fmt would take a tenth of its time
	list := func(parts ...string) {
		text = append(text, '[')
		for _, part := range parts {
			text = strconv.AppendQuote(text, part)
		}
		text = append(text, ']')
	}
	list(who.GetName(), who.GetUID(), a.Verb, a.Namespace)
	list(who.GetGroups()...)
	extra := who.GetExtra()
	for _, key := range slices.Sorted(maps.Keys(extra)) {
		list(key)
		list(extra[key]...)
	}
	return string(text)
}
