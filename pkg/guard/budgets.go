// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"context"
	"fmt"
	"maps"
	"math"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/workqueue"

	"github.com/callguard/callguard/pkg/call"
)

const (
	// BudgetName is the name of the PodDisruptionBudget of each enabled namespace.
	BudgetName = "callguard"
	// BudgetOwner is the ClusterRole of the chart that owns all budgets and grants nothing. So
	// the budgets are removed with the chart, whether or not callguard runs.
	BudgetOwner = "callguard-budget-owner"
	// locked is more pods than can exist. Because it is a number, not a percentage, it keeps
	// the allowed disruptions at zero whatever owners and statuses say.
	locked = math.MaxInt32
)

// budgets keeps the PodDisruptionBudget of each enabled namespace.
type budgets struct {
	client  kubernetes.Interface
	cluster *cluster
	report  *report

	mu sync.Mutex
	// queue holds the namespaces to reconcile; nil while run is not running.
	queue workqueue.TypedRateLimitingInterface[string]
	// foreign counts, by namespace, the other budgets that match guarded pods.
	foreign map[string]int
	// locked are the namespaces whose budget was seen to lock since the last report about it.
	locked map[string]bool
	// told are the namespaces that were reported to have no budget that locks.
	told map[string]bool
	// ownerless reports whether the owner was missing at the last look.
	ownerless bool
}

func newBudgets(client kubernetes.Interface, c *cluster, r *report) *budgets {
	return &budgets{client: client, cluster: c, report: r, foreign: map[string]int{}, locked: map[string]bool{}, told: map[string]bool{}}
}

// look enqueues a namespace, if run is running.
func (b *budgets) look(namespace string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.queue != nil {
		b.queue.Add(namespace)
	}
}

// lookAtAll enqueues every namespace, if run is running.
func (b *budgets) lookAtAll() {
	namespaces, err := b.cluster.namespaces.List(labels.Everything())
	if err != nil {
		return // an informer's list does not fail
	}
	for _, ns := range namespaces {
		b.look(ns.Name)
	}
}

func (b *budgets) setQueue(q workqueue.TypedRateLimitingInterface[string]) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.queue = q
}

// run keeps the budgets until ctx is done.
func (b *budgets) run(ctx context.Context) error {
	queue := workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[string](50*time.Millisecond, 10*time.Second))
	b.setQueue(queue)
	defer b.setQueue(nil)
	stop := context.AfterFunc(ctx, queue.ShutDown)
	defer stop()
	b.lookAtAll()
	for {
		namespace, shutdown := queue.Get()
		if shutdown {
			return nil
		}
		err := b.keep(ctx, namespace)
		switch {
		case err == nil:
			queue.Forget(namespace)
		case ctx.Err() == nil:
			b.report.log.Warn("Cannot update PodDisruptionBudget; retrying", "namespace", namespace, "err", err)
			b.tell(namespace, err)
			queue.AddRateLimited(namespace)
		}
		queue.Done(namespace)
	}
}

// keep creates or corrects the budget of a namespace. Without an owner it creates none,
// because an uninstall would leave that behind; an existing budget keeps the owner it has
// until there is another.
func (b *budgets) keep(ctx context.Context, namespace string) error {
	if !b.cluster.enabled(namespace) {
		return b.remove(ctx, namespace)
	}
	b.lookForForeign(namespace)
	lost := b.inForce(namespace)
	b.noteLock(namespace, lost)
	owners, noOwner := b.owners()
	want := budget(namespace, intstr.FromInt32(locked))
	want.OwnerReferences = owners
	is, err := b.cluster.budgets.PodDisruptionBudgets(namespace).Get(BudgetName)
	switch {
	case apierrors.IsNotFound(err) && noOwner != nil:
		return fmt.Errorf("cannot make PodDisruptionBudget %s/%s: %w", namespace, BudgetName, noOwner)
	case apierrors.IsNotFound(err):
		_, err = b.client.PolicyV1().PodDisruptionBudgets(namespace).Create(ctx, want, metav1.CreateOptions{FieldManager: fieldManager})
		if apierrors.IsAlreadyExists(err) || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			return nil
		}
		return err
	case err != nil:
		return err
	}
	if noOwner != nil {
		want.OwnerReferences = is.OwnerReferences
	}
	if lost == nil && equality.Semantic.DeepEqual(is.OwnerReferences, want.OwnerReferences) {
		return nil
	}
	next := is.DeepCopy()
	next.Spec, next.OwnerReferences = want.Spec, want.OwnerReferences
	_, err = b.client.PolicyV1().PodDisruptionBudgets(namespace).Update(ctx, next, metav1.UpdateOptions{FieldManager: fieldManager})
	return err
}

// owners returns the reference to the present owner of the budgets, or why there is none.
// It reports a missing owner, once until it is back.
func (b *budgets) owners() ([]metav1.OwnerReference, error) {
	owner, err := b.cluster.budgetOwners.Get(BudgetOwner)
	if err != nil && !b.cluster.ownerSynced() {
		return nil, fmt.Errorf("ClusterRole %s, which owns the budgets, is still being read", BudgetOwner)
	}
	b.mu.Lock()
	tell := err != nil && !b.ownerless
	b.ownerless = err != nil
	b.mu.Unlock()
	if tell {
		b.report.ownerMissing()
	}
	if err != nil {
		return nil, fmt.Errorf("ClusterRole %s, which owns the budgets, is missing; it is part of the chart: install that again", BudgetOwner)
	}
	return []metav1.OwnerReference{{APIVersion: "rbac.authorization.k8s.io/v1", Kind: "ClusterRole", Name: owner.Name, UID: owner.UID}}, nil
}

// inForce returns why no budget locks the guarded pods of an enabled namespace; nil if one
// does.
func (b *budgets) inForce(namespace string) error {
	is, err := b.cluster.budgets.PodDisruptionBudgets(namespace).Get(BudgetName)
	if apierrors.IsNotFound(err) {
		return errNoBudget(namespace)
	}
	if err != nil {
		return err
	}
	return BudgetLocks(is)
}

func errNoBudget(namespace string) error {
	return fmt.Errorf("PodDisruptionBudget %s/%s is missing", namespace, BudgetName)
}

// noteLock records whether a namespace is locked, and reports one that no longer is.
func (b *budgets) noteLock(namespace string, lost error) {
	b.mu.Lock()
	was := b.locked[namespace]
	if lost == nil {
		b.locked[namespace] = true
		delete(b.told, namespace)
	}
	b.mu.Unlock()
	if lost != nil && was {
		b.tell(namespace, lost)
	}
}

// tell reports, once until it is locked again, that a namespace is not locked. Without
// guarded pods it reports nothing.
func (b *budgets) tell(namespace string, why error) {
	b.mu.Lock()
	tell := !b.told[namespace]
	b.told[namespace] = true
	delete(b.locked, namespace)
	b.mu.Unlock()
	if list, err := b.cluster.pods.Pods(namespace).List(labels.Everything()); tell && err == nil && len(list) > 0 {
		b.report.budgetLost(namespace, why)
	}
}

// remove deletes the budget of a namespace that is no longer enabled.
func (b *budgets) remove(ctx context.Context, namespace string) error {
	b.mu.Lock()
	delete(b.foreign, namespace)
	delete(b.locked, namespace)
	delete(b.told, namespace)
	b.mu.Unlock()
	is, err := b.cluster.budgets.PodDisruptionBudgets(namespace).Get(BudgetName)
	if apierrors.IsNotFound(err) {
		return nil
	}
	ns, nsErr := b.cluster.namespaces.Get(namespace)
	if err != nil || nsErr != nil || ns.DeletionTimestamp != nil || !ours(is) {
		return err // it is deleted with its namespace, or is not callguard's
	}
	err = b.client.PolicyV1().PodDisruptionBudgets(namespace).Delete(ctx, BudgetName, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &is.UID}})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

func ours(pdb *policyv1.PodDisruptionBudget) bool {
	for _, ref := range pdb.OwnerReferences {
		if ref.Name == BudgetOwner {
			return true
		}
	}
	return false
}

// budget returns the budget of a namespace with the given minAvailable.
func budget(namespace string, minAvailable intstr.IntOrString) *policyv1.PodDisruptionBudget {
	return &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: BudgetName},
		Spec: policyv1.PodDisruptionBudgetSpec{
			MinAvailable: &minAvailable,
			Selector: &metav1.LabelSelector{
				MatchLabels:      map[string]string{call.GuardedLabel: "true"},
				MatchExpressions: []metav1.LabelSelectorRequirement{{Key: call.ReleasedLabel, Operator: metav1.LabelSelectorOpDoesNotExist}},
			},
		},
	}
}

// lookForForeign looks for other budgets that match guarded pods: Kubernetes answers the
// eviction of a pod with two budgets with 500, and kubectl drain gives up on that.
func (b *budgets) lookForForeign(namespace string) {
	list, err := b.cluster.budgets.PodDisruptionBudgets(namespace).List(labels.Everything())
	if err != nil {
		return // an informer's list does not fail
	}
	pods, err := b.cluster.pods.Pods(namespace).List(labels.Everything())
	if err != nil {
		return
	}
	found := ForeignBudgets(list, pods)
	for _, f := range found {
		b.report.foreignBudget(f.Budget, f.Pod)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.foreign[namespace] = len(found)
}

// ForeignBudget is a budget, not callguard's, that matches a guarded pod.
type ForeignBudget struct {
	Budget *policyv1.PodDisruptionBudget
	Pod    *corev1.Pod // one of those that it matches
}

// ForeignBudgets returns the budgets of a namespace, except callguard's, that match one of
// its guarded pods.
func ForeignBudgets(list []*policyv1.PodDisruptionBudget, guarded []*corev1.Pod) (found []ForeignBudget) {
	for _, pdb := range list {
		if pdb.Name == BudgetName {
			continue
		}
		selector, err := metav1.LabelSelectorAsSelector(pdb.Spec.Selector)
		if err != nil {
			continue // Kubernetes ignores it, too
		}
		for _, pod := range guarded {
			if selector.Matches(labels.Set(pod.Labels)) {
				found = append(found, ForeignBudget{pdb, pod})
				break
			}
		}
	}
	return found
}

// BudgetLocks returns why a budget of BudgetName does not lock the guarded pods of its
// namespace; nil if it does.
func BudgetLocks(is *policyv1.PodDisruptionBudget) error {
	want := budget(is.Namespace, intstr.FromInt32(locked))
	if !equality.Semantic.DeepEqual(is.Spec, want.Spec) {
		return fmt.Errorf("PodDisruptionBudget %s/%s is not as callguard makes it", is.Namespace, is.Name)
	}
	return nil
}

// foreignBudgets counts them by namespace.
func (b *budgets) foreignBudgets() map[string]int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return maps.Clone(b.foreign)
}
