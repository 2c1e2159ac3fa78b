// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"
)

func agentBudget(allowed int32, change ...func(*policyv1.PodDisruptionBudget)) []policyv1.PodDisruptionBudget {
	b := policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Namespace: "voice"},
		Spec:       policyv1.PodDisruptionBudgetSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "agent"}}},
		Status:     policyv1.PodDisruptionBudgetStatus{DisruptionsAllowed: allowed},
	}
	for _, c := range change {
		c(&b)
	}
	return []policyv1.PodDisruptionBudget{b}
}

// TestKarpenterDecides uses the pods that the real one was observed with, see docs/node-autoscalers.md, and those of its
// source.
func TestKarpenterDecides(t *testing.T) {
	pod := func(change ...func(*corev1.Pod)) *corev1.Pod {
		p := scaledPod("a", "ReplicaSet", "")
		for _, c := range change {
			c(p)
		}
		return p
	}
	aside := func(p *corev1.Pod) { p.OwnerReferences = nil; p.Annotations[doNotDisrupt] = "true" }
	tolerant := func(p *corev1.Pod) { p.Spec.Tolerations = []corev1.Toleration{{Operator: corev1.TolerationOpExists}} }
	deleted := func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{} }
	ended := func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }
	unready := func(p *corev1.Pod) {
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionFalse}}
	}
	locked := agentBudget(0)
	none := intstr.FromInt32(0)
	for name, tc := range map[string]struct {
		pod     *corev1.Pod
		budgets []policyv1.PodDisruptionBudget
		fate    fate
		ending  ending
		room    bool
	}{
		"Guarded":      {pod(), locked, forbids, evicted, true},
		"NeverAllowed": {pod(), agentBudget(0, func(b *policyv1.PodDisruptionBudget) { b.Spec.MaxUnavailable = &none }), forbids, evicted, false},
		"Aside":        {pod(aside), locked, forbids, awaited, false},
		"Tolerant":     {pod(tolerant), locked, moves, ignored, true},
		"Deleted":      {pod(deleted), locked, lasts, awaited, false},
		"AsideDeleted": {pod(aside, deleted), locked, lasts, awaited, false},
		"Ended":        {pod(ended), locked, goes, ignored, false},
		"TwoBudgets":   {pod(), slices.Concat(agentBudget(1), agentBudget(1)), forbids, evicted, false},
		"Allowed":      {pod(), agentBudget(1), moves, evicted, true},
		"Plain":        {pod(), nil, moves, evicted, true},
		"Bare":         {scaledPod("a", "", ""), nil, moves, evicted, true},
		"Unready":      {pod(unready), locked, forbids, evicted, true},
		"UnreadyMayGo": {pod(unready), agentBudget(0, func(b *policyv1.PodDisruptionBudget) {
			always := policyv1.AlwaysAllow
			b.Spec.UnhealthyPodEvictionPolicy = &always
		}), moves, evicted, true},
		"Daemon":       {scaledPod("a", "DaemonSet", ""), nil, goes, evicted, false},
		"DaemonStays":  {func() *corev1.Pod { p := scaledPod("a", "DaemonSet", ""); aside(p); return p }(), nil, forbids, awaited, false},
		"OfTheNode":    {scaledPod("a", "Node", ""), locked, goes, ignored, false},
		"ForClusterAu": {scaledPod("a", "ReplicaSet", "true"), locked, forbids, evicted, true},
	} {
		got := disruptionOf(tc.pod, tc.budgets)
		if got.fate != tc.fate || got.ending != tc.ending || got.room != tc.room {
			t.Errorf("%s: a pod that %s, and then %s, room is found for it %t (%s, %s); want one that %s, %s, %t",
				name, got.fate, got.ending, got.room, got.when, got.source, tc.fate, tc.ending, tc.room)
		}
	}
}

// townOf creates nodes of four pods each. It gets the number of plain and guarded pods of each node.
func townOf(pods map[string][2]int) estate {
	e := estate{
		scene: scene{pods: map[string][]*corev1.Pod{}, budgets: agentBudget(0)},
		slots: map[string]int{}, going: map[string]bool{}, quiet: map[string]bool{}, most: 10, asked: map[*corev1.Pod]disruption{},
	}
	for _, node := range slices.Sorted(maps.Keys(pods)) {
		if node != "" {
			e.nodes = append(e.nodes, corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node}})
			e.slots[node], e.quiet[node] = 4, true
		}
		for i := range pods[node][0] + pods[node][1] {
			p := scaledPod("p", "ReplicaSet", "")
			p.UID = types.UID(node + string(rune('0'+i)))
			if i < pods[node][0] {
				p.Labels = nil // not the workload's
			}
			e.pods[node] = append(e.pods[node], p)
		}
	}
	return e
}

// TestKarpenterConsolidates checks what it does with nodes, method by method.
func TestKarpenterConsolidates(t *testing.T) {
	for name, tc := range map[string]struct {
		pods   map[string][2]int // plain and guarded, by node
		change func(*estate)
		want   command
	}{
		"EmptyFirst":     {map[string][2]int{"a": {}, "b": {1, 0}, "c": {1, 0}}, nil, command{"Empty", []string{"a"}, 0}},
		"Guarded":        {map[string][2]int{"a": {0, 1}, "b": {0, 1}, "c": {1, 1}}, nil, command{}},
		"GuardedIsARoom": {map[string][2]int{"a": {0, 1}, "b": {1, 0}}, nil, command{"Underutilized, one", []string{"b"}, 0}},
		"SeveralAtOnce":  {map[string][2]int{"a": {1, 0}, "b": {2, 0}, "c": {1, 0}, "d": {3, 0}, "e": {4, 0}}, nil, command{"Underutilized, several at once", []string{"a", "c"}, 0}},
		"OneFits":        {map[string][2]int{"a": {3, 0}, "b": {3, 0}, "c": {1, 0}}, nil, command{"Underutilized, one", []string{"c"}, 0}},
		"NoRoom":         {map[string][2]int{"a": {3, 0}, "b": {3, 0}}, nil, command{}},
		"Replaced":       {map[string][2]int{"a": {2, 0}, "b": {4, 0}}, func(e *estate) { e.sizes = []int{1, 2, 4} }, command{"Underutilized, one", []string{"a"}, 2}},
		"NoSameType":     {map[string][2]int{"a": {4, 0}, "b": {4, 0}}, func(e *estate) { e.sizes = []int{4, 8} }, command{}},
		"ManyForOne":     {map[string][2]int{"a": {3, 0}, "b": {3, 0}}, func(e *estate) { e.sizes = []int{6} }, command{"Underutilized, several at once", []string{"a", "b"}, 6}},
		"BudgetOfNodes":  {map[string][2]int{"a": {}, "b": {}, "c": {}}, func(e *estate) { e.most = 2 }, command{"Empty", []string{"a", "b"}, 0}},
		"BudgetSpent":    {map[string][2]int{"a": {}, "b": {}}, func(e *estate) { e.most, e.going = 1, map[string]bool{"b": true} }, command{}},
		"NotQuiet":       {map[string][2]int{"a": {}, "b": {1, 0}}, func(e *estate) { delete(e.quiet, "a"); delete(e.quiet, "b") }, command{}},
		"PendingFirst":   {map[string][2]int{"a": {1, 0}, "b": {3, 0}, "": {1, 0}}, nil, command{}},
		"Aside":          {map[string][2]int{"a": {1, 0}, "b": {1, 0}}, func(e *estate) { e.pods["a"][0].Annotations[doNotDisrupt] = "true" }, command{"Underutilized, one", []string{"b"}, 0}},
	} {
		e := townOf(tc.pods)
		if tc.change != nil {
			tc.change(&e)
		}
		got := e.decide()
		if len(got.nodes) == 0 {
			got = command{}
		}
		if diff := cmp.Diff(tc.want, got, cmp.AllowUnexported(command{})); diff != "" {
			t.Errorf("%s: -want, +got:\n%s", name, diff)
		}
	}
}

// TestKarpenterAddsNoPhantom: it adds nodes for the pods of a node being deleted, but none for those that are aside.
func TestKarpenterAddsNoPhantom(t *testing.T) {
	e := townOf(map[string][2]int{"a": {0, 3}, "b": {4, 0}, "": {0, 3}})
	e.going["a"] = true
	if n := e.provisions(4); n != 2 {
		t.Errorf("%d nodes for three pods that wait and three that are locked; want 2", n)
	}
	for _, p := range e.pods["a"] {
		p.Annotations[doNotDisrupt] = "true"
	}
	clear(e.asked)
	if n := e.provisions(4); n != 1 {
		t.Errorf("%d nodes for three pods that wait and three that are aside; want 1", n)
	}
}

// TestKarpenterTakesItsTime: a node is removed when it has been quiet for long enough and is still empty at the second
// check.
func TestKarpenterTakesItsTime(t *testing.T) {
	times := RealKarpenterTimes()
	times.After = time.Minute
	began := time.Date(2026, 11, 1, 9, 0, 0, 0, time.UTC)
	goes := func(town func(after time.Duration) map[string][2]int) (at time.Duration) {
		p := planner{KarpenterTimes: times}
		for at := time.Duration(0); at < 5*time.Minute; at += time.Second {
			e := townOf(town(at))
			e.quiet = p.quiet(e.scene, began.Add(at))
			if c := p.act(e, began.Add(at)); slices.Contains(c.nodes, "a") {
				return at
			}
		}
		return -1
	}
	if at := goes(func(at time.Duration) map[string][2]int {
		return map[string][2]int{"a": {0, max(0, 1-int(at/(30*time.Second)))}, "b": {0, 4}}
	}); at < 105*time.Second || at > 116*time.Second {
		t.Errorf("a node that was empty after 30 s goes after %s; want a minute, up to 10 s until it looks, and 15 s", at)
	}
	if at := goes(func(at time.Duration) map[string][2]int {
		return map[string][2]int{"a": {0, int(at / (65 * time.Second))}, "b": {0, 4}}
	}); at >= 0 {
		t.Errorf("a node that got a pod while it looked again goes after %s", at)
	}
}

// karpenterOn returns a Karpenter with nodes a and b, and a pod on b if one is given.
func karpenterOn(t *testing.T, pods ...runtime.Object) (*Karpenter, *fake.Clientset) {
	t.Helper()
	client := fake.NewClientset(append(pods, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "a"}}, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "b"}})...)
	return &Karpenter{
		Client: client, Slots: 4, Budget: 100, Times: KarpenterTimes{Poll: time.Millisecond},
		Remove: func(context.Context, string) error { return nil },
		Log:    slog.New(slog.NewTextHandler(t.Output(), nil)),
		slots:  map[string]int{}, going: map[string]time.Time{},
	}, client
}

func taintsOf(t *testing.T, client *fake.Clientset, node string) []corev1.Taint {
	t.Helper()
	n, err := client.CoreV1().Nodes().Get(t.Context(), node, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return n.Spec.Taints
}

// TestKarpenterGivesUp if the replacement of a node does not arrive, and removes its taint.
func TestKarpenterGivesUp(t *testing.T) {
	k, client := karpenterOn(t)
	k.Add = func(ctx context.Context, _ int) (string, error) {
		n, err := client.CoreV1().Nodes().Get(ctx, "a", metav1.GetOptions{})
		if err != nil || len(n.Spec.Taints) != 1 {
			t.Errorf("a node is replaced before it is tainted: %v, %v", n.Spec.Taints, err)
		}
		return "", errors.New("no such machine")
	}
	if err := k.start(t.Context(), command{nodes: []string{"a"}, size: 2}); err != nil {
		t.Fatal(err)
	}
	if _, gaveUp := k.Removed(); gaveUp != 1 || len(k.going) > 0 || len(taintsOf(t, client, "a")) > 0 {
		t.Errorf("gave up %d times, deletes %v, %v", gaveUp, k.going, taintsOf(t, client, "a"))
	}
}

// TestKarpenterDrains as long as an eviction is refused, and then removes the node.
func TestKarpenterDrains(t *testing.T) {
	pod := scaledPod("p", "ReplicaSet", "")
	pod.Spec.NodeName = "b"
	k, client := karpenterOn(t, pod)
	k.Times.Drain = time.Nanosecond
	asked, refuse := 0, true
	client.PrependReactor("create", "pods", func(action k8stesting.Action) (bool, runtime.Object, error) {
		if action.GetSubresource() != "eviction" {
			return false, nil, nil
		}
		if asked++; refuse {
			return true, nil, apierrors.NewTooManyRequests("a call", 1)
		}
		return true, nil, client.Tracker().Delete(corev1.SchemeGroupVersion.WithResource("pods"), "voice", "p")
	})
	if err := k.start(t.Context(), command{nodes: []string{"b"}}); err != nil {
		t.Fatal(err)
	}
	for range 20 {
		if err := k.look(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if removed, _ := k.Removed(); slices.Contains(removed, "b") || asked < 20 || len(taintsOf(t, client, "b")) != 1 {
		t.Fatalf("removed %v after %d evictions that were refused", removed, asked)
	}
	refuse = false
	for range 3 {
		if err := k.look(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if removed, gaveUp := k.Removed(); !slices.Contains(removed, "b") || gaveUp > 0 {
		t.Errorf("removed %v, gave up %d times; want b gone", removed, gaveUp)
	}
}
