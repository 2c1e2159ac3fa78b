// SPDX-License-Identifier: Apache-2.0

package realtime

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/callguard/callguard/pkg/call"
)

func TestJudge(t *testing.T) {
	const at = time.Minute // between probes
	noon := time.Date(2026, 11, 3, 12, 0, 0, 0, time.UTC)
	rules := Rules{Grace: 5 * time.Minute, FatalAfter: 2, StaleAfter: 4 * time.Minute}
	strict := Rules{Strict: true, Grace: 5 * time.Minute, FatalAfter: 2, StaleAfter: 4 * time.Minute}
	well, lost, late, refused := Outcome{}, failed(Unreachable, "no route"), failed(Timeout, "no answer"), failed(KeyRejected, "401")
	none, one := call.Known(0, noon), call.Known(1, noon)
	unknown := call.Unknown("connection refused")
	cases := map[string]struct {
		reason string
		rules  Rules
		probes []Outcome // a minute apart
		later  time.Duration
		calls  *call.Reading
		want   Verdict // the reason has to contain its Why
	}{
		"Start":          {reason: "Without any probe the state is unknown.", rules: rules, want: Verdict{Class: Pending, Why: "not ended yet"}},
		"StartNoGate":    {reason: "A pod that has only just started has not been ready yet.", rules: rules, calls: &unknown, want: Verdict{Class: Pending}},
		"StartBusy":      {reason: "A prober that was started again must not take a busy pod down.", rules: rules, calls: &one, want: Verdict{Ready: true, Class: Pending, Held: true}},
		"Well":           {reason: "A session opened.", rules: rules, probes: []Outcome{well}, want: Verdict{Ready: true, Class: OK}},
		"Blip":           {reason: "A failure that may pass is forgiven.", rules: rules, probes: []Outcome{well, lost}, want: Verdict{Ready: true, Class: Degraded, Reason: Unreachable, Why: "no route; check DNS"}},
		"StartInOutage":  {reason: "A rollout must not stall because OpenAI does.", rules: rules, probes: []Outcome{lost}, want: Verdict{Ready: true, Class: Degraded, Reason: Unreachable}},
		"NearlyGraceful": {reason: "The grace counts from the first failure.", rules: rules, probes: []Outcome{well, lost, late}, later: 4*time.Minute - time.Second, want: Verdict{Ready: true, Class: Degraded, Reason: Timeout}},
		"GraceOver":      {reason: "At its end the pod is not ready.", rules: rules, probes: []Outcome{well, lost, late}, later: 4 * time.Minute, want: Verdict{Class: Degraded, Reason: Timeout}},
		"Back":           {reason: "A success resets the count.", rules: rules, probes: []Outcome{lost, lost, lost, lost, lost, lost, well, lost}, want: Verdict{Ready: true, Class: Degraded, Reason: Unreachable}},
		"Recovered":      {reason: "A success is one whatever was before.", rules: rules, probes: []Outcome{refused, refused, refused, well}, want: Verdict{Ready: true, Class: OK}},
		"FatalOnce":      {reason: "Once may be a mistake.", rules: rules, probes: []Outcome{well, refused}, want: Verdict{Ready: true, Class: Fatal, Reason: KeyRejected, Why: "valid key"}},
		"FatalTwice":     {reason: "Twice is none.", rules: rules, probes: []Outcome{well, refused, refused}, want: Verdict{Class: Fatal, Reason: KeyRejected}},
		"FatalAtStart":   {reason: "A pod that never had a session has none to lose.", rules: rules, probes: []Outcome{refused}, want: Verdict{Class: Fatal, Reason: KeyRejected}},
		"FatalBetween":   {reason: "A lost connection does not make a key valid.", rules: rules, probes: []Outcome{well, refused, lost, refused}, want: Verdict{Class: Fatal, Reason: KeyRejected}},
		"FatalThenLost":  {reason: "As far as is known, the key is still the problem.", rules: rules, probes: []Outcome{well, refused, refused, lost}, want: Verdict{Class: Fatal, Reason: KeyRejected, Why: "since then unreachable: no route"}},
		"FatalOnceLost":  {reason: "Unknown for longer than the grace time.", rules: rules, probes: []Outcome{well, refused, lost}, later: 5 * time.Minute, want: Verdict{Class: Fatal, Reason: KeyRejected}},
		"FatalRow":       {reason: "A success ends a row.", rules: rules, probes: []Outcome{well, refused, well, refused}, want: Verdict{Ready: true, Class: Fatal, Reason: KeyRejected}},
		"FatalBusy":      {reason: "Calls are held whatever Realtime says.", rules: rules, probes: []Outcome{well, refused, refused}, calls: &one, want: Verdict{Ready: true, Class: Fatal, Reason: KeyRejected, Held: true, Why: "because it holds calls"}},
		"FatalIdle":      {reason: "An idle pod is not held.", rules: rules, probes: []Outcome{well, refused, refused}, calls: &none, want: Verdict{Class: Fatal, Reason: KeyRejected}},
		"FatalUnknown":   {reason: "Unknown is never zero.", rules: rules, probes: []Outcome{well, refused, refused}, calls: &unknown, want: Verdict{Ready: true, Class: Fatal, Reason: KeyRejected, Held: true, Why: "it is unknown whether it holds calls: connection refused"}},
		"WellBusy":       {reason: "A pod that is ready anyway is not held.", rules: rules, probes: []Outcome{well}, calls: &one, want: Verdict{Ready: true, Class: OK}},
		"GraceOverBusy":  {reason: "Calls are held past the grace.", rules: rules, probes: []Outcome{well, lost}, later: time.Hour, calls: &one, want: Verdict{Ready: true, Class: Degraded, Reason: Unreachable, Held: true}},
		"Fresh":          {reason: "A success stays valid for a while.", rules: rules, probes: []Outcome{well}, later: 4 * time.Minute, want: Verdict{Ready: true, Class: OK}},
		"Stale":          {reason: "Then it is unknown.", rules: rules, probes: []Outcome{well}, later: 4*time.Minute + time.Second, want: Verdict{Ready: true, Class: Degraded, Reason: Stale, Why: "no probe has ended"}},
		"StaleForLong":   {reason: "Unknown for longer than the grace time.", rules: rules, probes: []Outcome{well}, later: 9 * time.Minute, want: Verdict{Class: Degraded, Reason: Stale}},
		"StrictWell":     {reason: "Strict is ready with a session.", rules: strict, probes: []Outcome{well}, want: Verdict{Ready: true, Class: OK}},
		"StrictBlip":     {reason: "Strict forgives nothing.", rules: strict, probes: []Outcome{well, lost}, want: Verdict{Class: Degraded, Reason: Unreachable}},
		"StrictFatal":    {reason: "Strict forgives nothing.", rules: strict, probes: []Outcome{well, refused}, want: Verdict{Class: Fatal, Reason: KeyRejected}},
		"StrictBusy":     {reason: "Strict does not look at calls.", rules: strict, probes: []Outcome{refused, refused}, calls: &one, want: Verdict{Class: Fatal, Reason: KeyRejected}},
		"StrictStale":    {reason: "Strict mode does not rely on an old success.", rules: strict, probes: []Outcome{well}, later: 5 * time.Minute, want: Verdict{Class: Degraded, Reason: Stale}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			var s State
			now := noon
			for i, o := range tc.probes {
				if i > 0 {
					now = now.Add(at)
				}
				s = s.After(o, now)
			}
			got := tc.rules.Judge(s, tc.calls, now.Add(tc.later))
			if !strings.Contains(got.Why, tc.want.Why) || got.Why == "" {
				t.Errorf("%s It says %q; want %q", tc.reason, got.Why, tc.want.Why)
			}
			tc.want.Why = got.Why
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("%s (-want +got)\n%s", tc.reason, diff)
			}
		})
	}
}

func TestPause(t *testing.T) {
	after := func(outcomes ...Outcome) State {
		var s State
		for _, o := range outcomes {
			s = s.After(o, time.Unix(1, 0))
		}
		return s
	}
	lost, refused := failed(Unreachable, ""), failed(KeyRejected, "")
	busy := failed(RateLimited, "")
	busy.RetryAfter = 2 * time.Minute
	cases := map[string]struct {
		reason   string
		state    State
		interval time.Duration
		want     time.Duration // in the middle of the spread
	}{
		"Well":         {reason: "The interval is the interval.", state: after(Outcome{}), interval: time.Minute, want: time.Minute},
		"First":        {reason: "A failure is looked at again soon.", state: after(lost), interval: time.Minute, want: 15 * time.Second},
		"Second":       {reason: "And again, later.", state: after(lost, lost), interval: time.Minute, want: 30 * time.Second},
		"Fifth":        {reason: "Each pause is twice the one before.", state: after(lost, lost, lost, lost, lost), interval: time.Minute, want: 4 * time.Minute},
		"Sixth":        {reason: "Up to five minutes.", state: after(lost, lost, lost, lost, lost, lost), interval: time.Minute, want: 5 * time.Minute},
		"Thousandth":   {reason: "However long it lasts.", state: State{Failures: 1000, Latest: lost}, interval: time.Minute, want: 5 * time.Minute},
		"SlowInterval": {reason: "Never more often because it fails, in the long run.", state: State{Failures: 1000, Latest: lost}, interval: time.Hour, want: time.Hour},
		"Refused":      {reason: "A fatal failure is confirmed soon.", state: after(refused), interval: time.Minute, want: 15 * time.Second},
		"RefusedOften": {reason: "A new key in the file must not wait for minutes.", state: State{Failures: 1000, Latest: refused}, interval: time.Minute, want: time.Minute},
		"RetryAfter":   {reason: "The server knows best.", state: after(busy), interval: time.Minute, want: 2 * time.Minute},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if got := pause(tc.state, tc.interval, 0.5); got != tc.want {
				t.Errorf("%s got %s; want %s", tc.reason, got, tc.want)
			}
			least, most := pause(tc.state, tc.interval, 0), pause(tc.state, tc.interval, 0.999999)
			if least < tc.want*8/10 || most > tc.want*12/10 || tc.state.Latest.RetryAfter == 0 && least == most {
				t.Errorf("the pause lies between %s and %s; want a fifth to either side of %s", least, most, tc.want)
			}
			if wait := tc.state.Latest.RetryAfter; least < wait {
				t.Errorf("the server asked for %s; got %s", wait, least)
			}
		})
	}
	for value, want := range map[string]time.Duration{
		"": 0, "7": 7 * time.Second, "-7": 0, "soon": 0, "999999999999": longest, "Wed, 21 Oct 2026 07:28:00 GMT": 0,
	} {
		if got := retryAfter(value); got != want {
			t.Errorf("Retry-After: %s is %s; want %s", value, got, want)
		}
	}
}
