// SPDX-License-Identifier: Apache-2.0

// hack/test-upgrade.sh builds the guard and the manifests of an earlier commit, for make e2e-upgrade.

//go:build upgrade

package drain

import (
	"context"
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/test/lab"
)

// patient makes kubectl wait for longer than a story lasts.
const patient = "--timeout=30m"

// upgrade upgrades policies and guard separately.
type upgrade struct {
	t        *testing.T
	old, new string // folders of manifests
}

// install starts with the earlier policies and guard. Whatever happens, the next story gets those of this checkout.
func (u upgrade) install() {
	u.t.Helper()
	if err := stage.Guard.Stop(); err != nil {
		u.t.Fatal(err)
	}
	u.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		defer cancel()
		if err := stage.Upgrade(ctx, u.old, u.new); err != nil {
			u.t.Error(err)
		}
		if err := stage.Guard.Stop(); err != nil {
			u.t.Error(err)
		}
		guard, err := stage.StartGuard(ctx, guardArgs()...)
		if err != nil {
			u.t.Error(err)
			return
		}
		stage.Guard = guard
		if err := guard.WaitReady(ctx); err != nil {
			u.t.Error(err)
		}
	})
	if err := stage.Upgrade(u.t.Context(), u.new, u.old); err != nil {
		u.t.Fatal(err)
	}
	guard, err := stage.StartGuardOf(u.t.Context(), earlier(lab.GuardName), guardArgs()...)
	if err != nil {
		u.t.Fatal(err)
	}
	stage.Guard = guard
	if err := guard.WaitReady(u.t.Context()); err != nil {
		u.t.Fatal(err)
	}
}

// doors upgrades the policies.
func (u upgrade) doors() {
	u.t.Helper()
	if err := stage.Upgrade(u.t.Context(), u.old, u.new); err != nil {
		u.t.Fatal(err)
	}
}

// guard upgrades the guard: the new one starts next to the old one, as in a rollout of its Deployment.
func (u upgrade) guard() {
	u.t.Helper()
	guard, err := stage.StartGuard(u.t.Context(), guardArgs()...)
	if err != nil {
		u.t.Fatal(err)
	}
	before := stage.Guard
	stage.Guard = guard
	if err := before.Stop(); err != nil {
		u.t.Fatal(err)
	}
}

// TestUpgradeOfTheGuard upgrades policies and guard while two drains and a rollout wait for calls, with pods of the old
// guard at each step of their way out. Helm's changes may take effect in any order, so for a while the new policies meet
// the old guard, and then the reverse.
func TestUpgradeOfTheGuard(t *testing.T) {
	manifests, err := lab.Manifest("")
	if err != nil {
		t.Fatal(err)
	}
	for _, order := range []struct {
		name        string
		first, last func(upgrade)
	}{
		{"DoorsFirst", upgrade.doors, upgrade.guard},
		{"GuardFirst", upgrade.guard, upgrade.doors},
	} {
		t.Run(order.name, func(t *testing.T) {
			if earlier("manifests") == "" {
				t.Fatal("there is nothing to upgrade from; run hack/test-upgrade.sh")
			}
			u := upgrade{t, earlier("manifests"), manifests}
			u.install()
			s := tell(t, 4)
			s.deploy(8, gated(nil, lab.OldGateKind, false))
			s.fill()

			// A drain whose pods have their replacements: they accept no new call.
			drains := []*command{s.drain(s.nodes[0], patient)}
			draining := s.pods(on(s.nodes[0]))
			s.eventually(inTime, "the pods of the node take no new call", func() (bool, error) {
				return shown(len(s.pods(in(call.Draining))) == len(draining) && s.watch.able() == 8, s.watch.describe())
			})
			s.first(len(draining)) // the replacements take them, which are ready before they can: no old pod is idle

			// A rollout with room for two new pods, and a drain without room for a replacement: pods are aside, and keep serving.
			s.room(len(s.pods(all)) + 2)
			s.rollOut("deployment", newImage)
			rollout := s.start("rollout", "status", "deployment/"+lab.AgentName, patient)
			s.eventually(inTime, "two new pods can take calls, and as many old ones take none", func() (bool, error) {
				return shown(len(s.pods(func(p *corev1.Pod) bool { return image(newImage)(p) && ready(p) })) == 2 &&
					len(s.pods(in(call.Draining))) == len(draining)+2, s.watch.describe())
			})
			drains = append(drains, s.drain(s.nodes[1], patient))
			s.eventually(inTime, "a pod is aside and goes on serving", func() (bool, error) {
				return shown(len(s.pods(in(call.Aside))) > 0, s.watch.describe())
			})
			old := s.pods(image(oldImage))

			// Half of the upgrade; a call ends meanwhile.
			order.first(u)
			s.hangUpOn(draining[0])
			s.always(10*s1, "all others talk", func() (bool, error) { return s.talking(), nil })
			s.there(draining[1:]...)
			order.last(u)
			s.must(stage.Guard.WaitReady(t.Context()))
			s.gone(inTime, draining[0])
			for _, c := range append(slices.Clone(drains), rollout) {
				s.waits(c)
			}
			s.there(slices.DeleteFunc(slices.Clone(old), func(pod string) bool { return pod == draining[0] })...)

			// Room for all. The old pods leave as their calls end, and nothing else is waited for.
			s.room(100)
			s.ends(rollout, 3*inTime) // the ReplicaSet retries with a delay that doubles each time
			s.eventually(inTime, "no old pod takes a new call", func() (bool, error) {
				return shown(len(s.pods(func(p *corev1.Pod) bool { return image(oldImage)(p) && !leaving(p) })) == 0, s.watch.describe())
			})
			if !s.talking() {
				t.Errorf("calls ended with the upgrade: %+v", s.callers.Report())
			}
			s.dial(2) // the new pods take them
			s.hangUpAll()
			for _, drain := range drains {
				s.ends(drain, inTime)
			}
			s.gone(inTime, old...)
			s.eventually(inTime, "eight new pods are left, and serve", func() (bool, error) {
				return shown(len(s.pods(all)) == 8 && s.watch.able() == 8 && len(s.pods(func(p *corev1.Pod) bool {
					return image(newImage)(p) && stateOf(p) == call.Serving
				})) == 8, s.watch.describe())
			})
			s.locked()
			s.bounds(3*8, 8)
			s.noneDropped()
		})
	}
}

// room limits the story's namespace to this many pods.
func (s *story) room(pods int) {
	s.t.Helper()
	const name = "room"
	quotas := stage.Client.CoreV1().ResourceQuotas(s.ns)
	most := *resource.NewQuantity(int64(pods), resource.DecimalSI)
	quota := &corev1.ResourceQuota{
		ObjectMeta: metav1.ObjectMeta{Namespace: s.ns, Name: name},
		Spec:       corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{corev1.ResourcePods: most}},
	}
	_, err := quotas.Create(s.t.Context(), quota, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		_, err = quotas.Patch(s.t.Context(), name, types.MergePatchType, fmt.Appendf(nil, `{"spec":{"hard":{"pods":"%d"}}}`, pods), metav1.PatchOptions{})
	}
	s.must(err)
	s.eventually(soon, "the quota is in force", func() (bool, error) {
		q, err := quotas.Get(s.t.Context(), name, metav1.GetOptions{})
		return err == nil && q.Status.Hard.Pods().Value() == int64(pods), err
	})
}

// locked fails the story if its budget differs from what the guard of this checkout creates, including its owner, with
// which it is deleted when the chart is.
func (s *story) locked() {
	s.t.Helper()
	owner, err := stage.Client.RbacV1().ClusterRoles().Get(s.t.Context(), "callguard-budget-owner", metav1.GetOptions{})
	s.must(err)
	budget, err := stage.Client.PolicyV1().PodDisruptionBudgets(s.ns).Get(s.t.Context(), budgetName, metav1.GetOptions{})
	s.must(err)
	owned := slices.ContainsFunc(budget.OwnerReferences, func(r metav1.OwnerReference) bool { return r.UID == owner.UID })
	if least := budget.Spec.MinAvailable; least == nil || least.IntVal != math.MaxInt32 || !owned || budget.Status.DisruptionsAllowed != 0 {
		s.t.Errorf("the budget allows %d disruptions, asks for %v and is owned by %v; want none, %d and %s",
			budget.Status.DisruptionsAllowed, least, budget.OwnerReferences, math.MaxInt32, owner.UID)
	}
}
