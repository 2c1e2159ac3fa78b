// SPDX-License-Identifier: Apache-2.0

package charts

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// TestKeepGrace: of all pods of the voice agent, only LiveKit's are covered by the policy that keeps their grace period, and by
// no policy that protects calls.
func TestKeepGrace(t *testing.T) {
	t.Parallel()
	policies := all[admissionregistrationv1.ValidatingAdmissionPolicy](t, addon{}.must(t), "ValidatingAdmissionPolicy")
	selects := func(policy string) labels.Selector {
		p := policies[policy]
		if p == nil {
			t.Fatalf("there is no policy %s", policy)
		}
		selector, err := metav1.LabelSelectorAsSelector(p.Spec.MatchConstraints.ObjectSelector)
		if err != nil {
			t.Fatal(err)
		}
		return selector
	}
	for name, tc := range map[string]struct {
		given
		keep, guarded []string
	}{
		"Default":   {keep: []string{"livekit"}, guarded: []string{"agent"}},
		"Worker":    {given: given{set: []string{"worker.guarded=true"}}, keep: []string{"livekit"}, guarded: []string{"agent", "worker"}},
		"Elsewhere": {given: given{file: "cloud"}, guarded: []string{"agent"}},
		"Unguarded": {given: given{file: "unguarded"}},
		"Override":  {given: given{json: []string{`livekit.podLabels={"callguard.dev/keep-grace":"false"}`}}, keep: []string{"livekit"}, guarded: []string{"agent"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := tc.must(t)
			for policy, want := range map[string][]string{"callguard-keep-grace": tc.keep, "callguard-delete": tc.guarded} {
				var got []string
				for _, component := range []string{"agent", "livekit", "worker"} {
					for _, d := range deployments(t, r) {
						if d.Labels["app.kubernetes.io/component"] == component && selects(policy).Matches(labels.Set(d.Spec.Template.Labels)) {
							got = append(got, component)
						}
					}
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("pods that %s holds (-want +got):\n%s", policy, diff)
				}
			}
		})
	}
}
