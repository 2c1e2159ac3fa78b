// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/pods"
	"github.com/callguard/callguard/pkg/verdict"
)

// TestNoStepOnACache: a step that concerns other pods of the workload is not decided on informers' data, which may be
// behind.
func TestNoStepOnACache(t *testing.T) {
	key := workloadKey(pods.Deployment, "web")
	for name, tc := range map[string]struct {
		outcome verdict.Outcome
		live    bool
		writes  int
	}{
		"SetAsideOnACache": {outcome: verdict.SetAside},
		"SetAsideLive":     {outcome: verdict.SetAside, live: true, writes: 1},
		"DrainOnACache":    {outcome: verdict.Drain},
		"DrainLive":        {outcome: verdict.Drain, live: true, writes: 1},
	} {
		t.Run(name, func(t *testing.T) {
			g, client := newGuard(t, enabledNamespace(), newDeployment("web", 1), newReplicaSet("1", 1), webPod("a"))
			s, err := g.cluster.cached(key)
			if err != nil {
				t.Fatal(err)
			}
			if tc.live {
				if s, err = g.live.live(t.Context(), key, s, current{}); err != nil {
					t.Fatal(err)
				}
			}
			w := s.workload(key)
			j := judgement{member: w.members[0], intent: call.Mark{Intent: call.NodeDrain, At: noon()}, verdict: verdict.Verdict{Outcome: tc.outcome}}
			client.ClearActions()
			if err := g.act(t.Context(), s, w, &j); err != nil {
				t.Fatal(err)
			}
			if got := patched(t, client.Actions()); len(got) != tc.writes {
				t.Errorf("the guard wrote %v; want %d writes", got, tc.writes)
			}
		})
	}
}

// TestReleasedPodsAreDeleted: for --release-patience, a released pod is left to whoever drains
// its node. One that nobody will evict, as after a scale-down, is deleted at once.
func TestReleasedPodsAreDeleted(t *testing.T) {
	const patience = 10 * time.Second
	for intent, want := range map[call.Intent]struct {
		reason string
		after  time.Duration
	}{
		call.ScaleDown: {reason: "Nobody evicts it."},
		call.Rollout:   {reason: "Nobody evicts it."},
		call.Orphan:    {reason: "Its owner is gone."},
		call.NodeDrain: {reason: "kubectl drain tries again every 5 s.", after: patience},
		call.Operator:  {reason: "So may whoever asked for it.", after: patience},
	} {
		t.Run(string(intent), func(t *testing.T) {
			g, client := newGuard(t, enabledNamespace(), newDeployment("web", 1), newReplicaSet("1", 1), webPod("a", draining, label(call.ReleasedLabel, string(intent))))
			g.cfg.ReleasePatience = patience
			var got []time.Duration
			for _, after := range []time.Duration{0, patience - time.Millisecond, patience} {
				g.now = func() time.Time { return noon().Add(after) }
				client.ClearActions()
				if _, err := g.reconcile(t.Context(), workloadKey(pods.Deployment, "web")); err != nil {
					t.Fatal(err)
				}
				if deletes(client) {
					got = append(got, after)
				}
			}
			if diff := cmp.Diff([]time.Duration{want.after}, got); diff != "" {
				t.Errorf("%s It is deleted after (-want, +got):\n%s", want.reason, diff)
			}
		})
	}
}

// deletes reports whether a guard has deleted a pod.
func deletes(client *fake.Clientset) bool {
	for _, action := range client.Actions() {
		if action.Matches("delete", "pods") {
			return true
		}
	}
	return false
}
