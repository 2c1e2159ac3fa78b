// SPDX-License-Identifier: Apache-2.0

package floor

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/verdict"
)

func TestRule(t *testing.T) {
	const reason = "a StatefulSet replaces a pod only when it is gone"
	drain := verdict.Verdict{Outcome: verdict.Drain, Why: "enough other pods can take calls"}
	lost := verdict.Verdict{Outcome: verdict.Drain, Why: "its node is lost"}
	wait := verdict.Verdict{Outcome: verdict.Hold, Why: "too few others of its workload can take calls; it goes on serving until replacements are ready"}
	waitInPlace := verdict.Verdict{Outcome: verdict.Hold, Why: "too few others of its workload can take calls, and it cannot be replaced first: " + reason}
	facts := func(intent call.Intent, able int, change ...func(*verdict.Facts)) verdict.Facts {
		f := verdict.Facts{
			Intent:   call.Mark{Intent: intent},
			Pod:      verdict.Pod{State: call.Aside, Running: true, Ready: true},
			Workload: verdict.Workload{Desired: 4, MinAvailable: 4, Surge: 1, Able: able},
		}
		for _, c := range change {
			c(&f)
		}
		return f
	}
	inPlace := func(f *verdict.Facts) { f.Pod.State, f.Pod.InPlace = call.Serving, reason }
	unready := func(f *verdict.Facts) { f.Pod.Ready = false }
	unable := func(f *verdict.Facts) { f.Pod.Unable = verdict.Unable{Pod: "voice/web-a", Why: call.Refused} }
	useless := verdict.Verdict{Outcome: verdict.Drain, Why: "it can take no call itself: LiveKit refuses the key of pod voice/web-a"}
	draining := func(f *verdict.Facts) { f.Pod.State = call.Draining }
	leaving := func(n int) func(*verdict.Facts) { return func(f *verdict.Facts) { f.Workload.Leaving = n } }
	minimum := func(n int) func(*verdict.Facts) { return func(f *verdict.Facts) { f.Workload.MinAvailable = n } }
	desired := func(n int) func(*verdict.Facts) { return func(f *verdict.Facts) { f.Workload.Desired = n } }
	cases := map[string]struct {
		reason string
		facts  verdict.Facts
		want   verdict.Verdict
	}{
		"Enough":           {reason: "All that are desired can take calls without it.", facts: facts(call.NodeDrain, 4), want: drain},
		"OneTooFew":        {reason: "Its replacement is not ready.", facts: facts(call.NodeDrain, 3), want: wait},
		"LeavingToo":       {reason: "Two of four have a replacement; the one that is aside accepts calls until it drains.", facts: facts(call.NodeDrain, 3, leaving(1)), want: drain},
		"LeavingTooFew":    {reason: "None has a replacement.", facts: facts(call.NodeDrain, 2, leaving(1)), want: wait},
		"InPlaceEnough":    {reason: "All but itself.", facts: facts(call.NodeDrain, 3, inPlace), want: drain},
		"InPlaceOneTooFew": {reason: "Another one is missing already.", facts: facts(call.NodeDrain, 2, inPlace), want: waitInPlace},
		"Minimum":          {reason: "The workload says that two are enough.", facts: facts(call.NodeDrain, 2, minimum(2)), want: drain},
		"BelowMinimum":     {reason: "One is less than two.", facts: facts(call.NodeDrain, 1, minimum(2)), want: wait},
		"LoneInPlace":      {reason: "A StatefulSet of one has no other pod.", facts: facts(call.NodeDrain, 0, inPlace, desired(1)), want: drain},
		"LoneMovable":      {reason: "A Deployment of one has its replacement first.", facts: facts(call.NodeDrain, 0, desired(1)), want: wait},
		"ScaleDown":        {reason: "The others are all that are wanted.", facts: facts(call.ScaleDown, 4), want: drain},
		"ScaleDownInPlace": {reason: "Nothing replaces it, so all others are asked for.", facts: facts(call.ScaleDown, 3, inPlace), want: waitInPlace},
		"ScaledToNone":     {reason: "No replicas are wanted.", facts: facts(call.ScaleDown, 0, desired(0)), want: drain},
		"RolloutTooFew":    {reason: "The new revision is not ready.", facts: facts(call.Rollout, 3), want: wait},
		"Recreate": {
			reason: "Recreate wants all old pods gone before any new one.",
			facts:  facts(call.Rollout, 0, inPlace, func(f *verdict.Facts) { f.Workload.Recreate = true }), want: drain,
		},
		"RecreateOnDrain": {
			reason: "A drain is no rollout.",
			facts:  facts(call.NodeDrain, 2, inPlace, func(f *verdict.Facts) { f.Workload.Recreate = true }), want: waitInPlace,
		},
		"Orphan":            {reason: "No replicas are wanted.", facts: facts(call.Orphan, 0), want: drain},
		"LostUnready":       {reason: "It takes no call as it is.", facts: facts(call.LostNode, 0, unready), want: lost},
		"LostButReady":      {reason: "A custom taint, or a node that came back: it still serves.", facts: facts(call.LostNode, 0), want: wait},
		"LostReadyEnough":   {reason: "The others can take its calls.", facts: facts(call.LostNode, 4), want: drain},
		"UnreadyButNotLost": {reason: "It may become ready and be needed.", facts: facts(call.NodeDrain, 3, unready), want: wait},
		"Unable":            {reason: "Nothing is lost.", facts: facts(call.NodeDrain, 0, unable), want: useless},
		"Draining":          {reason: "The step is past.", facts: facts(call.NodeDrain, 0, draining)},
		"DrainingLost":      {reason: "The step is past.", facts: facts(call.LostNode, 0, draining, unready)},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, Rule{}.Judge(tc.facts)); diff != "" {
				t.Errorf("%s\n-want, +got:\n%s", tc.reason, diff)
			}
		})
	}
}
