// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/pods"
	"github.com/callguard/callguard/pkg/verdict"
	"github.com/callguard/callguard/test/trial"
)

// TestCameSince: a pod, and the reason to leave its node, appear in some order, before and
// after the guard starts. A pod that may have been there before the reason is drained.
func TestCameSince(t *testing.T) {
	const noExecute, noSchedule = corev1.TaintEffectNoExecute, corev1.TaintEffectNoSchedule
	gone := corev1.Taint{Key: "example.com/gone", Effect: noExecute}
	bearsCordon := corev1.Toleration{Key: corev1.TaintNodeUnschedulable, Operator: corev1.TolerationOpExists}
	bearsGone := corev1.Toleration{Key: gone.Key, Operator: corev1.TolerationOpExists, Effect: noSchedule}
	pinned := func(o metav1.Object) { o.(*appsv1.ReplicaSet).Spec.Template.Spec.NodeName = "node-1" }
	cases := map[string]struct {
		reason  string
		pod     *corev1.Pod
		replica edit
		taints  []corev1.Taint
		// order is the order of events; "start" is when the guard has seen everything that
		// existed.
		order []string
		want  bool
	}{
		"After":       {reason: "The next one would come here, too.", pod: webPod("a", tolerating(bearsCordon)), order: []string{"start", "cordon", "pod"}, want: true},
		"Before":      {reason: "The cordon is about it.", pod: webPod("a", tolerating(bearsCordon)), order: []string{"start", "pod", "cordon"}},
		"NotTolerant": {reason: "The scheduler put it there before, whenever it was seen.", pod: webPod("a"), order: []string{"start", "cordon", "pod"}},
		"Pinned":      {reason: "It is not scheduled, so no taint keeps it away.", pod: webPod("a"), replica: pinned, order: []string{"start", "cordon", "pod"}, want: true},
		"PinnedFirst": {reason: "It was there before.", pod: webPod("a"), replica: pinned, order: []string{"start", "pod", "cordon"}},
		"AtStart":     {reason: "Existing objects are seen in any order at the start.", pod: webPod("a", tolerating(bearsCordon)), order: []string{"cordon", "pod", "start"}},
		"CordonAtStart": {reason: "Later objects are seen later.", pod: webPod("a", tolerating(bearsCordon)),
			order: []string{"cordon", "start", "pod"}, want: true},
		"PodAtStart":     {reason: "And so is a cordon.", pod: webPod("a", tolerating(bearsCordon)), order: []string{"pod", "start", "cordon"}},
		"Between":        {reason: "The taint came after it, and wants it gone.", pod: webPod("a", tolerating(bearsCordon, bearsGone)), taints: []corev1.Taint{gone}, order: []string{"start", "cordon", "pod", "taint"}},
		"AfterBoth":      {reason: "A taint is no other than a cordon.", pod: webPod("a", tolerating(bearsCordon, bearsGone)), taints: []corev1.Taint{gone}, order: []string{"start", "cordon", "taint", "pod"}, want: true},
		"BearsOnlyOne":   {reason: "With that taint it would not have been put there.", pod: webPod("a", tolerating(bearsCordon)), taints: []corev1.Taint{gone}, order: []string{"start", "cordon", "taint", "pod"}},
		"AskedToLeave":   {reason: "An operator knows better.", pod: webPod("a", tolerating(bearsCordon), annotation(call.LeaveAnnotation, "")), order: []string{"start", "cordon", "pod"}},
		"OnItsRoad":      {reason: "A pod that has begun to leave continues.", pod: asidePod("a", tolerating(bearsCordon)), order: []string{"start", "cordon", "pod"}},
		"SeenUncordoned": {reason: "Nothing wants it gone.", pod: webPod("a", tolerating(bearsCordon)), order: []string{"start", "pod"}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			node := newNode(slices.Contains(tc.order, "cordon"), tc.taints...)
			g, _ := newGuard(t, node)
			started, now := false, noon()
			g.now = func() time.Time { return now }
			g.planner.dates = newDates(g.clock)
			g.planner.dates.synced = func() bool { return started }
			for _, what := range tc.order {
				now = now.Add(time.Second)
				switch what {
				case "start":
					started = true
				case "cordon":
					g.nodeChanged(newNode(false), newNode(true))
				case "taint":
					g.nodeChanged(newNode(true), node)
				case "pod":
					g.podChanged(nil, tc.pod)
				}
			}
			replica := newReplicaSet("1", 1)
			if tc.replica != nil {
				tc.replica(replica)
			}
			s := newSnapshot(newDeployment("web", 1), replica, tc.pod)
			m := s.member(tc.pod)
			m.causes = g.planner.causes(s, m)
			if got := g.planner.cameSince(m); got != tc.want {
				t.Errorf("%s\ngot %t, want %t", tc.reason, got, tc.want)
			}
		})
	}
}

// TestMisfit has a DaemonSet's pod on a node that the DaemonSet may not want, by the rules
// of its controller.
func TestMisfit(t *testing.T) {
	selecting := func(selector map[string]string) corev1.PodSpec { return corev1.PodSpec{NodeSelector: selector} }
	requiring := func(operator corev1.NodeSelectorOperator) corev1.PodSpec {
		return corev1.PodSpec{Affinity: &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
			NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "zone", Operator: operator, Values: []string{"a"}}}}},
		}}}}
	}
	const noExecute, noSchedule = corev1.TaintEffectNoExecute, corev1.TaintEffectNoSchedule
	gone := func(effect corev1.TaintEffect) corev1.Taint {
		return corev1.Taint{Key: "example.com/gone", Effect: effect}
	}
	cases := map[string]struct {
		reason string
		placed corev1.PodSpec
		labels map[string]string
		taints []corev1.Taint
		pod    edit
		want   bool
	}{
		"Anywhere":         {reason: "Its template is for every node."},
		"Selected":         {reason: "The node has the label.", placed: selecting(map[string]string{"zone": "a"}), labels: map[string]string{"zone": "a"}},
		"LabelGone":        {reason: "The label was removed.", placed: selecting(map[string]string{"zone": "a"}), want: true},
		"LabelOther":       {reason: "Or is another now.", placed: selecting(map[string]string{"zone": "a"}), labels: map[string]string{"zone": "b"}, want: true},
		"Required":         {reason: "An affinity says the same.", placed: requiring(corev1.NodeSelectorOpIn), labels: map[string]string{"zone": "a"}},
		"NotRequired":      {reason: "The node is none of those.", placed: requiring(corev1.NodeSelectorOpIn), labels: map[string]string{"zone": "b"}, want: true},
		"Excluded":         {reason: "Or one of those that it avoids.", placed: requiring(corev1.NodeSelectorOpNotIn), labels: map[string]string{"zone": "a"}, want: true},
		"CannotTell":       {reason: "The controller cannot tell either, and leaves it.", placed: requiring("Near")},
		"NoExecute":        {reason: "The pod does not bear the taint.", taints: []corev1.Taint{gone(noExecute)}, want: true},
		"NoExecuteBorne":   {reason: "It does.", taints: []corev1.Taint{gone(noExecute)}, pod: tolerating(corev1.Toleration{Key: "example.com/gone", Operator: corev1.TolerationOpExists})},
		"NoSchedule":       {reason: "That is about new pods.", taints: []corev1.Taint{gone(noSchedule)}},
		"SecondOfTwo":      {reason: "Each taint counts.", taints: []corev1.Taint{gone(noSchedule), gone(noExecute)}, want: true},
		"PreferNoSchedule": {reason: "So is that.", taints: []corev1.Taint{gone(corev1.TaintEffectPreferNoSchedule)}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			node := newNode(false, tc.taints...)
			node.Labels = tc.labels
			pod := sipPod("a", "2")
			if tc.pod != nil {
				tc.pod(pod)
			}
			ds := ofDaemonSet(newDaemonSet(func(o metav1.Object) { o.(*appsv1.DaemonSet).Spec.Template.Spec = tc.placed }))
			if got := misfit(ds, node, pod); got != tc.want {
				t.Errorf("%s\ngot %t, want %t", tc.reason, got, tc.want)
			}
		})
	}
}

// TestStrangers opts workloads out while some of their pods are still guarded. Their ready
// pods without the label count as able: those that exist for a step, and those in the
// owner's status as long as there are none.
func TestStrangers(t *testing.T) {
	stranger := func(name, kind, owner string, edits ...edit) *corev1.Pod {
		return newPod(name, append([]edit{controlledBy(kind, owner), func(o metav1.Object) { delete(o.GetLabels(), call.GuardedLabel) }}, edits...)...)
	}
	ready := func(n int32) edit {
		return func(o metav1.Object) {
			switch o := o.(type) {
			case *appsv1.ReplicaSet:
				o.Status.ReadyReplicas = n
			case *appsv1.StatefulSet:
				o.Status.ReadyReplicas = n
			}
		}
	}
	guarded := func(o metav1.Object) {
		yes := map[string]string{call.GuardedLabel: "true"}
		switch o := o.(type) {
		case *appsv1.ReplicaSet:
			o.Spec.Template.Labels = yes
		case *appsv1.Deployment:
			o.Spec.Template.Labels = yes
		}
	}
	cases := map[string]struct {
		reason      string
		key         Key
		objects     []runtime.Object
		live, known int
	}{
		"DeploymentOptsOut": {
			reason: "Its new pods are like any other, and take calls.", key: workloadKey(pods.Deployment, "web"),
			objects: []runtime.Object{
				newDeployment("web", 2), newReplicaSet("1", 1, guarded, ready(2)), newReplicaSet("2", 2, ready(1)), webPod("a"), webPod("b"),
				stranger("c", pods.ReplicaSet, "web-2"), stranger("d", pods.ReplicaSet, "web-2", unready), stranger("e", pods.ReplicaSet, "web-2", deleted, finalizer("x")),
			},
			live: 1, known: 1,
		},
		"StatusIsBehind": {
			reason: "For a step, existing pods count.", key: workloadKey(pods.Deployment, "web"),
			objects: []runtime.Object{
				newDeployment("web", 2), newReplicaSet("1", 1, guarded, ready(1)), newReplicaSet("2", 2, ready(2)), webPod("a"), stranger("c", pods.ReplicaSet, "web-2", unready),
			},
			live: 0, known: 2,
		},
		"StatefulSetOptsOut": {
			reason: "One object has guarded pods and others.", key: workloadKey(pods.StatefulSet, "db"),
			objects: []runtime.Object{
				newStatefulSet(3, ready(3)), dbPod("db-0", "old"), stranger("db-1", pods.StatefulSet, "db"), stranger("db-2", pods.StatefulSet, "db"),
			},
			live: 2, known: 2,
		},
		"Guarded": {
			reason: "Guarded pods are counted by name, and pods with another label belong to others.", key: workloadKey(pods.Deployment, "web"),
			objects: []runtime.Object{
				newDeployment("web", 2, guarded), newReplicaSet("1", 2, guarded, ready(3)), webPod("a"), webPod("b"), stranger("c", pods.ReplicaSet, "web-1"),
			},
		},
		"AnotherWorkload": {
			reason: "Those of others do other work.", key: workloadKey(pods.Deployment, "web"),
			objects: []runtime.Object{
				newDeployment("web", 1), newReplicaSet("1", 1, guarded, ready(1)), webPod("a"), newStatefulSet(1, ready(1)), stranger("db-0", pods.StatefulSet, "db"),
			},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			g, _ := newGuard(t, tc.objects...)
			cached, err := g.cluster.cached(tc.key)
			if err != nil {
				t.Fatal(err)
			}
			now, err := g.live.live(t.Context(), tc.key, cached, current{})
			if err != nil {
				t.Fatal(err)
			}
			if got := now.workload(tc.key).strangers; got != tc.live {
				t.Errorf("%s\n%d are counted, want %d", tc.reason, got, tc.live)
			}
			w := cached.workload(tc.key)
			if w.strangers != tc.known {
				t.Errorf("%s\n%d are known, want %d", tc.reason, w.strangers, tc.known)
			}
			if able, _, _, _ := w.company(noon()).others(w.members[0], false); able != tc.known+len(w.members)-1 {
				t.Errorf("%s\n%d others can take calls, want %d that are not guarded and the other guarded ones", tc.reason, able, tc.known)
			}
		})
	}
}

// TestEndingNodes has the only other pod of a workload on a node that is being removed. It
// will not take calls for long, so no other pod stops accepting calls because of it.
func TestEndingNodes(t *testing.T) {
	const second = "node-2"
	there := func(o metav1.Object) { o.(*corev1.Pod).Spec.NodeName = second }
	removal := corev1.Taint{Key: "ToBeDeletedByClusterAutoscaler", Effect: corev1.TaintEffectNoSchedule}
	lost := corev1.Taint{Key: corev1.TaintNodeUnreachable, Effect: corev1.TaintEffectNoExecute}
	other := func(change func(*corev1.Node), taints ...corev1.Taint) *corev1.Node {
		node := newNode(false, taints...)
		node.Name, node.UID = second, second
		if change != nil {
			change(node)
		}
		return node
	}
	going := func(n *corev1.Node) { deleted(n); n.Finalizers = []string{"x"} }
	delay := DefaultSettings().RemovalDelay
	cases := map[string]struct {
		reason string
		node   *corev1.Node
		after  time.Duration
		want   int
	}{
		"Fine":         {reason: "It takes calls.", node: other(nil), want: 1},
		"Cordoned":     {reason: "It takes calls until it has to go itself.", node: other(func(n *corev1.Node) { n.Spec.Unschedulable = true }), want: 1},
		"MayBeKept":    {reason: "An autoscaler may remove its mark.", node: other(nil, removal), after: delay - time.Second, want: 1},
		"Removed":      {reason: "It did not.", node: other(nil, removal), after: delay, want: 0},
		"Lost":         {reason: "Nothing reaches it.", node: other(nil, lost), want: 0},
		"BeingDeleted": {reason: "Its object is being deleted.", node: other(going), want: 0},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			objects := []metav1.Object{newDeployment("web", 2), newReplicaSet("1", 2), webPod("a"), webPod("b", there)}
			g, _ := newGuard(t, newNode(true), tc.node)
			g.planner.settings.RemovalDelay = delay
			look := func() plan {
				s := newSnapshot(objects...)
				return g.plan(t.Context(), s, s.workload(workloadKey(pods.Deployment, "web")))
			}
			look()
			g.now = func() time.Time { return noon().Add(tc.after) }
			p := look()
			i := slices.IndexFunc(p.judged, func(j judgement) bool { return j.Name == "a" })
			if i < 0 {
				t.Fatal("the pod of the cordoned node is not judged")
			}
			if got := p.judged[i].facts.Workload.Able; got != tc.want {
				t.Errorf("%s\n%d others can take calls, want %d", tc.reason, got, tc.want)
			}
		})
	}
}

// TestLeftToEviction has released pods that were not evicted for an hour.
func TestLeftToEviction(t *testing.T) {
	released := func(intent call.Intent) edit { return label(call.ReleasedLabel, string(intent)) }
	removal := corev1.Taint{Key: "karpenter.sh/disrupted", Effect: corev1.TaintEffectNoSchedule}
	bare := Key{NamespacedName: voicePod("a"), APIVersion: "v1", Kind: "Pod", UID: "a"}
	left := []string{"Normal LeftToEviction on Pod voice/a: Pod voice/a holds no call and accepts none. It is left to an eviction, because it has no owner that would recreate it; evict it with: kubectl drain node-1"}
	cases := map[string]struct {
		reason  string
		key     Key
		node    *corev1.Node
		objects []runtime.Object
		deletes bool
		events  []string
	}{
		"Bare":     {reason: "A cordon ends no pod that nothing would create again.", key: bare, node: newNode(true), objects: []runtime.Object{newPod("a", draining, released(call.NodeDrain))}, events: left},
		"Asked":    {reason: "An operator wants it gone.", key: bare, node: newNode(true), objects: []runtime.Object{newPod("a", draining, released(call.Operator))}, deletes: true},
		"NodeGoes": {reason: "Its node is taken away.", key: bare, node: newNode(true, removal), objects: []runtime.Object{newPod("a", draining, released(call.NodeDrain))}, deletes: true},
		"Owned": {reason: "Its ReplicaSet makes another.", key: workloadKey(pods.Deployment, "web"), node: newNode(true),
			objects: []runtime.Object{newDeployment("web", 1), newReplicaSet("1", 1), webPod("a", draining, released(call.NodeDrain))}, deletes: true},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			g, client := newGuard(t, append(tc.objects, tc.node, enabledNamespace())...)
			told := &trial.Events{}
			g.report.events = told
			for _, after := range []time.Duration{0, time.Minute, time.Hour} {
				g.now = func() time.Time { return noon().Add(after) }
				if _, err := g.reconcile(t.Context(), tc.key); err != nil {
					t.Fatal(err)
				}
			}
			deletes := false
			for _, a := range client.Actions() {
				deletes = deletes || a.GetVerb() == "delete"
			}
			if deletes != tc.deletes {
				t.Errorf("%s\ndeleted: %t, want %t", tc.reason, deletes, tc.deletes)
			}
			if diff := cmp.Diff(tc.events, told.List()); diff != "" {
				t.Errorf("%s\nEvents: -want, +got:\n%s", tc.reason, diff)
			}
		})
	}
}

// TestDeadlinesCountFromTheIntent drains a node, cancels that and starts again. The pod
// still leaves; its deadline counts from the last start.
func TestDeadlinesCountFromTheIntent(t *testing.T) {
	g, client := newGuard(t, enabledNamespace(), newNode(true), newDeployment("web", 1), newReplicaSet("1", 1), asidePod("a"))
	now := noon()
	g.now = func() time.Time { return now }
	look := func() verdict.Facts {
		t.Helper()
		s, err := liveNamespace(t.Context(), client, voice)
		if err != nil {
			t.Fatal(err)
		}
		p := g.plan(t.Context(), s, s.workload(workloadKey(pods.Deployment, "web")))
		if len(p.judged) != 1 {
			t.Fatalf("%d pods are judged; want the one that is aside", len(p.judged))
		}
		return p.judged[0].facts
	}
	steps := []struct {
		reason          string
		cordoned        bool
		after           time.Duration
		since, standing time.Time
	}{
		{"It counts from when this guard sees it, whatever the mark says.", true, 0, noon(), noon()},
		{"And goes on from there.", true, time.Minute, noon(), noon()},
		{"Nobody waits any more; its road goes on.", false, 2 * time.Minute, noon(), time.Time{}},
		{"Nor now.", false, 3 * time.Minute, noon(), time.Time{}},
		{"Somebody waits again, from now on.", true, 4 * time.Minute, noon(), noon().Add(4 * time.Minute)},
		{"And still.", true, 5 * time.Minute, noon(), noon().Add(4 * time.Minute)},
	}
	for _, step := range steps {
		nodeIs(t, g, client, newNode(step.cordoned))
		now = noon().Add(step.after)
		f := look()
		if !f.Since.Equal(step.since) || !f.Standing.Equal(step.standing) {
			t.Errorf("%s\nafter %s it counts from %s and %s; want %s and %s", step.reason, step.after, f.Since, f.Standing, step.since, step.standing)
		}
	}
}

// TestWantedAnew has a serving pod that no longer has to leave: when it has to again, that
// counts from then.
func TestWantedAnew(t *testing.T) {
	g, _ := newGuard(t, newNode(false))
	now := noon()
	g.now = func() time.Time { return now }
	look := func(edits ...edit) plan {
		s := newSnapshot(newDeployment("web", 1), newReplicaSet("1", 1), webPod("a", edits...))
		return g.plan(t.Context(), s, s.workload(workloadKey(pods.Deployment, "web")))
	}
	leave := annotation(call.LeaveAnnotation, "")
	look(leave)
	now = noon().Add(time.Minute)
	if p := look(); len(p.judged) > 0 {
		t.Fatalf("it does not have to leave, but is judged: %+v", p.judged)
	}
	now = noon().Add(2 * time.Minute)
	if f := look(leave).judged[0].facts; !f.Since.Equal(now) || !f.Standing.Equal(now) {
		t.Errorf("it is wanted gone since %s and %s; want %s, when it was asked to leave again", f.Since, f.Standing, now)
	}
}

// TestMaxUnavailable reads how many replicas of an owner may be unavailable during a
// rollout.
func TestMaxUnavailable(t *testing.T) {
	rolling := func(surge, unavailable *intstr.IntOrString) edit {
		return func(o metav1.Object) {
			o.(*appsv1.Deployment).Spec.Strategy.RollingUpdate = &appsv1.RollingUpdateDeployment{MaxSurge: surge, MaxUnavailable: unavailable}
		}
	}
	number := func(n int32) *intstr.IntOrString { return new(intstr.FromInt32(n)) }
	quarter := new(intstr.FromString("25%"))
	stateful := func(unavailable *intstr.IntOrString) edit {
		return func(o metav1.Object) {
			o.(*appsv1.StatefulSet).Spec.UpdateStrategy.RollingUpdate = &appsv1.RollingUpdateStatefulSetStrategy{MaxUnavailable: unavailable}
		}
	}
	daemon := func(unavailable *intstr.IntOrString) edit {
		return func(o metav1.Object) {
			o.(*appsv1.DaemonSet).Spec.UpdateStrategy.RollingUpdate = &appsv1.RollingUpdateDaemonSet{MaxUnavailable: unavailable}
		}
	}
	cases := map[string]struct {
		reason string
		owner  *owner
		want   int
	}{
		"Default":         {reason: "Kubernetes' own default: a quarter of four.", owner: ofDeployment(newDeployment("web", 4, rolling(quarter, quarter))), want: 1},
		"RoundedDown":     {reason: "As Kubernetes does.", owner: ofDeployment(newDeployment("web", 3, rolling(quarter, quarter)))},
		"Number":          {reason: "As said.", owner: ofDeployment(newDeployment("web", 4, rolling(number(0), number(2)))), want: 2},
		"NeitherNor":      {reason: "Its controller could not go on otherwise, and takes one.", owner: ofDeployment(newDeployment("web", 4, rolling(number(0), number(0)))), want: 1},
		"PartsOfNeither":  {reason: "A part that comes to nothing is nothing.", owner: ofDeployment(newDeployment("web", 2, rolling(number(0), quarter))), want: 1},
		"SurgeOnly":       {reason: "With a surge none has to be missing.", owner: ofDeployment(newDeployment("web", 4, rolling(number(1), number(0))))},
		"Recreate":        {reason: "All leave at once, by a separate rule.", owner: ofDeployment(newDeployment("web", 4, recreate))},
		"StatefulSet":     {reason: "It may have a number, too.", owner: ofStatefulSet(newStatefulSet(4, stateful(number(2)))), want: 2},
		"StatefulSetNone": {reason: "One at a time, by a separate rule.", owner: ofStatefulSet(newStatefulSet(4))},
		"DaemonSet":       {reason: "A part of three is rounded up.", owner: ofDaemonSet(newDaemonSet(daemon(quarter))), want: 1},
	}
	for name, tc := range cases {
		if tc.owner.maxUnavailable != tc.want {
			t.Errorf("%s: %s\ngot %d, want %d", name, tc.reason, tc.owner.maxUnavailable, tc.want)
		}
	}
}

// TestHoldsOfTheGuardAreDocumented: docs/holds.md has a row for each rule that is not
// package verdict's.
func TestHoldsOfTheGuardAreDocumented(t *testing.T) {
	page, err := os.ReadFile("../../docs/holds.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, rule := range []string{RuleDoors, RuleWrite, "default"} {
		if !strings.Contains(string(page), "\n| `"+rule+"` |") {
			t.Errorf("docs/holds.md has no row of rule %s", rule)
		}
	}
}
