// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	clienttesting "k8s.io/client-go/testing"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/pods"
	"github.com/callguard/callguard/pkg/verdict"
)

func newNode(cordoned bool, taints ...corev1.Taint) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-1", UID: "node-1"}, Spec: corev1.NodeSpec{Unschedulable: cordoned, Taints: taints}}
}

// TestDates: a fact without a time of its own gets a new time each time it appears. With the old time, a newer pod
// would be held as one that was created afterwards.
func TestDates(t *testing.T) {
	gone := corev1.Taint{Key: "example.com/gone", Effect: corev1.TaintEffectNoExecute}
	cases := map[string]struct {
		reason string
		node   *corev1.Node
		date   func(cordoned, tainted, lost time.Time) time.Time
	}{
		"Cordon":     {reason: "kubectl cordon.", node: newNode(true), date: func(cordoned, _, _ time.Time) time.Time { return cordoned }},
		"ByTaint":    {reason: "Somebody sets the cordon's taint by hand.", node: newNode(false, corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule}), date: func(cordoned, _, _ time.Time) time.Time { return cordoned }},
		"Autoscaler": {reason: "Cluster Autoscaler removes its mark.", node: newNode(false, corev1.Taint{Key: "ToBeDeletedByClusterAutoscaler", Effect: corev1.TaintEffectNoSchedule}), date: func(_, tainted, _ time.Time) time.Time { return tainted }},
		"Custom":     {reason: "kubectl taint dates nothing.", node: newNode(false, gone), date: func(_, tainted, _ time.Time) time.Time { return tainted }},
		"Lost":       {reason: "Whoever taints it.", node: newNode(false, corev1.Taint{Key: corev1.TaintNodeUnreachable, Effect: corev1.TaintEffectNoExecute}), date: func(_, _, lost time.Time) time.Time { return lost }},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			g, _ := newGuard(t)
			now := noon()
			g.now = func() time.Time { return now }
			date := func() time.Time { return tc.date(nodeCauses(tc.node, newPod("a"), g.planner.seen)) }
			if got := date(); !got.Equal(noon()) {
				t.Errorf("%s\nfirst seen %s", tc.reason, got)
			}
			now = now.Add(time.Minute)
			g.nodeChanged(tc.node, tc.node)
			if got := date(); !got.Equal(noon()) {
				t.Errorf("%s\na minute later it was first seen %s", tc.reason, got)
			}
			g.nodeChanged(tc.node, newNode(false))
			now = now.Add(time.Minute)
			if got := date(); !got.Equal(now) {
				t.Errorf("%s\nit was away, and came back at %s; it is dated %s", tc.reason, now, got)
			}
			g.nodeChanged(tc.node, nil)
			if len(g.planner.dates.at) != 0 {
				t.Errorf("%s\na node is gone and this is not: %v", tc.reason, g.planner.dates.at)
			}
		})
	}
}

func TestForget(t *testing.T) {
	g, _ := newGuard(t)
	pod := webPod("a")
	s := newSnapshot()
	key := workloadKey(pods.ReplicaSet, "web-1")
	g.keys[s.member(pod).UID] = key
	for _, f := range []fact{orphaned, askedToGo, isReleased} {
		g.planner.dates.first(occasion{of: "a", fact: f})
	}
	g.podChanged(pod, nil)
	if len(g.planner.dates.at)+len(g.keys) != 0 {
		t.Errorf("a pod is gone and this is not: %v, %v", g.planner.dates.at, g.keys)
	}
}

func TestDeletesOnce(t *testing.T) {
	g, _ := newGuard(t)
	now := noon()
	g.now = func() time.Time { return now }
	if !g.deletes("a") || g.deletes("a") || !g.deletes("b") {
		t.Error("each pod is deleted once")
	}
	g.forgetDelete("a")
	if !g.deletes("a") {
		t.Error("what failed is tried again")
	}
	now = now.Add(deletedFor + time.Second)
	if !g.deletes("b") {
		t.Error("a pod that is still there after so long is deleted again")
	}
}

// TestLeaseExpired judges a node by whether its lease changes. The time in the lease is by the node's clock, which may
// be wrong by any amount.
func TestLeaseExpired(t *testing.T) {
	const forty = 40 * time.Second
	said := func(d time.Duration) *metav1.MicroTime { return &metav1.MicroTime{Time: noon().Add(d)} }
	seconds := int32(40)
	type look struct {
		after   time.Duration // noon, by the guard's clock
		renewed *metav1.MicroTime
		want    bool
	}
	cases := map[string]struct {
		reason string
		none   bool
		length *int32
		looks  []look
	}{
		"None":     {reason: "A node that is gone has none.", none: true, looks: []look{{want: true}}},
		"Renewed":  {reason: "The node reports.", length: &seconds, looks: []look{{0, said(0), false}, {time.Minute, said(time.Minute), false}, {2 * time.Minute, said(2 * time.Minute), false}}},
		"LastTime": {reason: "The lease holds to its last moment.", length: &seconds, looks: []look{{0, said(0), false}, {forty, said(0), false}}},
		"Expired":  {reason: "The node does not report.", length: &seconds, looks: []look{{0, said(0), false}, {forty + time.Microsecond, said(0), true}}},
		"Old":      {reason: "A guard that starts has not seen for how long.", length: &seconds, looks: []look{{0, said(-time.Hour), false}, {forty, said(-time.Hour), false}, {forty + time.Second, said(-time.Hour), true}}},
		"Ahead":    {reason: "The clock of a node that died was an hour ahead.", length: &seconds, looks: []look{{0, said(time.Hour), false}, {forty + 1, said(time.Hour), true}}},
		"Behind":   {reason: "The clock of a node that reports is an hour behind.", length: &seconds, looks: []look{{0, said(-time.Hour), false}, {forty + 1, said(time.Minute - time.Hour), false}}},
		"Returns":  {reason: "It reports again.", length: &seconds, looks: []look{{0, said(0), false}, {forty + 1, said(0), true}, {time.Minute, said(time.Minute), false}}},
		"NoTime":   {reason: "An unknown node does not count as lost.", length: &seconds, looks: []look{{0, nil, false}, {time.Hour, nil, false}}},
		"NoLength": {reason: "An unknown node does not count as lost.", looks: []look{{0, said(0), false}, {time.Hour, said(0), false}}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			g, client := newGuard(t)
			leases := client.CoordinationV1().Leases(corev1.NamespaceNodeLease)
			lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: corev1.NamespaceNodeLease, Name: "node-1"}, Spec: coordinationv1.LeaseSpec{LeaseDurationSeconds: tc.length}}
			if !tc.none {
				if _, err := leases.Create(t.Context(), lease, metav1.CreateOptions{}); err != nil {
					t.Fatal(err)
				}
			}
			for _, l := range tc.looks {
				if lease.Spec.RenewTime = l.renewed; !tc.none {
					if _, err := leases.Update(t.Context(), lease, metav1.UpdateOptions{}); err != nil {
						t.Fatal(err)
					}
				}
				g.now = func() time.Time { return noon().Add(l.after) }
				g.leases.read(t.Context(), "node-1")
				if got, err := g.leases.expired("node-1"); err != nil || got != l.want {
					t.Errorf("%s After %s: got %t, %v", tc.reason, l.after, got, err)
				}
			}
			g.nodeChanged(newNode(false), nil)
			if len(g.leases.seen) != 0 {
				t.Errorf("%s The node is gone and this is not: %v", tc.reason, g.leases.seen)
			}
		})
	}
}

// patched returns the annotations and labels that a Guard writes, by pod.
func patched(t *testing.T, actions []clienttesting.Action) map[string][]string {
	t.Helper()
	written := map[string][]string{}
	for _, action := range actions {
		patch, ok := action.(clienttesting.PatchAction)
		if !ok {
			continue
		}
		var body struct {
			Metadata struct{ Labels, Annotations map[string]string }
		}
		if err := json.Unmarshal(patch.GetPatch(), &body); err != nil {
			t.Fatal(err)
		}
		var keys []string
		for _, values := range []map[string]string{body.Metadata.Labels, body.Metadata.Annotations} {
			for key, value := range values {
				keys = append(keys, key+"="+value)
			}
		}
		slices.Sort(keys)
		written[patch.GetName()] = append(written[patch.GetName()], keys...)
	}
	return written
}

func TestReconcile(t *testing.T) {
	cordoned := newNode(true)
	elsewhere := func(o metav1.Object) { o.(*corev1.Pod).Spec.NodeName = "node-2" }
	asideAt := func(name string) []string {
		return []string{
			"callguard.dev/aside=" + name, "callguard.dev/autoscalers-before=cluster-autoscaler.kubernetes.io/safe-to-evict=,karpenter.sh/do-not-disrupt=",
			"callguard.dev/hash=1", "cluster-autoscaler.kubernetes.io/safe-to-evict=on-completion", "karpenter.sh/do-not-disrupt=true", "pod-template-hash=1-aside",
		}
	}
	cases := map[string]struct {
		reason  string
		objects []runtime.Object
		want    map[string][]string
	}{
		"Steady": {reason: "A steady cluster costs no write.", objects: []runtime.Object{newNode(false), newDeployment("web", 2), newReplicaSet("1", 2), webPod("a"), webPod("b")}, want: map[string][]string{}},
		"OneByOne": {
			reason:  "A surge of one is one replacement on its way at a time.",
			objects: []runtime.Object{cordoned, newDeployment("web", 2), newReplicaSet("1", 2), webPod("a"), webPod("b")},
			want:    map[string][]string{"a": asideAt("drain 2026-01-01T12:00:00Z")},
		},
		"ReplacementNotReady": {
			reason:  "The only pod of a workload takes calls until its replacement does.",
			objects: []runtime.Object{cordoned, newDeployment("web", 1), newReplicaSet("1", 1), asidePod("a"), webPod("b", elsewhere, unready)},
			want:    map[string][]string{},
		},
		"ReplacementReady": {
			reason:  "Then it stops.",
			objects: []runtime.Object{cordoned, newDeployment("web", 1), newReplicaSet("1", 1), asidePod("a"), webPod("b", elsewhere)},
			want:    map[string][]string{"a": {"callguard.dev/draining=drain 2026-01-01T12:00:00Z"}},
		},
		"ScaledDown": {
			reason:  "All leave, so no choice is needed; pods that run nothing are not set aside.",
			objects: []runtime.Object{newNode(false), newDeployment("web", 0), newReplicaSet("1", 0), webPod("a"), webPod("b", ended)},
			want:    map[string][]string{"a": asideAt("scale-down 2026-01-01T12:00:00Z"), "b": {"callguard.dev/draining=scale-down 2026-01-01T12:00:00Z"}},
		},
		"Choosing": {
			reason:  "The choice waits until the witnesses had time to answer.",
			objects: []runtime.Object{newNode(false), newDeployment("web", 1), newReplicaSet("1", 1), webPod("a"), webPod("b")},
			want:    map[string][]string{},
		},
		"NotEnabled": {
			reason: "Elsewhere the label has no effect.",
			objects: []runtime.Object{
				cordoned, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: voice}}, newDeployment("web", 1), newReplicaSet("1", 1), webPod("a"),
			},
			want: map[string][]string{},
		},
		"DeploymentGone": {
			reason:  "Its pods are orphans, and stop where they are.",
			objects: []runtime.Object{newNode(false), asidePod("a")},
			want:    map[string][]string{"a": {"callguard.dev/draining=orphan 2026-01-01T12:00:00Z"}},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			objects := tc.objects
			if name != "NotEnabled" {
				objects = append(objects, enabledNamespace())
			}
			g, client := newGuard(t, objects...)
			if _, err := g.reconcile(t.Context(), workloadKey(pods.Deployment, "web")); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, patched(t, client.Actions())); diff != "" {
				t.Errorf("%s\n-want, +got:\n%s", tc.reason, diff)
			}
		})
	}
}

// TestChoice chooses which of two pods leaves. A reading from before there was a surplus may show a call that has
// ended since: it only counts if no newer one arrives.
func TestChoice(t *testing.T) {
	before, after := noon().Add(-time.Millisecond), noon().Add(time.Second)
	one := call.Known(1, after)
	cases := map[string]struct {
		reason string
		a, b   call.Reading
		// room is LiveKit's answer about b, if it differs from its agent's.
		room   *call.Reading
		waited time.Duration
		want   []string
	}{
		"BothAfter":     {reason: "The idle one leaves.", a: call.Known(1, after), b: call.Known(0, after), waited: 2 * time.Second, want: []string{"b"}},
		"Before":        {reason: "The call of b may be over.", a: call.Known(1, after), b: call.Known(1, before), waited: chooseWithin - time.Second},
		"BeforeForLong": {reason: "Nothing newer comes.", a: call.Known(2, before), b: call.Known(1, before), waited: chooseWithin, want: []string{"b"}},
		"Unknown":       {reason: "It may hold no call.", a: call.Known(1, after), b: call.Unknown("no route"), waited: chooseWithin - time.Second},
		"UnknownForLong": {reason: "It may hold any number.", a: call.Known(1, after), b: call.Unknown("no route"), waited: chooseWithin,
			want: []string{"a"}},
		"Disagree":        {reason: "LiveKit may not have seen its end.", a: call.Known(1, after), b: call.Known(0, after), room: &one, waited: chooseWithin - time.Second},
		"DisagreeForLong": {reason: "The agent may still be in the room.", a: call.Known(0, after), b: call.Known(0, after), room: &one, waited: chooseWithin, want: []string{"a"}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			g, client := newGuard(t, enabledNamespace(), newNode(false), newDeployment("web", 1), newReplicaSet("1", 1), webPod("a"), webPod("b"))
			look := func() {
				t.Helper()
				if _, err := g.reconcile(t.Context(), workloadKey(pods.Deployment, "web")); err != nil {
					t.Fatal(err)
				}
			}
			look() // from noon on there is one too many
			for pod, reading := range map[types.UID]call.Reading{"a": tc.a, "b": tc.b} {
				said := map[call.Witness]verdict.Reading{}
				for _, w := range []call.Witness{call.Rooms, call.Worker} {
					said[w] = verdict.Reading{Witness: w, Reading: reading}
				}
				if pod == "b" && tc.room != nil {
					said[call.Rooms] = verdict.Reading{Witness: call.Rooms, Reading: *tc.room}
				}
				g.readings.records[pod] = &entry{last: said}
			}
			g.now = func() time.Time { return noon().Add(tc.waited) }
			look()
			if diff := cmp.Diff(tc.want, slices.Sorted(maps.Keys(patched(t, client.Actions())))); diff != "" {
				t.Errorf("%s\n-want, +got:\n%s", tc.reason, diff)
			}
		})
	}
}

// TestEmptiesNodes has one surplus pod. Its node is chosen by all guarded pods that stay there, including those of
// other workloads.
func TestEmptiesNodes(t *testing.T) {
	on := func(node string) edit { return func(o metav1.Object) { o.(*corev1.Pod).Spec.NodeName = node } }
	elsewhere := func(o metav1.Object) { o.SetNamespace("elsewhere") }
	busy := map[types.UID]int{"c": 3}
	cases := map[string]struct {
		reason string
		order  verdict.Order
		beside []runtime.Object
		want   []string
	}{
		"Packed":      {reason: "Its node has no other pods; its calls go on while it is aside.", order: verdict.Packed, want: []string{"c"}},
		"FewestCalls": {reason: "Where calls alone count, an idle one.", order: verdict.FewestCalls, want: []string{"a"}},
		"OthersStay": {
			reason: "The node would not get empty.", order: verdict.Packed, want: []string{"a"},
			beside: []runtime.Object{dbPod("db-0", "new", on("node-2")), newPod("x", on("node-2"), elsewhere)},
		},
		"OthersLeave": {
			reason: "It will be empty when their calls are over.", order: verdict.Packed, want: []string{"c"},
			beside: []runtime.Object{dbPod("db-0", "new", on("node-2"), draining), newPod("x", on("node-2"), elsewhere, label(call.ReleasedLabel, "drain"))},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			g, client := newGuard(t, append(tc.beside, enabledNamespace(), newNode(false), newDeployment("web", 2), newReplicaSet("1", 2),
				webPod("a"), webPod("b"), webPod("c", on("node-2")))...)
			g.planner.settings.Leavers = tc.order
			look := func() {
				t.Helper()
				if _, err := g.reconcile(t.Context(), workloadKey(pods.Deployment, "web")); err != nil {
					t.Fatal(err)
				}
			}
			look()
			for _, pod := range []types.UID{"a", "b", "c"} {
				said := map[call.Witness]verdict.Reading{}
				for _, w := range call.DefaultWitnesses() {
					said[w] = verdict.Reading{Witness: w, Reading: call.Known(busy[pod], noon().Add(time.Second))}
				}
				g.readings.records[pod] = &entry{last: said}
			}
			g.now = func() time.Time { return noon().Add(2 * time.Second) }
			look()
			if diff := cmp.Diff(tc.want, slices.Sorted(maps.Keys(patched(t, client.Actions())))); diff != "" {
				t.Errorf("%s\n-want, +got:\n%s", tc.reason, diff)
			}
		})
	}
}

// TestLeaseUnread cannot read whether a node is lost. That holds its pods, with the reason; pods of the same workload
// elsewhere can leave.
func TestLeaseUnread(t *testing.T) {
	lost := newNode(false, corev1.Taint{Key: corev1.TaintNodeUnreachable, Effect: corev1.TaintEffectNoExecute})
	cordoned := newNode(true)
	cordoned.Name, cordoned.UID = "node-2", "node-2"
	g, client := newGuard(t, enabledNamespace(), lost, cordoned, newDeployment("web", 2), newReplicaSet("1", 2),
		asidePod("a", draining), asidePod("b", func(o metav1.Object) { o.(*corev1.Pod).Spec.NodeName = "node-2" }),
		webPod("c", func(o metav1.Object) { o.(*corev1.Pod).Spec.NodeName = "node-3" }),
		webPod("d", func(o metav1.Object) { o.(*corev1.Pod).Spec.NodeName = "node-3" }))
	client.PrependReactor("get", "leases", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, errors.New("forbidden")
	})
	told := hear(g)
	for _, now := range []time.Time{noon(), noon().Add(tellAfter)} {
		g.now = func() time.Time { return now }
		if _, err := g.reconcile(t.Context(), workloadKey(pods.Deployment, "web")); err != nil {
			t.Fatal(err)
		}
	}
	want := map[string][]string{"b": {"callguard.dev/draining=drain 2026-01-01T12:00:00Z"}}
	if diff := cmp.Diff(want, patched(t, client.Actions())); diff != "" {
		t.Errorf("-want, +got:\n%s", diff)
	}
	if said := told(); !slices.ContainsFunc(said, func(event string) bool {
		return strings.Contains(event, "cannot read the lease of node node-1: forbidden")
	}) {
		t.Errorf("the Events do not say why pod a is held: %v", said)
	}
}

// TestStandsBy: two guards both see a pod deleted despite the policies. Only the leading one reports it. When it no
// longer leads, it holds nothing.
func TestStandsBy(t *testing.T) {
	g, _ := newGuard(t, enabledNamespace(), newNode(false))
	told := hear(g)
	pod := webPod("a")
	g.podChanged(pod, webPod("a", deleted))
	if said := told(); len(said) > 0 {
		t.Errorf("the standby reports %v", said)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- g.Lead(ctx) }()
	eventually(t, "it leads", g.Leads)
	g.podChanged(pod, webPod("a", deleted))
	if said := told(); len(said) != 1 || !strings.Contains(said[0], ReasonDeletedWhileLocked) {
		t.Errorf("the one that leads says %v", said)
	}
	g.report.holds(&workload{}, judgement{member: (&snapshot{}).member(pod)}, false)
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if len(g.report.held) > 0 {
		t.Errorf("it does not lead any more, and holds %v", g.report.held)
	}
}

// TestHoldsEnd disables a namespace in the middle of a drain: its pods are no longer held.
func TestHoldsEnd(t *testing.T) {
	g, client := newGuard(t, enabledNamespace(), newNode(true), newDeployment("web", 1), newReplicaSet("1", 1), asidePod("a"))
	look := func() {
		t.Helper()
		if _, err := g.reconcile(t.Context(), workloadKey(pods.Deployment, "web")); err != nil {
			t.Fatal(err)
		}
	}
	look()
	if n := len(g.report.holding()); n != 1 {
		t.Fatalf("%d pods are held; want the only one of its workload", n)
	}
	ns := enabledNamespace()
	ns.Labels = nil
	if _, err := client.CoreV1().Namespaces().Update(t.Context(), ns, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the namespace is known to be disabled", func() bool { return !g.cluster.enabled(voice) })
	look()
	if held := g.report.holding(); len(held) > 0 {
		t.Errorf("still held where nothing is guarded: %v", held)
	}
}

// TestReleasedOnce looks twice at a pod whose deadline is over, the second time without having seen the release. It is
// reported and counted as one release.
func TestReleasedOnce(t *testing.T) {
	g, client := newGuard(t, enabledNamespace(), newDeployment("web", 1), newReplicaSet("1", 1), webPod("a", draining))
	told := hear(g)
	s := newSnapshot(newDeployment("web", 1), newReplicaSet("1", 1), webPod("a", draining))
	w := s.workload(workloadKey(pods.Deployment, "web"))
	j := judgement{
		member: w.members[0], intent: call.Mark{Intent: call.NodeDrain, At: noon()},
		facts: verdict.Facts{
			Intent: call.Mark{Intent: call.NodeDrain, At: noon()}, Standing: noon().Add(-time.Hour),
			Pod: verdict.Pod{DrainingSince: noon().Add(-time.Hour)}, Limits: verdict.Limits{MaxHold: time.Hour},
		},
		verdict: verdict.Verdict{Outcome: verdict.Release, Rule: "deadline", Why: "its deadline is over", Forced: true},
	}
	for range 2 {
		if err := g.release(t.Context(), w, &j); err != nil {
			t.Fatal(err)
		}
	}
	if got := patched(t, client.Actions()); len(got["a"]) != 1 {
		t.Errorf("written: %v; want one release", got)
	}
	if n := testutil.ToFloat64(g.report.metrics.forced); n != 1 {
		t.Errorf("%v forced releases are counted; want 1: %v", n, told())
	}
}

// TestForcedLooksAgain: a deadline passes while no witness answers for a moment. The witnesses are asked once more: a
// pod that is idle is not released by force, and one whose deadline no longer applies is not released at all.
func TestForcedLooksAgain(t *testing.T) {
	for reason, tc := range map[string]struct {
		standing time.Time
		calls    int
		want     string
	}{
		"It holds a call, and its deadline is over.": {standing: noon().Add(-time.Hour), calls: 1, want: "deadline"},
		"It is known to be idle.":                    {standing: noon().Add(-time.Hour), want: "idle"},
		"Its drain was cancelled.":                   {calls: 1, want: "calls"},
	} {
		g, client := newGuard(t, enabledNamespace(), newDeployment("web", 1), newReplicaSet("1", 1), webPod("a", draining))
		g.readings.witnesses = map[call.Witness]Witness{}
		for _, name := range call.DefaultWitnesses() {
			g.readings.witnesses[name] = hearsay(func(*call.Pod) call.Reading { return call.Known(tc.calls, noon()) })
		}
		w := newSnapshot(newDeployment("web", 1), newReplicaSet("1", 1), webPod("a", draining)).workload(workloadKey(pods.Deployment, "web"))
		g.readings.records["a"] = &entry{pod: w.members[0].Pod, first: noon().Add(-time.Hour), last: map[call.Witness]verdict.Reading{}}
		j := judgement{
			member: w.members[0], intent: call.Mark{Intent: call.NodeDrain, At: noon()},
			facts: verdict.Facts{
				Intent: call.Mark{Intent: call.NodeDrain, At: noon()}, Standing: tc.standing,
				Pod: verdict.Pod{DrainingSince: noon().Add(-time.Hour)}, Limits: verdict.Limits{MaxHold: time.Hour},
			},
			verdict: verdict.Verdict{Outcome: verdict.Release, Rule: "deadline", Why: "its deadline is over", Forced: true},
		}
		if err := g.release(t.Context(), w, &j); err != nil {
			t.Fatal(err)
		}
		released := len(patched(t, client.Actions())["a"]) == 1
		if j.verdict.Rule != tc.want || j.verdict.Forced != (tc.want == "deadline") || released != (tc.want != "calls") {
			t.Errorf("%s It is judged %+v, and released: %t; want rule %s", reason, j.verdict, released, tc.want)
		}
	}
}

// TestReleaseLooksAgain: something changes between the verdict that a pod is idle and its release: then nothing is
// written.
func TestReleaseLooksAgain(t *testing.T) {
	for reason, tc := range map[string]struct {
		uid   types.UID
		calls int
	}{
		"A call has begun, and a deadline is over: nobody was told of a call that is lost.": {uid: "a", calls: 1},
		"Another pod has its name: a StatefulSet has made the next one.":                    {uid: "next"},
	} {
		now := func(o metav1.Object) { o.SetUID(tc.uid) }
		g, client := newGuard(t, enabledNamespace(), newDeployment("web", 1), newReplicaSet("1", 1), webPod("a", draining, now))
		g.readings.witnesses = map[call.Witness]Witness{}
		for _, name := range call.DefaultWitnesses() {
			g.readings.witnesses[name] = hearsay(func(*call.Pod) call.Reading { return call.Known(tc.calls, noon()) })
		}
		w := newSnapshot(newDeployment("web", 1), newReplicaSet("1", 1), webPod("a", draining)).workload(workloadKey(pods.Deployment, "web"))
		g.readings.records["a"] = &entry{pod: w.members[0].Pod, first: noon().Add(-time.Hour), last: map[call.Witness]verdict.Reading{}}
		j := judgement{
			member: w.members[0], intent: call.Mark{Intent: call.NodeDrain, At: noon()},
			facts: verdict.Facts{
				Intent: call.Mark{Intent: call.NodeDrain, At: noon()}, Standing: noon().Add(-time.Hour),
				Pod: verdict.Pod{DrainingSince: noon().Add(-time.Hour)}, Limits: verdict.Limits{MaxHold: time.Hour},
			},
			verdict: verdict.Verdict{Outcome: verdict.Release, Rule: "idle", Why: "its calls are over"},
		}
		if err := g.release(t.Context(), w, &j); err != nil {
			t.Fatal(err)
		}
		if got := patched(t, client.Actions()); len(got) != 0 {
			t.Errorf("%s Written: %v; want nothing", reason, got)
		}
	}
}

// TestMarkIsNotBefore reads a mark back, which has whole seconds: it must not be before the moment of the step, or an
// earlier reading would count as later.
func TestMarkIsNotBefore(t *testing.T) {
	g, client := newGuard(t, enabledNamespace(), newNode(true), newDeployment("web", 1), newReplicaSet("1", 1), asidePod("a"),
		webPod("b", func(o metav1.Object) { o.(*corev1.Pod).Spec.NodeName = "node-2" }))
	now := noon().Add(300 * time.Millisecond)
	g.now = func() time.Time { return now }
	if _, err := g.reconcile(t.Context(), workloadKey(pods.Deployment, "web")); err != nil {
		t.Fatal(err)
	}
	pod, err := client.CoreV1().Pods(voice).Get(t.Context(), "a", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	mark, err := call.ParseMark(pod.Annotations[call.DrainingAnnotation])
	if err != nil || mark.At.Before(now) || mark.At.Sub(now) >= time.Second {
		t.Errorf("a step at %s is marked %s (%v)", now, mark, err)
	}
}
