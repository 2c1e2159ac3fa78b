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
	drained := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	byAdministrator := verdict.Verdict{Outcome: verdict.Release, Why: "it was held for as long as the administrator allows", Forced: true}
	byTeam := verdict.Verdict{Outcome: verdict.Release, Why: "its own drain deadline is over", Forced: true}
	abstain := verdict.Verdict{}
	hold := func(after time.Duration) call.Deadline { return call.Deadline{After: after} }
	release := func(after time.Duration) call.Deadline { return call.Deadline{After: after, Release: true} }
	facts := func(held, maxHold time.Duration, d call.Deadline) verdict.Facts {
		return verdict.Facts{
			Now: drained.Add(held), Intent: call.Mark{Intent: call.Drain, At: drained.Add(-24 * time.Hour)},
			Pod:      verdict.Pod{State: call.Draining, Running: true, Drained: drained, Created: drained.Add(-48 * time.Hour)},
			Readings: []verdict.Reading{{Witness: call.Rooms, Reading: call.Known(3, drained.Add(held))}},
			Deadline: d, Limits: verdict.Limits{MaxHold: maxHold},
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
		"Default":         {reason: "By default a pod is held for ever.", facts: facts(1000*time.Hour, 0, call.Deadline{}), want: abstain},
		"HoldNeverEnds":   {reason: "Hold is what the team has asked for.", facts: facts(1000*time.Hour, 0, hold(time.Hour)), want: abstain},
		"ReleaseNoTime":   {reason: "Release without a time names no end.", facts: facts(1000*time.Hour, 0, release(0)), want: abstain},
		"TeamTooSoon":     {reason: "The deadline lies ahead.", facts: facts(time.Hour-time.Nanosecond, 0, release(time.Hour)), want: abstain},
		"TeamNow":         {reason: "The deadline is reached, counted from the draining mark.", facts: facts(time.Hour, 0, release(time.Hour)), want: byTeam},
		"MaxHoldTooSoon":  {reason: "The ceiling lies ahead.", facts: facts(2*time.Hour-time.Nanosecond, 2*time.Hour, call.Deadline{}), want: abstain},
		"MaxHoldNow":      {reason: "The administrator's ceiling bounds every hold.", facts: facts(2*time.Hour, 2*time.Hour, call.Deadline{}), want: byAdministrator},
		"MaxHoldEndsHold": {reason: "The team's Hold does not go beyond it.", facts: facts(2*time.Hour, 2*time.Hour, hold(time.Hour)), want: byAdministrator},
		"TeamSooner":      {reason: "A team may prefer its drain to its calls.", facts: facts(time.Hour, 2*time.Hour, release(time.Hour)), want: byTeam},
		"TeamLater":       {reason: "A team's deadline never goes beyond the administrator's.", facts: facts(2*time.Hour, 2*time.Hour, release(3*time.Hour)), want: byAdministrator},
		"TeamLaterToo":    {reason: "Before both nothing happens.", facts: facts(time.Hour, 2*time.Hour, release(3*time.Hour)), want: abstain},
		"Both":            {reason: "Of both the administrator's is told.", facts: facts(2*time.Hour, 2*time.Hour, release(2*time.Hour)), want: byAdministrator},

		"NotDraining": {reason: "The time counts from when the pod takes no new call.", facts: with(facts(1000*time.Hour, time.Hour, release(time.Hour)), func(f *verdict.Facts) { f.Pod.State, f.Pod.Drained = call.Aside, time.Time{} }), want: abstain},
		"MarkNoTime":  {reason: "A mark that cannot be read dates nothing.", facts: with(facts(1000*time.Hour, time.Hour, release(time.Hour)), func(f *verdict.Facts) { f.Pod.Drained = time.Time{} }), want: abstain},
		"MarkAhead":   {reason: "A mark is whole seconds, and may lie ahead by one.", facts: facts(-time.Second, time.Hour, release(time.Hour)), want: abstain},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, Rule{}.Judge(tc.facts)); diff != "" {
				t.Errorf("%s\n-want, +got:\n%s", tc.reason, diff)
			}
		})
	}
}
