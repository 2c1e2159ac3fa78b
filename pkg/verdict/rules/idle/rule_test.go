// SPDX-License-Identifier: Apache-2.0

package idle

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/callguard/callguard/pkg/call"
	"github.com/callguard/callguard/pkg/verdict"
)

func TestRule(t *testing.T) {
	const settle = 20 * time.Second
	mark := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	release := verdict.Verdict{Outcome: verdict.Release, Why: "its calls are over"}
	abstain := verdict.Verdict{}
	// reads returns a witness that read a number of calls some time after the mark.
	reads := func(w call.Witness, n int, after time.Duration) verdict.Reading {
		return verdict.Reading{Witness: w, Reading: call.Known(n, mark.Add(after))}
	}
	rooms := func(n int, after time.Duration) verdict.Reading { return reads(call.Rooms, n, after) }
	// steady is LiveKit as the only witness, which has reported zero for a time.
	steady := func(during time.Duration) verdict.Reading {
		r := rooms(0, time.Hour)
		r.Since = r.At().Add(-during)
		return r
	}
	// saysSince is a gate that has reported zero since this long after the mark.
	saysSince := func(after time.Duration) verdict.Reading {
		r := reads(call.Gate, 0, time.Hour)
		r.Since = mark.Add(after)
		return r
	}
	worker := func(n int, after time.Duration) verdict.Reading { return reads(call.Worker, n, after) }
	cannotTell := verdict.Reading{Witness: call.Worker, Reading: call.Unknown("it does not answer")}
	facts := func(readings ...verdict.Reading) verdict.Facts {
		return verdict.Facts{
			Now: mark.Add(time.Hour), Intent: call.Mark{Intent: call.NodeDrain, At: mark},
			Pod:        verdict.Pod{State: call.Draining, Running: true, DrainingSince: mark},
			QuietSince: mark, Readings: readings, Limits: verdict.Limits{Settle: settle},
		}
	}
	with := func(f verdict.Facts, change func(*verdict.Facts)) verdict.Facts {
		change(&f)
		return f
	}
	sealed := func(f *verdict.Facts) { f.Sealed = true }
	orphan := func(f *verdict.Facts) { f.Sealed, f.Intent.Intent = true, call.Orphan }
	noRooms := verdict.Reading{Witness: call.Rooms, Reading: call.Unknown("LiveKit is gone")}
	quiet := func(after time.Duration) func(*verdict.Facts) {
		return func(f *verdict.Facts) { f.QuietSince = mark.Add(after) }
	}
	cases := map[string]struct {
		reason string
		facts  verdict.Facts
		want   verdict.Verdict
	}{
		"AllZero":         {reason: "Every witness says zero, long after the mark.", facts: facts(rooms(0, time.Minute), worker(0, time.Minute)), want: release},
		"OneWitness":      {reason: "A pod may have one witness.", facts: facts(worker(0, time.Minute)), want: release},
		"RoomsAlone":      {reason: "An agent joins its room again within that time, or never.", facts: facts(steady(settle)), want: release},
		"RoomsAloneBlink": {reason: "An agent that loses its room joins it again, and no other witness counts its call.", facts: facts(steady(settle - time.Nanosecond)), want: abstain},
		"GateOpen":        {reason: "A gate that has not read the order lets calls in, however long none comes.", facts: facts(rooms(0, time.Minute), reads(call.Gate, 0, time.Minute)), want: abstain},
		"GateAloneOpen":   {reason: "The same.", facts: facts(reads(call.Gate, 0, time.Minute)), want: abstain},
		"GateSealed":      {reason: "It has the order, and every call is over.", facts: with(facts(rooms(0, time.Second), reads(call.Gate, 0, time.Second)), sealed), want: release},
		"Busy":            {reason: "A call is a call.", facts: facts(rooms(1, time.Minute)), want: abstain},
		"OneBusy":         {reason: "A job that has not joined its room yet is known to the worker only.", facts: facts(rooms(0, time.Minute), worker(1, time.Minute)), want: abstain},
		"OneUnknown":      {reason: "Unknown is never zero, whoever else says zero.", facts: facts(rooms(0, time.Minute), cannotTell), want: abstain},
		"UnknownFirst":    {reason: "Nor in another order.", facts: facts(cannotTell, rooms(0, time.Minute)), want: abstain},
		"AllUnknown":      {reason: "The number is unknown.", facts: facts(cannotTell), want: abstain},
		"NeverAsked":      {reason: "The zero Reading is unknown.", facts: facts(verdict.Reading{Witness: call.Rooms}), want: abstain},
		"NoWitnesses":     {reason: "All of none is not enough.", facts: facts(), want: abstain},
		"BeforeMark":      {reason: "A call may have come between the reading and the mark.", facts: facts(rooms(0, -time.Second)), want: abstain},
		"AtMark":          {reason: "The same moment is not after.", facts: facts(rooms(0, 0)), want: abstain},
		"JustAfterMark":   {reason: "A call may be on its way.", facts: facts(rooms(0, time.Second)), want: abstain},
		"AtSettle":        {reason: "A call may still be on its way at the last moment.", facts: facts(worker(0, settle)), want: abstain},
		"AfterSettle":     {reason: "No call can be on its way any more.", facts: facts(worker(0, settle+time.Nanosecond)), want: release},
		"OneBeforeSettle": {reason: "Each of them has to have looked late enough.", facts: facts(rooms(0, settle), worker(0, time.Minute)), want: abstain},
		"Stale":           {reason: "An early reading stays early, however late it is now.", facts: with(facts(worker(0, time.Second)), func(f *verdict.Facts) { f.Now = mark.Add(100 * time.Hour) }), want: abstain},

		"QuietLater":       {reason: "A call began after the mark, so settling begins again.", facts: with(facts(worker(0, time.Minute)), quiet(40*time.Second)), want: abstain},
		"QuietLaterSettle": {reason: "To the nanosecond.", facts: with(facts(worker(0, time.Minute)), quiet(40*time.Second-time.Nanosecond)), want: release},

		"Sealed":           {reason: "The gate lets no call in, so the first zero after the mark is final.", facts: with(facts(rooms(0, time.Nanosecond)), sealed), want: release},
		"SealedAtMark":     {reason: "The same moment is not after.", facts: with(facts(rooms(0, 0)), sealed), want: abstain},
		"SealedBeforeMark": {reason: "Before the mark the gate was open.", facts: with(facts(rooms(0, -time.Second)), sealed), want: abstain},
		"SealedBusy":       {reason: "A closed gate ends no call.", facts: with(facts(rooms(2, time.Minute)), sealed), want: abstain},
		"SealedUnknown":    {reason: "A closed gate does not make unknown zero.", facts: with(facts(rooms(0, time.Minute), cannotTell), sealed), want: abstain},

		"LiveKitSinceTheGate":  {reason: "LiveKit was read after the gate said so.", facts: with(facts(rooms(0, time.Minute+1), saysSince(time.Minute)), sealed), want: release},
		"LiveKitWithTheGate":   {reason: "The same moment is not after.", facts: with(facts(rooms(0, time.Minute), saysSince(time.Minute)), sealed), want: abstain},
		"LiveKitBeforeTheGate": {reason: "LiveKit's earlier answer says nothing about a call that began since.", facts: with(facts(rooms(0, time.Second), saysSince(time.Minute)), sealed), want: abstain},
		"LiveKitSpared":        {reason: "A witness that was not asked is unknown.", facts: with(facts(verdict.Reading{Witness: call.Rooms, Reading: call.Spared("the gate counts calls")}, saysSince(time.Minute)), sealed), want: abstain},

		"OrphanOfLiveKit": {
			reason: "Its LiveKit was of the same release, which is gone; no call can come, and the gate counts none.",
			facts:  with(facts(noRooms, reads(call.Gate, 0, time.Second)), orphan), want: release,
		},
		"OrphanBusy":     {reason: "The gate counts a call.", facts: with(facts(noRooms, reads(call.Gate, 1, time.Second)), orphan), want: abstain},
		"OrphanNoGate":   {reason: "Without a gate nothing is certain.", facts: with(facts(noRooms, worker(0, time.Minute)), func(f *verdict.Facts) { f.Intent.Intent = call.Orphan }), want: abstain},
		"OrphanOfRooms":  {reason: "LiveKit answers, and counts one.", facts: with(facts(rooms(1, time.Minute), reads(call.Gate, 0, time.Second)), orphan), want: abstain},
		"OrphanGateMute": {reason: "The gate does not answer.", facts: with(facts(noRooms, verdict.Reading{Witness: call.Gate, Reading: call.Unknown("no answer")}), orphan), want: abstain},
		"DrainNoLiveKit": {reason: "A pod with an owner waits for LiveKit to answer again.", facts: with(facts(noRooms, reads(call.Gate, 0, time.Second)), sealed), want: abstain},

		"Serving":    {reason: "A pod that takes calls is not released.", facts: with(facts(worker(0, time.Minute)), func(f *verdict.Facts) { f.Pod.State = call.Serving }), want: abstain},
		"Aside":      {reason: "A pod that takes calls is not released.", facts: with(facts(worker(0, time.Minute)), func(f *verdict.Facts) { f.Pod.State = call.Aside }), want: abstain},
		"MarkNoTime": {reason: "A mark that cannot be read dates nothing.", facts: with(facts(worker(0, time.Minute)), func(f *verdict.Facts) { f.Pod.DrainingSince = time.Time{} }), want: abstain},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, Rule{}.Judge(tc.facts)); diff != "" {
				t.Errorf("%s\n-want, +got:\n%s", tc.reason, diff)
			}
		})
	}
}
