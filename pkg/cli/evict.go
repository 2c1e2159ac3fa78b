// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"

	"github.com/callguard/callguard/pkg/call"
)

// A drain looks at a node every pace with one request. With each look it may send up to
// evictionsPerLook evictions. That is enough, because released pods are recognized by their
// label and evicted first, and the guard deletes a released pod that nobody evicts. Finding
// out why pods stay takes about ten requests for each namespace, and happens every
// explainLooks looks. Together these are fewer than 5 requests a second on average, however
// many pods there are.
const (
	evictionsPerLook = 2
	explainLooks     = 3
)

// evict evicts pods, and reports changes until all are gone. A pod that cannot be evicted
// is reported at once, and does not delay others.
func (o *drainOptions) evict(ctx context.Context, c *cluster, w *progress, pods []*corev1.Pod) error {
	tried, failed := map[types.UID]int{}, map[types.UID]error{}
	allowed := len(pods)
	tick := time.NewTicker(o.pace)
	defer tick.Stop()
	for look := 0; ; look++ {
		left, err := w.left(ctx, pods)
		waiting := slices.DeleteFunc(slices.Clone(left), func(p *corev1.Pod) bool { return failed[p.UID] != nil })
		over := err == nil && len(waiting) == 0
		slices.SortStableFunc(waiting, func(a, b *corev1.Pod) int { return nextToEvict(a, b, tried) })
		for _, pod := range waiting {
			if allowed == 0 || pod.DeletionTimestamp != nil || ctx.Err() != nil {
				continue
			}
			allowed--
			tried[pod.UID]++
			if err := o.evictOnce(ctx, c, w, pod); err != nil {
				failed[pod.UID] = err
			}
		}
		if err == nil && (over || look%(explainLooks*namespaces(left)) == 0) {
			w.show(ctx, left, len(pods))
		}
		if over {
			var errs []error
			for _, pod := range pods {
				errs = append(errs, failed[pod.UID])
			}
			return errors.Join(errs...)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		allowed = min(len(pods), allowed+evictionsPerLook)
	}
}

// nextToEvict sorts released pods first, then those with fewer tries.
func nextToEvict(a, b *corev1.Pod, tried map[types.UID]int) int {
	if x, y := call.IsReleased(a.Labels), call.IsReleased(b.Labels); x != y {
		if x {
			return -1
		}
		return 1
	}
	return cmp.Compare(tried[a.UID], tried[b.UID])
}

// namespaces returns in how many namespaces pods are, but at least one.
func namespaces(pods []*corev1.Pod) int {
	names := map[string]bool{}
	for _, pod := range pods {
		names[pod.Namespace] = true
	}
	return max(1, len(names))
}

// evictOnce requests a pod's eviction, with its own grace period. It returns an error only
// if another try would be useless. While a pod has two budgets, Kubernetes answers 500
// until one of them is deleted.
func (o *drainOptions) evictOnce(ctx context.Context, c *cluster, w *progress, pod *corev1.Pod) error {
	name := pod.Namespace + "/" + pod.Name
	err := o.helper(ctx, c).EvictPod(*pod, policyv1.SchemeGroupVersion)
	switch {
	case err == nil, ctx.Err() != nil, apierrors.IsNotFound(err), apierrors.IsTooManyRequests(err),
		apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return nil //nolint:nilerr // it is gone, or is tried again
	case passing(err):
		w.changed("eviction of "+name, Event{Event: waits, Text: name + " cannot be evicted yet, and is tried again: " + line(err), Pod: named(pod)})
		return nil
	}
	if several := c.severalBudgets(ctx, pod); several != "" {
		w.changed("budgets of "+name, Event{Event: waits, Text: name + " cannot be evicted yet, and is tried again: " + several, Pod: named(pod)})
		return nil
	}
	w.tell(Event{Event: refused, Node: w.node, Text: name + " cannot be evicted: " + line(err), Pod: named(pod)})
	return fmt.Errorf("pod %s cannot be evicted: %w", name, err)
}

// passing reports whether an error means that the API server is temporarily unavailable.
func passing(err error) bool {
	var status apierrors.APIStatus
	return !errors.As(err, &status) || apierrors.IsServerTimeout(err) || apierrors.IsTimeout(err) || apierrors.IsServiceUnavailable(err)
}

// left returns which of the pods are still on the node, and reports which are gone.
func (w *progress) left(ctx context.Context, pods []*corev1.Pod) ([]*corev1.Pod, error) {
	list, err := w.cluster.client.CoreV1().Pods("").List(ctx, metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("spec.nodeName", w.node).String()})
	if err != nil {
		if ctx.Err() == nil {
			w.changed("left", Event{Event: waits, Text: w.about() + "what is left is not known: " + line(err)})
		}
		return nil, err
	}
	on := make(map[types.UID]*corev1.Pod, len(list.Items))
	for i := range list.Items {
		on[list.Items[i].UID] = &list.Items[i]
	}
	var left []*corev1.Pod
	for _, was := range pods {
		if is := on[was.UID]; is != nil {
			left = append(left, is)
		} else {
			name := was.Namespace + "/" + was.Name
			w.changed(name, Event{Event: leaves, Text: name + ": gone", Pod: named(was)})
		}
	}
	return left, nil
}

// show reports what has changed about the pods since the last time; of is their number at
// the beginning.
func (w *progress) show(ctx context.Context, left []*corev1.Pod, of int) {
	standings := w.standings(ctx, left)
	if ctx.Err() != nil {
		return
	}
	for _, s := range standings {
		pod := s.shown()
		w.changed(s.name(), Event{Event: stands, Text: s.name() + ": " + s.String(), Pod: &pod})
	}
	sum := leftOf(standings, of)
	rest := w.about() + fmt.Sprintf("%d of %s left", len(left), plural(of, "pod"))
	if len(left) > 0 {
		rest += withCalls(callsOf(standings))
	}
	w.changed("left", Event{Event: remains, Text: rest, Left: &sum})
}
