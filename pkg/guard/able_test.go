// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"context"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/pods"
	"github.com/callguard/callguard/pkg/verdict"
)

// gates answer what a test sets, by pod, and record who was asked.
type gates struct {
	says  map[string]call.Ability
	asked []string
}

// Ask implements Witness.
func (g *gates) Ask(_ context.Context, pod *call.Pod) call.Reading {
	g.asked = append(g.asked, pod.Name)
	if said := g.says[pod.Name]; said != call.Silent {
		return call.Known(0, noon()).WithAbility(said)
	}
	return call.Unknown("the gate does not say: connection refused")
}

// withGates makes a Guard ask these gates, and read them when the test says so.
func withGates(g *Guard, says *gates) (read func(context.Context)) {
	g.gates = newReadings(map[call.Witness]Witness{call.Gate: says}, time.Second, func() time.Time { return g.now() })
	g.gates.queue, g.planner.ability = noDelays{}, g.ability
	return func(ctx context.Context) {
		for _, uid := range slices.Sorted(maps.Keys(g.gates.records)) {
			g.gates.read(ctx, uid)
		}
	}
}

func gate(o metav1.Object) { o.GetAnnotations()[call.GatePortAnnotation] = "8089" }

// TestRolloutToAnUnable rolls out to a revision whose pod is ready: pod a is the old one
// and takes calls, b is the new one.
func TestRolloutToAnUnable(t *testing.T) {
	next := func(edits ...edit) *corev1.Pod {
		return newPod("b", append([]edit{controlledBy(pods.ReplicaSet, "web-2"), label(hashLabel, "2"), gate}, edits...)...)
	}
	old := func(edits ...edit) *corev1.Pod {
		return asidePod("a", append([]edit{gate, annotation(call.AsideAnnotation, "rollout 2026-01-01T11:58:00Z")}, edits...)...)
	}
	secret := annotation(call.SecretAnnotation, "livekit")
	keyOf := func(name string) edit {
		return func(o metav1.Object) {
			o.(*corev1.Pod).Spec.InitContainers = []corev1.Container{{Name: "call-gate", EnvFrom: []corev1.EnvFromSource{{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: name}}}}}}
		}
	}
	const (
		drained = "Normal Draining: Pod voice/a stopped accepting calls (rollout): enough other pods can take calls"
		held    = "Normal Held: Pod voice/a stays (rollout): too few others of its workload can take calls"
		tail    = "; it goes on serving until replacements are ready"
	)
	cases := map[string]struct {
		reason string
		old    *corev1.Pod // pod a, or another version of it
		new    *corev1.Pod
		says   map[string]call.Ability
		until  int // seconds after noon, with a look every five
		mends  int // when everything is fine again; zero for never
		want   []string
	}{
		"Able": {reason: "Its worker is registered.", new: next(), says: map[string]call.Ability{"a": call.Able, "b": call.Able}, until: 5, want: []string{drained}},
		"Starting": {
			reason: "Python's worker registers half a minute after its pod is ready. That is no reason for an alarm.", new: next(),
			says: map[string]call.Ability{"a": call.Able, "b": call.NoWorker}, until: 30, want: []string{held + tail},
		},
		"NeverComes": {
			reason: "It uses a proxy, or bypasses the gate.", new: next(), says: map[string]call.Ability{"a": call.Able, "b": call.NoWorker}, until: 3000,
			want: []string{held + tail, held + ": no worker has ever connected to call-gate of pod voice/b; check its LIVEKIT_URL and proxy settings" + tail},
		},
		"WrongKey": {
			reason: "Old agents serve on, and the Event names the Secret.", new: next(secret), says: map[string]call.Ability{"a": call.Able, "b": call.Refused}, until: 3000,
			want: []string{held + ": LiveKit refuses the key of Secret voice/livekit (pod voice/b)" + tail},
		},
		"WrongKeyByName": {
			reason: "The Secret is that of the gate's variables where the pod names none.", new: next(keyOf("keys")), says: map[string]call.Ability{"a": call.Able, "b": call.Refused}, until: 30,
			want: []string{held + ": LiveKit refuses the key of Secret voice/keys (pod voice/b)" + tail},
		},
		"NotReady": {
			reason: "With a readiness probe of the gate the pod is not even ready; the reason is the same.", new: next(secret, unready), says: map[string]call.Ability{"a": call.Able, "b": call.Refused}, until: 30,
			want: []string{held + ": LiveKit refuses the key of Secret voice/livekit (pod voice/b)" + tail},
		},
		"NoLiveKit": {
			reason: "When LiveKit is away for both, the old one is as good as the new: it stays until one can.", new: next(), says: map[string]call.Ability{"a": call.Unreachable, "b": call.Unreachable}, until: 3000,
			want: []string{held + ": call-gate of pod voice/b cannot reach LiveKit" + tail},
		},
		"BothBroken": {
			reason: "A pod that has long been unable itself is no loss: nothing waits for it.", new: next(), says: map[string]call.Ability{"a": call.Refused, "b": call.Refused}, until: 310,
			want: []string{
				held + ": LiveKit refuses the key of pod voice/b" + tail,
				"Normal Draining: Pod voice/a stopped accepting calls (rollout): it can take no call itself: LiveKit refuses the key of pod voice/a",
			},
		},
		"OldGate": {reason: "An older gate does not report it: its pod is judged by its Ready condition.", new: next(), says: map[string]call.Ability{"a": call.Unsaid, "b": call.Unsaid}, until: 5, want: []string{drained}},
		"Silent": {
			reason: "Silence proves nothing, and nothing waits for it without end.", new: next(), says: map[string]call.Ability{"a": call.Able, "b": call.Silent}, until: 130,
			want: []string{held + tail, held + ": call-gate of pod voice/b does not answer" + tail, drained},
		},
		"NoGate": {reason: "Without a gate Kubernetes' word is all there is.", new: newPod("b", controlledBy(pods.ReplicaSet, "web-2"), label(hashLabel, "2")), says: map[string]call.Ability{}, until: 1, want: []string{drained}},
		"Mends": {
			reason: "The key is corrected: the rollout continues.", new: next(), says: map[string]call.Ability{"a": call.Able, "b": call.Refused}, until: 20, mends: 15,
			want: []string{held + ": LiveKit refuses the key of pod voice/b" + tail, drained},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if tc.old == nil {
				tc.old = old()
			}
			objects := []runtime.Object{enabledNamespace(), newDeployment("web", 1, annotation(revisionMark, "2")), newReplicaSet("1", 0), newReplicaSet("2", 1), tc.old, tc.new}
			g, client := newGuard(t, objects...)
			said := &gates{says: maps.Clone(tc.says)}
			read := withGates(g, said)
			told := hear(g)
			for second := 0; second <= tc.until; second += 5 {
				if tc.mends > 0 && second >= tc.mends {
					said.says["b"] = call.Able
				}
				g.now = func() time.Time { return noon().Add(time.Duration(second) * time.Second) }
				read(t.Context())
				if _, err := g.reconcile(t.Context(), workloadKey(pods.Deployment, "web")); err != nil {
					t.Fatal(err)
				}
				told()
			}
			var want []string
			for _, event := range tc.want {
				want = append(want, onEach(event, "Pod voice/a", "Deployment voice/web")...)
			}
			if diff := cmp.Diff(slices.Sorted(slices.Values(want)), told()); diff != "" {
				t.Errorf("%s\nEvents: -want, +got:\n%s", tc.reason, diff)
			}
			a, err := client.CoreV1().Pods(voice).Get(t.Context(), "a", metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			drains := slices.ContainsFunc(tc.want, func(e string) bool { return e == drained }) || name == "BothBroken"
			if marked := a.Annotations[call.DrainingAnnotation] != ""; marked != drains {
				t.Errorf("%s\nthe old pod stops taking calls: %t", tc.reason, marked)
			}
		})
	}
}

// TestAskedJustBefore: a pod was able a moment ago. Before a step relies on it, it is asked once more.
func TestAskedJustBefore(t *testing.T) {
	b := newPod("b", controlledBy(pods.ReplicaSet, "web-2"), label(hashLabel, "2"), gate)
	a := asidePod("a", gate, annotation(call.AsideAnnotation, "rollout 2026-01-01T11:58:00Z"))
	g, client := newGuard(t, enabledNamespace(), newDeployment("web", 1, annotation(revisionMark, "2")), newReplicaSet("1", 0), newReplicaSet("2", 1), a, b)
	said := &gates{says: map[string]call.Ability{"a": call.Able, "b": call.Able}}
	read := withGates(g, said)
	look := func() {
		t.Helper()
		if _, err := g.reconcile(t.Context(), workloadKey(pods.Deployment, "web")); err != nil {
			t.Fatal(err)
		}
	}
	look() // the gate was not asked yet
	read(t.Context())
	said.says["b"] = call.Gone // the next moment
	look()
	pod, err := client.CoreV1().Pods(voice).Get(t.Context(), "a", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if pod.Annotations[call.DrainingAnnotation] != "" {
		t.Error("the old pod stops taking calls on an old answer")
	}
}

// TestGatesAreAskedInTime: only while a pod of the workload should leave.
func TestGatesAreAskedInTime(t *testing.T) {
	for name, tc := range map[string]struct {
		reason string
		pods   []runtime.Object
		want   []string
	}{
		"Steady":   {reason: "A steady cluster costs nothing.", pods: []runtime.Object{webPod("a", gate), webPod("b", gate)}},
		"Leaving":  {reason: "Those that it relies on, and itself.", pods: []runtime.Object{webPod("a", gate, annotation(call.LeaveAnnotation, "")), webPod("b", gate), webPod("c"), webPod("d", gate, ended)}, want: []string{"a", "b"}},
		"Draining": {reason: "It no longer relies on others.", pods: []runtime.Object{asidePod("a", gate, draining), webPod("b", gate)}},
	} {
		t.Run(name, func(t *testing.T) {
			g, _ := newGuard(t, append(tc.pods, enabledNamespace(), newDeployment("web", 2), newReplicaSet("1", 2))...)
			said := &gates{says: map[string]call.Ability{"a": call.Able, "b": call.NoWorker}}
			read := withGates(g, said)
			if _, err := g.reconcile(t.Context(), workloadKey(pods.Deployment, "web")); err != nil {
				t.Fatal(err)
			}
			read(t.Context())
			if diff := cmp.Diff(tc.want, said.asked); diff != "" {
				t.Errorf("%s\n-want, +got:\n%s", tc.reason, diff)
			}
		})
	}
}

// TestFactsOfTheUnable counts others that are ready and cannot take calls.
func TestFactsOfTheUnable(t *testing.T) {
	s := newSnapshot(newDeployment("web", 4), newReplicaSet("1", 4),
		webPod("a", gate), webPod("b", gate), webPod("c", gate), webPod("d", gate))
	cases := map[string]struct {
		reason string
		able   map[string]ableAt
		wanted []string
		want   verdict.Workload
	}{
		"All": {reason: "Three others.", want: verdict.Workload{Able: 3}},
		"OneComing": {reason: "A replacement that is ready is still on its way.", able: map[string]ableAt{"b": {call.NoWorker, noon()}},
			want: verdict.Workload{Able: 2, Coming: 1}},
		"OneBroken": {reason: "And says why, when it should have come.", able: map[string]ableAt{"b": {call.NoWorker, noon().Add(-startsWithin)}},
			want: verdict.Workload{Able: 2, Coming: 1, Unable: verdict.Unable{Pod: "voice/b", Why: call.NoWorker}}},
		"Stuck": {reason: "One that is to go itself is no replacement on its way.", able: map[string]ableAt{"b": {call.Gone, noon().Add(-time.Hour)}}, wanted: []string{"b"},
			want: verdict.Workload{Able: 2, Unable: verdict.Unable{Pod: "voice/b", Why: call.Gone}}},
		"Worst": {reason: "Problems that somebody has to fix are named first.", able: map[string]ableAt{"b": {call.Unreachable, noon()}, "c": {call.Refused, noon()}, "d": {call.Silent, noon()}},
			want: verdict.Workload{Coming: 3, Unable: verdict.Unable{Pod: "voice/c", Why: call.Refused}}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			w := s.workload(workloadKey(pods.Deployment, "web"))
			for _, m := range w.members {
				m.able, m.wanted = tc.able[m.Name], slices.Contains(tc.wanted, m.Name)
			}
			tc.want.Desired, tc.want.MinAvailable, tc.want.Surge = 4, 4, 1
			got := w.facts(s, w.members[0], w.company(noon()), call.Mark{Intent: call.NodeDrain}, noon(), verdict.Limits{}).Workload
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("%s\n-want, +got:\n%s", tc.reason, diff)
			}
		})
	}
}

// TestUselessPods: a pod that has long been unable to take calls may stop accepting them without a replacement.
func TestUselessPods(t *testing.T) {
	for name, tc := range map[string]struct {
		reason  string
		able    ableAt
		useless bool
	}{
		"Able":      {reason: "It takes calls."},
		"Refused":   {reason: "Its key has been wrong for five minutes.", able: ableAt{call.Refused, noon().Add(-uselessFor)}, useless: true},
		"JustNow":   {reason: "Its worker may be about to register again.", able: ableAt{call.Gone, noon()}},
		"NotYet":    {reason: "So it may until then.", able: ableAt{call.Gone, noon().Add(1 - uselessFor)}},
		"LongGone":  {reason: "It does not come back.", able: ableAt{call.Gone, noon().Add(-uselessFor)}, useless: true},
		"Silent":    {reason: "An unknown reading of a gate says nothing about its worker.", able: ableAt{call.Silent, noon().Add(-time.Hour)}},
		"NoLiveKit": {reason: "When LiveKit can be reached again, the pod serves on.", able: ableAt{call.Unreachable, noon().Add(-time.Hour)}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSnapshot(newDeployment("web", 2), newReplicaSet("1", 2), webPod("a", gate), webPod("b", gate))
			w := s.workload(workloadKey(pods.Deployment, "web"))
			w.members[0].able = tc.able
			var want verdict.Unable
			if tc.useless {
				want = verdict.Unable{Pod: "voice/a", Why: tc.able.why}
			}
			got := w.facts(s, w.members[0], w.company(noon()), call.Mark{Intent: call.NodeDrain}, noon(), verdict.Limits{}).Pod.Unable
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s\n-want, +got:\n%s", tc.reason, diff)
			}
		})
	}
}

// TestKeySecret finds the Secret of a pod's LiveKit key, also in a pod as informers keep it.
func TestKeySecret(t *testing.T) {
	env := func(name string) corev1.Container {
		return corev1.Container{Env: []corev1.EnvVar{{Name: keyVariable, ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: name}, Key: "api-key"}}}}}
	}
	from := func(names ...string) (c corev1.Container) {
		for _, name := range names {
			c.EnvFrom = append(c.EnvFrom, corev1.EnvFromSource{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: name}}})
		}
		return c
	}
	cases := map[string]struct {
		reason string
		agent  corev1.Container
		gate   corev1.Container
		edits  []edit
		want   string
	}{
		"None":       {reason: "A key in plain text, or in a file."},
		"Annotation": {reason: "The pod's own settings come first.", agent: env("other"), edits: []edit{annotation(call.SecretAnnotation, "livekit")}, want: "voice/livekit"},
		"Variable":   {reason: "The worker's key is the agent's.", agent: env("agent"), gate: env("gate"), want: "voice/agent"},
		"Gate":       {reason: "Mostly they are the same.", gate: from("livekit"), want: "voice/livekit"},
		"Several":    {reason: "It is ambiguous which of them has it.", gate: from("livekit", "other")},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			pod := newPod("a", tc.edits...)
			pod.Spec.Containers, pod.Spec.InitContainers = []corev1.Container{tc.agent}, []corev1.Container{tc.gate}
			if got := newSnapshot().member(pod).keySecret(); got != tc.want {
				t.Errorf("%s\ngot %q; want %q", tc.reason, got, tc.want)
			}
			trimPod(pod)
			if got := newSnapshot().member(pod).keySecret(); got != tc.want {
				t.Errorf("%s\nof a pod that was trimmed: %q; want %q", tc.reason, got, tc.want)
			}
		})
	}
}

// TestGatesRun: a leading Guard reads the gates by itself.
func TestGatesRun(t *testing.T) {
	said := &says{reading: call.Known(0, noon()).WithAbility(call.Refused)}
	g, err := New(Config{Client: nil, Doors: open{}, Witnesses: map[call.Witness]Witness{call.Gate: said}, Registry: prometheus.NewRegistry()})
	if err != nil || g.gates == nil {
		t.Fatalf("a guard with a witness of gates asks them: %v", err)
	}
	poked := make(chan struct{}, 1)
	g.gates.every = time.Millisecond
	g.gates.changed = func(uid types.UID) {
		if uid == "a" {
			poked <- struct{}{}
		}
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- g.gates.run(ctx) }()
	eventually(t, "it runs", func() bool { g.gates.mu.Lock(); defer g.gates.mu.Unlock(); return g.gates.queue != nil })
	g.gates.want(newSnapshot().member(webPod("a", gate)).askable(), true)
	<-poked
	if a, since := g.gates.ability("a"); a != call.Refused || since.IsZero() {
		t.Errorf("%q since %s", a, since)
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
