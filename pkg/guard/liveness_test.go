// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/verdict"
	"github.com/callguard/callguard/pkg/verdict/rules/deadline"
	"github.com/callguard/callguard/pkg/verdict/rules/patience"
)

// modelWait is how long an idle pod waits for others in the worlds that keep them away.
const modelWait = 2 * time.Second

// hardship is what may keep a pod from leaving, other than its calls. Each may last
// forever, unless it has a time.
type hardship struct {
	// noPlace: no replacement finds a node for this long.
	noPlace time.Duration
	// alone: a replacement starts only when the old pod is gone, whose place or port it needs.
	alone bool
	// quota is how many pods there may be, including ending ones; zero means no limit.
	quota int
	// unready: no pod ever becomes ready.
	unready bool
	// returns: a replacement is put on the node that is drained.
	returns bool
	// endless: calls do not end by themselves.
	endless bool
	// deadline is how long the team waits for calls; zero is forever. Calls that it ends do
	// not count as lost.
	deadline time.Duration
	// doorsLost is how long a policy is missing.
	doorsLost time.Duration
	// mostMade is how many pods may be created in total; zero means no limit.
	mostMade int
}

// tolerations let a pod be put on the node that is drained.
func (h hardship) tolerations() []corev1.Toleration {
	if !h.returns {
		return nil
	}
	return []corev1.Toleration{{Operator: corev1.TolerationOpExists}}
}

// mayStart reports whether a pod that does not run may.
func (w *world) mayStart(pod *corev1.Pod) bool {
	switch {
	case pod.UID == w.first:
		return true
	case w.hard.alone:
		return w.store.byUID(w.first) == nil
	default:
		return w.now.Sub(w.began) >= w.hard.noPlace
	}
}

// strangers are the ready pods that are not guarded: one for each owner that no longer
// guards its pods.
func (w *world) strangers() *corev1.PodList {
	list := &corev1.PodList{}
	if rs := w.store.next; rs != nil && rs.Spec.Template.Labels[call.GuardedLabel] == "" {
		ref, yes := ownerOf(rs, "ReplicaSet"), true
		ref.Controller = &yes
		list.Items = append(list.Items, corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: "stranger", OwnerReferences: []metav1.OwnerReference{ref}},
			Status:     corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}},
		})
	}
	return list
}

// hardScenario is a world in which something keeps a pod from leaving.
type hardScenario struct {
	scenario

	hard hardship
	// wait is --replacement-wait; modelForever if something else is the limit.
	wait time.Duration
	// broken is a guard without the limit that this world tests, and want is what then happens
	// to a pod.
	broken mutant
	want   string
}

func (s hardScenario) world(m mutant) *world {
	start := s.scenario.start
	s.scenario.start = func() *world {
		w := start()
		w.hard, w.settings.Limits.ReplacementWait = s.hard, s.wait
		for _, pod := range w.store.pods { // created before the hardship was known
			pod := pod.DeepCopy()
			if s.hard.deadline > 0 {
				pod.Annotations = map[string]string{call.DeadlineAnnotation: s.hard.deadline.String(), call.OnDeadlineAnnotation: "Release"}
			}
			pod.Spec.Tolerations = s.hard.tolerations()
			w.setRunning(pod, true)
			w.replace(pod)
		}
		return w
	}
	return s.scenario.world(m)
}

// unbound is a guard without one rule.
func unbound(name string) mutant {
	return mutant{rules: func(all verdict.Rules) verdict.Rules {
		var rest verdict.Rules
		for _, r := range all {
			if r.Name() != name {
				rest = append(rest, r)
			}
		}
		return rest
	}}
}

// blind is a guard that does not see something.
func blind(change func(*verdict.Facts)) mutant { return mutant{rules: with(change)} }

func hardships() map[string]hardScenario {
	const forEver = 1000 * time.Hour
	impatient := unbound(patience.Rule{}.Name())
	one := allowance{ticks: 1, calls: 1}
	return map[string]hardScenario{
		"NoPlace": {
			scenario: scenario{reason: "No node has room for a replacement, ever.", start: deployed, left: one, guards: "A", large: true},
			hard:     hardship{noPlace: forEver}, wait: modelWait, broken: impatient, want: "pods stay forever",
		},
		"NodeComes": {
			scenario: scenario{reason: "A node comes, later than the pod waits for it.", start: deployed, left: one, guards: "A", large: true},
			hard:     hardship{noPlace: 4 * modelWait}, wait: modelWait, broken: mutant{rules: both(impatient, blindToOthers)}, want: "pods stay forever",
		},
		"Quota": {
			scenario: scenario{reason: "The quota has no room for a replacement.", start: deployed, left: one, guards: "A", large: true},
			hard:     hardship{quota: 1}, wait: modelWait, broken: impatient, want: "pods stay forever",
		},
		"AntiAffinity": {
			scenario: scenario{reason: "The replacement needs the place of the pod that it replaces.", start: deployed, left: one, guards: "A", large: true},
			hard:     hardship{alone: true}, wait: modelWait, broken: impatient, want: "pods stay forever",
		},
		"Rollout": {
			scenario: scenario{reason: "So does that of a rollout, and the Deployment does without one pod meanwhile.", start: rolledOut, left: one, guards: "A", large: true},
			hard:     hardship{alone: true}, wait: modelForever,
			broken: blind(func(f *verdict.Facts) { f.Workload.MaxUnavailable = 0 }), want: "pods stay forever",
		},
		"NobodyReady": {
			scenario: scenario{reason: "No pod is ready, nor will be.", start: deployed, left: one, guards: "A", large: true},
			hard:     hardship{unready: true}, wait: modelWait, broken: impatient, want: "pods stay forever",
		},
		"Deadline": {
			scenario: scenario{reason: "A call that never ends, no place, and a team that does not wait forever.", start: deployed, left: one, guards: "A", large: true},
			hard:     hardship{noPlace: forEver, endless: true, deadline: 3 * time.Second}, wait: modelForever,
			broken: unbound(deadline.Rule{}.Name()), want: "pods stay forever",
		},
		"DeadlineInTime": {
			scenario: scenario{reason: "The deadline counts from when the pod should go: it may never come to stop taking calls.", start: deployed, left: one, guards: "A", large: true},
			hard:     hardship{noPlace: forEver, endless: true, deadline: 3 * time.Second}, wait: modelForever,
			broken: blind(func(f *verdict.Facts) { f.Standing = f.Pod.DrainingSince }), want: "pods stay forever",
		},
		"OptedOut": {
			scenario: scenario{reason: "The template is not guarded any more: the new pods take calls and are none of the guard's.", start: optedOut, left: one, guards: "A", large: true},
			wait:     modelForever, broken: blind(blindToOthers), want: "pods stay forever",
		},
		"OwnerLost": {
			scenario: scenario{reason: "The Deployment is deleted, and its ReplicaSet with it.", start: ownerLost, left: one, guards: "A", large: true},
			wait:     modelForever, broken: blind(func(f *verdict.Facts) { f.Intent = call.Mark{} }), want: "pods stay forever",
		},
		"DoorsLost": {
			scenario: scenario{reason: "A policy, or the budget, is missing for a while.", start: deployed, left: one, guards: "A", large: true},
			hard:     hardship{doorsLost: 3 * time.Second}, wait: modelForever,
		},
		"ComesBack": {
			scenario: scenario{reason: "A StatefulSet that tolerates the cordon makes its pod again on the node: once is enough.", start: serving, left: one, guards: "A", large: true},
			hard:     hardship{returns: true, mostMade: 2}, wait: modelWait,
			broken: blind(func(f *verdict.Facts) { f.Pod.CameSince = false }), want: "pods are made without end",
		},
	}
}

// blindToOthers is a guard that does not count other pods that take calls.
func blindToOthers(f *verdict.Facts) { f.Workload.Able = 0 }

// both removes a rule from a guard and makes it blind.
func both(m mutant, change func(*verdict.Facts)) func(verdict.Rules) verdict.Rules {
	return func(all verdict.Rules) verdict.Rules { return with(change)(m.rules(all)) }
}

// TestNothingWaitsForEver explores worlds in which something other than calls keeps a pod
// from leaving. From every state that they can reach, the pod is released within a limit
// once its calls end; and a guard without the limit is detected.
func TestNothingWaitsForEver(t *testing.T) {
	for name, tc := range hardships() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			limit := enough / 2
			if *thorough > 0 {
				tc.left, limit = allowance{ticks: 3, calls: 2, kills: 1, faults: 1, lies: 1, cordons: 2}, *thorough
			}
			synctest.Test(t, func(t *testing.T) {
				e := &explorer{ends: 5}
				all := e.explore(tc.world(mutant{}), limit)
				if e.failure != "" {
					t.Errorf("%s\n%s", tc.reason, e.failure)
				}
				t.Logf("%s: %d states (all: %t), %d steps; %d of them followed to their end", name, e.states, all, e.steps, e.followed)
				if e.followed < 10 {
					t.Errorf("%s Only %d states were followed to their end", tc.reason, e.followed)
				}
			})
			if tc.want == "" {
				return
			}
			synctest.Test(t, func(t *testing.T) {
				e := &explorer{ends: 1}
				e.explore(tc.world(tc.broken), limit)
				if !strings.Contains(e.failure, tc.want) {
					t.Errorf("%s Without the bound it is not found out in %d states; want a failure with %q, got %q", tc.reason, e.states, tc.want, e.failure)
				}
			})
		})
	}
}

// rolledOut is a Deployment of one replica that may be unavailable during a rollout, and
// has begun one: the old ReplicaSet wants no pod any more, the new one wants one.
func rolledOut() *world {
	w := empty()
	w.maxPods, w.maxAside = 2, 1
	w.deploy(1)
	w.first = w.store.pods[0].UID
	none, one, surge := int32(0), int32(1), intstr.FromInt32(0)
	w.store.deployment.Annotations = map[string]string{revisionMark: "2"}
	w.store.deployment.Spec.Strategy.RollingUpdate = &appsv1.RollingUpdateDeployment{MaxSurge: &surge, MaxUnavailable: &intstr.IntOrString{IntVal: 1}}
	old := w.store.replicaSet.DeepCopy()
	old.Annotations, old.Spec.Replicas = map[string]string{revisionMark: "1"}, &none
	next := w.store.replicaSet.DeepCopy()
	next.Name, next.UID, next.Annotations, next.Spec.Replicas = "web-i", types.UID("next"), map[string]string{revisionMark: "2"}, &one
	w.store.replicaSet, w.store.next = old, next
	return w
}

// optedOut is the same in a rollout whose new pods are not guarded.
func optedOut() *world {
	w := rolledOut()
	w.store.deployment.Spec.Strategy.RollingUpdate = nil
	w.store.next.Spec.Template.Labels, w.store.next.Status.ReadyReplicas = nil, 1
	w.store.deployment.Spec.Template.Labels = nil
	w.pods = 0
	return w
}

// ownerLost is a pod whose owners are gone.
func ownerLost() *world {
	w := empty()
	w.deploy(1)
	w.first = w.store.pods[0].UID
	w.store.deployment, w.store.replicaSet = nil, nil
	w.pods = 0
	return w
}
