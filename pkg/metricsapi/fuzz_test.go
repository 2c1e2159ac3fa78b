// SPDX-License-Identifier: Apache-2.0

package metricsapi

import (
	"testing"

	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
)

// FuzzSelectors: whatever is selected, calls of pods that nobody knows are no zero. Nor are there more calls than there are.
func FuzzSelectors(f *testing.F) {
	f.Add("pods", ActiveCalls, "app=web", "state=serving")
	f.Add("deployments.apps", BusyPods, "", "state notin (draining)")
	f.Add("nodes", ActiveCalls, "zone in (x,y),!a", "!state")
	f.Add("namespaces", UntilIdle, "team", "quantile=0.5")
	f.Add("statefulsets.apps", WaitingCalls, "tier!=front", "state>1")
	unknown, all := testProvider(known{}), testProvider(allKnown())
	f.Fuzz(func(t *testing.T, resource, metric, selects, ofMetric string) {
		selector, err := labels.Parse(selects)
		if err != nil {
			return
		}
		metricSelector, err := labels.Parse(ofMetric)
		if err != nil {
			return
		}
		namespace := "voice"
		if what := info(resource, metric); !what.Namespaced {
			namespace = ""
		}
		list, err := unknown.GetMetricBySelector(t.Context(), namespace, selector, info(resource, metric), metricSelector)
		if err == nil && metric == ActiveCalls {
			for _, item := range list.Items {
				if item.Value.IsZero() && metricSelector.Empty() && item.DescribedObject.Name != "empty" { // the one without pods
					t.Errorf("%s of %s %s selected by %q is zero; nobody knows", metric, resource, item.DescribedObject.Name, selects)
				}
			}
		}
		list, err = all.GetMetricBySelector(t.Context(), namespace, selector, info(resource, metric), metricSelector)
		if err != nil || metric != ActiveCalls {
			return
		}
		for _, item := range list.Items {
			one, err := all.GetMetricByName(t.Context(), types.NamespacedName{Namespace: item.DescribedObject.Namespace, Name: item.DescribedObject.Name}, info(resource, metric), metricSelector)
			if n := item.Value.Value(); n < 0 || n > 31 || err != nil || one.Value.Value() != n {
				t.Errorf("%s of %s %s selected by %q and %q is %d; by its name %v, %v", metric, resource, item.DescribedObject.Name, selects, ofMetric, n, one, err)
			}
		}
	})
}
