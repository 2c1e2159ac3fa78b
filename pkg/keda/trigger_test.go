// SPDX-License-Identifier: Apache-2.0

package keda

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/callguard/callguard/pkg/keda/externalscaler"
)

func TestRead(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		reason   string
		metadata map[string]string
		want     trigger
		mistakes []string
	}{
		"Deployment": {
			reason:   "KEDA sends its own keys along.",
			metadata: map[string]string{"scalerAddress": "a:1", "enableTLS": "true", "deployment": "agent", "metric": "active_calls", "target": "5"},
			want:     trigger{types.NamespacedName{Namespace: "voice", Name: "agent"}, schema.GroupResource{Group: "apps", Resource: "deployments"}, "active_calls", 5},
		},
		"StatefulSet": {
			reason:   "Half a call is a target of metricType Value.",
			metadata: map[string]string{"statefulSet": "agent", "metric": "waiting_calls", "target": "500m"},
			want:     trigger{types.NamespacedName{Namespace: "voice", Name: "agent"}, schema.GroupResource{Group: "apps", Resource: "statefulsets"}, "waiting_calls", 0.5},
		},
		"Nothing":  {reason: "All mistakes at once.", mistakes: []string{"ScaledObject voice/so", "such as deployment: agent", `metric is ""; use active_calls or waiting_calls`, `target is ""; use a number above 0`}},
		"Both":     {reason: "It is ambiguous which of the two applies.", metadata: map[string]string{"deployment": "a", "statefulSet": "b", "metric": "active_calls", "target": "5"}, mistakes: []string{`deployment is "a" and statefulSet is "b"`}},
		"Other":    {reason: "No other metric is for scaling to zero.", metadata: map[string]string{"deployment": "a", "metric": "busy_pods", "target": "5"}, mistakes: []string{`metric is "busy_pods"`}},
		"Zero":     {reason: "A HorizontalPodAutoscaler divides by it.", metadata: map[string]string{"deployment": "a", "metric": "active_calls", "target": "0"}, mistakes: []string{`target is "0"`}},
		"Negative": {reason: "So it does by this.", metadata: map[string]string{"deployment": "a", "metric": "active_calls", "target": "-1"}, mistakes: []string{`target is "-1"`}},
		"Endless":  {reason: "All its digits would take gigabytes.", metadata: map[string]string{"deployment": "a", "metric": "active_calls", "target": "1e999999999"}, mistakes: []string{`target is "1e999999999"; use a number above 0 without an exponent`}},
		"Huge":     {reason: "No pod holds so many.", metadata: map[string]string{"deployment": "a", "metric": "active_calls", "target": "9e18"}, mistakes: []string{`target is "9e18"`}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := read(&externalscaler.ScaledObjectRef{Name: "so", Namespace: "voice", ScalerMetadata: tc.metadata})
			if (err != nil) != (len(tc.mistakes) > 0) {
				t.Fatalf("error is %v. %s", err, tc.reason)
			}
			for _, mistake := range tc.mistakes {
				if !strings.Contains(err.Error(), mistake) {
					t.Errorf("error %q does not say %q. %s", err, mistake, tc.reason)
				}
			}
			if diff := cmp.Diff(tc.want, got, cmp.AllowUnexported(trigger{})); diff != "" {
				t.Errorf("-want +got:\n%s%s", diff, tc.reason)
			}
		})
	}
}
