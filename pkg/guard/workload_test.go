// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/pods"
	"github.com/callguard/callguard/pkg/verdict"
)

func TestTolerates(t *testing.T) {
	taint := corev1.Taint{Key: "example.com/gone", Value: "yes", Effect: corev1.TaintEffectNoExecute}
	exists := func(s *int64) corev1.Toleration {
		return corev1.Toleration{Key: taint.Key, Operator: corev1.TolerationOpExists, TolerationSeconds: s}
	}
	const forever = -1
	cases := map[string]struct {
		reason      string
		tolerations []corev1.Toleration
		after       time.Duration
		tolerated   bool
	}{
		"None":         {reason: "A pod without tolerations leaves at once."},
		"OtherKey":     {reason: "Another taint.", tolerations: []corev1.Toleration{{Key: "other", Operator: corev1.TolerationOpExists}}},
		"OtherEffect":  {reason: "Another effect.", tolerations: []corev1.Toleration{{Key: taint.Key, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule}}},
		"OtherValue":   {reason: "Equal is the default, and it is not.", tolerations: []corev1.Toleration{{Key: taint.Key, Value: "no"}}},
		"Forever":      {reason: "Without seconds it is forever.", tolerations: []corev1.Toleration{exists(nil)}, after: forever, tolerated: true},
		"Value":        {reason: "Equal is the default.", tolerations: []corev1.Toleration{{Key: taint.Key, Value: "yes"}}, after: forever, tolerated: true},
		"EqualSaid":    {reason: "Or said.", tolerations: []corev1.Toleration{{Key: taint.Key, Operator: corev1.TolerationOpEqual, Value: "yes"}}, after: forever, tolerated: true},
		"SameEffect":   {reason: "The effect matches.", tolerations: []corev1.Toleration{{Key: taint.Key, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute}}, after: forever, tolerated: true},
		"Everything":   {reason: "Without a key every taint is tolerated.", tolerations: []corev1.Toleration{{Operator: corev1.TolerationOpExists}}, after: forever, tolerated: true},
		"NoKeyNoOp":    {reason: "An empty toleration matches nothing.", tolerations: []corev1.Toleration{{}}},
		"Seconds":      {reason: "For so long.", tolerations: []corev1.Toleration{exists(new(int64(300)))}, after: 5 * time.Minute, tolerated: true},
		"Zero":         {reason: "Not at all, but said.", tolerations: []corev1.Toleration{exists(new(int64(0)))}, after: 0, tolerated: true},
		"Negative":     {reason: "Less than nothing is nothing, not forever.", tolerations: []corev1.Toleration{exists(new(int64(-5)))}, after: 0, tolerated: true},
		"Shortest":     {reason: "The shortest counts, as in Kubernetes.", tolerations: []corev1.Toleration{exists(new(int64(300))), exists(new(int64(10))), exists(new(int64(60)))}, after: 10 * time.Second, tolerated: true},
		"ForeverAnd10": {reason: "One with an end ends, as in Kubernetes.", tolerations: []corev1.Toleration{exists(nil), exists(new(int64(10)))}, after: 10 * time.Second, tolerated: true},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			after, tolerated := tolerates(newPod("a", tolerating(tc.tolerations...)), taint)
			if after < 0 {
				after = forever
			}
			if after != tc.after || tolerated != tc.tolerated {
				t.Errorf("%s\ngot %s, %t; want %s, %t", tc.reason, after, tolerated, tc.after, tc.tolerated)
			}
		})
	}
}

func TestNodeCauses(t *testing.T) {
	seen := noon()
	ago := func(d time.Duration) *metav1.Time { return &metav1.Time{Time: noon().Add(-d)} }
	const noExecute, noSchedule = corev1.TaintEffectNoExecute, corev1.TaintEffectNoSchedule
	type causes struct{ Cordoned, Tainted, Lost time.Time }
	cases := map[string]struct {
		reason      string
		cordoned    bool
		taints      []corev1.Taint
		tolerations []corev1.Toleration
		want        causes
	}{
		"Fine":       {reason: "A node that no pod has to leave."},
		"Cordoned":   {reason: "Without a taint the cordon has no date of its own.", cordoned: true, want: causes{Cordoned: seen}},
		"CordonDate": {reason: "Kubernetes dates the cordon by its taint.", cordoned: true, taints: []corev1.Taint{{Key: corev1.TaintNodeUnschedulable, Effect: noSchedule, TimeAdded: ago(time.Minute)}}, want: causes{Cordoned: ago(time.Minute).Time}},
		"CordonTaint": {reason: "The taint alone is a cordon, too.", taints: []corev1.Taint{{Key: corev1.TaintNodeUnschedulable, Effect: noSchedule}},
			want: causes{Cordoned: seen}},
		"Autoscaler": {reason: "Cluster Autoscaler takes the node away.", taints: []corev1.Taint{{Key: "ToBeDeletedByClusterAutoscaler", Effect: noSchedule}}, want: causes{Tainted: seen}},
		"Karpenter":  {reason: "Karpenter takes the node away.", taints: []corev1.Taint{{Key: "karpenter.sh/disrupted", Effect: noSchedule, TimeAdded: ago(9 * time.Second)}}, want: causes{Tainted: ago(9 * time.Second).Time}},
		"OldKarpenter": {reason: "So did Karpenter 0.3x.", taints: []corev1.Taint{{Key: "karpenter.sh/disruption", Value: "disrupting", Effect: noSchedule}},
			want: causes{Tainted: seen}},
		"Candidate":  {reason: "A candidate is not taken yet.", taints: []corev1.Taint{{Key: "DeletionCandidateOfClusterAutoscaler", Effect: corev1.TaintEffectPreferNoSchedule}}},
		"NoSchedule": {reason: "A taint for new pods is no wish that others go.", taints: []corev1.Taint{{Key: "dedicated", Effect: noSchedule}}},
		"Custom":     {reason: "A NoExecute taint wants pods gone.", taints: []corev1.Taint{{Key: "example.com/gone", Effect: noExecute, TimeAdded: ago(time.Second)}}, want: causes{Tainted: ago(time.Second).Time}},
		"CustomForever": {reason: "The pod bears it.", taints: []corev1.Taint{{Key: "example.com/gone", Effect: noExecute}},
			tolerations: []corev1.Toleration{{Key: "example.com/gone", Operator: corev1.TolerationOpExists}}},
		"CustomSeconds": {reason: "The pod bears it for a while.", taints: []corev1.Taint{{Key: "example.com/gone", Effect: noExecute, TimeAdded: ago(time.Minute)}},
			tolerations: []corev1.Toleration{{Operator: corev1.TolerationOpExists, TolerationSeconds: new(int64(90))}},
			want:        causes{Tainted: noon().Add(30 * time.Second)}},
		"RemovalTolerated": {reason: "The node goes, whatever the pod tolerates.", taints: []corev1.Taint{{Key: "karpenter.sh/disrupted", Effect: noSchedule}},
			tolerations: []corev1.Toleration{{Operator: corev1.TolerationOpExists}}, want: causes{Tainted: seen}},
		"Unreachable": {reason: "The default toleration: five minutes.", taints: []corev1.Taint{{Key: corev1.TaintNodeUnreachable, Effect: noExecute, TimeAdded: ago(time.Minute)}},
			tolerations: []corev1.Toleration{{Key: corev1.TaintNodeUnreachable, Operator: corev1.TolerationOpExists, Effect: noExecute, TolerationSeconds: new(int64(300))}},
			want:        causes{Lost: noon().Add(4 * time.Minute)}},
		"NotReady":        {reason: "Not tolerated at all.", taints: []corev1.Taint{{Key: corev1.TaintNodeNotReady, Effect: noExecute, TimeAdded: ago(time.Minute)}}, want: causes{Lost: ago(time.Minute).Time}},
		"NotReadyForever": {reason: "A DaemonSet's pod bears it forever.", taints: []corev1.Taint{{Key: corev1.TaintNodeNotReady, Effect: noExecute}}, tolerations: []corev1.Toleration{{Operator: corev1.TolerationOpExists}}},
		"NotReadyNew":     {reason: "A taint for new pods does not affect existing ones.", taints: []corev1.Taint{{Key: corev1.TaintNodeNotReady, Effect: noSchedule}}},
		"Earliest": {
			reason: "Of two the earlier counts, in either order.",
			taints: []corev1.Taint{
				{Key: corev1.TaintNodeNotReady, Effect: noExecute, TimeAdded: ago(time.Minute)},
				{Key: corev1.TaintNodeUnreachable, Effect: noExecute, TimeAdded: ago(time.Hour)},
				{Key: "example.com/gone", Effect: noExecute, TimeAdded: ago(time.Hour)},
				{Key: "karpenter.sh/disrupted", Effect: noSchedule, TimeAdded: ago(time.Minute)},
			},
			want: causes{Lost: ago(time.Hour).Time, Tainted: ago(time.Hour).Time},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-1", UID: "node-1"}, Spec: corev1.NodeSpec{Unschedulable: tc.cordoned, Taints: tc.taints}}
			var got causes
			got.Cordoned, got.Tainted, got.Lost = nodeCauses(node, newPod("a", tolerating(tc.tolerations...)), func(_ occasion, said *metav1.Time) time.Time {
				if said != nil {
					return said.Time
				}
				return seen
			})
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("%s\n-want, +got:\n%s", tc.reason, diff)
			}
		})
	}
}

func TestInPlace(t *testing.T) {
	web := newDeployment("web", 3)
	cases := map[string]struct {
		reason  string
		pod     *corev1.Pod
		objects []metav1.Object
		want    string
	}{
		"Movable":   {reason: "A pod of a Deployment.", pod: webPod("a"), objects: []metav1.Object{web, newReplicaSet("1", 3)}},
		"Unknown":   {reason: "A controller that the guard does not know makes replacements, too.", pod: webPod("a"), objects: []metav1.Object{newReplicaSet("1", 3, controlledByForeign("Rollout", "web"))}},
		"Aside":     {reason: "A pod that is aside has been handled: its replacement comes first.", pod: asidePod("a"), objects: []metav1.Object{web, newReplicaSet("1", 3)}},
		"Bare":      {reason: "Nothing would replace it.", pod: newPod("a"), want: "it has no owner that would replace it"},
		"Stateful":  {reason: "Its name can be taken once.", pod: dbPod("db-0", "new"), objects: []metav1.Object{newStatefulSet(1)}, want: "a StatefulSet replaces a pod only when it is gone"},
		"Daemon":    {reason: "A node has one.", pod: sipPod("a", "2"), objects: []metav1.Object{newDaemonSet()}, want: "a DaemonSet replaces a pod only when it is gone"},
		"Job":       {reason: "A Job counts its pods by their owner.", pod: newPod("a", controlledBy("Job", "batch")), want: "a Job replaces a pod only when it is gone"},
		"NotListed": {reason: "An unknown owner is left alone.", pod: webPod("a"), objects: []metav1.Object{web}, want: "its ReplicaSet is not known"},
		"NoTop":     {reason: "It would have no owner.", pod: webPod("a"), objects: []metav1.Object{newReplicaSet("1", 3, alone)}, want: "its ReplicaSet has no controller"},
		"Recreate":  {reason: "Old and new may not run together.", pod: webPod("a"), objects: []metav1.Object{newDeployment("web", 3, recreate), newReplicaSet("1", 3)}, want: "the strategy of its Deployment is Recreate"},
		"NoHash":    {reason: "A pod without the label cannot change it.", pod: newPod("a", controlledBy(pods.ReplicaSet, "web-1")), objects: []metav1.Object{web, newReplicaSet("1", 3)}, want: "its ReplicaSet does not select pods by label pod-template-hash"},
		"OtherSelector": {
			reason: "Its ReplicaSet would still select it.", pod: webPod("a"),
			objects: []metav1.Object{web, newReplicaSet("1", 3, func(o metav1.Object) {
				o.(*appsv1.ReplicaSet).Spec.Selector.MatchLabels = map[string]string{"app": "web"}
			})},
			want: "its ReplicaSet does not select pods by label pod-template-hash",
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			s := newSnapshot(tc.objects...)
			if diff := cmp.Diff(tc.want, s.inPlace(s.member(tc.pod))); diff != "" {
				t.Errorf("%s\n-want, +got:\n%s", tc.reason, diff)
			}
		})
	}
}

func TestOrphaned(t *testing.T) {
	web, rs := newDeployment("web", 3), newReplicaSet("1", 3)
	cases := map[string]struct {
		reason  string
		pod     *corev1.Pod
		objects []metav1.Object
		gone    []types.UID
		// want is for a live snapshot, guess for one that may be behind.
		want, guess bool
	}{
		"Owned":      {reason: "Everybody is there.", pod: webPod("a"), objects: []metav1.Object{web, rs}},
		"Bare":       {reason: "It never had an owner.", pod: newPod("a")},
		"Background": {reason: "The Deployment is gone; the garbage collector was refused the pod.", pod: webPod("a"), gone: []types.UID{"web-1"}, want: true, guess: true},
		"TopGone":    {reason: "The Deployment is gone and its ReplicaSet will follow.", pod: webPod("a"), objects: []metav1.Object{rs}, gone: []types.UID{"web"}, want: true, guess: true},
		"Foreground": {reason: "The Deployment waits for its pods.", pod: webPod("a"), objects: []metav1.Object{newDeployment("web", 3, deleted, finalizer(metav1.FinalizerDeleteDependents)), rs}, want: true, guess: true},
		"GoingOwner": {reason: "The ReplicaSet waits for its pods.", pod: webPod("a"), objects: []metav1.Object{web, newReplicaSet("1", 3, deleted, finalizer(metav1.FinalizerDeleteDependents))}, want: true, guess: true},
		"OrphanTop":  {reason: "Whoever deletes with --cascade=orphan wants the pods to stay.", pod: webPod("a"), objects: []metav1.Object{newDeployment("web", 3, deleted, finalizer(metav1.FinalizerOrphanDependents)), rs}},
		"OrphanOwner": {
			reason: "The same of the ReplicaSet.", pod: webPod("a"),
			objects: []metav1.Object{web, newReplicaSet("1", 3, deleted, finalizer(metav1.FinalizerOrphanDependents))},
		},
		"LeftByTop":   {reason: "A ReplicaSet whose Deployment left it keeps its pods.", pod: webPod("a"), objects: []metav1.Object{newReplicaSet("1", 3, alone)}},
		"Aside":       {reason: "Its Deployment owns it now.", pod: asidePod("a"), objects: []metav1.Object{web}},
		"AsideGone":   {reason: "Its Deployment is gone.", pod: asidePod("a"), gone: []types.UID{"web"}, want: true, guess: true},
		"AsideGoing":  {reason: "Its Deployment waits for it.", pod: asidePod("a"), objects: []metav1.Object{newDeployment("web", 3, deleted)}, want: true, guess: true},
		"AsideNobody": {reason: "Its Deployment was deleted with --cascade=orphan: no ReplicaSet is to have it back.", pod: asidePod("a", alone), want: true, guess: true},
		"NotListed":   {reason: "A snapshot that is behind asks for a closer look; a live one has looked.", pod: webPod("a"), objects: []metav1.Object{web}, want: false, guess: true},
		"TopNotListed": {
			reason: "The same of the Deployment.", pod: webPod("a"), objects: []metav1.Object{rs}, want: false, guess: true,
		},
		"UnknownKind": {reason: "Of a kind that the guard does not read nothing is known.", pod: newPod("a", controlledByForeign("CloneSet", "web"))},
		"UnknownTop":  {reason: "The same further up.", pod: webPod("a"), objects: []metav1.Object{newReplicaSet("1", 3, controlledByForeign("Rollout", "web"))}},
		"Stateful":    {reason: "Its StatefulSet is there.", pod: dbPod("db-0", "new"), objects: []metav1.Object{newStatefulSet(1)}},
		"StatefulGone": {
			reason: "Its StatefulSet waits for it.", pod: dbPod("db-0", "new"), objects: []metav1.Object{newStatefulSet(1, deleted)}, want: true, guess: true,
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			s := newSnapshot(tc.objects...)
			for _, uid := range tc.gone {
				s.gone[uid] = true
			}
			if got := s.orphaned(s.member(tc.pod)); got != tc.want {
				t.Errorf("%s\norphaned: %t, want %t", tc.reason, got, tc.want)
			}
			if got := s.mayBeOrphaned(s.member(tc.pod)); got != tc.want {
				t.Errorf("%s\nmay be orphaned, live: %t, want %t", tc.reason, got, tc.want)
			}
			s.gone = nil
			if got := s.mayBeOrphaned(s.member(tc.pod)); got != tc.guess {
				t.Errorf("%s\nmay be orphaned, from a cache: %t, want %t", tc.reason, got, tc.guess)
			}
		})
	}
}

// surplus describes an excess.
type surplus struct {
	Owner  string
	Intent call.Intent
	N      int
	Of     []string
}

func surpluses(s *snapshot, key Key) []surplus {
	var list []surplus
	for _, e := range s.excesses(s.workload(key)) {
		x := surplus{Owner: e.owner.ref.Name, Intent: e.intent, N: e.n}
		for _, m := range e.candidates {
			x.Of = append(x.Of, m.Name)
		}
		list = append(list, x)
	}
	slices.SortFunc(list, func(a, b surplus) int { return strings.Compare(a.Owner+string(a.Intent), b.Owner+string(b.Intent)) })
	return list
}

func workloadKey(kind, name string) Key {
	return Key{NamespacedName: types.NamespacedName{Namespace: voice, Name: name}, APIVersion: appsGroup, Kind: kind, UID: types.UID(name)}
}

func TestExcessesOfDeployment(t *testing.T) {
	second := func(name string, edits ...edit) *corev1.Pod {
		return newPod(name, append([]edit{controlledBy(pods.ReplicaSet, "web-2"), label(hashLabel, "2")}, edits...)...)
	}
	rollingOut := func(replicas int32) *appsv1.Deployment {
		return newDeployment("web", replicas, annotation(revisionMark, "2"))
	}
	released := func(intent call.Intent) edit { return label(call.ReleasedLabel, string(intent)) }
	cases := map[string]struct {
		reason  string
		objects []metav1.Object
		want    []surplus
	}{
		"None":      {reason: "As many as wanted.", objects: []metav1.Object{newDeployment("web", 2), newReplicaSet("1", 2), webPod("a"), webPod("b")}},
		"TooFew":    {reason: "Fewer than wanted.", objects: []metav1.Object{newDeployment("web", 3), newReplicaSet("1", 3), webPod("a")}},
		"ScaleDown": {reason: "Exactly as many as are too many.", objects: []metav1.Object{newDeployment("web", 1), newReplicaSet("1", 1), webPod("a"), webPod("b"), webPod("c")}, want: []surplus{{"web-1", call.ScaleDown, 2, []string{"a", "b", "c"}}}},
		"ToNone":    {reason: "All of them.", objects: []metav1.Object{newDeployment("web", 0), newReplicaSet("1", 0), webPod("a"), webPod("b")}, want: []surplus{{"web-1", call.ScaleDown, 2, []string{"a", "b"}}}},
		"Recreate":  {reason: "There is no new revision yet, and the old one is not wanted.", objects: []metav1.Object{newDeployment("web", 2, recreate), newReplicaSet("1", 0), webPod("a"), webPod("b")}, want: []surplus{{"web-1", call.Rollout, 2, []string{"a", "b"}}}},
		"NotYet":    {reason: "The Deployment's wish becomes its ReplicaSet's in its own time.", objects: []metav1.Object{newDeployment("web", 0), newReplicaSet("1", 2), webPod("a"), webPod("b")}},
		"Leaving":   {reason: "A pod that is being deleted is not owned any more.", objects: []metav1.Object{newDeployment("web", 1), newReplicaSet("1", 1), webPod("a", deleted), webPod("b"), webPod("c")}, want: []surplus{{"web-1", call.ScaleDown, 1, []string{"b", "c"}}}},
		"Ended":     {reason: "A pod that has ended does not count.", objects: []metav1.Object{newDeployment("web", 1), newReplicaSet("1", 1), webPod("a", phase(corev1.PodSucceeded)), webPod("b", phase(corev1.PodFailed)), webPod("c")}},
		"AsideGone": {reason: "Pods aside are the Deployment's.", objects: []metav1.Object{newDeployment("web", 1), newReplicaSet("1", 1), asidePod("a"), asidePod("b"), webPod("c")}},
		"Chosen":    {reason: "A pod that drains in place is already chosen.", objects: []metav1.Object{newDeployment("web", 1), newReplicaSet("1", 1), webPod("a", draining), webPod("b"), webPod("c")}, want: []surplus{{"web-1", call.ScaleDown, 1, []string{"b", "c"}}}},
		"AllChosen": {reason: "All that are too many are chosen.", objects: []metav1.Object{newDeployment("web", 1), newReplicaSet("1", 1), webPod("a", draining), webPod("b", released(call.ScaleDown)), webPod("c")}},
		"DrainedWanted": {reason: "One of those that are wanted drains in place, and will be replaced.",
			objects: []metav1.Object{newDeployment("web", 2), newReplicaSet("1", 2), webPod("a", draining), webPod("b")}},
		"Unlocked": {reason: "An unlocked pod counts like others, but cannot be chosen.",
			objects: []metav1.Object{newDeployment("web", 2), newReplicaSet("1", 2), webPod("a", released(call.Unlock)), webPod("b"), webPod("c")}, want: []surplus{{"web-1", call.ScaleDown, 1, []string{"b", "c"}}}},
		"MidRollout": {
			reason: "Of the old revision exactly those that its ReplicaSet does not want; an old revision by itself is no reason.",
			objects: []metav1.Object{
				rollingOut(3), newReplicaSet("1", 2), newReplicaSet("2", 2), webPod("a"), webPod("b"), webPod("c"), second("d"), second("e"),
			},
			want: []surplus{{"web-1", call.Rollout, 1, []string{"a", "b", "c"}}},
		},
		"OldButWanted": {
			reason:  "The new revision does not start: no old pod leaves.",
			objects: []metav1.Object{rollingOut(3), newReplicaSet("1", 3), newReplicaSet("2", 1), webPod("a"), webPod("b"), webPod("c"), second("d", unready)},
		},
		"RolloutAndScaleDown": {
			reason: "Both ReplicaSets have too many, each for its own reason.",
			objects: []metav1.Object{
				rollingOut(1), newReplicaSet("1", 0), newReplicaSet("2", 1), webPod("a"), second("d"), second("e"),
			},
			want: []surplus{{"web-1", call.Rollout, 1, []string{"a"}}, {"web-2", call.ScaleDown, 1, []string{"d", "e"}}},
		},
		"OwnerGoing": {reason: "A deleted ReplicaSet's pods are orphans, not too many.", objects: []metav1.Object{newDeployment("web", 1), newReplicaSet("1", 1, deleted), webPod("a"), webPod("b")}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, surpluses(newSnapshot(tc.objects...), workloadKey(pods.Deployment, "web"))); diff != "" {
				t.Errorf("%s\n-want, +got:\n%s", tc.reason, diff)
			}
		})
	}
}

func TestExcessesOfStatefulSet(t *testing.T) {
	from := func(start int32) edit {
		return func(o metav1.Object) {
			o.(*appsv1.StatefulSet).Spec.Ordinals = &appsv1.StatefulSetOrdinals{Start: start}
		}
	}
	partition := func(n int32) edit {
		return func(o metav1.Object) {
			o.(*appsv1.StatefulSet).Spec.UpdateStrategy.RollingUpdate = &appsv1.RollingUpdateStatefulSetStrategy{Partition: &n}
		}
	}
	onDelete := func(o metav1.Object) {
		o.(*appsv1.StatefulSet).Spec.UpdateStrategy.Type = appsv1.OnDeleteStatefulSetStrategyType
	}
	behind := func(o metav1.Object) { o.SetGeneration(4) }
	cases := map[string]struct {
		reason  string
		objects []metav1.Object
		want    []surplus
	}{
		"None":      {reason: "As wanted.", objects: []metav1.Object{newStatefulSet(2), dbPod("db-0", "new"), dbPod("db-1", "new")}},
		"ScaleDown": {reason: "A StatefulSet chooses by ordinal, and so all of them go.", objects: []metav1.Object{newStatefulSet(1), dbPod("db-0", "new"), dbPod("db-1", "new"), dbPod("db-2", "new")}, want: []surplus{{"db", call.ScaleDown, 2, []string{"db-1", "db-2"}}}},
		"Chosen":    {reason: "A draining pod is already chosen.", objects: []metav1.Object{newStatefulSet(1), dbPod("db-0", "new"), dbPod("db-1", "new"), dbPod("db-2", "new", draining)}, want: []surplus{{"db", call.ScaleDown, 1, []string{"db-1"}}}},
		"Ordinals":  {reason: "Ordinals may begin elsewhere; those below are not wanted.", objects: []metav1.Object{newStatefulSet(2, from(5)), dbPod("db-4", "new"), dbPod("db-5", "new"), dbPod("db-6", "new"), dbPod("db-7", "new")}, want: []surplus{{"db", call.ScaleDown, 2, []string{"db-4", "db-7"}}}},
		"Ten":       {reason: "Ordinals are numbers, not text.", objects: []metav1.Object{newStatefulSet(11), dbPod("db-9", "old"), dbPod("db-10", "old")}, want: []surplus{{"db", call.Rollout, 1, []string{"db-10"}}}},
		"Rollout":   {reason: "The highest first, one at a time, as the controller does.", objects: []metav1.Object{newStatefulSet(3), dbPod("db-0", "old"), dbPod("db-1", "old"), dbPod("db-2", "old")}, want: []surplus{{"db", call.Rollout, 1, []string{"db-2"}}}},
		"Next":      {reason: "Then the next.", objects: []metav1.Object{newStatefulSet(3), dbPod("db-0", "old"), dbPod("db-1", "old"), dbPod("db-2", "new")}, want: []surplus{{"db", call.Rollout, 1, []string{"db-1"}}}},
		"OneAtATime": {
			reason:  "While one is on its road no other begins.",
			objects: []metav1.Object{newStatefulSet(3), dbPod("db-0", "old"), dbPod("db-1", "old"), dbPod("db-2", "old", draining)},
		},
		"Partition":        {reason: "Below the partition the old revision stays.", objects: []metav1.Object{newStatefulSet(3, partition(2)), dbPod("db-0", "old"), dbPod("db-1", "old"), dbPod("db-2", "new")}},
		"AbovePartition":   {reason: "From the partition on it leaves.", objects: []metav1.Object{newStatefulSet(3, partition(1)), dbPod("db-0", "old"), dbPod("db-1", "old"), dbPod("db-2", "new")}, want: []surplus{{"db", call.Rollout, 1, []string{"db-1"}}}},
		"PartitionAndFrom": {reason: "The partition counts from the first ordinal.", objects: []metav1.Object{newStatefulSet(2, partition(1), from(5)), dbPod("db-5", "old"), dbPod("db-6", "old")}, want: []surplus{{"db", call.Rollout, 1, []string{"db-6"}}}},
		"NotReadyYet":      {reason: "The controller waits for the new one, and so do its callers.", objects: []metav1.Object{newStatefulSet(3), dbPod("db-0", "old"), dbPod("db-1", "old"), dbPod("db-2", "new", unready)}},
		"OldNotReady":      {reason: "An old one that is not ready is no reason to wait: it is to be replaced.", objects: []metav1.Object{newStatefulSet(3), dbPod("db-0", "old"), dbPod("db-1", "old", unready), dbPod("db-2", "new")}, want: []surplus{{"db", call.Rollout, 1, []string{"db-1"}}}},
		"OnDelete":         {reason: "Its pods are replaced by hand.", objects: []metav1.Object{newStatefulSet(1, onDelete), dbPod("db-0", "old")}},
		"StatusBehind":     {reason: "Which revision is new is not known yet.", objects: []metav1.Object{newStatefulSet(1, behind), dbPod("db-0", "old")}},
		"Both": {
			reason:  "A scale-down and a rollout at once.",
			objects: []metav1.Object{newStatefulSet(2), dbPod("db-0", "old"), dbPod("db-1", "new"), dbPod("db-2", "old")},
			want:    []surplus{{"db", call.Rollout, 1, []string{"db-0"}}, {"db", call.ScaleDown, 1, []string{"db-2"}}},
		},
		"StrangeName": {reason: "A pod without an ordinal is not the controller's.", objects: []metav1.Object{newStatefulSet(0), dbPod("db", "old"), dbPod("db-x", "old")}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, surpluses(newSnapshot(tc.objects...), workloadKey(pods.StatefulSet, "db"))); diff != "" {
				t.Errorf("%s\n-want, +got:\n%s", tc.reason, diff)
			}
		})
	}
}

func TestExcessesOfDaemonSet(t *testing.T) {
	onDelete := func(o metav1.Object) {
		o.(*appsv1.DaemonSet).Spec.UpdateStrategy.Type = appsv1.OnDeleteDaemonSetStrategyType
	}
	cases := map[string]struct {
		reason  string
		objects []metav1.Object
		want    []surplus
	}{
		"None":       {reason: "All are of the template.", objects: []metav1.Object{newDaemonSet(), sipPod("a", "2"), sipPod("b", "2")}},
		"Rollout":    {reason: "One of the old ones leaves.", objects: []metav1.Object{newDaemonSet(), sipPod("a", "2"), sipPod("b", "1"), sipPod("c", "1")}, want: []surplus{{"sip", call.Rollout, 1, []string{"b"}}}},
		"UnfitFirst": {reason: "A pod that takes no call leaves before one that does.", objects: []metav1.Object{newDaemonSet(), sipPod("a", "1"), sipPod("b", "1", unready)}, want: []surplus{{"sip", call.Rollout, 1, []string{"b"}}}},
		"OneAtATime": {reason: "While one is on its road no other begins.", objects: []metav1.Object{newDaemonSet(), sipPod("a", "1"), sipPod("b", "1", draining)}},
		"OnDelete":   {reason: "Its pods are replaced by hand.", objects: []metav1.Object{newDaemonSet(onDelete), sipPod("a", "1")}},
		"NoRevision": {reason: "Which template is new is not known.", objects: []metav1.Object{newDaemonSet(annotation(daemonGeneration, "")), sipPod("a", "1")}},
		"Going":      {reason: "Its pods are orphans.", objects: []metav1.Object{newDaemonSet(deleted), sipPod("a", "1")}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, surpluses(newSnapshot(tc.objects...), workloadKey(daemonSet, "sip"))); diff != "" {
				t.Errorf("%s\n-want, +got:\n%s", tc.reason, diff)
			}
		})
	}
}

func TestWorkload(t *testing.T) {
	type numbers struct {
		Desired, MinAvailable, Surge int
		Recreate                     bool
		Members                      []string
		Complaint                    string
	}
	web := workloadKey(pods.Deployment, "web")
	minimum := func(value string) edit { return annotation(call.MinAvailableAnnotation, value) }
	foreign := Key{NamespacedName: web.NamespacedName, APIVersion: "argoproj.io/v1alpha1", Kind: "Rollout", UID: "web"}
	bare := Key{NamespacedName: types.NamespacedName{Namespace: voice, Name: "a"}, APIVersion: "v1", Kind: "Pod", UID: "a"}
	cases := map[string]struct {
		reason  string
		key     Key
		objects []metav1.Object
		want    numbers
	}{
		"Deployment": {reason: "The owner's replicas; a quarter of four may be on its way.", key: web,
			objects: []metav1.Object{newDeployment("web", 4), newReplicaSet("1", 4), webPod("b"), webPod("a"), asidePod("c"), newPod("stranger")},
			want:    numbers{Desired: 4, MinAvailable: 4, Surge: 1, Members: []string{"a", "b", "c"}}},
		"SurgePercent": {reason: "A percentage is rounded up, as Kubernetes does.", key: web, objects: []metav1.Object{newDeployment("web", 5)}, want: numbers{Desired: 5, MinAvailable: 5, Surge: 2}},
		"SurgeNumber":  {reason: "Or a number.", key: web, objects: []metav1.Object{newDeployment("web", 5, maxSurge(intstr.FromInt32(3)))}, want: numbers{Desired: 5, MinAvailable: 5, Surge: 3}},
		"SurgeZero":    {reason: "Without one replacement nothing would ever leave.", key: web, objects: []metav1.Object{newDeployment("web", 5, maxSurge(intstr.FromInt32(0)))}, want: numbers{Desired: 5, MinAvailable: 5, Surge: 1}},
		"SurgeOfNone":  {reason: "A percentage of none is none.", key: web, objects: []metav1.Object{newDeployment("web", 0)}, want: numbers{Surge: 1}},
		"Recreate":     {reason: "The floors ask for it.", key: web, objects: []metav1.Object{newDeployment("web", 2, recreate)}, want: numbers{Desired: 2, MinAvailable: 2, Surge: 1, Recreate: true}},
		"Unset":        {reason: "Replicas default to one.", key: web, objects: []metav1.Object{newDeployment("web", 0, func(o metav1.Object) { o.(*appsv1.Deployment).Spec.Replicas = nil })}, want: numbers{Desired: 1, MinAvailable: 1, Surge: 1}},
		"Minimum":      {reason: "As annotated.", key: web, objects: []metav1.Object{newDeployment("web", 4, minimum("50%"))}, want: numbers{Desired: 4, MinAvailable: 2, Surge: 1}},
		"BadMinimum": {reason: "An unreadable value requires all.", key: web, objects: []metav1.Object{newDeployment("web", 4, minimum("half"))},
			want: numbers{Desired: 4, MinAvailable: 4, Surge: 1, Complaint: `annotation callguard.dev/min-available is "half"; use a number of pods or a percentage of the replicas, such as "2" or "50%"`}},
		"StatefulSet": {reason: "Its replicas.", key: workloadKey(pods.StatefulSet, "db"), objects: []metav1.Object{newStatefulSet(3), dbPod("db-0", "new")}, want: numbers{Desired: 3, MinAvailable: 3, Surge: 1, Members: []string{"db-0"}}},
		"DaemonSet":   {reason: "One for each node it is meant for.", key: workloadKey(daemonSet, "sip"), objects: []metav1.Object{newDaemonSet(), sipPod("a", "2")}, want: numbers{Desired: 3, MinAvailable: 3, Surge: 1, Members: []string{"a"}}},
		"UnknownTop": {reason: "For an owner that the guard does not know: the number that its ReplicaSets want.", key: foreign,
			objects: []metav1.Object{newReplicaSet("1", 2, controlledByForeign("Rollout", "web")), newReplicaSet("2", 3, controlledByForeign("Rollout", "web")), webPod("a")},
			want:    numbers{Desired: 5, MinAvailable: 5, Surge: 1, Members: []string{"a"}}},
		"UnknownOwner": {reason: "Or the pods it has that are not leaving.", key: foreign,
			objects: []metav1.Object{newPod("a", controlledByForeign("Rollout", "web")), newPod("b", controlledByForeign("Rollout", "web"), deleted)},
			want:    numbers{Desired: 1, MinAvailable: 1, Surge: 1, Members: []string{"a", "b"}}},
		"Bare":  {reason: "A pod without an owner.", key: bare, objects: []metav1.Object{newPod("a"), newPod("b")}, want: numbers{Desired: 1, MinAvailable: 1, Surge: 1, Members: []string{"a"}}},
		"Ended": {reason: "A pod that has ended is no member.", key: bare, objects: []metav1.Object{newPod("a", phase(corev1.PodSucceeded))}, want: numbers{Surge: 1}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			w := newSnapshot(tc.objects...).workload(tc.key)
			got := numbers{Desired: w.desired, MinAvailable: w.minAvailable, Surge: w.surge, Recreate: w.recreate}
			for _, m := range w.members {
				got.Members = append(got.Members, m.Name)
			}
			if w.complaint != nil {
				got.Complaint = w.complaint.Error()
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("%s\n-want, +got:\n%s", tc.reason, diff)
			}
		})
	}
}

func TestFactsOfOthers(t *testing.T) {
	s := newSnapshot(
		newDeployment("web", 4), newReplicaSet("1", 4),
		webPod("me"), webPod("able"), webPod("unready", unready), webPod("ended", ended), webPod("leaving", deleted), webPod("draining", draining),
		webPod("unlocked", label(call.ReleasedLabel, string(call.Unlock))), webPod("released", label(call.ReleasedLabel, string(call.NodeDrain))),
		asidePod("aside"), asidePod("aside-draining", draining), asidePod("aside-leaving", deleted),
		asidePod("aside-unwanted", annotation(call.AsideAnnotation, "scale-down 2026-01-01T11:58:00Z")),
	)
	w := s.workload(workloadKey(pods.Deployment, "web"))
	me := w.members[slices.IndexFunc(w.members, func(m *member) bool { return m.Name == "me" })]
	got := w.facts(s, me, w.company(noon()), call.Mark{Intent: call.NodeDrain}, noon(), verdict.Limits{}).Workload
	// Able: those that are ready and neither aside nor leaving, and the unlocked one. Aside: those that a
	// node wants gone and that still exist; of these one accepts calls until it drains.
	want := verdict.Workload{Desired: 4, MinAvailable: 4, Surge: 1, Able: 2, Coming: 1, Aside: 2, Leaving: 1}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want, +got:\n%s", diff)
	}
}

// TestFactsOfAStuckPod has two pods of a dead node: neither is a replacement for which the other would
// have to wait.
func TestFactsOfAStuckPod(t *testing.T) {
	s := newSnapshot(newDeployment("web", 4), newReplicaSet("1", 4), webPod("a"), webPod("b"), webPod("dead-1", unready), webPod("dead-2", unready))
	w := s.workload(workloadKey(pods.Deployment, "web"))
	for _, m := range w.members {
		m.wanted = !m.ready
	}
	for _, m := range w.members[2:] {
		if got := w.facts(s, m, w.company(noon()), call.Mark{Intent: call.LostNode}, noon(), verdict.Limits{}).Workload; got.Coming != 0 {
			t.Errorf("%s waits for %d replacements; none is on its way", m.Name, got.Coming)
		}
	}
	w.members[2].State, w.members[2].aside = call.Aside, true
	if got := w.facts(s, w.members[3], w.company(noon()), call.Mark{Intent: call.LostNode}, noon(), verdict.Limits{}).Workload; got.Coming != 1 {
		t.Errorf("%d replacements are on their way; want that of the pod set aside", got.Coming)
	}
}

// TestLaunchLimitOfAPod has pods without call-gate whose agents are slow to start a job: their zero
// counts after that time, and never sooner than the administrator's limit.
func TestLaunchLimitOfAPod(t *testing.T) {
	cases := map[string]struct {
		reason string
		limit  string
		want   time.Duration
	}{
		"None":    {reason: "The guard's own time holds.", want: 20 * time.Second},
		"Longer":  {reason: "A job may be on its way for so long.", limit: "2m", want: 2 * time.Minute},
		"Shorter": {reason: "A team does not go below the administrator.", limit: "1s", want: 20 * time.Second},
		"Typo":    {reason: "An unreadable value changes nothing, and gets an Event.", limit: "soon", want: 20 * time.Second},
	}
	for name, tc := range cases {
		s := newSnapshot(newDeployment("web", 1), newReplicaSet("1", 1), webPod("a", annotation(call.LaunchLimitAnnotation, tc.limit)))
		w := s.workload(workloadKey(pods.Deployment, "web"))
		got := w.facts(s, w.members[0], w.company(noon()), call.Mark{Intent: call.NodeDrain}, noon(), verdict.Limits{Settle: 20 * time.Second}).Limits.Settle
		if got != tc.want {
			t.Errorf("%s: %s got %s, want %s", name, tc.reason, got, tc.want)
		}
	}
}

func TestMember(t *testing.T) {
	type road struct {
		State    call.State
		Marked   string
		Draining time.Time
	}
	mark := func(of, value string) edit { return annotation(of, value) }
	cases := map[string]struct {
		reason string
		pod    *corev1.Pod
		want   road
	}{
		"Serving":     {reason: "No road begun.", pod: webPod("a"), want: road{State: call.Serving}},
		"Aside":       {reason: "Its mark says why and since when.", pod: asidePod("a"), want: road{State: call.Aside, Marked: "drain 2026-01-01T11:58:00Z"}},
		"AsideByHand": {reason: "Whoever sets a pod aside by hand wants it to leave.", pod: webPod("a", label(hashLabel, "1-aside")), want: road{State: call.Aside, Marked: "operator 2026-01-01T11:00:00Z"}},
		"Draining":    {reason: "The later mark counts.", pod: asidePod("a", mark(call.DrainingAnnotation, "rollout 2026-01-01T11:59:30Z")), want: road{State: call.Draining, Marked: "rollout 2026-01-01T11:59:30Z", Draining: noon().Add(-30 * time.Second)}},
		"BadMark":     {reason: "An unreadable mark dates nothing.", pod: webPod("a", mark(call.DrainingAnnotation, "soon")), want: road{State: call.Draining}},
		"Released":    {reason: "The furthest state wins.", pod: webPod("a", draining, label(call.ReleasedLabel, "drain")), want: road{State: call.Released, Marked: "drain 2026-01-01T11:59:00Z", Draining: noon().Add(-time.Minute)}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			m := newSnapshot().member(tc.pod)
			got := road{State: m.State, Draining: m.draining}
			if m.marked.Intent != "" {
				got.Marked = m.marked.String()
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("%s\n-want, +got:\n%s", tc.reason, diff)
			}
		})
	}
}

// TestUnlocked: the guard does not delete pods that it did not release.
func TestUnlocked(t *testing.T) {
	for value, want := range map[string]bool{"unlock": true, "": true, "true": true, "drain": false, "rollout": false, "lost-node": false} {
		m := (&snapshot{}).member(webPod("a", label(call.ReleasedLabel, value)))
		if m.State != call.Released || m.unlocked() != want {
			t.Errorf("a pod with released=%q is %s, unlocked %t; want %t", value, m.State, m.unlocked(), want)
		}
	}
	if (&snapshot{}).member(webPod("a")).unlocked() {
		t.Error("a pod that serves is unlocked")
	}
}
