// SPDX-License-Identifier: Apache-2.0

package drain

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/test/fleet"
	"github.com/callguard/callguard/test/lab"
)

const (
	nodeGrace  = 20 * time.Second // until a node without heartbeats counts as lost
	toleration = 5                // seconds that pods stay on it
)

// impatient makes pods tolerate a lost node only briefly.
func impatient(d *appsv1.Deployment) {
	seconds, grace := int64(toleration), int64(10)
	for _, key := range []string{corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable} {
		d.Spec.Template.Spec.Tolerations = append(d.Spec.Template.Spec.Tolerations, corev1.Toleration{
			Key: key, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: &seconds,
		})
	}
	d.Spec.Template.Spec.TerminationGracePeriodSeconds = &grace
}

// unplug stops the kubelet of a node until the story ends.
func (s *story) unplug(node string) {
	s.t.Helper()
	s.must(stage.Cluster.Kill(s.t.Context(), node))
	s.t.Cleanup(func() { s.plugIn(context.WithoutCancel(s.t.Context()), node) })
}

func (s *story) plugIn(ctx context.Context, node string) {
	s.t.Helper()
	if err := stage.Cluster.Start(ctx, node); err != nil {
		s.t.Errorf("cannot start %s again: %v", node, err)
	}
}

// replaced reports whether n pods that are not on the node can take calls.
func (s *story) replaced(node string, n int) (bool, error) {
	able := s.pods(func(p *corev1.Pod) bool { return ready(p) && !leaving(p) && !on(node)(p) })
	if len(able) < n {
		return false, errors.New(s.watch.describe())
	}
	return true, nil
}

// droppedOnlyBy fails the story if a call was dropped for another reason.
func (s *story) droppedOnlyBy(cause fleet.Cause) {
	s.t.Helper()
	for _, l := range s.callers.Report().Dropped {
		if l.Cause != cause {
			s.t.Errorf("call in room %s was dropped: %s %s (pod %s on %s)", l.Room, l.Cause, l.Detail, l.Pod.Name, l.Node)
		}
	}
}

// TestNodeDies cuts the power of a node. Its calls are over, and its pods are replaced
// and released.
func TestNodeDies(t *testing.T) {
	t.Parallel()
	s := tell(t, 2)
	s.deploy(4, impatient)
	s.fill()
	node := s.nodes[0]
	dead := s.pods(on(node))
	s.unplug(node)
	if n := stage.Fleet.KillNode(node); n != len(dead) {
		t.Errorf("%d processes were killed; want those of %v", n, dead)
	}
	s.eventually(nodeGrace+toleration*time.Second+soon, "replacements run", func() (bool, error) {
		return s.replaced(node, 4)
	})
	s.eventually(inTime, "the dead pods are released and deleted", func() (bool, error) {
		left := s.pods(func(p *corev1.Pod) bool {
			return on(node)(p) && (stateOf(p) != call.Released || p.DeletionTimestamp == nil)
		})
		return len(left) == 0, nil
	})
	s.plugIn(t.Context(), node)
	s.gone(inTime, dead...)
	s.droppedOnlyBy(fleet.CauseNode)
	if n := len(s.callers.Report().Dropped); n != len(dead) {
		t.Errorf("%d calls were dropped; want the %d of the dead node", n, len(dead))
	}
}

// TestNodeComesBack stops a kubelet for a while during calls on its node.
func TestNodeComesBack(t *testing.T) {
	t.Parallel()
	s := tell(t, 2)
	s.deploy(4, impatient)
	s.fill()
	node := s.nodes[0]
	away := s.pods(on(node))
	s.unplug(node)
	s.eventually(nodeGrace+toleration*time.Second+soon, "replacements run", func() (bool, error) {
		return s.replaced(node, 4)
	})
	s.always(10*s1, "all callers talk", func() (bool, error) { return s.talking(), nil })
	s.plugIn(t.Context(), node)
	s.always(5*s1, "all callers talk", func() (bool, error) { return s.talking(), nil })
	s.there(away...)
	s.hangUpOn(away...)
	s.gone(inTime, away...)
	s.eventually(inTime, "four pods are left", func() (bool, error) { return len(s.pods(all)) == 4, nil })
	s.bounds(8, 2)
	s.noneDropped()
}

// TestNodeObjectGone deletes a node during calls, which ends them outside callguard's
// reach. The guard releases their pods, and the other calls go on.
func TestNodeObjectGone(t *testing.T) {
	t.Parallel()
	s := tell(t, 2)
	s.deploy(4)
	s.fill()
	s.watch.unlocked()
	node := s.nodes[0]
	lost := s.pods(on(node))
	s.unplug(node)
	s.does("delete", "node", node, "--wait=false")
	s.gone(3*inTime, lost...)
	s.eventually(inTime, "replacements run", func() (bool, error) { return s.watch.able() == 4, nil })
	s.droppedOnlyBy(fleet.CauseNode)
	if n := len(s.callers.Report().Dropped); n != len(lost) {
		t.Errorf("%d calls were dropped; want the %d of the deleted node", n, len(lost))
	}
}

// TestMetricBesideADeadNode has agents whose calls only they themselves can count, half
// of them on a node that dies. The others' calls are still counted.
func TestMetricBesideADeadNode(t *testing.T) {
	t.Parallel()
	s := tell(t, 2)
	s.deploy(4, impatient, annotated(map[string]string{call.WitnessesAnnotation: string(call.Worker)}, nil))
	node := s.nodes[0]
	dead := s.pods(on(node))
	s.unplug(node)
	stage.Fleet.KillNode(node)
	s.eventually(nodeGrace+toleration*time.Second+inTime, "replacements run, and the dead node's pods are aside", func() (bool, error) {
		if ok, err := s.replaced(node, 4); !ok {
			return false, err
		}
		return len(s.pods(func(p *corev1.Pod) bool { return on(node)(p) && stateOf(p) == call.Serving })) == 0, nil
	})
	s.does("scale", "deployment/"+lab.AgentName, "--replicas=1")
	s.eventually(inTime, "one serves", func() (bool, error) { return len(s.pods(in(call.Serving))) == 1, nil })
	s.first(1)
	s.eventually(inTime, "the metric has its call", func() (bool, error) { return s.counts(1) })
	left := s.pods(func(p *corev1.Pod) bool { return slices.Contains(dead, p.Name) })
	if len(left) != len(dead) {
		t.Errorf("of the dead node's pods %v are left; their calls are unknown, so all should stay: %v", left, dead)
	}
	s.noneDropped()
}
