// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/pods"
)

// TestLockedPods: the policies are tried on pods that they have to protect, one per namespace.
func TestLockedPods(t *testing.T) {
	elsewhere := func(o metav1.Object) { o.SetNamespace("elsewhere") }
	g, _ := newGuard(t, enabledNamespace(), webPod("a"), webPod("b"), webPod("released", label(call.ReleasedLabel, "drain")), webPod("far", elsewhere))
	found := g.Locked()
	if len(found) != 1 || !slices.Contains([]string{"a", "b"}, found[0].Name) {
		t.Errorf("found %v, want one of a and b", found)
	}
}

// gatekeeper returns what a test wants about the policies.
type gatekeeper struct{ err error }

func (k *gatekeeper) InForce() error { return k.err }

// TestDoorsHold: a pod could be released with the next look. While a policy is missing it is
// not, and the Event about it names the policy.
func TestDoorsHold(t *testing.T) {
	g, client := newGuard(t, enabledNamespace(), newNode(true), newDeployment("web", 1), newReplicaSet("1", 1), asidePod("a", draining, ended),
		webPod("b", func(o metav1.Object) { o.(*corev1.Pod).Spec.NodeName = "node-2" }))
	told, keeper := hear(g), &gatekeeper{err: errors.New("ValidatingAdmissionPolicyBinding callguard-delete is missing")}
	g.cfg.Doors = keeper
	key := workloadKey(pods.Deployment, "web")
	look := func(after int) {
		t.Helper()
		g.now = func() time.Time { return noon().Add(time.Duration(after) * time.Second) }
		if _, err := g.reconcile(t.Context(), key); err != nil {
			t.Fatal(err)
		}
	}
	for after := range 7 {
		look(after)
	}
	if diff := cmp.Diff(map[string][]string{}, patched(t, client.Actions())); diff != "" {
		t.Errorf("steps were taken without a policy: -want, +got:\n%s", diff)
	}
	if err := g.Ready(); !errors.Is(err, keeper.err) {
		t.Errorf("ready: %v", err)
	}
	const why = "Normal Held on %s: Pod voice/a stays (drain): callguard's admission policies are not in effect: ValidatingAdmissionPolicyBinding callguard-delete is missing"
	if diff := cmp.Diff([]string{fmt.Sprintf(why, "Deployment voice/web"), fmt.Sprintf(why, "Node node-1"), fmt.Sprintf(why, "Pod voice/a")}, told()); diff != "" {
		t.Errorf("Events: -want, +got:\n%s", diff)
	}
	keeper.err = nil
	look(7)
	if diff := cmp.Diff(map[string][]string{"a": {"callguard.dev/released=drain"}}, patched(t, client.Actions())); diff != "" {
		t.Errorf("with all policies it continues: -want, +got:\n%s", diff)
	}
	if err := g.Ready(); err != nil {
		t.Errorf("ready: %v", err)
	}
}
