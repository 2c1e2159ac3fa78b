// SPDX-License-Identifier: Apache-2.0

package doors

import (
	"testing"

	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/callguard/callguard/pkg/call"
)

const budgetHeld = "callguard-tamper-budget: PodDisruptionBudget callguard holds the calls of this namespace, and only callguard changes it."

func TestBudget(t *testing.T) {
	ns := enabled(t, "budget")
	bare := namespace(t, "budget-bare", map[string]string{call.EnabledLabel: "true"})
	ctx := t.Context()
	change := func(fn func(*policyv1.PodDisruptionBudget)) func(identity) error {
		return func(id identity) error {
			pdb, err := stage.admin.PolicyV1().PodDisruptionBudgets(ns).Get(ctx, "callguard", metav1.GetOptions{})
			must(t, err)
			fn(pdb)
			_, err = stage.as(id).PolicyV1().PodDisruptionBudgets(ns).Update(ctx, pdb, metav1.UpdateOptions{DryRun: dry()})
			return err
		}
	}
	cases := map[string]struct {
		reason string
		do     func(identity) error
		free   bool
	}{
		"Create": {reason: "A false budget would open births without holding anything.", do: func(id identity) error {
			_, err := stage.as(id).PolicyV1().PodDisruptionBudgets(bare).Create(ctx, budget(), metav1.CreateOptions{DryRun: dry()})
			return err
		}},
		"CreateOther": {reason: "Another budget is its owner's.", free: true, do: func(id identity) error {
			other := budget()
			other.Name = "other"
			_, err := stage.as(id).PolicyV1().PodDisruptionBudgets(ns).Create(ctx, other, metav1.CreateOptions{DryRun: dry()})
			return err
		}},
		"CreateNameless": {reason: "A name that is made up is never this one.", free: true, do: func(id identity) error {
			other := budget()
			other.Name, other.GenerateName = "", "callguard"
			_, err := stage.as(id).PolicyV1().PodDisruptionBudgets(ns).Create(ctx, other, metav1.CreateOptions{DryRun: dry()})
			return err
		}},
		"Open":     {reason: "It would hold nothing.", do: change(func(b *policyv1.PodDisruptionBudget) { b.Spec.MinAvailable = new(intstr.FromInt32(0)) })},
		"Unselect": {reason: "It would hold nobody.", do: change(func(b *policyv1.PodDisruptionBudget) { b.Spec.Selector.MatchLabels["x"] = "y" })},
		"Always": {reason: "It would let unready pods go.", do: change(func(b *policyv1.PodDisruptionBudget) {
			b.Spec.UnhealthyPodEvictionPolicy = new(policyv1.AlwaysAllow)
		})},
		"Disown": {reason: "A false owner would take it along.", do: change(func(b *policyv1.PodDisruptionBudget) {
			b.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "ConfigMap", Name: "gone", UID: "00000000-0000-0000-0000-000000000000"}}
		})},
		"Hold":    {reason: "A finalizer would outlive the uninstall.", do: change(func(b *policyv1.PodDisruptionBudget) { b.Finalizers = []string{"example.org/x"} })},
		"Nothing": {reason: "So stored objects are migrated.", free: true, do: change(func(*policyv1.PodDisruptionBudget) {})},
		"Label":   {reason: "A label is no harm.", free: true, do: change(func(b *policyv1.PodDisruptionBudget) { b.Labels = map[string]string{"x": "y"} })},
		"Delete": {reason: "It would hold nothing.", do: func(id identity) error {
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
				expect(t, tc.reason+" "+id.name, want, tc.do(id))
			}
		})
	}
}
