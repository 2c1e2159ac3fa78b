// SPDX-License-Identifier: Apache-2.0

package drain

import (
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/callguard/callguard/test/lab"
)

const (
	oldImage = "agent:demo"
	newImage = "agent:next"
	badImage = "none" // never starts
)

// TestRollout gives four agents with calls another image. The rollout ends at once; the
// old pods leave as their calls end.
func TestRollout(t *testing.T) {
	t.Parallel()
	s := tell(t, 2)
	s.deploy(4)
	s.fill()
	old := s.pods(all)
	s.rollOut("deployment", newImage)
	s.ends(s.start("rollout", "status", "deployment/"+lab.AgentName, "--timeout=1m"), inTime)
	s.there(old...)
	if !s.talking() {
		t.Errorf("calls ended with the rollout: %+v", s.callers.Report())
	}
	s.dial(4) // the new pods take them
	for _, pod := range old {
		s.hangUpOn(pod)
		s.gone(inTime, pod)
	}
	s.bounds(4+4+1, 3) // one of four may be unavailable
	s.noneDropped()
}

// TestRolloutRecreate waits for the last call, gives the reason, and continues by itself.
func TestRolloutRecreate(t *testing.T) {
	t.Parallel()
	s := tell(t, 2)
	s.deploy(2, func(d *appsv1.Deployment) { d.Spec.Strategy.Type = appsv1.RecreateDeploymentStrategyType })
	s.fill()
	old := s.pods(all)
	s.rollOut("deployment", newImage)
	status := s.start("rollout", "status", "deployment/"+lab.AgentName, "--timeout=3m")
	s.event("Held")
	s.hangUpOn(old[0])
	s.gone(inTime, old[0])
	s.waits(status)
	s.there(old[1])
	if new := s.pods(image(newImage)); len(new) > 0 {
		t.Errorf("new pods %v run beside old ones", new)
	}
	s.hangUpOn(old[1])
	s.ends(status, inTime)
	s.bounds(2, 0)
	s.noneDropped()
}

// TestRolloutOfAStatefulSet replaces pod by pod, each after its call.
func TestRolloutOfAStatefulSet(t *testing.T) {
	t.Parallel()
	s := tell(t, 2)
	s.stateful(2)
	s.fill()
	s.rollOut("statefulset", newImage)
	status := s.start("rollout", "status", "statefulset/"+lab.AgentName, "--timeout=4m")
	for _, pod := range []string{lab.AgentName + "-1", lab.AgentName + "-0"} {
		s.eventually(inTime, pod+" takes no new call", func() (bool, error) {
			return len(s.pods(func(p *corev1.Pod) bool { return p.Name == pod && leaving(p) })) == 1, nil
		})
		s.waits(status)
		s.hangUpOn(pod)
		s.eventually(inTime, pod+" has the new image", func() (bool, error) {
			return len(s.pods(func(p *corev1.Pod) bool { return p.Name == pod && ready(p) && image(newImage)(p) })) == 1, nil
		})
	}
	s.ends(status, inTime)
	s.bounds(2, 1)
	s.noneDropped()
}

// TestRolloutOfABadImage cannot start the new pods. The old ones keep serving, and the
// rollout can be undone.
func TestRolloutOfABadImage(t *testing.T) {
	t.Parallel()
	s := tell(t, 2)
	s.deploy(4)
	s.fill()
	old := s.pods(all)
	s.rollOut("deployment", badImage)
	s.eventually(soon, "new pods wait for their image", func() (bool, error) { return len(s.pods(image(badImage))) > 0, nil })
	s.always(15*s1, "the old pods take calls, but for one that its Deployment does without", func() (bool, error) { return s.watch.able() >= 3 && s.talking(), nil })
	s.there(old...)
	s.does("rollout", "undo", "deployment/"+lab.AgentName)
	s.ends(s.start("rollout", "status", "deployment/"+lab.AgentName, "--timeout=1m"), inTime)
	s.eventually(inTime, "the bad pods are gone", func() (bool, error) { return len(s.pods(image(badImage))) == 0, nil })
	s.hangUpAll()
	s.eventually(inTime, "four pods are left", func() (bool, error) { return len(s.pods(all)) == 4 && s.watch.able() == 4, nil })
	s.bounds(4+1+1+1, 3)
	s.noneDropped()
}

// TestRolloutUndone undoes a rollout when half of the new pods exist.
func TestRolloutUndone(t *testing.T) {
	t.Parallel()
	s := tell(t, 2)
	s.deploy(6)
	s.fill()
	s.rollOut("deployment", newImage)
	s.eventually(soon, "the rollout is half-way", func() (bool, error) { return len(s.pods(image(newImage))) >= 2, nil })
	s.does("rollout", "undo", "deployment/"+lab.AgentName)
	s.ends(s.start("rollout", "status", "deployment/"+lab.AgentName, "--timeout=1m"), inTime)
	if !s.talking() {
		t.Errorf("calls ended with the rollout: %+v", s.callers.Report())
	}
	s.hangUpAll()
	s.eventually(inTime, "six pods of the old image are left", func() (bool, error) {
		return len(s.pods(all)) == 6 && len(s.pods(image(oldImage))) == 6, nil
	})
	// At most all of both revisions, and those that were replaced on the way back.
	s.bounds(3*6, 5)
	s.noneDropped()
}
