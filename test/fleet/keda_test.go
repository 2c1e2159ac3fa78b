// SPDX-License-Identifier: Apache-2.0

package fleet

import "testing"

// TestKEDADecides covers every line of the table, and the one mistake in a ScaledObject that ends calls.
func TestKEDADecides(t *testing.T) {
	t.Parallel()
	toZero := ScaledObject{Max: 5}
	used := map[string]bool{}
	for name, tc := range map[string]struct {
		reason string
		object ScaledObject
		look   look
		want   int32
	}{
		"First":            {reason: "A first call brings one.", object: toZero, look: look{active: true, cooled: true}, want: 1},
		"FirstOfSome":      {reason: "Or as many as there are at least.", object: ScaledObject{Min: 2, Max: 5}, look: look{active: true}, want: 2},
		"Active":           {reason: "The autoscaler scales.", object: toZero, look: look{active: true, replicas: 3}, want: 3},
		"ActiveInPart":     {reason: "One trigger that is active is enough.", object: toZero, look: look{active: true, failed: true, replicas: 3}, want: 3},
		"Unknown":          {reason: "An error is not idleness.", object: toZero, look: look{failed: true, cooled: true, replicas: 3}, want: 3},
		"UnknownFallback":  {reason: "The autoscaler gets the fallback.", object: ScaledObject{Max: 5, Fallback: &Fallback{3, 2}}, look: look{failed: true, cooled: true, replicas: 3}, want: 3},
		"UnknownAtNone":    {reason: "Nor does it bring one.", object: toZero, look: look{failed: true, cooled: true}, want: 0},
		"FallbackOfNobody": {reason: "With a fallback of no replicas KEDA takes unknown for none.", object: ScaledObject{Max: 5, Fallback: &Fallback{3, 0}}, look: look{failed: true, cooled: true, replicas: 3}, want: 0},
		"Cooling":          {reason: "The last call is not over for long.", object: toZero, look: look{replicas: 3}, want: 3},
		"Idle":             {reason: "It is.", object: toZero, look: look{replicas: 3, cooled: true}, want: 0},
		"IdleWithSome":     {reason: "There is a least.", object: ScaledObject{Min: 1, Max: 5}, look: look{replicas: 3, cooled: true}, want: 3},
		"BelowTheLeast":    {reason: "Somebody else has scaled it.", object: ScaledObject{Min: 2, Max: 5}, look: look{replicas: 1, cooled: true}, want: 2},
		"None":             {reason: "Nothing to do.", object: toZero, look: look{cooled: true}, want: 0},
	} {
		t.Run(name, func(t *testing.T) {
			step := stepOf(tc.object, tc.look)
			used[step.when] = true
			got := tc.look.replicas
			if step.to != nil {
				got = step.to(tc.object)
			}
			if got != tc.want {
				t.Errorf("%q leads to %d replicas, want %d. %s", step.when, got, tc.want, tc.reason)
			}
		})
	}
	for _, step := range scaleSteps() {
		if !used[step.when] {
			t.Errorf("no case comes to %q", step.when)
		}
	}
}
