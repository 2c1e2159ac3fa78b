// SPDX-License-Identifier: Apache-2.0

package calls

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/verdict"
)

func TestRule(t *testing.T) {
	hold := verdict.Verdict{Outcome: verdict.Hold, Why: "it holds calls"}
	known := func(n int) verdict.Reading {
		return verdict.Reading{Witness: call.Rooms, Reading: call.Known(n, time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC))}
	}
	unknown := verdict.Reading{Witness: call.Worker, Reading: call.Unknown("no route")}
	facts := func(state call.State, readings ...verdict.Reading) verdict.Facts {
		return verdict.Facts{Pod: verdict.Pod{State: state, Running: true}, Readings: readings}
	}
	cases := map[string]struct {
		reason string
		facts  verdict.Facts
		want   verdict.Verdict
	}{
		"One":             {reason: "A call is a call.", facts: facts(call.Draining, known(1)), want: hold},
		"Many":            {reason: "The number is not in the sentence, or it would change with each call.", facts: facts(call.Draining, known(17)), want: hold},
		"OneOfThem":       {reason: "One witness is enough.", facts: facts(call.Draining, known(0), known(1)), want: hold},
		"BesideUnknown":   {reason: "A call that is known matters more than a witness that cannot tell.", facts: facts(call.Draining, unknown, known(1)), want: hold},
		"Zero":            {reason: "No call.", facts: facts(call.Draining, known(0))},
		"Unknown":         {reason: "Another rule says so.", facts: facts(call.Draining, unknown)},
		"None":            {reason: "No witness counts.", facts: facts(call.Draining)},
		"AsideAndCalling": {reason: "A pod that still takes calls is held by nothing.", facts: facts(call.Aside, known(1))},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, Rule{}.Judge(tc.facts)); diff != "" {
				t.Errorf("%s\n-want, +got:\n%s", tc.reason, diff)
			}
		})
	}
}
