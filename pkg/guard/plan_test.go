// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/pods"
	"github.com/callguard/callguard/pkg/verdict"
)

// TestPlanMakesNoRequest plans for a workload whose pods have every reason to go, of a
// planner whose facts all come from memory. What it wants to know beside it says.
func TestPlanMakesNoRequest(t *testing.T) {
	lost := newNode(true, corev1.Taint{Key: corev1.TaintNodeUnreachable, Effect: corev1.TaintEffectNoExecute})
	asked := map[string]int{}
	pl := newPlanner(DefaultSettings(), known{
		node:    func(string) *corev1.Node { asked["node"]++; return lost },
		onNode:  func(string) []*corev1.Pod { return nil },
		calls:   func(*call.Pod) ([]verdict.Reading, time.Time) { asked["calls"]++; return nil, noon() },
		ability: nil,
		lease:   func(string) (bool, error) { asked["lease"]++; return false, nil },
	}, noon)
	s := newSnapshot(newDeployment("web", 1), newReplicaSet("1", 1),
		webPod("a", gate), webPod("b", annotation(call.LeaveAnnotation, "")), asidePod("c", draining), webPod("d", label(call.ReleasedLabel, "drain")))
	p := pl.plan(s, s.workload(workloadKey(pods.Deployment, "web"))) // it has no client, and no context
	if len(p.judged) != 3 || len(p.released) != 1 || len(p.asked) < 3 || len(p.leases) != 1 {
		t.Errorf("the plan has %d verdicts, %d released, %d to ask and leases %v", len(p.judged), len(p.released), len(p.asked), p.leases)
	}
	if asked["node"] == 0 || asked["calls"] == 0 || asked["lease"] == 0 {
		t.Errorf("the facts it went by: %v", asked)
	}
}

// TestLeaseOnce has a hundred draining pods, of two workloads, on a node that is lost.
func TestLeaseOnce(t *testing.T) {
	lost := newNode(true, corev1.Taint{Key: corev1.TaintNodeUnreachable, Effect: corev1.TaintEffectNoExecute})
	objects := []runtime.Object{enabledNamespace(), lost, newDeployment("web", 1), newReplicaSet("1", 1), newStatefulSet(1)}
	for i := range 50 {
		objects = append(objects, asidePod(fmt.Sprint("web-", i), draining), dbPod(fmt.Sprint("db-", i), "new", draining))
	}
	g, client := newGuard(t, objects...)
	now := noon()
	g.now = func() time.Time { return now }
	for i := range 3 {
		for _, key := range []Key{workloadKey(pods.Deployment, "web"), workloadKey(pods.StatefulSet, "db")} {
			if _, err := g.reconcile(t.Context(), key); err != nil {
				t.Fatal(err)
			}
		}
		n := 0
		for _, action := range client.Actions() {
			if action.Matches("get", "leases") {
				n++
			}
		}
		if n != i+1 {
			t.Errorf("after %d looks the lease was read %d times", i+1, n)
		}
		now = now.Add(again)
	}
}
