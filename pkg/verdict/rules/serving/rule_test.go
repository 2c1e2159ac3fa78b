// SPDX-License-Identifier: Apache-2.0

package serving

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/verdict"
)

func TestRule(t *testing.T) {
	cases := map[string]struct {
		reason string
		facts  verdict.Facts
		want   verdict.Verdict
	}{
		"Nobody": {
			reason: "A pod that does not have to leave serves.",
			want:   verdict.Verdict{Outcome: verdict.Serve, Why: "nothing asks the pod to leave"},
		},
		"NobodyAndEnded": {
			reason: "A container that restarts is the kubelet's affair.",
			facts:  verdict.Facts{Pod: verdict.Pod{State: call.Serving, Running: false}},
			want:   verdict.Verdict{Outcome: verdict.Serve, Why: "nothing asks the pod to leave"},
		},
	}
	for _, intent := range call.Intents() {
		cases[string(intent)] = struct {
			reason string
			facts  verdict.Facts
			want   verdict.Verdict
		}{reason: "Any intent is for the other rules.", facts: verdict.Facts{Intent: call.Mark{Intent: intent}}}
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, Rule{}.Judge(tc.facts)); diff != "" {
				t.Errorf("%s\n-want, +got:\n%s", tc.reason, diff)
			}
		})
	}
}
