// SPDX-License-Identifier: Apache-2.0

package ended

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/verdict"
)

func TestRule(t *testing.T) {
	began := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	drain := verdict.Verdict{Outcome: verdict.Drain, Why: "its agent does not run"}
	release := verdict.Verdict{Outcome: verdict.Release, Why: "its agent does not run"}
	facts := func(intent call.Intent, pod verdict.Pod, calls ...int) verdict.Facts {
		f := verdict.Facts{Now: began.Add(time.Minute), Intent: call.Mark{Intent: intent, At: began}, Pod: pod}
		for _, n := range calls {
			f.Readings = append(f.Readings, verdict.Reading{Witness: call.Rooms, Reading: call.Known(n, f.Now)})
		}
		return f
	}
	cases := map[string]struct {
		reason string
		facts  verdict.Facts
		want   verdict.Verdict
	}{
		"Runs":            {reason: "A running container may hold calls.", facts: facts(call.NodeDrain, verdict.Pod{State: call.Serving, Running: true})},
		"RunsDraining":    {reason: "A running container may hold calls.", facts: facts(call.NodeDrain, verdict.Pod{State: call.Draining, Running: true})},
		"Serving":         {reason: "It is marked first: a container that starts again takes no call.", facts: facts(call.NodeDrain, verdict.Pod{State: call.Serving}), want: drain},
		"Aside":           {reason: "It is marked first, whatever its state.", facts: facts(call.Rollout, verdict.Pod{State: call.Aside}), want: drain},
		"Draining":        {reason: "It is marked, and runs nothing.", facts: facts(call.NodeDrain, verdict.Pod{State: call.Draining, DrainingSince: began}), want: release},
		"InPlace":         {reason: "A pod that runs nothing needs no replacement.", facts: facts(call.NodeDrain, verdict.Pod{State: call.Serving, InPlace: "it has no owner"}), want: drain},
		"BelievesKubelet": {reason: "The kubelet is a pod's own witness: a room that LiveKit has not closed yet is no call.", facts: facts(call.NodeDrain, verdict.Pod{State: call.Draining}, 3), want: release},

		"CameSince":     {reason: "It tolerates the cordon and has come since; it may be about to run.", facts: facts(call.NodeDrain, verdict.Pod{State: call.Serving, CameSince: true})},
		"DrainingSince": {reason: "It is on its road, whenever it came.", facts: facts(call.NodeDrain, verdict.Pod{State: call.Draining, CameSince: true}), want: release},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, Rule{}.Judge(tc.facts)); diff != "" {
				t.Errorf("%s\n-want, +got:\n%s", tc.reason, diff)
			}
		})
	}
}
