// SPDX-License-Identifier: Apache-2.0

package soak

import "testing"

func TestLostBy(t *testing.T) {
	t.Parallel()
	const crash, power, grace = "agent process crashed", "node gone", "killed at the end of the termination grace"
	deeds := []Deed{
		{Outcome: LostWithAgent, Cause: crash, Pod: "agent-a", From: seconds(10), To: seconds(15)},
		{Outcome: LostWithNode, Cause: power, Node: "node-2", From: seconds(20), To: seconds(25)},
		{Outcome: LostWithoutGuard, Workload: Python, From: seconds(30), To: seconds(40)},
		{Outcome: LostWithoutGuard, Pod: "agent-d", From: seconds(30), To: seconds(170)},
		{Outcome: LostWithoutGuard, Workload: Node, From: seconds(50)},
	}
	for name, tc := range map[string]struct {
		reason string
		call   CallRecord
		want   Outcome
	}{
		"Killed":       {reason: "Its agent was just killed.", call: CallRecord{Pod: "agent-a", Cause: crash, Ended: seconds(11)}, want: LostWithAgent},
		"KilledBefore": {reason: "A crash before is another one.", call: CallRecord{Pod: "agent-a", Cause: crash, Ended: seconds(9)}},
		"KilledLater":  {reason: "So is one long after.", call: CallRecord{Pod: "agent-a", Cause: crash, Ended: seconds(16)}},
		"Another":      {reason: "Nobody killed this agent.", call: CallRecord{Pod: "agent-b", Cause: crash, Ended: seconds(11)}},
		"OtherCause":   {reason: "A killed agent does not explain a grace that was over.", call: CallRecord{Pod: "agent-a", Cause: grace, Ended: seconds(11)}},
		"Power":        {reason: "Its node had no power.", call: CallRecord{Pod: "agent-c", Node: "node-2", Cause: power, Ended: seconds(20)}, want: LostWithNode},
		"OtherNode":    {reason: "Its node had.", call: CallRecord{Pod: "agent-c", Node: "node-3", Cause: power, Ended: seconds(20)}},
		"Evicted":      {reason: "An eviction from a node is none of its power.", call: CallRecord{Pod: "agent-c", Node: "node-2", Cause: grace, Ended: seconds(20)}},
		"OptedOut":     {reason: "Nobody looks after a workload that is opted out.", call: CallRecord{Workload: Python, Cause: grace, Ended: seconds(35)}, want: LostWithoutGuard},
		"OptedIn":      {reason: "It is looked after again.", call: CallRecord{Workload: Python, Cause: grace, Ended: seconds(41)}},
		"DeletedThen":  {reason: "Its pod was deleted then, and its grace lasted longer.", call: CallRecord{Workload: Python, Pod: "agent-d", Cause: grace, Ended: seconds(150)}, want: LostWithoutGuard},
		"StillOut":     {reason: "The workload is opted out still.", call: CallRecord{Workload: Node, Cause: grace, Ended: seconds(500)}, want: LostWithoutGuard},
		"NoPod":        {reason: "A call of which the pod is not known is hit by no deed to a pod.", call: CallRecord{Workload: NodeGated, Cause: crash, Ended: seconds(11)}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := LostBy(tc.call, deeds); got != tc.want {
				t.Errorf("%s It is %q; want %q", tc.reason, got, tc.want)
			}
		})
	}
}
