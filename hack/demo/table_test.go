// SPDX-License-Identifier: Apache-2.0

package main

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func full() snapshot {
	return snapshot{
		At: 83 * time.Second, Calls: 7, Active: reading{N: 7},
		Scaling: autoscaler{Target: "5", Current: 2, Desired: 2, Active: "True"},
		Pods: []podRow{
			{Name: "agent-1", Node: "node-1", Phase: "Running", State: "serving", Calls: reading{N: 5}},
			{Name: "agent-2", Node: "node-2", Phase: terminating, State: "finishing", Calls: reading{N: 2}},
			{Name: "agent-3", Phase: "Pending", State: "serving", Calls: reading{Why: "unknown"}},
		},
	}
}

func silent() snapshot {
	return snapshot{Dropped: 1, Active: reading{Why: "503: LiveKit is silent"}, Scaling: autoscaler{Target: "5", Current: 1, Desired: 1, Active: "False (FailedGetObjectMetric: 503)"}}
}

func TestTable(t *testing.T) {
	cases := map[string]struct {
		reason        string
		snapshot      snapshot
		width, height int
		want          string
	}{
		"Full": {reason: "Everything is to be seen.", snapshot: full(), want: `callguard demo  01:23  (Ctrl-C ends it)

calls up       7
active_calls   7
autoscaler     2 replicas, wants 2; 5 calls each; ScalingActive True
dropped calls  0

POD      NODE    PHASE        STATE      CALLS
agent-1  node-1  Running      serving     5 ●●●●●
agent-2  node-2  Terminating  finishing   2 ●●
agent-3          Pending      serving    ?
`},
		"Silent": {reason: "The reason is shown instead of a missing number.", snapshot: silent(), want: `callguard demo  00:00  (Ctrl-C ends it)

calls up       0
active_calls   503: LiveKit is silent
autoscaler     1 replicas, wants 1; 5 calls each; ScalingActive False (FailedGetObjectMetric: 503)
dropped calls  1

POD  NODE  PHASE  STATE  CALLS
`},
		"Small": {reason: "A line that wraps would spoil the next drawing.", snapshot: full(), width: 30, height: 8, want: `callguard demo  01:23  (Ctrl-…

calls up       7
active_calls   7
autoscaler     2 replicas, wa…
dropped calls  0
… 5 more
`},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, table(tc.snapshot, tc.width, tc.height)); diff != "" {
				t.Errorf("%s -want +got:\n%s", tc.reason, diff)
			}
		})
	}
}

func TestLine(t *testing.T) {
	cases := map[string]struct {
		snapshot snapshot
		want     string
	}{
		"Full":   {full(), "calls  7  active_calls  7  replicas 2  pods 3, 1 finishing  lost 0"},
		"Silent": {silent(), "calls  0  active_calls 503: LiveKit is silent  replicas 1  pods 0  lost …"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, line(tc.snapshot)); diff != "" {
				t.Error(diff)
			}
		})
	}
}
