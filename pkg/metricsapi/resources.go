// SPDX-License-Identifier: Apache-2.0

package metricsapi

import (
	"fmt"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/custom-metrics-apiserver/pkg/provider"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/pods"
)

const podKind = "Pod"

// description is a resource that has metrics.
type description struct {
	resource   schema.GroupResource
	kind       string
	apiVersion string
	namespaced bool
	metrics    []string
}

// described lists every resource and its metrics.
func described() []description {
	calls := []string{ActiveCalls}
	ending := []string{ActiveCalls, UntilIdle}
	counts := []string{ActiveCalls, BusyPods, DrainingPods, UntilIdle, WaitingCalls}
	return []description{
		{schema.GroupResource{Resource: "pods"}, podKind, "v1", true, ending},
		{schema.GroupResource{Group: "apps", Resource: "deployments"}, pods.Deployment, "apps/v1", true, counts},
		{schema.GroupResource{Group: "apps", Resource: "statefulsets"}, pods.StatefulSet, "apps/v1", true, counts},
		{schema.GroupResource{Group: "apps", Resource: "replicasets"}, pods.ReplicaSet, "apps/v1", true, calls},
		{schema.GroupResource{Resource: "namespaces"}, pods.Namespace, "v1", false, []string{ActiveCalls, WaitingCalls}},
		{schema.GroupResource{Resource: "nodes"}, pods.Node, "v1", false, ending},
	}
}

// describe returns the description of the requested resource.
func describe(info provider.CustomMetricInfo) (description, bool) {
	for _, d := range described() {
		if d.resource == info.GroupResource && d.namespaced == info.Namespaced && slices.Contains(d.metrics, info.Metric) {
			return d, true
		}
	}
	return description{}, false
}

func (d description) isPod() bool { return d.kind == podKind }

// members returns the guarded pods of one object, or why it has no metrics.
func (p *Provider) members(d description, name types.NamespacedName) ([]*call.Pod, error) {
	if d.isPod() {
		if pod := p.store.Pod(name); pod != nil {
			return []*call.Pod{pod}, nil
		}
		return nil, p.notGuarded(d, name)
	}
	members := p.store.Of(d.kind, name)
	object := p.store.Object(d.kind, name)
	if len(members) == 0 && (object == nil || !p.hasMetrics(object)) {
		return nil, p.notGuarded(d, name)
	}
	return members, nil
}

// subjects returns the objects that match a selector, with their pods.
func (p *Provider) subjects(d description, namespace string, selector labels.Selector) []subject {
	if d.isPod() {
		found := p.store.In(namespace, func(pod *call.Pod) bool { return selector.Matches(labels.Set(pod.Labels)) })
		subjects := make([]subject, len(found))
		for i := range found {
			subjects[i] = subject{found[i].NamespacedName, found[i : i+1]}
		}
		return subjects
	}
	groups := p.store.By(d.kind, namespace)
	var subjects []subject
	for _, o := range p.store.Objects(d.kind, namespace, func(o *pods.Object) bool { return selector.Matches(labels.Set(o.Labels)) }) {
		if members := groups[o.NamespacedName]; len(members) > 0 || p.hasMetrics(o) {
			subjects = append(subjects, subject{o.NamespacedName, members})
		}
	}
	return subjects
}

// hasMetrics reports whether an object has metrics even without pods: a workload that
// creates guarded pods, an enabled namespace, a node.
func (p *Provider) hasMetrics(o *pods.Object) bool {
	switch o.Kind {
	case pods.Namespace, pods.Node:
		return true
	default:
		return o.Guarded && p.store.Enabled(o.Namespace)
	}
}

// notGuarded returns a 404 that says what the object needs in order to have metrics.
func (p *Provider) notGuarded(d description, name types.NamespacedName) error {
	err := apierrors.NewNotFound(d.resource, name.Name)
	namespace := name.Namespace
	if d.kind == pods.Namespace {
		namespace = name.Name
	}
	switch {
	case d.kind != pods.Node && !p.store.Enabled(namespace):
		err.ErrStatus.Message += fmt.Sprintf(": namespace %s is not enabled; label it %s=true", namespace, call.EnabledLabel)
	case d.kind != pods.Node:
		err.ErrStatus.Message += fmt.Sprintf(": there is no such object with guarded pods; set label %s: \"true\" in the pod template", call.GuardedLabel)
	}
	return err
}
