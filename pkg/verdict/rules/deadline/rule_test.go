// SPDX-License-Identifier: Apache-2.0

package deadline

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/verdict"
)

func TestRule(t *testing.T) {
	wanted := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	byAdministrator := verdict.Verdict{Outcome: verdict.Release, Why: "it was held for as long as --max-hold allows", Forced: true}
	byTeam := verdict.Verdict{Outcome: verdict.Release, Why: "its own callguard.dev/drain-deadline has passed", Forced: true}
	abstain := verdict.Verdict{}
	hold := func(after time.Duration) call.Deadline { return call.Deadline{After: after} }
	release := func(after time.Duration) call.Deadline { return call.Deadline{After: after, Release: true} }
	facts := func(held, maxHold time.Duration, d call.Deadline) verdict.Facts {
		return verdict.Facts{
			Now: wanted.Add(held), Intent: call.Mark{Intent: call.NodeDrain, At: wanted.Add(-24 * time.Hour)}, Since: wanted, Standing: wanted,
			Pod:      verdict.Pod{State: call.Draining, Running: true, DrainingSince: wanted.Add(20 * time.Minute)},
			Readings: []verdict.Reading{{Witness: call.Rooms, Reading: call.Known(3, wanted.Add(held))}},
			Deadline: d, Limits: verdict.Limits{MaxHold: maxHold, Settle: time.Minute},
		}
	}
	with := func(f verdict.Facts, change func(*verdict.Facts)) verdict.Facts {
		change(&f)
		return f
	}
	cases := map[string]struct {
		reason string
		facts  verdict.Facts
		want   verdict.Verdict
	}{
		"Default":         {reason: "By default a pod is held forever.", facts: facts(1000*time.Hour, 0, call.Deadline{}), want: abstain},
		"HoldNeverEnds":   {reason: "The team has chosen Hold.", facts: facts(1000*time.Hour, 0, hold(time.Hour)), want: abstain},
		"ReleaseNoTime":   {reason: "Release without a time names no end.", facts: facts(1000*time.Hour, 0, release(0)), want: abstain},
		"TeamTooSoon":     {reason: "The deadline lies ahead.", facts: facts(time.Hour-time.Nanosecond, 0, release(time.Hour)), want: abstain},
		"TeamNow":         {reason: "The deadline is reached, counted from when something wanted the pod to go.", facts: facts(time.Hour, 0, release(time.Hour)), want: byTeam},
		"MaxHoldTooSoon":  {reason: "The ceiling lies ahead.", facts: facts(2*time.Hour-time.Nanosecond, 2*time.Hour, call.Deadline{}), want: abstain},
		"MaxHoldNow":      {reason: "The administrator's ceiling bounds every hold.", facts: facts(2*time.Hour, 2*time.Hour, call.Deadline{}), want: byAdministrator},
		"MaxHoldEndsHold": {reason: "The team's Hold does not go beyond it.", facts: facts(2*time.Hour, 2*time.Hour, hold(time.Hour)), want: byAdministrator},
		"TeamSooner":      {reason: "A team may prefer its drain to its calls.", facts: facts(time.Hour, 2*time.Hour, release(time.Hour)), want: byTeam},
		"TeamLater":       {reason: "A team's deadline never exceeds the administrator's.", facts: facts(2*time.Hour, 2*time.Hour, release(3*time.Hour)), want: byAdministrator},
		"TeamLaterToo":    {reason: "Before both nothing happens.", facts: facts(time.Hour, 2*time.Hour, release(3*time.Hour)), want: abstain},
		"Both":            {reason: "If both have passed, the administrator's is reported.", facts: facts(2*time.Hour, 2*time.Hour, release(2*time.Hour)), want: byAdministrator},

		"NotDraining": {reason: "It takes no new call first.", facts: with(facts(1000*time.Hour, time.Hour, release(time.Hour)), func(f *verdict.Facts) { f.Pod.State, f.Pod.DrainingSince = call.Aside, time.Time{} }), want: abstain},
		"StillTaking": {reason: "Whatever else holds for it, it accepts calls.", facts: with(facts(1000*time.Hour, time.Hour, release(time.Hour)), func(f *verdict.Facts) { f.Pod.State = call.Serving }), want: abstain},
		"JustMarked":  {reason: "It may yet be seen to be idle.", facts: with(facts(time.Hour, time.Hour, call.Deadline{}), func(f *verdict.Facts) { f.Pod.DrainingSince = f.Now.Add(time.Nanosecond - time.Minute) }), want: abstain},
		"MarkedLate":  {reason: "It was not.", facts: with(facts(time.Hour, time.Hour, call.Deadline{}), func(f *verdict.Facts) { f.Pod.DrainingSince = f.Now.Add(-time.Minute) }), want: byAdministrator},
		"JustIdle": {reason: "It is idle, but its zero does not count yet.", facts: with(facts(time.Hour, time.Hour, call.Deadline{}), func(f *verdict.Facts) {
			f.Pod.DrainingSince, f.Readings[0].Reading = f.Now.Add(time.Nanosecond-time.Minute-believed), call.Known(0, f.Now)
		}), want: abstain},
		"NeverBelieved": {reason: "Whatever keeps it, the deadline ends.", facts: with(facts(time.Hour, time.Hour, call.Deadline{}), func(f *verdict.Facts) {
			f.Pod.DrainingSince, f.Readings[0].Reading = f.Now.Add(-time.Minute-believed), call.Known(0, f.Now)
		}), want: byAdministrator},
		"Cancelled": {reason: "Nothing waits for it any more.", facts: with(facts(1000*time.Hour, time.Hour, release(time.Hour)), func(f *verdict.Facts) { f.Standing = time.Time{} }), want: abstain},
		"TakenUp":   {reason: "A resumed drain counts from zero.", facts: with(facts(1000*time.Hour, time.Hour, release(time.Hour)), func(f *verdict.Facts) { f.Standing = f.Now.Add(time.Nanosecond - time.Hour) }), want: abstain},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, Rule{}.Judge(tc.facts)); diff != "" {
				t.Errorf("%s\n-want, +got:\n%s", tc.reason, diff)
			}
		})
	}
}
