// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"errors"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	clienttesting "k8s.io/client-go/testing"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/pods"
	"github.com/callguard/callguard/pkg/verdict"
	"github.com/callguard/callguard/test/trial"
)

// TestPlanMakesNoRequest plans for a workload whose pods have every reason to leave, with facts that all come from memory. It
// reports what else it needs to know.
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
	p := pl.plan(s, s.workload(workloadKey(pods.Deployment, "web"))) // it has neither client nor context
	if len(p.judged) != 3 || len(p.released) != 1 || len(p.asked) < 3 || len(p.leases) != 1 {
		t.Errorf("the plan has %d verdicts, %d released, %d to ask and leases %v", len(p.judged), len(p.released), len(p.asked), p.leases)
	}
	if asked["node"] == 0 || asked["calls"] == 0 || asked["lease"] == 0 {
		t.Errorf("the facts it went by: %v", asked)
	}
}

// TestSettleCountsFromTheMark: a pod that had been read for long before it stopped accepting calls has been quiet only since
// then. After a later call, that counts from the call.
func TestSettleCountsFromTheMark(t *testing.T) {
	for name, tc := range map[string]struct {
		reason      string
		quiet, want time.Duration // from noon, when the mark is first seen
	}{
		"ReadBefore": {reason: "A call may have been offered just before the mark.", quiet: -time.Hour, want: 0},
		"CallSince":  {reason: "It was offered before, and came up after.", quiet: 5 * time.Second, want: 5 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			pl := newPlanner(DefaultSettings(), known{
				node:   func(string) *corev1.Node { return newNode(true) },
				onNode: func(string) []*corev1.Pod { return nil },
				calls:  func(*call.Pod) ([]verdict.Reading, time.Time) { return nil, noon().Add(tc.quiet) },
			}, noon)
			s := newSnapshot(newDeployment("web", 1), newReplicaSet("1", 1), asidePod("a", draining))
			p := pl.plan(s, s.workload(workloadKey(pods.Deployment, "web")))
			if len(p.judged) != 1 {
				t.Fatalf("the plan has %d verdicts; want 1", len(p.judged))
			}
			if got := p.judged[0].facts.QuietSince.Sub(noon()); got != tc.want {
				t.Errorf("%s It is quiet since %s after the mark; want %s", tc.reason, got, tc.want)
			}
		})
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

// crowd is a planner, and what it knows about a Deployment of this many pods, a tenth of them aside, on 50 cordoned nodes.
func crowd(n int) (*planner, *snapshot) {
	cordon := newNode(true)
	pl := newPlanner(DefaultSettings(), known{
		node:   func(string) *corev1.Node { return cordon },
		onNode: func(string) []*corev1.Pod { return nil },
		calls: func(*call.Pod) ([]verdict.Reading, time.Time) {
			return []verdict.Reading{{Witness: call.Rooms, Reading: call.Known(0, noon())}}, noon()
		},
		ability: func(types.UID) (call.Ability, time.Time) { return "", noon() },
		lease:   func(string) (bool, error) { return false, nil },
	}, noon)
	objects := []metav1.Object{newDeployment("web", int32(n)), newReplicaSet("1", int32(n))}
	for i := range n {
		name := fmt.Sprint("web-", i)
		node := func(o metav1.Object) { o.(*corev1.Pod).Spec.NodeName = fmt.Sprint("node-", i%50) }
		pod := webPod(name, gate, node)
		if i%10 == 0 {
			pod = asidePod(name, gate, node)
		}
		objects = append(objects, pod)
	}
	return pl, newSnapshot(objects...)
}

// BenchmarkPlan plans for Deployments in which every pod has to leave, one after the other: so many that there are always
// 20,000 pods, which fit into no processor's cache.
func BenchmarkPlan(b *testing.B) {
	const all = 20_000
	key := workloadKey(pods.Deployment, "web")
	for _, n := range []int{100, 500, 5_000, all} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			var plans []func()
			for range all / n {
				pl, s := crowd(n)
				plans = append(plans, func() { pl.plan(s, s.workload(key)) })
			}
			for _, plan := range plans {
				plan() // from then on it remembers each pod
			}
			report := trial.CPU(b)
			for i := 0; b.Loop(); i++ {
				plans[i%len(plans)]()
			}
			b.ReportMetric(float64(report().Nanoseconds())/1000/float64(n), "µs/pod")
		})
	}
}

// TestPlanCostsItsPods: for ten times as many pods a plan takes about ten times as long, and not a hundred.
func TestPlanCostsItsPods(t *testing.T) {
	key := workloadKey(pods.Deployment, "web")
	cost := func(n int) time.Duration {
		pl, s := crowd(n)
		return trial.Spent(t, func() {
			for range 30_000 / n {
				if p := pl.plan(s, s.workload(key)); len(p.judged) != n {
					t.Fatalf("%d of %d pods are judged", len(p.judged), n)
				}
			}
		})
	}
	if few, many := cost(300), cost(3_000); many > 4*few {
		t.Errorf("100 plans of 300 pods take %s of a processor's time, 10 of 3,000 %s", few, many)
	}
}

// TestWhoMayGoGoesFirst has pods at every step: steps that remove pods from a node come before those that begin with others.
func TestWhoMayGoGoesFirst(t *testing.T) {
	idle := hearsay(func(*call.Pod) call.Reading { return call.Known(0, noon()) })
	objects := []runtime.Object{enabledNamespace(), newNode(true), newDeployment("web", 4), newReplicaSet("1", 4)}
	for i := range 4 {
		objects = append(objects, webPod(fmt.Sprint("a", i)))
	}
	objects = append(objects, asidePod("ended", ended), asidePod("z", label(call.ReleasedLabel, string(call.ScaleDown))))
	g, client := newGuard(t, objects...)
	g.readings.witnesses, g.writers = map[call.Witness]Witness{call.Rooms: idle, call.Worker: idle}, 1
	client.ClearActions()
	if _, err := g.reconcile(t.Context(), workloadKey(pods.Deployment, "web")); err != nil {
		t.Fatal(err)
	}
	var steps []string
	for _, action := range client.Actions() {
		switch a := action.(type) {
		case clienttesting.PatchAction:
			steps = append(steps, a.GetName())
		case clienttesting.DeleteAction:
			steps = append(steps, a.GetName())
		}
	}
	if len(steps) < 3 || steps[0] != "z" || steps[1] != "ended" || steps[2] != "a0" {
		t.Errorf("the pods were written in this order: %v", steps)
	}
}

// TestManyAreSetAsideInTurns has room for the replacements of a hundred pods at once. One look sets some aside, and the next
// follows at once: a pod whose replacement is ready does not wait for all hundred.
func TestManyAreSetAsideInTurns(t *testing.T) {
	const all = 100
	objects := []runtime.Object{enabledNamespace(), newNode(true), newDeployment("web", all, maxSurge(intstr.FromString("100%"))), newReplicaSet("1", all)}
	for i := range all {
		objects = append(objects, webPod(fmt.Sprint("a", i)))
	}
	g, client := newGuard(t, objects...)
	var set []int
	for range 2 {
		client.ClearActions()
		after, err := g.reconcile(t.Context(), workloadKey(pods.Deployment, "web"))
		if err != nil {
			t.Fatal(err)
		}
		set = append(set, len(patched(t, client.Actions())))
		if after != atOnce {
			t.Errorf("after look %d the next comes after %s", len(set), after)
		}
	}
	if set[0] != least || set[1] != least {
		t.Errorf("the looks set %v pods aside; want %d each", set, least)
	}
}

// TestRefusedStepsLetOthersPass: somebody's webhook refuses every change of as many pods as one look handles. The others
// continue, and the refused ones are retried.
func TestRefusedStepsLetOthersPass(t *testing.T) {
	const others = 5
	objects := []runtime.Object{enabledNamespace(), newNode(true), newDeployment("web", least+others, maxSurge(intstr.FromString("100%"))), newReplicaSet("1", least+others)}
	for i := range least + others {
		objects = append(objects, webPod(fmt.Sprintf("a%02d", i)))
	}
	clock := &moving{}
	g, client := newGuardBy(t, clock.now, append(objects, lockingBudget())...)
	client.PrependReactor("patch", "pods", func(action clienttesting.Action) (bool, runtime.Object, error) {
		refused := action.(clienttesting.PatchAction).GetName() < fmt.Sprintf("a%02d", least)
		return refused, nil, apierrors.NewForbidden(corev1.Resource("pods"), "a", errors.New("a webhook says no"))
	})
	tried := map[string]int{}
	for range 2 {
		client.ClearActions()
		clock.advance(time.Second)
		if _, err := g.reconcile(t.Context(), workloadKey(pods.Deployment, "web")); err == nil {
			t.Fatal("refused changes are no error")
		}
		for name := range patched(t, client.Actions()) {
			tried[name]++
		}
	}
	for i := range others {
		if name := fmt.Sprintf("a%02d", least+i); tried[name] != 1 {
			t.Errorf("pod %s was set aside %d times; want once", name, tried[name])
		}
	}
	if tried["a00"] != 2 {
		t.Errorf("a pod whose change was refused was tried %d times in two looks", tried["a00"])
	}
}

// TestDrainsCountOnOthersOnce has two pods that are set aside and still accept calls, and a replacement of one: one of them
// may drain, and each counts on the other only while that accepts calls, on a node that stays for now.
func TestDrainsCountOnOthersOnce(t *testing.T) {
	there := func(o metav1.Object) { o.(*corev1.Pod).Spec.NodeName = "node-2" }
	elsewhere := func(o metav1.Object) { o.(*corev1.Pod).Spec.NodeName = "node-3" }
	second := func(taints ...corev1.Taint) *corev1.Node {
		node := newNode(true, taints...)
		node.Name, node.UID = "node-2", "node-2"
		return node
	}
	third := newNode(false)
	third.Name, third.UID = "node-3", "node-3"
	removal := corev1.Taint{Key: "ToBeDeletedByClusterAutoscaler", Effect: corev1.TaintEffectNoSchedule}
	for name, tc := range map[string]struct {
		reason  string
		second  *corev1.Node
		leaving int // that the first counts on
		drain   int
	}{
		"BothStay": {reason: "One of them may drain.", second: second(), leaving: 1, drain: 1},
		"OneEnds":  {reason: "The other's node is being taken away, so the first is needed; the other is not counted on, and may.", second: second(removal), leaving: 0, drain: 1},
	} {
		t.Run(name, func(t *testing.T) {
			g, _ := newGuard(t, newNode(true), tc.second, third)
			g.planner.settings.RemovalDelay = 0
			s := newSnapshot(newDeployment("web", 2), newReplicaSet("1", 2), asidePod("a"), asidePod("b", there), webPod("c", elsewhere))
			p := g.plan(t.Context(), s, s.workload(workloadKey(pods.Deployment, "web")))
			drain := 0
			for _, j := range p.judged {
				if j.verdict.Outcome == verdict.Drain {
					drain++
				}
				if j.Name == "a" && j.facts.Workload.Leaving != tc.leaving {
					t.Errorf("%s The first counts on %d others that are set aside; want %d", tc.reason, j.facts.Workload.Leaving, tc.leaving)
				}
			}
			if drain != tc.drain {
				t.Errorf("%s %d pods are to drain; want %d: %+v", tc.reason, drain, tc.drain, p.judged)
			}
		})
	}
}
