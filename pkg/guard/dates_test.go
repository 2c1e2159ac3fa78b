// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/callguard/callguard/pkg/pods"
)

// TestRemovalComesAgain: a refused autoscaler removes its taint and tries again. Deadlines
// count from its first try, unless it gives up for longer. A removed cordon stops counting
// at once.
func TestRemovalComesAgain(t *testing.T) {
	taint := corev1.Taint{Key: "ToBeDeletedByClusterAutoscaler", Effect: corev1.TaintEffectNoSchedule}
	cases := map[string]struct {
		reason string
		wants  *corev1.Node
		away   time.Duration
		again  bool // counts from then
	}{
		"Refused":  {reason: "It tries again after some minutes.", wants: newNode(false, taint), away: 3 * time.Minute},
		"GaveUp":   {reason: "It wanted something else meanwhile.", wants: newNode(false, taint), away: time.Hour, again: true},
		"Uncordon": {reason: "Somebody has taken the wish back.", wants: newNode(true), away: time.Second, again: true},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			g, client := newGuard(t, enabledNamespace(), tc.wants, newDeployment("web", 1), newReplicaSet("1", 1), asidePod("a", draining))
			now := noon()
			g.now = func() time.Time { return now }
			look := func(node *corev1.Node) {
				t.Helper()
				nodeIs(t, g, client, node)
				if _, err := g.reconcile(t.Context(), workloadKey(pods.Deployment, "web")); err != nil {
					t.Fatal(err)
				}
			}
			standing := func() (at time.Time) {
				for o, s := range dated(g) {
					if o.fact == stands && s.last.Equal(now) {
						at = s.at
					}
				}
				return at
			}
			look(tc.wants)
			if got := standing(); !got.Equal(noon()) {
				t.Fatalf("it has been there since %s, want noon", got)
			}
			now = now.Add(time.Second)
			look(newNode(false))
			now = now.Add(tc.away)
			look(tc.wants)
			want := noon()
			if tc.again {
				want = now
			}
			if got := standing(); !got.Equal(want) {
				t.Errorf("%s It counts from %s, want %s", tc.reason, got, want)
			}
		})
	}
}

// TestLeadsAgain: a guard leads, loses the lease and leads again hours later. What it did
// not observe meanwhile counts from its return.
func TestLeadsAgain(t *testing.T) {
	g, _ := newGuard(t, enabledNamespace(), newNode(true), webPod("a"))
	for _, f := range []fact{isWanted, stands, isUnready, hasTooMany, askedToGo, orphaned, isMisfit, isDraining, isReleased} {
		g.planner.dates.first(occasion{of: "a", fact: f})
	}
	g.planner.dates.leads()
	for o := range dated(g) {
		if o.fact != there && o.fact != cordoned {
			t.Errorf("it has not looked since, and remembers %v", o)
		}
	}
	if g.planner.dates.seenAt(occasion{of: "a", fact: there}).IsZero() || g.planner.dates.seenAt(occasion{of: "node-1", fact: cordoned}).IsZero() {
		t.Error("which came first, pod or cordon, is seen by whoever watches")
	}
}
