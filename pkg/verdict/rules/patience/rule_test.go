// SPDX-License-Identifier: Apache-2.0

package patience

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/verdict"
)

func TestRule(t *testing.T) {
	began := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	const wait = 20 * time.Minute
	abstain := verdict.Verdict{}
	waited := drain("it is idle, and replacements that can take calls have not come within --replacement-wait")
	unready := drain("it is idle, and has not been ready for a minute")
	byTeam := drain("its own callguard.dev/drain-deadline has passed")
	byAdministrator := drain("it was held for as long as --max-hold allows")
	// A ready pod without calls, this long after it should have begun to leave.
	facts := func(after time.Duration, change func(*verdict.Facts)) verdict.Facts {
		now := began.Add(after)
		f := verdict.Facts{
			Now: now, Intent: call.Mark{Intent: call.NodeDrain, At: began}, Since: began, Standing: began,
			Pod:      verdict.Pod{State: call.Aside, Running: true, Ready: true},
			Readings: []verdict.Reading{{Witness: call.Rooms, Reading: call.Known(0, now)}, {Witness: call.Worker, Reading: call.Known(0, now)}},
			Limits:   verdict.Limits{ReplacementWait: wait},
		}
		if change != nil {
			change(&f)
		}
		return f
	}
	says := func(r call.Reading) func(*verdict.Facts) {
		return func(f *verdict.Facts) { f.Readings[1].Reading = r }
	}
	release := func(f *verdict.Facts) { f.Deadline = call.Deadline{After: time.Minute, Release: true} }
	notReady := func(f *verdict.Facts) { f.Pod.Ready, f.Pod.UnreadySince = false, began }
	cases := map[string]struct {
		reason string
		facts  verdict.Facts
		want   verdict.Verdict
	}{
		"TooSoon":    {reason: "A node may be on its way.", facts: facts(wait-1, nil), want: abstain},
		"Now":        {reason: "None has come.", facts: facts(wait, nil), want: waited},
		"Serving":    {reason: "It could not even be set aside: a quota, or too many that are.", facts: facts(wait, func(f *verdict.Facts) { f.Pod.State = call.Serving }), want: waited},
		"InPlace":    {reason: "It cannot be set aside.", facts: facts(wait, func(f *verdict.Facts) { f.Pod.State, f.Pod.InPlace = call.Serving, "it has no owner" }), want: waited},
		"NoWait":     {reason: "An administrator set a short wait.", facts: facts(0, func(f *verdict.Facts) { f.Limits.ReplacementWait = 0 }), want: waited},
		"Cancelled":  {reason: "It is aside, and its owner wants another all the same.", facts: facts(wait, func(f *verdict.Facts) { f.Standing = time.Time{} }), want: waited},
		"Busy":       {reason: "It waits for its calls.", facts: facts(wait, says(call.Known(1, began))), want: abstain},
		"Unknown":    {reason: "Unknown is not zero.", facts: facts(wait, says(call.Unknown("no route"))), want: abstain},
		"NoWitness":  {reason: "No witness has reported zero.", facts: facts(wait, func(f *verdict.Facts) { f.Readings = nil }), want: abstain},
		"Draining":   {reason: "The step is past.", facts: facts(wait, func(f *verdict.Facts) { f.Pod.State = call.Draining }), want: abstain},
		"CameSince":  {reason: "The next one would come here, too.", facts: facts(wait, func(f *verdict.Facts) { f.Pod.State, f.Pod.CameSince = call.Serving, true }), want: abstain},
		"NotWanted":  {reason: "It has no date.", facts: facts(wait, func(f *verdict.Facts) { f.Since = time.Time{} }), want: abstain},
		"Unready":    {reason: "It takes no calls as it is.", facts: facts(time.Minute, notReady), want: unready},
		"UnreadyNow": {reason: "Its probe may have failed once.", facts: facts(time.Minute-1, notReady), want: abstain},
		"UnreadyBusy": {reason: "It waits for its calls.", facts: facts(time.Minute, func(f *verdict.Facts) {
			notReady(f)
			says(call.Known(1, began))(f)
		}), want: abstain},
		"Deadline":      {reason: "The team would rather lose a call than wait for a place.", facts: facts(time.Minute, func(f *verdict.Facts) { release(f); says(call.Known(1, began))(f) }), want: byTeam},
		"DeadlineHold":  {reason: "Only Release ends anything.", facts: facts(time.Minute, func(f *verdict.Facts) { f.Deadline.After = time.Minute }), want: abstain},
		"MaxHold":       {reason: "So would the administrator.", facts: facts(time.Hour, func(f *verdict.Facts) { f.Limits.MaxHold = time.Hour; says(call.Unknown("no route"))(f) }), want: byAdministrator},
		"SinceDeadline": {reason: "One pod for each deadline is not without end, and somebody may wait for the node.", facts: facts(time.Minute, func(f *verdict.Facts) { f.Pod.State, f.Pod.CameSince = call.Serving, true; release(f) }), want: byTeam},
		"Arriving":      {reason: "Others come, one by one.", facts: facts(wait, func(f *verdict.Facts) { f.Workload.Arrived = began.Add(time.Second) }), want: abstain},
		"Arrived":       {reason: "The last came long ago.", facts: facts(wait+time.Second, func(f *verdict.Facts) { f.Workload.Arrived = began.Add(time.Second) }), want: waited},
		"Halted":        {reason: "A rollout whose new pods never become able is not carried on: its owner has stopped, too.", facts: facts(wait, func(f *verdict.Facts) { f.Intent.Intent = call.Rollout }), want: abstain},
		"Refused": {reason: "They are there, and have a wrong key.", facts: facts(wait, func(f *verdict.Facts) {
			f.Intent.Intent, f.Workload.Able, f.Workload.Unable.Why = call.Rollout, 1, call.Refused
		}), want: abstain},
		"Rollout": {reason: "Some can take calls, and no more come.", facts: facts(wait, func(f *verdict.Facts) { f.Intent.Intent, f.Workload.Able = call.Rollout, 1 }), want: waited},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, Rule{}.Judge(tc.facts)); diff != "" {
				t.Errorf("%s\n-want, +got:\n%s", tc.reason, diff)
			}
		})
	}
}
