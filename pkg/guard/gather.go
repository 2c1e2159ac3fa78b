// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"context"
	"fmt"
	"slices"

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

// cached is the namespace as the informers know it, which may be behind.
func (c *cluster) cached(namespace string) (*snapshot, error) {
	s := &snapshot{owners: map[types.UID]*owner{}}
	everything := labels.Everything()
	deployments, err := c.deployments.Deployments(namespace).List(everything)
	if err != nil {
		return nil, err
	}
	replicaSets, err := c.replicaSets.ReplicaSets(namespace).List(everything)
	if err != nil {
		return nil, err
	}
	statefulSets, err := c.statefulSets.StatefulSets(namespace).List(everything)
	if err != nil {
		return nil, err
	}
	daemonSets, err := c.daemonSets.DaemonSets(namespace).List(everything)
	if err != nil {
		return nil, err
	}
	for _, d := range deployments {
		s.add(ofDeployment(d))
	}
	for _, r := range replicaSets {
		s.add(ofReplicaSet(r))
	}
	for _, t := range statefulSets {
		s.add(ofStatefulSet(t))
	}
	for _, d := range daemonSets {
		s.add(ofDaemonSet(d))
	}
	s.pods, err = c.pods.Pods(namespace).List(everything)
	return s, err
}

// has reports whether anything is there of a workload, or a budget, as far as the
// informers know.
func (c *cluster) has(key Key) (bool, error) {
	if key.Kind == budgetKind {
		budgets, err := c.budgets.PodDisruptionBudgets(key.Namespace).List(labels.Everything())
		return slices.ContainsFunc(budgets, func(b *policyv1.PodDisruptionBudget) bool { return b.UID == key.UID }), err
	}
	s, err := c.cached(key.Namespace)
	if err != nil || s.owners[key.UID] != nil {
		return true, err
	}
	for _, o := range s.owners {
		if o.controller != nil && o.controller.UID == key.UID {
			return true, nil
		}
	}
	return slices.ContainsFunc(s.pods, func(pod *corev1.Pod) bool { return s.top(pod) == key }), nil
}

// live is the namespace as it is now. Owners are read before what they own, and
// one that is missing is asked for by name: what was created meanwhile is not gone.
func live(ctx context.Context, client kubernetes.Interface, namespace string) (*snapshot, error) {
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
	return s, s.askForStrangers(ctx, client, namespace)
}

// askForStrangers counts the ready pods that are not guarded, where the pod template of a
// workload with guarded pods was taken out of callguard's care: they take calls, too.
func (s *snapshot) askForStrangers(ctx context.Context, client kubernetes.Interface, namespace string) error {
	s.strangers = map[types.UID]int{}
	tops := map[types.UID]bool{}
	for _, pod := range s.pods {
		tops[s.top(pod).UID] = true
	}
	optedOut := false
	for _, o := range s.owners {
		optedOut = optedOut || o.of(tops) && !o.guarded && o.replicas+o.ready > 0 && o.ref.Kind != pods.Deployment
	}
	if !optedOut {
		return nil
	}
	list, err := client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: call.GuardedLabel + "!=true"})
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

// askForMissing looks for each owner that is named and was not listed.
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
			if s.owners[ref.UID] != nil || s.gone[ref.UID] || ref.APIVersion != appsGroup {
				continue
			}
			found, err := ask(ctx, client, namespace, ref)
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
func ask(ctx context.Context, client kubernetes.Interface, namespace string, ref metav1.OwnerReference) (*owner, error) {
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
