// SPDX-License-Identifier: Apache-2.0

package settle

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/verdict"
)

func TestRule(t *testing.T) {
	zero := verdict.Reading{Witness: call.Rooms, Reading: call.Known(0, time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC))}
	cases := map[string]struct {
		reason string
		facts  verdict.Facts
		want   verdict.Verdict
	}{
		"Draining": {
			reason: "All other rules have had their say: it is idle, and not for long enough.",
			facts:  verdict.Facts{Pod: verdict.Pod{State: call.Draining}, Readings: []verdict.Reading{zero}},
			want:   verdict.Verdict{Outcome: verdict.Hold, Why: "it is idle; waiting in case a call is still being connected"},
		},
		"GateOpen": {
			reason: "Its gate still lets calls in.",
			facts:  verdict.Facts{Pod: verdict.Pod{State: call.Draining}, Readings: []verdict.Reading{zero, {Witness: call.Gate, Reading: zero.Reading}}},
			want:   verdict.Verdict{Outcome: verdict.Hold, Why: "it is idle; waiting for call-gate to read the drain annotation (--order-file)"},
		},
		"NoWitnesses": {reason: "It is not known to be idle.", facts: verdict.Facts{Pod: verdict.Pod{State: call.Draining}}},
		"Aside":       {reason: "It still takes calls.", facts: verdict.Facts{Pod: verdict.Pod{State: call.Aside}, Readings: []verdict.Reading{zero}}},
		"Serving":     {reason: "It still takes calls.", facts: verdict.Facts{Pod: verdict.Pod{State: call.Serving}, Readings: []verdict.Reading{zero}}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, Rule{}.Judge(tc.facts)); diff != "" {
				t.Errorf("%s\n-want, +got:\n%s", tc.reason, diff)
			}
		})
	}
}
