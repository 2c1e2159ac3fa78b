// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/guard"
	"github.com/callguard/callguard/pkg/verdict"
)

// waitsForOthers reports whether a pod waits for other pods that could take calls.
func waitsForOthers(x guard.Explanation) bool {
	return x.Intent.Intent != "" && x.State != call.Draining && x.State != call.Released &&
		(x.Verdict.Rule == "bounds" || x.Verdict.Rule == "floor") && x.Verdict.Outcome == verdict.Hold
}

// replacements has what keeps new pods of a namespace's workloads from running.
type replacements struct {
	sets    map[types.UID]*appsv1.ReplicaSet
	pending []corev1.Pod
}

// stuckOf returns what keeps the replacement of a waiting pod from running.
func (c *cluster) stuckOf(ctx context.Context, x guard.Explanation) string {
	if !waitsForOthers(x) {
		return ""
	}
	r, err := c.replacements(ctx, x.Pod.Namespace)
	if err != nil {
		return "not known: " + line(err)
	}
	return r.stuck(x.Pod)
}

// replacements reads them.
func (c *cluster) replacements(ctx context.Context, namespace string) (replacements, error) {
	r := replacements{sets: map[types.UID]*appsv1.ReplicaSet{}}
	sets, err := c.client.AppsV1().ReplicaSets(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return r, fmt.Errorf("cannot list the ReplicaSets: %w", err)
	}
	for i := range sets.Items {
		r.sets[sets.Items[i].UID] = &sets.Items[i]
	}
	pods, err := c.client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{
		LabelSelector: call.GuardedLabel + "=true", FieldSelector: fields.OneTermEqualSelector("status.phase", string(corev1.PodPending)).String(),
	})
	if err != nil {
		return r, fmt.Errorf("cannot list pending pods: %w", err)
	}
	r.pending = slices.DeleteFunc(pods.Items, func(p corev1.Pod) bool { return p.DeletionTimestamp != nil })
	return r, nil
}

// top returns the end of an object's chain of controllers.
func (r replacements) top(o metav1.Object) types.UID {
	owner := metav1.GetControllerOfNoCopy(o)
	if owner == nil {
		return ""
	}
	if set := r.sets[owner.UID]; set != nil {
		if above := metav1.GetControllerOfNoCopy(set); above != nil {
			return above.UID
		}
	}
	return owner.UID
}

// stuck returns what keeps a new pod of the same workload from running, in the words of the
// scheduler, the kubelet or whatever refuses its creation; empty if nothing is known.
func (r replacements) stuck(pod *corev1.Pod) string {
	mine := r.top(pod)
	if mine == "" {
		return ""
	}
	for i := range r.pending {
		p := &r.pending[i]
		if p.UID == pod.UID || r.top(p) != mine {
			continue
		}
		if why := pendingFor(p); why != "" {
			return fmt.Sprintf("its replacement %s is Pending: %s", p.Name, oneLine(why))
		}
	}
	byName := func(a, b *appsv1.ReplicaSet) int { return cmp.Compare(a.Name, b.Name) }
	for _, set := range slices.SortedFunc(maps.Values(r.sets), byName) {
		if r.top(set) != mine && set.UID != mine {
			continue
		}
		for _, c := range set.Status.Conditions {
			if c.Type == appsv1.ReplicaSetReplicaFailure && c.Status == corev1.ConditionTrue {
				return fmt.Sprintf("no replacement can be made (%s): %s", c.Reason, oneLine(c.Message))
			}
		}
	}
	return ""
}

// pendingFor returns why a pod is Pending; empty while it is only starting.
func pendingFor(pod *corev1.Pod) string {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse && c.Message != "" {
			return c.Message // the message of the scheduler's newest FailedScheduling
		}
	}
	for _, s := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
		w := s.State.Waiting
		if w == nil || w.Reason == "" || w.Reason == "ContainerCreating" || w.Reason == "PodInitializing" {
			continue
		}
		if w.Message != "" {
			return fmt.Sprintf("container %s: %s: %s", s.Name, w.Reason, w.Message)
		}
		return fmt.Sprintf("container %s: %s", s.Name, w.Reason)
	}
	return ""
}
