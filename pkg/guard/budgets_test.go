// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/tools/record"

	"github.com/callguard/callguard/pkg/call"
)

func budgetOwner() *rbacv1.ClusterRole {
	return &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: BudgetOwner, UID: "owner"}}
}

// lockingBudget is the budget as it has to be.
func lockingBudget(edits ...edit) *policyv1.PodDisruptionBudget {
	most := intstr.FromInt32(2147483647)
	pdb := &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: voice, Name: "callguard", UID: "budget",
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "rbac.authorization.k8s.io/v1", Kind: "ClusterRole", Name: "callguard-budget-owner", UID: "owner"}},
		},
		Spec: policyv1.PodDisruptionBudgetSpec{
			MinAvailable: &most,
			Selector: &metav1.LabelSelector{
				MatchLabels:      map[string]string{"callguard.dev/guarded": "true"},
				MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "callguard.dev/released", Operator: metav1.LabelSelectorOpDoesNotExist}},
			},
		},
	}
	return edited(pdb, edits)
}

func opened(o metav1.Object) {
	one := intstr.FromInt32(1)
	o.(*policyv1.PodDisruptionBudget).Spec.MinAvailable = &one
}

func TestKeepBudget(t *testing.T) {
	disabled := func(o metav1.Object) { delete(o.GetLabels(), call.EnabledLabel) }
	ignoreUID := cmpopts.IgnoreFields(metav1.ObjectMeta{}, "UID")
	cases := map[string]struct {
		reason  string
		objects []runtime.Object
		want    *policyv1.PodDisruptionBudget // nil: there is none
		writes  []string
		wantErr string
	}{
		"Created":    {reason: "An enabled namespace has one from the start, also without pods.", objects: []runtime.Object{enabledNamespace(), budgetOwner()}, want: lockingBudget(), writes: []string{"create"}},
		"Kept":       {reason: "A steady cluster costs no write.", objects: []runtime.Object{enabledNamespace(), budgetOwner(), lockingBudget()}, want: lockingBudget()},
		"Edited":     {reason: "Whoever opens it opens it for a moment.", objects: []runtime.Object{enabledNamespace(), budgetOwner(), lockingBudget(opened)}, want: lockingBudget(), writes: []string{"update"}},
		"Disowned":   {reason: "Without its owner it would outlive the chart.", objects: []runtime.Object{enabledNamespace(), budgetOwner(), lockingBudget(alone)}, want: lockingBudget(), writes: []string{"update"}},
		"Disabled":   {reason: "What is not enabled is not locked.", objects: []runtime.Object{enabledNamespace(disabled), budgetOwner(), lockingBudget()}, writes: []string{"delete"}},
		"NeverWas":   {reason: "Nothing to do where nobody has enabled it.", objects: []runtime.Object{enabledNamespace(disabled), budgetOwner()}},
		"NotOurs":    {reason: "A budget of that name that somebody else made is not ours to remove.", objects: []runtime.Object{enabledNamespace(disabled), budgetOwner(), lockingBudget(alone)}, want: lockingBudget(alone)},
		"Going":      {reason: "A namespace that is being deleted takes its budget along.", objects: []runtime.Object{enabledNamespace(deleted, finalizer("kubernetes")), budgetOwner(), lockingBudget()}, want: lockingBudget()},
		"GoingNone":  {reason: "Nor is one made there.", objects: []runtime.Object{enabledNamespace(deleted, finalizer("kubernetes")), budgetOwner()}},
		"GoingEdits": {reason: "Nor corrected.", objects: []runtime.Object{enabledNamespace(deleted, finalizer("kubernetes")), budgetOwner(), lockingBudget(opened)}, want: lockingBudget(opened)},
		"NoOwner": {
			reason: "Without the chart's ClusterRole it would outlive the chart.", objects: []runtime.Object{enabledNamespace()},
			wantErr: `cannot read ClusterRole callguard-budget-owner, which owns the budgets: clusterroles.rbac.authorization.k8s.io "callguard-budget-owner" not found; it is part of the chart`,
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			g, client := newGuard(t, tc.objects...)
			gotErr := ""
			if err := g.budgets.keep(t.Context(), voice); err != nil {
				gotErr = err.Error()
			}
			if diff := cmp.Diff(tc.wantErr, gotErr); diff != "" {
				t.Errorf("%s\nerror: -want, +got:\n%s", tc.reason, diff)
			}
			var writes []string
			for _, action := range client.Actions() {
				if !slices.Contains([]string{"get", "list", "watch"}, action.GetVerb()) {
					writes = append(writes, action.GetVerb())
				}
			}
			if diff := cmp.Diff(tc.writes, writes); diff != "" {
				t.Errorf("%s\nwrites: -want, +got:\n%s", tc.reason, diff)
			}
			got, err := client.PolicyV1().PodDisruptionBudgets(voice).Get(t.Context(), BudgetName, metav1.GetOptions{})
			if apierrors.IsNotFound(err) {
				got, err = nil, nil
			}
			if err != nil {
				t.Fatal(err)
			}
			if got != nil {
				got.ManagedFields, got.TypeMeta = nil, metav1.TypeMeta{}
			}
			if diff := cmp.Diff(tc.want, got, ignoreUID); diff != "" {
				t.Errorf("%s\n-want, +got:\n%s", tc.reason, diff)
			}
		})
	}
}

func TestForeignBudgets(t *testing.T) {
	foreign := func(name string, matching map[string]string) *policyv1.PodDisruptionBudget {
		return &policyv1.PodDisruptionBudget{
			ObjectMeta: metav1.ObjectMeta{Namespace: voice, Name: name, UID: objectMeta(name).UID},
			Spec:       policyv1.PodDisruptionBudgetSpec{Selector: &metav1.LabelSelector{MatchLabels: matching}},
		}
	}
	g, client := newGuard(t, enabledNamespace(), budgetOwner(), lockingBudget(), newPod("a", label("app", "web")), newPod("b", label("app", "web")),
		foreign("web", map[string]string{"app": "web"}), foreign("other", map[string]string{"app": "other"}), foreign("all", nil))
	events := g.cfg.Recorder.(*record.FakeRecorder).Events
	for range 2 {
		if err := g.budgets.keep(t.Context(), voice); err != nil {
			t.Fatal(err)
		}
	}
	if n := g.budgets.foreignBudgets()[voice]; n != 2 {
		t.Errorf("%d budgets beside ours; web and all match guarded pods", n)
	}
	if n := len(events); n != 4 {
		t.Errorf("%d Events; one on each budget and one on a pod of each, once", n)
	}
	for range len(events) {
		if event := <-events; !strings.HasPrefix(event, "Warning ForeignBudget PodDisruptionBudget voice/") {
			t.Errorf("Event %q", event)
		}
	}

	ns := enabledNamespace()
	ns.Labels = nil
	if _, err := client.CoreV1().Namespaces().Update(t.Context(), ns, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the namespace is known to be disabled", func() bool { return !g.cluster.enabled(voice) })
	if err := g.budgets.keep(t.Context(), voice); err != nil {
		t.Fatal(err)
	}
	if n := g.budgets.foreignBudgets()[voice]; n != 0 {
		t.Errorf("%d budgets beside ours where there is none of ours", n)
	}
}
