// SPDX-License-Identifier: Apache-2.0

package gate

import (
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/callguard/callguard/pkg/call"
)

// TestLoad: a load is known as long as its gate tells of one, and is no longer when it is old or the pod is gone.
func TestLoad(t *testing.T) {
	began := time.Date(2026, 1, 2, 15, 0, 0, 0, time.UTC)
	pod := &call.Pod{UID: "a"}
	for name, tc := range map[string]struct {
		reason string
		heard  []string // a second after another
		after  time.Duration
		gone   bool
		want   float64
		known  bool
	}{
		"Told":    {reason: "As the gate says.", heard: []string{`{"pod":"a","known":true,"calls":1,"load":0.35}`}, want: 0.35, known: true},
		"Zero":    {reason: "An idle worker's is known.", heard: []string{`{"pod":"a","known":true,"calls":0,"load":0}`}, known: true},
		"Newest":  {reason: "The newest counts.", heard: []string{`{"pod":"a","known":true,"calls":1,"load":0.35}`, `{"pod":"a","known":true,"calls":1,"load":0.7}`}, want: 0.7, known: true},
		"Unasked": {reason: "Nobody has asked yet."},
		"Before":  {reason: "A gate of an earlier version tells of none.", heard: []string{`{"pod":"a","known":true,"calls":1}`}},
		"NoMore":  {reason: "Its worker is gone.", heard: []string{`{"pod":"a","known":true,"calls":1,"load":0.35}`, `{"pod":"a","known":true,"calls":1}`}},
		"TooMuch": {reason: "A pod says what it likes.", heard: []string{`{"pod":"a","known":true,"calls":1,"load":1e30}`}},
		"Less":    {reason: "A pod says what it likes.", heard: []string{`{"pod":"a","known":true,"calls":1,"load":-1}`}},
		"Old":     {reason: "It may have changed since.", heard: []string{`{"pod":"a","known":true,"calls":1,"load":0.35}`}, after: 2 * time.Minute},
		"Gone":    {reason: "A pod that is gone has none.", heard: []string{`{"pod":"a","known":true,"calls":1,"load":0.35}`}, gone: true},
	} {
		t.Run(name, func(t *testing.T) {
			r := &Reader{loads: &loads{stale: time.Minute, of: map[types.UID]load{}}}
			for i, body := range tc.heard {
				a, err := parseLives([]byte(body), pod.UID)
				if err != nil {
					t.Fatal(err)
				}
				r.loads.heard(pod, a, began.Add(time.Duration(i)*time.Second))
			}
			if tc.gone {
				r.loads.gone(pod.UID)
			}
			got, known := r.Load(pod, began.Add(time.Second+tc.after))
			if got != tc.want && known || known != tc.known {
				t.Errorf("%s Load = %v, %t; want %v, %t", tc.reason, got, known, tc.want, tc.known)
			}
		})
	}
}
