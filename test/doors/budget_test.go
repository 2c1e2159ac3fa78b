// SPDX-License-Identifier: Apache-2.0

package doors

import (
	"context"
	"testing"

	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/util/retry"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/test/trial"
)

const statusHeld = "callguard-tamper-budget: the status of PodDisruptionBudget callguard says how many pods may be evicted, and only the disruption controller writes it"

const budgetHeld = "callguard-tamper-budget: PodDisruptionBudget callguard protects the calls of this namespace, and only callguard may change it."

// writeBudget updates the current budget of a namespace with a change. The disruption controller may write it at any time,
// too.
func writeBudget(ctx context.Context, t *testing.T, ns string, change func(*policyv1.PodDisruptionBudget), write func(*policyv1.PodDisruptionBudget) error) error {
	t.Helper()
	return retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		pdb, err := stage.admin.PolicyV1().PodDisruptionBudgets(ns).Get(ctx, "callguard", metav1.GetOptions{})
		trial.Must(t, err)
		change(pdb)
		return write(pdb)
	})
}

func TestBudget(t *testing.T) {
	ns := enabled(t, "budget")
	bare := namespace(t, "budget-bare", map[string]string{call.EnabledLabel: "true"})
	ctx := t.Context()
	change := func(fn func(*policyv1.PodDisruptionBudget)) func(identity) error {
		return func(id identity) error {
			return writeBudget(ctx, t, ns, fn, func(pdb *policyv1.PodDisruptionBudget) error {
				_, err := stage.as(id).PolicyV1().PodDisruptionBudgets(ns).Update(ctx, pdb, metav1.UpdateOptions{DryRun: dry()})
				return err
			})
		}
	}
	cases := map[string]struct {
		reason string
		do     func(identity) error
		free   bool
		leash  bool // the guard may not, and never does
	}{
		"Create": {reason: "A wrong budget would allow pods to be created without protecting them.", do: func(id identity) error {
			_, err := stage.as(id).PolicyV1().PodDisruptionBudgets(bare).Create(ctx, budget(), metav1.CreateOptions{DryRun: dry()})
			return err
		}},
		"CreateOther": {reason: "Other budgets belong to their owners.", free: true, leash: true, do: func(id identity) error {
			other := budget()
			other.Name = "other"
			_, err := stage.as(id).PolicyV1().PodDisruptionBudgets(ns).Create(ctx, other, metav1.CreateOptions{DryRun: dry()})
			return err
		}},
		"CreateNameless": {reason: "A generated name is never this one.", free: true, leash: true, do: func(id identity) error {
			other := budget()
			other.Name, other.GenerateName = "", "callguard"
			_, err := stage.as(id).PolicyV1().PodDisruptionBudgets(ns).Create(ctx, other, metav1.CreateOptions{DryRun: dry()})
			return err
		}},
		"Open":     {reason: "It would protect nothing.", do: change(func(b *policyv1.PodDisruptionBudget) { b.Spec.MinAvailable = new(intstr.FromInt32(0)) })},
		"Unselect": {reason: "It would protect nothing.", leash: true, do: change(func(b *policyv1.PodDisruptionBudget) { b.Spec.Selector.MatchLabels["x"] = "y" })},
		"Always": {reason: "It would allow the eviction of unready pods.", do: change(func(b *policyv1.PodDisruptionBudget) {
			b.Spec.UnhealthyPodEvictionPolicy = new(policyv1.AlwaysAllow)
		})},
		"Disown": {reason: "With a wrong owner it would be deleted.", do: change(func(b *policyv1.PodDisruptionBudget) {
			b.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "ConfigMap", Name: "gone", UID: "00000000-0000-0000-0000-000000000000"}}
		})},
		"Hold":    {reason: "A finalizer would outlive the uninstall.", do: change(func(b *policyv1.PodDisruptionBudget) { b.Finalizers = []string{"example.org/x"} })},
		"Nothing": {reason: "Storage migration works like this.", free: true, do: change(func(*policyv1.PodDisruptionBudget) {})},
		"Label":   {reason: "A label does no harm.", free: true, do: change(func(b *policyv1.PodDisruptionBudget) { b.Labels = map[string]string{"x": "y"} })},
		"Delete": {reason: "It would protect nothing.", do: func(id identity) error {
			return stage.as(id).PolicyV1().PodDisruptionBudgets(ns).Delete(ctx, "callguard", metav1.DeleteOptions{DryRun: dry()})
		}},
		"DeleteAll": {reason: "A request for a collection names no object.", do: func(id identity) error {
			return stage.as(id).PolicyV1().PodDisruptionBudgets(ns).DeleteCollection(ctx, metav1.DeleteOptions{DryRun: dry()}, metav1.ListOptions{})
		}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			for _, id := range everybody() {
				want := budgetHeld
				if tc.free || isOneOf(id, guard(), namespaces(), breakGlass()) {
					want = allowed
				}
				if tc.leash && isOneOf(id, guard()) {
					want = "callguard-leash: "
				}
				expect(t, tc.reason+" "+id.name, want, tc.do(id))
			}
		})
	}
}

// TestBudgetStatus lets everybody write how many pods may be evicted, including those who count them.
func TestBudgetStatus(t *testing.T) {
	ns := enabled(t, "budget-status")
	serving(t, ns, "serving")
	ctx := t.Context()
	budgets := stage.admin.PolicyV1().PodDisruptionBudgets(ns)
	trial.Must(t, eventually(ctx, "the disruption controller counts", func() (bool, error) {
		pdb, err := budgets.Get(ctx, "callguard", metav1.GetOptions{})
		return err == nil && pdb.Status.ExpectedPods == 1 && pdb.Status.ObservedGeneration == pdb.Generation, err
	}))
	write := func(id identity, fn func(*policyv1.PodDisruptionBudget)) error {
		return writeBudget(ctx, t, ns, fn, func(pdb *policyv1.PodDisruptionBudget) error {
			_, err := stage.as(id).PolicyV1().PodDisruptionBudgets(ns).UpdateStatus(ctx, pdb, metav1.UpdateOptions{DryRun: dry()})
			return err
		})
	}
	changes := map[string]func(*policyv1.PodDisruptionBudget){
		"opens it": func(b *policyv1.PodDisruptionBudget) { b.Status.DisruptionsAllowed = 1 },
		"disowns it": func(b *policyv1.PodDisruptionBudget) {
			b.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "ConfigMap", Name: "gone", UID: "0"}}
		},
		"holds it": func(b *policyv1.PodDisruptionBudget) { b.Finalizers = []string{"example.org/x"} },
	}
	writers := []identity{controller("disruption-controller"), {"controllers without accounts", "system:kube-controller-manager", []string{"system:masters"}}, {"API server", "system:apiserver", []string{"system:masters"}}}
	for what, change := range changes {
		for _, id := range everybody() {
			want := statusHeld
			if isOneOf(id, guard()) {
				want = "callguard-" // its leash refuses, too, and either may be first
			}
			expect(t, id.name+" "+what+" by its status", want, write(id, change))
		}
	}
	for _, id := range writers {
		expect(t, id.name+" counts", allowed, write(id, changes["opens it"]))
	}
	expect(t, "a write that changes nothing", allowed, write(editor(), func(*policyv1.PodDisruptionBudget) {}))
	expect(t, "the pod is evicted meanwhile", tooMany, evict(t, admin(), ns, "serving", metav1.DeleteOptions{DryRun: dry()}))

	// The API server writes an eviction that the budget permits into its status.
	opens := func(b *policyv1.PodDisruptionBudget) { b.Spec.MinAvailable = new(intstr.FromInt32(0)) }
	trial.Must(t, writeBudget(ctx, t, ns, opens, func(pdb *policyv1.PodDisruptionBudget) error {
		_, err := stage.as(breakGlass()).PolicyV1().PodDisruptionBudgets(ns).Update(ctx, pdb, metav1.UpdateOptions{})
		return err
	}))
	trial.Must(t, eventually(ctx, "an eviction goes through after the budget was opened", func() (bool, error) {
		err := evict(t, admin(), ns, "serving", metav1.DeleteOptions{})
		return err == nil, err
	}))
}
