// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/pods"
)

func condition(kind corev1.NodeConditionType, status corev1.ConditionStatus) func(*corev1.Node) {
	return func(n *corev1.Node) {
		n.Status.Conditions = append(n.Status.Conditions, corev1.NodeCondition{Type: kind, Status: status})
	}
}

func taint(key string, effect corev1.TaintEffect) func(*corev1.Node) {
	return func(n *corev1.Node) { n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: key, Effect: effect}) }
}

// TestNotice has a pod on a node that is announced to go, and checks after what time it is set aside.
func TestNotice(t *testing.T) {
	const never = -1
	const noSchedule = corev1.TaintEffectNoSchedule
	deleted := func(n *corev1.Node) {
		n.Finalizers, n.DeletionTimestamp = []string{"karpenter.sh/termination"}, &metav1.Time{Time: noon()}
	}
	cases := map[string]struct {
		reason string
		change func(*corev1.Node)
		after  int // seconds
	}{
		"Spot":              {reason: "AWS Node Termination Handler: two minutes.", change: taint("aws-node-termination-handler/spot-itn", noSchedule)},
		"SpotNoExecute":     {reason: "With whatever effect.", change: taint("aws-node-termination-handler/spot-itn", corev1.TaintEffectNoExecute)},
		"Maintenance":       {reason: "The same: the instance is retired or restarted.", change: taint("aws-node-termination-handler/scheduled-maintenance", noSchedule)},
		"ScalingGroup":      {reason: "The same: its Auto Scaling group ends it.", change: taint("aws-node-termination-handler/asg-lifecycle-termination", noSchedule)},
		"GKE":               {reason: "GKE: seconds.", change: taint("cloud.google.com/impending-node-termination", noSchedule)},
		"AKS":               {reason: "AKS drains the node.", change: taint("remediator.kubernetes.azure.com/unschedulable", noSchedule)},
		"AKSLoadBalancer":   {reason: "Azure's cloud provider takes it out of the load balancers.", change: taint("cloudprovider.azure.microsoft.com/draining", noSchedule)},
		"AKSPreempt":        {reason: "AKS: 30 seconds.", change: condition("PreemptScheduled", corev1.ConditionTrue)},
		"AKSPreemptNew":     {reason: "Under its other name.", change: condition("PreemptionScheduled", corev1.ConditionTrue)},
		"AKSTerminate":      {reason: "The machine is deleted.", change: condition("TerminateScheduled", corev1.ConditionTrue)},
		"AKSRedeploy":       {reason: "It moves, and counts from zero.", change: condition("RedeployScheduled", corev1.ConditionTrue)},
		"AKSReboot":         {reason: "It counts from zero.", change: condition("RebootScheduled", corev1.ConditionTrue)},
		"AKSFreeze":         {reason: "A pause of seconds ends no call.", change: condition("FreezeScheduled", corev1.ConditionTrue), after: never},
		"AKSOver":           {reason: "The condition is there for all nodes, and says so only where it is true.", change: condition("PreemptScheduled", corev1.ConditionFalse), after: never},
		"KarpenterDeletes":  {reason: "A deleted node is final: no autoscaler reverts that.", change: deleted},
		"KarpenterTaints":   {reason: "Of a taint alone it may.", change: taint("karpenter.sh/disrupted", noSchedule), after: 30},
		"ClusterAutoscaler": {reason: "So may this one.", change: taint("ToBeDeletedByClusterAutoscaler", noSchedule), after: 30},
		"Candidate":         {reason: "An unneeded node counts after a while.", change: taint("DeletionCandidateOfClusterAutoscaler", corev1.TaintEffectPreferNoSchedule), after: 300},
		"Rebalance":         {reason: "A recommendation does not end a node: whoever follows it cordons.", change: taint("aws-node-termination-handler/rebalance-recommendation", noSchedule), after: never},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			clock := &moving{}
			g, client := newGuardBy(t, clock.now, lockingBudget(), enabledNamespace(), newNode(false), newDeployment("web", 1), newReplicaSet("1", 1), webPod("a"))
			g.planner.settings = DefaultSettings()
			node := newNode(false)
			tc.change(node)
			nodeIs(t, g, client, node)
			looksAt := func(seconds int) map[string][]string {
				clock.set(time.Duration(seconds) * time.Second)
				if _, err := g.reconcile(t.Context(), workloadKey(pods.Deployment, "web")); err != nil {
					t.Fatal(err)
				}
				return patched(t, client.Actions())
			}
			if tc.after == never {
				if got := looksAt(3600); len(got) > 0 {
					t.Errorf("%s\nafter an hour %v", tc.reason, got)
				}
				return
			}
			if tc.after > 0 {
				if got := looksAt(tc.after - 1); len(got) > 0 {
					t.Errorf("%s\nafter %d s %v", tc.reason, tc.after-1, got)
				}
			}
			if got := looksAt(tc.after); len(got["a"]) == 0 {
				t.Errorf("%s\nafter %d s nothing is written", tc.reason, tc.after)
			}
		})
	}
}

// TestTwoMinutes has three pods with calls on a node that goes in two minutes: all are replaced at once, all stop accepting
// calls as soon as one other accepts them, and an Event names each whose calls may be cut.
func TestTwoMinutes(t *testing.T) {
	spot := newNode(false)
	taint("aws-node-termination-handler/spot-itn", corev1.TaintEffectNoSchedule)(spot)
	clock := &moving{}
	g, client := newGuardBy(t, clock.now, lockingBudget(), enabledNamespace(), newNode(false), newDeployment("web", 4), newReplicaSet("1", 4),
		webPod("a"), webPod("b"), webPod("c"), webPod("d", func(o metav1.Object) { o.(*corev1.Pod).Spec.NodeName = "node-2" }))
	told := hear(g)
	nodeIs(t, g, client, spot)
	for _, seconds := range []int{0, 1, 2, 8} {
		clock.set(time.Duration(seconds) * time.Second)
		if _, err := g.reconcile(t.Context(), workloadKey(pods.Deployment, "web")); err != nil {
			t.Fatal(err)
		}
		settled(t, g, client)
	}
	for _, name := range []string{"a", "b", "c"} {
		pod, err := client.CoreV1().Pods(voice).Get(t.Context(), name, metav1.GetOptions{})
		if err != nil || call.StateOf(pod.Labels, pod.Annotations) != call.Draining || pod.Annotations[call.AsideAnnotation] == "" {
			t.Errorf("pod %s is not set aside and draining: %v %v, %v", name, pod.Labels, pod.Annotations, err)
		}
		want := "Warning Held on Pod voice/" + name + ": Pod voice/" + name + " stays (drain): its witness rooms cannot tell whether it holds calls: there is no answer yet; " +
			"its node goes within minutes (taint aws-node-termination-handler/spot-itn), and calls that last longer end with it"
		if !slices.Contains(told(), want) {
			t.Errorf("no Event names %s:\n%v", name, told())
		}
	}
}

// settled waits until the informers have the latest writes.
func settled(t *testing.T, g *Guard, client *fake.Clientset) {
	t.Helper()
	eventually(t, "the informers know what was written", func() bool {
		list, err := client.CoreV1().Pods(voice).List(t.Context(), metav1.ListOptions{})
		if err != nil {
			return false
		}
		return !slices.ContainsFunc(list.Items, func(pod corev1.Pod) bool {
			known, err := g.cluster.pods.Pods(voice).Get(pod.Name)
			return err != nil || !maps.Equal(known.Labels, pod.Labels) || known.Annotations[call.DrainingAnnotation] != pod.Annotations[call.DrainingAnnotation]
		})
	})
}

// TestCandidate: Cluster Autoscaler marks a node of two pods, and removes the mark when one of them has begun to leave.
func TestCandidate(t *testing.T) {
	marked := newNode(false)
	taint(candidateTaint, corev1.TaintEffectPreferNoSchedule)(marked)
	elsewhere := func(o metav1.Object) { o.(*corev1.Pod).Spec.NodeName = "node-2" }
	clock := &moving{}
	g, client := newGuardBy(t, clock.now, lockingBudget(), enabledNamespace(), newNode(false), newDeployment("web", 3), newReplicaSet("1", 3), webPod("a"), webPod("b"), webPod("c", elsewhere))
	g.planner.settings = DefaultSettings()
	g.planner.settings.Limits.MaxHold = time.Minute
	look := func(after time.Duration) (wrote []string) {
		t.Helper()
		clock.advance(after)
		client.ClearActions()
		if _, err := g.reconcile(t.Context(), workloadKey(pods.Deployment, "web")); err != nil {
			t.Fatal(err)
		}
		for _, action := range client.Actions() {
			if action.Matches("patch", "nodes") || action.Matches("update", "nodes") {
				t.Errorf("a node is written: %v", action)
			}
		}
		wrote = slices.Sorted(maps.Keys(patched(t, client.Actions())))
		settled(t, g, client)
		return wrote
	}
	is := func(what string, want, got []string) {
		t.Helper()
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: -want, +got:\n%s", what, diff)
		}
	}
	nodeIs(t, g, client, marked)
	is("a mark that is new", nil, look(4*time.Minute))
	nodeIs(t, g, client, newNode(false))
	nodeIs(t, g, client, marked)
	is("one that comes again counts anew", nil, look(4*time.Minute))
	is("after five minutes one goes, for one replacement comes at a time", []string{"a"}, look(time.Minute))
	nodeIs(t, g, client, newNode(false))
	is("the mark is taken off, and nobody else goes", nil, look(time.Minute))
	pod, err := client.CoreV1().Pods(voice).Get(t.Context(), "a", metav1.GetOptions{})
	if err != nil || call.StateOf(pod.Labels, pod.Annotations) != call.Aside {
		t.Errorf("pods that have begun to leave should continue: %v, %v", pod.Labels, err)
	}
	nodeIs(t, g, client, marked)
	if _, err := client.CoreV1().Pods(voice).Create(t.Context(), webPod("e", elsewhere), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	settled(t, g, client)
	look(6 * time.Minute)
	for range 10 { // their calls are not known, and --max-hold has long been over
		look(30 * time.Second)
	}
	for _, name := range []string{"a", "b"} {
		pod, err := client.CoreV1().Pods(voice).Get(t.Context(), name, metav1.GetOptions{})
		if err != nil || call.IsReleased(pod.Labels) || pod.Annotations[call.AsideAnnotation] == "" {
			t.Errorf("pod %s is not aside, and held for what may be calls: %v %v, %v", name, pod.Labels, pod.Annotations, err)
		}
	}
}

// TestCameToACandidate has pods on a node that Cluster Autoscaler has marked: a pod that was created after the mark counted
// would come back there, and stays.
func TestCameToACandidate(t *testing.T) {
	marked := newNode(false)
	taint(candidateTaint, corev1.TaintEffectPreferNoSchedule)(marked)
	for came, want := range map[time.Duration]bool{-time.Minute: false, time.Minute: false, 6 * time.Minute: true} {
		clock := &moving{}
		g, _ := newGuardBy(t, clock.now, lockingBudget(), marked)
		g.planner.settings = DefaultSettings()
		g.planner.dates = newDates(g.clock)
		pod := webPod("a")
		events := map[time.Duration]func(){0: func() { g.nodeChanged(newNode(false), marked) }, came: func() { g.podChanged(nil, pod) }}
		for _, at := range slices.Sorted(maps.Keys(events)) {
			clock.set(at)
			events[at]()
		}
		clock.set(10 * time.Minute)
		s := newSnapshot(newDeployment("web", 1), newReplicaSet("1", 1), pod)
		m := s.member(pod)
		m.causes = g.planner.causes(s, m)
		if got := g.planner.cameSince(m); got != want {
			t.Errorf("a pod that came %s after the mark came since: %t, want %t", came, got, want)
		}
	}
}
