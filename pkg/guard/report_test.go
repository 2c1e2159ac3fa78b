// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/pods"
	"github.com/callguard/callguard/pkg/verdict"
	"github.com/callguard/callguard/pkg/verdict/rules/bounds"
	"github.com/callguard/callguard/pkg/verdict/rules/calls"
)

// TestEventsArePlain: a pod's text in an Event is safe for a terminal, and limited in
// length.
func TestEventsArePlain(t *testing.T) {
	recorder := record.NewFakeRecorder(2)
	hostile := "the gate does not know: \x1b[2J\nNormal Released" + strings.Repeat("x", 1<<20)
	r := newReport(recorder, newMetrics(prometheus.NewRegistry()), slog.New(slog.DiscardHandler))
	r.events.Event(newPod("a"), corev1.EventTypeNormal, ReasonHeld, hostile)
	r.events.Eventf(newPod("a"), corev1.EventTypeNormal, ReasonHeld, "Pod stays: %s", hostile)
	for range 2 {
		if event := <-recorder.Events; strings.ContainsAny(event, "\x1b\n") || len(event) > call.MaxText+100 {
			t.Errorf("%d bytes: %.200q", len(event), event)
		}
	}
}

// TestOrderUnread: the time for which a gate has not read the order to drain counts whichever rule holds its pod, and
// ends when it has read it.
func TestOrderUnread(t *testing.T) {
	draining := verdict.Facts{Pod: verdict.Pod{State: call.Draining}, Readings: []verdict.Reading{
		{Reading: call.Known(1, noon()), Witness: call.Rooms}, {Reading: call.Known(1, noon()), Witness: call.Gate},
	}}
	cases := map[string]struct {
		reason string
		facts  func(*verdict.Facts)
		want   bool
	}{
		"Unread":   {reason: "The gate answers, and keeps accepting calls.", want: true},
		"Read":     {reason: "The gate takes no more.", facts: func(f *verdict.Facts) { f.Sealed = true }},
		"Serving":  {reason: "There is no order yet.", facts: func(f *verdict.Facts) { f.Pod.State = call.Serving }},
		"Silent":   {reason: "Of a gate that does not answer rule unknown tells.", facts: func(f *verdict.Facts) { f.Readings[1].Reading = call.Unknown("no answer") }},
		"Gateless": {reason: "Without a gate nothing confirms the order.", facts: func(f *verdict.Facts) { f.Readings = f.Readings[:1] }},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			facts := draining
			facts.Readings = slices.Clone(draining.Readings)
			if tc.facts != nil {
				tc.facts(&facts)
			}
			r := newReport(record.NewFakeRecorder(10), newMetrics(prometheus.NewRegistry()), slog.New(slog.DiscardHandler))
			pod := (&snapshot{}).member(newPod("a"))
			for i, rule := range []string{"calls", "settle"} {
				facts.Now = noon().Add(time.Duration(i) * time.Second)
				r.holds(&workload{}, judgement{member: pod, facts: facts, verdict: verdict.Verdict{Outcome: verdict.Hold, Rule: rule}}, false)
			}
			if got := r.held[pod.UID].unread; got.Equal(noon()) != tc.want || got.IsZero() == tc.want {
				t.Errorf("%s\nunread since %v", tc.reason, got)
			}
			facts.Sealed = true
			r.holds(&workload{}, judgement{member: pod, facts: facts, verdict: verdict.Verdict{Outcome: verdict.Hold, Rule: "settle"}}, false)
			if got := r.held[pod.UID].unread; !got.IsZero() {
				t.Errorf("the gate has the order, and it counts as unread since %v", got)
			}
		})
	}
}

// TestComplainsOnce makes a complaint of every kind once as long as its object exists, and remembers nothing after
// that.
func TestComplainsOnce(t *testing.T) {
	badPod := annotation(call.DeadlineAnnotation, "soon")
	badOwner := annotation(call.MinAvailableAnnotation, "most")
	budget := &policyv1.PodDisruptionBudget{ObjectMeta: objectMeta("mine"), Spec: policyv1.PodDisruptionBudgetSpec{Selector: &metav1.LabelSelector{}}}
	elsewhere := newPod("elsewhere")
	elsewhere.Namespace = "elsewhere"
	elsewhereNS := enabledNamespace()
	elsewhereNS.Name, elsewhereNS.Labels = "elsewhere", nil
	g, client := newGuard(t, enabledNamespace(), elsewhereNS, elsewhere, budgetOwner(), lockingBudget(), budget,
		newDeployment("web", 1), asidePod("a", badPod), // the pod outlives its Deployment
		newDeployment("idle", 0, badOwner),                              // a workload that has no pods now
		newPod("bare", badPod),                                          // its own workload
		newPod("batch", badPod, controlledByForeign("Rollout", "roll")), // of a kind that is not watched
	)
	bare := func(namespace, name string) Key {
		return Key{NamespacedName: types.NamespacedName{Namespace: namespace, Name: name}, APIVersion: "v1", Kind: "Pod", UID: types.UID(name)}
	}
	rollout := workloadKey("Rollout", "roll")
	rollout.APIVersion = "argoproj.io/v1alpha1"
	events := g.cfg.Recorder.(*record.FakeRecorder).Events
	look := func(what string, want int) {
		t.Helper()
		for _, key := range []Key{workloadKey(pods.Deployment, "web"), workloadKey(pods.Deployment, "idle"), bare(voice, "bare"), bare("elsewhere", "elsewhere"), rollout} {
			if _, err := g.reconcile(t.Context(), key); err != nil {
				t.Fatal(err)
			}
		}
		if err := g.budgets.keep(t.Context(), voice); err != nil {
			t.Fatal(err)
		}
		var complaints []string
		for range len(events) {
			if event := <-events; strings.HasPrefix(event, corev1.EventTypeWarning) {
				complaints = append(complaints, event)
			}
		}
		if len(complaints) != want {
			t.Errorf("%s: %d complaints, want %d: %q", what, len(complaints), want, complaints)
		}
	}
	look("each is told", 8) // that about the budget is on the budget and on a pod
	look("each is told once", 0)
	g.forgetGone()
	look("all is there still", 0)

	apps, everything := client.AppsV1().Deployments(voice), metav1.DeleteOptions{}
	if err := apps.Delete(t.Context(), "web", everything); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the Deployment is gone", func() bool { _, err := g.cluster.deployments.Deployments(voice).Get("web"); return err != nil })
	g.forgetGone()
	look("a pod has outlived its Deployment", 0)

	if err := apps.Delete(t.Context(), "idle", everything); err != nil {
		t.Fatal(err)
	}
	if err := client.PolicyV1().PodDisruptionBudgets(voice).Delete(t.Context(), "mine", everything); err != nil {
		t.Fatal(err)
	}
	for name, namespace := range map[string]string{"a": voice, "bare": voice, "batch": voice, "elsewhere": "elsewhere"} {
		if err := client.CoreV1().Pods(namespace).Delete(t.Context(), name, everything); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "everything is gone", func() bool {
		for _, about := range g.report.complainedOf() {
			if there, err := g.cluster.has(about); err != nil || there {
				return false
			}
		}
		return true
	})
	g.forgetGone()
	if left := g.report.complainedOf(); len(left) > 0 {
		t.Errorf("everything is gone, and still remembered: %v", left)
	}
}

// TestQueuesAreNotTold: that a pod waits for others of its workload is reported after a moment, and only after a
// minute while the guard has more to do than it can do at once. A pod with calls is reported after a moment in any case.
func TestQueuesAreNotTold(t *testing.T) {
	cases := map[string]struct {
		rule  string
		busy  bool
		after time.Duration
		want  bool
	}{
		"WaitsForOthers":  {rule: bounds.Rule{}.Name(), after: tellAfter, want: true},
		"WaitsInLine":     {rule: bounds.Rule{}.Name(), busy: true, after: tellAnyway - time.Second},
		"WaitsForAMinute": {rule: bounds.Rule{}.Name(), busy: true, after: tellAnyway, want: true},
		"HasCalls":        {rule: calls.Rule{}.Name(), busy: true, after: tellAfter, want: true},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			r := newReport(record.NewFakeRecorder(10), newMetrics(prometheus.NewRegistry()), slog.New(slog.DiscardHandler))
			w, j := &workload{}, judgement{member: (&snapshot{}).member(webPod("a")), verdict: verdict.Verdict{Outcome: verdict.Hold, Rule: tc.rule}}
			for _, at := range []time.Time{noon(), noon().Add(tc.after)} {
				j.facts.Now = at
				r.judged(w, []judgement{j}, tc.busy)
			}
			if told := r.held[j.UID].told; told != tc.want {
				t.Errorf("reported: %t; want %t", told, tc.want)
			}
		})
	}
}
