// SPDX-License-Identifier: Apache-2.0

package keda

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/metrics/pkg/apis/custom_metrics"
	"sigs.k8s.io/custom-metrics-apiserver/pkg/provider"

	"github.com/callguard/callguard/pkg/keda/externalscaler"
)

// counts are the metrics of Deployment voice/agent; a missing metric is unknown.
type counts struct {
	mu     sync.Mutex
	values map[string]int64
}

func (c *counts) set(values map[string]int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.values = values
}

func (c *counts) GetMetricByName(_ context.Context, name types.NamespacedName, info provider.CustomMetricInfo, selector labels.Selector) (*custom_metrics.MetricValue, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	deployments := schema.GroupResource{Group: "apps", Resource: "deployments"}
	switch n, known := c.values[info.Metric]; {
	case name.String() != "voice/agent" || info.GroupResource != deployments || !info.Namespaced:
		return nil, apierrors.NewNotFound(info.GroupResource, name.Name)
	case !selector.Empty():
		return nil, apierrors.NewBadRequest("no selector is wanted")
	case n < 0:
		return nil, errors.New("it is broken")
	case !known:
		return nil, apierrors.NewServiceUnavailable(info.Metric + " is not known: LiveKit is silent")
	default:
		return &custom_metrics.MetricValue{Value: *resource.NewQuantity(n, resource.DecimalSI)}, nil
	}
}

func yes() bool { return true }

func scaledObject(metric string) *externalscaler.ScaledObjectRef {
	return &externalscaler.ScaledObjectRef{Name: "so", Namespace: "voice", ScalerMetadata: map[string]string{"deployment": "agent", "metric": metric, "target": "2.5"}}
}

func TestIsActive(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		reason string
		values map[string]int64
		early  bool // the pods have not been read yet
		want   bool
		code   codes.Code
		says   string
	}{
		"Idle":          {reason: "All is known, and nothing is there: it may go to zero.", values: map[string]int64{"active_calls": 0, "waiting_calls": 0, "busy_pods": 0}},
		"Holds":         {reason: "It holds a call.", values: map[string]int64{"active_calls": 1, "waiting_calls": 0, "busy_pods": 1}, want: true},
		"Waits":         {reason: "It has no pod, and a caller waits.", values: map[string]int64{"active_calls": 0, "waiting_calls": 1, "busy_pods": 0}, want: true},
		"HoldsAtLeast":  {reason: "One that is known is enough.", values: map[string]int64{"active_calls": 1, "busy_pods": 1}, want: true},
		"WaitsAtLeast":  {reason: "So it is of one that waits.", values: map[string]int64{"waiting_calls": 1}, want: true},
		"WaitsUnknown":  {reason: "Unknown is never zero: a caller may wait.", values: map[string]int64{"active_calls": 0, "busy_pods": 0}, code: codes.Unavailable, says: "waiting_calls is not known: LiveKit is silent"},
		"HoldsUnknown":  {reason: "A call may be held.", values: map[string]int64{"waiting_calls": 0, "busy_pods": 0}, code: codes.Unavailable, says: "active_calls is not known"},
		"SomeUnknown":   {reason: "The sum leaves out one pod whose calls are unknown.", values: map[string]int64{"active_calls": 0, "waiting_calls": 0, "busy_pods": 1}, code: codes.Unavailable, says: "those of 1 of its pods are unknown"},
		"BusyUnknown":   {reason: "No reading is left out.", values: map[string]int64{"active_calls": 0, "waiting_calls": 0}, code: codes.Unavailable, says: "busy_pods is not known"},
		"AllUnknown":    {reason: "Nothing is known.", code: codes.Unavailable},
		"Broken":        {reason: "Whatever fails is an error.", values: map[string]int64{"active_calls": -1, "waiting_calls": 0, "busy_pods": 0}, code: codes.Internal, says: "it is broken"},
		"NotYetWatched": {reason: "Pods may be missing from the sum.", values: map[string]int64{"active_calls": 0, "waiting_calls": 0, "busy_pods": 0}, early: true, code: codes.Unavailable, says: "still being read"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := &scaler{metrics: &counts{values: tc.values}, synced: func() bool { return !tc.early }}
			for _, metric := range []string{"active_calls", "waiting_calls"} {
				answer, err := s.IsActive(t.Context(), scaledObject(metric))
				if status.Code(err) != tc.code || answer.GetResult() != tc.want || err != nil && !strings.Contains(err.Error(), tc.says) {
					t.Errorf("a trigger on %s gets %t, %v; want %t, %s: %s. %s", metric, answer.GetResult(), err, tc.want, tc.code, tc.says, tc.reason)
				}
			}
		})
	}
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	s := &scaler{metrics: &counts{values: map[string]int64{"active_calls": 7, "waiting_calls": 0}}, synced: yes}
	for name, tc := range map[string]struct {
		reason string
		ref    *externalscaler.ScaledObjectRef
		want   int64
		code   codes.Code
	}{
		"Held":    {reason: "The same as the metrics API.", ref: scaledObject("active_calls"), want: 7},
		"Waiting": {reason: "Zero is an answer.", ref: scaledObject("waiting_calls")},
		"Foreign": {reason: "A namespace sees its own workloads.", ref: &externalscaler.ScaledObjectRef{Name: "so", Namespace: "other", ScalerMetadata: scaledObject("active_calls").GetScalerMetadata()}, code: codes.NotFound},
		"Mistake": {reason: "The trigger is wrong.", ref: scaledObject("active_cals"), code: codes.InvalidArgument},
		"Nothing": {reason: "Nor does an empty request do harm.", code: codes.InvalidArgument},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			answer, err := s.GetMetrics(t.Context(), &externalscaler.GetMetricsRequest{ScaledObjectRef: tc.ref, MetricName: "any"})
			if status.Code(err) != tc.code {
				t.Fatalf("error is %v, want %s. %s", err, tc.code, tc.reason)
			}
			if err != nil {
				return
			}
			values := answer.GetMetricValues()
			if len(values) != 1 || values[0].GetMetricName() != "any" || values[0].GetMetricValue() != tc.want || values[0].GetMetricValueFloat() != float64(tc.want) {
				t.Errorf("answer is %v, want %d. %s", answer, tc.want, tc.reason)
			}
		})
	}
	t.Run("Target", func(t *testing.T) {
		t.Parallel()
		blind := &scaler{metrics: &counts{}, synced: func() bool { return false }}
		answer, err := blind.GetMetricSpec(t.Context(), scaledObject("active_calls"))
		if err != nil {
			t.Fatalf("KEDA makes no HorizontalPodAutoscaler while nothing is known: %v", err)
		}
		specs := answer.GetMetricSpecs()
		if len(specs) != 1 || specs[0].GetMetricName() != "active_calls" || specs[0].GetTargetSize() != 2 || specs[0].GetTargetSizeFloat() != 2.5 {
			t.Errorf("the target is %v, want 2.5 active_calls", answer)
		}
	})
}
