// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	policylisters "k8s.io/client-go/listers/policy/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/pods"
	"github.com/callguard/callguard/test/trial"
)

func budgetOwner() *rbacv1.ClusterRole {
	return &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: BudgetOwner, UID: "owner"}}
}

// lockingBudget is the correct budget.
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

// steadfast returns budgets of which one locks, and that never change.
func steadfast() *budgets {
	index := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc})
	_ = index.Add(lockingBudget()) // it fails only without a valid key
	return &budgets{cluster: &cluster{budgets: policylisters.NewPodDisruptionBudgetLister(index)}}
}

func opened(o metav1.Object) {
	one := intstr.FromInt32(1)
	o.(*policyv1.PodDisruptionBudget).Spec.MinAvailable = &one
}

func ownedBy(uid types.UID) edit {
	return func(o metav1.Object) { o.GetOwnerReferences()[0].UID = uid }
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
		"Disabled":   {reason: "A namespace that is not enabled is not locked.", objects: []runtime.Object{enabledNamespace(disabled), budgetOwner(), lockingBudget()}, writes: []string{"delete"}},
		"NeverWas":   {reason: "Nothing to do in a namespace that is not enabled.", objects: []runtime.Object{enabledNamespace(disabled), budgetOwner()}},
		"NotOurs":    {reason: "A budget of that name that somebody else made is not ours to remove.", objects: []runtime.Object{enabledNamespace(disabled), budgetOwner(), lockingBudget(alone)}, want: lockingBudget(alone)},
		"Going":      {reason: "A namespace that is being deleted takes its budget along.", objects: []runtime.Object{enabledNamespace(deleted, finalizer("kubernetes")), budgetOwner(), lockingBudget()}, want: lockingBudget()},
		"GoingNone":  {reason: "Nor is one made there.", objects: []runtime.Object{enabledNamespace(deleted, finalizer("kubernetes")), budgetOwner()}},
		"GoingEdits": {reason: "Nor corrected.", objects: []runtime.Object{enabledNamespace(deleted, finalizer("kubernetes")), budgetOwner(), lockingBudget(opened)}, want: lockingBudget(opened)},
		"NoOwner": {
			reason: "Without the chart's ClusterRole it would outlive the chart.", objects: []runtime.Object{enabledNamespace()},
			wantErr: "cannot make PodDisruptionBudget voice/callguard: ClusterRole callguard-budget-owner, which owns the budgets, is missing; it is part of the chart: install that again",
		},
		"Orphaned":   {reason: "Its owner was deleted by accident: it keeps locking, and gets the next owner.", objects: []runtime.Object{enabledNamespace(), lockingBudget()}, want: lockingBudget()},
		"OrphanOpen": {reason: "It is mended all the same.", objects: []runtime.Object{enabledNamespace(), lockingBudget(opened)}, want: lockingBudget(), writes: []string{"update"}},
		"OwnerAnew": {
			reason:  "A recreated ClusterRole is another object, and the garbage collector would delete what belongs to the old one.",
			objects: []runtime.Object{enabledNamespace(), budgetOwner(), lockingBudget(ownedBy("former"))}, want: lockingBudget(), writes: []string{"update"},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			g, client := newGuardOf(t, tc.objects...)
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

// TestBudgetLost deletes and changes a namespace's budget, and deletes its owner, while a
// guard runs. The guard restores the namespace. In one that it cannot restore, nothing is
// released, and an Event says so, once each time.
func TestBudgetLost(t *testing.T) {
	g, client := newGuard(t, enabledNamespace(), budgetOwner(), newNode(true), newDeployment("web", 1), newReplicaSet("1", 1), asidePod("a", draining, ended))
	events := &trial.Events{}
	g.report.events, g.report.about = events, &corev1.ObjectReference{Kind: "Deployment", Namespace: "callguard-system", Name: "drain-guard"}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- g.budgets.run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	budgets, roles := client.PolicyV1().PodDisruptionBudgets(voice), client.RbacV1().ClusterRoles()
	locks := func() bool {
		is, err := budgets.Get(t.Context(), BudgetName, metav1.GetOptions{})
		return err == nil && BudgetLocks(is) == nil && g.budgets.inForce(voice) == nil
	}
	said := func(want ...string) {
		t.Helper()
		eventually(t, fmt.Sprintf("there are %d Events", len(want)), func() bool { return len(events.List()) >= len(want) })
		if diff := cmp.Diff(want, events.List()); diff != "" {
			t.Errorf("Events: -want, +got:\n%s", diff)
		}
	}
	shows := func(name string, want float64) {
		t.Helper()
		collector := &podCollector{cluster: g.cluster, budgets: g.budgets, report: g.report, now: noon}
		registry := prometheus.NewRegistry()
		registry.MustRegister(collector)
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			if f.GetName() == name && f.GetMetric()[0].GetGauge().GetValue() == want {
				return
			}
		}
		t.Errorf("%s is not %v", name, want)
	}
	const (
		lost = "Warning BudgetNotInForce on PodDisruptionBudget voice/callguard: Guarded pods of namespace voice are not locked against evictions by a PodDisruptionBudget, and none is released: "
		anew = "; drain-guard makes it again"
		gone = "PodDisruptionBudget voice/callguard is missing"
	)
	eventually(t, "the namespace is known to be locked", func() bool {
		g.budgets.mu.Lock()
		defer g.budgets.mu.Unlock()
		return g.budgets.locked[voice]
	})
	shows("callguard_budget_in_force", 1)
	shows("callguard_budget_owner_missing", 0)

	if err := budgets.Delete(t.Context(), BudgetName, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	said(lost + gone + anew)
	eventually(t, "the budget is made again", locks)

	if err := roles.Delete(t.Context(), BudgetOwner, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	ownerless := "Warning BudgetOwnerMissing on Deployment callguard-system/drain-guard: ClusterRole callguard-budget-owner, which owns every PodDisruptionBudget named callguard, is missing: " +
		"existing ones stay in effect, and none can be created for another namespace; apply the chart again"
	said(lost+gone+anew, ownerless)
	shows("callguard_budget_owner_missing", 1)
	if !locks() {
		t.Error("the budget was deleted with its owner")
	}

	if err := budgets.Delete(t.Context(), BudgetName, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	said(lost+gone+anew, ownerless, lost+gone+anew)
	shows("callguard_budget_in_force", 0)
	key := workloadKey(pods.Deployment, "web")
	if _, err := g.reconcile(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string][]string{}, patched(t, client.Actions())); diff != "" {
		t.Errorf("steps were taken without a budget: -want, +got:\n%s", diff)
	}

	next := budgetOwner()
	next.UID = "next"
	if _, err := roles.Create(t.Context(), next, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the budget is there again", locks)
	if is, err := budgets.Get(t.Context(), BudgetName, metav1.GetOptions{}); err != nil || is.OwnerReferences[0].UID != "next" {
		t.Errorf("the budget belongs to %v (%v); want to the new ClusterRole", is.OwnerReferences, err)
	}
	if _, err := g.reconcile(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string][]string{"a": {"callguard.dev/released=drain"}}, patched(t, client.Actions())); diff != "" {
		t.Errorf("with its budget it goes on: -want, +got:\n%s", diff)
	}
	lostAgain := 0
	for _, e := range events.List() {
		if strings.HasPrefix(e, lost) {
			lostAgain++
		}
	}
	if lostAgain != 2 {
		t.Errorf("an Event says %d times that the budget is lost, want 2: %q", lostAgain, events.List())
	}
}

// TestNewPodsAskNothing: if a namespace is locked already, its next pods cost no request.
func TestNewPodsAskNothing(t *testing.T) {
	g, client := newGuard(t, enabledNamespace(), budgetOwner(), lockingBudget())
	client.ClearActions()
	for i := range 100 {
		pod := newPod(fmt.Sprint("pod-", i))
		g.podChanged(nil, pod)
		if err := g.budgets.keep(t.Context(), pod.Namespace); err != nil {
			t.Fatal(err)
		}
	}
	if asked := client.Actions(); len(asked) > 0 {
		t.Errorf("%d requests for 100 new pods, such as %v", len(asked), asked[0])
	}
}

func TestForeignBudgets(t *testing.T) {
	foreign := func(name string, matching map[string]string) *policyv1.PodDisruptionBudget {
		return &policyv1.PodDisruptionBudget{
			ObjectMeta: metav1.ObjectMeta{Namespace: voice, Name: name, UID: objectMeta(name).UID},
			Spec:       policyv1.PodDisruptionBudgetSpec{Selector: &metav1.LabelSelector{MatchLabels: matching}},
		}
	}
	g, client := newGuard(t, enabledNamespace(), budgetOwner(), newPod("a", label("app", "web")), newPod("b", label("app", "web")),
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
