// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/restmapper"
	"k8s.io/metrics/pkg/client/custom_metrics"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/test/lab"
)

const (
	namespace = "voice"
	metric    = "active_calls"
)

// watch reads the stage as an operator would, through kube-apiserver.
type watch struct {
	stage   *lab.Lab
	metrics custom_metrics.CustomMetricsClient
}

func newWatch(stage *lab.Lab) (*watch, error) {
	client, err := discovery.NewDiscoveryClientForConfig(stage.Config)
	if err != nil {
		return nil, fmt.Errorf("cannot ask the custom metrics API: %w", err)
	}
	mapper := restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(client))
	return &watch{stage: stage, metrics: custom_metrics.NewForConfig(stage.Config, mapper, custom_metrics.NewAvailableAPIsGetter(client))}, nil
}

// look takes a snapshot. The callers are counted after active_calls, which may
// be behind them but not ahead.
func (w *watch) look(ctx context.Context, at time.Duration) (snapshot, error) {
	s := snapshot{At: at, Active: w.active()}
	report := w.stage.Callers.Report()
	s.Calls, s.Dropped = report.Up, len(report.Dropped)
	hpa, err := w.stage.Client.AutoscalingV2().HorizontalPodAutoscalers(namespace).Get(ctx, lab.AgentName, metav1.GetOptions{})
	if err != nil {
		return s, fmt.Errorf("cannot read the autoscaler: %w", err)
	}
	s.Scaling = scaling(hpa)
	pods, err := w.stage.Client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return s, fmt.Errorf("cannot list the pods: %w", err)
	}
	calls := w.byPod()
	for i := range pods.Items {
		s.Pods = append(s.Pods, row(&pods.Items[i], calls))
	}
	slices.SortFunc(s.Pods, func(a, b podRow) int { return strings.Compare(a.Name, b.Name) })
	return s, nil
}

// active asks for active_calls of the Deployment.
func (w *watch) active() reading {
	value, err := w.metrics.NamespacedMetrics(namespace).
		GetForObject(schema.GroupKind{Group: "apps", Kind: "Deployment"}, lab.AgentName, metric, labels.Everything())
	switch {
	case apierrors.IsServiceUnavailable(err):
		return reading{Why: "503: " + err.Error()}
	case err != nil:
		return reading{Why: err.Error()}
	default:
		return reading{N: value.Value.Value()}
	}
}

// byPod asks for active_calls of every pod. Unknown ones are not in it.
func (w *watch) byPod() map[string]int64 {
	list, err := w.metrics.NamespacedMetrics(namespace).
		GetForObjects(schema.GroupKind{Kind: "Pod"}, labels.Everything(), metric, labels.Everything())
	if err != nil {
		return nil // the Deployment's answer says why
	}
	calls := map[string]int64{}
	for _, v := range list.Items {
		calls[v.DescribedObject.Name] = v.Value.Value()
	}
	return calls
}

func scaling(hpa *autoscalingv2.HorizontalPodAutoscaler) autoscaler {
	a := autoscaler{Current: hpa.Status.CurrentReplicas, Desired: hpa.Status.DesiredReplicas, Active: "not known yet"}
	for _, m := range hpa.Spec.Metrics {
		if m.Object != nil && m.Object.Target.AverageValue != nil {
			a.Target = m.Object.Target.AverageValue.String()
		}
	}
	for _, c := range hpa.Status.Conditions {
		if c.Type != autoscalingv2.ScalingActive {
			continue
		}
		a.Active = string(c.Status)
		if c.Status != corev1.ConditionTrue {
			a.Active += " (" + c.Reason + ": " + c.Message + ")"
		}
	}
	return a
}

func row(pod *corev1.Pod, calls map[string]int64) podRow {
	r := podRow{
		Name: pod.Name, Node: pod.Spec.NodeName, Phase: string(pod.Status.Phase),
		State: string(call.StateOf(pod.Labels, pod.Annotations)), Calls: reading{Why: "unknown"},
	}
	if pod.DeletionTimestamp != nil {
		// Kubernetes deletes; LiveKit's drain on SIGTERM lets its calls end.
		r.Phase, r.State = terminating, "finishing"
	}
	if n, known := calls[pod.Name]; known {
		r.Calls = reading{N: n}
	}
	return r
}
