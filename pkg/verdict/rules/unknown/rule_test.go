// SPDX-License-Identifier: Apache-2.0

package unknown

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/verdict"
)

func TestRule(t *testing.T) {
	zero := verdict.Reading{Witness: call.Rooms, Reading: call.Known(0, time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC))}
	cannotTell := func(w call.Witness, why string) verdict.Reading {
		return verdict.Reading{Witness: w, Reading: call.Unknown("%s", why)}
	}
	facts := func(state call.State, readings ...verdict.Reading) verdict.Facts {
		return verdict.Facts{Pod: verdict.Pod{State: state, Running: true}, Readings: readings}
	}
	cases := map[string]struct {
		reason string
		facts  verdict.Facts
		want   verdict.Verdict
	}{
		"One": {
			reason: "The operator reads which witness, and why.",
			facts:  facts(call.Draining, cannotTell(call.Worker, "port 8081 is closed")),
			want:   verdict.Verdict{Outcome: verdict.Hold, Why: "its witness worker cannot tell whether it holds calls: port 8081 is closed"},
		},
		"BesideZero": {
			reason: "Unknown is never zero, whoever else says zero.",
			facts:  facts(call.Draining, zero, cannotTell(call.Worker, "port 8081 is closed")),
			want:   verdict.Verdict{Outcome: verdict.Hold, Why: "its witness worker cannot tell whether it holds calls: port 8081 is closed"},
		},
		"Two": {
			reason: "The first of them, always the same.",
			facts:  facts(call.Draining, cannotTell(call.Rooms, "LiveKit is down"), cannotTell(call.Worker, "port 8081 is closed")),
			want:   verdict.Verdict{Outcome: verdict.Hold, Why: "its witness rooms cannot tell whether it holds calls: LiveKit is down"},
		},
		"NeverAsked": {
			reason: "A witness that was not asked yet cannot tell.",
			facts:  facts(call.Draining, verdict.Reading{Witness: call.Rooms}),
			want:   verdict.Verdict{Outcome: verdict.Hold, Why: "its witness rooms cannot tell whether it holds calls: there is no answer yet"},
		},
		"AllKnown": {reason: "Everybody can tell.", facts: facts(call.Draining, zero)},
		"None":     {reason: "No witness is asked.", facts: facts(call.Draining)},
		"Aside":    {reason: "A pod that still takes calls is held by nothing.", facts: facts(call.Aside, cannotTell(call.Rooms, "LiveKit is down"))},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, Rule{}.Judge(tc.facts)); diff != "" {
				t.Errorf("%s\n-want, +got:\n%s", tc.reason, diff)
			}
		})
	}
}
