// SPDX-License-Identifier: Apache-2.0

package doors

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/test/trial"
)

// TestBudgetAdvice warns whoever makes a second budget that may match guarded pods, and refuses it to nobody.
func TestBudgetAdvice(t *testing.T) {
	on, off := enabled(t, "budget-advice"), namespace(t, "budget-advice-off", nil)
	const warning = `PodDisruptionBudget callguard holds every guarded pod of this namespace, and Kubernetes evicts no pod that two budgets match (error 500). ` +
		`If PodDisruptionBudget agent selects pods of agents, delete it, and annotate their workload with callguard.dev/min-available. ` +
		`If it is for other pods, write under spec.selector.matchExpressions: {key: callguard.dev/guarded, operator: NotIn, values: ["true"]}`
	guarded := func(operator metav1.LabelSelectorOperator, values ...string) *metav1.LabelSelector {
		return &metav1.LabelSelector{
			MatchLabels:      map[string]string{"app": "agent"},
			MatchExpressions: []metav1.LabelSelectorRequirement{{Key: call.GuardedLabel, Operator: operator, Values: values}},
		}
	}
	cases := map[string]struct {
		reason    string
		namespace string
		selector  *metav1.LabelSelector
		meta      func(*metav1.ObjectMeta)
		warns     bool
	}{
		"ByApp":      {reason: "The commonest one: it was there before callguard, or comes with a chart.", selector: appLabel(), warns: true},
		"ByLabel":    {reason: "It selects guarded pods alone.", selector: &metav1.LabelSelector{MatchLabels: map[string]string{call.GuardedLabel: "true"}}, warns: true},
		"All":        {reason: "An empty selector matches every pod.", selector: &metav1.LabelSelector{}, warns: true},
		"InTrue":     {reason: "It selects guarded pods alone.", selector: guarded(metav1.LabelSelectorOpIn, "true"), warns: true},
		"Exists":     {reason: "Guarded pods have the label.", selector: guarded(metav1.LabelSelectorOpExists), warns: true},
		"NotInFalse": {reason: "Guarded pods are not false.", selector: guarded(metav1.LabelSelectorOpNotIn, "false"), warns: true},
		"None":       {reason: "Without a selector it matches no pod."},
		"NotIn":      {reason: "So the warning advises.", selector: guarded(metav1.LabelSelectorOpNotIn, "true")},
		"NotThere":   {reason: "Who has no such label is not guarded.", selector: guarded(metav1.LabelSelectorOpDoesNotExist)},
		"InFalse":    {reason: "Only true is guarded.", selector: guarded(metav1.LabelSelectorOpIn, "false")},
		"LabelFalse": {reason: "Only true is guarded.", selector: &metav1.LabelSelector{MatchLabels: map[string]string{call.GuardedLabel: "false"}}},
		"NotEnabled": {reason: "Nobody is guarded there.", namespace: off, selector: appLabel()},
		"OfItsOwner": {reason: "Who writes the object that makes this one reads nothing.", selector: appLabel(), meta: func(o *metav1.ObjectMeta) {
			o.OwnerReferences = []metav1.OwnerReference{{APIVersion: "example.org/v1", Kind: "Agent", Name: "agent", UID: "1", Controller: new(true)}}
		}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			client, heard := listener(t)
			ns := on
			if tc.namespace != "" {
				ns = tc.namespace
			}
			pdb := secondBudget(tc.selector)
			apply(tc.meta, &pdb.ObjectMeta)
			_, err := client.PolicyV1().PodDisruptionBudgets(ns).Create(t.Context(), pdb, metav1.CreateOptions{DryRun: dry()})
			expect(t, tc.reason, allowed, err)
			heard.expect(t, tc.reason, tc.warns, warning)
		})
	}
	t.Run("Update", func(t *testing.T) {
		client, heard := listener(t)
		budgets := client.PolicyV1().PodDisruptionBudgets(on)
		patch := func(change string) error {
			_, err := budgets.Patch(t.Context(), "agent", types.MergePatchType, []byte(change), metav1.PatchOptions{})
			return err
		}
		_, err := budgets.Create(t.Context(), secondBudget(appLabel()), metav1.CreateOptions{})
		trial.Must(t, err)
		heard.expect(t, "It is told when it is made.", true, warning)
		expect(t, "Its number is its owner's.", allowed, patch(`{"spec":{"minAvailable":2}}`))
		heard.expect(t, "Who changes anything else has been told.", false, warning)
		expect(t, "Its pods are its owner's.", allowed, patch(`{"spec":{"selector":{"matchLabels":{"tier":"voice"}}}}`))
		heard.expect(t, "Another selector may match guarded pods, too.", true, warning)
		expect(t, "So the warning advises.", allowed, patch(`{"spec":{"selector":{"matchExpressions":[{"key":"callguard.dev/guarded","operator":"NotIn","values":["true"]}]}}}`))
		heard.expect(t, "So the warning advises.", false, warning)
	})
}

func secondBudget(selects *metav1.LabelSelector) *policyv1.PodDisruptionBudget {
	return &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Name: "agent"}, Spec: policyv1.PodDisruptionBudgetSpec{MinAvailable: new(intstr.FromInt32(1)), Selector: selects}}
}

// listener is a client of the administrator, and what it is warned of.
func listener(t *testing.T) (kubernetes.Interface, *warnings) {
	t.Helper()
	heard := &warnings{}
	config := rest.CopyConfig(stage.config)
	config.WarningHandler = heard
	client, err := kubernetes.NewForConfig(config)
	trial.Must(t, err)
	return client, heard
}

// expect is that this warning of callguard-budget-advice, and no other, was heard since the last time.
func (w *warnings) expect(t *testing.T, reason string, warns bool, warning string) {
	t.Helper()
	w.mu.Lock()
	said := w.said
	w.said = nil
	w.mu.Unlock()
	var want, got []string
	if warns {
		want = []string{warning}
	}
	for _, text := range said {
		got = append(got, strings.TrimPrefix(text, "Validation failed for ValidatingAdmissionPolicy 'callguard-budget-advice' with binding 'callguard-budget-advice': "))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s Warnings: -want, +got:\n%s", reason, diff)
	}
}
