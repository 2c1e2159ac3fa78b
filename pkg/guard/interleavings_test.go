// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"flag"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/verdict"
	"github.com/callguard/callguard/pkg/verdict/rules/idle"
)

// thorough makes TestInterleavings explore more of everything, up to this number of states
// of each world; `make model` sets it.
var thorough = flag.Int("model", 0, "explore larger worlds, of each up to so many states") //nolint:gochecknoglobals // as package flag has it

// enough is more states than a small world has, and the number of states that are visited
// of a large one.
const enough = 4000

// scenario is a world to explore.
type scenario struct {
	reason string
	start  func() *world
	left   allowance
	more   allowance // with -model
	guards string    // their names
	slow   bool      // readings
	large  bool      // has more than enough states
}

func scenarios() map[string]scenario {
	return map[string]scenario{
		"Marked": {
			reason: "A pod is marked at any time of a call, also by a request that fails.",
			start:  serving, left: allowance{ticks: 1, calls: 1, faults: 1}, more: allowance{ticks: 3, calls: 2, faults: 2}, guards: "A",
		},
		"MarkedTwice": {
			large:  true,
			reason: "Two guards that both believe they lead mark one pod.",
			start:  serving, left: allowance{ticks: 1}, more: allowance{ticks: 2, calls: 1}, guards: "AB",
		},
		"Uncordoned": {
			reason: "A drain that is cancelled and begun again.",
			start:  serving, left: allowance{calls: 1, cordons: 2}, more: allowance{ticks: 2, calls: 1, cordons: 2}, guards: "A",
		},
		"Released": {
			reason: "While nothing fails, nothing is cut, and a pod takes at most five writes.",
			start:  told, left: allowance{ticks: 3}, more: allowance{ticks: 4, calls: 1}, guards: "A",
		},
		"SlowReadings": {
			large:  true,
			reason: "A background reading may take any time.",
			start:  told, left: allowance{ticks: 2}, more: allowance{ticks: 3, calls: 1}, guards: "A", slow: true,
		},
		"Faults": {
			reason: "Any request may fail, before or after it takes effect, or conflict.",
			start:  told, left: allowance{ticks: 2, faults: 1}, more: allowance{ticks: 3, calls: 1, faults: 2}, guards: "A",
		},
		"Lies": {
			reason: "A witness may not answer, or answer with an old state.",
			start:  told, left: allowance{ticks: 2, lies: 2}, more: allowance{ticks: 3, calls: 1, lies: 3}, guards: "A",
		},
		"Killed": {
			reason: "SIGKILL at any step, also with a write under way that took effect.",
			start:  told, left: allowance{ticks: 2, kills: 1}, more: allowance{ticks: 4, kills: 1, faults: 1}, guards: "A",
		},
		"Crashes": {
			large:  true,
			reason: "A container that ends and starts again, and a pod that is replaced under its own name.",
			start:  told, left: allowance{ticks: 2, crashes: 1}, more: allowance{ticks: 3, calls: 1, crashes: 1}, guards: "A",
		},
		"ReleasedTwice": {
			large:  true,
			reason: "Two guards that both believe they lead release one pod.",
			start:  told, left: allowance{ticks: 2}, more: allowance{ticks: 3, calls: 1}, guards: "AB",
		},
		"Aside": {
			reason: "A pod with a replacement: there is never more than one.",
			start:  deployed, left: allowance{faults: 1}, more: allowance{ticks: 3, calls: 1, faults: 1, kills: 1}, guards: "A",
		},
		"AsideKnown": {
			reason: "The same, if a look may use informers' data.",
			start:  asKnown(deployed), left: allowance{ticks: 1, faults: 1}, more: allowance{ticks: 3, calls: 1, faults: 1, kills: 1}, guards: "A",
		},
		"AsideTwice": {
			large:  true,
			reason: "The same with two guards.",
			start:  deployed, more: allowance{ticks: 2, calls: 1}, guards: "AB",
		},
		"Able": {
			reason: "A replacement is ready before its worker is registered with LiveKit, and its gate may not answer: until it says so, the old pod takes the calls.",
			start:  gatedDeployed, left: allowance{lies: 1}, more: allowance{ticks: 2, calls: 1, lies: 2, faults: 1, kills: 1}, guards: "A",
		},
		"Counted": {
			reason: "LiveKit is not read while the gate counts calls, and once the gate counts none, has to have been read since: a job may be over while its agent is in the room.",
			start:  counted, left: allowance{ticks: 2}, more: allowance{ticks: 3, calls: 2}, guards: "A",
		},
		"CountedLies": {
			reason: "The same where a gate, or LiveKit, does not answer.",
			start:  counted, left: allowance{ticks: 1, lies: 1}, more: allowance{ticks: 3, calls: 1, lies: 2}, guards: "A",
		},
		"CountedSlow": {
			large:  true,
			reason: "The same where a background reading takes any time.",
			start:  counted, left: allowance{ticks: 2}, more: allowance{ticks: 3, calls: 1}, guards: "A", slow: true,
		},
		"CountedTwice": {
			large:  true,
			reason: "The same with two guards, each of which reads LiveKit for itself, and may be killed.",
			start:  counted, left: allowance{ticks: 2, kills: 1}, more: allowance{ticks: 3, calls: 1, kills: 1, faults: 1}, guards: "AB",
		},
		"ScaledDownKnown": {
			large:  true,
			reason: "The same, if a look may use informers' data.",
			start:  asKnown(scaledDown), left: allowance{ticks: 1, calls: 1, faults: 1}, more: allowance{ticks: 2, calls: 1, faults: 1, kills: 1}, guards: "A",
		},
		"ScaledDown": {
			reason: "Exactly as many pods leave as are too many.",
			start:  scaledDown, left: allowance{calls: 1, faults: 1}, more: allowance{ticks: 2, calls: 1, faults: 1, kills: 1}, guards: "A",
		},
	}
}

// TestInterleavings lets guards, agents, the kubelet, an evictor and the clock act in every
// order, and everything fail that may fail. See world_test.go for the assumptions about the
// others, and world.check… for the invariants.
func TestInterleavings(t *testing.T) {
	for name, tc := range scenarios() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				e := &explorer{ends: 20}
				limit := enough
				if *thorough > 0 {
					tc.left, limit = tc.more, *thorough
				}
				all := e.explore(tc.world(mutant{}), limit)
				if e.failure != "" {
					t.Errorf("%s\n%s", tc.reason, e.failure)
				} else if !all && !tc.large && *thorough == 0 {
					t.Errorf("%d states are not all there are; make the world smaller, or call it large", e.states)
				}
				t.Logf("%s: %d states (all: %t), %d steps; %d of them followed to their end", name, e.states, all, e.steps, e.followed)
			})
		})
	}
}

// TestInterleavingsRefute shows that the explorer works: it detects each guard that is
// broken on purpose.
func TestInterleavingsRefute(t *testing.T) {
	begun, soon, late := scenarios()["Marked"], scenarios()["Marked"], scenarios()["Marked"]
	// A mark has whole seconds and may be ahead of the clock, which has to pass it.
	begun.left, soon.left, late.left = allowance{calls: 1}, allowance{ticks: 1, calls: 1}, allowance{ticks: 2, calls: 1}
	two, one, lies, crashes := scenarios()["MarkedTwice"], scenarios()["Released"], scenarios()["Lies"], scenarios()["Crashes"]
	down, counts := scenarios()["ScaledDown"], scenarios()["Counted"]
	down.left, counts.left.calls = allowance{calls: 1}, 1
	cases := map[string]struct {
		reason string
		in     scenario
		mutant mutant
		want   string // in the failure
	}{
		"NoPreconditions": {
			reason: "A late release meets the next pod of that name.",
			in:     crashes, mutant: mutant{body: without("uid", "resourceVersion")}, want: "never told to take no call",
		},
		"NoVersion": {
			reason: "A late mark overwrites a newer one.",
			in:     two, mutant: mutant{body: without("resourceVersion")}, want: "callguard.dev/draining of pod",
		},
		"NoSettle": {
			reason: "An offer that was accepted before the mark becomes a call after the release.",
			in:     soon, mutant: mutant{rules: with(func(f *verdict.Facts) { f.Limits.Settle = 0; f.QuietSince = f.Pod.DrainingSince })}, want: "call",
		},
		"SettledFromMark": {
			reason: "A mark is dated before it is written, which may take as long as the settle window.",
			in:     late, mutant: mutant{rules: with(func(f *verdict.Facts) { f.Pod.DrainingSince, f.QuietSince = f.Intent.At, f.Intent.At })}, want: "call",
		},
		"OldReadings": {
			reason: "Readings from before the mark say nothing about later calls.",
			in:     begun, mutant: mutant{rules: replaced(func(f verdict.Facts, r verdict.Reading) bool { n, known := r.Calls(); return known && n == 0 }, false)}, want: "call",
		},
		"UnknownIsZero": {
			reason: "A witness that does not answer may have a call to tell of.",
			in:     lies, mutant: mutant{unknownIsZero: true}, want: "holds a call",
		},
		"MissingWitness": {
			reason: "The witness that is missing may be the one that knows.",
			in:     lies, mutant: mutant{rules: replaced(func(f verdict.Facts, r verdict.Reading) bool {
				n, known := r.Calls()
				return !known || n == 0 && r.At().After(f.QuietSince.Add(f.Limits.Settle))
			}, false)}, want: "holds a call",
		},
		"AnyWitness": {
			reason: "A job may be over while its agent is in the room, and the other way round.",
			in:     one, mutant: mutant{rules: replaced(func(f verdict.Facts, r verdict.Reading) bool {
				n, known := r.Calls()
				return known && n == 0 && r.At().After(f.QuietSince.Add(f.Limits.Settle))
			}, true)}, want: "holds a call",
		},
		"NoMark": {
			reason: "A pod that is idle and takes calls is not idle for long.",
			in:     begun, mutant: mutant{rules: func(verdict.Rules) verdict.Rules { return verdict.Rules{unmarked{}} }}, want: "never told to take no call",
		},
		"LiveKitNotRead": {
			reason: "A gate that counts no job does not know who is in the room.",
			in:     counts, mutant: mutant{rules: replaced(func(f verdict.Facts, r verdict.Reading) bool {
				n, known := r.Calls()
				return f.Sealed && (r.Witness == call.Rooms && !known || known && n == 0 && r.At().After(f.Pod.DrainingSince))
			}, false)}, want: "holds a call",
		},
		"LiveKitOfBefore": {
			reason: "LiveKit's list from before the gate counted none says nothing about a call that began since.",
			in:     counts, mutant: mutant{rules: replaced(func(f verdict.Facts, r verdict.Reading) bool {
				n, known := r.Calls()
				return f.Sealed && known && n == 0 && r.At().After(f.Pod.DrainingSince)
			}, false)}, want: "holds a call",
		},
		"ReadyIsAble": {
			reason: "A pod that is ready takes no call before its worker is registered.",
			in:     scenarios()["Able"], mutant: mutant{readyIsAble: true}, want: "no other can take any",
		},
		"CachedLists": {
			reason: "A guard that relies on an old list sets a second pod aside.",
			in:     down, mutant: mutant{cachedLists: true}, want: "pods are aside",
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				e := &explorer{}
				e.explore(tc.in.world(tc.mutant), 50_000)
				if !strings.Contains(e.failure, tc.want) {
					t.Errorf("%s It is not found out in %d states; want a failure with %q, got %q", tc.reason, e.states, tc.want, e.failure)
				}
				t.Logf("%s: found out after %d states and %d steps\n%s", name, e.states, e.steps, e.failure)
			})
		})
	}
}

// TestEvictionsRefuted shows why evictions are not refused by something that knows the
// calls: the handler does not lock the pod between its check and its delete.
func TestEvictionsRefuted(t *testing.T) {
	cases := map[string]struct {
		reason   string
		eviction func(*world) bool
	}{
		"MinAvailableIsBusyPods": {
			reason: "A budget says how many may go, not which.",
			eviction: func(w *world) bool {
				busy := 0
				for _, a := range w.agents {
					if a.busy() {
						busy++
					}
				}
				return len(w.store.pods) > busy
			},
		},
		"BusyLabel": {
			reason:   "A label that is written after the handler has read the pod comes too late.",
			eviction: func(w *world) bool { return !w.evictor.busy },
		},
		"Webhook": {
			reason:   "A call may begin between the webhook's answer and the delete.",
			eviction: func(w *world) bool { return !w.agents[w.first].busy() },
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			s := scenario{start: scaledDown, left: allowance{calls: 2}}
			w := s.world(mutant{})
			w.eviction = tc.eviction
			e := &explorer{}
			e.explore(w, 0)
			if want := "holds a call and is deleted by an eviction"; !strings.Contains(e.failure, want) {
				t.Errorf("%s It is not found out in %d states; got %q", tc.reason, e.states, e.failure)
			}
			t.Logf("%s: found out after %d states\n%s", name, e.states, e.failure)
		})
	}
}

func (s scenario) world(m mutant) *world {
	w := s.start()
	w.left, w.slowReads, w.mutant = s.left, s.slow, m
	w.clean = len(s.guards) == 1 && s.left == allowance{ticks: s.left.ticks, calls: s.left.calls}
	for _, name := range s.guards {
		w.guards = append(w.guards, newProcess(w, string(name), w.store))
	}
	return w
}

func modelBegan() time.Time { return time.Date(2026, 1, 2, 15, 4, 5, 950e6, time.UTC) }

// empty is a world without pods.
func empty() *world {
	return &world{
		stage: &stage{
			settings: Settings{Limits: verdict.Limits{Settle: modelSettle, ReplacementWait: modelForever}, ReadEvery: time.Second, ReleasePatience: time.Second},
			metrics:  newMetrics(prometheus.NewRegistry()), views: map[string]*cluster{},
			pods: 1, maxPods: 1,
		},
		// Late in a second, because marks have whole ones.
		now: modelBegan(), began: modelBegan(),
		agents: map[types.UID]agent{}, writes: map[types.UID]int{},
	}
}

// serving is a StatefulSet's only pod, on a node that is drained.
func serving() *world { return stateful(empty()) }

func stateful(w *world) *world {
	w.drains, w.store.cordoned = true, true
	w.store.statefulSet = &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Namespace: modelNamespace, Name: "web", UID: "statefulset"}, Spec: appsv1.StatefulSetSpec{Template: guardedTemplate()}}
	w.first = w.create("web-0", oldNode, ownerOf(w.store.statefulSet, "StatefulSet"), map[string]string{}, true).UID
	return w
}

// told is the same pod, just marked: its agent does not know yet, and has accepted an
// offer.
func told() *world { return tell(serving()) }

// counted is the same with a gate, which counts its calls.
func counted() *world {
	w := empty()
	w.counted = true
	return tell(stateful(w))
}

func tell(w *world) *world {
	pod := w.store.pods[0].DeepCopy()
	if pod.Annotations == nil {
		pod.Annotations = map[string]string{}
	}
	pod.Annotations[call.DrainingAnnotation] = call.Mark{Intent: call.NodeDrain, At: w.now}.String()
	w.replace(pod)
	a := w.agents[pod.UID]
	a.accepted, a.marked = true, w.now
	w.agents[pod.UID] = a
	return w
}

// deployed is a Deployment's only pod, on a node that is drained.
func deployed() *world {
	w := empty()
	w.maxPods, w.maxAside = 2, 1
	w.drains, w.store.cordoned = true, true
	w.deploy(1)
	w.first = w.store.pods[0].UID
	return w
}

// asKnown is another world whose guards may use informers' data.
func asKnown(start func() *world) func() *world {
	return func() *world {
		w := start()
		w.known = true
		return w
	}
}

// gatedDeployed is the same with gates, of which one reports that it is able.
func gatedDeployed() *world {
	w := empty()
	w.gated = true
	w.maxPods, w.maxAside = 2, 1
	w.drains, w.store.cordoned = true, true
	w.deploy(1)
	w.first = w.store.pods[0].UID
	a := w.agents[w.first]
	a.able = true
	w.agents[w.first] = a
	return w
}

// scaledDown is a Deployment with two pods that wants one.
func scaledDown() *world {
	w := empty()
	w.maxPods, w.maxAside = 2, 1
	w.deploy(2)
	w.first = w.store.pods[0].UID
	return w
}

// deploy creates a Deployment of one replica with this many pods.
func (w *world) deploy(pods int) {
	one, yes := int32(1), true
	w.store.deployment = &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: modelNamespace, Name: "web", UID: "deployment"},
		Spec:       appsv1.DeploymentSpec{Replicas: &one, Template: guardedTemplate()},
	}
	owner := ownerOf(w.store.deployment, "Deployment")
	owner.Controller = &yes
	w.store.replicaSet = &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: modelNamespace, Name: "web-h", UID: "replicaset", OwnerReferences: []metav1.OwnerReference{owner}},
		Spec:       appsv1.ReplicaSetSpec{Replicas: &one, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{hashLabel: "h"}}, Template: guardedTemplate()},
	}
	// They existed before one of them had to leave.
	now := w.now
	defer func() { w.now = now }()
	w.now = now.Add(-time.Hour)
	for i := range pods {
		w.create(fmt.Sprint("web-", i+1), oldNode, ownerOf(w.store.replicaSet, "ReplicaSet"), map[string]string{hashLabel: "h"}, true)
	}
}

func guardedTemplate() corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{call.GuardedLabel: "true"}}}
}

// with makes all rules judge changed facts.
func with(change func(*verdict.Facts)) func(verdict.Rules) verdict.Rules {
	return func(rs verdict.Rules) verdict.Rules { return verdict.Rules{changed{rules: rs, change: change}} }
}

type changed struct {
	unadvised

	rules  verdict.Rules
	change func(*verdict.Facts)
}

func (changed) Name() string { return "changed" }

func (c changed) Judge(f verdict.Facts) verdict.Verdict {
	c.change(&f)
	return c.rules.Judge(f)
}

// replaced replaces rule idle by one that releases a marked pod if all of its readings, or
// any, satisfy a condition.
func replaced(will func(verdict.Facts, verdict.Reading) bool, anyOfThem bool) func(verdict.Rules) verdict.Rules {
	return func(rs verdict.Rules) verdict.Rules {
		var list verdict.Rules
		for _, r := range rs {
			if _, is := r.(idle.Rule); is {
				r = credulous{will: will, any: anyOfThem}
			}
			list = append(list, r)
		}
		return list
	}
}

type credulous struct {
	unadvised

	will func(verdict.Facts, verdict.Reading) bool
	any  bool
}

func (credulous) Name() string { return "credulous" }

func (c credulous) Judge(f verdict.Facts) verdict.Verdict {
	n := 0
	for _, r := range f.Readings {
		if c.will(f, r) {
			n++
		}
	}
	if f.Pod.State == call.Draining && (n == len(f.Readings) || c.any && n > 0) {
		return verdict.Verdict{Outcome: verdict.Release}
	}
	return verdict.Verdict{}
}

// unadvised is a rule without advice.
type unadvised struct{}

func (unadvised) Advice() verdict.Advice { return verdict.Advice{} }

// unmarked releases pods that are idle and were not told to accept no call.
type unmarked struct{ unadvised }

func (unmarked) Name() string { return "unmarked" }

func (unmarked) Judge(f verdict.Facts) verdict.Verdict {
	for _, r := range f.Readings {
		if n, known := r.Calls(); !known || n > 0 {
			return verdict.Verdict{Outcome: verdict.Hold}
		}
	}
	return verdict.Verdict{Outcome: verdict.Release}
}
