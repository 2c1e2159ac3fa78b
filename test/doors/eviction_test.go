// SPDX-License-Identifier: Apache-2.0

package doors

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	policyv1 "k8s.io/api/policy/v1"
	policyv1beta1 "k8s.io/api/policy/v1beta1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/test/trial"
)

const tooMany = "429 Cannot evict pod as it would violate the pod's disruption budget."

// evict evicts a pod as somebody.
func evict(t *testing.T, id identity, namespace, name string, options metav1.DeleteOptions) error {
	t.Helper()
	return stage.as(id).PolicyV1().Evictions(namespace).Evict(t.Context(), &policyv1.Eviction{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, DeleteOptions: &options,
	})
}

func TestEviction(t *testing.T) {
	ns := enabled(t, "eviction")
	populate(t, ns)
	cases := map[string]struct{ reason, want string }{
		"pending":     {"A Pending pod passes every budget.", allowed},
		"serving":     {"It may hold calls.", tooMany},
		"unready":     {"A pod that is not ready may hold calls all the same.", tooMany},
		"crashing":    {"The budget does not look at containers; callguard releases it.", tooMany},
		"aside":       {"Its calls go on.", tooMany},
		"draining":    {"Its calls go on.", tooMany},
		"released":    {"Its calls are over.", allowed},
		"terminating": {"It goes already.", allowed},
		"leaving":     {"It goes already.", allowed},
		"terminated":  {"The budget looks at phases only, and this one is still Running; deleting it is free.", tooMany},
	}
	for name, tc := range cases {
		for _, id := range everybody() {
			if isOneOf(id, kubelet(), guard()) {
				continue // a kubelet evicts only the pods of its own node, and never by this request; drain-guard none (TestLeash)
			}
			// The API server also answers 429 to dry runs, and while the disruption controller has not processed the
			// budget.
			err := evict(t, id, ns, name, metav1.DeleteOptions{DryRun: dry()})
			expect(t, fmt.Sprintf("%s %s evicts pod %s", tc.reason, id.name, name), tc.want, err)
		}
	}
}

// TestEvictionKeepsTheGrace: an eviction leaves a pod its own grace period. It shortens it only for
// break-glass, and where Kubernetes has no policies that could keep it.
func TestEvictionKeepsTheGrace(t *testing.T) {
	ns := enabled(t, "grace")
	serving(t, ns, "first", "older", "again", "broken")
	for _, name := range []string{"first", "older", "again", "broken"} {
		guardPatches(t, ns, name, `{"metadata":{"labels":{"callguard.dev/released":"drain"}}}`)
	}
	short := int64(3)
	trial.Must(t, evict(t, admin(), ns, "first", metav1.DeleteOptions{GracePeriodSeconds: &short}))
	trial.Must(t, stage.admin.PolicyV1beta1().Evictions(ns).Evict(t.Context(), &policyv1beta1.Eviction{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "older"}, DeleteOptions: &metav1.DeleteOptions{GracePeriodSeconds: &short},
	}))
	trial.Must(t, evict(t, admin(), ns, "again", metav1.DeleteOptions{}))
	trial.Must(t, evict(t, admin(), ns, "again", metav1.DeleteOptions{GracePeriodSeconds: &short}))
	trial.Must(t, evict(t, breakGlass(), ns, "broken", metav1.DeleteOptions{GracePeriodSeconds: &short}))
	if pod, err := stage.admin.CoreV1().Pods(ns).Get(t.Context(), "broken", metav1.GetOptions{}); err == nil && (pod.DeletionGracePeriodSeconds == nil || *pod.DeletionGracePeriodSeconds != short) {
		t.Errorf("Break-glass sets its own grace period. Pod broken ends with %v, want %d", pod.DeletionGracePeriodSeconds, short)
	}
	want := int64(600)
	if !stage.keepsGraces {
		want = short
	}
	for name, reason := range map[string]string{
		"first": "An eviction leaves a pod its own grace.",
		"older": "So does one of the older version.",
		"again": "A second one does not shorten it.",
	} {
		pod := get(t, ns, name)
		if pod.DeletionTimestamp == nil || pod.DeletionGracePeriodSeconds == nil || *pod.DeletionGracePeriodSeconds != want {
			t.Errorf("%s Pod %s ends at %v with grace period %v, want %d", reason, name, pod.DeletionTimestamp, pod.DeletionGracePeriodSeconds, want)
		}
	}
}

func TestSecondBudget(t *testing.T) {
	ns := enabled(t, "second-budget")
	serving(t, ns, "serving")
	one := intstr.FromInt32(1)
	_, err := stage.as(editor()).PolicyV1().PodDisruptionBudgets(ns).Create(t.Context(), &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Name: "their-own"},
		Spec:       policyv1.PodDisruptionBudgetSpec{MaxUnavailable: &one, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{call.GuardedLabel: "true"}}},
	}, metav1.CreateOptions{})
	trial.Must(t, err)
	expect(t, "Two budgets for a pod are an error of the server, which kubectl drain does not try again.",
		"500 This pod has more than one PodDisruptionBudget", evict(t, admin(), ns, "serving", metav1.DeleteOptions{DryRun: dry()}))
}

// TestEvictionWithoutBudget deletes the budget of a namespace: evictions are still refused, until it is
// back.
func TestEvictionWithoutBudget(t *testing.T) {
	ctx := t.Context()
	ns := enabled(t, "no-budget")
	serving(t, ns, "serving", "released")
	guardPatches(t, ns, "released", `{"metadata":{"labels":{"callguard.dev/released":"drain"}}}`)
	try := func(pod string) string {
		return answer(evict(t, admin(), ns, pod, metav1.DeleteOptions{DryRun: dry()}))
	}
	if got := try("released"); got != allowed {
		t.Errorf("with the budget, the answer to a released pod's eviction is %s", got)
	}
	budgets := stage.as(breakGlass()).PolicyV1().PodDisruptionBudgets(ns)
	for range 5 {
		trial.Must(t, budgets.Delete(ctx, "callguard", metav1.DeleteOptions{}))
		gone := time.Now()
		passed := time.Duration(0)
		trial.Must(t, eventually(ctx, "evictions are refused for want of the budget", func() (bool, error) {
			got := try("serving")
			if got == allowed {
				passed = time.Since(gone)
			}
			if !strings.HasPrefix(got, "callguard-eviction: ") {
				return false, errors.New(got)
			}
			return true, nil
		}))
		t.Logf("the policy refuses %s after the budget was gone; the last eviction passed after %s", time.Since(gone), passed)
		_, err := stage.as(guard()).PolicyV1().PodDisruptionBudgets(ns).Create(ctx, budget(), metav1.CreateOptions{})
		trial.Must(t, err)
		trial.Must(t, eventually(ctx, "it is the budget that refuses again", func() (bool, error) { return strings.HasPrefix(try("serving"), tooMany), nil }))
		if got := try("released"); got != allowed {
			t.Errorf("with the budget back, the answer to a released pod's eviction is %s", got)
		}
	}
}
