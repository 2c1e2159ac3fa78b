// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/pods"
	"github.com/callguard/callguard/pkg/verdict"
)

// gateFirst are readings of pods with and without a gate, whose clock and witnesses a test controls.
type gateFirst struct {
	*readings

	now         time.Time
	gate, rooms *says
	spared      map[call.Project]bool
}

func newGateFirst() *gateFirst {
	f := &gateFirst{now: noon(), gate: &says{}, rooms: &says{}}
	f.readings = newReadings(map[call.Witness]Witness{call.Rooms: f.rooms, call.Gate: f.gate}, time.Second, func() time.Time { return f.now })
	f.reset(workqueue.NewTypedDelayingQueue[types.UID]())
	f.projects = func(_ map[call.Project]call.Births, spared map[call.Project]bool) { f.spared = spared }
	return f
}

// gatedPod is a pod whose calls both LiveKit and its gate count.
func gatedPod(uid types.UID) *call.Pod {
	return &call.Pod{UID: uid, Witnesses: []call.Witness{call.Rooms, call.Gate}, Project: call.DefaultProject}
}

// TestGateFirst: what the gate answers about a pod, and whether LiveKit is asked and its project is read then.
func TestGateFirst(t *testing.T) {
	busy, idle, silent := call.Known(1, noon()), call.Known(0, noon()), call.Unknown("the gate does not say")
	f := newGateFirst()
	pod := gatedPod("a")
	for i, step := range []struct {
		reason string
		after  time.Duration
		gate   call.Reading
		asked  bool
		spared bool
	}{
		{"It has calls: that holds it.", 0, busy, false, true},
		{"It has them for long.", 155 * time.Second, busy, false, true},
		{"They are over.", time.Second, idle, true, false},
		{"LiveKit goes on being asked.", time.Second, idle, true, false},
		{"A gate that has no order yet takes one more call. LiveKit is asked for a while, for it may be over soon.", time.Second, busy, true, false},
		{"It lasts.", wantedFor + time.Second, busy, false, true},
		{"The gate does not answer, so LiveKit is asked, as of a pod without one.", time.Second, silent, true, false},
		{"It answers again.", wantedFor + time.Second, busy, false, true},
	} {
		f.now, f.gate.reading = f.now.Add(step.after), step.gate
		asked := f.rooms.asked.Load()
		f.want(pod, false)
		if f.read(t.Context(), "a") == 0 {
			t.Fatalf("step %d: %s It is not read again", i, step.reason)
		}
		if got := f.rooms.asked.Load() > asked; got != step.asked {
			t.Errorf("step %d: %s LiveKit is asked: %t; want %t", i, step.reason, got, step.asked)
		}
		if got := f.spared[call.DefaultProject]; got != step.spared {
			t.Errorf("step %d: %s Its project is spared: %t; want %t", i, step.reason, got, step.spared)
		}
		list, _ := f.of(pod)
		if got := list[0].Spared(); got == step.asked || got && list[0].Known() {
			t.Errorf("step %d: %s LiveKit is said to have been spared: %t, and known: %t", i, step.reason, got, list[0].Known())
		}
	}
}

// TestGateFirstOfMany: a project is read while one of its pods needs it.
func TestGateFirstOfMany(t *testing.T) {
	f := newGateFirst()
	f.gate.reading = call.Known(1, noon())
	held := gatedPod("held")
	f.want(held, false)
	f.read(t.Context(), "held")
	if !f.spared[call.DefaultProject] {
		t.Error("it is read for a pod that its gate holds")
	}
	plain := &call.Pod{UID: "plain", Witnesses: []call.Witness{call.Rooms}, Project: call.DefaultProject}
	f.want(plain, false)
	f.want(held, false)
	f.read(t.Context(), "held")
	f.read(t.Context(), "plain")
	if f.spared[call.DefaultProject] {
		t.Error("it is not read for a pod that has no gate")
	}
	if n := f.rooms.asked.Load(); n != 1 {
		t.Errorf("LiveKit is asked %d times; want once, of the pod without a gate", n)
	}

	f.now = f.now.Add(wantedFor + time.Second) // the pod without a gate is no longer wanted
	f.want(held, false)
	f.read(t.Context(), "plain")
	if !f.spared[call.DefaultProject] {
		t.Error("it is still read")
	}
	f.want(held, true)
	if f.spared[call.DefaultProject] {
		t.Error("it is not read for a choice among pods")
	}
	if f.read(t.Context(), "held"); f.rooms.asked.Load() != 2 {
		t.Error("LiveKit is not asked for a choice among pods")
	}
}

// TestGateFirstBeforeARelease: LiveKit is asked just before, and only if the gate counts no call.
func TestGateFirstBeforeARelease(t *testing.T) {
	f := newGateFirst()
	pod := gatedPod("a")
	f.want(pod, false)
	f.gate.reading, f.rooms.reading = call.Known(1, noon()), call.Known(0, noon())
	if list, _ := f.fresh(t.Context(), pod); list[0].Known() || f.rooms.asked.Load() != 0 {
		t.Errorf("LiveKit is asked of a pod whose gate counts a call: %+v", list[0])
	}
	f.gate.reading = call.Known(0, noon())
	if list, _ := f.fresh(t.Context(), pod); !list[0].Known() || f.rooms.asked.Load() != 1 {
		t.Errorf("LiveKit is not asked of a pod whose gate counts none: %+v", list[0])
	}
}

// TestHeldByItsGate: a pod whose gate counts calls is held for its calls, and nothing is reported as unknown.
func TestHeldByItsGate(t *testing.T) {
	gate := func(pod *call.Pod) { pod.Witnesses = []call.Witness{call.Rooms, call.Gate} }
	g, _ := newGuard(t, enabledNamespace(), newNode(true), newDeployment("web", 1), newReplicaSet("1", 1), webPod("a", draining, annotation(call.GatePortAnnotation, "8089")))
	f := newGateFirst()
	f.gate.reading = call.Known(2, noon())
	g.readings.witnesses, g.readings.queue = f.witnesses, f.queue
	look := func() {
		t.Helper()
		if _, err := g.reconcile(t.Context(), workloadKey(pods.Deployment, "web")); err != nil {
			t.Fatal(err)
		}
	}
	look()
	g.readings.read(t.Context(), "a")
	look()
	held := g.report.holding()
	if len(held) != 1 || held[0].rule != "calls" {
		t.Errorf("held: %+v; want the pod by its calls", held)
	}
	if n := f.rooms.asked.Load(); n != 0 {
		t.Errorf("LiveKit is asked %d times", n)
	}
	pod := &call.Pod{UID: "a"}
	gate(pod)
	list, _ := g.readings.of(pod)
	if diff := cmp.Diff([]string{"rooms: not asked (" + whySpared + ")", "gate: 2 calls"}, describe(list)); diff != "" {
		t.Errorf("a release by force would be logged with, -want, +got:\n%s", diff)
	}
}

// TestSealIsNews: a gate's confirmation that it has read the order to drain is a change, even if it counted no
// call before, and its time counts from then.
func TestSealIsNews(t *testing.T) {
	e := newEntry(gatedPod("a"), noon())
	e.enter(map[call.Witness]call.Reading{call.Gate: call.Known(0, noon())}, noon())
	later := noon().Add(time.Minute)
	if !e.enter(map[call.Witness]call.Reading{call.Gate: call.Known(0, later).WithSeal()}, later) {
		t.Error("nothing is said to have changed")
	}
	want := verdict.Reading{Witness: call.Gate, Reading: call.Known(0, later).WithSeal(), Since: later}
	if diff := cmp.Diff(want, e.last[call.Gate], sameReading()); diff != "" {
		t.Errorf("-want, +got:\n%s", diff)
	}
}
