// SPDX-License-Identifier: Apache-2.0

package drain

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/callguard/callguard/pkg/admission"
	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/guard"
	"github.com/callguard/callguard/test/lab"
)

// TestDoorsOpen weakens policy callguard-delete in the middle of a drain: its binding
// is deleted, then exists but only audits, then is restored. All stories share the
// policies, so it runs alone. Meanwhile the guard takes no step and says why, and
// afterwards it goes on by itself.
func TestDoorsOpen(t *testing.T) {
	const door = "callguard-delete"
	s := tell(t, 3)
	s.deploy(3)
	s.fill()
	first, second := s.nodes[0], s.nodes[1]
	leavers, next := s.pods(on(first)), s.pods(on(second))
	if len(leavers) != 1 || len(next) != 1 {
		t.Fatalf("%s has pods %v and %s has %v; want one each", first, leavers, second, next)
	}
	drain := s.drain(first)
	s.eventually(inTime, "the pod of the node takes no new call", func() (bool, error) { return len(s.pods(in(call.Draining))) == 1, nil })

	bindings := stage.Client.AdmissionregistrationV1().ValidatingAdmissionPolicyBindings()
	whole, err := bindings.Get(t.Context(), door, metav1.GetOptions{})
	s.must(err)
	whole.ObjectMeta = metav1.ObjectMeta{Name: whole.Name, Labels: whole.Labels}
	restore := func(ctx context.Context) error {
		if err := bindings.Delete(ctx, door, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return err
		}
		_, err := bindings.Create(ctx, whole, metav1.CreateOptions{})
		return err
	}
	t.Cleanup(func() { // whatever happened, the next story needs the policies
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := errors.Join(restore(ctx), stage.Guard.WaitReady(ctx)); err != nil {
			t.Error(err)
		}
	})
	held := func(why string) {
		t.Helper()
		s.unready(door + why)
		s.always(5*s1, "nobody takes a step", func() (bool, error) {
			return len(s.pods(in(call.Released)))+len(s.pods(in(call.Aside))) == 0 && s.talking(), nil
		})
		s.unready(door + why)
		s.there(append(leavers, next...)...)
	}

	began := time.Now()
	s.must(bindings.Delete(t.Context(), door, metav1.DeleteOptions{}))
	s.unready(door + " is missing")
	s.hangUpOn(leavers...) // otherwise they may be released
	s.does("cordon", second)
	held(" is missing")
	s.told(lab.GuardNamespace, "Deployment", lab.GuardName, admission.ReasonNotInForce, door+" is missing")
	s.told(s.ns, "Pod", leavers[0], guard.ReasonHeld, door+" is missing")

	open := whole.DeepCopy()
	open.Spec.ValidationActions = []admissionregistrationv1.ValidationAction{admissionregistrationv1.Audit}
	_, err = bindings.Create(t.Context(), open, metav1.CreateOptions{})
	s.must(err)
	held(" is not as this version of callguard has it")
	for resource, n := range s.writes(began) {
		if resource != "events" {
			t.Errorf("the guard wrote %s %d times without a policy", resource, n)
		}
	}
	s.waits(drain)

	s.must(restore(t.Context()))
	s.must(stage.Guard.WaitReady(t.Context()))
	s.ends(drain, inTime)
	s.gone(soon, leavers...)
	s.eventually(inTime, "the pod of the other node takes no new call", func() (bool, error) {
		return len(s.pods(func(p *corev1.Pod) bool { return on(second)(p) && stateOf(p) == call.Draining })) == 1, nil
	})
	s.hangUpOn(next...)
	s.gone(inTime, next...)
	s.noneDropped()
}

// unready waits until the guard is not ready, and returns the reason.
func (s *story) unready(why string) {
	s.t.Helper()
	s.eventually(soon, "the guard is not ready: "+why, func() (bool, error) {
		err := stage.Guard.Ready(s.t.Context())
		if err != nil && strings.Contains(err.Error(), why) {
			return true, nil
		}
		return false, err
	})
}
