// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/verdict"
)

// said is an Explanation without its facts.
type said struct {
	State   call.State
	Intent  call.Mark
	Outcome verdict.Outcome
	Rule    string
	Why     string
	Unsure  int
}

func TestExplain(t *testing.T) {
	cordoned := newNode(true, corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule, TimeAdded: &metav1.Time{Time: noon().Add(-time.Minute)}})
	marked := call.Mark{Intent: call.NodeDrain, At: noon().Add(-time.Minute)}
	holds := func(n int) func(*call.Pod) call.Reading {
		return func(*call.Pod) call.Reading { return call.Known(n, noon().Add(time.Hour)) } // by another clock
	}
	cases := map[string]struct {
		reason  string
		objects []runtime.Object
		calls   func(*call.Pod) call.Reading
		doors   error
		want    said
	}{
		"Serving": {reason: "It does not have to leave.", objects: []runtime.Object{newNode(false), newDeployment("web", 1), newReplicaSet("1", 1), webPod("a")},
			want: said{State: call.Serving, Outcome: verdict.Serve, Rule: "serving", Why: "nothing asks the pod to leave"}},
		"Cordoned": {reason: "The verdict is about to be carried out, and the state is still the pod's own.", objects: []runtime.Object{cordoned, newDeployment("web", 1), newReplicaSet("1", 1), webPod("a")},
			want: said{State: call.Serving, Intent: marked, Outcome: verdict.SetAside, Rule: "bounds", Why: "a replacement comes first"}},
		"Doors": {reason: "While a policy is missing the guard does nothing.", objects: []runtime.Object{cordoned, newDeployment("web", 1), newReplicaSet("1", 1), webPod("a")}, doors: errors.New("one is missing"),
			want: said{State: call.Serving, Intent: marked, Outcome: verdict.Hold, Rule: RuleDoors, Why: "callguard's admission policies are not in effect: one is missing"}},
		"Calls": {reason: "It talks.", objects: []runtime.Object{cordoned, newDeployment("web", 1), newReplicaSet("1", 1), asidePod("a", draining)}, calls: holds(2),
			want: said{State: call.Draining, Intent: marked, Outcome: verdict.Hold, Rule: "calls", Why: "it holds calls"}},
		"Unknown": {reason: "Unknown is never zero.", objects: []runtime.Object{cordoned, newDeployment("web", 1), newReplicaSet("1", 1), asidePod("a", draining)}, calls: func(*call.Pod) call.Reading { return call.Unknown("nobody knows") },
			want: said{State: call.Draining, Intent: marked, Outcome: verdict.Hold, Rule: "unknown", Why: "its witness rooms cannot tell whether it holds calls: nobody knows"}},
		"Idle": {reason: "Only the guard knows since when it is quiet: no release is predicted, whatever clocks say.", objects: []runtime.Object{cordoned, newDeployment("web", 1), newReplicaSet("1", 1), asidePod("a", draining)}, calls: holds(0),
			want: said{State: call.Draining, Intent: marked, Outcome: verdict.Hold, Rule: "settle", Why: "it is idle; waiting in case a call is still being connected"}},
		"Chosen": {reason: "Of pods whose calls are not known one is chosen at once, as the guard does after a while.",
			objects: []runtime.Object{newNode(false), newDeployment("web", 1), newReplicaSet("1", 1), webPod("a"), webPod("b", unready)}, calls: func(*call.Pod) call.Reading { return call.Unknown("nobody knows") },
			want: said{State: call.Serving, Intent: call.Mark{Intent: call.ScaleDown}, Outcome: verdict.SetAside, Rule: "bounds", Why: "its ReplicaSet has more pods than it wants, and the others have to stay"}},
		"Released": {reason: "It waits for whoever takes it.", objects: []runtime.Object{cordoned, asidePod("a", draining, label(call.ReleasedLabel, "drain"))},
			want: said{State: call.Released, Intent: marked, Outcome: verdict.Release, Why: "its calls have ended; it may be evicted and deleted"}},
		"Unlocked": {reason: "Nothing holds it.", objects: []runtime.Object{newNode(false), webPod("a", label(call.ReleasedLabel, "unlock"))},
			want: said{State: call.Released, Intent: call.Mark{Intent: call.Unlock}, Outcome: verdict.Release, Why: "it was unlocked, and nothing holds its calls"}},
		"Asked": {reason: "An annotation does not say since when.", objects: []runtime.Object{newNode(false), newDeployment("web", 1), newReplicaSet("1", 1), webPod("a", annotation(call.LeaveAnnotation, ""))},
			want: said{State: call.Serving, Intent: call.Mark{Intent: call.Operator}, Outcome: verdict.SetAside, Rule: "bounds", Why: "a replacement comes first"}},
		"Tainted": {reason: "Cluster Autoscaler's taint carries no date, and counts only after a while.",
			objects: []runtime.Object{newNode(false, corev1.Taint{Key: "ToBeDeletedByClusterAutoscaler", Effect: corev1.TaintEffectNoSchedule}), newDeployment("web", 1), newReplicaSet("1", 1), webPod("a")},
			want:    said{State: call.Serving, Outcome: verdict.Serve, Rule: "serving", Why: "nothing asks the pod to leave", Unsure: 1}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			client := fake.NewClientset(tc.objects...)
			if tc.calls == nil {
				tc.calls = holds(0)
			}
			e := Explainer{Client: client, Settings: DefaultSettings(), Doors: tc.doors, Calls: tc.calls, Now: noon()}
			e.Settings.Limits.Settle = 0
			list, err := e.Explain(t.Context(), voice, func(p *corev1.Pod) bool { return p.Name == "a" })
			if err != nil || len(list) != 1 {
				t.Fatalf("%s\n%d explanations, %v; want one", tc.reason, len(list), err)
			}
			x := list[0]
			got := said{x.State, x.Intent, x.Verdict.Outcome, x.Verdict.Rule, x.Verdict.Why, len(x.Unsure)}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tc.reason, diff)
			}
			for _, action := range client.Actions() {
				if verb := action.GetVerb(); verb != "get" && verb != "list" {
					t.Errorf("it did %s %s", verb, action.GetResource().Resource)
				}
			}
		})
	}
}

// TestExplainWithoutNodes: without the right to read nodes, the explanation says so, and
// includes everything else.
func TestExplainWithoutNodes(t *testing.T) {
	client := fake.NewClientset(newDeployment("web", 1), newReplicaSet("1", 1), webPod("a"))
	client.PrependReactor("get", "nodes", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, apierrors.NewForbidden(schema.GroupResource{Resource: "nodes"}, "node-1", errors.New("no"))
	})
	e := Explainer{Client: client, Settings: DefaultSettings(), Calls: func(*call.Pod) call.Reading { return call.Known(0, noon()) }, Now: noon()}
	list, err := e.Explain(t.Context(), voice, func(*corev1.Pod) bool { return true })
	if err != nil || len(list) != 1 {
		t.Fatalf("%d explanations, %v; want one", len(list), err)
	}
	if got := strings.Join(list[0].Unsure, "; "); !strings.Contains(got, "node-1 is drained or lost is not known") {
		t.Errorf("unsure: %q", got)
	}
}
