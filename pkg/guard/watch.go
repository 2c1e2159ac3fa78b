// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"maps"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/pods"
)

// podChanged enqueues the workload of a pod, and records how a pod ends.
func (g *Guard) podChanged(before, after metav1.Object) {
	was, _ := before.(*corev1.Pod)
	is, _ := after.(*corev1.Pod)
	if was != nil {
		g.enqueue(was)
	}
	if is == nil {
		g.forget(was)
		return
	}
	g.enqueue(is)
	if was == nil {
		g.planner.dates.first(occasion{of: is.UID, fact: there})
		g.budgets.look(is.Namespace)
		return
	}
	if !g.Leads() {
		return
	}
	if was.DeletionTimestamp == nil && is.DeletionTimestamp != nil && g.cluster.enabled(is.Namespace) {
		g.report.deletedUnreleased(is, g.now())
	}
	g.report.disruption(was, is)
}

// forget drops what is remembered about a pod that is gone.
func (g *Guard) forget(pod *corev1.Pod) {
	g.planner.dates.forget(pod.UID, func(occasion) bool { return true })
	g.readings.drop(pod.UID)
	if g.gates != nil {
		g.gates.drop(pod.UID)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.keys, pod.UID)
	delete(g.failed, pod.UID)
	g.report.forget(pod.UID)
}

// forgetGone drops the complaints about workloads and budgets that are gone. A workload is
// not gone while any of its pods exists: a pod may outlive its owner by hours, and no
// complaint should be repeated.
func (g *Guard) forgetGone() {
	if !g.cluster.ready() {
		return
	}
	g.report.sayAnew()
	// The list is taken first: an object that is complained about later may be newer than the
	// check.
	for _, about := range g.report.complainedOf() {
		if there, err := g.cluster.has(about); err == nil && !there {
			g.report.forgetSaid(about)
		}
	}
}

func (g *Guard) nodeChanged(before, after metav1.Object) {
	node := after
	if node == nil {
		node = before
	}
	was, _ := before.(*corev1.Node)
	is, _ := after.(*corev1.Node)
	if was != nil && is != nil && !wantsChanged(was, is) {
		return
	}
	g.forgetNode(node.GetUID(), is)
	if is != nil {
		g.dateNode(is)
	} else {
		g.leases.forget(node.GetName())
	}
	for _, pod := range g.cluster.onNode(node.GetName()) {
		g.enqueue(pod)
	}
}

// dateNode records when a node's taints and conditions were first seen, even while another
// guard leads.
func (g *Guard) dateNode(node *corev1.Node) {
	for _, taint := range wants(node) {
		if taint.Key == corev1.TaintNodeUnschedulable {
			g.planner.dates.first(cordonOf(node))
		} else {
			g.planner.dates.first(taintOf(node, taint))
		}
	}
	first := func(o occasion, _ *metav1.Time) time.Time { return g.planner.dates.first(o) }
	candidateSince(node, first)
	goes(node, first)
}

// forgetNode drops the times of taints and conditions that a node no longer has, so that
// they get a new time if they return. The node is nil if it is gone.
func (g *Guard) forgetNode(uid types.UID, node *corev1.Node) {
	g.planner.dates.forget(uid, func(o occasion) bool {
		switch {
		case node == nil:
			return true
		case o.fact == tainted:
			return !hasTaint(node, o.key)
		case o.fact == noticed:
			return !slices.ContainsFunc(onlyNotices(node.Status.Conditions), func(c corev1.NodeCondition) bool { return string(c.Type) == o.key })
		case o.fact == isDeleted:
			return node.DeletionTimestamp == nil
		default:
			return !isCordoned(node)
		}
	})
}

func hasTaint(node *corev1.Node, key string) bool {
	for _, t := range node.Spec.Taints {
		if t.Key == key {
			return true
		}
	}
	return false
}

func wantsChanged(was, is *corev1.Node) bool {
	if was.Spec.Unschedulable != is.Spec.Unschedulable || len(was.Spec.Taints) != len(is.Spec.Taints) ||
		(was.DeletionTimestamp == nil) != (is.DeletionTimestamp == nil) || !maps.Equal(was.Labels, is.Labels) || !nodeEnds(was).Equal(nodeEnds(is)) ||
		!slices.EqualFunc(onlyNotices(was.Status.Conditions), onlyNotices(is.Status.Conditions), func(a, b corev1.NodeCondition) bool { return a.Type == b.Type }) {
		return true
	}
	for i := range is.Spec.Taints {
		if !is.Spec.Taints[i].MatchTaint(&was.Spec.Taints[i]) {
			return true
		}
	}
	return false
}

func (g *Guard) namespaceChanged(before, after metav1.Object) {
	ns := after
	if ns == nil {
		ns = before
	}
	g.budgets.look(ns.GetName())
	if before != nil && after != nil && before.GetLabels()[call.EnabledLabel] == after.GetLabels()[call.EnabledLabel] {
		return
	}
	list, err := g.cluster.pods.Pods(ns.GetName()).List(labels.Everything())
	if err != nil {
		return // an informer's list does not fail
	}
	for _, pod := range list {
		g.enqueue(pod)
	}
}

// ownerChanged enqueues the workload of an owner of pods, if there is one.
func (g *Guard) ownerChanged(before, after metav1.Object) {
	obj := after
	if obj == nil {
		obj = before
		g.planner.dates.since(occasion{of: obj.GetUID(), fact: hasTooMany}, false)
	}
	if before != nil && after != nil && before.GetGeneration() == after.GetGeneration() &&
		before.GetDeletionTimestamp() == nil && after.GetDeletionTimestamp() == nil && sameStatus(before, after) {
		return
	}
	ref := metav1.OwnerReference{APIVersion: appsGroup, Name: obj.GetName(), UID: obj.GetUID()}
	switch o := obj.(type) {
	case *appsv1.Deployment:
		ref.Kind = pods.Deployment
	case *appsv1.ReplicaSet:
		ref.Kind = pods.ReplicaSet
	case *appsv1.StatefulSet:
		ref.Kind = pods.StatefulSet
	case *appsv1.DaemonSet:
		ref.Kind = daemonSet
	case *unstructured.Unstructured:
		ref.APIVersion, ref.Kind = o.GetAPIVersion(), o.GetKind()
	}
	g.look(keyOf(obj.GetNamespace(), ref))
	for _, o := range []metav1.Object{before, after} {
		if o == nil {
			continue
		}
		if ref := metav1.GetControllerOfNoCopy(o); ref != nil {
			g.look(keyOf(o.GetNamespace(), g.cluster.others.asServed(*ref)))
		}
	}
}

// sameStatus reports whether nothing relevant outside the spec has changed.
func sameStatus(before, after metav1.Object) bool {
	was, ok := before.(*appsv1.StatefulSet)
	is, too := after.(*appsv1.StatefulSet)
	if ok && too {
		return was.Status.UpdateRevision == is.Status.UpdateRevision
	}
	if is, other := after.(*unstructured.Unstructured); other {
		return sameOther(before, is)
	}
	sameAnnotation := func(name string) bool { return before.GetAnnotations()[name] == after.GetAnnotations()[name] }
	sameOwner := func() bool {
		a, b := metav1.GetControllerOfNoCopy(before), metav1.GetControllerOfNoCopy(after)
		return a == nil && b == nil || a != nil && b != nil && a.UID == b.UID
	}
	return sameAnnotation(revisionMark) && sameAnnotation(daemonGeneration) && sameAnnotation(call.MinAvailableAnnotation) && sameOwner()
}

func (g *Guard) budgetChanged(before, after metav1.Object) {
	for _, o := range []metav1.Object{before, after} {
		if o != nil {
			g.budgets.look(o.GetNamespace())
		}
	}
}

// enqueue enqueues the workload of a pod.
func (g *Guard) enqueue(pod *corev1.Pod) {
	g.look(g.cluster.top(pod))
}

// pokePod enqueues the workload of a pod whose readings have changed.
func (g *Guard) pokePod(uid types.UID) {
	g.mu.Lock()
	key, ok := g.keys[uid]
	g.mu.Unlock()
	if ok {
		g.look(key)
	}
}

// notEnabled reports, for guarded pods in a namespace that is not enabled, that their label
// has no effect.
func (g *Guard) notEnabled(key Key) {
	list, err := g.cluster.pods.Pods(key.Namespace).List(labels.Everything())
	if err != nil || len(list) == 0 {
		return
	}
	ns, err := g.cluster.namespaces.Get(key.Namespace)
	if err != nil || ns.DeletionTimestamp != nil || ns.Labels[call.EnabledLabel] == "true" {
		return
	}
	g.report.notEnabled(key)
}
