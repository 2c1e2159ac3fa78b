// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"

	"golang.org/x/sync/semaphore"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/pods"
)

// cached returns a workload as the informers know it, which may be out of date. Its cost depends
// on the size of the workload, not on what else is in the namespace.
func (c *cluster) cached(key Key) (*snapshot, error) {
	s := &snapshot{owners: map[types.UID]*owner{}, others: c.others}
	if top := c.owner(key); top != nil {
		s.add(top)
	}
	ids := []types.UID{key.UID}
	owned, err := c.replicaSetIndex.ByIndex(byController, string(key.UID))
	if err != nil {
		return nil, err
	}
	for _, obj := range owned {
		if r, ok := obj.(*appsv1.ReplicaSet); ok {
			s.add(ofReplicaSet(r))
			ids = append(ids, r.UID)
		}
	}
	for _, id := range ids {
		found, err := c.podIndex.ByIndex(byController, string(id))
		if err != nil {
			return nil, err
		}
		for _, obj := range found {
			if pod, ok := obj.(*corev1.Pod); ok {
				s.pods = append(s.pods, pod)
			}
		}
	}
	if key.Kind == podKind {
		if pod, err := c.pods.Pods(key.Namespace).Get(key.Name); err == nil && pod.UID == key.UID {
			s.pods = append(s.pods, pod)
		}
	}
	return s, nil
}

// owner returns the owner of a workload as the informers know it; nil if they know none.
func (c *cluster) owner(key Key) *owner {
	if key.APIVersion != appsGroup {
		return c.others.cached(key)
	}
	var o *owner
	switch key.Kind {
	case pods.Deployment:
		if d, err := c.deployments.Deployments(key.Namespace).Get(key.Name); err == nil {
			o = ofDeployment(d)
		}
	case pods.ReplicaSet:
		if r, err := c.replicaSets.ReplicaSets(key.Namespace).Get(key.Name); err == nil {
			o = ofReplicaSet(r)
		}
	case pods.StatefulSet:
		if t, err := c.statefulSets.StatefulSets(key.Namespace).Get(key.Name); err == nil {
			o = ofStatefulSet(t)
		}
	case daemonSet:
		if d, err := c.daemonSets.DaemonSets(key.Namespace).Get(key.Name); err == nil {
			o = ofDaemonSet(d)
		}
	}
	if o == nil || o.ref.UID != key.UID {
		return nil
	}
	return o
}

// top returns the workload of a pod, as far as the informers know its ReplicaSet.
func (c *cluster) top(pod *corev1.Pod) Key {
	ref := metav1.GetControllerOfNoCopy(pod)
	if ref != nil && ref.Kind == pods.ReplicaSet {
		if r, err := c.replicaSets.ReplicaSets(pod.Namespace).Get(ref.Name); err == nil && r.UID == ref.UID {
			ref = cmp.Or(metav1.GetControllerOfNoCopy(r), ref)
		}
	}
	if ref == nil {
		return (&snapshot{}).top(pod)
	}
	return keyOf(pod.Namespace, c.others.asServed(*ref))
}

// has reports whether anything of a workload, or a budget, exists, as far as the informers
// know.
func (c *cluster) has(key Key) (bool, error) {
	if key.Kind == budgetKind {
		budgets, err := c.budgets.PodDisruptionBudgets(key.Namespace).List(labels.Everything())
		return slices.ContainsFunc(budgets, func(b *policyv1.PodDisruptionBudget) bool { return b.UID == key.UID }), err
	}
	s, err := c.cached(key)
	return err != nil || len(s.owners)+len(s.pods) > 0, err
}

const (
	// pageSize is how many objects are requested at once. The API server sends about 4 KiB for each pod.
	pageSize = 500
	// pages is the maximum number of pages in memory at the same time, for all workloads together.
	pages = 4
)

// live reads a workload as it is now: its owner, the pods that the owner selects, in pages, and by name what
// else the cache has of it. Owners are read before what they own, and a missing one is requested by name, so
// that an owner that was created meanwhile does not count as gone. What is current in the cache is taken from there.
func (r *liveReader) live(ctx context.Context, key Key, was *snapshot, is current) (*snapshot, error) {
	s := &snapshot{owners: map[types.UID]*owner{}, gone: map[types.UID]bool{}, others: r.others}
	selected := map[string]bool{}
	if is.owners != nil && was.owners[key.UID] != nil {
		maps.Copy(s.owners, was.owners)
		selected[is.owners.selector] = true
	} else if err := r.allOwners(ctx, s, key, selected, was.owners); err != nil {
		return nil, err
	}
	if is.pods {
		s.pods = was.pods
	} else if err := r.allPods(ctx, s, key.Namespace, selected, was.pods); err != nil {
		return nil, err
	}
	if err := s.askForMissing(ctx, r.client, key.Namespace); err != nil {
		return nil, err
	}
	for selector := range selected {
		if err := s.askForStrangers(ctx, r.client, key.Namespace, selector); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// allOwners adds the owner of a workload, what it owns, and by name the other owners that were known, and to selected what they
// select.
func (r *liveReader) allOwners(ctx context.Context, s *snapshot, key Key, selected map[string]bool, known map[types.UID]*owner) error {
	add := func(ref metav1.OwnerReference) error {
		found, err := ask(ctx, r.client, r.others, key.Namespace, ref)
		switch {
		case apierrors.IsNotFound(err) || err == nil && found != nil && found.ref.UID != ref.UID:
			s.gone[ref.UID] = true
		case err != nil:
			return fmt.Errorf("cannot read %s %s/%s: %w", ref.Kind, key.Namespace, ref.Name, err)
		case found != nil:
			s.add(found)
			if found.selector != "" || !found.other {
				selected[found.selector] = true
			}
		}
		return nil
	}
	if key.APIVersion == appsGroup || r.others.has(metav1.OwnerReference{APIVersion: key.APIVersion, Kind: key.Kind}) {
		if err := add(metav1.OwnerReference{APIVersion: key.APIVersion, Kind: key.Kind, Name: key.Name, UID: key.UID}); err != nil {
			return err
		}
	}
	if top := s.owners[key.UID]; top != nil && key.Kind == pods.Deployment {
		list, err := r.client.AppsV1().ReplicaSets(key.Namespace).List(ctx, metav1.ListOptions{LabelSelector: top.selector})
		if err != nil {
			return fmt.Errorf("cannot list the ReplicaSets of %s: %w", key, err)
		}
		for i := range list.Items {
			s.add(ofReplicaSet(&list.Items[i]))
		}
	}
	for _, o := range known { // if the workload's owner is gone or of an unknown kind
		if s.owners[o.ref.UID] == nil && !s.gone[o.ref.UID] {
			if err := add(o.ref); err != nil {
				return err
			}
		}
	}
	return nil
}

// allPods adds the guarded pods that selectors match, and by name the other pods that were
// known.
func (r *liveReader) allPods(ctx context.Context, s *snapshot, namespace string, selectors map[string]bool, known []*corev1.Pod) error {
	seen := map[types.UID]bool{}
	for selector := range selectors {
		if err := r.podsOf(ctx, s, seen, namespace, selector); err != nil {
			return err
		}
	}
	return r.named(ctx, s, seen, known)
}

// podsOf adds the guarded pods that a selector matches.
func (r *liveReader) podsOf(ctx context.Context, s *snapshot, seen map[types.UID]bool, namespace, selector string) error {
	options := metav1.ListOptions{LabelSelector: joined(selector, call.GuardedLabel+"=true"), Limit: pageSize}
	for {
		page, more, err := r.page(ctx, namespace, options)
		if err != nil {
			return fmt.Errorf("cannot list the pods of namespace %s: %w", namespace, err)
		}
		for _, pod := range page {
			if !seen[pod.UID] {
				seen[pod.UID] = true
				s.pods = append(s.pods, pod)
			}
		}
		if options.Continue = more; more == "" {
			return nil
		}
	}
}

// page reads one page of pods, and returns where the next begins. So a workload waits for another one for the
// time of a page at most.
func (r *liveReader) page(ctx context.Context, namespace string, options metav1.ListOptions) (page []*corev1.Pod, more string, err error) {
	if err := r.pages.Acquire(ctx, 1); err != nil {
		return nil, "", err
	}
	defer r.pages.Release(1)
	list, err := r.client.CoreV1().Pods(namespace).List(ctx, options)
	if err != nil {
		return nil, "", err
	}
	for i := range list.Items {
		pod := list.Items[i] // a copy, so that the list can be freed
		pod.ManagedFields = nil
		trimPod(&pod)
		page = append(page, &pod)
	}
	return page, list.Continue, nil
}

// named adds those of the known pods that no selector matched: their owner is gone, or somebody has removed
// labels.
func (r *liveReader) named(ctx context.Context, s *snapshot, seen map[types.UID]bool, known []*corev1.Pod) error {
	for _, was := range known {
		if seen[was.UID] {
			continue
		}
		pod, err := r.client.CoreV1().Pods(was.Namespace).Get(ctx, was.Name, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err):
		case err != nil:
			return fmt.Errorf("cannot read pod %s/%s: %w", was.Namespace, was.Name, err)
		case pod.UID == was.UID:
			s.pods = append(s.pods, pod)
		}
	}
	return nil
}

// joined returns a selector of what both selectors match.
func joined(a, b string) string {
	if a == "" {
		return b
	}
	return a + "," + b
}

// liveReader reads workloads as they are now.
type liveReader struct {
	client kubernetes.Interface
	others *others
	pages  *semaphore.Weighted
}

func newLiveReader(client kubernetes.Interface) *liveReader {
	return &liveReader{client: client, pages: semaphore.NewWeighted(pages)}
}

// liveNamespace reads a whole namespace as it is now, for a single look.
func liveNamespace(ctx context.Context, client kubernetes.Interface, namespace string) (*snapshot, error) {
	s := &snapshot{owners: map[types.UID]*owner{}, gone: map[types.UID]bool{}}
	apps := client.AppsV1()
	deployments, err := apps.Deployments(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("cannot list the Deployments of namespace %s: %w", namespace, err)
	}
	statefulSets, err := apps.StatefulSets(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("cannot list the StatefulSets of namespace %s: %w", namespace, err)
	}
	daemonSets, err := apps.DaemonSets(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("cannot list the DaemonSets of namespace %s: %w", namespace, err)
	}
	replicaSets, err := apps.ReplicaSets(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("cannot list the ReplicaSets of namespace %s: %w", namespace, err)
	}
	list, err := client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: call.GuardedLabel + "=true"})
	if err != nil {
		return nil, fmt.Errorf("cannot list the pods of namespace %s: %w", namespace, err)
	}
	for i := range deployments.Items {
		s.add(ofDeployment(&deployments.Items[i]))
	}
	for i := range statefulSets.Items {
		s.add(ofStatefulSet(&statefulSets.Items[i]))
	}
	for i := range daemonSets.Items {
		s.add(ofDaemonSet(&daemonSets.Items[i]))
	}
	for i := range replicaSets.Items {
		s.add(ofReplicaSet(&replicaSets.Items[i]))
	}
	for i := range list.Items {
		s.pods = append(s.pods, &list.Items[i])
	}
	if err := s.askForMissing(ctx, client, namespace); err != nil {
		return nil, err
	}
	return s, s.askForStrangers(ctx, client, namespace, "")
}

// askForStrangers counts the ready unguarded pods of a workload that has guarded pods and
// whose pod template is no longer guarded: they take calls, too.
func (s *snapshot) askForStrangers(ctx context.Context, client kubernetes.Interface, namespace, selector string) error {
	if s.strangers == nil {
		s.strangers = map[types.UID]int{}
	}
	tops := map[types.UID]bool{}
	for _, pod := range s.pods {
		tops[s.top(pod).UID] = true
	}
	optedOut := false
	for _, o := range s.owners {
		optedOut = optedOut || o.of(tops) && !o.guarded && o.replicas+o.ready > 0 && !s.overReplicaSets(o)
	}
	if !optedOut {
		return nil
	}
	list, err := client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: joined(selector, call.GuardedLabel+"!=true")})
	if err != nil {
		return fmt.Errorf("cannot list the pods of namespace %s that are not guarded: %w", namespace, err)
	}
	for i := range list.Items {
		pod := &list.Items[i]
		if ref := metav1.GetControllerOfNoCopy(pod); ref != nil && pod.DeletionTimestamp == nil && isReady(pod) {
			s.strangers[ref.UID]++
		}
	}
	return nil
}

// askForMissing requests each owner that is named and was not listed.
func (s *snapshot) askForMissing(ctx context.Context, client kubernetes.Interface, namespace string) error {
	named := func() (refs []metav1.OwnerReference) {
		for _, pod := range s.pods {
			if ref := metav1.GetControllerOfNoCopy(pod); ref != nil {
				refs = append(refs, *ref)
			}
		}
		for _, o := range s.owners {
			if o.controller != nil {
				refs = append(refs, *o.controller)
			}
		}
		return refs
	}
	for range 2 { // a ReplicaSet that is found may name a Deployment that is not
		for _, ref := range named() {
			if s.owners[ref.UID] != nil || s.gone[ref.UID] || ref.APIVersion != appsGroup && !s.others.has(ref) {
				continue
			}
			found, err := ask(ctx, client, s.others, namespace, ref)
			switch {
			case apierrors.IsNotFound(err) || err == nil && found != nil && found.ref.UID != ref.UID:
				s.gone[ref.UID] = true
			case err != nil:
				return fmt.Errorf("cannot read %s %s/%s: %w", ref.Kind, namespace, ref.Name, err)
			case found != nil:
				s.add(found)
			}
		}
	}
	return nil
}

// ask reads one owner. Of a kind that the guard does not know it returns nil.
func ask(ctx context.Context, client kubernetes.Interface, others *others, namespace string, ref metav1.OwnerReference) (*owner, error) {
	if others.has(ref) {
		return others.ask(ctx, namespace, ref)
	}
	apps := client.AppsV1()
	switch ref.Kind {
	case pods.Deployment:
		d, err := apps.Deployments(namespace).Get(ctx, ref.Name, metav1.GetOptions{})
		if err != nil {
			return nil, err
		}
		return ofDeployment(d), nil
	case pods.ReplicaSet:
		r, err := apps.ReplicaSets(namespace).Get(ctx, ref.Name, metav1.GetOptions{})
		if err != nil {
			return nil, err
		}
		return ofReplicaSet(r), nil
	case pods.StatefulSet:
		t, err := apps.StatefulSets(namespace).Get(ctx, ref.Name, metav1.GetOptions{})
		if err != nil {
			return nil, err
		}
		return ofStatefulSet(t), nil
	case daemonSet:
		d, err := apps.DaemonSets(namespace).Get(ctx, ref.Name, metav1.GetOptions{})
		if err != nil {
			return nil, err
		}
		return ofDaemonSet(d), nil
	default:
		return nil, nil
	}
}
