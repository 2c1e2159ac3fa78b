// SPDX-License-Identifier: Apache-2.0

package rooms

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestRarity begins sweeps of 100 rooms, ten seconds apart, and checks how many unchanged
// rooms each reads again.
func TestRarity(t *testing.T) {
	cases := map[string]struct {
		reason string
		before map[int]func(r *rarity, now time.Time) // by sweep
		want   []int
	}{
		"NoWebhooks": {reason: "Nothing reports changes: all rooms.", want: []int{100, 100, 100, 100, 100, 100},
			before: map[int]func(*rarity, time.Time){2: func(r *rarity, now time.Time) { r.finds("a", now.Add(-8*time.Second)) }}},
		"Webhooks": {reason: "The webhooks have reported the changes that were found.", want: []int{100, 50, 25, 13, 7, 7},
			before: map[int]func(*rarity, time.Time){1: func(r *rarity, _ time.Time) { r.tells("a") }}},
		"Missed": {reason: "They do not any more.", want: []int{50, 25, 13, 100, 100, 50},
			before: map[int]func(*rarity, time.Time){
				0: func(r *rarity, _ time.Time) { r.tells("a") },
				3: func(r *rarity, now time.Time) { r.finds("b", now.Add(-8*time.Second)) },
				5: func(r *rarity, _ time.Time) { r.tells("a") },
			}},
		"Late": {reason: "The webhook comes after the sweep that found the change.", want: []int{50, 25, 13, 7, 7, 7},
			before: map[int]func(*rarity, time.Time){
				0: func(r *rarity, _ time.Time) { r.tells("a") },
				3: func(r *rarity, now time.Time) { r.finds("b", now.Add(-time.Second)) },
				4: func(r *rarity, _ time.Time) { r.tells("b") },
			}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			r := newRarity()
			var got []int
			for i := range tc.want {
				now := second(float64(10 * i))
				if happens := tc.before[i]; happens != nil {
					happens(r, now)
				}
				got = append(got, r.next(100, now))
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("%s -want, +got:\n%s", tc.reason, diff)
			}
		})
	}
}
