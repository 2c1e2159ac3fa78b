// SPDX-License-Identifier: Apache-2.0

package bounds

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/verdict"
)

func TestRule(t *testing.T) {
	began := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	aside := verdict.Verdict{Outcome: verdict.SetAside, Why: "a replacement comes first"}
	notReady := verdict.Verdict{Outcome: verdict.Hold, Why: "replacement pods are not ready yet"}
	enough := verdict.Verdict{Outcome: verdict.Hold, Why: "as many pods of its workload are set aside as it has replicas"}
	since := func(intent call.Intent) verdict.Verdict {
		return verdict.Verdict{Outcome: verdict.Hold, Why: "it came after the " + string(intent) + " began, and so would its replacement; to have it go all the same, annotate it with callguard.dev/leave"}
	}
	// One of four pods, an hour old, in a workload without anything under way.
	facts := func(intent call.Intent, change func(*verdict.Facts)) verdict.Facts {
		f := verdict.Facts{
			Now: began.Add(time.Minute), Intent: call.Mark{Intent: intent, At: began},
			Pod:      verdict.Pod{State: call.Serving, Running: true, Ready: true},
			Workload: verdict.Workload{Desired: 4, MinAvailable: 4, Surge: 2, Able: 3},
		}
		if change != nil {
			change(&f)
		}
		return f
	}
	coming := func(n int) func(*verdict.Facts) {
		return func(f *verdict.Facts) { f.Workload.Coming, f.Workload.Able = n, 3-n }
	}
	asideOf := func(n, desired int) func(*verdict.Facts) {
		return func(f *verdict.Facts) { f.Workload.Aside, f.Workload.Desired = n, desired }
	}
	came := func(f *verdict.Facts) { f.Pod.CameSince = true }
	everything := func(f *verdict.Facts) {
		f.Workload.Coming, f.Workload.Aside, f.Workload.Desired = 9, 9, 4
	}
	state := func(s call.State) func(*verdict.Facts) { return func(f *verdict.Facts) { f.Pod.State = s } }
	inPlace := func(f *verdict.Facts) { f.Pod.InPlace = "its ReplicaSet has no controller" }
	type testCase struct {
		reason string
		facts  verdict.Facts
		want   verdict.Verdict
	}
	cases := map[string]testCase{
		"Chosen": {
			reason: "The reason for this pod is the reason to tell.",
			facts:  facts(call.ScaleDown, func(f *verdict.Facts) { f.Chosen = "it is idle" }),
			want:   verdict.Verdict{Outcome: verdict.SetAside, Why: "it is idle"},
		},
		"Orphan":        {reason: "Nothing would replace it, and it has no owner.", facts: facts(call.Orphan, nil)},
		"OrphanInPlace": {reason: "Nothing would replace it, and it has no owner.", facts: facts(call.Orphan, inPlace)},
	}
	for _, intent := range []call.Intent{call.NodeDrain, call.LostNode, call.Operator} {
		for name, tc := range map[string]testCase{
			"Free":         {reason: "Nothing is under way: its replacement may come.", facts: facts(intent, nil), want: aside},
			"CameSince":    {reason: "Replacements that return to the node would create new pods forever.", facts: facts(intent, came), want: since(intent)},
			"SinceInPlace": {reason: "So would pods that leave without being set aside.", facts: facts(intent, func(f *verdict.Facts) { came(f); inPlace(f) }), want: since(intent)},
			"OneComing":    {reason: "A surge of two has room for another.", facts: facts(intent, coming(1)), want: aside},
			"TwoComing":    {reason: "The surge is used up.", facts: facts(intent, coming(2)), want: notReady},
			"NoticeComing": {reason: "All pods of a node that ends in minutes are to be replaced at once.", facts: facts(intent, func(f *verdict.Facts) { f.Workload.Coming, f.Workload.Able, f.Notice = 2, 1, "spot" }), want: aside},
			"ThreeComing":  {reason: "More than the surge is no reason to add.", facts: facts(intent, coming(3)), want: notReady},
			"ThreeAside":   {reason: "Every replica may be aside once.", facts: facts(intent, asideOf(3, 4)), want: aside},
			"FourAside":    {reason: "Twice the replicas is the most there may be.", facts: facts(intent, asideOf(4, 4)), want: enough},
			"FiveAside":    {reason: "A workload that shrank has more aside than it has replicas.", facts: facts(intent, asideOf(5, 4)), want: enough},
			"NoneDesired":  {reason: "A workload of none has no replacement.", facts: facts(intent, asideOf(0, 0)), want: enough},
			"InPlace":      {reason: "It finishes where it is.", facts: facts(intent, inPlace)},
			"AsideAlready": {reason: "The step is taken.", facts: facts(intent, state(call.Aside))},
			"Draining":     {reason: "The step is past.", facts: facts(intent, state(call.Draining))},
		} {
			cases[string(intent)+name] = tc
		}
	}
	for _, intent := range []call.Intent{call.ScaleDown, call.Rollout} {
		for name, tc := range map[string]testCase{
			"Free":         {reason: "It is one too many.", facts: facts(intent, nil), want: aside},
			"Unbound":      {reason: "Exactly those too many are chosen; nothing replaces them.", facts: facts(intent, everything), want: aside},
			"NoneDesired":  {reason: "A Deployment scaled to none is satisfied at once.", facts: facts(intent, asideOf(3, 0)), want: aside},
			"InPlace":      {reason: "It finishes where it is.", facts: facts(intent, inPlace)},
			"AsideAlready": {reason: "The step is taken.", facts: facts(intent, state(call.Aside))},
			"Draining":     {reason: "The step is past.", facts: facts(intent, state(call.Draining))},
		} {
			cases[string(intent)+name] = tc
		}
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, Rule{}.Judge(tc.facts)); diff != "" {
				t.Errorf("%s\n-want, +got:\n%s", tc.reason, diff)
			}
		})
	}
}
