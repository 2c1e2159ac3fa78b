// SPDX-License-Identifier: Apache-2.0

package drain

import (
	"context"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/guard"
	"github.com/callguard/callguard/test/lab"
)

// budgetOwner is the object that owns the namespaces' budgets, and has no other effect.
const budgetOwner = "callguard-budget-owner"

// TestUnlock unlocks in the middle of a drain: every pod may leave, those aside belong to
// their ReplicaSet again, and callguard deletes none. The next guard locks new pods.
func TestUnlock(t *testing.T) {
	withGuard(t, guardArgs()...)
	s := tell(t, 2)
	s.deploy(4)
	s.fill()
	leavers := s.pods(on(s.nodes[0]))
	s.does("cordon", s.nodes[0])
	s.eventually(inTime, "the pods of the node take no new call", func() (bool, error) { return len(s.pods(leaving)) == len(leavers), nil })
	s.must(stage.Guard.Stop())
	s.watch.unlocked()

	for range 2 { // it can be repeated
		out, err := stage.Unlock(t.Context())
		s.must(err)
		t.Logf("unlock says: %s", strings.TrimSpace(out))
	}
	s.eventually(soon, "the budget lets pods go", func() (bool, error) {
		// While the policies exist, guarded pods cannot be created without a budget.
		budget, err := stage.Client.PolicyV1().PodDisruptionBudgets(s.ns).Get(t.Context(), budgetName, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return true, nil
		}
		return err == nil && budget.Spec.MinAvailable.IntValue() <= 4, err
	})
	for _, pod := range s.pods(func(p *corev1.Pod) bool { return p.Labels[call.ReleasedLabel] != string(call.Unlock) }) {
		t.Errorf("pod %s is not unlocked: %s", pod, s.watch.describe())
	}
	s.eventually(soon, "no pod is aside", func() (bool, error) {
		return len(s.pods(func(p *corev1.Pod) bool {
			owner := metav1.GetControllerOf(p)
			return strings.HasSuffix(p.Labels["pod-template-hash"], "-aside") || owner == nil || owner.Kind != "ReplicaSet"
		})) == 0, nil
	})
	if !s.talking() {
		t.Errorf("calls ended with the unlock: %+v", s.callers.Report())
	}

	startGuard(t, guardArgs()...)
	s.eventually(soon, "the namespace is locked again", func() (bool, error) {
		_, err := stage.Client.PolicyV1().PodDisruptionBudgets(s.ns).Get(t.Context(), budgetName, metav1.GetOptions{})
		return err == nil, err
	})
	before := s.pods(all)
	s.does("scale", "deployment/"+lab.AgentName, "--replicas=8")
	var locked []string
	s.eventually(soon, "a new pod serves", func() (bool, error) {
		locked = s.pods(func(p *corev1.Pod) bool { return ready(p) && stateOf(p) == call.Serving })
		return len(locked) > 0, nil
	})
	if out, err := s.kubectl("delete", "pod", locked[0], "--wait=false"); err == nil {
		t.Errorf("new pod %s could be deleted: %s (before there were %v)", locked[0], out, before)
	}
	s.hangUpAll()
	s.noneDropped()
}

// TestUninstallWithoutGuard deletes the chart's objects while no process of callguard
// runs. The budgets are deleted with their owner, and Kubernetes is as it was.
func TestUninstallWithoutGuard(t *testing.T) {
	withGuard(t, guardArgs()...)
	s := tell(t, 2)
	s.deploy(2)
	s.must(stage.Guard.Kill())
	s.watch.unlocked()
	t.Cleanup(func() { // before the guard starts again
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := stage.InstallGuard(ctx); err != nil {
			t.Error(err)
		}
	})
	doors, err := lab.WriteManifests(stage.Client.Discovery(), t.TempDir(), "doors.yaml")
	s.must(err)
	s.does("delete", "--ignore-not-found", "-f", doors)
	s.eventually(inTime, "the budget is gone", func() (bool, error) {
		_, err := stage.Client.PolicyV1().PodDisruptionBudgets(s.ns).Get(t.Context(), budgetName, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return true, nil
		}
		return false, err
	})
	s.ends(s.drain(s.nodes[0]), inTime)
	s.does("delete", "pods", "--all")
	s.does("delete", "deployment", lab.AgentName)
	s.eventually(inTime, "no pod is left", func() (bool, error) { return len(s.pods(all)) == 0, nil })
}

// TestBudgetOwnerDeleted deletes the owner of all budgets while two drains wait for pods
// with calls, and creates it again, as a forced sync does. The garbage collector deletes
// no budget, no call ends, and the drains end when the callers hang up.
func TestBudgetOwnerDeleted(t *testing.T) {
	withGuard(t, guardArgs()...)
	s := tell(t, 3)
	s.deploy(6)
	s.fill()
	leavers := s.pods(func(p *corev1.Pod) bool { return p.Spec.NodeName != s.nodes[2] })
	first, second := s.drain(s.nodes[0]), s.drain(s.nodes[1])
	s.eventually(inTime, "the pods of both nodes take no new call", func() (bool, error) {
		return len(s.pods(func(p *corev1.Pod) bool { return p.Spec.NodeName != s.nodes[2] && leaving(p) })) >= len(leavers), nil
	})
	roles, budgets := stage.Client.RbacV1().ClusterRoles(), stage.Client.PolicyV1().PodDisruptionBudgets(s.ns)
	before, err := budgets.Get(t.Context(), budgetName, metav1.GetOptions{})
	s.must(err)
	owner, err := roles.Get(t.Context(), budgetOwner, metav1.GetOptions{})
	s.must(err)
	owner.ObjectMeta = metav1.ObjectMeta{Name: owner.Name, Labels: owner.Labels}
	t.Cleanup(func() { // whatever happened, the next story needs it
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if _, err := roles.Create(ctx, owner, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
			t.Error(err)
		}
	})

	s.must(roles.Delete(t.Context(), budgetOwner, metav1.DeleteOptions{}))
	s.told(lab.GuardNamespace, "Deployment", lab.GuardName, guard.ReasonBudgetOwner, budgetOwner)
	s.always(15*s1, "the budget stands, and everybody talks", func() (bool, error) { // kubectl drain tries every 5 s
		is, err := budgets.Get(t.Context(), budgetName, metav1.GetOptions{})
		return err == nil && is.UID == before.UID && is.DeletionTimestamp == nil && s.talking(), err
	})
	s.there(leavers...)
	s.waits(first)
	s.waits(second)

	made, err := roles.Create(t.Context(), owner, metav1.CreateOptions{})
	s.must(err)
	s.eventually(soon, "the budget is the new owner's", func() (bool, error) {
		is, err := budgets.Get(t.Context(), budgetName, metav1.GetOptions{})
		return err == nil && is.UID == before.UID && is.OwnerReferences[0].UID == made.UID, err
	})
	s.hangUpOn(leavers...)
	s.ends(first, inTime)
	s.ends(second, inTime)
	s.gone(inTime, leavers...)
	s.noneDropped()
}
