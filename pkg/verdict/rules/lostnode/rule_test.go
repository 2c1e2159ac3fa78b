// SPDX-License-Identifier: Apache-2.0

package lostnode

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/verdict"
)

func TestRule(t *testing.T) {
	const quiet = time.Minute
	lost := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	drained := lost.Add(10 * time.Second)
	release := verdict.Verdict{Outcome: verdict.Release, Why: "its node is lost and LiveKit lists no agent of it"}
	forced := verdict.Verdict{Outcome: verdict.Release, Why: "its node has been lost for longer than --lost-node-release-after", Forced: true}
	abstain := verdict.Verdict{}
	// reads is a witness that has reported this for a time, up to a minute after the drain.
	reads := func(w call.Witness, n int, during time.Duration) verdict.Reading {
		at := drained.Add(2 * time.Minute)
		return verdict.Reading{Witness: w, Reading: call.Known(n, at), Since: at.Add(-during)}
	}
	unattributed := func(r verdict.Reading) verdict.Reading {
		r.Reading = r.WithUnattributed()
		return r
	}
	unknown := func(w call.Witness) verdict.Reading {
		return verdict.Reading{Witness: w, Reading: call.Unknown("no route")}
	}
	facts := func(change func(*verdict.Facts), readings ...verdict.Reading) verdict.Facts {
		f := verdict.Facts{
			Now: lost.Add(time.Hour), LostSince: lost, Intent: call.Mark{Intent: call.LostNode, At: lost},
			Pod:      verdict.Pod{State: call.Draining, Running: true, DrainingSince: drained},
			Readings: readings, LeaseExpired: true, QuietSince: drained,
			Limits: verdict.Limits{Settle: 20 * time.Second, LostQuiet: quiet},
		}
		if change != nil {
			change(&f)
		}
		return f
	}
	after := func(limit time.Duration) func(*verdict.Facts) {
		return func(f *verdict.Facts) { f.Limits.LostAfter = limit }
	}
	renewed := func(f *verdict.Facts) { f.LeaseExpired, f.Limits.LostAfter = false, time.Minute }
	cases := map[string]struct {
		reason string
		facts  verdict.Facts
		want   verdict.Verdict
	}{
		"Quiet":           {reason: "The agent cannot be asked, but LiveKit has not seen it for long enough.", facts: facts(nil, reads(call.Rooms, 0, quiet), unknown(call.Worker)), want: release},
		"NotQuietEnough":  {reason: "LiveKit may still drop an agent that it does not hear of.", facts: facts(nil, reads(call.Rooms, 0, quiet-time.Nanosecond), unknown(call.Worker)), want: abstain},
		"Calls":           {reason: "The agent still talks to LiveKit, whatever the node says.", facts: facts(nil, reads(call.Rooms, 1, time.Hour), unknown(call.Worker)), want: abstain},
		"WorkerCounts":    {reason: "The agent can be asked after all, and talks.", facts: facts(nil, reads(call.Rooms, 0, time.Hour), reads(call.Worker, 3, time.Second)), want: abstain},
		"GateCounts":      {reason: "The same, by its gate.", facts: facts(nil, reads(call.Gate, 1, time.Second), reads(call.Rooms, 0, time.Hour)), want: abstain},
		"Unattributed":    {reason: "An agent that names no pod may be this one's.", facts: facts(nil, unattributed(reads(call.Rooms, 0, time.Hour)), unknown(call.Worker)), want: abstain},
		"RoomsUnknown":    {reason: "Unknown is never zero.", facts: facts(nil, unknown(call.Rooms), unknown(call.Worker)), want: abstain},
		"WorkerAlone":     {reason: "Only LiveKit knows of a node that does not report.", facts: facts(nil, reads(call.Worker, 0, time.Hour)), want: abstain},
		"NoReadings":      {reason: "No witness was asked.", facts: facts(nil), want: abstain},
		"LeaseNotExpired": {reason: "The node reports again: its agent can be asked.", facts: facts(func(f *verdict.Facts) { f.LeaseExpired = false }, reads(call.Rooms, 0, time.Hour)), want: abstain},
		"BeforeMark": {
			reason: "LiveKit was last read before the pod was marked.",
			facts: facts(nil, verdict.Reading{
				Witness: call.Rooms, Reading: call.Known(0, drained), Since: drained.Add(-time.Hour),
			}), want: abstain,
		},
		"NotLost":     {reason: "A drained node answers for its pods.", facts: facts(func(f *verdict.Facts) { f.Intent.Intent, f.LostSince = call.NodeDrain, time.Time{} }, reads(call.Rooms, 0, time.Hour)), want: abstain},
		"OtherIntent": {reason: "Whatever else wants it gone, its agent cannot be asked.", facts: facts(func(f *verdict.Facts) { f.Intent.Intent = call.Orphan }, reads(call.Rooms, 0, time.Hour)), want: release},
		"NotDraining": {reason: "The steps come in their order.", facts: facts(func(f *verdict.Facts) { f.Pod.State = call.Aside }, reads(call.Rooms, 0, time.Hour)), want: abstain},

		"NeverForced":  {reason: "By default LiveKit has the last word.", facts: facts(after(0), unknown(call.Rooms)), want: abstain},
		"ForceTooSoon": {reason: "The administrator's time is not over.", facts: facts(after(time.Hour+time.Nanosecond), unknown(call.Rooms)), want: abstain},
		"ForcedNow":    {reason: "The administrator's time is over, counted from the loss.", facts: facts(after(time.Hour), unknown(call.Rooms)), want: forced},
		"ForcedBusy":   {reason: "Whatever LiveKit says.", facts: facts(after(time.Hour), reads(call.Rooms, 4, time.Hour)), want: forced},
		"ForceNotNeeded": {
			reason: "A pod that is known to hold no call needs no force.",
			facts:  facts(after(time.Hour), reads(call.Rooms, 0, time.Hour), unknown(call.Worker)), want: release,
		},
		"ForceOfLivingNode": {reason: "A pod of a node that reports is not forced.", facts: facts(renewed, unknown(call.Rooms)), want: abstain},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, Rule{}.Judge(tc.facts)); diff != "" {
				t.Errorf("%s\n-want, +got:\n%s", tc.reason, diff)
			}
		})
	}
}
